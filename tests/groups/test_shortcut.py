"""A planted shortcut is flagged, a cohort without one is not, and too few patients are neither."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from scipy.stats import norm

from pathopatch.groups import assign_groups, audit, verdict_text
from pathopatch.groups.shortcut import (
    FLAGGED,
    NEGLIGIBLE,
    NOT_SHOWN,
    UNKNOWN,
    attribute_score,
    cohort_verdict,
    fraction_only,
)

SEEDS = range(20)


def made_cohort(seed: int, *, auroc: float, patients: int | None = None, clustering: float = 0.3) -> pd.DataFrame:
    """Patches of 20 to 40 patients whose tissue fraction alone tells the label with a given AUROC.

    Patients differ in their number of patches (lognormal, 55 in the middle), in their share of tumour (some have
    almost none) and in how much tissue they have: `clustering` is the patient's part of the variance.
    """
    rng = np.random.default_rng(seed)
    patients = patients or int(rng.integers(20, 41))
    who = np.repeat(np.arange(patients), np.maximum(5, rng.lognormal(4, 0.7, patients).astype(int)))
    label = (rng.random(len(who)) < rng.beta(1.2, 1.8, patients)[who]).astype(int)
    patient_effect = np.sqrt(clustering) * rng.standard_normal(patients)[who]
    latent = (
        patient_effect + np.sqrt(1 - clustering) * rng.standard_normal(len(who)) + np.sqrt(2) * norm.ppf(auroc) * label
    )
    return pd.DataFrame(
        {
            "patch_id": [f"s@{number},0" for number in range(len(who))],
            "slide_id": [f"slide{number}" for number in who],
            "patient_id": [f"patient{number:02d}" for number in who],
            "split": np.array(["train", "val", "test"])[np.array([0, 0, 0, 1, 2])[who % 5]],
            "label": label,
            "tissue_fraction": expit(1.3 * latent - 0.6).clip(0.011, 1),
        }
    )


def verdicts(auroc: float) -> list[bool]:
    cohorts = [assign_groups(made_cohort(seed, auroc=auroc), [0.25]) for seed in SEEDS]
    return [audit(cohort, [0.25], resamples=300)["verdict"]["is_flagged"] for cohort in cohorts]


def test_a_shortcut_planted_at_0_75_is_flagged_in_20_of_20_cohorts() -> None:
    assert sum(verdicts(0.75)) == 20


def test_a_cohort_without_one_is_flagged_in_at_most_1_of_20() -> None:
    assert sum(verdicts(0.5)) <= 1


def test_resampling_patches_instead_of_patients_raises_false_alarms() -> None:
    alarms = 0
    for seed in SEEDS:
        cohort = made_cohort(seed, auroc=0.5, clustering=0.5)
        each_alone = np.arange(len(cohort)).astype(str)
        result = fraction_only(
            cohort["label"].to_numpy(), cohort["tissue_fraction"].to_numpy(), each_alone, resamples=100
        )
        alarms += result["auroc_low"] > 0.5 or result["auroc_high"] < 0.5
    assert alarms > 5


def test_a_shortcut_that_points_the_other_way_is_flagged_too() -> None:
    cohort = made_cohort(3, auroc=0.75)
    arrays = (1 - cohort["label"].to_numpy(), cohort["tissue_fraction"].to_numpy(), cohort["patient_id"].to_numpy())
    result = fraction_only(*arrays, resamples=200)
    assert result["verdict"] == FLAGGED
    assert result["auroc_high"] < 0.45


@pytest.mark.parametrize(("patients", "verdict"), [(5, UNKNOWN), (30, FLAGGED)])
def test_a_perfect_shortcut_of_too_few_patients_has_no_verdict(patients: int, verdict: str) -> None:
    who = np.repeat(np.arange(patients), 20)
    label = np.tile([0, 1], 10 * patients)
    result = fraction_only(label, 0.2 + 0.6 * label, who, resamples=100)
    assert result["auroc"] == 1
    assert result["verdict"] == verdict


def labelled_by_patient(luck: int, patients: int) -> dict[str, object]:
    """The result where each patient has one label, drawn apart from its tissue fraction, which goes by patient."""
    rng = np.random.default_rng((luck, patients))
    label = rng.permutation(np.arange(patients) % 2)
    who = np.repeat(np.arange(patients), 30)
    latent = 0.7 * rng.standard_normal(patients)[who] + 0.7 * rng.standard_normal(len(who))
    return fraction_only(label[who], expit(latent), who, resamples=200)


@pytest.mark.slow
@pytest.mark.parametrize("patients", [12, 20])
def test_a_label_for_each_patient_gives_at_most_6_percent_of_false_alarms(patients: int) -> None:
    assert sum(bool(labelled_by_patient(luck, patients)["is_flagged"]) for luck in range(100)) <= 6


@pytest.mark.parametrize(
    ("patients", "of_both", "is_known"), [(11, 0, False), (12, 0, True), (7, 5, False), (7, 6, True), (6, 6, True)]
)
def test_a_verdict_takes_12_patients_or_6_with_both_labels(patients: int, of_both: int, is_known: bool) -> None:
    who = np.repeat(np.arange(patients), 20)
    label = np.where(who < of_both, np.arange(len(who)) % 2, who % 2)
    result = fraction_only(label, np.random.default_rng(0).random(len(who)), who, resamples=50)
    assert result["patients_with_both"] == of_both
    assert (result["verdict"] != UNKNOWN) == is_known


def test_a_patient_with_nearly_all_patches_leaves_no_verdict() -> None:
    who = np.concatenate([np.zeros(153, np.int64), np.arange(1, 8)])
    cohort = pd.DataFrame({"patient_id": who.astype(str), "label": np.arange(160) % 2, "slide_id": who.astype(str)})
    cohort = cohort.assign(patch_id=np.arange(160).astype(str), tissue_fraction=0.2 + 0.6 * cohort["label"])
    result = audit(assign_groups(cohort, [0.25]), [0.25], resamples=50)
    assert result["verdict"]["verdict"] == UNKNOWN
    assert "8 patients, effectively 1.1 (" in verdict_text(result)


def test_copies_of_all_patches_change_no_verdict() -> None:
    arrays = [made_cohort(0, auroc=0.6)[name].to_numpy() for name in ("label", "tissue_fraction", "patient_id")]
    once, copied = (fraction_only(*(np.tile(each, times) for each in arrays), resamples=100) for times in (1, 20))
    names = ("auroc", "auroc_low", "auroc_high", "effective_patients")
    assert [copied[name] for name in names] == pytest.approx([once[name] for name in names])
    assert copied["verdict"] == once["verdict"]


def test_many_patients_without_a_shortcut_clear_the_cohort() -> None:
    rng = np.random.default_rng(0)
    who, label = np.repeat(np.arange(100), 60), np.tile([0, 1], 3000)
    assert fraction_only(label, rng.random(6000), who, resamples=200)["verdict"] == NEGLIGIBLE


def test_one_patient_who_holds_all_the_tumour_proves_nothing() -> None:
    who = np.repeat(np.arange(10), 20)
    label = (who == 0).astype(int)
    assert fraction_only(label, 0.2 + 0.6 * label, who, resamples=100)["verdict"] == UNKNOWN


def test_the_stronger_verdict_of_training_patches_and_cohort_stands() -> None:
    def scores(verdict: str) -> dict[str, object]:
        return {"verdict": verdict, "is_flagged": verdict == FLAGGED}

    assert cohort_verdict({"train": scores(FLAGGED), "test": scores(NOT_SHOWN)}, scores(NOT_SHOWN))["by"] == "train"
    assert cohort_verdict({"train": scores(NOT_SHOWN)}, scores(FLAGGED))["by"] == "all"
    assert cohort_verdict({"test": scores(FLAGGED)}, scores(NOT_SHOWN))["verdict"] == NOT_SHOWN


@pytest.mark.parametrize(("train_auroc", "verdict"), [(0.9, UNKNOWN), (0.1, UNKNOWN), (0.5, NOT_SHOWN)])
def test_few_training_patients_with_a_shortcut_let_nothing_be_cleared(train_auroc: float, verdict: str) -> None:
    train, rest = made_cohort(0, auroc=train_auroc, patients=5), made_cohort(1, auroc=0.5, patients=40)
    rest[["patch_id", "slide_id", "patient_id"]] += " of the rest"
    cohort = pd.concat([train.assign(split="train"), rest.assign(split="test")])
    result = audit(assign_groups(cohort, [0.25]), [0.25], resamples=200)
    assert (result["whole"]["verdict"], result["fraction_only"]["train"]["verdict"]) == (NOT_SHOWN, UNKNOWN)
    assert (result["verdict"]["verdict"], result["verdict"]["is_flagged"]) == (verdict, False)
    found = result["fraction_only"]["train"]["auroc"]
    said = f"NOT KNOWN. In the training patches the tissue fraction alone tells the label with AUROC {found:.3f} ["
    assert verdict_text(result).startswith(said if verdict == UNKNOWN else "No shortcut is shown: in all")


def test_accuracy_elsewhere_is_that_of_cuts_chosen_on_other_patients() -> None:
    # Each patient's cut is its own: the best single cut does well where it was chosen, a cut learnt elsewhere does not.
    who = np.repeat(np.arange(10), 40)
    label = np.random.default_rng(0).integers(0, 2, 400)
    result = fraction_only(label, np.random.default_rng(1).random(400), who, resamples=50)
    assert result["accuracy"] >= result["accuracy_elsewhere"]
    assert result["accuracy_elsewhere_low"] <= result["accuracy_elsewhere"] <= result["accuracy_elsewhere_high"]
    perfect = fraction_only(label, 0.2 + 0.6 * label, who, resamples=50)
    assert perfect["accuracy_elsewhere"] == 1


def test_the_verdict_names_a_shortcut_none_or_too_few_patients() -> None:
    flagged = audit(assign_groups(made_cohort(0, auroc=0.75), [0.25]), [0.25], resamples=100)
    assert verdict_text(flagged).startswith(
        "SHORTCUT. In the training patches the tissue fraction alone tells the label"
    )
    few = audit(assign_groups(made_cohort(0, auroc=0.75, patients=5), [0.25]), [0.25], resamples=100)
    assert "are too few for a verdict" in verdict_text(few)
    none = audit(assign_groups(made_cohort(1, auroc=0.5), [0.25]), [0.25], resamples=100)
    assert "No shortcut is shown" in verdict_text(none)
    assert "is not excluded" in verdict_text(none)


@pytest.mark.parametrize(("agreement", "is_flagged"), [(0.85, True), (0.5, False)])
def test_the_verdict_is_of_the_patches_own_attribute_where_there_is_one(agreement: float, is_flagged: bool) -> None:
    cohort = made_cohort(0, auroc=0.75)
    agrees = np.random.default_rng(0).random(len(cohort)) < agreement
    places = np.where((cohort["label"] == 1) == agrees, "water", "land")
    result = audit(assign_groups(cohort.assign(attribute=places), [0.25]), [0.25], resamples=200)
    assert result["fraction_only"]["train"]["is_flagged"]
    assert result["verdict"]["is_flagged"] == is_flagged
    assert "the patches' own attribute alone tells the label" in verdict_text(result)


def test_an_attribute_of_many_values_does_not_tell_labels_it_was_scored_by() -> None:
    rng = np.random.default_rng(0)
    who, label, values = np.repeat(np.arange(30), 20), rng.integers(0, 2, 600), rng.integers(0, 200, 600)
    result = fraction_only(label, attribute_score(label, values, who), who, resamples=100)
    assert result["auroc"] == pytest.approx(0.5, abs=0.08)
    assert not result["is_flagged"]


def test_an_attribute_of_opposite_directions_in_two_halves_is_no_shortcut() -> None:
    # As many patients in whom a value goes with tumour as in whom it goes against it: from the others one learns wrong.
    who = np.repeat(np.arange(10), 40)
    direction = np.array([1, 1, -1, -1, 0])[np.random.default_rng(0).permutation(10) % 5][who]
    label = np.tile([0, 1], 200)
    value = np.where(direction == 1, label, np.where(direction == -1, 1 - label, np.arange(400) // 2 % 2))
    result = fraction_only(label, attribute_score(label, value, who), who, is_directed=True, resamples=300)
    assert result["auroc_high"] < 0.45
    assert result["verdict"] == NOT_SHOWN
    cohort = pd.DataFrame({"patch_id": np.arange(400).astype(str), "slide_id": "s", "patient_id": who.astype(str)})
    cohort = cohort.assign(label=label, tissue_fraction=0.5, attribute=np.array(["ink", "no ink"])[value])
    audited = audit(assign_groups(cohort, [0.25]), [0.25], resamples=300)
    assert not audited["verdict"]["is_flagged"]
    assert "One as strong as 0.50 is not excluded" in verdict_text(audited)


@pytest.mark.parametrize(("rarer", "is_known"), [(1, False), (19, False), (20, True)])
def test_a_patient_with_stray_patches_of_a_label_does_not_have_both(rarer: int, is_known: bool) -> None:
    rng = np.random.default_rng(0)
    who = np.repeat(np.arange(8), 60)
    is_rarer = np.tile(np.arange(60) < rarer, 8)
    label = np.where(is_rarer, 1 - who % 2, who % 2)
    verdict = fraction_only(label, rng.random(len(who)), who.astype(str))["verdict"]
    assert (verdict != UNKNOWN) == is_known

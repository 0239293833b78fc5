"""Evaluate one training run on labelled patches: read its model and the groups, write its evaluation.

``runs/<run>/evaluation/`` holds ``metrics.json`` (every number, with its stamp), ``patients.csv`` (one row per split
and patient), ``ablation.csv`` (what is lost without a channel) and ``predictions.parquet`` (one row per patch and
split).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.core.artefacts import Stamp, fingerprint_file, made, read_table
from pathopatch.core.config import EvaluateConfig
from pathopatch.core.errors import InputUnsupportedError, StaleArtefactError
from pathopatch.core.files import atomic_path, write_csv
from pathopatch.core.work_folder import WorkFolder
from pathopatch.evaluation.calibration import reliability_by_attribute
from pathopatch.evaluation.group_scores import (
    answers,
    equal_area_arrays,
    evaluate_logits,
    with_ends,
)
from pathopatch.evaluation.predicting import WITHOUT, predict_run
from pathopatch.evaluation.slide_scores import SCORED, score_slides, slide_rows
from pathopatch.groups import (
    GroupingAttribute,
    TissueBins,
    bins_attributes,
    threshold_attributes,
    unit_noun,
    units_of,
)
from pathopatch.metrics.bootstrap import effective_count
from pathopatch.metrics.equal_area import auroc_at_equal_area, equal_area_draws
from pathopatch.metrics.intervals import difference_interval, rank_interval
from pathopatch.models.bundle import bundle_fingerprint

VERSION = 2
"""Of ``metrics.json``; 2 has score intervals, and AUROC with patches that have no answer."""
ALL = "all"
"""The split of all labelled patches together: the splits of a cohort mean nothing to a model from elsewhere."""


def evaluate_run(
    work: Path,
    run_name: str,
    *,
    config: EvaluateConfig | None = None,
    splits: tuple[str, ...] = ("val", "test"),
    device: str = "auto",
    runtime: str = "auto",
    force: bool = False,
) -> Path:
    """Evaluate one run on labelled patches and return the folder of its numbers, ``runs/<run>/evaluation``.

    A split without labelled patches is left out. `device` and `runtime` are as for `load_model`.

    Raises
    ------
    InputMissingError
        Groups, model or run are missing, or none of the splits has labelled patches.
    StaleArtefactError
        There is another evaluation, and `force` is off.
    SplitLeakageError
        The run was trained on slides of one of these splits: the groups were divided anew since.
    """
    config = config or EvaluateConfig()
    out = WorkFolder(work).evaluation(run_name)
    model_folder = WorkFolder(work).model(run_name)

    def predict(groups: pd.DataFrame) -> Predicted:
        of_model: dict[str, Any] = {"splits": splits, "device": device, "runtime": runtime}
        predictions, spec = predict_run(work, groups, run_name, ablate=config.ablation, **of_model)
        return Predicted(predictions, spec.decision_threshold, {"run": run_name})

    settings = {**config.model_dump(mode="json"), "splits": splits}
    inputs = {"model": bundle_fingerprint([model_folder])}
    return write_evaluation(out, work, predict, settings=settings, inputs=inputs, config=config, force=force)


class Predicted(NamedTuple):
    """What `write_evaluation` evaluates."""

    predictions: pd.DataFrame  # as `evaluate_predictions` takes it
    decision_threshold: float  # on the logit
    about: Mapping[str, Any]  # further entries of ``metrics.json``


def write_evaluation(
    out: Path,
    work: Path,
    predict: Callable[[pd.DataFrame], Predicted],
    *,
    settings: Mapping[str, Any],
    inputs: Mapping[str, str],
    config: EvaluateConfig,
    force: bool,
) -> Path:
    """Write an evaluation into its folder and return it: numbers, tables and predictions, all of it or nothing.

    `predict` is called with the groups of the work folder, unless the evaluation is current by `settings` and `inputs`.
    The predictions get the columns patient_id, threshold (on the logit) and decision: 1 above it, 0 below, -1 of
    patches that the model does not judge, which count as wrong.
    """
    inputs = {"groups": fingerprint_file(WorkFolder(work).groups), **inputs}
    stamp = Stamp(stage="evaluate", settings=settings, inputs=inputs)
    with made(out / "metrics.json", stamp=stamp, force=force, is_whole=lambda: not force) as job:
        if job.is_current:
            return out
        groups = read_table(WorkFolder(work).groups)
        predictions, threshold, about = predict(groups)
        numbers = evaluate_predictions(predictions, groups, decision_threshold=threshold, config=config)
        predictions = predictions.assign(
            patient_id=groups.set_index("patch_id")["patient_id"].reindex(predictions["patch_id"]).to_numpy(),
            threshold=threshold,
            decision=np.where(answers(predictions), predictions["logit"] > threshold, -1).astype(np.int8),
        )
        tables = {
            "patients": patient_scores(predictions, groups, decision_threshold=threshold),
            "ablation": ablation_table(predictions, groups, resamples=config.bootstrap, seed=config.seed),
        }
        with atomic_path(out) as temporary:
            temporary.mkdir(parents=True)
            job.write_table(temporary / "predictions.parquet", predictions)
            for name, table in tables.items():
                # One channel has no ablation.
                if len(table):
                    write_csv(temporary / f"{name}.csv", table)
            job.write_json(temporary / "metrics.json", {**about, **numbers})
    return out


def evaluate_predictions(
    predictions: pd.DataFrame,
    groups: pd.DataFrame,
    *,
    decision_threshold: float,
    config: EvaluateConfig | None = None,
) -> dict[str, Any]:
    """Return all numbers on some predictions: by split, and by threshold.

    `predictions` has a row per labelled patch that has a group: patch_id, split, label, tissue_fraction,
    ``group@<threshold>``, ``bin@<cuts>`` if there are bins, logit (tumour minus non-tumour), probability, has_answer of
    a model that does not judge all, and where several folds are pooled, fold and the threshold that was taken off the
    logit. A split ``all`` has all labelled patches, whatever split the groups put them in.

    The result has `decision_threshold` (on the logit), `unit` (what intervals resample, and `patients` counts: patient,
    or block where the groups have blocks) and `splits`: split -> {`thresholds`: threshold -> what `evaluate_logits`
    returns, `bins`: cuts -> the same, `equal_area`: as `equal_area_by_fold` returns it, `reliability`: what
    `reliability_by_attribute` returns at the first threshold, `by_slide` and `by_patient`: what `score_slides` returns,
    `left_out`: labelled patches without a group, which no number counts, of label 0 and 1}.

    Raises
    ------
    InputUnsupportedError
        A predicted patch is not in the groups table.
    """
    config = config or EvaluateConfig()
    patient_of = units_of(groups.set_index("patch_id"))
    unknown = ~predictions["patch_id"].isin(patient_of.index)
    if unknown.any():
        raise InputUnsupportedError(
            f"{int(unknown.sum())} predicted patches have no row in the groups table, the first is "
            f"{predictions.loc[unknown, 'patch_id'].iloc[0]!r}",
            remedy="run `pathopatch groups` and `pathopatch evaluate` again",
        )
    attributes = threshold_attributes(groups)
    common: dict[str, Any] = {"decision_threshold": decision_threshold, "config": config}
    resampling: dict[str, Any] = {"resamples": config.bootstrap, "seed": config.seed}
    splits: dict[str, Any] = {}
    for split, table in predictions.groupby("split", sort=False):
        patient = patient_of.loc[table["patch_id"]].to_numpy(dtype=str)
        # Pooled over folds, each patch is tested once and validates once.
        own = groups if "fold" in table or split == ALL else groups[groups["split"] == split]
        without_group = own.loc[attributes[0].groups_in(own) < 0, "label"]
        splits[str(split)] = {
            "thresholds": {attribute.key: _scores(table, patient, attribute, **common) for attribute in attributes},
            "bins": {bins.key: _scores(table, patient, bins, **common) for bins in bins_attributes(groups)},
            "equal_area": equal_area_by_fold(table, patient, **resampling),
            "left_out": [int((without_group == label).sum()) for label in (0, 1)],
            "reliability": reliability_by_attribute(table, patient, attributes[0]),
            **{f"by_{of}": score_slides(table, groups, of=of, decision_threshold=decision_threshold) for of in SCORED},
        }
    return {
        "version": VERSION,
        "decision_threshold": float(decision_threshold),
        "unit": unit_noun(groups),
        "splits": splits,
    }


def _scores(
    table: pd.DataFrame,
    patient: NDArray[Any],
    attribute: GroupingAttribute,
    *,
    decision_threshold: float,
    config: EvaluateConfig,
) -> dict[str, Any]:
    """Return what `evaluate_logits` returns of some predictions by one attribute."""
    group, n_values = attribute.groups_in(table), attribute.n_values
    # A blank patch may have a group by its own attribute, but it is in no bin of the tissue.
    is_known = group >= 0
    return evaluate_logits(
        table["logit"].to_numpy(dtype=np.float64)[is_known],
        table["label"].to_numpy(dtype=np.int64)[is_known],
        group[is_known] % n_values,
        patient[is_known],
        decision_threshold=decision_threshold,
        zero=-table["threshold"].to_numpy(np.float64)[is_known] if "fold" in table else 0.0,
        answered=answers(table)[is_known] if "has_answer" in table else None,
        n_values=n_values,
        resamples=config.bootstrap,
        seed=config.seed,
    )


def patient_scores(predictions: pd.DataFrame, groups: pd.DataFrame, *, decision_threshold: float) -> pd.DataFrame:
    """Return `slide_rows` of the patients of each split, one after the other."""
    rows = {
        split: slide_rows(table, groups, of="patient", decision_threshold=decision_threshold)
        for split, table in predictions.groupby("split", sort=False)
    }
    return pd.concat(rows, names=["split"]).reset_index("split").drop(columns="unit").astype({"label": "Int64"})


def require_current(numbers: Mapping[str, Any], place: Path) -> None:
    """Refuse an evaluation that an earlier version wrote at a place."""
    if numbers.get("version") != VERSION:
        raise StaleArtefactError(
            "the evaluation is of an earlier version, whose intervals were others",
            place=str(place),
            remedy="run `pathopatch evaluate --force`",
        )


def by_attribute(content: dict[str, Any]) -> dict[str, Any]:
    """Return the scores of one split by the label of their attribute: ``0.25``, ``bins 0.3,0.5``."""
    bins = {TissueBins.from_key(key).label: scores for key, scores in content.get("bins", {}).items()}
    return {**content["thresholds"], **bins}


def ablation_table(predictions: pd.DataFrame, groups: pd.DataFrame, *, resamples: int, seed: int) -> pd.DataFrame:
    """Return the rows of `ablation` of all splits."""
    unit = units_of(groups.set_index("patch_id"))
    rows = [
        {"split": split, **row}
        for split, table in predictions.groupby("split", sort=False)
        for row in ablation(table, unit.loc[table["patch_id"]].to_numpy(dtype=str), resamples=resamples, seed=seed)
    ]
    return pd.DataFrame(rows)


def equal_area_by_fold(
    table: pd.DataFrame, patient: NDArray[Any], *, resamples: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Return AUROC at equal area, a patch without an answer wrong in all its pairs, and what it rests on.

    `table` has label, logit, tissue_fraction and, where these are known, has_answer and fold; `patient` (N,) is what is
    resampled. The result has `value`, with `low` and `high`; `even`, the mean over ten areas, and `empty_tenths`, those
    that have no pair; `answered`, without patches that have no answer; `caliper`, see `CALIPERS`; `floor`, what the
    tissue fraction itself reaches; `pairs`, and `partnered`, the share of tumour patches that have a partner.
    """
    arrays, unit = equal_area_arrays(table, patient)
    found = auroc_at_equal_area(**arrays)
    drawn = equal_area_draws(**arrays, unit=unit, resamples=resamples, seed=seed)
    low, high = rank_interval(found.value, drawn, unit, arrays["label"])
    empty = np.flatnonzero(np.isnan(found.tenths)).tolist()
    return {
        "value": found.value,
        "low": low,
        "high": high,
        "even": found.even,
        "empty_tenths": [f"{tenth / 10:g} to {(tenth + 1) / 10:g}" for tenth in empty],
        "answered": found.answered,
        "caliper": found.caliper,
        "floor": found.floor,
        "pairs": found.pairs,
        "partnered": found.partnered,
    }


def ablation(
    table: pd.DataFrame, patient: NDArray[Any], *, resamples: int = 1000, seed: int = 0
) -> list[dict[str, Any]]:
    """Return the loss of AUROC at equal area without each channel, a row per channel; none where there is one channel.

    A loss near 0 shows that the model can do without the channel, not that the channel is uninformative.

    `table` is as that of `equal_area_by_fold`, with ``logit without <channel>``; `patient` is (N,). A row has the
    `channel`, `equal_area` with all channels, `without` this one, and `lost` (positive where the channel helped) with
    its paired 95 % interval (``lost_low``, ``lost_high``).
    """
    rows: list[dict[str, Any]] = []
    names = [str(name) for name in table.columns if str(name).startswith(WITHOUT)]
    whole, unit = equal_area_arrays(table, patient)
    settings: dict[str, Any] = {"unit": unit, "resamples": resamples, "seed": seed}
    for name in names:
        blanked, _ = equal_area_arrays(table.assign(logit=table[name]), patient)
        # Paired: each draw gives both, so what the patients have in common cancels.
        drawn = equal_area_draws(**whole, **settings) - equal_area_draws(**blanked, **settings)
        value, without = (auroc_at_equal_area(**arrays).value for arrays in (whole, blanked))
        ends = difference_interval(value - without, drawn, effective_count(unit))
        row = {"channel": name.removeprefix(WITHOUT), "equal_area": value, "without": without}
        rows.append(row | with_ends("lost", value - without, *ends))
    return rows

"""Methods in the loop: what passes between their phases, that each resumes exactly, and that they learn."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from made_patches import toy, write_work

from pathopatch.core.artefacts import Stamp, write_table
from pathopatch.core.config import TrainConfig, TuneConfig
from pathopatch.core.errors import GroupEmptyError, InputUnsupportedError
from pathopatch.debias.methods import NAMES, Phase, method, steps_in_all
from pathopatch.debias.objectives import Mean
from pathopatch.debias.pseudo import minority_found
from pathopatch.debias.samplers import UniformBatchSampler
from pathopatch.groups import assign_groups
from pathopatch.training import loop
from pathopatch.training.checkpoint import CheckpointFolder
from pathopatch.training.distributed import ProcessGroup
from pathopatch.training.fit import fit_arrays
from pathopatch.training.phase_data import require_groups, runs_with_groups, split_validation
from pathopatch.training.run import fit
from pathopatch.training.selection import score
from pathopatch.training.tune import tune

TRAIN = toy([[40, 8], [8, 40]], seed=0)
VAL = toy([[10, 10], [10, 10]], seed=1)


def _config(**changes):
    small = {"input_px": 16, "steps": 4, "batch_per_class": 4, "evaluations": 2, "threads": 1, "learning_rate": 3e-3}
    return TrainConfig(**{**small, **changes})


def _unknown(patches):
    return patches.with_attribute(np.full(len(patches), -1))


def _equal(one, other):
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class _Killed(Exception):
    pass


@pytest.mark.parametrize("name", NAMES)
def test_every_method_resumed_in_its_last_phase_equals_an_undisturbed_run(tmp_path, name):
    config = _config(method=name)
    undisturbed = fit_arrays(TRAIN, VAL, config)
    in_all = steps_in_all(method(name), config.steps)
    last = method(name)[-1].steps(config.steps)

    def kill(step, total, metrics):
        assert total == in_all
        if step == in_all - last // 2:
            raise _Killed

    with pytest.raises(_Killed):
        fit_arrays(TRAIN, VAL, config, checkpoints=CheckpointFolder(tmp_path, "f"), progress=kill)
    steps = []
    resumed = fit_arrays(
        TRAIN, VAL, config, checkpoints=CheckpointFolder(tmp_path, "f"), progress=lambda s, t, m: steps.append(s)
    )
    assert len(steps) < in_all or in_all == 1
    assert _equal(resumed.network, undisturbed.network)
    assert resumed.history == undisturbed.history


def _recorded(calls):
    def relabel(probability, label, attribute):
        calls.append((probability, label, attribute))
        return (np.arange(len(label)) % 2).astype(np.int64)

    return relabel


def test_a_relabelling_phase_gets_the_probabilities_of_the_phase_before():
    calls, drawn = [], []

    def sampler(label, attribute, **sizes):
        drawn.append(np.asarray(attribute))
        return UniformBatchSampler(label, attribute, **sizes)

    phases = (
        Phase(sampler=UniformBatchSampler, objective=lambda n: Mean()),
        Phase(sampler=sampler, objective=lambda n: Mean(), relabel=_recorded(calls), starts_anew=True),
    )
    first = fit_arrays(TRAIN, VAL, _config(augment=False), phases=phases[:1])
    fit_arrays(TRAIN, VAL, _config(augment=False), phases=phases)
    ((probability, label, attribute),) = calls
    mean, std = (np.array(v, dtype=np.float32)[:, None, None] for v in (first.mean, first.std))
    logits = first.network(torch.from_numpy((TRAIN.read(slice(None)) - mean) / std)).detach().double()
    np.testing.assert_allclose(probability, torch.softmax(logits, dim=1).numpy(), atol=1e-4)
    assert (label.tolist(), attribute.tolist()) == (TRAIN.label.tolist(), TRAIN.attribute.tolist())
    assert drawn[-1].tolist() == (np.arange(len(TRAIN)) % 2).tolist()


def test_a_phase_that_starts_anew_begins_with_the_weights_of_the_first():
    still = {"learning_rate": 1e-30, "weight_decay": 0.0, "average_weights": False, "select": "last"}
    phase = {"sampler": UniformBatchSampler, "objective": lambda n: Mean()}
    moved = Phase(**phase, lr_scale=1e27)
    one = fit_arrays(TRAIN, None, _config(**still), phases=[Phase(**phase)])
    anew = fit_arrays(TRAIN, None, _config(**still), phases=[moved, Phase(**phase, starts_anew=True)])
    onward = fit_arrays(TRAIN, None, _config(**still), phases=[moved, Phase(**phase)])
    weights = [fitted.network.features[0].weight for fitted in (one, anew, onward)]
    torch.testing.assert_close(weights[1], weights[0], rtol=0, atol=1e-9)
    assert (weights[2] - weights[0]).abs().max() > 1e-4


def test_the_weight_decay_of_a_phase_is_scaled():
    # SGD without a gradient to speak of shrinks each weight by 1 - lr decay a step: .9 and .8 for one step
    config = _config(optimizer="sgd", learning_rate=1.0, weight_decay=0.1, steps=1, evaluations=1, select="last")
    config = config.model_copy(update={"average_weights": False})

    class Nothing(torch.nn.Module):
        def forward(self, loss, group):
            return 0.0 * loss.sum()

    norms = []
    for scale in (0.0, 1.0, 2.0):
        phase = Phase(sampler=UniformBatchSampler, objective=lambda n: Nothing(), weight_decay_scale=scale)
        network = fit_arrays(TRAIN, None, config, phases=[phase]).network
        norms.append(network.classifier.weight.norm().item())
    assert norms[1] / norms[0] == pytest.approx(0.9, rel=1e-5)
    assert norms[2] / norms[0] == pytest.approx(0.8, rel=1e-5)


def test_the_pseudo_minority_is_held_against_the_true_one_in_the_history():
    history = fit_arrays(TRAIN, VAL, _config(method="gerne-unknown", t=0.25)).history
    first = [row for row in history if row["phase"] == 0]
    second = [row for row in history if row["phase"] == 1]
    assert all("pseudo_precision" not in row for row in first)
    assert {row["pseudo_hard_n"] for row in second} == {24.0}  # a quarter of 48, twice
    (precision,), (recall,) = ({row[f"pseudo_{name}"] for row in second} for name in ("precision", "recall"))
    assert recall == pytest.approx(precision * 24 / 16)  # 16 are of the minority
    unknown = fit_arrays(_unknown(TRAIN), VAL, _config(method="gerne-unknown", t=0.25)).history[-1]
    assert (unknown["pseudo_hard_n"], unknown["pseudo_precision"], unknown["pseudo_recall"]) == (24.0, None, None)


def test_precision_and_recall_by_hand():
    label = np.array([0, 0, 0, 0, 1, 1, 1])
    attribute = np.array([0, 0, 1, 2, 1, 1, -1])
    hard = np.array(
        [0, 1, 1, 0, 0, 0, 1]
    )  # the minority is 2 and 3; of the hard 1, 2 and 6 two are known, one is right
    assert minority_found(hard, label, attribute) == {"hard_n": 3.0, "precision": 0.5, "recall": 0.5}
    nothing = minority_found(np.zeros(7), label, np.full(7, -1))
    assert nothing["hard_n"] == 0
    assert np.isnan([nothing["precision"], nothing["recall"]]).all()


def test_gerne_unknown_without_attributes_takes_t_of_at_most_a_half():
    fitted = fit_arrays(_unknown(TRAIN), _unknown(VAL), _config(method="gerne-unknown", t=0.5))
    assert fitted.validation["n of label 0"] == 20
    with pytest.raises(InputUnsupportedError, match="no validation patch"):
        fit_arrays(_unknown(TRAIN), _unknown(VAL), _config(method="gerne-unknown", t=0.6))
    fit_arrays(_unknown(TRAIN), VAL, _config(method="gerne-unknown", t=0.6, steps=1))
    assert fit_arrays(_unknown(TRAIN), None, _config(method="gerne-unknown", select="last")).step == 4


def test_the_biased_model_is_picked_by_the_mean_of_its_classes(monkeypatch):
    scores = []

    def spy(measures, rule):
        scores.append(rule)
        return score(measures, rule)

    monkeypatch.setattr(loop, "score", spy)
    fit_arrays(TRAIN, VAL, _config(method="gerne-unknown", select="gba"))
    assert scores == ["cba", "cba", "gba", "gba"]


def test_what_a_phase_learns_from_validation_takes_no_part_in_selecting():
    phases = method("dfr")
    halves = split_validation(VAL, phases, seed=0)
    assert halves.select is not None
    assert halves.held_out is not None
    mine, theirs = set(halves.select.patch_id), set(halves.held_out.patch_id)
    assert not mine & theirs
    assert mine | theirs == set(VAL.patch_id)
    fitted = fit_arrays(TRAIN, VAL, _config(method="dfr"))
    n = sum(value for name, value in fitted.validation.items() if name.startswith("n of"))
    assert n == len(halves.select)
    assert fitted.history[-1]["held_out_n"] == len(halves.held_out)
    assert split_validation(VAL, method("gerne"), seed=0).select is VAL


def test_halves_divide_no_patient_where_both_then_have_all_groups():
    halves = split_validation(VAL, method("dfr"), seed=0)
    assert halves.is_by_patient
    assert not set(halves.select.patient) & set(halves.held_out.patient)
    for half in (halves.select, halves.held_out):
        assert (np.bincount(2 * half.label + half.attribute, minlength=4) > 0).all()


def test_one_patients_patches_are_halved_group_by_group():
    single = toy([[7, 4], [2, 6]], seed=3, side=8)
    single.patient[:] = "p"
    halves = split_validation(single, method("dfr"), seed=0)
    assert not halves.is_by_patient
    assert np.bincount(2 * halves.held_out.label + halves.held_out.attribute).tolist() == [4, 2, 1, 3]
    assert np.bincount(2 * halves.select.label + halves.select.attribute).tolist() == [3, 2, 1, 3]


def test_only_the_last_layer_of_dfr_moves_in_its_second_phase():
    config = _config(method="dfr", augment=False)
    first = fit_arrays(TRAIN, VAL, config, phases=[*method("dfr")[:1], *method("dfr", refit_share=1e-9)[1:]])
    longer = fit_arrays(TRAIN, VAL, config, phases=method("dfr", refit_share=3.0))
    a, b = first.network.state_dict(), longer.network.state_dict()
    assert {name for name in a if not torch.equal(a[name], b[name])} == {"classifier.weight", "classifier.bias"}


def _never(step, total, metrics):
    raise AssertionError(f"step {step} was taken")


def test_one_validation_patch_cannot_be_both_learnt_from_and_selected_by():
    val = toy([[1, 6], [6, 6]], seed=0)
    with pytest.raises(GroupEmptyError, match=r"in validation, no sample in \(label 0, attribute 0\)"):
        fit_arrays(TRAIN, val, _config(method="dfr"), progress=_never)
    assert fit_arrays(TRAIN, val, _config(method="gerne")).validation["n of label 0, attribute 0"] == 1


def test_an_impossible_second_phase_of_dfr_is_refused_before_the_first():
    lacking = toy([[6, 0], [6, 6]], seed=0)
    with pytest.raises(GroupEmptyError, match=r"\(label 0, attribute 1\)"):
        fit_arrays(TRAIN, lacking, _config(method="dfr", select="last", tune_threshold=False), progress=_never)
    with pytest.raises(InputUnsupportedError, match="split 'val'"):
        fit_arrays(TRAIN, None, _config(method="dfr", select="last"), progress=_never)


@pytest.mark.parametrize("name", ["erm", "gerne-unknown", "jtt"])
def test_methods_without_attributes_ignore_known_ones_to_the_bit(name):
    config = _config(method=name, t=0.25)
    assert _equal(fit_arrays(TRAIN, VAL, config).network, fit_arrays(_unknown(TRAIN), VAL, config).network)


@pytest.mark.parametrize("name", ["gerne-unknown", "jtt"])
def test_pseudo_attributes_follow_from_numbers_that_all_processes_share(monkeypatch, name):
    shared = []

    def spy(processes, compute, index, *, chunk):
        shared.append(len(index))
        return compute(index)

    monkeypatch.setattr(ProcessGroup, "map_chunks", spy)
    fit_arrays(TRAIN, VAL, _config(method=name))
    assert shared.count(len(TRAIN)) == 1


@pytest.mark.parametrize(("name", "steps"), [("reweight", 180), ("gerne-unknown", 120), ("jtt", 120), ("dfr", 120)])
def test_debiasing_methods_undo_a_shortcut_that_erm_takes(name, steps):
    train, val = toy([[190, 10], [10, 190]], seed=0), toy([[60, 60], [60, 60]], seed=1)
    settings = {"steps": steps, "batch_per_class": 16, "augment": False, "t": 0.05, "evaluations": 4}
    fitted = fit_arrays(train, val, _config(method=name, **settings))
    assert fitted.validation["wga_at_zero"] > 0.6  # erm of 80 steps: below 0.2


SMALL = {"input_px": 16, "steps": 2, "batch_per_class": 4, "evaluations": 1, "threads": 1}


def graded(*, val_least: float = 0.1, own: bool = False) -> pd.DataFrame:
    """Groups at 0.25 and 0.9; training fractions 0.1 and 0.7 in both labels, validation `val_least` and 0.7."""
    rows = [
        (f"{split}@{i},{y}", split, f"p-{split}", split, y, fraction)
        for split, least in (("train", 0.1), ("val", val_least), ("test", 0.1))
        for y in (0, 1)
        for i, fraction in enumerate([least, 0.7] * 3)
    ]
    names = ["patch_id", "slide_id", "patient_id", "split", "label", "tissue_fraction"]
    table = pd.DataFrame(rows, columns=names)
    return assign_groups(table.assign(attribute="red") if own else table, (0.25, 0.9))


def test_the_message_names_threshold_groups_and_thresholds_that_would_do() -> None:
    with pytest.raises(GroupEmptyError) as caught:
        require_groups(graded(val_least=0.3), TrainConfig(method="gerne", threshold=0.9))
    assert caught.value.message.startswith(
        "gerne needs every group, and at tissue threshold 0.9 there is no patch of non-tumour with much tissue and "
        "none of tumour with much tissue ("
    )
    assert caught.value.place == "split train"
    # both splits count: validation has little tissue above 0.3 only
    assert caught.value.remedy == (
        "choose a threshold at which no group is empty: none in groups.parquet; 0.35 to 0.7 of 0.05, 0.1, … 0.95. "
        "Or train intervene or auto, which compose patches of any area from those that are there, or another method "
        "that needs no groups: erm, erm-balanced, area-matched, decorrelate, gerne-unknown, jtt; with "
        "mask = 'interior' none of them sees the area"
    )
    with pytest.raises(GroupEmptyError, match=r"0\.25 in groups\.parquet; 0\.15 to 0\.7 of"):
        require_groups(graded(), TrainConfig(method="gerne", threshold=0.9))


@pytest.mark.parametrize("name", NAMES)
def test_every_method_is_refused_if_and_only_if_it_needs_groups(name: str) -> None:
    config = TrainConfig(method=name, threshold=0.9)
    if name not in ("reweight", "resample", "subsample", "groupdro", "gerne", "dfr"):
        require_groups(graded(), config)
    else:
        with pytest.raises(GroupEmptyError):
            require_groups(graded(), config)


def test_validation_needs_groups_unless_nothing_selects_or_draws_there() -> None:
    lacking = graded(val_least=0.3)
    last = {"select": "last", "tune_threshold": False}
    with pytest.raises(GroupEmptyError, match="non-tumour with little tissue and none of tumour with little") as caught:
        require_groups(lacking, TrainConfig(method="gerne"))
    assert caught.value.place == "split val"
    require_groups(lacking, TrainConfig(method="gerne", **last))
    with pytest.raises(GroupEmptyError, match="dfr needs every group"):
        require_groups(lacking, TrainConfig(method="dfr", **last))


def test_a_method_that_learns_from_validation_needs_patches_there() -> None:
    table = graded()
    for lacking in (
        table[table["split"] != "val"],
        table.assign(label=table["label"].where(table["split"] != "val", -1)),
    ):
        with pytest.raises(GroupEmptyError, match="dfr learns from validation, and no labelled patch is there"):
            require_groups(lacking, TrainConfig(method="dfr", select="last", tune_threshold=False))


def test_a_method_that_learns_from_validation_needs_two_of_each_group() -> None:
    table = graded()
    is_one = (table["split"] == "val") & (table["label"] == 0) & (table["tissue_fraction"] > 0.5)
    single = table.drop(index=table.index[is_one][1:])
    with pytest.raises(GroupEmptyError, match=r"a group has a single patch \(groups of 3, 1, 3, 3\)"):
        require_groups(single, TrainConfig(method="dfr"))
    require_groups(single, TrainConfig(method="dfr", select="last", tune_threshold=False))
    require_groups(single, TrainConfig(method="gerne"))
    require_groups(table, TrainConfig(method="dfr"))


def test_an_own_attribute_of_one_value_has_no_threshold_to_choose() -> None:
    with pytest.raises(GroupEmptyError, match=r"by the patches' own attribute .*no other") as caught:
        require_groups(graded(own=True), TrainConfig(method="gerne"))
    assert caught.value.remedy.startswith("add slides that have them. Or train")


def test_runs_and_searches_are_refused_before_a_pixel_is_read(tmp_path: Path) -> None:
    write_work(tmp_path)
    write_table(
        tmp_path / "groups.parquet", graded(), Stamp(stage="groups", settings={"a": 1})
    )  # its patches have no pixels
    for slide in ("train", "val", "test"):
        write_table(
            tmp_path / "patches" / f"{slide}.parquet", graded()[["patch_id"]], Stamp(stage="tile", settings={"a": 1})
        )
    config = TrainConfig(method="resample", threshold=0.9, **SMALL)
    for run in (lambda: fit(tmp_path, config), lambda: tune(tmp_path, config, TuneConfig(trials=1))):
        with pytest.raises(GroupEmptyError, match="resample needs every group"):
            run()
    assert not (tmp_path / "runs").exists()


def test_of_several_runs_those_without_their_groups_are_named(tmp_path: Path) -> None:
    write_table(tmp_path / "groups.parquet", graded(), Stamp(stage="groups", settings={"a": 1}))
    runs = [TrainConfig(method=name, threshold=cut) for cut in (0.25, 0.9) for name in ("erm", "gerne")]
    left, refused = runs_with_groups([tmp_path], runs)
    assert [run.run_name for run in left] == ["erm-t0.25-s0", "gerne-t0.25-s0", "erm-t0.9-s0"]
    assert list(refused) == ["gerne-t0.9-s0"]
    with pytest.raises(GroupEmptyError):
        runs_with_groups([tmp_path], runs[3:])

"""Training: the laws of the loop (resuming, averaging, selecting, stopping) and that GERNE undoes a shortcut."""

import json
import sys
from functools import partial

import numpy as np
import pytest
import torch
from made_patches import small_config, toy
from safetensors.torch import load_file
from torch import nn

from pathopatch.core.artefacts import Stamp
from pathopatch.core.errors import BetaOutOfBoundsError, GroupEmptyError, InputUnsupportedError, NonFiniteError
from pathopatch.debias.methods import NAMES, Method
from pathopatch.debias.samplers import UniformBatchSampler
from pathopatch.models.networks import build_network
from pathopatch.training.checkpoint import CHECKPOINT, NONFINITE, CheckpointFolder, read_checkpoint_header
from pathopatch.training.dataset import PatchSet
from pathopatch.training.fit import fit_arrays

TRAIN = toy([[40, 8], [8, 40]], seed=0)
VAL = toy([[10, 10], [10, 10]], seed=1)
_config = partial(small_config, steps=8, evaluations=4, learning_rate=3e-3)


def _equal(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def _kept_in(folder, **other):
    return CheckpointFolder(folder, Stamp(**{"stage": "train", **other}))


class _Killed(Exception):
    pass


def _kill_after(steps):
    def progress(step, total, metrics):
        if step == steps:
            raise _Killed

    return progress


@pytest.mark.parametrize("name", NAMES)
def test_every_method_trains_and_the_same_seed_gives_the_same_weights(name):
    first = fit_arrays(TRAIN, VAL, _config(method=name, steps=3, evaluations=1))
    assert _equal(first.network, fit_arrays(TRAIN, VAL, _config(method=name, steps=3, evaluations=1)).network)
    assert not _equal(first.network, fit_arrays(TRAIN, VAL, _config(method=name, steps=3, seed=1)).network)


@pytest.mark.parametrize(
    "changes",
    [
        *({"method": name} for name in NAMES if name != "groupdro"),
        {"method": "groupdro", "optimizer": "sgd", "groupdro": {"eta": 0.5}},
        {"method": "resample", "average_weights": False, "architecture": "resnet10t"},
    ],
)
def test_a_killed_and_resumed_run_equals_an_undisturbed_one_to_the_bit(tmp_path, changes):
    config, folder = _config(**changes), _kept_in(tmp_path)
    undisturbed = fit_arrays(TRAIN, VAL, config)
    for killed_after in (1, 5):  # by the second kill the run was resumed once already
        with pytest.raises(_Killed):
            fit_arrays(TRAIN, VAL, config, checkpoints=folder, progress=_kill_after(killed_after))
    steps = []
    resumed = fit_arrays(TRAIN, VAL, config, checkpoints=folder, progress=lambda s, t, m: steps.append(s))
    assert steps[0] == 5  # checkpoints at 2, 4, 6 and 8
    assert _equal(resumed.network, undisturbed.network)
    assert resumed.history == undisturbed.history
    assert resumed.decision_threshold == undisturbed.decision_threshold


def test_a_resumed_run_drops_the_same_units_out(tmp_path, monkeypatch):
    def with_dropout(*args, **rest):
        network = build_network(*args, **rest)
        network.features.append(nn.Dropout(0.5))
        return network

    monkeypatch.setattr(sys.modules[fit_arrays.__module__], "build_network", with_dropout)
    undisturbed = fit_arrays(TRAIN, VAL, _config())
    with pytest.raises(_Killed):
        fit_arrays(TRAIN, VAL, _config(), checkpoints=_kept_in(tmp_path), progress=_kill_after(5))
    resumed = fit_arrays(TRAIN, VAL, _config(), checkpoints=_kept_in(tmp_path))
    assert resumed.history == undisturbed.history
    assert _equal(resumed.network, undisturbed.network)


@pytest.mark.parametrize("other", [{"stage": "tune"}, {"package_version": "0.1"}])
def test_a_checkpoint_of_other_settings_or_another_version_is_not_taken(tmp_path, other):
    fit_arrays(TRAIN, VAL, _config(steps=4), checkpoints=_kept_in(tmp_path))
    steps = []
    again = _kept_in(tmp_path, **other)
    fit_arrays(TRAIN, VAL, _config(steps=4), checkpoints=again, progress=lambda s, t, m: steps.append(s))
    assert steps == [1, 2, 3, 4]


def test_a_damaged_checkpoint_costs_time_but_not_the_result(tmp_path):
    config = _config(steps=4)
    whole = fit_arrays(TRAIN, VAL, config, checkpoints=_kept_in(tmp_path))
    path = tmp_path / CHECKPOINT
    path.write_bytes(path.read_bytes()[:-5])
    assert _equal(fit_arrays(TRAIN, VAL, config, checkpoints=_kept_in(tmp_path)).network, whole.network)


def test_training_leaves_torch_as_it_was():
    torch.set_num_threads(2)
    state = torch.get_rng_state()
    fit_arrays(TRAIN, VAL, _config(steps=2))
    assert torch.get_num_threads() == 2
    assert torch.equal(torch.get_rng_state(), state)


def test_the_picked_step_is_the_best_of_the_history_or_the_last():
    fitted = fit_arrays(TRAIN, VAL, _config(steps=30, evaluations=10, method="resample", learning_rate=1e-2))
    best = max(fitted.history, key=lambda row: (row["val_wga"], row["val_gba"], -row["val_nll"], -row["step"]))
    assert fitted.step == best["step"]
    assert (fitted.validation["wga"], fitted.validation["wga_at_zero"]) == (best["val_wga"], best["val_wga_at_zero"])
    assert fit_arrays(TRAIN, None, _config(select="last")).step == 8


def test_a_tuned_threshold_never_lowers_wga_and_without_tuning_it_is_zero():
    tuned = fit_arrays(TRAIN, VAL, _config(method="erm"))
    assert tuned.validation["wga"] >= tuned.validation["wga_at_zero"]
    assert fit_arrays(TRAIN, VAL, _config(method="erm", tune_threshold=False)).decision_threshold == 0.0


def test_erm_ignores_known_attributes_to_the_bit():
    unknown = TRAIN.with_attribute(np.full(len(TRAIN), -1))
    first, again = (fit_arrays(patches, VAL, _config(method="erm", steps=3)) for patches in (TRAIN, unknown))
    assert _equal(first.network, again.network)


def test_gerne_logs_its_two_losses_apart_and_they_make_up_the_whole():
    row = fit_arrays(TRAIN, VAL, _config(gerne={"beta": 0.5})).history[0]
    expected = row["loss_less_biased"] + 0.5 * (row["loss_less_biased"] - row["loss_biased"])
    assert row["loss"] == pytest.approx(expected, abs=1e-6)
    assert fit_arrays(TRAIN, VAL, _config(method="erm")).history[0]["loss_biased"] is None


class _Explodes(nn.Module):
    """The mean loss, infinite from the sixth step on."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.tensor(0))

    def forward(self, loss, group):
        self.calls += 1
        return loss.mean() * (float("inf") if self.calls > 5 else 1.0)


@pytest.mark.fault("nonfinite")
def test_an_infinite_loss_stops_the_run_and_keeps_the_good_checkpoint(tmp_path):
    method = Method(sampler=UniformBatchSampler, objective=lambda n: _Explodes())
    with pytest.raises(NonFiniteError, match=r"step 6, batch in nonfinite\.json"):
        fit_arrays(TRAIN, VAL, _config(), method=method, checkpoints=_kept_in(tmp_path))
    assert read_checkpoint_header(_kept_in(tmp_path))["step"] == 4  # evaluations at 2, 4, 6 and 8
    written = json.loads((tmp_path / NONFINITE).read_text())
    indices = UniformBatchSampler(TRAIN.label, TRAIN.attribute, batch_per_class=4, steps=8, seed=0).batch(5)
    assert written["patch_ids"] == TRAIN.patch_id[indices].tolist()
    assert written["of_nonfinite_loss"] == []


class _Decays(PatchSet):
    """Patches of which one reads as NaN once its statistics were taken."""

    def stored(self, index):
        x = super().stored(index)
        if isinstance(index, list) and 7 in index:
            x[index.index(7), 0, 3, 3] = np.nan
        return x


@pytest.mark.fault("nonfinite")
def test_a_pixel_that_becomes_nan_stops_the_run_and_names_its_patch(tmp_path):
    patches = _Decays(**{name: getattr(TRAIN, name) for name in PatchSet.__dataclass_fields__})
    config = _config(method="erm", steps=40, evaluations=40)
    batches = UniformBatchSampler(TRAIN.label, TRAIN.attribute, batch_per_class=4, steps=40, seed=0)
    met = next(step for step, indices in enumerate(batches) if 7 in indices)
    assert met > 0
    with pytest.raises(NonFiniteError, match=f"step {met + 1}, batch"):
        fit_arrays(patches, VAL, config, checkpoints=_kept_in(tmp_path))
    written = json.loads((tmp_path / NONFINITE).read_text())
    assert written["patch_ids"] == TRAIN.patch_id[batches.batch(met)].tolist()
    assert written["of_nonfinite_loss"] == [TRAIN.patch_id[7]]
    assert read_checkpoint_header(_kept_in(tmp_path))["step"] == met
    assert fit_arrays(TRAIN, VAL, config, checkpoints=_kept_in(tmp_path)).history  # mended, it goes on from there


@pytest.mark.fault("nonfinite")
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_learning_rate_of_1e20_leaves_a_finite_checkpoint_or_none(tmp_path, optimizer):
    with pytest.raises(NonFiniteError):
        fit_arrays(
            TRAIN,
            VAL,
            _config(learning_rate=1e20, optimizer=optimizer, evaluations=40),
            checkpoints=_kept_in(tmp_path),
        )
    assert len(json.loads((tmp_path / NONFINITE).read_text())["patch_ids"]) == 8
    if (tmp_path / CHECKPOINT).exists():
        assert all(bool(torch.isfinite(value).all()) for value in load_file(tmp_path / CHECKPOINT).values())


@pytest.mark.parametrize("evaluations", [1, 8])
def test_no_checkpoint_holds_the_weights_of_an_absurd_learning_rate(tmp_path, evaluations):
    bad = _config(evaluations=evaluations, learning_rate=1e30, optimizer="sgd", method="erm")
    with pytest.raises(NonFiniteError):
        fit_arrays(TRAIN, VAL, bad, checkpoints=_kept_in(tmp_path))
    assert not (tmp_path / CHECKPOINT).exists()


@pytest.mark.fault("beta")
def test_beta_outside_its_bounds_is_refused_with_the_bounds():
    with pytest.raises(BetaOutOfBoundsError, match=r"beta = 9 is outside \[-2, 4\]"):  # 0 <= 5/6 - s/3 <= 1
        fit_arrays(TRAIN, VAL, _config(gerne={"beta": 9.0}))


@pytest.mark.fault("empty-group")
def test_no_training_patch_at_all_is_refused():
    with pytest.raises(InputUnsupportedError, match="no labelled training patches"):
        fit_arrays(TRAIN.rows(np.zeros(len(TRAIN), bool)), VAL, _config(method="erm"))


def test_an_empty_training_group_stops_gerne_but_not_erm():
    emptied = toy([[20, 0], [5, 20]], seed=0)
    with pytest.raises(GroupEmptyError, match=r"\[\[20, 0\], \[5, 20\]\]"):
        fit_arrays(emptied, VAL, _config())
    for name in ("erm", "erm-balanced"):
        fit_arrays(emptied, VAL, _config(method=name, steps=2))


@pytest.mark.fault("empty-group")
def test_an_empty_validation_group_stops_gerne_but_not_erm():
    emptied = toy([[6, 0], [6, 6]], seed=0)
    with pytest.raises(GroupEmptyError, match="in validation"):
        fit_arrays(TRAIN, emptied, _config())
    fitted = fit_arrays(TRAIN, emptied, _config(method="erm", steps=2))
    assert fitted.validation["n of label 0, attribute 1"] == 0


def test_gerne_undoes_a_shortcut_that_erm_takes():
    train = toy([[190, 10], [10, 190]], seed=0)
    val = toy([[50, 50], [50, 50]], seed=1)
    settings = {"steps": 80, "batch_per_class": 16, "augment": False}
    wga = {m: fit_arrays(train, val, _config(method=m, **settings)).validation["wga_at_zero"] for m in ("erm", "gerne")}
    assert wga["erm"] < 0.2
    assert wga["gerne"] > 0.6


def test_validation_patches_without_a_crop_are_wrong_as_in_the_evaluation():
    # Patches of attribute 0 have three rows of tissue, those of attribute 1 eleven.
    fitted = fit_arrays(TRAIN, VAL, _config(method="erm", mask="interior", interior={"crop_px": 8}))
    assert fitted.without_crop == (48, 20)
    of_group = {(y, a): fitted.validation[f"accuracy of label {y}, attribute {a}"] for y in (0, 1) for a in (0, 1)}
    assert of_group[0, 0] == of_group[1, 0] == fitted.validation["wga"] == 0
    judged = VAL.rows(VAL.attribute == 1)
    margin = fitted.margins(judged)
    right = (margin > fitted.decision_threshold) == (judged.label == 1)
    assert of_group[1, 1] == right[judged.label == 1].mean()
    assert fitted.decision_threshold == 0  # a group without an answer chooses none
    assert fitted.validation["n of label 0, attribute 0"] == 10
    assert all(row["val_wga"] == 0 for row in fitted.history)


def test_no_validation_patch_with_an_answer_is_refused():
    thin = VAL.rows(VAL.attribute == 0)
    with pytest.raises(GroupEmptyError, match="no labelled validation patches"):
        fit_arrays(TRAIN, thin, _config(method="erm", mask="interior", interior={"crop_px": 8}))


def test_composed_validation_is_judged_by_its_own_masks():
    lacking = VAL.rows((VAL.label == 0) | (VAL.attribute == 1))
    fitted = fit_arrays(
        TRAIN, lacking, _config(method="auto", mask="interior", interior={"crop_px": 8}, steps=2, evaluations=1)
    )
    assert fitted.validation["is_composed"]

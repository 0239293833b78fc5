"""What networks take, and what ensembles give: the mean of the calibrated logits, and how far members disagree."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from made_model import made_spec

from pathopatch.core.errors import CheckpointIncompatibleError
from pathopatch.models.bundle import save_bundle
from pathopatch.models.forward import Ensemble, EnsembleOutput, PatchClassifier, resize_area
from pathopatch.models.loading import load_ensemble
from pathopatch.models.networks import build_network
from pathopatch.models.runtime.torch_runtime import TorchRuntime
from pathopatch.models.spec import BundleSpec, TrainingRange, joint_spec


def spec(**changed: Any) -> BundleSpec:
    values = {"channels": ("A", "B"), "mean": (0.3, 0.4), "std": (0.2, 0.1), "method": "gerne"}
    return made_spec(**(values | changed))


def member(seed: int = 0, **changed: Any) -> PatchClassifier:
    torch.manual_seed(seed)
    return PatchClassifier(spec(**changed), TorchRuntime(build_network("small-groupnorm", 2)))


PATCHES = np.random.default_rng(0).random((5, 2, 16, 16), dtype=np.float32)


def predicted(ensemble: Ensemble, x: np.ndarray = PATCHES) -> EnsembleOutput:
    return ensemble.forward([model.standardised(x) for model in ensemble.members])


def margin(model: PatchClassifier, x: np.ndarray = PATCHES) -> np.ndarray:
    logits = model.predict_logits(np.ascontiguousarray(x)).astype(float)
    return logits[:, 1] - logits[:, 0]


def test_a_single_model_keeps_its_logit_and_has_no_spread() -> None:
    model = member(temperature=2.0)
    output = predicted(Ensemble([model]))
    np.testing.assert_allclose(output.logit, margin(model), rtol=1e-6)
    np.testing.assert_allclose(output.probability, 1 / (1 + np.exp(-margin(model) / 2)), rtol=1e-6)
    assert np.isnan(output.spread).all()


def test_several_models_give_mean_calibrated_logit_and_spread() -> None:
    models = [member(0, temperature=2.0, decision_threshold=1.0), member(1, temperature=0.5, decision_threshold=-0.5)]
    ensemble = Ensemble(models)
    output = predicted(ensemble)
    calibrated = np.stack([margin(models[0]) / 2.0, margin(models[1]) / 0.5])
    np.testing.assert_allclose(output.logit, calibrated.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(output.probability, 1 / (1 + np.exp(-calibrated.mean(axis=0))), rtol=1e-6)
    probability = 1 / (1 + np.exp(-calibrated))
    np.testing.assert_allclose(output.spread, np.abs(probability[0] - probability[1]) / np.sqrt(2), rtol=1e-5)
    assert ensemble.spec.decision_threshold == pytest.approx((1.0 / 2.0 - 0.5 / 0.5) / 2)
    assert ensemble.spec.temperature == 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"patch_px": 32}, "patch_px is 16 and 32"),
        ({"mpp": 1.0}, "mpp is 0.5 and 1.0"),
        ({"channels": ("B", "A")}, "channels"),
        ({"min_tissue": 0.2}, "min_tissue is 0.01 and 0.2"),
        ({"align": True}, "align is False and True"),
        ({"background": "bright"}, "background is 'dark' and 'bright'"),
    ],
)
def test_members_that_see_other_patches_are_refused_with_the_difference(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointIncompatibleError, match=message):
        Ensemble([member(background="dark"), member(**{"background": "dark", **changed})])


def test_members_may_read_crops_of_different_sides_or_whole_patches() -> None:
    crops = [spec(mask="interior", crop_px=side) for side in (8, 10)]
    assert joint_spec([*crops, spec()]).channels == ("A", "B")
    assert joint_spec([spec(), *crops]).channels == ("A", "B")


def test_members_may_differ_in_network_and_training() -> None:
    assert len(Ensemble([member(), member(1, input_px=24, mean=(0.1, 0.1), method="erm")]).members) == 2


def test_a_member_for_both_backgrounds_hides_no_contradiction() -> None:
    with pytest.raises(CheckpointIncompatibleError, match="background is 'bright' and 'dark'"):
        Ensemble([member(background=background) for background in ("auto", "bright", "dark")])


def test_members_for_both_and_bright_backgrounds_need_bright_slides() -> None:
    assert Ensemble([member(background="auto"), member(background="bright")]).spec.background == "bright"


def test_a_patch_is_out_of_range_only_if_no_member_saw_such() -> None:
    one = TrainingRange(mean=((0.1, 0.5), (0.2, 0.4)), sharpness=0.02)
    other = TrainingRange(mean=((0.2, 0.7), (0.1, 0.3)), sharpness=0.01)
    joint = Ensemble([member(seen=one), member(seen=other)]).spec.seen
    assert joint == TrainingRange(mean=((0.1, 0.7), (0.1, 0.4)), sharpness=0.01)
    assert Ensemble([member(seen=one), member()]).spec.seen is None


def test_least_sharpness_is_known_where_all_members_saw_as_much_tissue() -> None:
    one = TrainingRange(mean=((0.1, 0.5), (0.2, 0.4)), sharpness_by_tissue=((0.01, 0.1), (0.5, 0.4)))
    other = TrainingRange(mean=((0.1, 0.5), (0.2, 0.4)), sharpness_by_tissue=((0.1, 0.2), (0.7, 0.3)))
    joint = Ensemble([member(seen=one), member(seen=other)]).spec.seen
    assert joint is not None
    assert joint.sharpness_by_tissue == ((0.1, 0.1), (0.5, 0.2), (0.7, 0.3))
    unknown = one.model_copy(update={"sharpness_by_tissue": None})
    joint = Ensemble([member(seen=one), member(seen=unknown)]).spec.seen
    assert joint is not None
    assert joint.sharpness_by_tissue is None


def test_the_joint_threshold_is_in_units_of_calibrated_logits() -> None:
    one, other = member(decision_threshold=3.0, temperature=2.0), member(1, decision_threshold=-0.2, temperature=0.5)
    ensemble = Ensemble([one, other])
    assert ensemble.spec.temperature == 1.0
    assert ensemble.spec.decision_threshold == pytest.approx((1.5 - 0.4) / 2)
    assert ensemble.spec.decision_probability == pytest.approx(1 / (1 + np.exp(-0.55)))
    output = predicted(ensemble)
    threshold = ensemble.spec.decision_threshold
    over = [(margin(model, PATCHES) - model.spec.decision_threshold) / model.spec.temperature for model in (one, other)]
    np.testing.assert_allclose(output.logit - threshold, np.mean(over, axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(output.logit > threshold, output.probability > ensemble.spec.decision_probability)


def test_bundles_are_loaded_as_members(tmp_path: Path) -> None:
    for seed in (0, 1):
        torch.manual_seed(seed)
        save_bundle(tmp_path / str(seed), build_network("small-groupnorm", 2), spec())
    ensemble = load_ensemble([tmp_path / "0", tmp_path / "1"], device="cpu", precision="float32")
    assert np.isfinite(predicted(ensemble).spread).all()


MULTIMODAL = {"patch_px": 96, "channels": ("CARS", "SHG"), "method": "gerne"}
RUNTIME = SimpleNamespace(name="openvino", version="1", precision="float32")


def test_resizing_takes_area_means_for_more_than_four_channels() -> None:
    patches = np.arange(2 * 5 * 4 * 4, dtype=np.float32).reshape(2, 5, 4, 4)
    expected = patches.reshape(2, 5, 2, 2, 2, 2).mean(axis=(3, 5))
    np.testing.assert_allclose(resize_area(patches, 2), expected)
    assert resize_area(patches, 4) is patches


def test_a_model_says_what_it_takes_and_what_runs_it() -> None:
    model = PatchClassifier(made_spec(**MULTIMODAL), RUNTIME)
    line = "<PatchClassifier gerne: tumour or non-tumour by CARS, SHG, 96 px at 0.5 um/px, openvino, float32>"
    assert repr(model) == line
    assert repr(Ensemble([model])) == f"<Ensemble of 1 model: {line}>"
    encoder = {"name": "uni", "dim": 2}
    head = made_spec(1, (), encoder=encoder, architecture="linear", dtype="float32", mean=(0.5, 0.5), std=(0.2, 0.2))
    assert "tumour or non-tumour by 2 features of uni" in repr(PatchClassifier(head, RUNTIME))

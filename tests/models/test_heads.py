"""Bundles of heads on features: what they may claim, and which features they take."""

import pytest
from made_model import edit_both, redigest
from pydantic import ValidationError

from pathopatch.core.errors import CheckpointIncompatibleError
from pathopatch.models.bundle import save_bundle
from pathopatch.models.card import model_card
from pathopatch.models.loading import load_model
from pathopatch.models.networks import build_network
from pathopatch.models.spec import BundleSpec, check_features

HEAD = {
    "architecture": "linear", "channels": (), "dtype": "float16", "patch_px": 1, "stride_px": 1, "input_px": 1,
    "mean": (0.0,) * 3, "std": (1.0,) * 3, "method": "gerne",
    "encoder": {"dim": 3, "name": "uni_v1", "pooling": "cls", "mean": [0.5, 0.5, 0.5]},
}  # fmt: skip


def test_an_mlp_head_of_an_earlier_version_is_refused_with_what_to_do(tmp_path):
    save_bundle(tmp_path, build_network("linear", 3), BundleSpec(**HEAD, package_version="0.1.0"))
    edit_both(tmp_path, architecture="mlp-head")
    with pytest.raises(CheckpointIncompatibleError, match="'mlp-head' .* by pathopatch 0.1.0") as refused:
        load_model(tmp_path)
    assert "train a linear head" in refused.value.remedy


@pytest.mark.parametrize("runtime", ["auto", "torch"])
def test_weights_of_another_shape_are_refused_with_and_without_torch(tmp_path, runtime):
    save_bundle(tmp_path, build_network("linear", 3), BundleSpec(**HEAD))
    edit_both(tmp_path, encoder={"dim": 4}, mean=(0.0,) * 4, std=(1.0,) * 4)
    redigest(tmp_path)
    with pytest.raises(CheckpointIncompatibleError, match=r"classifier.weight is \(2, 3\), expected \(2, 4\)"):
        load_model(tmp_path, runtime=runtime)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"encoder": None}, "at least one channel"),
        ({"channels": ("R", "G", "B")}, "features have no channels"),
        ({"input_px": 64}, "one pixel"),
        ({"mask": "normalise"}, "no mask"),
        ({"mean": (0.0,) * 4, "std": (1.0,) * 4}, "3 features, 4 means"),
        ({"encoder": {"dim": 2**20}}, "values, from 1 to"),
        ({"encoder": {"name": "uni_v1"}}, "an encoder of None values"),
    ],
)
def test_a_head_that_contradicts_itself_is_refused(changes, reason):
    with pytest.raises(ValidationError, match=reason):
        BundleSpec(**{**HEAD, **changes})


def test_the_encoder_is_part_of_the_contract():
    assert BundleSpec(**HEAD).contract()["encoder"] == HEAD["encoder"]


def test_features_are_compared_by_every_fact_that_both_sides_know():
    spec = BundleSpec(**HEAD)
    assert check_features(spec, {**HEAD["encoder"], "input_px": 224}) == []
    assert "could not be compared" in check_features(spec, {"dim": 3})[0]
    for changed in ({"dim": 4}, {"name": "uni_v2"}, {"pooling": "mean"}):
        with pytest.raises(CheckpointIncompatibleError, match=next(iter(changed))):
            check_features(spec, {**HEAD["encoder"], **changed})


def test_patches_and_features_are_not_taken_for_each_other():
    with pytest.raises(CheckpointIncompatibleError, match="takes features and is given patches"):
        check_features(BundleSpec(**HEAD), None)


def test_the_card_names_encoder_length_and_limits():
    card = model_card(BundleSpec(**HEAD))
    assert "| features | 3 values per patch (float16) |" in card
    assert "| encoder | uni_v1; mean 0.5, 0.5, 0.5; pooling cls |" in card
    assert "Features of another encoder of the same length" in card
    assert "channels, in order" not in card

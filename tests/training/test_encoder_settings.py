"""Training on an encoder: its arguments, its weights without a head, its own mean and standard deviation."""

import numpy as np
import pytest
import timm
import torch
from made_patches import toy
from pydantic import ValidationError
from safetensors.torch import save_file

from pathopatch.core.config import TrainConfig
from pathopatch.core.errors import ChannelMismatchError, InputUnsupportedError
from pathopatch.models.networks import build_network, classifier_of, network_shapes
from pathopatch.training.fit import fit_arrays

TRAIN, VAL = toy([[10, 4], [4, 10]], seed=0), toy([[5, 5], [5, 5]], seed=1)


def config(**changes):
    small = {"input_px": 16, "steps": 2, "batch_per_class": 4, "evaluations": 1, "threads": 1, "method": "erm"}
    return TrainConfig(**{**small, **changes})


def test_stated_mean_and_std_take_the_place_of_the_patches_own():
    result = fit_arrays(TRAIN, VAL, config(mean=(0.25, 0.75), std=(0.5, 1.0)))
    assert (result.mean, result.std) == ((0.25, 0.75), (0.5, 1.0))
    assert not np.allclose(fit_arrays(TRAIN, VAL, config()).mean, result.mean)


def test_a_mean_for_other_channels_is_refused():
    with pytest.raises(ChannelMismatchError, match="3 means for 2 channels"):
        fit_arrays(TRAIN, VAL, config(mean=(0.5,) * 3, std=(0.5,) * 3))


def test_a_mean_without_std_is_refused():
    with pytest.raises(ValidationError, match="mean and std go together"):
        config(mean=(0.5, 0.5))


def test_weights_without_a_classifier_start_it_at_0(tmp_path):
    torch.manual_seed(0)
    encoder = timm.create_model("resnet10t", num_classes=0)
    save_file(encoder.state_dict(), tmp_path / "w.safetensors")
    network = build_network("resnet10t", 3, pretrained=tmp_path / "w.safetensors")
    assert not classifier_of(network).weight.any()
    torch.testing.assert_close(network.layer1[0].conv1.weight, encoder.layer1[0].conv1.weight)


def test_timm_builds_with_further_arguments_and_layers_by_name():
    args = {"depth": 1, "mlp_layer": "SwiGLUPacked", "act_layer": "SiLU", "reg_tokens": 4}
    shapes = network_shapes("vit_tiny_patch16_224", 3, timm_args=args)
    assert shapes["reg_token"] == (1, 4, 192)
    assert shapes["blocks.0.mlp.fc1.weight"] == (768, 192)
    assert shapes["blocks.0.mlp.fc2.weight"] == (192, 384)  # the gate halves the width
    assert "blocks.1.norm1.weight" not in shapes


@pytest.mark.parametrize(
    ("architecture", "args", "text"),
    [
        ("resnet10t", {"no_such": 1}, "no_such"),
        ("vit_tiny_patch16_224", {"mlp_layer": "Mine"}, "no layer 'Mine'"),
        ("small-groupnorm", {"depth": 1}, "takes no arguments"),
    ],
)
def test_arguments_that_do_not_go_are_refused(architecture, args, text):
    with pytest.raises(InputUnsupportedError, match=text):
        build_network(architecture, 3, timm_args=args)

"""Forward passes: the precision depends on agreement with float32, resizing is an area mean."""

import numpy as np
import pytest
import torch
from torch import nn

from pathopatch.core.errors import InputUnsupportedError
from pathopatch.models import forward
from pathopatch.models.forward import forward_batch_size, pick_device, pick_precision, predict_logits, resize_area
from pathopatch.models.prepare import prepare_network, probe_patches


class _Linear(nn.Module):
    """Logits of a given size: bfloat16 keeps 8 bits, so large ones differ by more."""

    def __init__(self, scale):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.0, scale]))

    def forward(self, x):
        return x.mean(dim=(1, 2, 3))[:, None] * self.weight + self.weight


def _picked(network, channels=3, input_px=8, requested="auto"):
    """The precision that is picked, of which the prepared network is, too."""
    precision, ready = pick_precision(network, channels, input_px, device=torch.device("cpu"), requested=requested)
    is_short = any(parameter.dtype == torch.bfloat16 for parameter in ready.parameters())
    assert is_short == (precision == "bfloat16")
    return precision


@pytest.mark.parametrize(("scale", "picked"), [(0.1, "bfloat16"), (1001.0, "float32"), (float("nan"), "float32")])
def test_bfloat16_is_taken_only_where_its_logits_agree(monkeypatch, scale, picked):
    monkeypatch.setattr(forward, "is_bfloat16_native", lambda device: True)
    assert _picked(_Linear(scale)) == picked


def test_bfloat16_is_not_taken_where_the_processor_only_emulates_it(monkeypatch):
    monkeypatch.setattr(forward, "is_bfloat16_native", lambda device: False)
    assert _picked(_Linear(0.1)) == "float32"


def test_a_named_precision_is_used_and_an_unknown_one_refused():
    assert _picked(_Linear(1001.0), requested="bfloat16") == "bfloat16"
    with pytest.raises(InputUnsupportedError, match="float8"):
        _picked(_Linear(1.0), requested="float8")


def test_a_missing_device_is_refused_by_name():
    assert pick_device("cpu") == torch.device("cpu")
    for name in ("cuda:77", "abacus"):
        with pytest.raises(InputUnsupportedError, match=name):
            pick_device(name)


def test_preparing_and_predicting_leave_the_network_unchanged():
    network = nn.Sequential(nn.Conv2d(3, 2, 3, stride=4), nn.BatchNorm2d(2), nn.Flatten(), nn.Dropout(0.9)).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    ready = prepare_network(network, "bfloat16", 3, 8)
    logits = predict_logits(network, torch.ones(2, 3, 8, 8))
    assert network.training
    assert network[0].weight.requires_grad
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    assert ready[0].weight.dtype == torch.bfloat16
    np.testing.assert_array_equal(logits[0], logits[1])  # no dropout


class _SmallSteps(nn.Module):
    """Says of which type what it gets is, at full, half and quarter size and in the last layer."""

    def __init__(self):
        super().__init__()
        self.stages = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 2, 2), nn.Conv2d(4, 4, 2, 2), nn.ReLU())
        self.classifier = nn.Linear(4, 2)

    def forward(self, x):
        return self.classifier(self.stages(x).mean(dim=(2, 3)))


def test_bfloat16_keeps_early_layers_and_the_last_one_in_float32():
    ready = prepare_network(_SmallSteps(), "bfloat16", 1, 16)
    types = [layer.weight.dtype for layer in (*list(ready.stages)[:3], ready.classifier)]
    assert types == [torch.float32, torch.float32, torch.bfloat16, torch.float32]
    logits = ready(torch.randn(2, 1, 16, 16))
    assert logits.dtype == torch.float32
    assert (logits.to(torch.bfloat16).float() != logits).all()  # not rounded to 8 bits


def test_a_network_that_refuses_bfloat16_is_predicted_in_float32(monkeypatch):
    class Stubborn(_SmallSteps):
        def forward(self, x):
            features = self.stages(x)  # (N, 4, 4, 4)
            return self.classifier(torch.linalg.det(features))  # has no form for bfloat16

    monkeypatch.setattr(forward, "is_bfloat16_native", lambda device: True)
    assert _picked(Stubborn(), 1, 16) == "float32"


def test_probe_patches_are_noise_flat_and_smooth():
    noise, flat, smooth = probe_patches(2, 32).split(8)
    roughness = [part.diff(dim=3).abs().mean().item() for part in (noise, flat, smooth)]
    assert roughness[0] == pytest.approx(2 / np.pi**0.5, rel=0.05)  # the mean distance of two standard normal numbers
    assert roughness[1] == 0
    assert 0 < roughness[2] < 0.3
    assert len(flat[:, :, 0, 0].unique()) == 16


def test_a_cpu_pass_holds_few_large_or_many_small_patches():
    cpu = torch.device("cpu")
    assert [forward_batch_size(side, cpu) for side in (2048, 256, 64)] == [1, 4, 64]
    assert forward_batch_size(256, torch.device("cuda")) == 256


def test_resizing_takes_area_means_for_more_than_four_channels():
    patches = np.arange(2 * 5 * 4 * 4, dtype=np.float32).reshape(2, 5, 4, 4)
    expected = patches.reshape(2, 5, 2, 2, 2, 2).mean(axis=(3, 5))
    np.testing.assert_allclose(resize_area(patches, 2), expected)
    assert resize_area(patches, 4) is patches

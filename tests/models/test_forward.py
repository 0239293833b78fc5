"""Forward passes: the precision depends on agreement with float32, resizing is an area mean."""

import numpy as np
import pytest
import torch
from torch import nn

from pathopatch.errors import InputUnsupportedError
from pathopatch.models import forward
from pathopatch.models.forward import pick_device, pick_precision, predict_logits, prepared, resize_area


class _Linear(nn.Module):
    """Logits of a given size: bfloat16 keeps 8 bits, so large ones differ by more."""

    def __init__(self, scale):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.0, scale]))

    def forward(self, x):
        return x.mean(dim=(1, 2, 3))[:, None] * self.weight + self.weight


@pytest.mark.parametrize(("scale", "picked"), [(0.1, "bfloat16"), (1001.0, "float32"), (float("nan"), "float32")])
def test_bfloat16_is_taken_only_where_its_logits_agree(monkeypatch, scale, picked):
    monkeypatch.setattr(forward, "is_bfloat16_native", lambda device: True)
    assert pick_precision(_Linear(scale), 3, 8, device=torch.device("cpu")) == picked


def test_bfloat16_is_not_taken_where_the_processor_only_emulates_it(monkeypatch):
    monkeypatch.setattr(forward, "is_bfloat16_native", lambda device: False)
    assert pick_precision(_Linear(0.1), 3, 8, device=torch.device("cpu")) == "float32"


def test_a_precision_asked_for_is_taken_and_an_unknown_one_refused():
    cpu = torch.device("cpu")
    assert pick_precision(_Linear(1001.0), 3, 8, device=cpu, requested="bfloat16") == "bfloat16"
    with pytest.raises(InputUnsupportedError, match="float8"):
        pick_precision(_Linear(1.0), 3, 8, device=cpu, requested="float8")


def test_a_device_that_is_not_there_is_refused_by_name():
    assert pick_device("cpu") == torch.device("cpu")
    for name in ("cuda:77", "abacus"):
        with pytest.raises(InputUnsupportedError, match=name):
            pick_device(name)


def test_the_network_given_is_left_as_it_was():
    network = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Dropout(0.9), nn.AdaptiveAvgPool2d(1), nn.Flatten()).train()
    ready = prepared(network, "bfloat16")
    logits = predict_logits(network, torch.ones(2, 3, 8, 8))
    assert network.training
    assert network[0].weight.dtype == torch.float32
    assert network[0].weight.requires_grad
    assert ready[0].weight.dtype == torch.bfloat16
    np.testing.assert_array_equal(logits[0], logits[1])  # no dropout


def test_resizing_takes_area_means_channel_by_channel_for_more_than_four_channels():
    patches = np.arange(2 * 5 * 4 * 4, dtype=np.float32).reshape(2, 5, 4, 4)
    expected = patches.reshape(2, 5, 2, 2, 2, 2).mean(axis=(3, 5))
    np.testing.assert_allclose(resize_area(patches, 2), expected)
    assert resize_area(patches, 4) is patches

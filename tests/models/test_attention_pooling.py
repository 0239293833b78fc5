"""Attention pooling has the values of its paper's equations, whatever the order of the patches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pathopatch.core.errors import NoTissueError
from pathopatch.models.attention_pooling import SlideClassifier


def made(*, is_gated: bool = True) -> SlideClassifier:
    torch.manual_seed(0)
    return SlideClassifier(6, 8, is_gated=is_gated).eval()


@pytest.mark.parametrize("is_gated", [True, False])
def test_the_order_of_the_patches_does_not_matter(is_gated: bool) -> None:
    network, features = made(is_gated=is_gated), torch.randn(50, 6)
    order = torch.randperm(50)
    with torch.inference_mode():
        logit, weight = network(features)
        logit_of_permuted, weight_of_permuted = network(features[order])
    assert float(logit_of_permuted) == pytest.approx(float(logit), abs=1e-5)
    torch.testing.assert_close(weight_of_permuted, weight[order])


def test_the_weights_are_those_of_equation_9_and_sum_to_1() -> None:
    network, features = made(), torch.randn(5, 6)
    network.mean, network.std = torch.full((6,), 2.0), torch.full((6,), 3.0)
    h = np.maximum(0, _linear(network.projection, (features.numpy() - 2) / 3))
    assert network.content is not None
    assert network.gate is not None
    assert network.score is not None
    gated = np.tanh(_linear(network.content, h)) / (1 + np.exp(-_linear(network.gate, h)))
    scores = np.exp(_linear(network.score, gated)[:, 0])
    due = scores / scores.sum()
    with torch.inference_mode():
        logit, weight = network(features)
    np.testing.assert_allclose(weight.numpy(), due, rtol=1e-5)
    assert float(weight.sum()) == pytest.approx(1)
    assert float(logit) == pytest.approx(float(_linear(network.classifier, due @ h)[0]), abs=1e-5)


def test_the_mean_gives_every_patch_the_same_weight() -> None:
    _, weight = made(is_gated=False)(torch.randn(4, 6))
    assert weight.tolist() == [0.25] * 4


@pytest.mark.parametrize("is_gated", [True, False])
def test_an_empty_bag_is_refused(is_gated: bool) -> None:
    with pytest.raises(NoTissueError, match="without patches"):
        made(is_gated=is_gated)(torch.empty(0, 6))


def _linear(layer: torch.nn.Module, x: np.ndarray) -> np.ndarray:
    assert isinstance(layer, torch.nn.Linear)
    return x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()

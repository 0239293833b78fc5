"""What runs an encoder: OpenVINO and torch agree, torch takes over, memory errors name the remedy."""

import numpy as np
import pytest
import torch
from scipy.special import j0

from pathopatch.features.encoder_network import PooledEncoder
from pathopatch.features.patch_encoder import OpenVINOFeatures, TorchFeatures, open_runtime
from pathopatch.models.networks import build_network

CPU = torch.device("cpu")


def inputs(n: int, channels: int, side: int) -> np.ndarray:
    return np.random.default_rng(0).random((n, channels, side, side), np.float32)


@pytest.mark.parametrize("pooling", ["cls", "cls+mean", "tissue-mean"])
@pytest.mark.slow
def test_openvino_and_torch_give_the_same_features(pooling):
    torch.manual_seed(0)
    args = {"depth": 2, "embed_dim": 32, "num_heads": 2, "reg_tokens": 4}
    network = build_network("vit_tiny_patch16_224", 3, timm_args=args)
    encoder = PooledEncoder(network, pooling, stride_px=16, prefix_tokens=5).eval().requires_grad_(False)
    x = inputs(7, 3 + (pooling == "tissue-mean"), 224)
    form = {"channels": x.shape[1], "input_px": 224, "device": CPU, "precision": "float32", "threads": 1}
    runtime = open_runtime(encoder, **form)
    assert isinstance(runtime, OpenVINOFeatures)
    by_torch = TorchFeatures(encoder, CPU, "float32", 1).features(x)
    np.testing.assert_allclose(runtime.features(x), by_torch, atol=1e-4)


def test_torch_takes_over_what_openvino_cannot_run():
    class Bessel(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.special.bessel_j0(x).mean(dim=(2, 3))

    form = {"channels": 3, "input_px": 8, "device": CPU, "precision": "float32", "threads": 1}
    with pytest.warns(UserWarning, match="OpenVINO cannot run this encoder, torch does"):
        runtime = open_runtime(Bessel(), **form)
    x = inputs(3, 3, 8)
    np.testing.assert_allclose(runtime.features(x), j0(x).mean(axis=(2, 3)), atol=1e-6)


def test_mixed_precision_is_near_and_threads_are_given_back():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 5)).requires_grad_(False)
    x, before = inputs(2, 3, 8), torch.get_num_threads()
    exact, near = (TorchFeatures(network, CPU, name, 1).features(x) for name in ("float32", "bfloat16"))
    assert not np.array_equal(exact, near)
    np.testing.assert_allclose(exact, near, atol=0.02)
    assert near.dtype == np.float32
    assert torch.get_num_threads() == before

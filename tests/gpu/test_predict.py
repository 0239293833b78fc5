"""Prediction and features on a device give what the processor gives."""

import numpy as np
import pytest
import torch
from array_slides import h_and_e
from made_model import write_model
from made_slides import write_rgb_pyramid

from pathopatch.heatmaps.slide_prediction import predict_slide
from pathopatch.models.device import full_float32
from pathopatch.models.frozen import torch_features
from pathopatch.models.loading import load_model
from pathopatch.models.networks import build_network
from pathopatch.slides import open_slide

CPU = torch.device("cpu")


def test_a_predicted_slide_is_that_of_the_processor(device, tmp_path, two_discs):
    write_rgb_pyramid(tmp_path / "slide.tif", h_and_e(two_discs), mpp=0.5, levels=1)
    folder = write_model(tmp_path / "model")
    if device == "cpu":
        pytest.importorskip("openvino")  # `make gpu` does without
    reference = {"device": "cpu", "runtime": "openvino" if device == "cpu" else "torch"}
    tables = []
    for options in ({"device": device, "runtime": "torch"}, reference):
        with open_slide(tmp_path / "slide.tif") as slide:
            tables.append(predict_slide(slide, load_model(folder, precision="float32", **options)).table)
    assert len(tables[0]) > 10
    assert tables[0]["patch_id"].tolist() == tables[1]["patch_id"].tolist()
    np.testing.assert_allclose(tables[0]["logit"], tables[1]["logit"], rtol=0, atol=1e-3)
    assert tables[0]["logit"].std() > 0


def test_features_are_those_of_the_processor(device):
    torch.manual_seed(0)
    args = {"depth": 2, "embed_dim": 64, "num_heads": 2}
    network = build_network("vit_tiny_patch16_224", 3, timm_args=args).requires_grad_(False)
    x = np.random.default_rng(0).random((5, 3, 224, 224), np.float32)
    exact = torch_features(network, CPU, 1)(x)
    near = torch_features(network, torch.device(device), 2)(x)
    np.testing.assert_allclose(near, exact, rtol=0, atol=1e-3 * np.abs(exact).max())


def test_float32_is_computed_in_full_and_the_setting_restored(device):
    x = torch.full((1, 1, 1, 1), 1 + 2.0**-20, device=device)  # TF32 keeps 10 bits of it
    convolution, matrix = torch.backends.cudnn.conv, torch.backends.cuda.matmul
    before = convolution.fp32_precision, matrix.fp32_precision
    try:
        convolution.fp32_precision = matrix.fp32_precision = "tf32"
        with full_float32:
            with full_float32:  # another thread comes and goes
                pass
            assert (convolution.fp32_precision, matrix.fp32_precision) == ("ieee", "ieee")
            assert torch.nn.functional.conv2d(x, torch.ones_like(x)).item() == x.item()
            assert (x[0, 0] @ torch.ones_like(x[0, 0])).item() == x.item()
        assert (convolution.fp32_precision, matrix.fp32_precision) == ("tf32", "tf32")
    finally:
        convolution.fp32_precision, matrix.fp32_precision = before

"""A frozen backbone and a linear head as one network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch.nn.functional import avg_pool2d, interpolate

from pathopatch.core.errors import InputUnsupportedError
from pathopatch.models.bundle import save_bundle
from pathopatch.models.export import export_model
from pathopatch.models.frozen import FrozenNetwork, _tissue_share
from pathopatch.models.loading import load_model
from pathopatch.models.networks import build_network
from pathopatch.models.spec import BackboneSpec, BundleSpec
from pathopatch.models.verify import verify_bundle, verify_export
from pathopatch.stages.import_model import import_model

SMALL = "test_efficientnet"  # 100,000 weights, maps of strides 8, 16 and 32


def form_of(**changes: Any) -> BackboneSpec:
    return BackboneSpec(**{"side_px": 64, "pooling": "maps", "weights_sha256": "0" * 64, **changes})


def network_of(channels: int = 3, *, is_masked: bool = False, architecture: str = SMALL, **changes: Any) -> Any:
    torch.manual_seed(0)
    return build_network(architecture, channels, is_masked=is_masked, backbone=form_of(**changes))


def random_patches(n: int, channels: int, side: int = 64) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=(n, channels, side, side)).astype(np.float32))


def test_masked_features_are_means_of_three_maps_over_tissue() -> None:
    network = network_of(is_masked=True)
    x, tissue = random_patches(2, 3), torch.zeros(2, 1, 64, 64)
    tissue[0, 0, :32], tissue[1, 0, 5:40, 11:50] = 1, 1
    features = network.features(torch.cat([x, tissue], 1)).detach().numpy()
    maps = network.backbone.forward_intermediates(x, intermediates_only=True)[-3:]
    expected = []
    for patch in range(2):
        row = []
        for each in maps:
            side = each.shape[2]
            share = tissue[patch, 0].numpy().reshape(side, 64 // side, side, 64 // side).mean((1, 3))
            row.append((each[patch].detach().numpy() * share).sum((1, 2)) / share.sum())
        expected.append(np.concatenate(row))
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("height", [40, 64, 97, 128])
def test_the_tissue_of_a_position_is_the_mean_of_the_mask_at_the_networks_side(height: int) -> None:
    mask = (random_patches(2, 1, height) > 0).float()
    way = "area" if height > 64 else "nearest"
    expected = avg_pool2d(interpolate(mask, size=(64, 64), mode=way), 8)
    torch.testing.assert_close(_tissue_share(mask, 64, 8), expected)


def test_a_patch_without_tissue_has_finite_features() -> None:
    x = torch.cat([random_patches(1, 3), torch.zeros(1, 1, 64, 64)], 1)
    assert network_of(is_masked=True).features(x).abs().max() == 0


def test_grey_channels_stand_side_by_side() -> None:
    network, x = network_of(2, by_channel=True), random_patches(3, 2)
    colour = network_of()
    colour.backbone.load_state_dict(network.backbone.state_dict())
    apart = [colour.features(x[:, [c, c, c]]) for c in (0, 1)]
    torch.testing.assert_close(network.features(x), torch.cat(apart, 1))


def test_training_mode_leaves_the_batch_norms_of_a_backbone_alone() -> None:
    network, x = network_of(), random_patches(4, 3)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    expected = network(x)
    torch.testing.assert_close(network.train()(x), expected)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert not any(weight.requires_grad for weight in network.backbone.parameters())


@pytest.mark.parametrize("architecture", ["test_efficientnet", "test_resnet", "test_convnext", "test_vit"])
@pytest.mark.parametrize("pooling", ["maps", "final"])
def test_backbones_of_several_kinds_give_the_features_they_state(architecture: str, pooling: str) -> None:
    network = network_of(architecture=architecture, pooling=pooling, is_masked=pooling == "maps", side_px=160)
    features = network.features(random_patches(2, 3 + (pooling == "maps"), 40))
    assert features.shape == (2, network.classifier.in_features)
    assert torch.isfinite(features).all()


def test_final_pooling_is_that_of_the_backbone_itself() -> None:
    network, x = network_of(pooling="final"), random_patches(2, 3)
    torch.manual_seed(0)
    own = timm.create_model(SMALL, num_classes=0).eval()
    own.load_state_dict(network.backbone.state_dict())
    torch.testing.assert_close(network.features(x), own(x))


def test_networks_without_weights_from_elsewhere_cannot_be_frozen() -> None:
    with pytest.raises(InputUnsupportedError, match="no weights to be frozen"):
        build_network("small-groupnorm", 3, backbone=form_of())


def bundle_of(folder: Path, mask: str, channels: tuple[str, ...] = ("R", "G", "B")) -> tuple[Path, Any]:
    """A bundle of patches of 48 px, whose temperature is 2, and its network."""
    form = form_of(by_channel=channels != ("R", "G", "B"))
    network = network_of(len(channels), is_masked=mask == "normalise", by_channel=form.by_channel)
    network.classifier.weight.data *= 50  # so that probabilities are far from one half
    save_file(network.state_dict(), folder / "weights.safetensors")
    spec = BundleSpec(
        architecture=SMALL, backbone=form, channels=channels, dtype="uint8", patch_px=48, stride_px=48, mpp=0.5,
        input_px=48, mean=(0.5,) * len(channels), std=(0.25,) * len(channels), mask=mask,
        crop_px=16 if mask == "interior" else None, method="erm", temperature=2.0,
    )  # fmt: skip
    save_bundle(folder / "bundle", network, spec)
    return folder / "bundle", network


@pytest.mark.parametrize("mask", ["none", "normalise", "interior"])
def test_frozen_bundles_answer_alike_by_openvino_and_torch(tmp_path: Path, mask: str) -> None:
    bundle, network = bundle_of(tmp_path, mask)
    rng = np.random.default_rng(1)
    patches, tissue = rng.random((5, 3, 48, 48), np.float32), np.ones((5, 48, 48), np.bool_)
    tissue[:, :, 30:] = False
    by = {name: load_model(bundle, device="cpu", runtime=name, precision="float32") for name in ("openvino", "torch")}
    one, other = (model.predict_logits(patches, tissue) for model in by.values())
    np.testing.assert_allclose(one, other, atol=1e-4)
    assert isinstance(network, FrozenNetwork)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mask", "channels"),
    [("none", ("R", "G", "B")), ("interior", ("R", "G", "B")), ("none", ("CARS", "TPEF")), ("normalise", ("SHG",))],
)
def test_a_frozen_bundle_is_the_same_network_in_every_program(
    tmp_path: Path, mask: str, channels: tuple[str, ...]
) -> None:
    bundle, network = bundle_of(tmp_path, mask, channels)
    export_model(bundle, tmp_path / "out", kind="onnx")
    for verified, programs in (
        (verify_bundle(bundle), {"torch", "openvino"}),
        (verify_export(tmp_path / "out"), {"openvino", "onnxruntime"}),
    ):
        assert {each.runtime.split()[0] for each in verified} == programs
        assert all(each.difference <= 1e-4 and not each.problem for each in verified)
    if mask == "normalise":  # an import takes networks of patches alone
        return
    side = 16 if mask == "interior" else 48
    stated = {"mean": (0.0,) * len(channels), "std": (1.0,) * len(channels), "channels": channels, "licence": "MIT"}
    description = {"mpp": 0.5, "patch_px": side, "classes": ("non-tumour", "tumour"), **stated}
    lines = (f"{name} = {json.dumps(value)}" for name, value in description.items())
    (tmp_path / "out" / "model.toml").write_text("\n".join(lines))
    import_model(tmp_path / "out" / "model.onnx", tmp_path / "again", test=tmp_path / "out" / "patches.npz")
    x = np.random.default_rng(1).random((5, len(channels), side, side), np.float32)
    due = network(torch.from_numpy((x - 0.5) / 0.25)).diff()[:, 0].numpy() / 2  # over the temperature
    again = np.diff(load_model(tmp_path / "again", device="cpu", precision="float32").predict_logits(x))[:, 0]
    assert np.ptp(due) > 0.1
    np.testing.assert_allclose(again, due, atol=1e-4)

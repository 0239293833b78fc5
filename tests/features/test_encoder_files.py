"""Encoders that are files, and what runs them: what a file does not state is not guessed, OpenVINO and torch agree."""

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from made_encoders import Colours, NoFunction, write_torchscript
from scipy.special import j0

from pathopatch.core.config import EncodeConfig
from pathopatch.core.errors import (
    CheckpointIncompatibleError,
    CheckpointUnsafeError,
    InputMissingError,
    InputUnsupportedError,
)
from pathopatch.features import patch_encoder
from pathopatch.features.encoder_network import PooledEncoder
from pathopatch.features.patch_encoder import OpenVINOFeatures, PatchEncoder, TorchFeatures, open_runtime
from pathopatch.models.networks import build_network
from pathopatch.models.runtime import require_function
from pathopatch.models.weights import file_sha256

STATED = {"input_px": 8, "mean": (0.5, 0.25, 0.0), "std": (0.5, 0.5, 2.0)}


def opened(config: EncodeConfig) -> PatchEncoder:
    return patch_encoder.open_patch_encoder(patch_encoder.load(config), device="cpu", precision="float32", threads=1)


def test_a_file_gives_its_features_of_standardised_patches(tmp_path):
    path = write_torchscript(tmp_path / "mean.pt")
    encoder = opened(EncodeConfig(encoder=str(path), **STATED))
    assert (encoder.encoder.dim, encoder.encoder.pooling, encoder.encoder.name) == (3, None, "mean")
    assert encoder.encoder.weights_sha256 == file_sha256(path)
    patches = np.zeros((7, 3, 16, 16), np.float32)
    patches[:, :, :8] = 1.0  # half white: the mean of each channel is .5
    features = encoder.encode(encoder.prepare(patches))
    np.testing.assert_allclose(features, np.tile([0.0, 0.5, 0.25], (7, 1)), atol=1e-6)
    assert features.dtype == np.float32


class _Raising(torch.nn.Module):
    """An encoder that refuses what it is given."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.shape[3] == 9
        return x.mean(dim=(2, 3))


def _weights(path: Path) -> Path:
    torch.save({"a": torch.zeros(1)}, path)
    return path


@pytest.mark.parametrize(
    ("make", "options", "error", "words"),
    [
        (lambda f: (f / "mean.onnx").write_bytes(b"") or f / "mean.onnx", {}, InputUnsupportedError, "torch.jit.trace"),
        (
            lambda f: write_torchscript(f / "a.pt"),
            {"input_px": None, "std": None},
            InputMissingError,
            "--input-px, --std",
        ),
        (lambda f: write_torchscript(f / "a.pt", Colours()), {}, CheckpointIncompatibleError, r"\(64, 3\) per patch"),
        (lambda f: _weights(f / "w.pth"), {}, CheckpointIncompatibleError, "--encoder NAME --weights FILE"),
        (lambda f: write_torchscript(f / "a.pt", _Raising()), {}, CheckpointIncompatibleError, "8 px.*AssertionError"),
        (lambda f: write_torchscript(f / "a.pt"), {"pooling": "mean"}, InputUnsupportedError, "pools by itself"),
        (lambda f: write_torchscript(f / "a.pt"), {"weights": Path("w")}, InputUnsupportedError, "holds its weights"),
        (
            lambda f: "efficientnet-lite0",
            {},
            InputUnsupportedError,
            "has its own input_px, mean, std",
        ),
    ],
)
def test_an_encoder_that_cannot_be_used_as_stated_is_refused(make, options, error, words, tmp_path):
    with pytest.raises(error, match=words):
        patch_encoder.load(EncodeConfig(encoder=str(make(tmp_path)), **(STATED | options)))


NO_FUNCTIONS = {
    "dropout": "from run to run",
    "noise": "from run to run",
    "batch norm": "other patches of the batch",
    "centred": "other patches of the batch",
    "place in the batch": "other patches of the batch",
}


@pytest.mark.fault("no-function")
@pytest.mark.parametrize("kind", NO_FUNCTIONS)
def test_a_network_that_is_no_function_of_the_patch_is_refused(kind, tmp_path):
    path = write_torchscript(tmp_path / "encoder.pt", NoFunction(kind))
    with pytest.raises(CheckpointIncompatibleError, match=NO_FUNCTIONS[kind]) as caught:
        patch_encoder.load(EncodeConfig(encoder=str(path), **STATED))
    assert caught.value.place == str(path)


def test_features_that_hardly_vary_are_a_function(tmp_path):
    class Offset(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x.mean(dim=(2, 3))
            return torch.cat([torch.full_like(y, 1000.0), 1e-4 * y + 10, 0 * y, y], dim=1)

    path = write_torchscript(tmp_path / "encoder.pt", Offset())
    assert patch_encoder.load(EncodeConfig(encoder=str(path), **STATED)).encoder.dim == 12


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "convnext_atto", "efficientnet_lite0"])
def test_honest_networks_are_functions_in_every_precision(name):
    network = timm.create_model(name, num_classes=0).eval()
    for precision in ("float32", "bfloat16"):
        runtime = open_runtime(
            network, channels=3, input_px=224, device=torch.device("cpu"), precision=precision, threads=2
        )
        assert require_function(runtime.features, 3, 224, place=name).shape == (3, network.num_features)


class _Writer(torch.nn.Module):
    """An encoder that writes a file."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.save(x, "written-by-an-encoder")
        return x.mean(dim=(2, 3))


def test_an_encoder_that_writes_a_file_is_refused_and_not_run(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    path = write_torchscript(tmp_path / "writer.pt", _Writer())
    with pytest.raises(CheckpointUnsafeError, match="aten::save"):
        patch_encoder.load(EncodeConfig(encoder=str(path), **STATED))
    assert not Path("written-by-an-encoder").exists()


def test_float16_on_a_processor_is_refused(tmp_path):
    loaded = patch_encoder.load(EncodeConfig(encoder=str(write_torchscript(tmp_path / "mean.pt")), **STATED))
    with pytest.raises(InputUnsupportedError, match="float16 on a processor"):
        patch_encoder.open_patch_encoder(loaded, device="cpu", precision="float16", threads=1)


class _VisionModel(torch.nn.Module):
    """A model as transformers gives it: a class token of 9, four registers of 7, four tokens of mean colour."""

    config = SimpleNamespace(patch_size=4, hidden_size=3, num_register_tokens=4)

    def forward(self, pixel_values):
        means = torch.nn.functional.avg_pool2d(pixel_values, 4).flatten(2).transpose(1, 2)
        prefix = torch.tensor([9.0, 7, 7, 7, 7])[None, :, None].expand(len(means), 5, 3)
        return SimpleNamespace(last_hidden_state=torch.cat([prefix, means], dim=1))


def _fake_transformers(monkeypatch: pytest.MonkeyPatch, missing: list[str]) -> dict:
    asked = {}

    def from_pretrained(folder, **options):
        asked.update(options, folder=folder)
        return _VisionModel(), {"missing_keys": missing}

    module = ModuleType("transformers")
    module.AutoModel = SimpleNamespace(from_pretrained=from_pretrained)
    monkeypatch.setitem(sys.modules, "transformers", module)
    return asked


def _write_folder(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    stated = {"do_center_crop": True, "crop_size": {"height": 8, "width": 8}, "size": {"shortest_edge": 10},
              "image_mean": [0, 0, 0], "image_std": [1, 1, 1]}  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(stated))
    return folder


def test_a_folder_of_transformers_runs_no_code_of_its_own(monkeypatch, tmp_path):
    asked = _fake_transformers(monkeypatch, ["pooler.dense.weight"])
    folder = _write_folder(tmp_path / "phikon")
    loaded = patch_encoder.load(EncodeConfig(encoder=str(folder), pooling="cls+mean"))
    assert (asked["trust_remote_code"], asked["local_files_only"]) == (False, True)
    assert (loaded.encoder.dim, loaded.encoder.crop, loaded.encoder.name) == (6, "resize 10, centre 8", "phikon")
    with torch.inference_mode():
        features = loaded.network(torch.full((1, 3, 8, 8), 0.5))
    assert features.tolist() == [[9.0, 9, 9, 0.5, 0.5, 0.5]]  # registers have no part in the mean


def test_a_folder_of_transformers_without_weights_or_package_is_refused(monkeypatch, tmp_path):
    _fake_transformers(monkeypatch, ["encoder.layer.0.weight"])
    config = EncodeConfig(encoder=str(_write_folder(tmp_path / "phikon")))
    with pytest.raises(CheckpointIncompatibleError, match=r"first missing tensor 'encoder\.layer\.0\.weight'"):
        patch_encoder.load(config)
    (tmp_path / "phikon" / "config.json").unlink()
    with pytest.raises(InputMissingError, match=r"no config\.json in phikon"):
        patch_encoder.load(config)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputUnsupportedError, match="pip install transformers"):
        patch_encoder.load(config)


@pytest.mark.fault("outside")
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.safetensors.index.json", {"weight_map": {"a": "model-1.safetensors", "b": "../marker.safetensors"}}),
        ("pytorch_model.bin.index.json", {"weight_map": {"a": "/srv/marker.bin"}}),
        ("config.json", {"model_type": "timm_wrapper", "model_args": {"checkpoint_path": "/srv/marker.pt"}}),
        ("config.json", {"backbone_config": {"model_type": "timm_backbone"}}),
        ("config.json", {"layers": [{"use_timm_backbone": True}]}),
        ("adapter_config.json", {"base_model_name_or_path": "/srv/marker"}),
    ],
)
def test_a_folder_of_transformers_that_names_other_files_is_unsafe(monkeypatch, tmp_path, name, content):
    asked = _fake_transformers(monkeypatch, [])
    folder = _write_folder(tmp_path / "phikon")
    (folder / name).write_text(json.dumps(content))
    with pytest.raises(CheckpointUnsafeError, match="nothing was read"):
        patch_encoder.load(EncodeConfig(encoder=str(folder)))
    assert not asked  # transformers was not even called


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

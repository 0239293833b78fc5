"""Encoders that are files: TorchScript, folders of transformers; what they do not state is not guessed."""

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from made_encoders import Colours, NoFunction, write_torchscript

from pathopatch.core.config import EncodeConfig
from pathopatch.core.errors import (
    CheckpointIncompatibleError,
    CheckpointUnsafeError,
    InputMissingError,
    InputUnsupportedError,
)
from pathopatch.features import patch_encoder
from pathopatch.features.patch_encoder import PatchEncoder, open_runtime
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


def test_an_onnx_file_is_refused_with_what_to_export(tmp_path):
    (tmp_path / "mean.onnx").touch()
    with pytest.raises(InputUnsupportedError) as refused:
        patch_encoder.load(EncodeConfig(encoder=str(tmp_path / "mean.onnx"), **STATED))
    assert "torch.jit.trace" in refused.value.remedy


def test_a_file_without_stated_input_is_refused_by_the_options_missing(tmp_path):
    path = write_torchscript(tmp_path / "mean.pt")
    with pytest.raises(InputMissingError, match="--input-px, --std"):
        patch_encoder.load(EncodeConfig(encoder=str(path), mean=(0.5, 0.5, 0.5)))


def test_a_file_that_gives_tokens_is_refused(tmp_path):
    path = write_torchscript(tmp_path / "tokens.pt", Colours())
    with pytest.raises(CheckpointIncompatibleError, match=r"shape \(64, 3\) per patch"):
        patch_encoder.load(EncodeConfig(encoder=str(path), **STATED))


def test_a_file_of_weights_alone_is_no_encoder(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(CheckpointIncompatibleError, match="--encoder NAME --weights FILE"):
        patch_encoder.load(EncodeConfig(encoder=str(tmp_path / "w.pth"), **STATED))


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


class _Raising(torch.nn.Module):
    """An encoder that refuses what it is given."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.shape[3] == 9
        return x.mean(dim=(2, 3))


def test_what_a_program_says_against_its_input_is_repeated(tmp_path):
    path = write_torchscript(tmp_path / "raising.pt", _Raising())
    with pytest.raises(CheckpointIncompatibleError, match=r"does not run on patches of 8 px.*AssertionError"):
        patch_encoder.load(EncodeConfig(encoder=str(path), **STATED))


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


def test_a_file_pools_by_itself_and_holds_its_weights(tmp_path):
    path = write_torchscript(tmp_path / "mean.pt")
    with pytest.raises(InputUnsupportedError, match="pools by itself"):
        patch_encoder.load(EncodeConfig(encoder=str(path), pooling="mean", **STATED))
    with pytest.raises(InputUnsupportedError, match="holds its weights"):
        patch_encoder.load(EncodeConfig(encoder=str(path), weights=path, **STATED))


def test_an_encoder_of_the_table_takes_no_input_of_its_own():
    with pytest.raises(InputUnsupportedError, match="efficientnet-lite0 has its own mean"):
        patch_encoder.load(EncodeConfig(encoder="efficientnet-lite0", mean=(0.0, 0.0, 0.0)))


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


def test_a_folder_of_transformers_with_missing_weights_is_refused(monkeypatch, tmp_path):
    _fake_transformers(monkeypatch, ["encoder.layer.0.weight"])
    with pytest.raises(CheckpointIncompatibleError, match=r"first missing tensor 'encoder\.layer\.0\.weight'"):
        patch_encoder.load(EncodeConfig(encoder=str(_write_folder(tmp_path / "phikon"))))


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


def test_without_transformers_its_folder_says_how_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputUnsupportedError, match="pip install transformers"):
        patch_encoder.load(EncodeConfig(encoder=str(_write_folder(tmp_path / "phikon"))))

"""Encoders of the table: their tensors, tokens and pooling, strict loading, the names of publishers."""

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from pathopatch.core.errors import (
    CheckpointIncompatibleError,
    CheckpointUnsafeError,
    InputMissingError,
    InputUnsupportedError,
)
from pathopatch.features.encoder_network import (
    PooledEncoder,
    encoder_shapes,
    find_weights,
    load_encoder,
    plain_names,
)
from pathopatch.features.encoders import ENCODERS, EncoderEntry, encoder_entry, pooled_dim, twins_of

FINGERPRINTS = {  # position embedding, registers, blocks, width of the first layer of an MLP: of the publishers' files
    "uni": ((1, 197, 1024), 0, 24, 4096),
    "uni2-h": ((1, 256, 1536), 8, 24, 8192),
    "virchow": ((1, 257, 1280), 0, 32, 6832),
    "virchow2": ((1, 261, 1280), 4, 32, 6832),
    "h-optimus-0": ((1, 256, 1536), 4, 40, 8192),
    "h-optimus-1": ((1, 256, 1536), 4, 40, 8192),
    "h0-mini": ((1, 256, 768), 4, 12, 4096),
    "prov-gigapath": ((1, 197, 1536), 0, 40, 8192),
    "gpfm": ((1, 257, 1024), 0, 24, 4096),
    "mstar": ((1, 197, 1024), 0, 24, 4096),
    "kaiko-s16": ((1, 197, 384), 0, 12, 1536),
    "kaiko-s8": ((1, 785, 384), 0, 12, 1536),
    "kaiko-b16": ((1, 197, 768), 0, 12, 3072),
    "kaiko-b8": ((1, 785, 768), 0, 12, 3072),
    "kaiko-l14": ((1, 1369, 1024), 4, 24, 4096),
    "lunit-s16": ((1, 197, 384), 0, 12, 1536),
    "lunit-s8": ((1, 785, 384), 0, 12, 1536),
    "dinov2-b": ((1, 1370, 768), 0, 12, 3072),
    "dinov3-b": (None, 4, 12, 3072),
}
IMAGE_TOKENS = {  # of a patch of the encoder's input size, a side
    "uni": 14, "uni2-h": 16, "virchow": 16, "virchow2": 16, "h-optimus-0": 16, "h-optimus-1": 16, "h0-mini": 16,
    "prov-gigapath": 14, "gpfm": 16, "mstar": 14, "kaiko-s16": 14, "kaiko-s8": 28, "kaiko-b16": 14, "kaiko-b8": 28,
    "kaiko-l14": 16, "lunit-s16": 14, "lunit-s8": 28, "dinov2-b": 16, "dinov3-b": 16,
}  # fmt: skip


def shallow(name: str) -> EncoderEntry:
    """Return an entry with one block."""
    entry = ENCODERS[name]
    return replace(entry, arguments={**entry.arguments, "depth": 1})


def write_random(entry: EncoderEntry, path: Path) -> Path:
    """Write random weights of exactly an entry's tensors."""
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randn(shape, generator=generator) * 0.02 + (0.02 if "running_var" in name else 0.0)
        for name, shape in encoder_shapes(entry).items()
    }
    tensors = {name: value.abs() if "running_var" in name else value for name, value in tensors.items()}
    counters = [name for name in tensors if name.endswith("num_batches_tracked")]
    save_file(tensors | {name: torch.zeros((), dtype=torch.int64) for name in counters}, path)
    return path


def patches(entry: EncoderEntry, n: int = 2) -> torch.Tensor:
    return torch.randn(n, 3, entry.input_px, entry.input_px, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", FINGERPRINTS)
def test_a_vision_transformer_has_its_publishers_tensors(name):
    position, registers, blocks, hidden = FINGERPRINTS[name]
    shapes = encoder_shapes(ENCODERS[name])
    assert shapes.get("pos_embed") == position
    assert shapes.get("reg_token", (1, 0, 0))[1] == registers
    assert len({key.split(".")[1] for key in shapes if key.startswith("blocks.")}) == blocks
    assert shapes["blocks.0.mlp.fc1.weight"][0] == hidden
    assert not any(key.startswith(("head.", "fc_norm.")) for key in shapes)


@pytest.mark.parametrize("name", FINGERPRINTS)
def test_random_weights_load_strictly_and_pool_as_published(name, tmp_path):
    entry = shallow(name)
    encoder = load_encoder(entry, write_random(entry, tmp_path / "w.safetensors"), entry.pooling)
    with torch.inference_mode():
        tokens = encoder.network.forward_features(patches(entry))
        features = encoder(patches(entry))
    assert tokens.shape[1] == 1 + FINGERPRINTS[name][1] + IMAGE_TOKENS[name] ** 2
    assert features.shape == (2, entry.dim)
    expected = tokens[:, 0]
    if entry.pooling == "cls+mean":
        expected = torch.cat([tokens[:, 0], tokens[:, -(IMAGE_TOKENS[name] ** 2) :].mean(1)], dim=1)
    torch.testing.assert_close(features, expected)


@pytest.mark.slow
def test_the_whole_of_uni_loads(tmp_path):
    entry = ENCODERS["uni"]
    encoder = load_encoder(entry, write_random(entry, tmp_path / "w.safetensors"), "cls")
    assert len(encoder.network.blocks) == 24
    assert sum(value.numel() for value in encoder.parameters()) == 303_350_784
    with torch.inference_mode():
        assert encoder(patches(entry, 1)).shape == (1, 1024)


@pytest.mark.slow
def test_a_resnet_drops_its_classifier_and_nothing_else(tmp_path):
    entry = ENCODERS["retccl"]
    torch.manual_seed(0)
    whole = timm.create_model("resnet50", num_classes=7).eval()
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    encoder = load_encoder(entry, tmp_path / "whole.pth", "mean")
    with torch.inference_mode():
        expected = whole.forward_features(patches(entry, 1)).mean((2, 3))
        torch.testing.assert_close(encoder(patches(entry, 1)), expected)
    torch.save({**whole.state_dict(), "extra": torch.zeros(1)}, tmp_path / "more.pth")
    with pytest.raises(CheckpointIncompatibleError, match="first surplus tensor 'extra'"):
        load_encoder(entry, tmp_path / "more.pth", "mean")


def test_missing_batch_counters_of_old_files_are_accepted(tmp_path):
    torch.manual_seed(0)
    weights = timm.create_model("resnet50", num_classes=0).state_dict()
    save_file({k: v for k, v in weights.items() if "num_batches" not in k}, tmp_path / "old.safetensors")
    load_encoder(ENCODERS["retccl"], tmp_path / "old.safetensors", "mean")


def test_everyone_can_run_efficientnet_lite0():
    entry = ENCODERS["efficientnet-lite0"]
    encoder = load_encoder(entry, find_weights(None, entry), "mean")
    with torch.inference_mode():
        features = encoder(patches(entry))
    assert features.shape == (2, 1280)
    assert features.abs().sum() > 0


def test_weights_of_a_larger_grid_are_resampled_as_timm_does_in_each_pass(tmp_path):
    entry = shallow("dinov2-b")
    path = write_random(entry, tmp_path / "w.safetensors")
    dynamic = timm.create_model(entry.architecture, num_classes=0, dynamic_img_size=True, depth=1).eval()
    dynamic.load_state_dict(load_encoder(entry, path, "cls").network.state_dict() | _raw(path))
    with torch.inference_mode():
        expected = dynamic.forward_features(patches(entry))[:, 0]
        torch.testing.assert_close(load_encoder(entry, path, "cls")(patches(entry)), expected)


def _raw(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


def test_the_first_missing_and_the_first_surplus_tensor_are_named(tmp_path):
    entry = shallow("kaiko-s16")
    weights = _raw(write_random(entry, tmp_path / "w.safetensors"))
    del weights["blocks.0.norm1.weight"]
    save_file(weights | {"blocks.0.surplus": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointIncompatibleError) as refused:
        load_encoder(entry, tmp_path / "other.safetensors", "cls")
    assert "first missing tensor 'blocks.0.norm1.weight'" in str(refused.value)
    assert "first surplus tensor 'blocks.0.surplus'" in str(refused.value)


@pytest.mark.slow
def test_weights_of_another_encoder_are_told_by_their_shapes(tmp_path):
    path = write_random(ENCODERS["kaiko-s16"], tmp_path / "w.safetensors")
    with pytest.raises(CheckpointIncompatibleError) as refused:
        load_encoder(ENCODERS["kaiko-s8"], path, "cls")
    assert "'pos_embed' is (1, 197, 384), (1, 785, 384) expected" in str(refused.value)
    assert refused.value.remedy == "they fit encode --encoder kaiko-s16 or lunit-s16"


def test_a_pickle_of_more_than_tensors_is_refused(tmp_path):
    (tmp_path / "w.bin").write_bytes(pickle.dumps({"a": Path}))
    with pytest.raises(CheckpointUnsafeError):
        load_encoder(ENCODERS["uni"], tmp_path / "w.bin", "cls")


def test_twins_are_the_encoders_of_equal_tensors():
    shapes = {name: encoder_shapes(entry) for name, entry in ENCODERS.items()}
    for name in ENCODERS:
        assert set(twins_of(name)) == {other for other in ENCODERS if other != name and shapes[other] == shapes[name]}
    assert twins_of("h-optimus-0") == ("h-optimus-1",)
    assert twins_of("lunit-s8") == ("kaiko-s8",)


def test_wrapped_and_renamed_tensors_get_timms_names():
    weights = {
        "student.backbone.cls_token": torch.zeros(1, 1, 2),
        "teacher.backbone.cls_token": torch.ones(1, 1, 2),
        "teacher.backbone.pos_embed": torch.arange(10.0).reshape(1, 5, 2),
        "teacher.backbone.register_tokens": torch.ones(1, 4, 2),
        "teacher.backbone.mask_token": torch.ones(1, 2),
        "teacher.backbone.blocks.0.17.mlp.w12.weight": torch.ones(3),
        "teacher.backbone.blocks.1.3.mlp.w3.bias": torch.ones(4),
        "teacher.dino_head.last_layer.weight": torch.ones(5),
    }
    named = plain_names(weights)
    assert set(named) == {"cls_token", "pos_embed", "reg_token", "blocks.17.mlp.fc1.weight", "blocks.3.mlp.fc2.bias"}
    assert named["cls_token"].flatten().tolist() == [1.0, 2.0]  # with the position of the class token, (0, 1)
    assert named["pos_embed"].flatten().tolist() == [2, 3, 4, 5, 6, 7, 8, 9]
    beside = {"backbone.cls_token": torch.ones(1), "head.mix": torch.ones(1)}  # a head beside it is surplus
    assert set(plain_names(beside)) == {"cls_token", "head.mix"}


def test_half_precision_weights_compute_in_float32(tmp_path):
    entry = shallow("lunit-s16")
    weights = _raw(write_random(entry, tmp_path / "w.safetensors"))
    save_file({name: value.half() for name, value in weights.items()}, tmp_path / "half.safetensors")
    encoder = load_encoder(entry, tmp_path / "half.safetensors", "cls")
    assert {value.dtype for value in encoder.parameters()} == {torch.float32}


class _Grid(torch.nn.Module):
    """Tokens of a 4 x 4 image in four tokens: the mean colour of each, behind one class token of 100."""

    def forward_features(self, x):
        means = torch.nn.functional.avg_pool2d(x, 2).flatten(2).transpose(1, 2)
        return torch.cat([torch.full_like(means[:, :1], 100.0), means], dim=1)


def test_tissue_mean_weighs_tokens_by_their_share_of_tissue():
    encoder = PooledEncoder(_Grid(), "tissue-mean", stride_px=2, prefix_tokens=1)
    x = torch.zeros(2, 4, 4, 4)
    x[:, :3, :2, :2], x[:, :3, :2, 2:], x[:, :3, 2:, :2] = 1.0, 2.0, 5.0
    x[0, 3, :2, :2] = 1.0  # all of the first token, and half of the second
    x[0, 3, 0, 2:] = 1.0
    features = encoder(x)
    torch.testing.assert_close(features[0], torch.full((3,), (1.0 * 1 + 0.5 * 2) / 1.5))
    torch.testing.assert_close(features[1], torch.full((3,), (1 + 2 + 5 + 0) / 4.0))  # no tissue: all alike


def test_glass_has_no_part_in_tissue_mean():
    encoder = PooledEncoder(_Grid(), "tissue-mean", stride_px=2, prefix_tokens=1)
    x = torch.rand(1, 4, 4, 4)
    x[:, 3] = 0.0
    x[:, 3, :2] = 1.0
    other = x.clone()
    other[:, :3, 2:] += 7.0
    torch.testing.assert_close(encoder(x), encoder(other))


@pytest.mark.parametrize(("name", "pooling", "dim"), [("uni", "cls+mean", 2048), ("virchow2", "cls", 1280)])
def test_pooling_decides_the_dimension(name, pooling, dim):
    assert pooled_dim(ENCODERS[name], pooling) == dim


def test_a_pooling_that_the_encoder_lacks_and_an_unknown_name_are_refused():
    with pytest.raises(InputUnsupportedError, match=r"h-optimus-0.*virchow2|virchow2.*h-optimus-0"):
        encoder_entry("uni3")
    with pytest.raises(InputUnsupportedError, match="no pooling 'cls'"):
        load_encoder(ENCODERS["resnet50"], Path("x"), "cls")


def test_nothing_is_downloaded_where_weights_are_missing():
    with pytest.raises(InputMissingError, match="MahmoodLab/UNI; CC BY-NC-ND 4.0"):
        find_weights(None, ENCODERS["uni"])


def test_a_folder_of_weights_prefers_safetensors_and_refuses_several(tmp_path):
    for name in ("a.pth", "b.pth"):
        (tmp_path / name).touch()
    with pytest.raises(InputUnsupportedError, match=r"a\.pth, b\.pth"):
        find_weights(tmp_path, ENCODERS["uni"])
    for name in ("pytorch_model.bin", "model.safetensors"):
        (tmp_path / name).touch()
    assert find_weights(tmp_path, ENCODERS["uni"]) == tmp_path / "model.safetensors"
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputMissingError, match="no file of weights"):
        find_weights(tmp_path / "empty", ENCODERS["uni"])

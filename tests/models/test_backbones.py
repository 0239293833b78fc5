"""Published backbones: tensors, pooling, strict loading, names of publishers, and bundles without their weights."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from pathopatch.core.config import PredictConfig, TrainConfig
from pathopatch.core.errors import CheckpointIncompatibleError, CheckpointUnsafeError, InputMissingError
from pathopatch.models import backbones, networks
from pathopatch.models.backbones import BACKBONES, KnownBackbone, find_weights, plain_names, weights_facts
from pathopatch.models.bundle import rewrite_graph, save_bundle
from pathopatch.models.export import export_model
from pathopatch.models.forward import sample_patches
from pathopatch.models.loading import load_model, load_network
from pathopatch.models.networks import build_network
from pathopatch.models.spec import BackboneSpec, BundleSpec
from pathopatch.models.verify import verify_bundle
from pathopatch.models.weights import file_sha256
from pathopatch.slides.manifest import SlideRow
from pathopatch.stages.predict import predict_cohort
from pathopatch.training.frozen import open_backbone

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
IMAGE_TOKENS = {  # of a patch of the backbone's input size, a side
    "uni": 14, "uni2-h": 16, "virchow": 16, "virchow2": 16, "h-optimus-0": 16, "h-optimus-1": 16, "h0-mini": 16,
    "prov-gigapath": 14, "gpfm": 16, "mstar": 14, "kaiko-s16": 14, "kaiko-s8": 28, "kaiko-b16": 14, "kaiko-b8": 28,
    "kaiko-l14": 16, "lunit-s16": 14, "lunit-s8": 28, "dinov2-b": 16, "dinov3-b": 16,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(backbones.WEIGHTS_VARIABLE, raising=False)


def shapes_of(known: KnownBackbone) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors that a publisher's file holds."""
    with torch.device("meta"):
        network = build_network(known.architecture, 3, n_classes=0, timm_args=known.arguments)
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


def write_random(known: KnownBackbone, path: Path) -> Path:
    """Write random weights of exactly a backbone's tensors."""
    generator = torch.Generator().manual_seed(0)
    shapes = shapes_of(known).items()
    save_file({name: torch.randn(shape, generator=generator) * 0.02 for name, shape in shapes}, path)
    return path


@pytest.fixture
def shallow(monkeypatch: pytest.MonkeyPatch):
    """Return a function that gives a known backbone one block."""

    def one_block(name: str) -> KnownBackbone:
        known = BACKBONES[name]
        known = replace(known, arguments={**known.arguments, "depth": 1})
        for module in (backbones, networks):
            monkeypatch.setattr(module, "BACKBONES", {**BACKBONES, name: known})
        return known

    return one_block


def opened(name: str, weights: Path, **config: object):
    """Return the frozen network of a backbone."""
    settings = TrainConfig(frozen=True, architecture=name, pretrained=weights, method="erm", **config)
    return open_backbone(settings, 3).network


def patches(known: KnownBackbone, n: int = 2) -> torch.Tensor:
    return torch.randn(n, 3, known.input_px, known.input_px, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", FINGERPRINTS)
def test_a_vision_transformer_has_its_publishers_tensors(name):
    position, registers, blocks, hidden = FINGERPRINTS[name]
    shapes = shapes_of(BACKBONES[name])
    assert shapes.get("pos_embed") == position
    assert shapes.get("reg_token", (1, 0, 0))[1] == registers
    assert len({key.split(".")[1] for key in shapes if key.startswith("blocks.")}) == blocks
    assert shapes["blocks.0.mlp.fc1.weight"][0] == hidden
    assert not any(key.startswith(("head.", "fc_norm.")) for key in shapes)


@pytest.mark.parametrize("name", FINGERPRINTS)
def test_random_weights_load_strictly_and_pool_as_published(name, shallow, tmp_path):
    known = shallow(name)
    network = opened(name, write_random(known, tmp_path / "w.safetensors"))
    with torch.inference_mode():
        tokens = network.backbone.forward_features(patches(known))
        features = network.features(patches(known))
    assert tokens.shape[1] == 1 + FINGERPRINTS[name][1] + IMAGE_TOKENS[name] ** 2
    expected = tokens[:, 0]
    if name in ("virchow", "virchow2", "h0-mini"):
        expected = torch.cat([tokens[:, 0], tokens[:, -(IMAGE_TOKENS[name] ** 2) :].mean(1)], dim=1)
    torch.testing.assert_close(features, expected)
    assert network.classifier.in_features == features.shape[1]


@pytest.mark.slow
def test_the_whole_of_uni_loads_and_its_bundle_would_hold_no_copy(tmp_path):
    path = write_random(BACKBONES["uni"], tmp_path / "w.safetensors")
    network = opened("uni", path)
    assert sum(value.numel() for value in network.backbone.parameters()) == 303_350_784
    assert not network.form.in_bundle
    path.unlink()  # 1.2 GB


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["retccl", "resnet50"])
def test_a_resnet_drops_its_classifier_and_nothing_else(architecture, tmp_path):
    torch.manual_seed(0)
    whole = timm.create_model("resnet50", num_classes=7).eval()
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    network = opened(architecture, tmp_path / "whole.pth")
    x = torch.rand(1, 3, network.form.side_px, network.form.side_px)
    with torch.inference_mode():
        torch.testing.assert_close(network.features(x), whole.forward_features(x).mean((2, 3)))
    torch.save({**whole.state_dict(), "extra": torch.zeros(1)}, tmp_path / "more.pth")
    with pytest.raises(CheckpointIncompatibleError, match="first surplus tensor 'extra'"):
        opened(architecture, tmp_path / "more.pth")


def test_missing_batch_counters_of_old_files_are_accepted(tmp_path):
    torch.manual_seed(0)
    weights = timm.create_model("resnet18", num_classes=0).state_dict()
    save_file({k: v for k, v in weights.items() if "num_batches" not in k}, tmp_path / "old.safetensors")
    network = opened("resnet18", tmp_path / "old.safetensors")
    torch.testing.assert_close(network.backbone.layer4[1].conv2.weight.data, weights["layer4.1.conv2.weight"])


def test_weights_of_a_larger_grid_are_resampled_as_timm_does_in_each_pass(shallow, tmp_path):
    known = shallow("dinov2-b")
    path = write_random(known, tmp_path / "w.safetensors")
    dynamic = timm.create_model(known.architecture, num_classes=0, dynamic_img_size=True, depth=1).eval()
    dynamic.load_state_dict(load_file(path))
    with torch.inference_mode():
        expected = dynamic.forward_features(patches(known))[:, 0]
        torch.testing.assert_close(opened("dinov2-b", path).features(patches(known)), expected)


def test_the_first_missing_and_the_first_surplus_tensor_are_named(shallow, tmp_path):
    weights = load_file(write_random(shallow("kaiko-s16"), tmp_path / "w.safetensors"))
    del weights["blocks.0.norm1.weight"]
    weights["cls_token"] = torch.zeros(1, 1, 385)
    save_file(weights | {"blocks.0.surplus": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointIncompatibleError) as refused:
        opened("kaiko-s16", tmp_path / "other.safetensors")
    assert "first missing tensor 'blocks.0.norm1.weight'" in str(refused.value)
    assert "first surplus tensor 'blocks.0.surplus'" in str(refused.value)
    assert "'cls_token' is (1, 1, 385), (1, 1, 384) expected" in str(refused.value)


def test_a_pickle_of_more_than_tensors_is_refused(tmp_path):
    (tmp_path / "w.bin").write_bytes(pickle.dumps({"a": Path}))
    with pytest.raises(CheckpointUnsafeError):
        opened("uni", tmp_path / "w.bin")


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


def test_half_precision_weights_compute_in_float32(shallow, tmp_path):
    weights = load_file(write_random(shallow("lunit-s16"), tmp_path / "w.safetensors"))
    save_file({name: value.half() for name, value in weights.items()}, tmp_path / "half.safetensors")
    assert {value.dtype for value in opened("lunit-s16", tmp_path / "half.safetensors").parameters()} == {torch.float32}


def test_a_known_backbone_is_fed_as_its_publisher_does(shallow, tmp_path):
    path = write_random(shallow("lunit-s16"), tmp_path / "w.safetensors")
    settings = TrainConfig(frozen=True, architecture="lunit-s16", pretrained=path, method="erm")
    backbone = open_backbone(settings, 3)
    assert (backbone.mean, backbone.std) == BACKBONES["lunit-s16"].norm
    inside = open_backbone(settings.model_copy(update={"mask": "interior"}), 3).network
    assert inside.form.side_px == 224  # a transformer takes patches of one size; convolutional ones take small crops
    torch.manual_seed(0)
    save_file(timm.create_model("resnet18", num_classes=0).state_dict(), tmp_path / "r.safetensors")
    assert opened("resnet18", tmp_path / "r.safetensors", mask="interior").form.side_px == 96


@pytest.mark.parametrize(
    ("name", "size", "in_bundle"),
    [
        ("resnet18", 10, True), ("resnet18", 11, False), ("dinov2-b", 10, True), ("dinov2-b", 11, False),
        ("lunit-s16", 10, False), ("retccl", 10, False),
    ],
)  # fmt: skip
def test_large_weights_and_those_under_other_licences_stay_out(name, size, in_bundle, monkeypatch, tmp_path):
    monkeypatch.setattr(backbones, "MOST_COPIED_BYTES", 10)
    (tmp_path / "w.bin").write_bytes(bytes(size))
    assert weights_facts(name, tmp_path / "w.bin")["in_bundle"] is in_bundle


@pytest.fixture(params=["vit_tiny_patch16_224", pytest.param("resnet18", marks=pytest.mark.slow)])
def trained(request, tmp_path, monkeypatch):
    """Return a frozen network that was trained on weights too large to copy, and the spec of its bundle."""
    monkeypatch.setattr(backbones, "MOST_COPIED_BYTES", 1000)
    torch.manual_seed(0)
    arguments = {"depth": 2, "embed_dim": 48, "num_heads": 2} if request.param.startswith("vit") else {}
    (tmp_path / "weights").mkdir()
    path = tmp_path / "weights" / "w.safetensors"
    save_file(timm.create_model(request.param, **arguments).state_dict(), path)
    config = TrainConfig(
        frozen=True, architecture=request.param, pretrained=path, timm_args=arguments, method="erm", input_px=32
    )
    backbone = open_backbone(config, ("A", "B"))
    torch.nn.init.normal_(backbone.network.classifier.weight)
    spec = BundleSpec(
        architecture=request.param, timm_args=arguments, backbone=backbone.network.form, channels=("A", "B"),
        dtype="uint8", patch_px=32, stride_px=32, input_px=32, mean=backbone.mean, std=backbone.std, method="erm",
    )  # fmt: skip
    return backbone.network, spec, path


def test_a_bundle_holds_the_head_alone_and_finds_its_backbone(trained, tmp_path, monkeypatch):
    network, spec, path = trained
    bundle = tmp_path / "bundle"
    save_bundle(bundle, network, spec)
    assert sorted(load_file(bundle / "model.safetensors")) == ["classifier.bias", "classifier.weight"]
    assert not (bundle / "model.onnx").exists()
    licence = "licence: not known, of a file that whoever trained the model named"
    told = f"w.safetensors, not in this bundle; {licence}; SHA-256 {file_sha256(path)}"
    assert told in (bundle / "README.md").read_text()
    x, tissue = sample_patches(spec)
    with torch.inference_mode():
        mean, std = (torch.tensor(values)[:, None, None] for values in (spec.mean, spec.std))
        expected = network((torch.from_numpy(x) - mean) / std)
    for how in ("remembered", "variable"):
        if how == "variable":
            path.rename(path.with_name(how))  # so that it is no longer where training has seen it
            monkeypatch.setenv(backbones.WEIGHTS_VARIABLE, str(tmp_path))  # found by size and hash, whatever its name
        model = load_model(bundle, device="cpu", precision="float32")
        np.testing.assert_allclose(model.predict_logits(x, tissue), expected, rtol=0, atol=1e-4)
    assert [found.problem for found in verify_bundle(bundle)] == [""]


def test_without_its_backbone_a_bundle_is_refused_with_name_and_hash(trained, tmp_path, monkeypatch):
    network, spec, path = trained
    save_bundle(tmp_path / "bundle", network, spec)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)  # of the same size
    monkeypatch.setenv(backbones.WEIGHTS_VARIABLE, str(path.parent))
    with pytest.raises(InputMissingError) as refused:
        load_network(tmp_path / "bundle")
    assert "w.safetensors" in refused.value.message
    assert spec.backbone.weights_sha256 in refused.value.message
    assert "PATHOPATCH_WEIGHTS=FOLDER" in refused.value.remedy


def test_missing_weights_are_one_error_of_a_cohort_not_one_a_slide(trained, tmp_path):
    network, spec, path = trained
    save_bundle(tmp_path / "bundle", network, spec)
    path.unlink()
    row = SlideRow(row=1, slide_id="a", patient_id="p", source=str(tmp_path / "a.tif"))
    with pytest.raises(InputMissingError, match="does not hold the weights of its backbone"):
        predict_cohort([row], tmp_path / "bundle", tmp_path / "out", PredictConfig(device="cpu"))


@pytest.mark.parametrize("name", ["export", "graph", "openvino"])
def test_weights_that_must_not_be_copied_are_not_exported(name, trained, tmp_path):
    network, spec, _ = trained
    save_bundle(tmp_path / "bundle", network, spec)
    calls = {
        "export": lambda: export_model(tmp_path / "bundle", tmp_path / "out", kind="onnx"),
        "graph": lambda: rewrite_graph(tmp_path / "bundle", network),
        "openvino": lambda: load_model(tmp_path / "bundle", runtime="openvino"),
    }
    with pytest.raises(Exception, match="the weights of the backbone are not in the bundle"):
        calls[name]()


def test_a_licence_that_is_known_stands_in_the_error():
    spec = BackboneSpec(
        side_px=224, pooling="final", weights_sha256="0" * 64, weights_bytes=9, source="MahmoodLab/UNI",
        licence="CC BY-NC-ND 4.0", in_bundle=False,
    )  # fmt: skip
    with pytest.raises(InputMissingError, match=r"MahmoodLab/UNI, licence: CC BY-NC-ND 4\.0"):
        find_weights(spec)

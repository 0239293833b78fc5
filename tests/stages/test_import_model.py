"""Bare ONNX networks become bundles of the same probabilities; other kinds of models are refused."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from made_slides import write_rgb_pyramid
from onnx import helper, numpy_helper

from pathopatch.core.errors import (
    CheckpointIncompatibleError,
    CheckpointUnsafeError,
    InputCorruptError,
    InputMissingError,
    InputUnsupportedError,
    NonFiniteError,
    PathopatchError,
)
from pathopatch.models.bundle import read_spec
from pathopatch.models.loading import load_model
from pathopatch.stages.import_model import import_model

PX = 32
MEAN, STD = np.array([0.7, 0.5, 0.6]), np.array([0.1, 0.2, 0.15])
TOML = """
mpp = 0.5
patch_px = 48
input_px = 32
mean = [0.7, 0.5, 0.6]
std = [0.1, 0.2, 0.15]
channels = ["R", "G", "B"]
licence = "CC-BY-4.0"
made_by = "a lab"
"""
NAMES = ("Tumor", "stroma", "fat", "mucus")


def onnx_model(n_classes: int = 2, end: str = "", *, opset: int = 13, stated_px: int | str = PX) -> onnx.ModelProto:
    """Return a network of one convolution that ends in logits, or in an operator."""
    rng = np.random.default_rng(1)
    weights = {
        "kernel": rng.normal(0, 0.3, (8, 3, 5, 5)).astype(np.float32),
        "matrix": rng.normal(0, 0.2, (8, n_classes)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["field"], strides=[4, 4]),
        helper.make_node("Relu", ["field"], ["positive"]),
        helper.make_node("GlobalAveragePool", ["positive"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["features"]),
        helper.make_node("MatMul", ["features", "matrix"], ["values"]),
        helper.make_node(end or "Identity", ["values"], ["answer"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", 1, ["N", 3, stated_px, stated_px])],
        [helper.make_tensor_value_info("answer", 1, ["N", n_classes])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def write_onnx(folder: Path, model: onnx.ModelProto | None = None, *, toml: str = TOML, n_classes: int = 2) -> Path:
    """Write a bare network and its description."""
    folder.mkdir(exist_ok=True)
    onnx.save(model or onnx_model(n_classes), folder / "tiny.onnx")
    (folder / "tiny.toml").write_text(f"{toml}classes = {json.dumps(NAMES[:n_classes])}\n")
    return folder / "tiny.onnx"


def patches(side: int = 48) -> np.ndarray:
    """Return patches (5, 3, side, side) in [0, 1], in steps of 1/255."""
    rng = np.random.default_rng(0)
    coarse = rng.random((5, 3, 4, 4)).repeat(side // 4, axis=2).repeat(side // 4, axis=3)
    return (np.rint(coarse * 255) / 255).astype(np.float32)


def shrunk(x: np.ndarray) -> np.ndarray:
    """Return patches of 48 px as those of 32 px, by area: 3 px become 2."""
    matrix = np.zeros((32, 48))
    for row in range(0, 32, 2):
        first = row // 2 * 3
        matrix[row, first : first + 2] = 2 / 3, 1 / 3
        matrix[row + 1, first + 1 : first + 3] = 1 / 3, 2 / 3
    return matrix @ x @ matrix.T


def scaled(x: np.ndarray) -> np.ndarray:
    return ((x - MEAN[:, None, None]) / STD[:, None, None]).astype(np.float32)


def answers(path: Path, x: np.ndarray) -> np.ndarray:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"image": x})[0]


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def probability(bundle: Path, x: np.ndarray, *, runtime: str = "auto") -> np.ndarray:
    model = load_model(bundle, device="cpu", precision="float32", runtime=runtime)
    return softmax(model.predict_logits(x))[:, 1]


@pytest.mark.parametrize(
    ("n_classes", "end", "opset"),
    [(1, "", 13), (1, "Sigmoid", 13), (2, "", 11), (2, "Softmax", 18), (4, "", 18), (4, "Softmax", 11)],
)
def test_a_bare_onnx_network_keeps_its_probabilities(tmp_path: Path, n_classes: int, end: str, opset: int) -> None:
    path = write_onnx(tmp_path / "made", onnx_model(n_classes, end, opset=opset), n_classes=n_classes)
    spec = import_model(path, tmp_path / "bundle", outputs="" if end or n_classes > 1 else "logits")
    outputs = answers(path, scaled(shrunk(patches())))
    expected = outputs if end else softmax(outputs) if n_classes > 1 else 1 / (1 + np.exp(-outputs))
    assert np.ptp(expected[:, 0]) > 0.05
    np.testing.assert_allclose(probability(tmp_path / "bundle", patches()), expected[:, 0], atol=1e-5)
    assert spec.class_names == (" or ".join(NAMES[1:n_classes]) or "non-tumour", "Tumor")
    assert (spec.mpp, spec.patch_px, spec.parameters["licence"]) == (0.5, 48, "CC-BY-4.0")
    assert "by: a lab. Its licence: CC-BY-4.0." in " ".join((tmp_path / "bundle" / "README.md").read_text().split())
    with pytest.raises(InputUnsupportedError, match="OpenVINO alone"):
        load_model(tmp_path / "bundle", device="cpu", runtime="torch")


def test_weights_beside_an_onnx_network_become_those_of_the_bundle(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "made")
    expected = answers(path, scaled(shrunk(patches())))
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="tiny.data", size_threshold=0)
    import_model(path, tmp_path / "bundle")
    (tmp_path / "made" / "tiny.data").unlink()
    np.testing.assert_allclose(probability(tmp_path / "bundle", patches()), softmax(expected)[:, 0], atol=1e-5)
    assert (tmp_path / "bundle" / "model.safetensors").stat().st_size > 8 * 3 * 25 * 4


def _external(folder: Path, location: str) -> Path:
    model = onnx_model()
    tensor = model.graph.initializer[0]
    onnx.external_data_helper.set_external_data(tensor, location=location)
    tensor.ClearField("raw_data")
    return write_onnx(folder, model)


def _hidden(folder: Path) -> Path:
    """Write a network with a constant in a branch of a condition that names another file."""
    model = onnx_model()
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), "hidden")
    onnx.external_data_helper.set_external_data(tensor, location="tiny.data")
    tensor.ClearField("raw_data")
    (folder / "tiny.data").write_bytes(bytes(16))
    branch = helper.make_graph(
        [helper.make_node("Constant", [], ["found"], value=tensor)],
        "branch",
        [],
        [helper.make_tensor_value_info("found", 1, [4])],
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    model.graph.node.insert(0, helper.make_node("If", ["yes"], ["both"], then_branch=branch, else_branch=branch))
    return write_onnx(folder, model)


@pytest.mark.parametrize(
    "files",
    [
        ["configs/metadata.json", "configs/inference.json", "models/model.ts"],
        ["rdf.yaml", "weights.onnx"],
        ["config.json", "model.safetensors"],
        ["pytorch_model.bin"],
        ["network.pt"],
    ],
)
def test_other_kinds_of_models_are_refused_by_naming_those_taken(tmp_path: Path, files: list[str]) -> None:
    """A MONAI bundle, a model of the BioImage Model Zoo, one of timm, a pickle and bare TorchScript."""
    for name in files:
        (tmp_path / "made" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "made" / name).write_text("{}")
    source = tmp_path / "made" / (files[0] if files == ["network.pt"] else "")
    with pytest.raises(InputUnsupportedError, match=r"folder of wsinfer .* file \.onnx"):
        import_model(source, tmp_path / "bundle", mpp=0.5)
    with pytest.raises(InputMissingError):
        import_model(tmp_path / "elsewhere", tmp_path / "bundle", mpp=0.5)


@pytest.mark.parametrize("location", ["../secret", "/etc/hostname", "link"])
def test_weights_outside_the_folder_are_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret").write_bytes(bytes(8 * 3 * 25 * 4))
    path = _external(tmp_path / "made", location)
    if location == "link":
        (tmp_path / "made" / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(CheckpointUnsafeError, match="outside its folder"):
        import_model(path, tmp_path / "bundle")


def test_a_hidden_constant_in_another_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointUnsafeError, match="lies in another file"):
        import_model(_hidden(tmp_path), tmp_path / "bundle")


@pytest.mark.slow
def test_the_command_imports_predicts_and_names_the_licence(
    tmp_path: Path, typed: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_onnx(tmp_path / "made", toml=TOML.replace("mpp = 0.5", ""))
    command = ("import", "model", path, "-o", tmp_path / "bundle")
    assert typed(*command) == 1
    assert "--mpp" in capsys.readouterr().err
    assert typed(*command, "--mpp", "0.5") == 0
    assert "licence: CC-BY-4.0" in capsys.readouterr().err
    image = np.random.default_rng(0).integers(60, 240, (3, 96, 96), dtype=np.uint8)
    write_rgb_pyramid(tmp_path / "slide.tif", image, levels=1)
    assert typed("predict", tmp_path / "slide.tif", "--model", tmp_path / "bundle", "-o", tmp_path / "out") == 0


def test_facts_that_nothing_states_are_named(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "made", toml=TOML.replace("licence", "# licence").replace("std", "# std"))
    with pytest.raises(InputMissingError, match="nothing states std, licence"):
        import_model(path, tmp_path / "bundle")


def test_networks_that_do_not_fit_their_description_are_refused(tmp_path: Path) -> None:
    for model, said in (
        (onnx_model(stated_px=64), r"takes patches of \(3, 64, 64\)"),
        (onnx_model(3), "has 3 values, 2 is due"),
        (onnx_model(end="Sigmoid"), "ends in a sigmoid"),
        (onnx_model(end="NoSuchOperator"), "not valid ONNX"),
    ):
        with pytest.raises(PathopatchError, match=said):
            import_model(write_onnx(tmp_path / "made", model), tmp_path / "bundle")
    for content in (b"no ONNX", pickle.dumps({"a": [1, 2]})):
        (tmp_path / "made" / "tiny.onnx").write_bytes(content)
        with pytest.raises(InputCorruptError, match="not valid ONNX"):
            import_model(tmp_path / "made" / "tiny.onnx", tmp_path / "bundle")


def test_onnx_weights_that_are_nan_are_refused(tmp_path: Path) -> None:
    model = onnx_model()
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.full((8, 3, 5, 5), np.nan, np.float32), "kernel"))
    with pytest.raises(NonFiniteError):
        import_model(write_onnx(tmp_path / "made", model), tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_another_network_in_the_way_is_noticed(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "made")
    import_model(path, tmp_path / "bundle")
    before = read_spec(tmp_path / "bundle")
    assert import_model(path, tmp_path / "bundle") == before
    model = onnx_model()
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.ones((8, 2), np.float32), "matrix"))
    with pytest.raises(PathopatchError, match="network_sha256"):
        import_model(write_onnx(tmp_path / "made", model), tmp_path / "bundle")


def test_a_folder_that_is_no_bundle_survives_force(tmp_path: Path) -> None:
    """As that of a run, which has a config.json of its own."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    with pytest.raises(InputUnsupportedError, match="no model bundle"):
        import_model(write_onnx(tmp_path / "made"), tmp_path / "run", force=True)
    assert (tmp_path / "run" / "config.json").read_text() == "{}"


def test_what_a_single_output_from_0_to_1_is_must_be_stated(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "made", onnx_model(1, "HardSigmoid"), n_classes=1)
    x = patches()
    value = answers(path, scaled(shrunk(x)))[:, 0]
    with pytest.raises(CheckpointIncompatibleError, match="may be a logit or a probability"):
        import_model(path, tmp_path / "bundle")
    for kind, expected in (("probabilities", value), ("logits", 1 / (1 + np.exp(-value)))):
        import_model(path, tmp_path / kind, outputs=kind)
        np.testing.assert_allclose(probability(tmp_path / kind, x), expected, atol=1e-5)
    with pytest.raises(CheckpointIncompatibleError, match="stated to be probabilities"):
        import_model(write_onnx(tmp_path / "made"), tmp_path / "bundle", outputs="probabilities")

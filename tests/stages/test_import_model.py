"""Bare ONNX networks become bundles of the same probabilities; other kinds of models are refused."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from made_model import edit_spec, write_model
from made_slides import write_rgb_pyramid
from onnx import helper, numpy_helper
from payload import Touch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

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
from pathopatch.models.card import beware
from pathopatch.models.export import export_model
from pathopatch.models.loading import load_model
from pathopatch.stages import import_model as stage

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


import_model = partial(stage.import_model, untested=True)


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
def test_the_command_imports_predicts_and_names_the_licence(tmp_path: Path, said: Callable) -> None:
    path = write_onnx(tmp_path / "made", toml=TOML.replace("mpp = 0.5", ""))
    command = ("import", "model", path, "-o", tmp_path / "bundle", "--untested")
    assert "as mpp in the TOML file" in said(*command, code=1).err
    write_onnx(tmp_path / "made")
    err = said(*command).err
    assert "licence: CC-BY-4.0" in err
    assert "counted as tumour: Tumor; as the rest: stroma" in err
    image = np.random.default_rng(0).integers(60, 240, (3, 96, 96), dtype=np.uint8)
    write_rgb_pyramid(tmp_path / "slide.tif", image, levels=1)
    said("predict", tmp_path / "slide.tif", "--model", tmp_path / "bundle", "-o", tmp_path / "out")


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


def test_weights_and_answers_that_are_nan_are_refused(tmp_path: Path) -> None:
    model = onnx_model()
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.full((8, 3, 5, 5), np.nan, np.float32), "kernel"))
    for each in (model, onnx_model(end="Log")):
        with pytest.raises(NonFiniteError):
            import_model(write_onnx(tmp_path / "made", each), tmp_path / "bundle")
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
    assert import_model(path, tmp_path / "bundle", force=True) == read_spec(tmp_path / "bundle") != before


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


@pytest.mark.fault("no-function")
@pytest.mark.parametrize("px", [32, 224, 256, 512])
def test_statistics_of_the_batch_are_refused_at_every_size(tmp_path: Path, px: int) -> None:
    """Two patches make a pass at 224 and 256 px, one at 512, and many at 32."""
    model = onnx_model(stated_px=px)
    del model.graph.node[-1]
    model.graph.node.append(helper.make_node("ReduceMean", ["values"], ["mean"], axes=[0]))
    model.graph.node.append(helper.make_node("Sub", ["values", "mean"], ["answer"]))
    toml = TOML.replace("_px = 32", f"_px = {px}")
    with pytest.raises(CheckpointIncompatibleError, match="depend on the other patches of the batch"):
        import_model(write_onnx(tmp_path / "made", model, toml=toml), tmp_path / "bundle")


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("[0.7, 0.5, 0.6]", "[123.675, 116.28, 103.53]", r"mean .* 123\.675 / 255 = 0\.485, 116\.28 / 255 = 0\.456"),
        ("[0.1, 0.2, 0.15]", "[58.395, 57.12, 57.375]", r"std .* 58\.395 / 255 = 0\.229"),
        ("[0.7, 0.5, 0.6]", "[31785, 29884, 26607]", r"31785 / 65535 = 0\.485"),
        ('["R", "G", "B"]', '["R", "R", "B"]', "channels are R, R, B: each may stand once"),
        ('["R", "G", "B"]', '["R", "g", "G"]', "channels are R, g, G: each may stand once"),
    ],
)
def test_moments_of_0_to_255_and_doubled_channels_are_refused(
    tmp_path: Path, before: str, after: str, said: str
) -> None:
    with pytest.raises(InputUnsupportedError, match=said):
        import_model(write_onnx(tmp_path / "made", toml=TOML.replace(before, after)), tmp_path / "bundle")


NOT_TUMOUR = [
    "non-tumour", "Normal", "benign", "no_tumor", "nontumoral", "tumor-free", "notumor", "healthy tissue", "Other",
    "mucosa",
]  # fmt: skip


@pytest.mark.parametrize("name", NOT_TUMOUR)
def test_a_single_class_that_is_not_tumour_is_asked_about(tmp_path: Path, name: str) -> None:
    path = write_onnx(tmp_path / "made", onnx_model(1), n_classes=1)
    path.with_suffix(".toml").write_text(f'{TOML}classes = ["{name}"]\noutputs = "logits"\n')
    with pytest.raises(CheckpointIncompatibleError, match="which does not say tumour"):
        import_model(path, tmp_path / "bundle")
    assert import_model(path, tmp_path / "bundle", tumor_classes=[name]).class_names[1] == name


def write_answers(folder: Path, answer: str, n: int = 5) -> Path:
    """Write the answers of the network in a folder to n patches: its outputs, or probabilities."""
    x = patches()[:n]
    outputs = answers(folder / "tiny.onnx", scaled(shrunk(x))) if n else np.empty((0, 2))
    due, pixels = softmax(outputs)[:, 0] if n else np.empty(0), np.rint(x * 255).astype(np.uint8)
    expected = {"outputs": outputs, "named outputs": outputs[:, ::-1]}.get(answer, due)
    named = {"class_names": NAMES[1::-1]} if answer == "named outputs" else {}
    np.savez(folder / "test.npz", patches=pixels, expected=expected, **named)
    return folder / "test.npz"


@pytest.mark.parametrize("answer", ["outputs", "named outputs", "probabilities"])
def test_known_answers_tell_right_from_wrong_descriptions(tmp_path: Path, answer: str) -> None:
    path = write_onnx(tmp_path / "made")
    test = write_answers(tmp_path / "made", answer)
    spec = stage.import_model(path, tmp_path / "bundle", test=test)
    assert spec.parameters["test_patches"] == 5
    assert "Untested" not in (tmp_path / "bundle" / "README.md").read_text()
    for before, after in (("[0.7, 0.5, 0.6]", "[0.0, 0.0, 0.0]"), ("[0.1, 0.2, 0.15]", "[1.0, 1.0, 1.0]")):
        write_onnx(tmp_path / "made", toml=TOML.replace(before, after))
        with pytest.raises(CheckpointIncompatibleError, match="differ from those due"):
            stage.import_model(path, tmp_path / "wrong", test=test)
    (tmp_path / "made" / "tiny.toml").write_text(f'{TOML}classes = ["stroma", "Tumor"]\n')
    if answer == "outputs":  # without names
        swapped = stage.import_model(path, tmp_path / "swapped", test=test)
        assert beware(swapped)[0].startswith("Class order untested: ")
        assert "**Class order untested: " in (tmp_path / "swapped" / "README.md").read_text()
    else:
        assert not beware(spec)
        with pytest.raises(CheckpointIncompatibleError, match="differ from those due"):
            stage.import_model(path, tmp_path / "wrong", test=test)
    assert not (tmp_path / "wrong").exists()


def test_an_import_without_known_answers_must_be_called_unwrite_answers(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "made")
    with pytest.raises(InputMissingError, match="--untested"):
        stage.import_model(path, tmp_path / "bundle")
    spec = import_model(path, tmp_path / "bundle")
    assert "**Untested: " in (tmp_path / "bundle" / "README.md").read_text()
    assert any(text.startswith("Untested: ") for text in beware(spec))


def _spoilt(folder: Path, **arrays: object) -> Path:
    with np.load(write_answers(folder, "outputs")) as stored:
        np.savez(folder / "test.npz", **(dict(stored) | arrays))
    return folder / "test.npz"


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda f: write_answers(f, "outputs", n=0), InputUnsupportedError, "0 test patches, 3 at least"),
        (lambda f: write_answers(f, "outputs", n=2), InputUnsupportedError, "2 test patches, 3 at least"),
        (lambda f: _spoilt(f, expected=np.zeros((5, 2))), InputUnsupportedError, "nearly one answer"),
        (lambda f: _spoilt(f, expected=np.full((5, 2), np.nan)), InputUnsupportedError, "no finite numbers"),
        (lambda f: _spoilt(f, expected=np.full(5, 1.5)), InputUnsupportedError, "no probabilities"),
        (lambda f: _spoilt(f, expected=np.zeros((5, 3))), InputUnsupportedError, "answers of shape"),
        (lambda f: _spoilt(f, class_names=["Tumor", "fat"]), InputUnsupportedError, "answers of Tumor, fat, and"),
        (lambda f: _spoilt(f, patches=np.zeros((5, 3, 32, 32))), InputUnsupportedError, "patches of shape"),
        (lambda f: _spoilt(f, patches=np.full((5, 3, 48, 48), 9.0)), InputUnsupportedError, "floats from 0 to 1"),
        (lambda f: _spoilt(f, patches=np.array([Touch(f / "ran")])), InputCorruptError, "no readable arrays"),
        (lambda f: f / "tiny.toml", InputCorruptError, "no readable arrays"),
    ],
)  # fmt: skip
def test_known_answers_that_cannot_be_used_are_refused(
    tmp_path: Path, make: Callable[[Path], Path], error: type[PathopatchError], said: str
) -> None:
    path = write_onnx(tmp_path / "made")
    with pytest.raises(error, match=said):
        stage.import_model(path, tmp_path / "bundle", test=make(tmp_path / "made"))
    assert not (tmp_path / "bundle").exists()
    assert not (tmp_path / "made" / "ran").exists()


@pytest.mark.slow
def test_an_export_is_imported_by_its_own_patches_and_predicts_alike(tmp_path: Path) -> None:
    bundle, out = write_model(tmp_path / "model"), tmp_path / "out"
    export_model(bundle, out, kind="wsinfer")
    spec = stage.import_model(out, tmp_path / "again", test=out / "patches.npz")
    assert spec.parameters["test_patches"] == 16
    x = np.random.default_rng(0).random((20, 3, 16, 16), np.float32)
    assert np.ptp(probability(bundle, x)) > 0.01
    np.testing.assert_allclose(probability(tmp_path / "again", x), probability(bundle, x), atol=1e-5)
    with np.load(out / "patches.npz") as stored:
        np.savez(out / "patches.npz", patches=stored["patches"], expected=stored["expected"][::-1])
    with pytest.raises(CheckpointIncompatibleError, match="differ from those due"):
        stage.import_model(out, tmp_path / "again", test=out / "patches.npz", force=True)


@pytest.mark.parametrize("spoil", ["config.json", "weights", "header", "version", "nan"])
def test_no_remedy_for_an_imported_bundle_says_train(tmp_path: Path, spoil: str) -> None:
    import_model(write_onnx(tmp_path / "made"), tmp_path / "bundle")
    weights, tensors = tmp_path / "bundle" / "model.safetensors", {}
    if spoil == "weights":
        weights.write_bytes(weights.read_bytes()[:20])
    elif spoil in ("header", "nan"):
        tensors = {name: np.full_like(value, np.nan) for name, value in load_file(weights).items()}
        with safe_open(weights, framework="numpy") as stream:
            save_file(tensors, weights, stream.metadata() if spoil == "nan" else None)
    else:
        edit_spec(tmp_path / "bundle", **({"schema_version": 9} if spoil == "version" else {"mean": [0.5] * 3}))
    with pytest.raises(PathopatchError) as caught:
        load_model(tmp_path / "bundle", device="cpu")
    assert "train" not in caught.value.remedy

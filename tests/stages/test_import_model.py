"""Models of MONAI, the BioImage Model Zoo and timm, and bare networks, become bundles of the same probabilities."""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
import yaml
from made_slides import write_rgb_pyramid
from onnx import helper, numpy_helper
from safetensors.torch import save_file
from torch import nn

from pathopatch.core.errors import (
    CheckpointIncompatibleError,
    CheckpointUnsafeError,
    InputCorruptError,
    InputMissingError,
    InputUnsupportedError,
    MppMissingError,
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


class Tiny(nn.Module):
    """A network of one convolution, whose answers have the shape of a picture of one pixel."""

    def __init__(self, n_classes: int = 2) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv = nn.Conv2d(3, 8, 5, stride=4)
        self.last = nn.Conv2d(8, n_classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.conv(x).relu().mean(dim=(2, 3), keepdim=True)) * 4


def write_program(path: Path, n_classes: int = 2) -> nn.Module:
    network = Tiny(n_classes).eval()
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(network), path)
    return network


def of_torch(network: nn.Module, x: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return network(torch.from_numpy(x)).flatten(1).numpy()


def test_a_bare_torchscript_network_keeps_its_probabilities(tmp_path: Path) -> None:
    network = write_program(tmp_path / "tiny.pt")
    (tmp_path / "about.toml").write_text(f'{TOML}classes = ["Tumor", "rest"]\n')
    import_model(tmp_path / "tiny.pt", tmp_path / "bundle", description=tmp_path / "about.toml")
    expected = softmax(of_torch(network, scaled(shrunk(patches()))))[:, 0]
    for runtime in ("openvino", "torch"):
        np.testing.assert_allclose(probability(tmp_path / "bundle", patches(), runtime=runtime), expected, atol=1e-5)


def write_monai(folder: Path, *steps: dict[str, object], n_classes: int = 1) -> nn.Module:
    """Write a MONAI bundle as `pathology_tumor_detection` is one."""
    network = write_program(folder / "models" / "model.ts", n_classes)
    image = {"num_channels": 3, "spatial_shape": [PX, PX], "channel_def": {"0": "R", "1": "G", "2": "B"}}
    names = {str(number): name for number, name in enumerate(["metastasis", "b", "c"][:n_classes])}
    answer = {"num_channels": n_classes, "spatial_shape": [1, 1], "channel_def": names}
    form = {"inputs": {"image": image | {"value_range": [0, 255]}}, "outputs": {"pred": answer}}
    after = [{"_target_": "Activationsd", "sigmoid": True}] if n_classes == 1 else []
    configs = {
        "metadata": {"name": "tiny", "authors": "MONAI team", "network_data_format": form},
        "inference": {
            "preprocessing": {"_target_": "Compose", "transforms": steps},
            "postprocessing": {"transforms": after},
        },
    }
    (folder / "configs").mkdir()
    for name, content in configs.items():
        (folder / "configs" / f"{name}.json").write_text(json.dumps(content))
    (folder / "LICENSE").write_text("\nApache License\n")
    return network


def test_a_monai_bundle_is_scaled_as_its_own_inference_scales(tmp_path: Path) -> None:
    steps = [
        {"_target_": "LoadImaged", "keys": "image", "reader": "WSIReader"},
        {"_target_": "ScaleIntensityRanged", "a_min": 0.0, "a_max": 255.0, "b_min": -1.0, "b_max": 1.0, "clip": True},
        {"_target_": "ScaleIntensityd", "_disabled_": True},
        {"_target_": "ScaleIntensityd", "keys": ["label"]},
        {"_target_": "monai.transforms.NormalizeIntensityd", "subtrahend": [0.1, 0, 0], "divisor": 2},
    ]
    network = write_monai(tmp_path / "monai", *steps)
    spec = import_model(tmp_path / "monai", tmp_path / "bundle", mpp=0.25, tumor_classes=["metastasis"])
    x = patches(PX)
    expected = 1 / (1 + np.exp(-of_torch(network, ((2 * x - 1 - [[[0.1]], [[0]], [[0]]]) / 2).astype(np.float32))))
    for runtime in ("openvino", "torch"):
        np.testing.assert_allclose(probability(tmp_path / "bundle", x, runtime=runtime), expected[:, 0], atol=1e-5)
    assert spec.class_names == ("non-tumour", "metastasis")
    assert (spec.parameters["made_by"], spec.parameters["licence"]) == ("MONAI team", "Apache License")


BIOIMAGE = {
    "format_version": "0.5.4",
    "type": "model",
    "name": "tiny",
    "license": "MIT",
    "authors": [{"name": "Ada"}, {"name": "Bo"}],
    "inputs": [
        {
            "axes": [
                {"type": "batch"},
                {"type": "channel", "channel_names": ["red", "green", "blue"]},
                {"type": "space", "id": "y", "size": PX, "unit": "micrometer", "scale": 0.5},
                {"type": "space", "id": "x", "size": PX, "unit": "micrometer", "scale": 0.5},
            ],
            "data": {"type": "uint8"},
            "test_tensor": {"source": "in.npy"},
            "preprocessing": [
                {"id": "ensure_dtype", "kwargs": {"dtype": "float32"}},
                {"id": "scale_linear", "kwargs": {"gain": 1 / 255}},
                {
                    "id": "fixed_zero_mean_unit_variance",
                    "kwargs": {"mean": MEAN.tolist(), "std": STD.tolist(), "axis": "channel"},
                },
            ],
        }
    ],
    "outputs": [
        {
            "axes": [{"type": "batch"}, {"type": "channel", "channel_names": ["Tumor", "stroma"]}],
            "test_tensor": {"source": "out.npy"},
            "postprocessing": [{"id": "softmax", "kwargs": {"axis": "channel"}}],
        }
    ],
    "weights": {"onnx": {"source": "weights.onnx", "opset_version": 13}},
}


def write_bioimage(folder: Path, **changes: object) -> Path:
    """Write a folder of the zoo; `changes` are of the description, or of its input."""
    folder.mkdir()
    onnx.save(onnx_model(), folder / "weights.onnx")
    x = np.rint(patches(PX)[:1] * 255)
    np.save(folder / "in.npy", x.astype(np.uint8))
    np.save(folder / "out.npy", softmax(answers(folder / "weights.onnx", scaled(x / 255))).astype(np.float32))
    image = BIOIMAGE["inputs"][0]
    image = image | {name: value for name, value in changes.items() if name in image}
    described = BIOIMAGE | {"inputs": [image]} | {name: value for name, value in changes.items() if name in BIOIMAGE}
    (folder / "rdf.yaml").write_text(yaml.safe_dump(described))
    return folder


def test_a_model_of_the_bioimage_zoo_keeps_its_probabilities(tmp_path: Path) -> None:
    folder = write_bioimage(tmp_path / "zoo")
    spec = import_model(folder, tmp_path / "bundle")
    expected = softmax(answers(folder / "weights.onnx", scaled(patches(PX))))[:, 0]
    np.testing.assert_allclose(probability(tmp_path / "bundle", patches(PX)), expected, atol=1e-5)
    assert (spec.mpp, spec.parameters["made_by"], spec.parameters["licence"]) == (0.5, "Ada, Bo", "MIT")


def test_test_tensors_that_differ_are_refused(tmp_path: Path) -> None:
    folder = write_bioimage(tmp_path / "zoo")
    np.save(folder / "out.npy", np.load(folder / "out.npy") + np.float32(0.002))
    with pytest.raises(CheckpointIncompatibleError, match=r"differ from those stated by 0\.002, 0\.001 at most"):
        import_model(folder, tmp_path / "bundle")
    described = yaml.safe_load((folder / "rdf.yaml").read_text())
    described["config"] = {"bioimageio": {"reproducibility_tolerance": [{"absolute_tolerance": 0.01}]}}
    (folder / "rdf.yaml").write_text(yaml.safe_dump(described))
    import_model(folder, tmp_path / "bundle")
    np.save(folder / "out.npy", np.array([_Evil()]), allow_pickle=True)
    with pytest.raises(InputCorruptError, match="not a readable array"):
        import_model(folder, tmp_path / "other")


def write_timm(folder: Path, n_classes: int = 2, **changes: object) -> nn.Module:
    """Write a folder as timm stores its networks for Hugging Face."""
    torch.manual_seed(0)
    network = timm.create_model("resnet10t", num_classes=n_classes).eval()
    with torch.no_grad():
        network.fc.weight.normal_()
    folder.mkdir()
    save_file(network.state_dict(), folder / "model.safetensors")
    form = {"mean": MEAN.tolist(), "std": STD.tolist(), "input_size": [3, PX, PX], "license": "apache-2.0"}
    arguments = {"num_classes": n_classes, "in_chans": 3, "global_pool": "avg"}
    described = {"architecture": "resnet10t", "pretrained_cfg": form, "model_args": arguments}
    (folder / "config.json").write_text(json.dumps(described | {"label_names": NAMES[:n_classes]} | changes))
    return network


@pytest.mark.parametrize(("n_classes", "chosen"), [(2, "Tumor"), (2, "stroma"), (3, "Tumor")])
def test_a_network_of_timm_keeps_its_probabilities(tmp_path: Path, n_classes: int, chosen: str) -> None:
    network = write_timm(tmp_path / "hub", n_classes)
    spec = import_model(tmp_path / "hub", tmp_path / "bundle", mpp=0.5, tumor_classes=[chosen])
    expected = softmax(of_torch(network, scaled(patches(PX))))[:, NAMES.index(chosen)]
    assert np.ptp(expected) > 0.01
    for runtime in ("openvino", "torch") if n_classes == 2 else ("openvino",):
        np.testing.assert_allclose(probability(tmp_path / "bundle", patches(PX), runtime=runtime), expected, atol=1e-5)
    assert (spec.architecture, spec.parameters["licence"]) == ("resnet10t" if n_classes == 2 else "onnx", "apache-2.0")


class _Evil:
    def __reduce__(self):
        return (print, ("this ran",))


def _pickle_in(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(_Evil()))


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


@pytest.mark.parametrize("name", ["pytorch_model.bin", "models/model.pt", "tiny.pt"])
def test_pickles_are_refused_unread(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    _pickle_in(tmp_path / "made" / name)
    source = tmp_path / "made"
    if name == "tiny.pt":
        source /= name
        source.with_suffix(".toml").write_text(f'{TOML}classes = ["Tumor", "rest"]\n')
    with pytest.raises(CheckpointUnsafeError, match="a pickle"):
        import_model(source, tmp_path / "bundle", mpp=0.5)
    assert "this ran" not in capsys.readouterr().out


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


def test_files_outside_a_folder_are_refused(tmp_path: Path) -> None:
    folder = write_bioimage(tmp_path / "zoo")
    (folder / "weights.onnx").replace(tmp_path / "weights.onnx")
    (folder / "weights.onnx").symlink_to(tmp_path / "weights.onnx")
    with pytest.raises(InputUnsupportedError, match="a symbolic link that leads outside"):
        import_model(folder, tmp_path / "bundle")
    (folder / "weights.onnx").unlink()
    for source in ("../weights.onnx", str(tmp_path / "weights.onnx")):
        (folder / "rdf.yaml").write_text(yaml.safe_dump(BIOIMAGE | {"weights": {"onnx": {"source": source}}}))
        with pytest.raises(CheckpointUnsafeError, match="outside its folder"):
            import_model(folder, tmp_path / "bundle")


_AXES = BIOIMAGE["inputs"][0]["axes"]


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"preprocessing": [{"id": "scale_range"}]}, InputUnsupportedError, "scale_range"),
        ({"preprocessing": [{"id": "zero_mean_unit_variance"}]}, InputUnsupportedError, "zero_mean_unit_variance"),
        ({"preprocessing": [{"id": "scale_linear", "kwargs": {"gain": -1}}]}, InputUnsupportedError, "gains [-255.0"),
        ({"data": {"type": "float32"}}, InputUnsupportedError, "from 0 to 1 or from 0 to 255"),
        ({"axes": [_AXES[0], *_AXES[2:], _AXES[1]]}, InputUnsupportedError, "the axes batch, y, x, channel"),
        ({"format_version": "0.4.10"}, InputUnsupportedError, "format_version"),
        ({"weights": {}}, InputUnsupportedError, "onnx"),
        ({"weights": {"onnx": {"source": "weights.onnx", "sha256": "0"}}}, InputCorruptError, "not the file"),
        ({"axes": [*_AXES[:2], *({**axis, "unit": None} for axis in _AXES[2:])]}, MppMissingError, "--mpp"),
    ],
)  # fmt: skip
def test_what_the_bioimage_zoo_says_and_a_bundle_cannot_hold_is_refused(
    tmp_path: Path, changes: dict[str, object], error: type[PathopatchError], said: str
) -> None:
    with pytest.raises(error) as caught:
        import_model(write_bioimage(tmp_path / "zoo", **changes), tmp_path / "bundle")
    assert said in str(caught.value)
    assert not (tmp_path / "bundle").exists()


def test_a_monai_bundle_scaled_by_the_patch_itself_is_refused(tmp_path: Path) -> None:
    write_monai(tmp_path / "monai", {"_target_": "ScaleIntensityd", "minv": 0, "maxv": 1})
    with pytest.raises(InputUnsupportedError, match="preprocessing by ScaleIntensity"):
        import_model(tmp_path / "monai", tmp_path / "bundle", mpp=0.5)
    for content in ("{}", '{"preprocessing": "@p"}', '{"preprocessing": {"transforms": ["@p"]}}'):
        (tmp_path / "monai" / "configs" / "inference.json").write_text(content)
        with pytest.raises(InputUnsupportedError, match="preprocessing by (None|@p)"):
            import_model(tmp_path / "monai", tmp_path / "bundle", mpp=0.5)


_RANGE = {"_target_": "ScaleIntensityRanged", "a_min": 0, "a_max": 255, "b_min": 0, "b_max": 1}


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([{"_target_": "NormalizeIntensityd", "subtrahend": 128, "divisor": 64}, _RANGE | {"clip": True}], "with clip"),
        ([{"_target_": "LoadImaged", "keys": "image"}, _RANGE], "columns become rows"),
        ([_RANGE, {"_target_": "NormalizeIntensityd"}], "NormalizeIntensity"),
        ([_RANGE | {"_disabled_": "$x"}], "may be switched off"),
        ([{"_target_": "Rotated", "keys": "@key"}, _RANGE], "Rotate"),
    ],
)
def test_steps_of_monai_that_are_no_fixed_scaling_are_refused(
    tmp_path: Path, steps: list[dict[str, object]], said: str
) -> None:
    write_monai(tmp_path / "monai", *steps)
    with pytest.raises(InputUnsupportedError, match=said):
        import_model(tmp_path / "monai", tmp_path / "bundle", mpp=0.5)


@pytest.mark.slow
def test_the_command_imports_predicts_and_names_the_licence(
    tmp_path: Path, typed: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    write_timm(tmp_path / "hub")
    command = ("import", "model", tmp_path / "hub", "-o", tmp_path / "bundle")
    assert typed(*command) == 1
    assert "--mpp" in capsys.readouterr().err
    assert typed(*command, "--mpp", "0.5") == 0
    assert "licence: apache-2.0" in capsys.readouterr().err
    image = np.random.default_rng(0).integers(60, 240, (3, 96, 96), dtype=np.uint8)
    write_rgb_pyramid(tmp_path / "slide.tif", image, levels=1)
    assert typed("predict", tmp_path / "slide.tif", "--model", tmp_path / "bundle", "-o", tmp_path / "out") == 0


def test_a_scale_that_nothing_states_is_asked_for_by_its_option(tmp_path: Path) -> None:
    write_timm(tmp_path / "hub")
    with pytest.raises(MppMissingError, match="--mpp"):
        import_model(tmp_path / "hub", tmp_path / "bundle")


def test_facts_that_nothing_states_are_named(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "made", toml=TOML.replace("licence", "# licence").replace("std", "# std"))
    with pytest.raises(InputMissingError, match="nothing states std, licence"):
        import_model(path, tmp_path / "bundle")


def test_two_descriptions_must_agree(tmp_path: Path) -> None:
    write_timm(tmp_path / "hub")
    (tmp_path / "about.toml").write_text("mpp = 0.5\nmean = [0.5, 0.5, 0.5]\n")
    with pytest.raises(CheckpointIncompatibleError, match="mean is .* in its files, and .* is stated"):
        import_model(tmp_path / "hub", tmp_path / "bundle", description=tmp_path / "about.toml")


def test_networks_that_do_not_fit_their_description_are_refused(tmp_path: Path) -> None:
    write_timm(tmp_path / "hub", label_names=NAMES[:3])
    with pytest.raises(CheckpointIncompatibleError, match=r"fc\.weight"):
        import_model(tmp_path / "hub", tmp_path / "bundle", mpp=0.5)
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


def test_what_the_files_leave_open_may_be_stated(tmp_path: Path) -> None:
    """And numbers agree but for their rounding."""
    write_timm(tmp_path / "timm", label_names={"0": "normal"})
    (tmp_path / "more.toml").write_text(f'classes = ["normal", "tumor"]\nmean = {(MEAN * (1 + 1e-9)).tolist()}\n')
    spec = import_model(tmp_path / "timm", tmp_path / "bundle", description=tmp_path / "more.toml", mpp=0.5)
    assert spec.class_names == ("normal", "tumor")


def test_a_monai_network_with_a_sigmoid_a_class_is_refused(tmp_path: Path) -> None:
    write_monai(tmp_path / "monai", n_classes=2)
    path = tmp_path / "monai" / "configs" / "inference.json"
    after = {"postprocessing": {"transforms": [{"_target_": "Activationsd", "sigmoid": True}]}}
    path.write_text(json.dumps(json.loads(path.read_text()) | after))
    with pytest.raises(CheckpointIncompatibleError, match="has a sigmoid"):
        import_model(tmp_path / "monai", tmp_path / "bundle", mpp=0.25, tumor_classes=["metastasis"])


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

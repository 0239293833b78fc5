"""Exported models: our probabilities in other people's programs, equal bytes, verification, refusals with reasons."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from made_model import edit_spec, made_spec, stated
from PIL import Image
from torch.nn.functional import softmax
from torchvision import transforms

from pathopatch.core.errors import CheckpointIncompatibleError, InputUnsupportedError, StaleArtefactError
from pathopatch.models import export, verify
from pathopatch.models.bundle import read_spec, save_bundle
from pathopatch.models.card import model_card
from pathopatch.models.export import Format, export_model
from pathopatch.models.forward import sample_patches
from pathopatch.models.loading import load_model
from pathopatch.models.networks import build_network, classifier_of
from pathopatch.models.spec import BundleSpec, class_names
from pathopatch.models.verify import verify_export
from pathopatch.patches.tissue_model import TissueModel

FORMATS = get_args(Format)
MASKED = {"mask": "normalise", "patch_px": 40, "input_px": 24}
MULTIMODAL = {"channels": ("CARS", "TPEF"), "dtype": "uint16", "mean": (0.2, 0.4), "std": (0.3, 0.2)}


def _spec(**changes) -> BundleSpec:
    values = {
        "mean": (0.7, 0.4, 0.6), "std": (0.2, 0.25, 0.125), "method": "gerne", "temperature": 1.7,
        "decision_threshold": 0.85, "decision_chosen_for": "wga", "stride_px": 32, "input_px": 32, "patch_px": 32,
    }  # fmt: skip
    return made_spec(**(values | changes))


def _bundle(folder: Path, spec: BundleSpec) -> Path:
    torch.manual_seed(3)
    network = build_network(spec.architecture, len(spec.channels), **spec.form)
    for parameter in list(network.parameters())[-2:]:
        parameter.data *= 5  # so that probabilities are far from one half
    save_bundle(folder, network, spec)
    return folder


def _patches(spec: BundleSpec, n: int) -> np.ndarray:
    patches = np.random.default_rng(0).random((n, len(spec.channels), spec.patch_px, spec.patch_px), dtype=np.float32)
    return patches * np.linspace(0.1, 1, n, dtype=np.float32)[:, None, None, None]


def _ours(bundle: Path, patches: np.ndarray, tissue: np.ndarray | None = None) -> np.ndarray:
    """Softmax of our own float32 logits over the temperature."""
    model = load_model(bundle, device="cpu", precision="float32")
    z = np.exp(model.predict_logits(patches, tissue) / model.spec.temperature)
    return z / z.sum(axis=1, keepdims=True)


def _loaded(path: Path) -> torch.nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.load(path)


def _run(folder: Path, patches: np.ndarray, **further: np.ndarray) -> np.ndarray:
    """Return the output that another program gets from an exported network."""
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    return session.run(["probabilities"], {"patches": patches, **further})[0]


def _about(folder: Path) -> dict[str, Any]:
    """Return ``export.json`` as the network holds it: without hashes, of which one is the network's."""
    return json.loads((folder / "export.json").read_text())


def _reference(path: Path) -> dict[str, Any]:
    """Return the functions of a file of Python."""
    names: dict[str, Any] = {}
    exec(compile(path.read_text(), path, "exec"), names)
    return names


def _through_wsinfer(folder: Path, images: np.ndarray) -> np.ndarray:
    """Return wsinfer's output of uint8 images (N, H, W, 3): its transforms by name, the network, its softmax."""
    transform_types = {"Resize": transforms.Resize, "ToTensor": transforms.ToTensor, "Normalize": transforms.Normalize}
    config = json.loads((folder / "config.json").read_text())
    steps = [transform_types[step["name"]](**step.get("arguments", {})) for step in config["transform"]]
    batch = torch.stack([transforms.Compose(steps)(Image.fromarray(image)) for image in images])
    with torch.inference_mode():
        return torch.softmax(_loaded(folder / "torchscript_model.pt")(batch), dim=1).numpy()


@pytest.fixture(scope="module")
def wsinfer_zoo(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))  # importing it makes a folder there
        import wsinfer_zoo.client

        return wsinfer_zoo.client


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        MULTIMODAL,
        {"patch_px": 64},
        {"patch_px": 40, "input_px": 24},
        {"architecture": "mlp-100", "input_px": 16, "class_names": class_names(4), "decision_threshold": 0.0},
    ],
    ids=["two channels of uint16", "half the size", "an odd factor", "four classes"],
)
def test_onnx_gives_our_probabilities(tmp_path, changes):
    spec = _spec(**changes)
    bundle = _bundle(tmp_path / "model", spec)
    export_model(bundle, tmp_path / "out", kind="onnx")
    patches = _patches(spec, 5)
    expected = _ours(bundle, patches)
    assert np.ptp(expected[:, 1]) > 0.05
    np.testing.assert_allclose(_run(tmp_path / "out", patches), expected, atol=1e-5)
    np.testing.assert_allclose(_run(tmp_path / "out", patches[:1]), expected[:1], atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [{}, {"patch_px": 64}, {"patch_px": 40}, {"architecture": "resnet10t"}, {"architecture": "vit_tiny_patch16_224"}],
)
def test_wsinfer_gets_our_probabilities_at_the_models_scale(tmp_path, changes):
    spec = _spec(**changes)
    bundle = _bundle(tmp_path / "model", spec)
    export_model(bundle, tmp_path / "out", kind="wsinfer")
    images = (_patches(spec, 5) * 255).astype(np.uint8).transpose(0, 2, 3, 1)
    expected = _ours(bundle, images.transpose(0, 3, 1, 2).astype(np.float32) / 255)
    np.testing.assert_allclose(_through_wsinfer(tmp_path / "out", images), expected, atol=1e-5)


def test_at_twice_the_resolution_wsinfers_probabilities_are_near_ours(tmp_path):
    spec = _spec()
    bundle = _bundle(tmp_path / "model", spec)
    export_model(bundle, tmp_path / "out", kind="wsinfer")
    fine = np.random.default_rng(0).integers(60, 200, (5, 64, 64, 3), dtype=np.uint8)
    halved = np.rint(fine.reshape(5, 32, 2, 32, 2, 3).mean(axis=(2, 4)))  # our area mean
    expected = _ours(bundle, halved.transpose(0, 3, 1, 2).astype(np.float32) / 255)
    probability = _through_wsinfer(tmp_path / "out", fine)
    np.testing.assert_allclose(probability, expected, atol=0.05)
    assert np.abs(probability - expected).max() > 1e-5


def test_wsinfers_own_check_accepts_the_description(tmp_path, wsinfer_zoo):
    export_model(_bundle(tmp_path / "model", _spec(patch_px=64)), tmp_path / "out", kind="wsinfer")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert wsinfer_zoo.validate_config_json(config)
    read = wsinfer_zoo.ModelConfiguration.from_dict(config)
    assert (read.patch_size_pixels, read.spacing_um_px, list(read.class_names)) == (64, 0.5, ["non-tumour", "tumour"])
    assert read.get_slide_patch_size(0.25) == 128
    (resize,) = [step for step in read.transform if step.name == "Resize"]
    assert isinstance(resize.arguments["size"], int)  # QuPath reads one number


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (MULTIMODAL, r"the model takes CARS, TPEF of uint16; .*intensity rule is percentiles 1 to 99\.5 of tissue"),
        ({"channels": ("B", "G", "R")}, "R, G, B of uint8 only, and the model takes B, G, R of uint8"),
        ({"intensity": {"windows": {"G": (0, 200)}}}, r"divides by 255, and the model's .* 0 to 255, but G 0 to 200"),
        ({"mpp": None}, "patches of unknown scale"),
        ({"align": True}, "does not move channels"),
        (MASKED, r"needs the tissue mask .* export it as onnx"),
        ({"class_names": ("it", "it")}, "needs distinct class names, and the model's are it, it"),
    ],
)
def test_models_that_wsinfer_cannot_hold_are_refused_with_the_reason(tmp_path, changes, reason):
    bundle = _bundle(tmp_path / "model", _spec(**changes))
    with pytest.raises(InputUnsupportedError, match=reason):
        export_model(bundle, tmp_path / "out", kind="wsinfer")
    assert not (tmp_path / "out").exists()


def test_windows_of_other_channels_do_not_matter_to_wsinfer(tmp_path):
    spec = _spec(intensity={"windows": {"CARS": (0, 9), "R": (0, 255)}})
    assert export_model(_bundle(tmp_path / "model", spec), tmp_path / "out", kind="wsinfer")


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_export_json_gives_the_threshold_as_probability_and_the_model(tmp_path, kind):
    bundle = _bundle(tmp_path / "model", _spec())
    export_model(bundle, tmp_path / "out", kind=kind)
    facts = json.loads((tmp_path / "out" / "export.json").read_text())
    decision = facts["decision"]
    assert decision["threshold_on_probability"] == pytest.approx(1 / (1 + np.exp(-0.5)))  # of 0.85 / 1.7
    assert (decision["of_class"], decision["chosen_for"]) == ("tumour", "wga")
    assert facts["model"] == stated(bundle)
    assert facts["input"]["is_standardised"] == (kind == "wsinfer")
    readme = (tmp_path / "out" / "README.md").read_text()
    assert "that is a probability above 0.6225" in readme
    assert model_card(read_spec(bundle)) in readme


@pytest.mark.parametrize("kind", FORMATS)
def test_an_export_holds_no_path_of_this_machine(tmp_path, kind):
    export_model(_bundle(tmp_path / "model", _spec()), tmp_path / "out", kind=kind)
    contents = [file.read_bytes() for file in (tmp_path / "out").iterdir()]
    if kind == "wsinfer":
        with zipfile.ZipFile(tmp_path / "out" / "torchscript_model.pt") as archive:
            contents += map(archive.read, archive.namelist())
            assert not [name for name in archive.namelist() if "debug" in name or "traced_inputs" in name]
    for content in contents:
        for local_path in (str(tmp_path), str(Path(torch.__file__).parents[1]), str(Path(export.__file__).parent)):
            assert local_path.encode() not in content


def test_onnx_takes_any_number_of_patches_and_carries_no_stack_traces(tmp_path):
    import onnx

    export_model(_bundle(tmp_path / "model", _spec()), tmp_path / "out", kind="onnx")
    model = onnx.load(tmp_path / "out" / "model.onnx")
    assert not any(len(node.metadata_props) for node in model.graph.node)
    dims = model.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in dims] == ["N", 3, 32, 32]


@pytest.mark.parametrize("kind", FORMATS)
def test_a_network_that_depends_on_the_batch_is_refused(tmp_path, monkeypatch, kind):
    bundle = _bundle(tmp_path / "model", _spec())

    def depends(self, patches):
        return softmax(self.network(patches) + patches.mean(dim=(0, 2, 3))[None, :2], dim=1)

    monkeypatch.setattr("pathopatch.models.export.ExportedNetwork.forward", depends)
    with pytest.raises(InputUnsupportedError, match=r"small-groupnorm is not the model, by .* differ by"):
        export_model(bundle, tmp_path / "out", kind=kind)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


@pytest.mark.parametrize("changes", [MASKED, {**MASKED, "patch_px": 64, "input_px": 32, "architecture": "resnet10t"}])
def test_a_masked_model_takes_the_tissue_as_second_input(tmp_path, changes):
    spec = _spec(**changes)
    bundle, out = _bundle(tmp_path / "model", spec), tmp_path / "out"
    export_model(bundle, out, kind="onnx")
    patches, tissue = sample_patches(spec)
    expected = _ours(bundle, patches, tissue)
    given = _run(out, patches, tissue=tissue[:, None].astype(np.float32))
    np.testing.assert_allclose(given, expected, atol=1e-5)
    np.testing.assert_allclose(np.load(out / "patches.npz")["expected"], expected, atol=1e-5)
    assert np.abs(_run(out, patches, tissue=np.ones_like(patches[:, :1])) - expected).max() > 1e-3
    assert [(one.runtime.split()[0], one.problem) for one in verify_export(out)] == [
        ("onnxruntime", ""), ("openvino", ""),
    ]  # fmt: skip
    assert _about(out)["tissue"]["shape"] == ["N", 1, spec.patch_px, spec.patch_px]
    assert '"tissue": tissue}' in (out / "README.md").read_text()


def test_the_reference_reads_crops_and_tells_tissue_as_pathopatch(tmp_path):
    spec = _spec(mask="interior", crop_px=12, input_px=48, patch_px=96)
    bundle, out = _bundle(tmp_path / "model", spec), tmp_path / "out"
    export_model(bundle, out, kind="onnx")
    reference = _reference(out / "mask_and_crops.py")
    patches, tissue = sample_patches(spec)
    sides = _about(out)["crops_of"]
    found = [
        reference["predict"](lambda crops: _run(out, crops), patch, mask, sides["input_px"], sides["crop_px"])
        for patch, mask in zip(patches, tissue, strict=True)
    ]
    has_answer = load_model(bundle, device="cpu").takes(tissue)
    assert has_answer.tolist() == [probability is not None for probability in found]
    assert 3 < has_answer.sum() < len(patches)
    expected = _ours(bundle, patches, tissue)[has_answer]
    np.testing.assert_allclose([one for one in found if one is not None], expected, atol=1e-5)

    windows = np.array([[0, 230.0], [10, 220], [0, 240]])
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16), dtype=np.uint8)
    polarities = ("bright", "dark", "bright")
    model = TissueModel(
        polarities=polarities, windows=windows, threshold=0.8, mask=np.ones((1, 1), np.uint8), scale_x=16, scale_y=16
    )
    own = model.patch_mask(pixels, 0, 0, 1.0, (16, 16))
    is_bright = [polarity == "bright" for polarity in polarities]
    np.testing.assert_array_equal(reference["tissue_mask"](pixels, windows, 0.8, is_bright), own)
    assert 0 < own.sum() < own.size


def test_the_reference_is_short_and_needs_numpy_and_opencv_alone():
    text = Path(export.__file__).with_name("mask_and_crops.txt").read_text()
    assert len(text.splitlines()) <= 60
    assert re.findall("^(?:import|from) .*", text, re.M) == ["import cv2", "import numpy as np"]
    ruff = Path(sys.executable).with_name("ruff")
    for command in (["check"], ["format", "--check"]):
        subprocess.run(
            [ruff, *command, "--stdin-filename", "mask_and_crops.py", "-"], input=text, text=True, check=True
        )


def _flip_weight(folder: Path) -> None:
    import onnx

    model = onnx.load(folder / "model.onnx")
    weights = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    weights.raw_data = weights.raw_data[:3] + bytes([weights.raw_data[3] ^ 0x42]) + weights.raw_data[4:]
    onnx.save(model, folder / "model.onnx")


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (_flip_weight, "differ by"),
        (lambda out: (out / "model.onnx").write_bytes((out / "model.onnx").read_bytes()[:-3]), "does not run it"),
        (lambda out: (out / "patches.npz").unlink(), "does not run it"),
    ],
    ids=["weight", "cut", "no patches"],
)
def test_what_was_changed_in_an_export_is_a_problem_of_every_program(tmp_path, masked_export, damage, problem):
    out = shutil.copytree(masked_export, tmp_path / "out")
    assert [one.problem for one in verify_export(out)] == ["", ""]
    damage(out)
    verified = verify_export(out)
    assert len(verified) == 2
    assert all(problem in one.problem for one in verified)


def test_an_export_that_is_sure_of_everything_is_verified_too(tmp_path):
    import onnx
    from onnx import numpy_helper

    network = build_network("small-groupnorm", 3)
    torch.nn.init.constant_(classifier_of(network).bias, 0.0)
    classifier_of(network).bias.data[1] = 40.0  # probabilities of 0 and 1, by float32
    save_bundle(tmp_path / "model", network, _spec())
    out = tmp_path / "out"
    export_model(tmp_path / "model", out, kind="onnx")
    assert [one.problem for one in verify_export(out)] == ["", ""]
    model = onnx.load(out / "model.onnx")
    (bias,) = (tensor for tensor in model.graph.initializer if numpy_helper.to_array(tensor).max(initial=0) == 40)
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) * np.float32(0.9), bias.name))
    onnx.save(model, out / "model.onnx")
    assert all("differ by" in one.problem for one in verify_export(out))


@pytest.fixture(scope="module")
def masked_export(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("masked")
    export_model(_bundle(folder / "model", _spec(**MASKED)), folder / "out", kind="onnx")
    return folder / "out"


def test_an_export_for_wsinfer_is_verified_by_torch_and_its_config(tmp_path):
    out = tmp_path / "out"
    export_model(_bundle(tmp_path / "model", _spec()), out, kind="wsinfer")
    (verified,) = verify_export(out)
    assert verified.difference < 1e-5
    assert not verified.problem
    config = json.loads((out / "config.json").read_text())
    config["transform"][2]["arguments"]["mean"][0] += 0.01
    (out / "config.json").write_text(json.dumps(config))
    assert "differ by" in verify_export(out)[0].problem
    torch.save({}, out / "torchscript_model.pt")
    assert "a pickle could run code when read; it was not read" in verify_export(out)[0].problem


def test_an_existing_export_is_replaced_only_by_force(tmp_path):
    bundle, out = _bundle(tmp_path / "model", _spec()), tmp_path / "out"
    assert export_model(bundle, out, kind="wsinfer")
    before = {file: file.stat().st_mtime_ns for file in out.iterdir()}
    assert not export_model(bundle, out, kind="wsinfer")
    assert {file: file.stat().st_mtime_ns for file in out.iterdir()} == before
    with pytest.raises(StaleArtefactError, match="stage was 'export wsinfer', is 'export onnx'"):
        export_model(bundle, out, kind="onnx")
    _bundle(bundle, _spec(temperature=2.0))
    with pytest.raises(StaleArtefactError, match=r"input 'config\.json' differs"):
        export_model(bundle, out, kind="wsinfer")
    assert export_model(bundle, out, kind="onnx", force=True)
    assert not (out / "torchscript_model.pt").exists()


@pytest.mark.parametrize("where", ["model", "model/export", ".", "other"])
def test_an_export_never_replaces_the_bundle_or_foreign_files(tmp_path, where):
    bundle = _bundle(tmp_path / "run" / "model", _spec())
    (tmp_path / "run" / "other").mkdir()
    (tmp_path / "run" / "other" / "thesis.txt").write_text("mine")
    before = {file: hashlib.sha256(file.read_bytes()).digest() for file in tmp_path.rglob("*") if file.is_file()}
    with pytest.raises(InputUnsupportedError, match="choose another folder"):
        export_model(bundle, tmp_path / "run" / where, kind="wsinfer", force=True)
    assert before == {f: hashlib.sha256(f.read_bytes()).digest() for f in tmp_path.rglob("*") if f.is_file()}


def test_a_failed_export_leaves_the_earlier_one_as_it_was(tmp_path, monkeypatch):
    bundle, out = _bundle(tmp_path / "model", _spec()), tmp_path / "out"
    export_model(bundle, out, kind="wsinfer")
    before = {file.name: file.read_bytes() for file in out.iterdir()}

    def fails(*_):
        raise OSError(28, "no space left on device")

    monkeypatch.setattr("pathopatch.models.export._readme", fails)
    with pytest.raises(OSError, match="no space left"):
        export_model(bundle, out, kind="onnx", force=True)
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "out"]


def test_a_bundle_whose_files_contradict_each_other_is_not_exported(tmp_path):
    bundle = _bundle(tmp_path / "model", _spec())
    edit_spec(bundle, mpp=1.0)
    with pytest.raises(CheckpointIncompatibleError, match="mpp is"):
        export_model(bundle, tmp_path / "out", kind="wsinfer")


def test_answers_of_another_shape_than_is_due_are_a_problem(masked_export, monkeypatch):
    monkeypatch.setattr(verify, "_open", lambda path, program: lambda inputs: np.ones((len(inputs["patches"]), 1)))
    assert all(one.problem.endswith("is due") and ", 1)" in one.problem for one in verify_export(masked_export))

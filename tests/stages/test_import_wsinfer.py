"""Models for wsinfer become bundles that predict as wsinfer does; what is unsafe or contradictory is refused."""

from __future__ import annotations

import json
import pickle
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from made_model import write_model
from payload import Touch
from PIL import Image
from torch import nn
from torchvision import transforms
from torchvision.models import resnet18

from pathopatch.core.errors import (
    CheckpointIncompatibleError,
    CheckpointUnsafeError,
    InputCorruptError,
    InputUnsupportedError,
    NonFiniteError,
)
from pathopatch.models.bundle import read_spec
from pathopatch.models.export import export_model
from pathopatch.models.loading import load_model
from pathopatch.models.torchscript_archive import pillow_weights
from pathopatch.stages import import_model as stage

CONFIG = {
    "spec_version": "1.0",
    "architecture": "resnet18",
    "num_classes": 2,
    "class_names": ["Other", "Tumor"],
    "patch_size_pixels": 100,
    "spacing_um_px": 0.5,
    "transform": [
        {"name": "Resize", "arguments": {"size": 64}},
        {"name": "ToTensor"},
        {"name": "Normalize", "arguments": {"mean": [0.72, 0.57, 0.68], "std": [0.11, 0.15, 0.11]}},
    ],
}


import_model = partial(stage.import_model, untested=True)


class NoFunction(nn.Module):
    """Means of each channel and something that is no matter of the patch: `kind` names it."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x.mean(dim=(2, 3))
        if self.kind == "dropout":
            return torch.nn.functional.dropout(x, 0.1, True).mean(dim=(2, 3))
        if self.kind == "centred":
            return y - y.mean(dim=0, keepdim=True)
        return y


TO_TENSOR = {"name": "ToTensor"}


def _step(name: str, **arguments: object) -> dict[str, object]:
    return {"name": name, "arguments": arguments}


class Tiny(nn.Module):
    """A network of one convolution."""

    def __init__(self, n_classes: int = 2) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 5, stride=4)
        self.fc = nn.Linear(8, n_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.conv(x).relu().mean(dim=(2, 3)))


def write_folder(folder: Path, network: nn.Module, *, form: str = "script", **changes: object) -> Path:
    """Write a folder as the model zoo has them."""
    folder.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.jit.trace(network, torch.zeros(1, 3, 64, 64)) if form == "trace" else torch.jit.script(network)
        program = torch.jit.freeze(program.eval()) if form == "frozen" else program
        torch.jit.save(program, folder / "torchscript_model.pt")
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    return folder


def tiny(n_classes: int = 2) -> nn.Module:
    torch.manual_seed(1)
    return Tiny(n_classes).eval()


def images(side: int = 100, n: int = 3) -> np.ndarray:
    """Patches (N, side, side, 3), coarse enough to keep their contrast when they are resized."""
    rng = np.random.default_rng(0)
    coarse = [Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)) for _ in range(n)]
    return np.stack([np.asarray(image.resize((side, side), Image.Resampling.BICUBIC)) for image in coarse])


def wsinfers_output(folder: Path, patches: np.ndarray) -> np.ndarray:
    """Return what wsinfer computes: the transform by torchvision, the network, sigmoid or softmax."""
    config = json.loads((folder / "config.json").read_text())
    steps = [getattr(transforms, step["name"])(**step.get("arguments", {})) for step in config["transform"]]
    batch = torch.stack([transforms.Compose(steps)(Image.fromarray(patch)) for patch in patches])
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        logits = torch.jit.load(folder / "torchscript_model.pt").eval()(batch)
    return (logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(dim=1)).numpy()


def our_logits(bundle: Path, patches: np.ndarray, *, runtime: str = "auto") -> np.ndarray:
    model = load_model(bundle, device="cpu", precision="float32", runtime=runtime)
    return model.predict_logits(patches.transpose(0, 3, 1, 2).astype(np.float32) / 255)


def our_probability(bundle: Path, patches: np.ndarray, *, runtime: str = "auto") -> np.ndarray:
    logits = our_logits(bundle, patches, runtime=runtime).astype(np.float64)
    return 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))


def test_an_exported_bundle_imported_again_has_the_same_logits(tmp_path: Path) -> None:
    bundle = write_model(tmp_path / "model")
    export_model(bundle, tmp_path / "wsinfer", kind="wsinfer")
    spec = import_model(tmp_path / "wsinfer", tmp_path / "again", tumor_classes=["tumour"])
    original = read_spec(bundle)
    assert (spec.patch_px, spec.mpp, spec.mean, spec.class_names) == (
        original.patch_px, original.mpp, original.mean, original.class_names,
    )  # fmt: skip
    patches = images(16, n=20)
    for runtime in ("openvino", "torch"):
        expected = our_logits(bundle, patches, runtime=runtime)
        assert np.ptp(expected[:, 1] - expected[:, 0]) > 0.01
        np.testing.assert_allclose(our_logits(tmp_path / "again", patches, runtime=runtime), expected, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["script", "trace", "frozen"])
def test_a_resnet_gives_wsinfers_probabilities_in_both_runtimes(tmp_path: Path, form: str) -> None:
    torch.manual_seed(0)
    folder = write_folder(tmp_path / "zoo", resnet18(num_classes=2).eval(), form=form)
    spec = import_model(folder, tmp_path / "bundle")
    assert spec.onnx is not None
    expected = wsinfers_output(folder, images())[:, 1]
    assert np.ptp(expected) > 0.01
    for runtime in ("openvino", "torch"):  # wsinfer rounds the resized patch to whole grey values, we do not
        ours = our_probability(tmp_path / "bundle", images(), runtime=runtime)
        np.testing.assert_allclose(ours, expected, atol=0.003)
    runtimes = [load_model(tmp_path / "bundle", device="cpu", runtime=name).runtime for name in ("openvino", "torch")]
    assert runtimes[0].weights == runtimes[1].weights


def test_a_bundle_holds_frozen_weights_once_beside_the_archive(tmp_path: Path) -> None:
    import_model(write_folder(tmp_path / "zoo", tiny(), form="frozen"), tmp_path / "bundle")
    weights = sum(value.numel() for value in tiny().state_dict().values()) * 4
    assert (tmp_path / "bundle" / "model.safetensors").stat().st_size > weights
    assert b"model.safetensors" in (tmp_path / "bundle" / "model.onnx").read_bytes()


@pytest.mark.parametrize("interpolation", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("side", [37, 64, 150])
def test_resizing_is_pillows_as_a_matrix(interpolation: int, side: int) -> None:
    plane = np.random.default_rng(0).random((100, 100), np.float32)
    expected = np.asarray(Image.fromarray(plane).resize((side, side), Image.Resampling(interpolation)))
    m = pillow_weights(100, side, interpolation)
    np.testing.assert_allclose(m @ plane @ m.T, expected, atol=1e-5)


@pytest.mark.parametrize("interpolation", [0, 5])
def test_patches_are_resized_by_the_filter_that_the_model_names(tmp_path: Path, interpolation: int) -> None:
    resize = {"name": "Resize", "arguments": {"size": [64, 64], "interpolation": interpolation}}
    folder = write_folder(tmp_path / "zoo", tiny(), transform=[resize, *CONFIG["transform"][1:]])
    import_model(folder, tmp_path / "bundle")
    expected = wsinfers_output(folder, images())[:, 1]
    np.testing.assert_allclose(our_probability(tmp_path / "bundle", images()), expected, atol=1e-3)


@pytest.mark.parametrize(
    ("names", "chosen", "columns"),
    [
        (["growth"], ["growth"], [0]),  # one logit is the class's against all else
        (["Tumor", "Non-tumor"], [], [0]),
        (["benign", "acinar", "mucinous", "solid"], ["solid", "acinar"], [1, 3]),
    ],
)
def test_classes_of_tumour_have_the_sum_of_their_probabilities(
    tmp_path: Path, names: list[str], chosen: list[str], columns: list[int]
) -> None:
    folder = write_folder(tmp_path / "zoo", tiny(len(names)), num_classes=len(names), class_names=names)
    spec = import_model(folder, tmp_path / "bundle", tumor_classes=chosen)
    assert spec.class_names[1] == " or ".join(names[number] for number in columns)
    assert len(names) > 1 or spec.class_names[0] == "non-tumour"
    expected = wsinfers_output(folder, images())[:, columns].sum(axis=1)
    np.testing.assert_allclose(our_probability(tmp_path / "bundle", images()), expected, atol=1e-3)


def test_a_network_that_ends_in_softmax_is_refused(tmp_path: Path) -> None:
    names = {"num_classes": 4, "class_names": ["Tumor", "b", "c", "d"]}
    folder = write_folder(tmp_path / "ended", nn.Sequential(tiny(4), nn.Softmax(1)), **names)
    with pytest.raises(CheckpointIncompatibleError, match="it gives probabilities, and wsinfer would take"):
        import_model(folder, tmp_path / "bundle")


@pytest.mark.fault("no-function")
@pytest.mark.parametrize("kind", ["dropout", "centred"])
def test_a_model_that_is_no_function_of_the_patch_is_refused(tmp_path: Path, kind: str) -> None:
    names = {"num_classes": 3, "class_names": ["Tumor", "b", "c"]}
    folder = write_folder(tmp_path / "zoo", NoFunction(kind), **names)
    with pytest.raises(CheckpointIncompatibleError, match="outputs of the network"):
        import_model(folder, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_classes": 3}, "one name a class is due"),
        ({"class_names": ["Tumor", "Tumor"]}, "one name a class is due"),
        ({"spec_version": "2.0"}, "spec_version"),
        ({"spacing_um_px": 0}, "spacing_um_px"),
        ({"patch_size_pixels": 10**6}, "patch_size_pixels"),
        ({"transform": []}, "transform is empty"),
        ({"transform": CONFIG["transform"][::-1]}, "transform is Normalize, ToTensor, Resize"),
        ({"transform": [{"name": "CenterCrop"}, *CONFIG["transform"][1:]]}, "CenterCrop"),
        ({"transform": [_step("Resize", size=[64, 65]), TO_TENSOR]}, "must be square"),
        ({"transform": [_step("Resize", size=64, max_size=80), TO_TENSOR]}, "max_size"),
        ({"transform": [TO_TENSOR, _step("Normalize", mean=[0.5], std=[1])]}, "mean"),
        ({"transform": [TO_TENSOR, _step("Normalize", std=[1, 0, 1])]}, r"std\.1"),
        ({"transform": [_step("Resize", size=10**6), TO_TENSOR]}, r"Resize\.arguments\.size"),
        ({"transform": [_step("Resize", size=[0, 0]), TO_TENSOR]}, r"Resize\.arguments\.size"),
        ({"patch_size_pixels": 1}, "patch_size_pixels"),
    ],
)
def test_a_description_that_is_not_wsinfers_is_refused_by_key(
    tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    folder = write_folder(tmp_path / "zoo", tiny(), **changes)
    with pytest.raises(InputUnsupportedError, match=said):
        import_model(folder, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_two_descriptions_must_agree_but_for_the_rounding(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "zoo", tiny())
    (tmp_path / "about.toml").write_text("mean = [0.5, 0.5, 0.5]\n")
    with pytest.raises(CheckpointIncompatibleError, match="mean is .* in its files, and .* is stated"):
        import_model(folder, tmp_path / "bundle", description=tmp_path / "about.toml")
    (tmp_path / "about.toml").write_text('licence = "MIT"\nmean = [0.72, 0.57, 0.6800000001]\n')
    assert import_model(folder, tmp_path / "bundle", description=tmp_path / "about.toml").parameters["licence"] == "MIT"


@pytest.mark.parametrize(
    ("names", "chosen", "said"),
    [
        (["a", "b"], [], "0 of the classes are named as tumour"),
        (["Tumor", "carcinoma"], [], "2 of the classes are named as tumour"),
        (["a", "b"], ["c"], "no class c"),
        (["a", "b"], ["a", "b"], "every class is named as tumour"),
    ],
)
def test_an_unclear_tumour_class_is_asked_for_by_name(
    tmp_path: Path, names: list[str], chosen: list[str], said: str
) -> None:
    folder = write_folder(tmp_path / "zoo", tiny(), class_names=names)
    with pytest.raises(CheckpointIncompatibleError, match=said) as caught:
        import_model(folder, tmp_path / "bundle", tumor_classes=chosen)
    assert "--tumor-class" in str(caught.value)


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (tiny(3), r"\(3,\), \(2,\) is due"),
        (nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2)), "does not run on patches of 64 px"),
    ],
)
def test_a_network_of_other_classes_or_another_input_size_is_refused(
    tmp_path: Path, network: nn.Module, said: str
) -> None:
    with pytest.raises(CheckpointIncompatibleError, match=said):
        import_model(write_folder(tmp_path / "zoo", network), tmp_path / "bundle")


@pytest.mark.parametrize("kind", ["pickle", "torch"])
def test_pickles_are_refused_unread(tmp_path: Path, kind: str) -> None:
    folder = write_folder(tmp_path / "zoo", tiny())
    path = folder / "torchscript_model.pt"
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Touch(tmp_path / "ran")))
    else:
        torch.save(Touch(tmp_path / "ran"), path)
    with pytest.raises(CheckpointUnsafeError, match="a pickle"):
        import_model(folder, tmp_path / "bundle")
    assert not (tmp_path / "ran").exists()


class Writer(Tiny):
    """A network that writes a file."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.save(x, "written-by-a-network")
        return self.fc(self.conv(x).relu().mean(dim=(2, 3)))


def forked(x: torch.Tensor) -> torch.Tensor:
    return x.mean(dim=(2, 3)) + torch.from_file("written-by-a-network", True, 1)


class Forking(Tiny):
    """A network that writes a file in a function of its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.jit.wait(torch.jit.fork(forked, self.conv(x))))


class Early(Tiny):
    """A network whose program runs while it is read."""

    @torch.jit.export
    def __getstate__(self) -> int:
        return 3

    @torch.jit.export
    def __setstate__(self, state: int) -> None:
        self.training = state == 3


@pytest.mark.parametrize(
    ("kind", "said"), [(Writer, "aten::save"), (Forking, "prim::CallFunction"), (Early, "__setstate__")]
)
def test_programs_that_do_more_than_arithmetic_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[nn.Module], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = write_folder(tmp_path / "zoo", kind().eval())
    with pytest.raises(CheckpointUnsafeError, match=said):
        import_model(folder, tmp_path / "bundle")
    assert not Path("written-by-a-network").exists()


def test_a_cut_archive_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "zoo", tiny())
    path = folder / "torchscript_model.pt"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputCorruptError, match="cut off"):
        import_model(folder, tmp_path / "bundle")
    path.unlink()
    with pytest.raises(InputUnsupportedError, match="torchscript_model"):
        import_model(folder, tmp_path / "bundle")


class Broken(Tiny):
    """A network that divides by the contrast of a patch: NaN for a flat one."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.conv(x / x.std(dim=(2, 3), keepdim=True)).mean(dim=(2, 3)))


def test_weights_that_are_nan_and_a_network_that_gives_nan_for_flat_patches_are_refused(tmp_path: Path) -> None:
    network = tiny()
    network.fc.weight.data[0, 0] = torch.nan
    for each in (network, Broken().eval()):
        with pytest.raises(NonFiniteError):
            import_model(write_folder(tmp_path / "zoo", each), tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_an_archive_that_was_exchanged_is_noticed(tmp_path: Path) -> None:
    import_model(write_folder(tmp_path / "zoo", tiny()), tmp_path / "bundle")
    other = write_folder(tmp_path / "other", Tiny().eval())
    (tmp_path / "bundle" / "model.torchscript").write_bytes((other / "torchscript_model.pt").read_bytes())
    with pytest.raises(InputCorruptError, match="not the one that the bundle was made with"):
        load_model(tmp_path / "bundle", device="cpu", runtime="torch")


def test_the_card_names_the_makers_and_claims_no_training_data(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "zoo", tiny())
    import_model(folder, tmp_path / "bundle", made_by="a lab")
    card = " ".join((tmp_path / "bundle" / "README.md").read_text().split())
    assert "The model was made elsewhere, by: a lab." in card
    assert "In its training data, the tissue share predicts the label" not in card
    assert "Of its classes (Other, Tumor) these count as tumour: Tumor." in card


def test_an_imported_network_is_not_exported_again(tmp_path: Path) -> None:
    import_model(write_folder(tmp_path / "zoo", tiny()), tmp_path / "bundle")
    with pytest.raises(InputUnsupportedError, match="was imported"):
        export_model(tmp_path / "bundle", tmp_path / "out", kind="onnx")

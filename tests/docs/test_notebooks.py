"""The notebooks and the example of the documentation run to their end, and show what they say."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

import pathopatch

FOLDER = Path(__file__).parents[2] / "docs" / "notebooks"
NAMES = ("area_reliance", "cohort", "debiasing")


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def shown_by(name: str, folder: Path) -> str:
    """Return all texts that a notebook shows when it is run in a folder."""
    notebook = read(name)
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "\n".join(output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs)


def numbers(pattern: str, text: str) -> list[float]:
    """Return the numbers in the groups of a pattern, in the order of the text."""
    return [float(number) for found in re.finditer(pattern, text, flags=re.MULTILINE) for number in found.groups()]


def test_the_folder_holds_these_notebooks() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_short_valid_and_without_outputs(name: str) -> None:
    notebook = read(name)
    nbformat.validate(notebook)
    assert 8 <= len(notebook.cells) <= 15
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert (FOLDER / f"{name}.ipynb").stat().st_size < 100_000
    text = " ".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    sentences = re.split(r"(?<=[.:;?])\s", re.sub(r"`[^`]*`|^#.*$", "x", text, flags=re.MULTILINE))
    assert max(len(sentence.split()) for sentence in sentences) <= 25


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_model_that_counts_tissue_is_told_from_the_packaged_one(tmp_path: Path) -> None:
    counted, packaged, answered = numbers(r"^eta (\d\.\d+)", shown_by("area_reliance", tmp_path))
    assert counted > 0.99
    assert answered > 0.6
    assert packaged < 0.2


def test_one_slide_step_by_step_is_what_one_call_predicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = FOLDER.parent / "examples" / "one_slide.py"
    assert len(path.read_text("utf-8").splitlines()) <= 60
    found = runpy.run_path(str(path))
    prediction = pathopatch.predict_slide(found["slide"], found["model"])
    np.testing.assert_allclose(found["logit"], prediction.table["logit"], atol=1e-5)
    corners = np.stack([found["x"], found["y"]], axis=1)[found["is_enough"]]
    assert (corners == prediction.table[["x", "y"]]).all(axis=None)
    assert (tmp_path / "one-slide" / "map.png").is_file()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_cohort_is_taken_to_its_report_and_gerne_keeps_the_worst_group(tmp_path: Path) -> None:
    text = shown_by("cohort", tmp_path)
    assert "SHORTCUT. In the training patches" in text
    (erm, gerne, *_) = numbers(r"^(?:erm|gerne) +(\d\.\d+)", text)
    assert gerne > erm + 0.2
    assert (tmp_path / "cohort-work" / "report" / "index.html").is_file()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_debiasing_alone_keeps_the_worst_group_and_the_area_tells_nothing(tmp_path: Path) -> None:
    text = shown_by("debiasing", tmp_path)
    (plain, debiased) = numbers(r"worst group (\d\.\d+), (\d\.\d+) with GERNE", text)
    assert debiased > plain + 0.2
    (before, after) = numbers(r"(\d\.\d+) before, (\d\.\d+) composed", text)
    assert before == 1
    assert 0.35 < after < 0.65

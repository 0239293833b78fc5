"""Slides to predict as they are typed: folders, files, wildcards, and the run as the model."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import made_slides as made
import numpy as np
import pandas as pd
import pytest
from made_model import write_model

from pathopatch.core.errors import (
    DuplicateIdError,
    InputMissingError,
    InputUnsupportedError,
)
from pathopatch.core.files import read_json
from pathopatch.core.status import read_status
from pathopatch.models.bundle import bundle_folder
from pathopatch.stages.batch.run import retry_command
from pathopatch.stages.find_slides import Cohort, find_cohort
from pathopatch.stages.predict import record_left_out

Type = Callable[..., int]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: a run, and slides that fit its model, do not fit, or are broken."""
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "runs" / "erm" / "model")
    for name in ("in", "other"):
        (tmp_path / name).mkdir()
    for number, name in enumerate("ab"):
        image = made.disc_image(96, 80, (40, 40), 20 + number, tissue=(180, 90, 150), glass=(245, 245, 245))
        made.write_rgb_pyramid(tmp_path / "in" / f"{name}.tif", image, levels=1)
    for number, name in enumerate("RGB"):
        made.write_channel(tmp_path / "other" / f"s_{name}.tif", np.full((40, 60), number, np.uint8))
    for number, name in enumerate(["CARS", "SHG"]):
        made.write_channel(tmp_path / "other" / f"m_{name}.tif", np.full((40, 60), number, np.uint16))
    (tmp_path / "in" / "notes.txt").write_text("")
    return tmp_path


def find(*sources: str, **options: object) -> Cohort:
    return find_cohort(sources, **options)  # type: ignore[arg-type]


def ids(cohort: Cohort) -> list[str]:
    return [row.slide_id for row in cohort.rows]


def test_folders_give_all_slides_whatever_the_model_takes(place: Path) -> None:
    cohort = find("in", "other")
    assert ids(cohort) == ["a", "b", "m", "s_B", "s_G", "s_R"]
    assert {item.path.name: item.reason for item in cohort.left_out} == {"notes.txt": "no reader for notes.txt"}


def test_the_folder_of_the_outputs_is_not_searched(place: Path) -> None:
    (place / "in" / "out").mkdir()
    (place / "in" / "b.tif").rename(place / "in" / "out" / "b.tif")
    assert ids(find("in")) == ["a", "b"]
    assert ids(find("in", out=Path("in/out"))) == ["a"]
    assert ids(find("in/out", out=Path("in/out"))) == ["b"]


def test_files_and_wildcards_give_the_same_slides(place: Path) -> None:
    assert (
        ids(find("in/a.tif", "in/b.tif"))
        == ids(find("in/?.tif"))
        == ids(find(str(place / "i*" / "[ab].tif")))
        == ["a", "b"]
    )


def test_a_set_of_channels_may_stand_among_files(place: Path) -> None:
    cohort = find("in/a.tif", "R=other/s_R.tif,G=other/s_G.tif,B=other/s_B.tif")
    assert ids(cohort) == ["s", "a"]
    assert cohort.rows[0].source == {name: f"other/s_{name}.tif" for name in "RGB"}


def test_a_file_with_wildcards_in_its_name_is_that_file(place: Path) -> None:
    (place / "in" / "b.tif").rename(place / "in" / "[ab].tif")
    assert ids(find("in/[ab].tif")) == ["ab_"]
    assert ids(find("none*.tif")) == ["none_"]  # fails as a slide, by its name


def test_a_missing_file_is_a_row(place: Path) -> None:
    assert ids(find("in/a.tif", "in/gone.tif")) == ["a", "gone"]
    (place / "in" / "cut.tif").write_bytes((place / "in" / "a.tif").read_bytes()[:300])
    assert ids(find("in")) == ["a", "b", "cut"]


@pytest.mark.parametrize(
    ("sources", "options", "error"),
    [
        (["in", "m.csv"], {}, InputUnsupportedError),
        (["in/a.tif", "in/b.tif"], {"slide_id": "x"}, InputUnsupportedError),
        (["in/a.tif", "R=in/a.tif#plane=0,G=in/a.tif#plane=1"], {}, DuplicateIdError),
        (["empty"], {}, InputMissingError),
    ],
)
def test_what_cannot_be_one_cohort_is_refused(
    place: Path, sources: list[str], options: dict[str, str], error: type[Exception]
) -> None:
    (place / "empty").mkdir()
    with pytest.raises(error):
        find(*sources, **options)


def test_a_run_stands_for_its_bundle(place: Path) -> None:
    assert bundle_folder(Path("runs/erm")) == bundle_folder(Path("runs/erm/model")) == Path("runs/erm/model")
    assert bundle_folder(Path("runs")) == Path("runs")


def test_slides_that_do_not_fit_are_in_the_tables_and_the_report(place: Path, said: Callable) -> None:
    for name in ("s_R", "s_G", "s_B"):
        (place / "other" / f"{name}.tif").unlink()
    told = said("predict", "in", "other", "--model", "runs/erm", "-o", "out", "--device", "cpu", "-q", code=3).err
    assert "failed: m: CHANNEL_MISMATCH" in told
    cohort = pd.read_csv("out/cohort.csv", index_col=0)
    assert cohort["state"].to_dict() == {"a": "done_empty", "b": "done_empty", "m": "failed"}
    assert cohort.loc["m", "code"] == "CHANNEL_MISMATCH"
    assert "2 channels (CARS, SHG) of uint16, the model was trained on 3" in said("status", "out", code=3).out
    said("report", "out")
    assert "2 channels (CARS, SHG) of uint16, the model was trained on 3" in Path("out/report/index.html").read_text()


def test_a_folder_is_predicted_and_its_outputs_are_not_slides(place: Path, typed: Type, said: Callable) -> None:
    for _ in range(2):
        printed = said("predict", "in", "--model", "runs/erm", "-o", "in/out", "--device", "cpu", "-q")
    assert "slides: 2 current" in printed.out
    assert "left out: in/notes.txt: no reader for notes.txt" in printed.err
    kept = {str(place / "in" / "notes.txt"): "no reader for notes.txt"}
    assert read_json(place / "in" / "out" / "left-out.json") == kept
    assert sorted(path.parent.name for path in (place / "in" / "out").glob("heatmaps/*/overlay.png")) == ["a", "b"]
    told = said("predict", "in/a.tif", "in/gone.tif", "--model", "runs/erm", "-o", "out", "-q", code=3).err
    assert "failed: gone: INPUT_MISSING" in told
    assert "--slide-mpp" in said("predict", "in", "--model", "runs/erm", "-o", "out", "--mpp", "0.5", code=2).err
    (place / "m.csv").write_text("slide_id;patient_id;path\na;a;in/a.tif\ngone;gone;in/gone.tif\n")
    assert typed("predict", "m.csv", "--model", "runs/erm", "-o", "csv", "-q") == 3
    assert not (place / "csv" / "left-out.json").exists()


def test_what_was_left_out_is_remembered_until_it_is_predicted_or_gone(place: Path, typed: Type) -> None:
    command = ("predict", "m.csv", "--model", "runs/erm", "-o", "out", "--device", "cpu", "-q")
    excluded, beside, odd = (str(place / "in" / name) for name in ("b.tif", "notes.txt", "Pr\udce4parat.txt"))
    Path(odd).touch()  # no UTF-8
    (place / "m.csv").write_text("slide_id,patient_id,path,exclude\na,a,in/a.tif,\nb,b,in/b.tif,yes\n")
    kept = place / "out" / "left-out.json"
    assert typed(*command) == 0
    assert read_json(kept) == {excluded: "the manifest excludes it"}
    assert typed("predict", "in", *command[2:]) == 0
    assert {Path(name).name for name in read_json(kept)} == {"notes.txt", "Pr\\udce4parat.txt"}
    assert typed(*command) == 0
    assert read_json(kept) == {beside: "no reader for notes.txt", excluded: "the manifest excludes it"}
    Path(beside).unlink()
    record_left_out(place / "out", (), [])
    assert read_json(kept) == {excluded: "the manifest excludes it"}
    record_left_out(place / "out", (), [], deidentify=True)
    assert not kept.exists()


PREDICT = ["predict", "in/gone.tif", "--model", "runs/erm", "-o", "the out", "-q"]


@pytest.mark.parametrize("start", ["pathopatch", "{python} -m pathopatch"])
def test_a_failure_has_the_command_that_tries_again(place: Path, start: str) -> None:
    start = start.format(python=sys.executable)
    program = [str(Path(sys.executable).parent / "pathopatch")] if start == "pathopatch" else start.split()
    assert subprocess.run([*program, *PREDICT], check=False, capture_output=True).returncode == 1
    assert read_status(place / "the out", "gone")["predict"]["command"] == (
        f"cd {place} && {start} predict --retry-failed in/gone.tif --model runs/erm -o 'the out' -q"
    )


@pytest.mark.parametrize(
    ("program", "arguments"),
    [
        ("/bin/pathopatch", ["predict", "a\x15rm.tif"]),
        ("/bin/pathopatch", ["predict", "Pr\udce4parat.tif"]),
        ("/bin/pathopatch", ["predict", *["slide.tif"] * 1000]),
        ("/home/pathopatch/figures.py", ["predict", "a.tif"]),
    ],
)
def test_no_command_is_kept_that_should_not_be_pasted(
    program: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [program, *arguments])
    assert retry_command("predict") == ""


def test_a_working_folder_that_is_gone_has_no_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    monkeypatch.setattr(sys, "argv", ["pathopatch", "predict", "a.tif"])
    assert retry_command("predict") == ""

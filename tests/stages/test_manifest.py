"""The command manifest: what it writes can be read, and all that it leaves out is said."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import made_slides as made
import numpy as np
import pytest

from pathopatch.core.errors import InputMissingError, StaleArtefactError
from pathopatch.slides.manifest import read_manifest
from pathopatch.stages.manifest import make_manifest

Type = Callable[..., int]


def plane(number: int) -> np.ndarray:
    return np.full((40, 60), number, np.uint16)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A colour slide with a mask and outlines of another kind, two sets of channels, and one that lacks a file."""
    root = tmp_path / "slides"
    root.mkdir()
    made.write_rgb_pyramid(root / "he, 1.tif", made.noise(3, 64, 64, np.uint8), levels=1)
    made.write_png(root / "he, 1_mask.png", np.full((1, 32, 32), 255, np.uint8))
    for slide in range(3):
        for number, name in enumerate(["CARS", "TPEF", "SHG"][: 2 if slide == 2 else 3]):
            made.write_channel(root / f"s{slide}_{name}.tif", plane(10 * slide + number), mpp=None if slide else 0.5)
    made.write_png(root / "s0_mask.png", np.full((1, 32, 32), 255, np.uint8))  # not in proportion
    (root / "s1.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": []}))
    (root / "broken.svs").write_bytes(b"II*\0")
    return root


def test_a_manifest_of_a_folder_can_be_read_and_moved_with_it(folder: Path, tmp_path: Path) -> None:
    written = make_manifest(folder, tmp_path / "cohort.csv")
    header = (tmp_path / "cohort.csv").read_text().splitlines()[0]
    assert header == "slide_id,patient_id,path,path:CARS,path:TPEF,path:SHG,tumor_mask,annotations"
    (tmp_path / "moved").mkdir()
    for name in ("slides", "cohort.csv"):
        (tmp_path / name).rename(tmp_path / "moved" / name)
    first, second, third = read_manifest(tmp_path / "moved" / "cohort.csv")
    moved = tmp_path / "moved" / "slides"
    assert (first.slide_id, first.source) == ("he__1", str(moved / "he, 1.tif"))
    assert first.tumor_mask == moved / "he, 1_mask.png"
    assert second.source == {name: str(moved / f"s0_{name}.tif") for name in ("CARS", "TPEF", "SHG")}
    assert (third.slide_id, third.patient_id, third.annotations) == ("s1", "s1", moved / "s1.geojson")
    assert {item.path.name: item.reason.split(":")[0] for item in written.left_out} == {
        "broken.svs": "truncated",
        "s2_CARS.tif": "no file for SHG beside it",
        "s0_mask.png": "the mask is 32 x 32 px and the slide 60 x 40 px",
    }


def test_paths_elsewhere_are_written_out(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    make_manifest(folder, tmp_path / "b" / "cohort.csv")
    assert str(folder / "s0_CARS.tif") in (tmp_path / "b" / "cohort.csv").read_text()
    assert len(read_manifest(tmp_path / "b" / "cohort.csv").rows) == 3


def test_a_file_that_is_there_is_replaced_by_force_alone(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "cohort.csv"
    out.write_text("mine")
    with pytest.raises(StaleArtefactError, match="--force"):
        make_manifest(folder, out)
    assert out.read_text() == "mine"
    make_manifest(folder, out, force=True)
    assert len(read_manifest(out).rows) == 3


@pytest.mark.parametrize("content", [None, "", "notes"])
def test_a_folder_without_slides_writes_nothing(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "slides").mkdir()
    if content:
        (tmp_path / "slides" / "a.txt").write_text(content)
    words = {
        None: "no folder",
        "": "there are no files",
        "notes": "1 file left out, 1 of them since: no reader for a.txt",
    }
    with pytest.raises(InputMissingError, match=words[content]):
        make_manifest(tmp_path / "slides", tmp_path / "cohort.csv")
    assert not (tmp_path / "cohort.csv").exists()


def test_a_name_that_no_table_holds_is_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "slides"
    folder.mkdir()
    for number, name in enumerate(("a.tif", "b\n.tif", os.fsdecode(b"caf\xe9.tif"), "${HOME}.tif", "c.tif ")):
        made.write_channel(folder / name, plane(number))
    written = make_manifest(folder, tmp_path / "cohort.csv")
    assert [row.slide_id for row in read_manifest(tmp_path / "cohort.csv")] == ["a"]
    assert len(written.left_out) == 4


def test_a_name_that_a_spreadsheet_runs_is_written_with_its_folder(tmp_path: Path) -> None:
    for number, name in enumerate(("=a.tif", " b.tif", "-c.tif", "d-e.tif")):
        made.write_channel(tmp_path / name, plane(number))
    make_manifest(tmp_path, tmp_path / "cohort.csv")
    cells = [line.split(",")[2] for line in (tmp_path / "cohort.csv").read_text().splitlines()[1:]]
    assert cells == [str(tmp_path / " b.tif"), str(tmp_path / "-c.tif"), str(tmp_path / "=a.tif"), "d-e.tif"]
    assert [Path(row.sources[0]).is_file() for row in read_manifest(tmp_path / "cohort.csv")] == [True] * 4


def test_the_command_prints_what_it_found_and_what_it_did_not(
    folder: Path, tmp_path: Path, typed: Type, said: Callable
) -> None:
    for number in range(6):
        (folder / f"note{number}.txt").write_text("")
    printed = said("manifest", folder, "-o", tmp_path / "cohort.csv")
    assert printed.out == f"{tmp_path / 'cohort.csv'}\n"
    lines = [line.split() for line in printed.err.splitlines()]
    assert ["s0", "s0", "CARS,TPEF,SHG", "uint16", "60", "x", "40", "0.5", "-"] in lines
    assert ["s1", "s1", "CARS,TPEF,SHG", "uint16", "60", "x", "40", "-", "s1.geojson"] in lines
    for text in (
        "left out: no reader for … (in 6 files: note0.txt, note1.txt, note2.txt, …)",
        "left out: s2_CARS.tif: no file for SHG beside it",
        "each slide is a patient of its own",
        "um/px unknown: 1 slide (s1); fill the column mpp",
        "3 slides, 2 of them with a file per channel; next: pathopatch check",
    ):
        assert text in printed.err
    assert typed("manifest", folder, "-o", tmp_path / "cohort.csv") == 1
    assert typed("manifest", folder, "-o", folder / "cohort.csv", "-q") == 0
    assert "left out: cohort.csv" not in said("manifest", folder, "-o", folder / "cohort.csv", "-q", "--force").err
    told = said("manifest", folder, "-o", tmp_path / "p.csv", "--pattern", "x", "-q", code=1).err
    assert "write {slide} once" in told


def test_a_manifest_of_real_slides_passes_check(real_data: Path, tmp_path: Path, typed: Type) -> None:
    folder = tmp_path / "slides"
    folder.mkdir()
    for path in (real_data / "wsi").glob("idc_*"):
        (folder / path.name).symlink_to(path)
    assert typed("manifest", folder, "-o", tmp_path / "cohort.csv", "-q") == 0
    rows = read_manifest(tmp_path / "cohort.csv").rows
    assert [(row.slide_id, row.tumor_mask is not None, row.labelled_mask is not None) for row in rows] == [
        ("idc_14082", True, True),
        ("idc_14306", True, True),
    ]
    assert typed("check", tmp_path / "cohort.csv", "--quick", "-q") == 0

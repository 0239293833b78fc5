"""Files that claim more than they hold, or than anyone reads, are refused by a code before work or memory is spent."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from made_model import write_model
from malformed_slides import (
    DESCRIPTIONS,
    LARGE_TILES,
    bounded,
    write_chunk_shape,
    write_description,
    write_large_tile,
)
from review_page import answering, predicted

from pathopatch.cli.program import main
from pathopatch.core.errors import InputCorruptError, InputTooLargeError
from pathopatch.core.status import read_status
from pathopatch.review.security import Access
from pathopatch.slides import open_slide

pytestmark = pytest.mark.fault("claims")


@pytest.mark.parametrize("claim", DESCRIPTIONS)
def test_a_description_that_counts_too_many_planes_is_refused(claim: str, tmp_path: Path) -> None:
    path = write_description(tmp_path / "a.tif", claim)
    with bounded(), pytest.raises(InputTooLargeError, match="its description counts"):
        open_slide(path)


def test_a_description_that_counts_the_planes_that_are_there_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, np.zeros((3, 64, 64), np.uint16), metadata={"axes": "CYX"}, photometric="minisblack")
    with open_slide(path) as slide:
        assert len(slide.channels) == 3


@pytest.mark.parametrize("compression", LARGE_TILES)
def test_a_tile_larger_than_announced_is_refused_before_it_is_decoded(compression: str, tmp_path: Path) -> None:
    path = write_large_tile(tmp_path / "a.tif", compression)
    said = "cannot be decoded" if compression == "deflate" else "it announces"
    with open_slide(path, background="dark") as slide, bounded(), pytest.raises(InputCorruptError, match=said):
        slide.read_region(0, 0, 64, 64)


@pytest.mark.parametrize(("shape", "chunks"), [((3, 64, 64), (64, 64)), ((), ()), ((3, 0, 64), (3, 64, 64)),
                                               ((3, 64, 64), (3, 0, 64))])  # fmt: skip
def test_an_omezarr_whose_chunks_do_not_fit_its_shape_is_corrupt(
    shape: tuple[int, ...], chunks: tuple[int, ...], tmp_path: Path
) -> None:
    path = write_chunk_shape(tmp_path / "a.zarr", shape, chunks)
    with pytest.raises(InputCorruptError):
        open_slide(path)


SLIDES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a description": (lambda folder: write_description(folder / "m.tif", "a shape of 10^12 pages"), "INPUT_TOO_LARGE"),
    "a large tile": (lambda folder: write_large_tile(folder / "m.tif", "JPEG"), "INPUT_CORRUPT"),
}
"""A slide of each kind of `test_claims`, and the code that is due as soon as pixels are read."""


@pytest.mark.slow
@pytest.mark.parametrize("name", SLIDES)
def test_each_command_refuses_the_slide_by_a_code(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write, due = SLIDES[name]
    path = write(tmp_path)
    write_model(tmp_path / "model")
    (tmp_path / "cohort.csv").write_text(f"slide_id,patient_id,path,mpp,background\nm,p,{path.name},0.5,bright\n")
    commands = {
        "info": ["info", path.name],
        "check": ["check", "cohort.csv"],
        "tile": ["tile", "cohort.csv", "-o", "tiled", "--patch-px", "16"],
        "predict": ["predict", "cohort.csv", "--model", "model", "-o", "predicted", "--device", "cpu"],
        "predict one": ["predict", path.name, "--model", "model", "-o", "one", "--device", "cpu", "--slide-mpp", "0.5"],
    }
    channels = {"INPUT_CORRUPT", "CHANNEL_MISMATCH"}  # the model is asked before any pixel is read
    for command, arguments in commands.items():
        monkeypatch.setattr(sys, "argv", ["pathopatch", *arguments])
        with bounded(), pytest.raises(SystemExit) as ended:
            main()
        code, said = ended.value.code, capsys.readouterr()
        assert code in (0, 1, 3), (command, said)
        if command == "info" and due == "INPUT_CORRUPT":
            continue  # it reads no pixel
        assert code, (command, said)
        codes = channels if command.startswith("predict") and due == "INPUT_CORRUPT" else {due}
        assert any(known in said.out + said.err for known in codes), (command, said)
    assert read_status(tmp_path / "tiled", "m")["tile"]["code"] == due
    assert not list((tmp_path / "tiled" / "slides").glob("*"))
    assert not list((tmp_path / "predicted").glob("predictions/*"))


@pytest.mark.slow
@pytest.mark.parametrize("name", SLIDES)
def test_the_review_page_shows_the_map_without_the_slide(name: str, tmp_path: Path) -> None:
    out, path = predicted(tmp_path), SLIDES[name][0](tmp_path)
    (tmp_path / "a.svs").unlink()
    shutil.move(path, tmp_path / "a.svs")
    with answering(out, Access()) as page, bounded():
        facts = page.ask("/api/slides/a").json
        assert (facts["has_slide"], bool(facts["why_no_slide"])) == (False, True)
        assert 400 <= page.ask("/api/slides/a/tiles/0/0/0.jpg").status < 500
        assert 400 <= page.ask("/api/slides/a/patches/32/32.png").status < 500
        assert page.ask("/api/slides/a/values").status == 200

"""What claims too much is refused by a code in every command that opens slides, before time or memory is spent."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from made_model import write_model
from malformed_slides import (
    DESCRIPTIONS,
    LARGE_TILES,
    bounded,
    write_chunk_shape,
    write_description,
    write_inflating,
    write_large_tile,
)
from review_page import answering, predicted

from pathopatch.cli.program import main
from pathopatch.core.status import read_status
from pathopatch.review.security import Access

pytestmark = [pytest.mark.slow, pytest.mark.fault("claims")]

SLIDES = {
    **dict.fromkeys(DESCRIPTIONS, "INPUT_TOO_LARGE"),
    **{f"a large tile in {compression}": "INPUT_CORRUPT" for compression in LARGE_TILES},
    "an OME-Zarr of 10^6 channels": "INPUT_TOO_LARGE",
    "an OME-Zarr of chunks of 1 x 1 x 1": "INPUT_TOO_LARGE",
    "an OME-Zarr chunk that inflates": "INPUT_CORRUPT",
}
"""Slides, and the code that is due as soon as pixels are read."""


def write(name: str, folder: Path) -> Path:
    if name in DESCRIPTIONS:
        return write_description(folder / "m.tif", name)
    if name.startswith("a large tile in "):
        return write_large_tile(folder / "m.tif", name.removeprefix("a large tile in "))
    path = folder / "m.zarr"
    if name.endswith("channels"):
        return write_chunk_shape(path, (10**6, 8, 8), (1000, 8, 8))
    if name.endswith("inflates"):
        return write_inflating(path, labels=("R", "G", "B"))
    return write_chunk_shape(path, (3, 8192, 8192), (1, 1, 1))


@pytest.mark.parametrize("name", SLIDES)
def test_each_command_refuses_the_slide_by_a_code(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path, due = write(name, tmp_path), SLIDES[name]
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


@pytest.mark.parametrize("name", SLIDES)
def test_the_review_page_shows_the_map_without_the_slide(name: str, tmp_path: Path) -> None:
    out, path = predicted(tmp_path), write(name, tmp_path)
    (tmp_path / "a.svs").unlink()
    shutil.move(path, tmp_path / "a.svs")
    with answering(out, Access()) as page, bounded():
        facts = page.ask("/api/slides/a").json
        assert (facts["has_slide"], bool(facts["why_no_slide"])) == (False, True)
        assert 400 <= page.ask("/api/slides/a/tiles/0/0/0.jpg").status < 500
        assert 400 <= page.ask("/api/slides/a/patches/32/32.png").status < 500
        assert page.ask("/api/slides/a/values").status == 200

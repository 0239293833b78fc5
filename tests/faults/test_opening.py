"""Opening a batch's slides in its worker processes: a crash costs one slide, and the cohort is checked as ever."""

from __future__ import annotations

import os
from pathlib import Path

import made_slides as made
import numpy as np
import pytest

import pathopatch
from pathopatch.core.config import IntensityConfig, TileConfig
from pathopatch.core.errors import InputUnsupportedError
from pathopatch.core.status import read_status
from pathopatch.stages.batch.tasks import WITHIN
from pathopatch.stages.tile import tile_cohort

CONFIG = TileConfig(patch_px=32, intensity=IntensityConfig(scope="cohort"))
# Python runs a module of this name when it starts, so a worker process finds a reader that does as its file is called.
_FAULTY = """
import os, sys, time

if "--multiprocessing-fork" in sys.argv:
    import pathopatch.slides

    honest = pathopatch.slides.open_slide

    def hang(*_):
        time.sleep(600)

    def grow(*_):
        held = bytearray(os.urandom(1)) * 3_000_000_000
        time.sleep(600)

    def open_slide(source, **arguments):
        if "aborts-opening" in source:
            os.abort()
        slide = honest(source, **arguments)
        for name, act in (("aborts-reading", lambda *_: os.abort()), ("hangs", hang), ("grows", grow)):
            if name in source:
                slide.read_scanned_overview = act
        return slide

    pathopatch.slides.open_slide = open_slide
"""
_BECOMES = {
    "a": "",
    "aborts-opening": "WORKER_CRASH",
    "aborts-reading": "WORKER_CRASH",
    "hangs": "TIMEOUT",
    "grows": "OUT_OF_MEMORY",
    "b": "",
}


def cohort(folder: Path, names: tuple[str, ...], *, mpp: tuple[float, ...] = (0.5,)) -> Path:
    """A manifest of slides for training, each with a disc of its own brightness."""
    lines = ["slide_id,patient_id,split,path"]
    for number, name in enumerate(names):
        level = 500 + 100 * number
        disc = made.disc_image(160, 128, (80, 64), 40, tissue=[level], glass=[20], dtype=np.uint16)
        made.write_channel(folder / f"{name}.tif", disc[0], mpp=mpp[number % len(mpp)])
        lines.append(f"{name},{name},train,{name}.tif")
    (folder / "cohort.csv").write_text("\n".join(lines) + "\n")
    return folder / "cohort.csv"


def artefacts(out: Path) -> dict[str, bytes]:
    """Every file but status, which holds times."""
    files = {str(path.relative_to(out)): path for path in out.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if not name.startswith(("status", "logs"))}


@pytest.mark.slow
@pytest.mark.fault("native-crash", "memory")
def test_a_reader_that_aborts_hangs_or_fills_memory_fails_only_its_slide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = cohort(tmp_path, tuple(_BECOMES))
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "sitecustomize.py").write_text(_FAULTY)
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        paths = [str(tmp_path / "start"), str(Path(pathopatch.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))
        config = TileConfig(patch_px=32)
        outcomes = tile_cohort(manifest, out, config, workers=2, limit_s=20, limit_bytes=2_000_000_000)
    assert {outcome.slide_id: outcome.code for outcome in outcomes} == _BECOMES
    for slide_id, code in _BECOMES.items():
        entry = read_status(out, slide_id)["tile"]
        assert (entry["state"], entry.get("code", "")) == ("failed" if code else "done", code)
    assert sorted(path.stem for path in (out / "patches").glob("*.parquet")) == ["a", "b"]


@pytest.mark.slow
def test_two_processes_tile_the_same_bytes_as_one_and_a_rerun_is_current(tmp_path: Path) -> None:
    manifest = cohort(tmp_path, ("a", "b", "c"))
    progress_calls: list[tuple[str, int, int]] = []
    for workers in (1, 2):
        out = tmp_path / str(workers)
        outcomes = tile_cohort(
            manifest,
            out,
            CONFIG,
            workers=workers,
            progress=lambda what, done, total, _: progress_calls.append((what, done, total)),
        )
        assert [outcome.state for outcome in outcomes] == ["done"] * 3
    assert artefacts(tmp_path / "1") == artefacts(tmp_path / "2")
    of_slides = [words for words in progress_calls if words[0] != WITHIN]
    assert of_slides == 2 * [(what, done, 3) for what in ("check", "tile") for done in (1, 2, 3)]
    again = tile_cohort(manifest, tmp_path / "2", CONFIG, workers=2)
    assert [outcome.state for outcome in again] == ["current"] * 3


@pytest.mark.parametrize("workers", [1, 2])
def test_slides_of_different_scale_are_refused_before_any_is_tiled(workers: int, tmp_path: Path) -> None:
    manifest = cohort(tmp_path, ("a", "b", "cut"), mpp=(0.5, 0.6))
    made.write_truncated(tmp_path / "a.tif", 60, tmp_path / "cut.tif")
    with pytest.raises(InputUnsupportedError, match=r"a has 0\.5, b has 0\.6"):
        tile_cohort(manifest, tmp_path / "out", CONFIG, workers=workers)
    assert not (tmp_path / "out").exists()

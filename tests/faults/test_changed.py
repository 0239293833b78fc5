"""A slide that changes while it is read fails, whatever the moment: no output holds two contents."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import made_slides as made
import numpy as np
import pytest
from changing_slides import CHANGES, appended, attempt_changing, attempt_counting, overwritten, replaced
from made_model import write_model
from made_omezarr import chunk_files, write_omezarr

from pathopatch.core.artefacts import Stamp, fingerprint_file
from pathopatch.core.artefacts import made as making
from pathopatch.core.config import BatchOptions, PredictConfig, TileConfig
from pathopatch.core.errors import InputChangedError, InputCorruptError
from pathopatch.core.files import file_state
from pathopatch.core.status import SlideStatus
from pathopatch.core.task import Outcome
from pathopatch.slides import Slide, aligned, open_slide, tiff, tolerant
from pathopatch.slides.manifest import SlideRow, rows_of_same_content
from pathopatch.slides.open import OpenSlideSlide
from pathopatch.stages.batch.slide_table import open_row, slide_facts
from pathopatch.stages.find_slides import find_cohort
from pathopatch.stages.predict import predict_cohort
from pathopatch.stages.tile import tile_cohort

pytestmark = pytest.mark.fault("changed")

CONFIG = PredictConfig(device="cpu", threads=1, all_patches=True)
MOMENTS = 10
BATCH = "pathopatch.stages.batch.run.attempt"


def image(seed: int = 0) -> np.ndarray:
    disc = made.disc_image(192, 128, (90, 64), 50, tissue=(180, 90, 150), glass=(245, 245, 245))
    return disc - made.noise(3, 128, 192, np.uint8, seed=seed) // 16


def cohort(folder: Path) -> Path:
    """Ten slides that are to change, and one that is not; their manifest."""
    names = [*(f"m{moment}" for moment in range(MOMENTS)), "whole"]
    for seed, name in enumerate(names):
        made.write_rgb_pyramid(folder / f"{name}.tif", image(seed), levels=1, tile_px=64, compression=None)
    lines = [f"{name},p,{folder / name}.tif,0.5,bright" for name in names]
    (folder / "cohort.csv").write_text("\n".join(["slide_id,patient_id,path,mpp,background", *lines]))
    return folder / "cohort.csv"


def run(stage: str, manifest: Path, out: Path, workers: int) -> list[Outcome]:
    if stage == "tile":
        return tile_cohort(manifest, out, TileConfig(patch_px=32), BatchOptions(workers=workers))
    model = write_model(manifest.parent / "model")
    return predict_cohort(find_cohort([str(manifest)]).rows, [model], out, CONFIG, BatchOptions(workers=workers))


@pytest.fixture(scope="module")
def total_reads(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """How often a stage reads a slide that does not change."""
    totals = {}
    for stage in ("tile", "predict"):
        folder = tmp_path_factory.mktemp(stage)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(BATCH, partial(attempt_counting, reads=folder / "reads"))
            assert {outcome.state for outcome in run(stage, cohort(folder), folder / "out", 1)} == {"done"}
        totals[stage] = int((folder / "reads").read_text())
        assert totals[stage] > 2 * MOMENTS
    return totals


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("how", CHANGES)
@pytest.mark.parametrize("stage", ["tile", "predict"])
def test_slides_changed_at_each_of_ten_moments_fail_and_the_other_is_done(
    stage: str, how: str, workers: int, total_reads: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = cohort(tmp_path)
    at = np.linspace(1, total_reads[stage], MOMENTS).astype(int).tolist()
    moments = {f"m{number}": (str(tmp_path / f"m{number}.tif"), read) for number, read in enumerate(at)}
    monkeypatch.setattr(BATCH, partial(attempt_changing, change=how, moments=moments))
    out = tmp_path / "out"
    *changed, whole = run(stage, manifest, out, workers)
    assert whole.state == "done"
    assert {outcome.code for outcome in changed} <= {"INPUT_CHANGED", *(["INPUT_CORRUPT"] if how == "cut" else [])}
    assert not [path for path in out.rglob("m[0-9]*") if path.parent.name != "status"]


@pytest.mark.parametrize("change", ["removed", "added", "overwritten"])
def test_an_omezarr_slide_whose_chunks_change_is_noticed(change: str, tmp_path: Path) -> None:
    path = write_omezarr(tmp_path / "a.zarr", [image()], labels=("R", "G", "B"))
    with open_slide(path) as slide:
        slide.read_overview()
        slide.require_unchanged()
        chunk = chunk_files(path)[0]
        if change == "removed":
            chunk.unlink()
        elif change == "added":
            shutil.copy2(chunk, chunk.with_name("9"))
        else:
            chunk.write_bytes(bytes(chunk.stat().st_size))
        with pytest.raises(InputChangedError):
            slide.require_unchanged()


@pytest.mark.parametrize("kind", ["a.tif", "a.svs", "a.scn", "a.png", "a.czi"])
def test_a_file_replaced_between_two_reads_is_not_read_on(kind: str, tmp_path: Path) -> None:
    path = tmp_path / kind
    if kind == "a.czi":
        pytest.importorskip("pylibCZIrw")
        made.write_czi(path, {(0, 0): image()})
    elif kind == "a.tif":
        made.write_rgb_pyramid(path, image(), levels=1, tile_px=64, compression=None)
    elif kind == "a.svs":
        made.write_aperio(path, image(), levels=1, tile_px=64)
    elif kind == "a.scn":
        made.write_scn(path, image(), (9, 9), (300, 300))
    else:
        made.write_png(path, image())
    with open_slide(path, background="bright") as slide:
        slide.read_region(0, 0, 8, 8)
        slide.close()
        replaced(path)
        with pytest.raises(InputChangedError):
            slide.read_region(0, 0, 8, 8)


def test_a_slide_that_another_process_opens_again_must_be_the_same(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    made.write_rgb_pyramid(path, image(), levels=1, tile_px=64, compression=None)
    with open_slide(path, background="bright") as slide:
        sent = pickle.dumps(slide)
        pickle.loads(sent).close()
        replaced(path)
        with pytest.raises(InputChangedError):
            pickle.loads(sent)


def test_a_link_that_leads_elsewhere_for_a_while_is_noticed(tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("two", 1)):
        (tmp_path / name).mkdir()
        made.write_rgb_pyramid(tmp_path / name / "a.tif", image(seed), levels=1, tile_px=64, compression=None)
    (tmp_path / "link").symlink_to("one")
    with open_slide(tmp_path / "link" / "a.tif", background="bright") as slide:
        (tmp_path / "link").unlink()
        (tmp_path / "link").symlink_to("two")
        with pytest.raises(InputChangedError):
            slide.read_region(0, 0, 8, 8)


def test_a_link_that_leads_elsewhere_while_pages_are_listed_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seed in (("one", 0), ("two", 1)):
        made.write_rgb_pyramid(tmp_path / f"{name}.tif", image(seed), levels=1, tile_px=64, compression=None)
    listed = tiff.checked_tiff
    monkeypatch.setattr(tiff, "checked_tiff", lambda path: listed(path.with_name("two.tif")))
    with pytest.raises(InputChangedError):
        tiff.TiffSlide(tmp_path / "one.tif")


@pytest.mark.parametrize(("name", "part"), [("a.mrxs", "a/Data0000.dat"), ("a.vms", "image.jpg")])
def test_the_files_that_hold_the_pixels_of_a_slide_are_part_of_it(name: str, part: str, tmp_path: Path) -> None:
    made.write_aperio(tmp_path / name, image(), levels=1, tile_px=64)  # OpenSlide goes by the content
    with (tmp_path / name).open("ab") as stream:
        stream.write(b"\nImageFile=image.jpg\n")
    (tmp_path / "a").mkdir()
    (tmp_path / part).write_bytes(bytes(9))
    with OpenSlideSlide(tmp_path / name) as slide:
        slide.require_unchanged()
        appended(tmp_path / part)
        with pytest.raises(InputChangedError):
            slide.require_unchanged()
    copied = shutil.copytree(tmp_path, tmp_path / "copied")
    sources = [str(folder / name) for folder in (tmp_path, copied)]
    rows = [SlideRow(row=row, slide_id="x", patient_id="p", source=source) for row, source in enumerate(sources)]
    assert list(rows_of_same_content(rows)) == [rows]
    (copied / part).write_bytes(bytes(13))
    assert list(rows_of_same_content(rows)) == []


WRAPPED: dict[str, Callable[[dict[str, Path]], Slide]] = {
    "a file for each channel": open_slide,
    "aligned": lambda paths: aligned(open_slide(paths["SHG"]), ((1, 0),)),
    "tolerant": lambda paths: tolerant(open_slide(paths["SHG"]), 0.5),
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_a_slide_of_slides_changes_with_each_of_their_files(
    wrap: Callable[[dict[str, Path]], Slide], tmp_path: Path
) -> None:
    paths = made.write_modalities(tmp_path, image())
    with wrap(paths) as slide:
        slide.require_unchanged()
        replaced(paths["SHG"])
        with pytest.raises(InputChangedError):
            slide.require_unchanged()


def test_an_error_of_a_slide_that_changed_is_told_as_the_change(tmp_path: Path) -> None:
    made.write_rgb_pyramid(tmp_path / "a.tif", image(), levels=1, tile_px=64)
    with open_slide(tmp_path / "a.tif") as slide:
        status = SlideStatus(out=tmp_path, slide_id="a", stage="tile")
        by: dict[str, Any] = {"status": status, "require_unchanged": slide.require_unchanged}
        work = partial(making, tmp_path / "a.zarr", stamp=Stamp(stage="tile"), **by)
        with pytest.raises(InputCorruptError), work():
            raise InputCorruptError("it cannot be decoded")
        replaced(tmp_path / "a.tif")
        with pytest.raises(InputChangedError), work():
            raise InputCorruptError("it cannot be decoded")


def test_facts_of_a_slide_that_changes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.tif"
    made.write_rgb_pyramid(path, image(), levels=1, tile_px=64, compression=None)
    row = SlideRow(row=2, slide_id="a", patient_id="p", source=str(path))
    with open_row(row) as slide:
        slide_facts(row, slide)
        overwritten(path)
        with pytest.raises(InputChangedError):
            slide_facts(row, slide)


def test_a_file_that_changes_while_it_is_hashed_has_no_fingerprint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(bytes(10_000))

    def changing(place: Path | int) -> tuple[int | str, ...]:
        state = file_state(place)
        if isinstance(place, Path):
            overwritten(place)
        return state

    monkeypatch.setattr("pathopatch.core.artefacts.file_state", changing)
    with pytest.raises(InputChangedError):
        fingerprint_file(path)


def test_a_file_overwritten_with_its_times_set_back_has_another_fingerprint(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(bytes(10_000))
    before = fingerprint_file(path)
    status = path.stat()
    path.write_bytes(b"1" * 10_000)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert fingerprint_file(path) != before

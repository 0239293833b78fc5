"""A slide that changes while it is read fails, whatever the moment: no output holds two contents."""

from __future__ import annotations

import os
import pickle
import shutil
from functools import partial
from pathlib import Path

import made_slides as made
import numpy as np
import pytest
from changing_slides import CHANGES, attempt_changing, attempt_counting, replaced
from made_model import write_model
from made_omezarr import chunk_files, write_omezarr

from pathopatch.core.artefacts import fingerprint_file
from pathopatch.core.config import PredictConfig, TileConfig
from pathopatch.core.errors import InputChangedError
from pathopatch.slides import open_slide
from pathopatch.stages.batch.tasks import Outcome
from pathopatch.stages.predict import predict_cohort, slides_to_predict
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
        return tile_cohort(manifest, out, TileConfig(patch_px=32), workers=workers)
    model = write_model(manifest.parent / "model")
    return predict_cohort(slides_to_predict(str(manifest)), [model], out, CONFIG, workers=workers)


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
    assert not [path for path in out.rglob("*") if path.stem.startswith("m") and path.parent.name != "status"]


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


def test_a_file_overwritten_with_its_times_set_back_has_another_fingerprint(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(bytes(10_000))
    before = fingerprint_file(path)
    status = path.stat()
    path.write_bytes(b"1" * 10_000)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert fingerprint_file(path) != before

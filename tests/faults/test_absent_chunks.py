"""Chunks of an OME-Zarr slide that have no file: their share is told, and they are no pixels of any patch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import made_slides as made
import numpy as np
import pytest
from made_model import write_model
from made_omezarr import write_omezarr

from pathopatch.core.artefacts import read_table
from pathopatch.core.config import PredictConfig, TileConfig
from pathopatch.core.errors import InputCorruptError
from pathopatch.core.task import Outcome
from pathopatch.heatmaps.pyramids import read_ome_tiff
from pathopatch.patches.tile import tile_slide
from pathopatch.slides import Slide, TolerantSlide, aligned, open_slide, tolerant
from pathopatch.slides.manifest import SlideRow
from pathopatch.stages.predict import predict_cohort

pytestmark = pytest.mark.fault("absent-chunks")

CONFIG = PredictConfig(device="cpu", threads=1)
NOTE = (
    "chunks are absent, 8.3% of level 0: they are taken as not scanned; "
    "with predict --max-bad-tiles they count as unreadable"
)


def image() -> np.ndarray:
    """256 x 192 px in 4 x 3 chunks of 64, tissue in the middle."""
    return made.disc_image(256, 192, (128, 96), 80, tissue=(180, 90, 150), glass=(245, 245, 245))


def slide_without(folder: Path, column: int, row: int, channels: str = "012", **options: object) -> Path:
    """Write the slide, and remove a chunk of some channels."""
    path = write_omezarr(folder / "a.zarr", [image()], labels=("R", "G", "B"), **options)  # type: ignore[arg-type]
    nested = path / "0" / "c" if (path / "0" / "c").is_dir() else path / "0"
    for channel in channels:
        (nested / channel / str(row) / str(column)).unlink()
    return path


def predict(folder: Path, path: Path, share: float) -> Outcome:
    row = SlideRow(row=2, slide_id="a", patient_id="p", source=str(path), mpp=0.5)
    config = CONFIG.model_copy(update={"max_bad_tiles": share})
    (outcome,) = predict_cohort([row], [folder / "model"], folder / f"out{share}", config)
    return outcome


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_absent_chunks_are_background_and_not_scanned(version: str, tmp_path: Path) -> None:
    with open_slide(slide_without(tmp_path, 1, 1, version=version)) as slide:
        assert slide.notes == (NOTE,)
        expected = image()
        expected[:, 64:128, 64:128] = 255
        np.testing.assert_array_equal(slide.read_region(0, 0, 256, 192), expected)
        _, unscanned, _, _ = slide.read_scanned_overview()
    assert unscanned.mask[64:128, 64:128].all()
    assert not unscanned.mask[:60].any()


def test_a_chunk_absent_from_one_channel_leaves_the_others_as_they_are(tmp_path: Path) -> None:
    with open_slide(slide_without(tmp_path, 1, 1, channels="1")) as slide:
        read = slide.read_region(64, 64, 64, 64)
        _, unscanned, _, _ = slide.read_scanned_overview()
    np.testing.assert_array_equal(read[[0, 2]], image()[[0, 2], 64:128, 64:128])
    assert (read[1] == 255).all()
    assert unscanned.mask[64:128, 64:128].all()


WRAPPED: dict[str, Callable[[Slide], Slide]] = {
    "itself": lambda slide: slide,
    "aligned": lambda slide: aligned(slide, ((0, 0), (0, 0), (1, 0))),
    "tolerant": lambda slide: tolerant(slide, 1.0),
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_a_chunk_absent_from_level_0_alone_was_not_scanned(wrap: Callable[[Slide], Slide], tmp_path: Path) -> None:
    path = write_omezarr(tmp_path / "a.zarr", [image(), made.halved(image())], labels=("R", "G", "B"))
    for channel in "012":
        (path / "0" / "c" / channel / "1" / "1").unlink()
    with wrap(open_slide(path)) as slide:
        _, unscanned, _, _ = slide.read_scanned_overview(128)
    assert unscanned.mask[32:64, 32:64].all()


def test_of_a_file_for_each_channel_one_may_lack_a_chunk(tmp_path: Path) -> None:
    paths = {name: tmp_path / f"{name}.zarr" for name in "RGB"}
    for path, plane in zip(paths.values(), image(), strict=True):
        write_omezarr(path, [plane[None], made.halved(plane[None])])
    (paths["G"] / "0" / "c" / "0" / "1" / "1").unlink()
    with open_slide(paths, background="bright") as slide:
        _, unscanned, _, _ = slide.read_scanned_overview(128)
    assert unscanned.mask[32:64, 32:64].all()
    assert not unscanned.mask[:30].any()


def test_a_whole_or_a_blank_slide_in_shards_has_no_absent_chunk(tmp_path: Path) -> None:
    for shards in (False, True):
        path = write_omezarr(tmp_path / f"{shards}.zarr", [image()], labels=("R", "G", "B"), shards=shards)
        with open_slide(path) as slide:
            assert slide.notes == ()


def test_files_beside_the_chunks_change_nothing(tmp_path: Path) -> None:
    path = write_omezarr(tmp_path / "a.zarr", [image()], labels=("R", "G", "B"))
    for name in ("9", "note.txt"):
        (path / "0" / "c" / "0" / "0" / name).touch()
    with open_slide(path) as slide:
        assert slide.notes == ()
        np.testing.assert_array_equal(slide.read_region(0, 0, 256, 192), image())


def test_predicting_warns_of_their_share_and_leaves_their_cells_without_value(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    done = predict(tmp_path, slide_without(tmp_path, 1, 1), 0.0)
    assert (done.state, done.counts["unreadable"]) == ("done", 0)
    assert NOTE in done.warnings
    cells = read_ome_tiff(tmp_path / "out0.0" / "heatmaps" / "a" / "heatmap.ome.tif").levels[0]
    assert np.isnan(cells[0, 4:8, 4:8]).all()
    assert not np.isnan(cells[0, 4:8, 9:12]).any()


def test_with_a_share_allowed_they_count_as_unreadable(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    path = slide_without(tmp_path, 1, 1)
    done = predict(tmp_path, path, 0.1)
    assert (done.state, done.counts["unreadable"]) == ("done", 16)
    assert "16 of 192 patches (8.3%) cannot be decoded and have no value" in done.warnings
    cells = read_ome_tiff(tmp_path / "out0.1" / "heatmaps" / "a" / "heatmap.ome.tif").levels[0]
    assert np.isnan(cells[:2, 4:8, 4:8]).all()
    refused = predict(tmp_path, path, 0.05)
    assert (refused.state, refused.code) == ("failed", "INPUT_CORRUPT")
    assert "chunks are absent" in refused.message


def test_tiling_warns_of_their_share(tmp_path: Path) -> None:
    with open_slide(slide_without(tmp_path, 1, 1)) as slide:
        result = tile_slide(slide, TileConfig(patch_px=32), tmp_path / "out", slide_id="a")
    assert NOTE in result.warnings
    table = read_table(tmp_path / "out" / "patches" / "a.parquet")
    is_absent = table["x"].between(64, 96) & table["y"].between(64, 96)
    assert (is_absent.sum(), table.loc[is_absent, "tissue_fraction"].max()) == (4, 0)


@pytest.mark.parametrize("chunk_px", [16, 48, 64])
def test_squares_that_touch_an_absent_chunk_are_lost_whatever_its_size(chunk_px: int, tmp_path: Path) -> None:
    with open_slide(slide_without(tmp_path, 1, 1, chunk_px=chunk_px)) as slide:
        tolerant = TolerantSlide(slide=slide, share=1.0)
        tolerant.read_region(0, 0, 8, 8)
        origins = np.array([[x, y] for y in range(0, 192, 16) for x in range(0, 256, 16)])
        lost = origins[tolerant.is_lost(origins, 16)]
    # Squares of 64 px.
    low, high = chunk_px // 64 * 64, -(-2 * chunk_px // 64) * 64
    assert (lost.min(), lost.max()) == (low, high - 16)
    with pytest.raises(InputCorruptError, match="chunks are absent"), open_slide(tmp_path / "a.zarr") as slide:
        TolerantSlide(slide=slide, share=0.01).read_region(0, 0, 8, 8)

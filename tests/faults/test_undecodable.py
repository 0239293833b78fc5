"""A tile that cannot be decoded, or chunks without files: the slide fails or, if allowed, its cells have no value."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import made_slides as made
import numpy as np
import pandas as pd
import pytest
from made_model import write_model
from made_omezarr import chunk_files, write_omezarr

from pathopatch.core.artefacts import read_table
from pathopatch.core.config import PredictConfig, TileConfig
from pathopatch.core.errors import InputCorruptError
from pathopatch.core.files import read_json
from pathopatch.core.task import Outcome
from pathopatch.heatmaps.pyramids import read_ome_tiff
from pathopatch.patches.tile import tile_slide
from pathopatch.slides import Slide, TolerantSlide, aligned, open_slide, tolerant
from pathopatch.slides.manifest import SlideRow
from pathopatch.stages.dry_run import Plan
from pathopatch.stages.predict import predict_cohort, predict_plan

Write = Callable[[Path, np.ndarray], object]
CONFIG = PredictConfig(device="cpu", threads=1, all_patches=True)


def image() -> np.ndarray:
    return (
        made.disc_image(256, 192, (120, 90), 70, tissue=(180, 90, 150), glass=(245, 245, 245))
        - made.noise(3, 192, 256, np.uint8) // 16
    )


def spoil_chunks(path: Path, index: int) -> None:
    """Overwrite a chunk of one channel of an OME-Zarr."""
    chunk = chunk_files(path)[index]
    chunk.write_bytes(bytes(chunk.stat().st_size))


KINDS: dict[str, tuple[str, Write, Callable[[Path], None]]] = {
    "a pyramid": ("a.tif", partial(made.write_rgb_pyramid, levels=1, tile_px=64), lambda p: made.spoil_tile(p, 5)),
    "an Aperio slide": ("a.svs", partial(made.write_aperio, levels=1, tile_px=64), lambda p: made.spoil_tile(p, 5)),
    "an OME-Zarr": (
        "a.zarr",
        lambda p, pixels: write_omezarr(p, [pixels], labels=("R", "G", "B")),
        lambda p: spoil_chunks(p, 5),
    ),
}
"""A slide of 4 x 3 tiles of 64 px, and what spoils the second of the second row, of the first channel at least."""


def spoiled(folder: Path) -> Path:
    """Write a model and a spoiled pyramid."""
    name, write, spoil = KINDS["a pyramid"]
    write_model(folder / "model")
    write(folder / name, image())
    spoil(folder / name)
    return folder / name


def predict(folder: Path, path: Path, **changes: object) -> Outcome:
    config = CONFIG.model_copy(update=changes)
    (outcome,) = predict_cohort([row(path)], folder / "model", folder / f"out-{path.stem}", config)
    return outcome


def row(path: Path) -> SlideRow:
    return SlideRow(row=2, slide_id="a", patient_id="p", source=str(path), mpp=0.5)


@pytest.mark.fault("corrupt-tile")
@pytest.mark.parametrize("kind", KINDS)
def test_cells_of_an_undecodable_tile_are_nan_counted_and_the_rest_equal(kind: str, tmp_path: Path) -> None:
    name, write, spoil = KINDS[kind]
    write_model(tmp_path / "model")
    whole, bad = tmp_path / f"whole-{name}", tmp_path / f"bad-{name}"
    for path in (whole, bad):
        write(path, image())
    spoil(bad)
    assert predict(tmp_path, whole).counts["unreadable"] == 0

    refused = predict(tmp_path, bad)
    assert (refused.state, refused.code) == ("failed", "INPUT_CORRUPT")
    out = tmp_path / f"out-{bad.stem}"
    assert not (out / "heatmaps" / "a").exists()

    done = predict(tmp_path, bad, max_bad_tiles=0.1)
    assert (done.state, done.counts) == ("done", {"patches": 192, "predicted": 176, "tumour": done.counts["tumour"],
                                                  "unreadable": 16})  # fmt: skip
    assert done.warnings == ("16 of 192 patches (8.3%) cannot be decoded and have no value",)
    is_lost = np.zeros((12, 16), np.bool_)
    is_lost[4:8, 4:8] = True
    cells, expected = (
        read_ome_tiff(folder / "heatmaps" / "a" / "heatmap.ome.tif").levels[0]
        for folder in (out, tmp_path / f"out-{whole.stem}")
    )
    np.testing.assert_array_equal(np.isnan(cells[0]), is_lost)
    np.testing.assert_array_equal(np.isnan(cells[1]), is_lost)  # how much tissue there is, nobody knows either
    np.testing.assert_array_equal(cells[0][~is_lost], expected[0][~is_lost])

    facts = read_json(out / "heatmaps" / "a" / "heatmap.json")
    assert facts["counts"]["unreadable"] == 16
    assert facts["warnings"] == list(done.warnings)
    cohort = pd.read_csv(out / "cohort.csv")
    assert cohort[["unreadable", "warnings"]].to_numpy().tolist() == [[16, done.warnings[0]]]
    assert len(read_table(out / "predictions" / "a.parquet")) == 176
    assert predict(tmp_path, bad, max_bad_tiles=0.1).state == "current"
    assert predict(tmp_path, bad, max_bad_tiles=0.2).code == "STALE_ARTEFACT"  # what was made tolerated another share


@pytest.mark.fault("corrupt-tile")
def test_more_than_is_allowed_fails_the_slide(tmp_path: Path) -> None:
    outcome = predict(tmp_path, spoiled(tmp_path), max_bad_tiles=0.05)
    assert (outcome.state, outcome.code) == ("failed", "INPUT_CORRUPT")
    assert "more than 5.00% of level 0 cannot be decoded" in outcome.message


@pytest.mark.fault("corrupt-tile")
def test_a_dry_run_says_of_it_what_predicting_will(tmp_path: Path) -> None:
    path = spoiled(tmp_path)

    def planned(share: float) -> Plan:
        config = CONFIG.model_copy(update={"max_bad_tiles": share})
        return predict_plan([row(path)], [tmp_path / "model"], tmp_path / "out-a", config)

    (refused,) = planned(0.05).failed
    assert (refused.code, len(planned(0.05).table)) == ("INPUT_CORRUPT", 0)
    allowed = planned(0.1)
    assert (allowed.failed, allowed.table["patches"].tolist()) == ((), [192])
    assert predict(tmp_path, path, max_bad_tiles=0.1).state == "done"
    assert planned(0.1).finished["slide_id"].tolist() == ["a"]


@pytest.mark.fault("corrupt-tile")
def test_overlapping_patches_on_an_undecodable_tile_have_no_value(tmp_path: Path) -> None:
    assert predict(tmp_path, spoiled(tmp_path), max_bad_tiles=0.1, stride_px=8).counts["unreadable"] == 9 * 9
    cells = read_ome_tiff(tmp_path / "out-a" / "heatmaps" / "a" / "heatmap.ome.tif").levels[0]
    rows, columns = np.nonzero(np.isnan(cells[0]))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (8, 15, 8, 15)


@pytest.mark.fault("corrupt-tile")
def test_a_slide_is_read_around_what_is_lost_and_says_where_that_is(tmp_path: Path) -> None:
    with open_slide(spoiled(tmp_path)) as slide:
        whole = TolerantSlide(slide=slide, share=0.1)
        read = whole.read_region(30, 30, 200, 150)
    expected = image()[:, 30:180, 30:230].copy()
    expected[:, 34:98, 34:98] = 255
    np.testing.assert_array_equal(read, expected)
    origins = np.array([[63, 63], [48, 64], [49, 64], [127, 127], [128, 64]])
    assert whole.is_lost(origins, 16).tolist() == [True, False, True, True, False]
    with pytest.raises(InputCorruptError, match="more than 1.00%"):
        TolerantSlide(slide=slide, share=0.01).read_overview()


NOTE = (
    "chunks are absent, 8.3% of level 0: they are taken as not scanned; "
    "with predict --max-bad-tiles they count as unreadable"
)


def disc() -> np.ndarray:
    """256 x 192 px in 4 x 3 chunks of 64, tissue in the middle."""
    return made.disc_image(256, 192, (128, 96), 80, tissue=(180, 90, 150), glass=(245, 245, 245))


def slide_without(folder: Path, column: int, row: int, channels: str = "012", **options: object) -> Path:
    """Write the slide, and remove a chunk of some channels."""
    path = write_omezarr(folder / "a.zarr", [disc()], labels=("R", "G", "B"), **options)  # type: ignore[arg-type]
    nested = path / "0" / "c" if (path / "0" / "c").is_dir() else path / "0"
    for channel in channels:
        (nested / channel / str(row) / str(column)).unlink()
    return path


@pytest.mark.fault("absent-chunks")
@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_absent_chunks_are_background_and_not_scanned(version: str, tmp_path: Path) -> None:
    with open_slide(slide_without(tmp_path, 1, 1, version=version)) as slide:
        assert slide.notes == (NOTE,)
        expected = disc()
        expected[:, 64:128, 64:128] = 255
        np.testing.assert_array_equal(slide.read_region(0, 0, 256, 192), expected)
        _, unscanned, _, _ = slide.read_scanned_overview()
    assert unscanned.mask[64:128, 64:128].all()
    assert not unscanned.mask[:60].any()


@pytest.mark.fault("absent-chunks")
def test_a_chunk_absent_from_one_channel_leaves_the_others_as_they_are(tmp_path: Path) -> None:
    with open_slide(slide_without(tmp_path, 1, 1, channels="1")) as slide:
        read = slide.read_region(64, 64, 64, 64)
        _, unscanned, _, _ = slide.read_scanned_overview()
    np.testing.assert_array_equal(read[[0, 2]], disc()[[0, 2], 64:128, 64:128])
    assert (read[1] == 255).all()
    assert unscanned.mask[64:128, 64:128].all()


WRAPPED: dict[str, Callable[[Slide], Slide]] = {
    "itself": lambda slide: slide,
    "aligned": lambda slide: aligned(slide, ((0, 0), (0, 0), (1, 0))),
    "tolerant": lambda slide: tolerant(slide, 1.0),
}


@pytest.mark.fault("absent-chunks")
@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_a_chunk_absent_from_level_0_alone_was_not_scanned(wrap: Callable[[Slide], Slide], tmp_path: Path) -> None:
    path = write_omezarr(tmp_path / "a.zarr", [disc(), made.halved(disc())], labels=("R", "G", "B"))
    for channel in "012":
        (path / "0" / "c" / channel / "1" / "1").unlink()
    with wrap(open_slide(path)) as slide:
        _, unscanned, _, _ = slide.read_scanned_overview(128)
    assert unscanned.mask[32:64, 32:64].all()


@pytest.mark.fault("absent-chunks")
def test_of_a_file_for_each_channel_one_may_lack_a_chunk(tmp_path: Path) -> None:
    paths = {name: tmp_path / f"{name}.zarr" for name in "RGB"}
    for path, plane in zip(paths.values(), disc(), strict=True):
        write_omezarr(path, [plane[None], made.halved(plane[None])])
    (paths["G"] / "0" / "c" / "0" / "1" / "1").unlink()
    with open_slide(paths, background="bright") as slide:
        _, unscanned, _, _ = slide.read_scanned_overview(128)
    assert unscanned.mask[32:64, 32:64].all()
    assert not unscanned.mask[:30].any()


@pytest.mark.fault("absent-chunks")
def test_a_whole_or_a_blank_slide_in_shards_has_no_absent_chunk(tmp_path: Path) -> None:
    for shards in (False, True):
        path = write_omezarr(tmp_path / f"{shards}.zarr", [disc()], labels=("R", "G", "B"), shards=shards)
        with open_slide(path) as slide:
            assert slide.notes == ()


@pytest.mark.fault("absent-chunks")
def test_files_beside_the_chunks_change_nothing(tmp_path: Path) -> None:
    path = write_omezarr(tmp_path / "a.zarr", [disc()], labels=("R", "G", "B"))
    for name in ("9", "note.txt"):
        (path / "0" / "c" / "0" / "0" / name).touch()
    with open_slide(path) as slide:
        assert slide.notes == ()
        np.testing.assert_array_equal(slide.read_region(0, 0, 256, 192), disc())


@pytest.mark.fault("absent-chunks")
def test_predicting_warns_of_their_share_and_leaves_their_cells_without_value(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    done = predict(tmp_path, slide_without(tmp_path, 1, 1), all_patches=False)
    assert (done.state, done.counts["unreadable"]) == ("done", 0)
    assert NOTE in done.warnings
    cells = read_ome_tiff(tmp_path / "out-a" / "heatmaps" / "a" / "heatmap.ome.tif").levels[0]
    assert np.isnan(cells[0, 4:8, 4:8]).all()
    assert not np.isnan(cells[0, 4:8, 9:12]).any()


@pytest.mark.fault("absent-chunks")
def test_with_a_share_allowed_they_count_as_unreadable(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    path = slide_without(tmp_path, 1, 1)
    refused = predict(tmp_path, path, max_bad_tiles=0.05, all_patches=False)
    assert (refused.state, refused.code) == ("failed", "INPUT_CORRUPT")
    assert "chunks are absent" in refused.message
    done = predict(tmp_path, path, max_bad_tiles=0.1, all_patches=False)
    assert (done.state, done.counts["unreadable"]) == ("done", 16)
    assert "16 of 192 patches (8.3%) cannot be decoded and have no value" in done.warnings
    cells = read_ome_tiff(tmp_path / "out-a" / "heatmaps" / "a" / "heatmap.ome.tif").levels[0]
    assert np.isnan(cells[:2, 4:8, 4:8]).all()


@pytest.mark.fault("absent-chunks")
def test_tiling_warns_of_their_share(tmp_path: Path) -> None:
    with open_slide(slide_without(tmp_path, 1, 1)) as slide:
        result = tile_slide(slide, TileConfig(patch_px=32), tmp_path / "out", slide_id="a")
    assert NOTE in result.warnings
    table = read_table(tmp_path / "out" / "patches" / "a.parquet")
    is_absent = table["x"].between(64, 96) & table["y"].between(64, 96)
    assert (is_absent.sum(), table.loc[is_absent, "tissue_fraction"].max()) == (4, 0)


@pytest.mark.fault("absent-chunks")
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

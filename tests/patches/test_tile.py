"""Tiling one slide: exact fractions, labels and pixels, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import made_slides as made
import numpy as np
import pandas as pd
import pytest
import shapely
from array_slides import h_and_e, low_counts, write_mask
from made_outlines import geojson, polygon
from numpy.typing import NDArray

from pathopatch.core.config import AnnotationConfig, LabelConfig, TileConfig
from pathopatch.core.errors import (
    ModalityMismatchError,
    StaleArtefactError,
)
from pathopatch.core.files import read_json
from pathopatch.groups.assign import assign_groups
from pathopatch.patches.analysis import analyse_slide
from pathopatch.patches.labels import LabelSource
from pathopatch.patches.store import PatchStore
from pathopatch.patches.tile import COLUMNS, tile_slide

Make = Callable[..., Any]
Discs = NDArray[np.bool_]
CONFIG = TileConfig(patch_px=32)


def inner_mean(truth: NDArray[Any], x: int, y: int, side: int) -> float:
    return float(truth[y : y + side, x : x + side].mean())


def table_of(out: Path, slide_id: str = "slide") -> pd.DataFrame:
    return pd.read_parquet(out / "patches" / f"{slide_id}.parquet")


@pytest.mark.parametrize("look", [low_counts, h_and_e, lambda truth: low_counts(truth) / 157.0])
def test_the_tissue_fractions_and_masks_of_two_discs_are_exact(
    make_slide: Make, two_discs: Discs, tmp_path: Path, look: Callable[[Discs], Any]
) -> None:
    slide = make_slide(look(two_discs))
    result = tile_slide(slide, CONFIG, tmp_path / "work", patient_id="p")
    table = table_of(tmp_path / "work")
    assert (result.state, result.patches) == ("done", 7 * 5)
    assert tuple(table.columns) == COLUMNS
    truth = [inner_mean(two_discs, x, y, 32) for x, y in zip(table.x, table.y, strict=True)]
    store, masks, means = masked(tmp_path / "work")
    assert table.tissue_fraction.tolist() == truth == means
    padded = np.zeros((160, 224), bool)  # nothing beyond the slide is tissue
    padded[:150, :200] = two_discs
    for mask, (x, y) in zip(masks, store.origins, strict=True):
        np.testing.assert_array_equal(mask, padded[y : y + 32, x : x + 32])
    assert 0 in truth
    assert table.patch_id[8] == "slide@32,32"
    assert set(table.patient_id) == {"p"}
    assert set(table.label) == {-1}
    assert table.tumor_fraction.isna().all()


def test_a_coarser_target_and_overlap_keep_the_fractions_exact(make_slide: Make, tmp_path: Path) -> None:
    truth = np.zeros((96, 100), bool)
    truth[20:60, 40:100] = True
    config = TileConfig(patch_px=16, stride_px=12, mpp=1.0)
    tile_slide(make_slide(low_counts(truth), mpp=0.5), config, tmp_path / "work")
    table = table_of(tmp_path / "work")
    # A patch is 32 level-0 px wide, every 24 px: five columns (the last at 96, 4 px inside) and four rows.
    assert sorted(set(table.x)) == [0, 24, 48, 72, 96]
    assert sorted(set(table.y)) == [0, 24, 48, 72]
    expected = [inner_mean(truth, x, y, 32) for x, y in zip(table.x, table.y, strict=True)]
    assert table.tissue_fraction.tolist() == expected


def test_every_patch_is_stored_as_the_slide_has_it(make_slide: Make, two_discs: Discs, tmp_path: Path) -> None:
    pixels = low_counts(two_discs)
    tile_slide(make_slide(pixels), CONFIG, tmp_path / "work")
    store = PatchStore(tmp_path / "work" / "slides" / "slide.zarr")
    padded = np.zeros((2, 160, 224), np.uint16)  # dark: what lies beyond the slide is 0
    padded[:, :150, :200] = pixels
    for row, (x, y) in zip(store.read(range(35)), store.origins, strict=True):
        assert (row == padded[:, y : y + 32, x : x + 32]).all()
    assert store.rows(table_of(tmp_path / "work").patch_id.tolist()).tolist() == list(range(len(store)))
    assert (store.tissue() == two_discs).all()
    assert store.attributes["channels"] == ["CARS", "SHG"]


@pytest.mark.parametrize(
    "pixels",
    [
        np.full((3, 70, 90), 255, np.uint8),
        np.random.default_rng(0).normal(235, 6, (3, 70, 90)).clip(0, 255).astype(np.uint8),
        np.zeros((2, 70, 90), np.uint16),
        np.random.default_rng(0).poisson(3, (2, 70, 90)).astype(np.uint16),
    ],
    ids=["white", "noisy white", "black", "dark noise"],
)
def test_a_slide_of_background_only_is_done_empty_with_valid_artefacts(
    make_slide: Make, tmp_path: Path, pixels: NDArray[Any], caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "work"
    result = tile_slide(make_slide(pixels), CONFIG, out)
    assert (result.state, result.patches) == ("done_empty", 9)
    assert table_of(out).tissue_fraction.tolist() == [0] * 9
    assert PatchStore(out / "slides" / "slide.zarr").read([8]).shape == (1, len(pixels), 32, 32)
    assert read_json(out / "status" / "slide.json")["tile"]["state"] == "done_empty"
    assert "no tissue" in caplog.text
    assert tile_slide(make_slide(pixels), CONFIG, out).state == "current"


def test_labels_follow_the_tumour_mask_and_the_labelled_mask(
    make_slide: Make, two_discs: Discs, tmp_path: Path
) -> None:
    tumor = np.zeros((75, 100), bool)  # half the slide's scale
    tumor[35:60, 62:90] = True
    labelled = np.ones((75, 100), bool)
    labelled[:, :16] = False
    source = LabelSource(
        tumor_mask=write_mask(tmp_path / "tumor.png", tumor),
        labelled_mask=write_mask(tmp_path / "labelled.png", labelled),
    )
    tile_slide(make_slide(low_counts(two_discs)), CONFIG, tmp_path / "work", labels=source)
    table = table_of(tmp_path / "work")
    for row in table.itertuples():
        box = (row.x // 2, row.y // 2, 16)
        assert row.tumor_fraction == pytest.approx(inner_mean(tumor, *box), abs=1e-12)
        assert row.labelled_fraction == pytest.approx(inner_mean(labelled, *box), abs=1e-12)
    assert set(table.label[table.x == 0]) == {-1}
    assert set(table.label[table.x == 32]) == {0}
    assert table.label[table.tumor_fraction > 0].eq(1).all()


def test_a_tissue_mask_replaces_the_threshold_and_is_in_the_stamp(
    make_slide: Make, two_discs: Discs, tmp_path: Path
) -> None:
    out, mask = tmp_path / "work", write_mask(tmp_path / "tissue.png", ~two_discs)
    tile_slide(make_slide(low_counts(two_discs)), CONFIG, out, tissue_mask=mask)
    _, masks, means = masked(out)
    assert table_of(out)["tissue_fraction"].tolist() == means
    np.testing.assert_array_equal(masks[0], ~two_discs[:32, :32])
    assert masks[-1][:22, :8].all()
    assert masks[-1].sum() == 22 * 8
    assert PatchStore(out / "slides" / "slide.zarr").attributes["tissue"]["is_supplied"]
    write_mask(mask, two_discs)
    with pytest.raises(StaleArtefactError, match="tissue_mask"):
        tile_slide(make_slide(low_counts(two_discs)), CONFIG, out, tissue_mask=mask)
    write_mask(mask, np.zeros((100, 100)))
    with pytest.raises(ModalityMismatchError, match=r"100 x 100 .* 200 x 150"):
        analyse_slide(make_slide(low_counts(two_discs)), CONFIG, tissue_mask=mask)


def test_sharpness_is_measured_at_one_scale_whatever_the_patches_have(make_slide: Make, tmp_path: Path) -> None:
    pattern = np.random.default_rng(0).integers(0, 255, (3, 64, 64)).astype(np.uint8)
    fine = np.repeat(np.repeat(pattern, 2, axis=1), 2, axis=2)
    sharp = []
    for name, pixels, mpp, patch_px in (("coarse", pattern, 1.0, 32), ("fine", fine, 0.5, 64)):
        slide = make_slide(pixels, mpp=mpp, name=name)
        tile_slide(slide, TileConfig(patch_px=patch_px), tmp_path, slide_id=name)
        sharp.append(table_of(tmp_path, name)["sharpness"].to_numpy())
    assert np.allclose(sharp[0], sharp[1], rtol=1e-5)
    assert sharp[0].min() > 0


def test_without_a_store_the_table_is_the_same_and_the_windows_are_known(
    make_slide: Make, two_discs: Discs, tmp_path: Path
) -> None:
    slide = make_slide(low_counts(two_discs))
    tile_slide(slide, CONFIG, tmp_path / "with")
    config = TileConfig(patch_px=32, store="none")
    assert tile_slide(slide, config, tmp_path / "without").state == "done"
    pd.testing.assert_frame_equal(table_of(tmp_path / "with"), table_of(tmp_path / "without"))
    bare, full = (PatchStore(tmp_path / name / "slides" / "slide.zarr") for name in ("without", "with"))
    assert not bare.has_patches
    assert bare.pixels_checksum == full.pixels_checksum
    np.testing.assert_array_equal(bare.masks(range(35), "tissue"), full.masks(range(35), "tissue"))
    assert bare.windows.tolist() == full.windows.tolist()
    assert tile_slide(slide, config, tmp_path / "without").state == "current"


def masked(out: Path, slide_id: str = "slide") -> tuple[PatchStore, NDArray[np.bool_], list[float]]:
    """The store of a slide as large as its overview, its tissue masks, and their means over scanned pixels."""
    store = PatchStore(out / "slides" / f"{slide_id}.zarr")
    masks, unscanned = store.masks(range(len(store)), "tissue"), store.unscanned()
    scanned = np.ones(store.overview().shape[1:], bool) if unscanned is None else unscanned == 0
    side = masks.shape[1]
    counts = [int(np.count_nonzero(scanned[y : y + side, x : x + side])) for x, y in store.origins.tolist()]
    return store, masks, [int(mask.sum()) / max(1, count) for mask, count in zip(masks, counts, strict=True)]


@pytest.mark.parametrize("patch_px", [32, 45])
def test_what_was_not_scanned_is_in_no_tissue_mask(make_slide: Make, tmp_path: Path, patch_px: int) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.normal(230, 2, (3, 150, 200))
    pixels[:, 20:120, 10:150] = rng.normal(130, 9, (3, 100, 140))
    pixels[:, :, 90:] = np.where(np.arange(150)[:, None] < 60, 0, pixels[:, :, 90:])  # a black corner
    tile_slide(make_slide(pixels.clip(0, 255).astype(np.uint8)), TileConfig(patch_px=patch_px), tmp_path)
    store, masks, means = masked(tmp_path)
    table = table_of(tmp_path)
    assert table.tissue_fraction.tolist() == means
    unscanned = store.unscanned()
    assert unscanned is not None
    assert unscanned[:60, 90:].all()
    assert max(means) == 1
    sheet = np.zeros((400, 400), bool)
    for mask, (x, y) in zip(masks, store.origins, strict=True):
        sheet[y : y + patch_px, x : x + patch_px] = mask
    assert not (sheet[:150, :200] & (unscanned != 0)).any()
    assert not sheet[150:].any()
    assert sheet[70:110, 20:140].mean() > 0.99


def test_a_tumour_mask_is_the_files_at_the_patches_pixels(make_slide: Make, two_discs: Discs, tmp_path: Path) -> None:
    tumor = np.zeros((75, 100), bool)  # half the slide's scale
    tumor[35:60, 62:90] = tumor[70:, 90:] = True
    source = LabelSource(tumor_mask=write_mask(tmp_path / "tumor.png", tumor))
    tile_slide(make_slide(low_counts(two_discs)), TileConfig(patch_px=32, stride_px=17), tmp_path, labels=source)
    store, table = PatchStore(tmp_path / "slides" / "slide.zarr"), table_of(tmp_path)
    sheet = np.zeros((200, 250), bool)
    sheet[:150, :200] = np.kron(tumor, np.ones((2, 2), bool))
    masks = store.masks(range(len(table)), "tumor")
    for mask, fraction, (x, y) in zip(masks, table.tumor_fraction, store.origins.tolist(), strict=True):
        np.testing.assert_array_equal(mask, sheet[y : y + 32, x : x + 32])
        assert mask[: 150 - y, : 200 - x].mean() == pytest.approx(fraction, abs=1e-12)
    assert masks[table.label == 0].sum() == 0


def test_a_drawn_outline_becomes_the_pixels_whose_centres_it_holds(
    make_slide: Make, two_discs: Discs, tmp_path: Path
) -> None:
    angle = np.linspace(0, 2 * np.pi, 200)
    ring = np.stack([90.3 + 50 * np.cos(angle), 70.7 + 45 * np.sin(angle)], axis=1)
    ring[-1] = ring[0]
    path = geojson(tmp_path, polygon(ring.tolist()))
    config = TileConfig(patch_px=32, labels=LabelConfig(annotations=AnnotationConfig(tumor=("Tumor",))))
    tile_slide(make_slide(low_counts(two_discs)), config, tmp_path, labels=LabelSource(annotations=path))
    store, table = PatchStore(tmp_path / "slides" / "slide.zarr"), table_of(tmp_path)
    y, x = np.mgrid[:160, :224] + 0.5
    sheet = shapely.contains_xy(shapely.Polygon(ring), x, y)
    masks = store.masks(range(len(table)), "tumor")
    for mask, (left, top) in zip(masks, store.origins.tolist(), strict=True):
        np.testing.assert_array_equal(mask, sheet[top : top + 32, left : left + 32])
    on_slide = [mask[: 150 - y, : 200 - x].mean() for mask, (x, y) in zip(masks, store.origins.tolist(), strict=True)]
    assert np.abs(np.array(on_slide) - table.tumor_fraction).max() < 0.01
    assert {0, 1} < set(table.tumor_fraction)


def test_a_slide_without_tumour_has_empty_masks_and_an_unlabelled_one_none(
    make_slide: Make, two_discs: Discs, tmp_path: Path
) -> None:
    slide = make_slide(low_counts(two_discs))
    for name, source in (("none", LabelSource(whole_slide="none")), ("open", None)):
        tile_slide(slide, CONFIG, tmp_path, slide_id=name, labels=source)
    healthy, unlabelled = (PatchStore(tmp_path / "slides" / f"{name}.zarr") for name in ("none", "open"))
    assert not healthy.masks(range(35), "tumor").any()
    assert not unlabelled.has_masks("tumor")
    assert unlabelled.has_masks("tissue")


def test_progress_counts_up_to_all_patches(make_slide: Make, two_discs: Discs, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    slide = make_slide(low_counts(two_discs))
    tile_slide(slide, CONFIG, tmp_path / "work", progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (35, 35)


def test_int8_gives_the_fractions_and_pixels_of_int16(make_slide: Make, two_discs: Discs, tmp_path: Path) -> None:
    pixels = low_counts(two_discs).astype(np.int16)
    pixels = np.stack([pixels[0] - 80, pixels[1] // 10 - 100])  # -80 and 77; about 0
    config = CONFIG.model_copy(update={"patch_px": 16, "mpp": 1.7})
    stores = {}
    for dtype in ("int8", "int16"):
        slide = make_slide(pixels.astype(dtype), name=dtype, background="dark")
        tile_slide(slide, config, tmp_path / "work", patient_id="p")
        stores[dtype] = PatchStore(tmp_path / "work" / "slides" / f"{dtype}.zarr")
    narrow, wide = (table_of(tmp_path / "work", name).drop(columns=["patch_id", "slide_id"]) for name in stores)
    pd.testing.assert_frame_equal(*(table.drop(columns="pixels_checksum") for table in (narrow, wide)))
    assert 0 < narrow.tissue_fraction.mean() < 1
    index = np.arange(len(narrow))
    np.testing.assert_array_equal(stores["int8"].read(index), stores["int16"].read(index))
    assert stores["int8"].read(index).dtype == np.int8


def test_slivers_at_the_edge_of_a_slide_have_no_group(make_slide: Make, tmp_path: Path) -> None:
    image = np.full((3, 130, 132), 200, np.uint8)
    image[:, 8:] = made.noise(3, 122, 132, np.uint8) // 2  # tissue everywhere below a strip of glass
    result = tile_slide(make_slide(image), TileConfig(patch_px=64), tmp_path, labels=LabelSource(whole_slide="none"))
    assert [warning[:20] for warning in result.warnings if "overhang" in warning] == ["5% of the tissue is "]
    table = pd.read_parquet(tmp_path / "patches" / "slide.parquet")
    parts = np.outer([64, 64, 2], [64, 64, 4]).ravel() / 64**2
    np.testing.assert_array_equal(table["scanned_fraction"], parts)
    assert (table["label"] == 0).all()
    groups = assign_groups(table, [0.25])
    np.testing.assert_array_equal(groups["group@0.25"] >= 0, parts == 1)


@pytest.mark.parametrize(("side", "state"), [(49, "done"), (40, "done_empty")])
def test_a_slide_smaller_than_a_patch_needs_half_of_it(side: int, state: str, make_slide: Make, tmp_path: Path) -> None:
    image = np.full((3, side, side), 230, np.uint8)
    image[:, : side // 2] = made.noise(3, side // 2, side, np.uint8) // 2
    result = tile_slide(make_slide(image), TileConfig(patch_px=64), tmp_path)
    assert result.state == state  # 59 % and 39 % of the patch
    lost = [warning for warning in result.warnings if "overhang" in warning]
    assert [warning.split(" of the tissue")[0] for warning in lost] == (["100%"] if state == "done_empty" else [])


@pytest.mark.parametrize(("width", "lost"), [(130, []), (131, ["2%"]), (132, ["3%"])])
def test_unjudged_tissue_is_warned_of_from_2_percent(
    make_slide: Make, tmp_path: Path, width: int, lost: list[str]
) -> None:
    image = np.full((3, 128, width), 230, np.uint8)
    image[:, 30:] = made.noise(3, 98, width, np.uint8) // 2
    # The last column of patches has 2, 3 or 4 px of the width: 1.5 %, 2.3 % or 3.0 % of the tissue.
    warnings = tile_slide(make_slide(image), TileConfig(patch_px=64), tmp_path).warnings
    assert [warning.split(" of the tissue")[0] for warning in warnings if "overhang" in warning] == lost


def test_much_tissue_in_the_overhang_is_warned_of(make_slide: Make, tmp_path: Path) -> None:
    image = np.full((3, 128, 90), 230, np.uint8)
    image[:, 30:] = made.noise(3, 98, 90, np.uint8) // 2
    # The last column of patches has 26 of the 90 px.
    warnings = tile_slide(make_slide(image), TileConfig(patch_px=64), tmp_path).warnings
    assert [warning[:54] for warning in warnings] == ["29% of the tissue is in patches of 64 px that overhang"]
    half = tile_slide(make_slide(image, name="half"), TileConfig(patch_px=64, stride_px=32), tmp_path)
    assert not any("overhang" in warning for warning in half.warnings)

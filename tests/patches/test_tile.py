from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from pathopatch.config import IntensityConfig, TileConfig, TissueConfig
from pathopatch.errors import (
    ChannelMismatchError,
    InputUnsupportedError,
    ModalityMismatchError,
    MppMissingError,
    NonFiniteError,
    StaleArtefactError,
)
from pathopatch.files import atomic_path, read_json
from pathopatch.patches import tile as tile_module
from pathopatch.patches.labels import LabelSource
from pathopatch.patches.store import PatchStore
from pathopatch.patches.tile import COLUMNS, analyse_slide, iterate_patches, tile_slide

Make = Callable[..., Any]
Discs = NDArray[np.bool_]
CONFIG = TileConfig(patch_px=32)


def low_counts(truth: Discs) -> NDArray[np.uint16]:
    """Return one SHG-like channel of 0 to 157 counts and one of noise."""
    generator = np.random.default_rng(0)
    shg = np.where(truth, 157, 0)
    return np.stack([shg, generator.normal(1000, 20, truth.shape)]).astype(np.uint16)


def h_and_e(truth: Discs) -> NDArray[np.uint8]:
    return np.where(truth, np.array([180, 90, 150])[:, None, None], 245).astype(np.uint8)


def inner_mean(truth: NDArray[Any], x: int, y: int, side: int) -> float:
    return float(truth[y : y + side, x : x + side].mean())


def table_of(out: Path, slide_id: str = "slide") -> pd.DataFrame:
    return pd.read_parquet(out / "patches" / f"{slide_id}.parquet")


@pytest.mark.parametrize("look", [low_counts, h_and_e, lambda truth: low_counts(truth) / 157.0])
def test_the_tissue_fractions_of_two_discs_are_exact(
    make_slide: Make, two_discs: Discs, tmp_path: Path, look: Callable[[Discs], Any]
) -> None:
    slide = make_slide(look(two_discs))
    result = tile_slide(slide, CONFIG, tmp_path / "work", patient_id="p")
    table = table_of(tmp_path / "work")
    assert (result.state, result.patches) == ("done", 7 * 5)
    assert tuple(table.columns) == COLUMNS
    truth = [inner_mean(two_discs, x, y, 32) for x, y in zip(table.x, table.y, strict=True)]
    assert table.tissue_fraction.tolist() == truth
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
    assert store.patch_ids == table_of(tmp_path / "work").patch_id.tolist()
    assert (store.tissue() == two_discs).all()
    assert store.attributes["channels"] == ["CARS", "SHG"]


def test_glass_pads_a_bright_slide(make_slide: Make, two_discs: Discs) -> None:
    slide = make_slide(h_and_e(two_discs))
    analysis = analyse_slide(slide, CONFIG)
    _, patches, _ = next(iterate_patches(slide, analysis, origins=np.array([[192, 128]])))
    assert (patches[0, :, 22:] == 255).all()
    assert (patches[0, :, :, 8:] == 255).all()
    assert (patches[0, :, :22, :8] == 245).all()


def test_the_polarity_that_is_set_decides_tissue_and_padding(make_slide: Make, two_discs: Discs) -> None:
    slide = make_slide(low_counts(two_discs))
    config = TileConfig(patch_px=32, tissue=TissueConfig(background="bright"))
    analysis = analyse_slide(slide, config)
    _, patches, fraction = next(iterate_patches(slide, analysis, origins=np.array([[192, 128]])))
    assert (patches[0, :, 22:] == 65535).all()
    assert fraction.tolist() == [1.0]  # the dark corner now counts as tissue


def test_patches_below_a_share_of_tissue_can_be_left_out(make_slide: Make, two_discs: Discs) -> None:
    slide = make_slide(low_counts(two_discs))
    analysis = analyse_slide(slide, CONFIG)
    everything = np.concatenate([fraction for _, _, fraction in iterate_patches(slide, analysis)])
    for least in (0.01, 0.5, 1.0):
        found = list(iterate_patches(slide, analysis, min_tissue=least))
        rows = np.concatenate([rows for rows, _, _ in found])
        assert rows.tolist() == np.flatnonzero(everything >= least).tolist()
        assert np.concatenate([fraction for _, _, fraction in found]).tolist() == everything[rows].tolist()


def test_the_intensity_window_is_that_of_the_tissue(make_slide: Make, two_discs: Discs, tmp_path: Path) -> None:
    pixels = low_counts(two_discs)
    pixels[1] = np.where(two_discs, 500, 9)
    tile_slide(make_slide(pixels), CONFIG, tmp_path / "work")
    store = PatchStore(tmp_path / "work" / "slides" / "slide.zarr")
    assert store.windows.tolist() == [[157, 157], [500, 500]]


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


def mask_file(path: Path, truth: NDArray[Any]) -> Path:
    import cv2

    assert cv2.imwrite(str(path), truth.astype(np.uint8) * 255)
    return path


def test_labels_follow_the_tumour_mask_and_the_labelled_mask(
    make_slide: Make, two_discs: Discs, tmp_path: Path
) -> None:
    tumor = np.zeros((75, 100), bool)  # half the slide's scale
    tumor[35:60, 62:90] = True
    labelled = np.ones((75, 100), bool)
    labelled[:, :16] = False
    source = LabelSource(
        tumor_mask=mask_file(tmp_path / "tumor.png", tumor),
        labelled_mask=mask_file(tmp_path / "labelled.png", labelled),
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


def test_a_mask_of_another_slide_is_refused_before_anything_is_written(
    make_slide: Make, two_discs: Discs, tmp_path: Path
) -> None:
    source = LabelSource(tumor_mask=mask_file(tmp_path / "tumor.png", np.zeros((100, 100))))
    with pytest.raises(ModalityMismatchError, match=r"100 x 100 .* 200 x 150"):
        tile_slide(make_slide(low_counts(two_discs)), CONFIG, tmp_path / "work", labels=source)
    assert not (tmp_path / "work" / "slides").exists()


def test_a_tissue_mask_takes_the_place_of_the_threshold_and_is_part_of_the_stamp(
    make_slide: Make, two_discs: Discs, tmp_path: Path
) -> None:
    out, mask = tmp_path / "work", mask_file(tmp_path / "tissue.png", ~two_discs)
    tile_slide(make_slide(low_counts(two_discs)), CONFIG, out, tissue_mask=mask)
    table = table_of(out)
    assert table["tissue_fraction"].iloc[0] == inner_mean(~two_discs, 0, 0, 32)
    assert PatchStore(out / "slides" / "slide.zarr").attributes["tissue"]["is_supplied"]
    mask_file(mask, two_discs)
    with pytest.raises(StaleArtefactError, match="tissue_mask"):
        tile_slide(make_slide(low_counts(two_discs)), CONFIG, out, tissue_mask=mask)
    mask_file(mask, np.zeros((100, 100)))
    with pytest.raises(ModalityMismatchError, match=r"100 x 100 .* 200 x 150"):
        analyse_slide(make_slide(low_counts(two_discs)), CONFIG, tissue_mask=mask)


@pytest.mark.parametrize(
    "config",
    [
        TileConfig(tissue=TissueConfig(channels=("CARS", "TPEF"))),
        TileConfig(intensity=IntensityConfig(windows={"TPEF": (0, 9)})),
    ],
)
def test_a_channel_that_the_slide_does_not_have_is_named(
    make_slide: Make, two_discs: Discs, config: TileConfig
) -> None:
    with pytest.raises(ChannelMismatchError, match="names TPEF, the slide has CARS, SHG"):
        analyse_slide(make_slide(low_counts(two_discs)), config)


def test_windows_of_a_cohort_are_never_guessed_from_one_slide(make_slide: Make, two_discs: Discs) -> None:
    slide = make_slide(low_counts(two_discs))
    half = IntensityConfig(scope="cohort", windows={"CARS": (0, 100)})
    with pytest.raises(InputUnsupportedError, match="no window of the cohort for SHG"):
        analyse_slide(slide, TileConfig(patch_px=32, intensity=half))
    whole = IntensityConfig(scope="cohort", windows={"CARS": (0, 100), "SHG": (900, 1100)})
    found = analyse_slide(slide, TileConfig(patch_px=32, intensity=whole))
    assert found.windows.tolist() == [[0, 100], [900, 1100]]


def test_the_channels_that_are_chosen_make_the_tissue(make_slide: Make, two_discs: Discs) -> None:
    pixels = np.stack([np.where(two_discs, 157, 0), np.where(two_discs, 0, 157)]).astype(np.uint16)
    for names, expected in ((("CARS",), two_discs), (("SHG",), ~two_discs)):
        tissue = TissueConfig(channels=names, min_speck_um2=0, max_hole_um2=0, background="dark")
        found = analyse_slide(make_slide(pixels), TileConfig(patch_px=32, tissue=tissue)).tissue.mask
        assert (found == expected).mean() > 0.98


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


def files(out: Path) -> dict[str, str]:
    """Return each artefact's hash; status holds times and is left out."""
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.parent.name != "status"
    }


@pytest.mark.parametrize("look", [low_counts, h_and_e])
def test_two_runs_give_equal_bytes(
    make_slide: Make, two_discs: Discs, tmp_path: Path, look: Callable[[Discs], Any]
) -> None:
    for name in ("first", "second"):
        tile_slide(make_slide(look(two_discs)), CONFIG, tmp_path / name)
    assert files(tmp_path / "first") == files(tmp_path / "second")
    assert "slides/slide.zarr/patches/c/0/0/0/0" in files(tmp_path / "first")


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
    assert bare.windows.tolist() == full.windows.tolist()
    assert tile_slide(slide, config, tmp_path / "without").state == "current"


def test_a_second_run_reads_no_patch_and_changes_no_file(
    make_slide: Make, two_discs: Discs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide, out = make_slide(low_counts(two_discs)), tmp_path / "work"
    tile_slide(slide, CONFIG, out)
    before = (files(out), (out / "status" / "slide.json").read_bytes())
    monkeypatch.setattr(tile_module, "analyse_slide", lambda *_: pytest.fail("analysed again"))
    assert tile_slide(slide, CONFIG, out).state == "current"
    assert (files(out), (out / "status" / "slide.json").read_bytes()) == before


@pytest.mark.parametrize("change", ["config", "pixels", "mask", "mpp", "background", "patient"])
def test_what_was_made_otherwise_stops_unless_forced(
    make_slide: Make, two_discs: Discs, tmp_path: Path, change: str
) -> None:
    out = tmp_path / "work"
    pixels, mask = low_counts(two_discs), mask_file(tmp_path / "mask.png", two_discs)
    source = LabelSource(tumor_mask=mask)
    tile_slide(make_slide(pixels), CONFIG, out, labels=source)
    config, facts, patient = CONFIG, {}, "slide"
    if change == "config":
        config = TileConfig(patch_px=48)
    elif change == "pixels":
        pixels[0, 5, 5] += 1
    elif change == "mask":
        mask_file(mask, ~two_discs)
    elif change == "patient":
        patient = "other"
    else:
        facts = {"mpp": 0.5} if change == "mpp" else {"background": "bright"}
    slide = make_slide(pixels, **facts)
    before = files(out)
    with pytest.raises(StaleArtefactError, match="differs"):
        tile_slide(slide, config, out, labels=source, patient_id=patient)
    assert files(out) == before
    again = tile_slide(slide, config, out, labels=source, patient_id=patient, force=True)
    assert again.state == "done"
    assert files(out) != before


@pytest.mark.parametrize("at", ["store", "table", "status"])
@pytest.mark.parametrize("force", [False, True])
def test_a_run_cut_off_anywhere_is_not_finished_and_a_rerun_mends_it(
    make_slide: Make, two_discs: Discs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str, force: bool
) -> None:
    slide, out = make_slide(low_counts(two_discs)), tmp_path / "work"
    tile_slide(slide, CONFIG, tmp_path / "undisturbed")
    if force:  # another configuration's finished output stands there
        tile_slide(slide, TileConfig(patch_px=40), out)

    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        if at == "store":
            patched.setattr("pathopatch.patches.store_writer.StoreWriter.finish", die)
        else:
            patched.setattr(tile_module, {"table": "write_table", "status": "write_status"}[at], die)
        with pytest.raises(KeyboardInterrupt):
            tile_slide(slide, CONFIG, out, force=force)
    entry = json.loads((out / "status" / "slide.json").read_text())["tile"]
    assert entry["state"] == "running"
    assert "stamp" not in entry
    # Without its status the pair of store and table is adopted, and only if it was made of the same.
    result = tile_slide(slide, CONFIG, out, force=force)
    assert result.state == ("current" if at == "status" else "done")
    assert files(out) == files(tmp_path / "undisturbed")
    assert read_json(out / "status" / "slide.json")["tile"]["state"] == "done"


def test_a_store_that_belongs_to_another_table_is_made_again(
    make_slide: Make, two_discs: Discs, tmp_path: Path
) -> None:
    slide, out = make_slide(low_counts(two_discs)), tmp_path / "work"
    tile_slide(slide, CONFIG, out)
    tile_slide(slide, TileConfig(patch_px=40), tmp_path / "other")
    with atomic_path(out / "slides" / "slide.zarr") as temporary:
        (tmp_path / "other" / "slides" / "slide.zarr").rename(temporary)
    assert tile_slide(slide, CONFIG, out).state == "done"
    assert PatchStore(out / "slides" / "slide.zarr").attributes["patch_px"] == 32


def test_a_page_of_the_same_file_is_another_slide(
    make_slide: Make, two_discs: Discs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide = make_slide(low_counts(two_discs))
    tile_slide(slide, CONFIG, tmp_path / "work")
    monkeypatch.setattr(slide, "_pixels", slide._pixels[::-1])
    with pytest.raises(StaleArtefactError, match="'pixels' differs"):
        tile_slide(slide, CONFIG, tmp_path / "work")


def test_pixels_that_are_no_numbers_are_counted_and_refused(make_slide: Make, two_discs: Discs) -> None:
    pixels = low_counts(two_discs).astype(np.float32)
    pixels[1, 3, 4:6] = np.nan
    with pytest.raises(NonFiniteError, match="30000 pixels 2 in SHG"):
        analyse_slide(make_slide(pixels), CONFIG)


def test_pixels_that_are_no_numbers_are_refused_though_the_overview_does_not_show_them(
    make_slide: Make, two_discs: Discs
) -> None:
    pixels = low_counts(two_discs).astype(np.float32)
    analysis = analyse_slide(make_slide(pixels), CONFIG)  # as from a coarser level that was made without them
    pixels[1, 3, 4:6] = np.inf
    with pytest.raises(NonFiniteError, match="30000 pixels 2 in SHG"):
        list(iterate_patches(make_slide(pixels), analysis))


def test_a_slide_coarser_than_the_target_is_refused_with_both(make_slide: Make, two_discs: Discs) -> None:
    slide = make_slide(low_counts(two_discs), mpp=2.0)
    with pytest.raises(InputUnsupportedError, match=r"2 um/px .* 0.5 um/px"):
        analyse_slide(slide, TileConfig(patch_px=32, mpp=0.5))


def test_without_an_mpp_nothing_is_guessed(make_slide: Make, two_discs: Discs, tmp_path: Path) -> None:
    slide = make_slide(low_counts(two_discs))
    slide._resolution = type(slide._resolution)(mpp=None, reason="no tag")
    with pytest.raises(MppMissingError):
        tile_slide(slide, CONFIG, tmp_path / "work")


@pytest.mark.parametrize("slide_id", ["../x", "/x", "a\nb", "CON", "=cmd()", "x" * 200])
def test_an_id_that_is_no_file_name_is_refused(
    make_slide: Make, two_discs: Discs, tmp_path: Path, slide_id: str
) -> None:
    with pytest.raises(InputUnsupportedError, match="slide id"):
        tile_slide(make_slide(low_counts(two_discs)), CONFIG, tmp_path / "work", slide_id=slide_id)
    assert not (tmp_path / "work").exists()


def test_progress_counts_up_to_all_patches(make_slide: Make, two_discs: Discs, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    slide = make_slide(low_counts(two_discs))
    tile_slide(slide, CONFIG, tmp_path / "work", progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (35, 35)

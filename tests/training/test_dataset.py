"""Loading: each patch has the pixels of its own id, scaled by its slide's window, in memory or read when needed."""

import pickle
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import zarr
from made_patches import CHANNELS, toy, write_work
from made_slides import write_channel

from pathopatch.core.artefacts import read_table
from pathopatch.core.config import TileConfig
from pathopatch.core.errors import ChannelMismatchError, InputMissingError, NonFiniteError
from pathopatch.models.export import area_weights
from pathopatch.patches.store import PatchStore
from pathopatch.patches.tile import tile_slide
from pathopatch.slides import open_slide
from pathopatch.training.dataset import PatchSet, channel_statistics, common_source, load_patches


def _rows(patches, index):
    return patches.read(np.asarray(index))


def test_patches_are_found_by_id_whatever_the_order_of_the_groups(tmp_path):
    groups = write_work(tmp_path)
    shuffled = groups.sample(frac=1, random_state=3)
    patches = load_patches(tmp_path, shuffled, input_px=16, splits=("val",), threshold=0.25)
    cohort = toy([[14, 6], [6, 14]], seed=1)
    number = np.array([int(name.split("@")[1].split(",")[0]) // 16 for name in patches.patch_id])
    np.testing.assert_allclose(patches.read(slice(None)), cohort.x[number], atol=1e-3)
    np.testing.assert_array_equal(patches.label, cohort.label[number])
    np.testing.assert_array_equal(patches.attribute, cohort.attribute[number])
    assert set(patches.patient) == {"patient-val"}


def test_blank_glass_and_unlabelled_patches_are_left_out(tmp_path):
    groups = write_work(tmp_path)
    assert len(load_patches(tmp_path, groups, input_px=16, splits=("train",), threshold=0.25)) == 38
    assert len(load_patches(tmp_path, groups, input_px=16, splits=("train", "val"), threshold=0.25)) == 76
    without = load_patches(tmp_path, groups, input_px=16, splits=("train",))
    assert len(without) == 39  # without a threshold there is no blank glass
    assert (without.attribute == -1).all()


def test_patches_read_when_needed_equal_those_in_memory_to_float16(tmp_path):
    groups = write_work(tmp_path)
    in_memory = load_patches(tmp_path, groups, input_px=8, splits=("train", "test"), threshold=0.25)
    lazy = load_patches(tmp_path, groups, input_px=8, splits=("train", "test"), threshold=0.25, cache_gib=1e-9)
    assert isinstance(in_memory.x, np.ndarray)
    assert not isinstance(lazy.x, np.ndarray)
    order = [50, 0, 75, 0, 3]
    np.testing.assert_allclose(lazy.read(order), in_memory.read(order), atol=1e-3)
    np.testing.assert_array_equal(lazy.read(slice(10, 12)), lazy.x.__getitems__([10, 11]))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(lazy.x))[7], lazy.x[7])


MASKS = ("tissue", "tumor")


def truth(split, channel):
    """The masks that `write_work` gives the patches of a split, by patch id."""
    number = ("train", "val", "test").index(split)
    masks = toy([[14, 6], [6, 14]], seed=number).x[:, channel] > 0.5
    return {f"slide-{split}@{16 * i},0": mask for i, mask in enumerate(masks)}


def test_masks_belong_to_their_patches_whatever_the_order(tmp_path):
    groups = write_work(tmp_path).sample(frac=1, random_state=3)
    patches = load_patches(tmp_path, groups, input_px=16, splits=("train", "val"), threshold=0.25, masks=MASKS)
    for channel, masks in ((1, patches.tissue), (0, patches.tumor)):
        expected = truth("train", channel) | truth("val", channel)
        np.testing.assert_array_equal(masks.read(slice(None)), [expected[name] for name in patches.patch_id])
        np.testing.assert_array_equal(masks.read([5, 0, 5]), masks.read(slice(None))[[5, 0, 5]])
        assert masks.bits.nbytes == len(patches) * 16 * 16 // 8
    assert patches.has_tumor.all()


def test_masks_are_loaded_only_if_asked_for(tmp_path, monkeypatch):
    groups = write_work(tmp_path)
    read = partial(load_patches, tmp_path, groups, input_px=16, splits=("train",), threshold=0.25)
    one = read(masks=("tissue",))
    assert one.tissue is not None
    assert (one.tumor, one.has_tumor) == (None, None)
    monkeypatch.setattr(PatchStore, "masks", lambda *_: pytest.fail("read"))
    bare = read()
    assert (bare.tissue, bare.tumor, bare.has_tumor) == (None, None, None)
    assert bare.rows([0, 1]).tissue is None


def test_patches_of_slides_without_tumour_masks_are_marked(tmp_path):
    groups = write_work(tmp_path)  # the slide of the split test has none
    patches = load_patches(tmp_path, groups, input_px=16, splits=("test", "val"), threshold=0.25, masks=MASKS)
    is_val = np.char.startswith(patches.patch_id, "slide-val")
    np.testing.assert_array_equal(patches.has_tumor, is_val)
    assert not patches.tumor.read(~is_val).any()
    assert patches.tumor.read(is_val).any()
    assert patches.tissue.read(~is_val).any()


def test_rows_and_another_attribute_keep_the_masks(tmp_path):
    groups = write_work(tmp_path)
    patches = load_patches(tmp_path, groups, input_px=11, splits=("test", "val"), threshold=0.25, masks=MASKS)
    index = np.array([40, 3, 41])
    is_chosen = np.isin(np.arange(len(patches)), index)
    for some, order in ((patches.rows(index), index), (patches.rows(is_chosen), np.sort(index))):
        for masks, all_masks in ((some.tissue, patches.tissue), (some.tumor, patches.tumor)):
            assert len(masks) == 3
            np.testing.assert_array_equal(masks.read(slice(None)), all_masks.read(order))
        np.testing.assert_array_equal(some.has_tumor, patches.has_tumor[order])
    regrouped = patches.with_attribute(np.zeros(len(patches)))
    assert (regrouped.tissue, regrouped.has_tumor) == (patches.tissue, patches.has_tumor)


@pytest.mark.parametrize("input_px", [8, 11, 4])
def test_masks_of_another_side_are_resampled_by_area_and_cut_at_half(tmp_path, input_px):
    groups = write_work(tmp_path)
    patches = load_patches(tmp_path, groups, input_px=input_px, splits=("val",), threshold=0.25, masks=("tissue",))
    fine = np.stack([truth("val", 1)[name] for name in patches.patch_id]).astype(np.float64)
    weights = area_weights(16, input_px).astype(np.float64)
    share = weights @ fine @ weights.T
    is_clear = np.abs(share - 0.5) > 1e-5
    small = patches.tissue.read(slice(None))
    assert small.shape == (len(patches), input_px, input_px)
    np.testing.assert_array_equal(small[is_clear], share[is_clear] > 0.5)


def test_a_patch_is_resampled_by_area(tmp_path):
    groups = write_work(tmp_path)
    fine = load_patches(tmp_path, groups, input_px=16, splits=("val",), threshold=0.25, cache_gib=1e-9).read([5])
    coarse = load_patches(tmp_path, groups, input_px=4, splits=("val",), threshold=0.25, cache_gib=1e-9).read([5])
    np.testing.assert_allclose(coarse, fine.reshape(1, 2, 4, 4, 4, 4).mean(axis=(3, 5)), atol=1e-5)


def test_what_the_bundle_must_know_comes_from_the_stores(tmp_path):
    source = load_patches(tmp_path, write_work(tmp_path), input_px=16, splits=("train",), threshold=0.25).source
    assert (source.channels, source.dtype, source.mpp, source.background) == (CHANNELS, "uint16", 0.5, "dark")
    assert source.tissue == {"background": "auto", "method": "otsu"}
    assert not source.is_rgb


def test_a_guessed_background_of_crops_binds_no_slide(tmp_path):
    groups = write_work(tmp_path)
    for store in (tmp_path / "slides").glob("*.zarr"):
        zarr.open_group(store, mode="r+").attrs["is_ready_set"] = True
    read = partial(load_patches, tmp_path, groups, input_px=16, splits=("train",), threshold=0.25)
    assert read().source.background == "auto"
    for store in (tmp_path / "slides").glob("*.zarr"):
        attributes = zarr.open_group(store, mode="r+").attrs
        attributes["tissue"] = {**attributes["tissue"], "background": "dark"}
    assert read().source.background == "dark"


def test_slides_of_other_channels_are_refused_with_both_sides(tmp_path):
    groups = write_work(tmp_path, channels=(("CARS", "SHG"), ("SHG", "CARS"), ("CARS", "SHG")))
    with pytest.raises(ChannelMismatchError, match=r"'slide-val'.*'slide-train'|'slide-train'.*'slide-val'"):
        load_patches(tmp_path, groups, input_px=16, splits=("train", "val"), threshold=0.25)


def test_alignment_is_one_for_all_slides_and_goes_into_the_bundle(tmp_path):
    groups = write_work(tmp_path / "all", align=(True, True, True))
    assert load_patches(tmp_path / "all", groups, input_px=16, splits=("train", "val")).source.align is True
    groups = write_work(tmp_path / "some", align=(True, False, True))
    with pytest.raises(ChannelMismatchError, match="align is"):
        load_patches(tmp_path / "some", groups, input_px=16, splits=("train", "val"))


def test_a_threshold_without_groups_is_refused_and_those_there_are_listed(tmp_path):
    with pytest.raises(InputMissingError, match=r"0\.3; there are some at 0\.25"):
        load_patches(tmp_path, write_work(tmp_path), input_px=16, splits=("train",), threshold=0.3)


def test_a_split_without_patches_gives_an_empty_set(tmp_path):
    assert len(load_patches(tmp_path, write_work(tmp_path), input_px=16, splits=("none",), threshold=0.25)) == 0


def test_mean_and_standard_deviation_are_those_of_all_pixels_of_a_channel():
    x = np.zeros((300, 2, 2, 2), dtype=np.float16)
    x[:150, 0] = 1  # half ones: mean 1/2, sd 1/2; the other channel is constant
    zeros = np.zeros(300, dtype=np.int64)
    patches = PatchSet(x, zeros, zeros, np.zeros(300), zeros, zeros)
    assert channel_statistics(patches) == ((0.5, 0.0), (0.5, 1.0))


def test_a_patch_with_a_nan_pixel_is_refused_by_name():
    patches = toy([[3, 3], [3, 3]], seed=0)
    patches.x[4, 1, 2, 3] = np.nan
    with pytest.raises(NonFiniteError, match="s@4,0"):
        channel_statistics(patches)


def _tiled_work(folder, store):
    """Three slides of one channel, tiled; returns the groups."""
    tables = []
    for number in range(3):
        image = np.random.default_rng(number).integers(0, 900, (100, 130)).astype(np.uint16)
        path = folder.parent / f"s{number}.tif"
        if not path.exists():
            write_channel(path, image, tile_px=64, compression="zstd")
        with open_slide(path, background="dark") as slide:
            tile_slide(slide, TileConfig(patch_px=32, stride_px=20, store=store), folder)
        tables.append(read_table(folder / "patches" / f"s{number}.parquet").assign(split="train", label=1))
    return pd.concat(tables, ignore_index=True).sample(frac=1, random_state=0)


@pytest.mark.parametrize("cache_gib", [1.5, 1e-9], ids=["held", "read when needed"])
def test_training_without_stored_pixels_sees_the_same_patches(tmp_path, cache_gib, monkeypatch):
    monkeypatch.setattr("pathopatch.training.dataset._OPEN_SLIDES", 1)
    options = {"input_px": 16, "splits": ("train",), "cache_gib": cache_gib, "masks": ("tissue",)}
    stored = load_patches(tmp_path / "kept", _tiled_work(tmp_path / "kept", "zarr"), **options)
    without = load_patches(tmp_path / "without", _tiled_work(tmp_path / "without", "none"), **options)
    assert (stored.patch_id == without.patch_id).all()
    assert without.source == stored.source
    np.testing.assert_array_equal(without.read(slice(None)), stored.read(slice(None)))
    np.testing.assert_array_equal(without.tissue.read(slice(None)), stored.tissue.read(slice(None)))


def test_only_the_slides_read_last_stay_open(tmp_path, monkeypatch):
    monkeypatch.setattr("pathopatch.training.dataset._OPEN_SLIDES", 2)
    closed = []
    monkeypatch.setattr(PatchStore, "close", lambda store: closed.append(store.path.stem))
    patches = load_patches(tmp_path, write_work(tmp_path), input_px=16, splits=("train", "val", "test"), cache_gib=1e-9)
    slides = [name.split("@")[0] for name in patches.patch_id]
    order = ["slide-train", "slide-val", "slide-train", "slide-test", "slide-train", "slide-val"]
    for slide in order:
        patches.read([slides.index(slide)])
    assert closed == ["slide-val", "slide-test"]


def test_memory_of_a_batch_is_reused_only_once_nobody_holds_it(tmp_path):
    groups = write_work(tmp_path)
    lazy = load_patches(tmp_path, groups, input_px=8, splits=("train",), threshold=0.25, cache_gib=1e-9)
    batch = lazy.read([0, 1])
    rest, place = batch[1:], batch.ctypes.data
    expected = rest.copy()
    del batch
    others = [lazy.read([k, k + 1]) for k in range(2, 8)]  # more than are remembered
    np.testing.assert_array_equal(rest, expected)
    assert len({other.ctypes.data for other in others} | {place}) == 7
    del others, rest
    places = {lazy.read([k, k + 1]).ctypes.data for k in range(6)}
    assert len(places) == 1
    again = pickle.loads(pickle.dumps(lazy.x))
    np.testing.assert_array_equal(again[[0, 1]][1:], expected)


def _store_with_level(name: str, level: dict[str, float]) -> PatchStore:
    attributes: dict[str, Any] = {
        "channels": ["SHG"],
        "dtype": "uint16",
        "patch_px": 64,
        "stride_px": 64,
        "target_mpp": 1.0,
        "background": "dark",
        "intensity": {},
        "tissue": {"background": "auto", "background_level": level},
    }
    return cast(PatchStore, SimpleNamespace(path=Path(f"{name}.zarr"), attributes=attributes))


@pytest.mark.parametrize(
    ("levels", "level_kept"),
    [
        ([{"SHG": 100.0}, {}], {}),
        ([{}, {"SHG": 100.0}], {}),
        ([{"SHG": 100.0}, {"SHG": 100.0}], {"SHG": 100.0}),
        ([{"SHG": 100.0}, {"SHG": 90.0}], {}),
    ],
)
def test_a_level_taken_from_the_cohort_is_no_rule_of_the_model(
    levels: list[dict[str, float]], level_kept: dict[str, float]
) -> None:
    source = common_source([_store_with_level(str(number), level) for number, level in enumerate(levels)])
    assert source is not None
    assert source.tissue == {"background": "auto", "background_level": level_kept}

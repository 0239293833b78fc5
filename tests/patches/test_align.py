"""Shifted channels: warned of, and aligned on request, in tiling and prediction alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from pathopatch.core.config import RegistrationConfig, TileConfig
from pathopatch.core.errors import StaleArtefactError
from pathopatch.core.status import read_status
from pathopatch.patches.store import PatchStore
from pathopatch.patches.tile import tile_slide

Make = Callable[..., Any]
ALIGNED = TileConfig(patch_px=64, registration=RegistrationConfig(align=True))
PLAIN = TileConfig(patch_px=64)


def pair(shift: tuple[int, int]) -> np.ndarray:
    """(2, 320, 384) two channels of one tissue, bright on dark; the second lies `shift` further on."""
    generator = np.random.default_rng(0)
    smooth = cv2.GaussianBlur(generator.normal(size=(420, 484)), (0, 0), 6)
    tissue = cv2.GaussianBlur((smooth > smooth.std() / 2).astype(np.float64), (0, 0), 1)
    x, y = 50 - shift[0], 50 - shift[1]
    one, other = 900 * tissue[50:370, 50:434], 200 * tissue[y : y + 320, x : x + 384] ** 2
    return np.stack([plane + generator.normal(100, 5, plane.shape) for plane in (one, other)]).astype(np.uint16)


@pytest.mark.fault("modalities")
def test_a_far_shift_is_a_warning_and_in_the_attributes_and_moves_nothing(make_slide: Make, tmp_path: Path) -> None:
    slide = make_slide(pair((12, -5)), mpp=0.5, background="dark")
    result = tile_slide(slide, PLAIN, tmp_path)
    (warning,) = result.warnings
    assert warning.startswith("channel SHG is shifted by 6.5 um (+12.0 px across, -5.0 px down) against the first")
    assert "--align" in warning
    assert read_status(tmp_path, "slide")["tile"]["warnings"] == [warning]
    assert tile_slide(slide, PLAIN, tmp_path).warnings == (warning,)
    store = PatchStore(tmp_path / "slides" / "slide.zarr")
    registration = store.attributes["registration"]
    assert (registration["align"], registration["offsets_px"]) == (False, [])
    assert registration["shifts"][0]["x_px"] == pytest.approx(12, abs=0.2)
    np.testing.assert_array_equal(store.read([7])[0], slide.read_region(64, 64, 64, 64))


def test_the_warning_distance_of_a_shift_makes_nothing_stale(make_slide: Make, tmp_path: Path) -> None:
    slide = make_slide(pair((12, -5)), mpp=0.5, background="dark")
    far = PLAIN.model_copy(update={"registration": RegistrationConfig(warn_um=7)})
    assert tile_slide(slide, far, tmp_path).warnings == ()
    assert tile_slide(slide, PLAIN, tmp_path).state == "current"


def test_aligned_patches_equal_those_of_unshifted_channels(make_slide: Make, tmp_path: Path) -> None:
    apart = make_slide(pair((12, -5)), mpp=0.5, background="dark", name="apart")
    result = tile_slide(apart, ALIGNED, tmp_path)
    assert "corrected" in result.warnings[0]
    store = PatchStore(tmp_path / "slides" / "apart.zarr")
    assert store.attributes["registration"]["offsets_px"] == [[0, 0], [12, -5]]
    recorded = np.load(tmp_path / "apart.npy")
    expected = np.zeros_like(recorded)  # what comes from outside is the dark background
    expected[0] = recorded[0]
    expected[1, 5:, :-12] = recorded[1, :-5, 12:]
    for patch, (x, y) in zip(store.read(range(len(store))), store.origins, strict=True):
        np.testing.assert_array_equal(patch, expected[:, y : y + 64, x : x + 64])
    np.testing.assert_array_equal(store.overview(), expected)
    whole = make_slide(expected, mpp=0.5, background="dark", name="whole")
    tile_slide(whole, PLAIN, tmp_path)
    shares = [
        pd.read_parquet(tmp_path / "patches" / f"{name}.parquet")["tissue_fraction"] for name in ("apart", "whole")
    ]
    scanned = np.zeros((320, 384))
    scanned[6:, :-13] = 1  # what the second channel lacks was not scanned, nor was the pixel beside it
    parts = np.array([scanned[y : y + 64, x : x + 64].mean() for x, y in store.origins])
    assert store.attributes["tissue"]["unscanned_share"] == pytest.approx(1 - scanned.mean(), abs=0.01)
    assert np.abs(shares[0] - shares[1])[parts == 1].max() < 0.001


def test_alignment_is_part_of_the_stamp(make_slide: Make, tmp_path: Path) -> None:
    slide = make_slide(pair((0, 0)), background="dark")
    assert tile_slide(slide, PLAIN, tmp_path).warnings == ()
    with pytest.raises(StaleArtefactError, match="registration.align was False, is True"):
        tile_slide(slide, ALIGNED, tmp_path)

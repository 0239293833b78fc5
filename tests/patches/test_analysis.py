"""Analysis of a slide: tissue, windows, padding, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
from array_slides import h_and_e, low_counts
from numpy.typing import NDArray

from pathopatch.core.config import IntensityConfig, TileConfig, TissueConfig
from pathopatch.core.errors import ChannelMismatchError, NonFiniteError
from pathopatch.patches.analysis import PatchBatch, analyse_slide, iterate_patches

Make = Callable[..., Any]
Discs = NDArray[np.bool_]
CONFIG = TileConfig(patch_px=32)


def joined(batches: Iterable[PatchBatch]) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """The tissue fractions and tissue masks of all batches."""
    parts = list(batches)
    return np.concatenate([part.tissue_fraction for part in parts]), np.concatenate(
        [part.tissue_mask for part in parts]
    )


def test_glass_pads_a_bright_slide(make_slide: Make, two_discs: Discs) -> None:
    slide = make_slide(h_and_e(two_discs))
    analysis = analyse_slide(slide, CONFIG)
    patches = next(iterate_patches(slide, analysis, origins=np.array([[192, 128]]))).patches
    assert (patches[0, :, 22:] == 255).all()
    assert (patches[0, :, :, 8:] == 255).all()
    assert (patches[0, :, :22, :8] == 245).all()


def test_the_polarity_that_is_set_decides_tissue_and_padding(make_slide: Make, two_discs: Discs) -> None:
    slide = make_slide(low_counts(two_discs))
    config = TileConfig(patch_px=32, tissue=TissueConfig(background="bright"))
    analysis = analyse_slide(slide, config)
    batch = next(iterate_patches(slide, analysis, origins=np.array([[192, 128]])))
    assert (batch.patches[0, :, 22:] == 65535).all()
    assert batch.tissue_fraction.tolist() == [1.0]  # the dark corner now counts as tissue


def test_patches_below_a_share_of_tissue_can_be_left_out(make_slide: Make, two_discs: Discs) -> None:
    slide = make_slide(low_counts(two_discs))
    analysis = analyse_slide(slide, CONFIG)
    every, masks = joined(iterate_patches(slide, analysis))
    for least in (0.01, 0.5, 1.0):
        told = np.full(len(every), np.nan)
        batches = list(iterate_patches(slide, analysis, min_tissue=least, batch_size=3, fractions_out=told))
        assert {len(batch.rows) for batch in batches[:-1]} <= {3}
        assert told.tolist() == every.tolist()  # of patches that are left out too
        rows = np.concatenate([batch.rows for batch in batches])
        assert rows.tolist() == np.flatnonzero(every >= least).tolist()
        fractions, masks_of_rows = joined(batches)
        assert fractions.tolist() == every[rows].tolist()
        np.testing.assert_array_equal(masks_of_rows, masks[rows])


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


def test_nan_pixels_are_counted_and_refused(make_slide: Make, two_discs: Discs) -> None:
    pixels = low_counts(two_discs).astype(np.float32)
    pixels[1, 3, 4:6] = np.nan
    with pytest.raises(NonFiniteError, match="30000 pixels 2 in SHG"):
        analyse_slide(make_slide(pixels), CONFIG)

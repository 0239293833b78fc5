"""Masks as bits and at another size, against answers by hand."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from pathopatch.core.mask_bits import pack_masks, resize_masks, unpack_masks


@pytest.mark.parametrize("shape", [(3, 5, 1), (2, 7, 7), (4, 8, 8), (1, 9, 17), (0, 4, 4)])
def test_packed_and_unpacked_masks_are_equal_at_any_width(shape: tuple[int, ...]) -> None:
    masks = np.random.default_rng(0).random(shape) < 0.5
    bits = pack_masks(masks)
    assert bits.shape == (*shape[:2], -(-shape[2] // 8))
    np.testing.assert_array_equal(unpack_masks(bits, shape[2]), masks)


def test_the_first_pixel_of_a_row_is_the_highest_bit() -> None:
    assert pack_masks(np.array([[True] + 8 * [False] + [True]])).tolist() == [[0b10000000, 0b01000000]]


def test_a_pixel_of_a_smaller_mask_is_set_where_at_least_half_is() -> None:
    mask = np.zeros((1, 4, 4), np.bool_)
    mask[0, :2, 0] = mask[0, :2, 2:] = mask[0, 2, 3] = True
    # Half of a pixel, all of it; none, a quarter.
    assert resize_masks(mask, 2).tolist() == [[[True, True], [False, False]]]


@pytest.mark.parametrize(("side", "to"), [(48, 32), (37, 16), (256, 136), (16, 24)])
def test_masks_are_resampled_by_area_as_the_pixels_are(side: int, to: int) -> None:
    blurred = cv2.GaussianBlur(np.random.default_rng(0).normal(size=(side, side)), (0, 0), 3)
    small = resize_masks((blurred > 0)[None], to)[0]
    share = cv2.resize((blurred > 0).astype(np.float64), (to, to), interpolation=cv2.INTER_AREA)
    is_clear = np.abs(share - 0.5) > 1e-5
    np.testing.assert_array_equal(small[is_clear], share[is_clear] > 0.5)
    assert small.mean() == pytest.approx((blurred > 0).mean(), abs=0.03)


def test_a_mask_of_the_right_size_stays_as_it_is() -> None:
    masks = np.random.default_rng(0).random((2, 9, 9)) < 0.5
    assert resize_masks(masks, 9) is masks

"""Shape, rim, background and texture of patches whose numbers are known by hand."""

from __future__ import annotations

import numpy as np

from pathopatch.training.mask_features import background, mask_shape, rim, texture


def square(side: int = 4, size: int = 12) -> np.ndarray:
    mask = np.zeros((size, size), np.bool_)
    mask[4 : 4 + side, 4 : 4 + side] = True
    return mask


def test_a_square_has_four_sides_one_piece_and_its_own_hull() -> None:
    np.testing.assert_allclose(mask_shape(square()), [16 / 4, 1, 1, 0, 1])


def test_two_pieces_at_the_border() -> None:
    mask = np.zeros((5, 5), np.bool_)
    mask[:, 0] = mask[:2, 4] = True
    outline, pieces, largest, border, solidity = mask_shape(mask)
    assert outline == 8 / np.sqrt(7)
    assert (pieces, largest, border) == (2, 5 / 7, 7 / 16)
    assert 7 / 25 < solidity < 0.6


def test_rim_and_background_are_apart() -> None:
    mask = square()
    distance = np.maximum(*(np.maximum(4 - axis, axis - 7) for axis in np.indices(mask.shape)))
    pixels = np.where(distance <= 0, 0.5, np.where(distance <= 2, 0.7, 0.9))[None]
    np.testing.assert_allclose(rim(pixels, mask), [0.7, 0], atol=1e-12)
    np.testing.assert_allclose(background(pixels, mask), [0.9, 0], atol=1e-12)
    np.testing.assert_allclose(texture(pixels, mask)[:2], [0.5, 0], atol=1e-12)


def test_texture_tells_a_slope_from_a_chequerboard() -> None:
    full = np.ones((8, 8), np.bool_)
    slope = np.tile(np.arange(8) / 8, (8, 1))
    chequers = np.indices((8, 8)).sum(axis=0) % 2 * 1.0
    mean, _, detail, gradient, *rest = texture(np.stack([slope]), full)
    assert mean == slope.mean()
    assert texture(np.stack([chequers]), full)[2] > 10 * detail
    assert texture(np.stack([chequers]), full)[3] < 0.3 * gradient
    assert rest == []
    assert texture(np.stack([slope, chequers, slope]), full).shape == (12,)


def test_thin_tissue_has_a_texture_too() -> None:
    line = np.zeros((8, 8), np.bool_)
    line[3] = True
    np.testing.assert_allclose(texture(np.where(line, 0.4, 0.9)[None], line)[:2], [0.4, 0], atol=1e-12)


def test_a_full_and_an_empty_patch_have_unknown_numbers() -> None:
    pixels, full = np.zeros((3, 6, 6)), np.ones((6, 6), np.bool_)
    assert np.isnan(rim(pixels, full)).all()
    assert np.isnan(background(pixels, full)).all()
    assert np.isnan(mask_shape(~full)).all()
    np.testing.assert_allclose(mask_shape(full), [0, 1, 1, 1, 1])

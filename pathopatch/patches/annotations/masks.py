"""Measure the share of each patch that a raster mask sets. Masks cover the whole slide, at any scale.

A fraction is the exact area mean of the mask over the part of the patch that lies on the slide; the mask's pixels are
squares, cut where the patch's edge cuts them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathopatch.core.errors import InputUnsupportedError, ModalityMismatchError
from pathopatch.patches.annotations.mask_bands import HALF_UINT8, banded_fractions, cover, uint8_limit
from pathopatch.slides.mask_image import MAX_PIXELS, raster

MAX_ASPECT_DIFFERENCE = 0.02


def read_mask(path: Path) -> NDArray[np.bool_]:
    """Return a raster mask.

    A pixel is set if it is above 127 in a JPEG file and in a uint8 image with values above 1, and if it is above 0 in
    any other image (0 and 1, boolean, 16 bit, float). Of several channels the largest counts, alpha does not. In a
    TIFF whose value 0 is white by its own word, the values are turned round first.

    Parameters
    ----------
    path : Path
        PNG, JPEG or TIFF file; of a TIFF pyramid or stack the first page.

    Returns
    -------
    ndarray of bool, shape (H, W)

    Raises
    ------
    InputMissingError
        There is no such file.
    InputCorruptError
        It cannot be read in full.
    InputTooLargeError
        It claims more pixels than are read at once; said before any memory is taken.
    InputUnsupportedError
        Another format, a table of colours, or class numbers, see `uint8_limit`.
    """
    source = raster(path)
    if source.is_palette:
        raise InputUnsupportedError(
            "a mask with a table of colours: which of them are meant is not guessed",
            place=str(path),
            remedy="write it anew as grey values, with 0 for no and 255 for yes",
        )
    pixels: Any = source.pixels()
    if source.is_inverted and pixels.dtype.kind in "bu":
        pixels = ~pixels
    if pixels.ndim == 3:
        colours = 1 if pixels.shape[2] in (1, 2) else 3
        pixels = pixels[:, :, :colours].max(axis=2)
    if pixels.ndim != 2 or pixels.size == 0:
        raise InputUnsupportedError(
            f"a mask of shape {pixels.shape}", place=str(path), remedy="give an image of one channel"
        )
    if source.kind == "jpeg":
        limit = HALF_UINT8
    else:
        limit = uint8_limit(float(pixels.max()), path) if pixels.dtype == np.uint8 else 0
    return np.asarray(np.greater(pixels, limit), np.bool_)


def require_proportions(mask_px: tuple[int, int], slide_size: tuple[int, int], *, place: str) -> None:
    """Refuse a mask whose (width, height) are not in proportion to the slide's within 2 %.

    Raises
    ------
    ModalityMismatchError
        See above.
    """
    (width, height), (slide_width, slide_height) = mask_px, slide_size
    # A side that is rounded to whole pixels may be out of proportion by one of them, which is much for a tiny mask.
    allowed = max(MAX_ASPECT_DIFFERENCE, 1 / min(width, height))
    if abs(slide_width / width / (slide_height / height) - 1) > allowed:
        raise ModalityMismatchError(
            f"the mask is {width} x {height} px and the slide {slide_width} x {slide_height} px: "
            "their proportions differ by more than 2 %",
            place=place,
            remedy="give the mask that belongs to this slide; it must cover the whole of it",
        )


class MaskFractions:
    """Area means of a mask over rectangles given in level-0 px.

    Parameters
    ----------
    mask : ndarray of bool, shape (h, w), or Path
        The mask or its file; it covers the whole slide. A TIFF of more than 2^28 px is read in bands, piece by piece.
    slide_size : tuple of int
        (width, height) of the slide, level-0 px.

    Raises
    ------
    ModalityMismatchError
        The mask's sides are not in proportion to the slide's within 2 %.
    InputMissingError, InputCorruptError, InputTooLargeError, InputUnsupportedError
        See `read_mask`.
    """

    def __init__(self, mask: NDArray[np.bool_] | Path, slide_size: tuple[int, int]) -> None:
        self._large = mask if isinstance(mask, Path) and _is_large(mask) else None
        self._slide_size = slide_size
        if self._large is not None:
            source = raster(self._large, is_whole=False)
            height, width = source.height, source.width
        else:
            self._mask = read_mask(mask) if isinstance(mask, Path) else mask
            height, width = self._mask.shape
        require_proportions((width, height), slide_size, place=str(mask) if isinstance(mask, Path) else "")

    def fractions(self, x: NDArray[np.int64], y: NDArray[np.int64], extent: float) -> NDArray[np.float64]:
        """Return the mask's share of each patch's part on the slide.

        Parameters
        ----------
        x, y : ndarray of int64, shape (N,)
            Origins, level-0 px.
        extent : float
            Side of a patch, level-0 px.

        Returns
        -------
        ndarray of float64, shape (N,)
            In [0, 1]; 0 for a patch that lies beyond the slide.
        """
        if self._large is not None:
            return banded_fractions(self._large, self._slide_size, x, y, extent)
        shares = np.zeros(len(x))
        for index, (left, top) in enumerate(zip(x.tolist(), y.tolist(), strict=True)):
            columns, across = cover(left, left + extent, self._slide_size[0], self._mask.shape[1])
            rows, down = cover(top, top + extent, self._slide_size[1], self._mask.shape[0])
            part = self._mask[rows, columns]
            if part.size and part.any():
                shares[index] = min(1.0, float(down @ (part @ across) / (down.sum() * across.sum())))
        return shares


def check_mask(path: Path, slide_size: tuple[int, int], *, is_quick: bool = False, is_banded: bool = True) -> None:
    """Refuse a mask file that cannot be used with a slide.

    Parameters
    ----------
    path : Path
        The mask's file.
    slide_size : tuple of int
        (width, height) of the slide, level-0 px.
    is_quick : bool
        Look at the file's header alone: damaged pixels are not found.
    is_banded : bool
        A large TIFF may be read in bands; off for masks that are read at once.

    Raises
    ------
    ModalityMismatchError, InputMissingError, InputCorruptError, InputTooLargeError, InputUnsupportedError
        See `MaskFractions`.
    """
    is_large = is_banded and _is_large(path)
    source = raster(path, is_whole=not is_large)
    require_proportions((source.width, source.height), slide_size, place=str(path))
    if is_quick:
        return
    if is_large:  # one patch that covers the slide, so that every band is decoded
        banded_fractions(path, slide_size, np.zeros(1, np.int64), np.zeros(1, np.int64), float(max(slide_size)))
    else:
        read_mask(path)


def _is_large(path: Path) -> bool:
    """Return whether a mask is a TIFF that is not decoded at once; one with a table of colours never is."""
    source = raster(path, is_whole=False)
    is_plain = source.kind == "tiff" and not source.is_palette and not source.is_inverted
    return is_plain and source.width * source.height > MAX_PIXELS

"""How much of a patch is tumour, how much is labelled at all, and which label follows.

Masks are raster images at any scale that cover the whole slide. A fraction is the exact area mean of the mask over the
part of the patch that lies on the slide; the mask's pixels are squares, cut where the patch's edge cuts them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

from pathopatch.config import LabelConfig
from pathopatch.errors import (
    InputCorruptError,
    InputMissingError,
    InputUnsupportedError,
    ModalityMismatchError,
)

MAX_ASPECT_DIFFERENCE = 0.02
_HALF_UINT8 = 127
_DECODERS = {".png": imagecodecs.png_decode, ".jpg": imagecodecs.jpeg8_decode, ".jpeg": imagecodecs.jpeg8_decode}
_DECODE_ERRORS = (
    ValueError,
    RuntimeError,
    OSError,
    IndexError,
    KeyError,
    imagecodecs.PngError,
    imagecodecs.Jpeg8Error,
    tifffile.TiffFileError,
)


@dataclass(frozen=True, kw_only=True)
class LabelSource:
    """Where the labels of one slide come from.

    Parameters
    ----------
    tumor_mask : Path, optional
        Raster of the tumour.
    whole_slide_non_tumor : bool
        The whole slide holds no tumour; goes without a `tumor_mask`.
    labelled_mask : Path, optional
        Raster of what was looked at; without one, everything was, if the tumour is known.

    Raises
    ------
    InputUnsupportedError
        A tumour mask for a slide that is said to hold no tumour.
    """

    tumor_mask: Path | None = None
    whole_slide_non_tumor: bool = False
    labelled_mask: Path | None = None

    def __post_init__(self) -> None:
        if self.whole_slide_non_tumor and self.tumor_mask is not None:
            raise InputUnsupportedError(
                "a tumour mask for a slide that is said to be non-tumour as a whole",
                place=str(self.tumor_mask),
                remedy="give one of the two",
            )

    @property
    def paths(self) -> dict[str, Path]:
        """The mask files that are given, by role."""
        masks = {"tumor_mask": self.tumor_mask, "labelled_mask": self.labelled_mask}
        return {role: path for role, path in masks.items() if path is not None}


def read_mask(path: Path) -> NDArray[np.bool_]:
    """Return a raster mask.

    A pixel is set if it is above 127 in a JPEG file and in a uint8 image with values above 1, and if it is above 0 in
    any other image (0 and 1, boolean, 16 bit, float). Of several channels the largest counts, alpha does not.

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
    InputUnsupportedError
        Another format, or a lossless uint8 image whose values are neither 0 and 1 nor reach above 127 (class
        numbers, say): which of them are meant is not guessed.
    """
    pixels = _decode(path)
    if pixels.ndim == 3:
        colours = 1 if pixels.shape[2] in (1, 2) else 3
        pixels = pixels[:, :, :colours].max(axis=2)
    if pixels.ndim != 2 or pixels.size == 0:
        raise InputUnsupportedError(
            f"a mask of shape {pixels.shape}", place=str(path), remedy="give an image of one channel"
        )
    is_jpeg = path.suffix.lower() in (".jpg", ".jpeg")
    highest = pixels.max()
    if pixels.dtype == np.uint8 and not is_jpeg and 1 < highest <= _HALF_UINT8:
        raise InputUnsupportedError(
            f"a mask whose values reach up to {highest}, neither 0 and 1 nor 0 and 255",
            place=str(path),
            remedy="write it anew with 0 for no and 255 for yes",
        )
    limit = _HALF_UINT8 if is_jpeg or (pixels.dtype == np.uint8 and highest > 1) else 0
    return np.asarray(np.greater(pixels, limit), np.bool_)


def _decode(path: Path) -> NDArray[np.generic]:
    """Return the pixels of an image file, (H, W) or (H, W, channels)."""
    suffix = path.suffix.lower()
    if suffix not in (*_DECODERS, ".tif", ".tiff"):
        raise InputUnsupportedError(
            f"a mask of the format {suffix!r}", place=str(path), remedy="give a PNG, JPEG or TIFF file"
        )
    try:
        content = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise InputMissingError(f"no mask {path.name}", place=str(path), remedy="check the path") from error
    try:
        if suffix in _DECODERS:
            if suffix != ".png" and b"\xff\xd9" not in content[-64:]:
                raise ValueError("the file ends before the image does")
            return np.asarray(_DECODERS[suffix](content))
        with tifffile.TiffFile(path) as file:
            page = file.pages[0]
            ends = (a + n for a, n in zip(page.dataoffsets, page.databytecounts, strict=True))
            if max(ends, default=0) > len(content):
                raise ValueError("the file ends before the image does")
            return np.asarray(page.asarray())
    except _DECODE_ERRORS as error:
        raise InputCorruptError(
            f"the mask cannot be read: {error}", place=str(path), remedy="write or copy it anew"
        ) from error


class MaskFractions:
    """Area means of a mask over rectangles given in level-0 px.

    Parameters
    ----------
    mask : ndarray of bool, shape (h, w), or Path
        The mask or its file; it covers the whole slide.
    slide_size : tuple of int
        (width, height) of the slide, level-0 px.

    Raises
    ------
    ModalityMismatchError
        The mask's sides are not in proportion to the slide's within 2 %.
    InputMissingError, InputCorruptError, InputUnsupportedError
        See `read_mask`.
    """

    def __init__(self, mask: NDArray[np.bool_] | Path, slide_size: tuple[int, int]) -> None:
        self._mask = read_mask(mask) if isinstance(mask, Path) else mask
        self._slide_size = slide_size
        height, width = self._mask.shape
        scale_x, scale_y = slide_size[0] / width, slide_size[1] / height
        # A side that is rounded to whole pixels may be out of proportion by one of them, which is much for a tiny mask.
        allowed = max(MAX_ASPECT_DIFFERENCE, 1 / min(width, height))
        if abs(scale_x / scale_y - 1) > allowed:
            raise ModalityMismatchError(
                f"the mask is {width} x {height} px and the slide {slide_size[0]} x {slide_size[1]} px: "
                "their proportions differ by more than 2 %",
                place=str(mask) if isinstance(mask, Path) else "",
                remedy="give the mask that belongs to this slide; it must cover the whole of it",
            )

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
        shares = np.zeros(len(x))
        for index, (left, top) in enumerate(zip(x.tolist(), y.tolist(), strict=True)):
            columns, across = _cover(left, left + extent, self._slide_size[0], self._mask.shape[1])
            rows, down = _cover(top, top + extent, self._slide_size[1], self._mask.shape[0])
            part = self._mask[rows, columns]
            if part.size and part.any():
                shares[index] = min(1.0, float(down @ (part @ across) / (down.sum() * across.sum())))
        return shares


def _cover(start: float, stop: float, size: int, mask_px: int) -> tuple[slice, NDArray[np.float64]]:
    """Return which mask pixels of one axis a level-0 interval covers, and how much of each (in mask px)."""
    begin, end = (min(max(0.0, at) * mask_px / size, mask_px) for at in (start, stop))
    if end <= begin:
        return slice(0, 0), np.zeros(0)
    first, last = math.floor(begin), math.ceil(end)
    edges = np.clip(np.arange(first, last + 1, dtype=np.float64), begin, end)
    return slice(first, last), np.diff(edges)


def label_fractions(
    source: LabelSource | None,
    x: NDArray[np.int64],
    y: NDArray[np.int64],
    *,
    extent: float,
    slide_size: tuple[int, int],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return how much of each patch is tumour and how much is labelled.

    Parameters
    ----------
    source : LabelSource or None
        Where labels come from; None: nothing is known.
    x, y : ndarray of int64, shape (N,)
        Origins, level-0 px.
    extent : float
        Side of a patch, level-0 px.
    slide_size : tuple of int
        (width, height), level-0 px.

    Returns
    -------
    tumor_fraction, labelled_fraction : ndarray of float64, shape (N,)
        In [0, 1], of the patch's part on the slide. Nothing known: NaN, both. A labelled mask without word of the
        tumour: NaN tumour.

    Raises
    ------
    ModalityMismatchError, InputMissingError, InputCorruptError, InputUnsupportedError
        See `MaskFractions`.
    """
    unknown = np.full(len(x), np.nan)
    if source is None:
        return unknown, unknown.copy()
    tumor = unknown
    if source.tumor_mask is not None:
        tumor = MaskFractions(source.tumor_mask, slide_size).fractions(x, y, extent)
    elif source.whole_slide_non_tumor:
        tumor = np.zeros(len(x))
    if source.labelled_mask is not None:
        labelled = MaskFractions(source.labelled_mask, slide_size).fractions(x, y, extent)
    else:
        labelled = np.where(np.isnan(tumor), np.nan, 1.0)
    return tumor, labelled


def labels(
    tumor_fraction: NDArray[np.float64],
    labelled_fraction: NDArray[np.float64],
    *,
    patch_px: int,
    config: LabelConfig,
) -> NDArray[np.int64]:
    """Return each patch's label.

    Parameters
    ----------
    tumor_fraction, labelled_fraction : ndarray of float64, shape (N,)
        In [0, 1], NaN where unknown.
    patch_px : int
        Side of a patch, px: without a least tumour fraction, one pixel of a whole patch's area makes it tumour.
    config : LabelConfig
        The limits; both are reached by equality.

    Returns
    -------
    ndarray of int64, shape (N,)
        1 tumour, 0 non-tumour, -1 not labelled.
    """
    least = config.min_tumor_fraction
    least = 1 / patch_px**2 if least is None else least
    slack = 1 - 1e-9  # an area mean may fall short of a limit that it reaches by the last bit
    is_tumor = tumor_fraction >= least * slack
    is_known = (labelled_fraction >= config.min_labelled_fraction * slack) & ~np.isnan(tumor_fraction)
    return np.where(is_known, is_tumor.astype(np.int64), np.int64(-1))

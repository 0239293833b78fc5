"""What pixels does a ready patch hold? PNG, JPEG or TIFF, and what all patches of a set must have in common."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from pathopatch.core.config import ReadyConfig
from pathopatch.core.errors import ChannelMismatchError, InputUnsupportedError, NonFiniteError
from pathopatch.slides import open_slide
from pathopatch.slides.mask_image import raster
from pathopatch.slides.resample import resized
from pathopatch.slides.resolution import ALPHA_NOTE, mpp_agrees

_RGB = ("R", "G", "B")
_LISTED = 10
_PX = (8, 4096)


@dataclass(frozen=True)
class Look:
    """What an image is, beside its content.

    Parameters
    ----------
    channels : tuple of str
        In order; R, G, B for colour, C0 for grey, a TIFF's own.
    dtype : str
        As numpy names it.
    width, height : int
        Size, px.
    fit : {"crop", "stretch"}
        How an image of another size is brought to this one, see `ReadyConfig`.
    shrinkage : float, optional
        Px of the images as they are per px of this size; None where images, or the sides of one, differ by over 2 %.
    """

    channels: tuple[str, ...]
    dtype: str
    width: int
    height: int
    fit: Literal["crop", "stretch"] = "crop"
    shrinkage: float | None = field(default=1.0, compare=False)

    def __str__(self) -> str:
        return f"{self.width} x {self.height} px, {', '.join(self.channels)}, {self.dtype}"

    @property
    def is_colour(self) -> bool:
        """Whether the channels are red, green and blue."""
        return self.channels == _RGB

    @property
    def is_rgb(self) -> bool:
        """Whether the channels are uint8 red, green and blue."""
        return self.channels == _RGB and self.dtype == "uint8"


def look_of(path: Path) -> Look:
    """Return what an image file is; no pixel is decoded.

    Raises
    ------
    InputUnsupportedError
        Another format, a table of colours, single bits, alpha or CMYK.
    InputMissingError, InputCorruptError, InputTooLargeError
        See `pathopatch.slides.mask_image.raster`.
    """
    found = raster(path)
    if found.is_palette or found.bits not in (8, 16, 32, 64):
        raise InputUnsupportedError(
            "a table of colours" if found.is_palette else f"{found.bits} bits a value",
            place=str(path),
            remedy="save it as grey values or RGB of 8 or 16 bits",
        )
    if found.kind == "tiff":
        with open_slide(path) as slide:
            if ALPHA_NOTE in slide.notes:
                raise InputUnsupportedError(
                    "alpha", place=str(path), remedy="save it as grey values or RGB without alpha"
                )
            return Look(slide.channels, str(slide.dtype), *slide.size)
    if found.samples not in (1, 3):
        raise InputUnsupportedError(
            f"{found.samples} values a pixel (alpha or CMYK)", place=str(path), remedy="save it as grey values or RGB"
        )
    return Look(("C0",) if found.samples == 1 else _RGB, f"uint{found.bits}", found.width, found.height)


def common_look(paths: Sequence[Path], ready: ReadyConfig | None = None) -> Look:
    """Return what all images of a set are, or are brought to where `ready` states a size.

    Raises
    ------
    ChannelMismatchError
        They differ; those unlike the most are listed.
    InputUnsupportedError
        They are not square, or of a size that no patch has. See also `look_of`.
    """
    looks = [look_of(path) for path in paths]
    if ready is not None and ready.px is not None:
        shrinkage = _common_shrinkage(looks, ready.px, ready.fit)
        looks = [replace(look, width=ready.px, height=ready.px, fit=ready.fit, shrinkage=shrinkage) for look in looks]
    counts = Counter(looks)
    usual, n = counts.most_common(1)[0]
    if len(counts) > 1:
        odd = [f"{path.name} ({look})" for path, look in zip(paths, looks, strict=True) if look != usual]
        more = f" and {len(odd) - _LISTED} more" if len(odd) > _LISTED else ""
        raise ChannelMismatchError(
            f"{n} patches are {usual}; {len(odd)} differ: {'; '.join(odd[:_LISTED])}{more}",
            place=str(paths[0].parent),
            remedy="bring all patches to one size ([ready] px, --resize-px), type and set of channels, or leave "
            "those out",
        )
    if usual.width != usual.height or not _PX[0] <= usual.width <= _PX[1]:
        raise InputUnsupportedError(
            f"patches of {usual.width} x {usual.height} px",
            place=str(paths[0].parent),
            remedy=f"give square patches of {_PX[0]} to {_PX[1]} px, or a size to bring them to ([ready] px, "
            "--resize-px)",
        )
    return usual


def _common_shrinkage(looks: Sequence[Look], px: int, fit: Literal["crop", "stretch"]) -> float | None:
    """Return how many px of each image make one of `px`; None if that differs by over 2 %."""
    sizes = [(look.width, look.height) for look in looks]
    sides = [min(size) for size in sizes] if fit == "crop" else [side for size in sizes for side in size]
    low, high = min(sides), max(sides)
    return math.sqrt(low * high) / px if mpp_agrees(low, high) else None


def read_image(path: Path, look: Look) -> NDArray[np.generic]:
    """Return a patch's pixels, ndarray of shape (C, P, P), source units; brought to the set's size if need be.

    Raises
    ------
    InputCorruptError
        They cannot be decoded in full.
    NonFiniteError
        Some are NaN or infinite.
    """
    if raster(path).kind == "tiff":
        with open_slide(path) as slide:
            pixels = slide.read_region(0, 0, *slide.size)
    else:
        values = raster(path).pixels()
        pixels = np.ascontiguousarray(values[None] if values.ndim == 2 else values.transpose(2, 0, 1))
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise NonFiniteError(
            f"{int(np.count_nonzero(~np.isfinite(pixels)))} pixels are NaN or infinite",
            place=str(path),
            remedy="leave the patch out, or mend it; what they should be is not guessed",
        )
    return pixels if pixels.shape[1:] == (look.height, look.width) else _fitted(pixels, look)


def _fitted(pixels: NDArray[np.generic], look: Look) -> NDArray[np.generic]:
    """Return an image of (C, H, W) at a set's size: area means where it shrinks, linear where it grows."""
    if look.fit == "crop":
        side = min(pixels.shape[1:])
        top, left = ((length - side) // 2 for length in pixels.shape[1:])
        pixels = pixels[:, top : top + side, left : left + side]
    shrinks = pixels.shape[1] >= look.height and pixels.shape[2] >= look.width
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    planes = map(np.ascontiguousarray, pixels)
    return resized(planes, (look.width, look.height), interpolation=how).astype(look.dtype)

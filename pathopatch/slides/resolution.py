"""Facts that a file states before any pixel is read: channels, sample type, levels, micrometres per pixel."""

from __future__ import annotations

import io
import math
import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ImageCms

from pathopatch.core.config import MPP_RANGE, MPP_TOLERANCE
from pathopatch.core.text import parse_number

RGB = ("R", "G", "B")
DTYPES = tuple(np.dtype(name) for name in ("uint8", "uint16", "int8", "int16", "float32", "float64"))
"""Sample types that a slide may have."""
ICC_TAG = 34675  # of a TIFF
ALPHA_NOTE = (
    "the alpha sample is taken as opacity; if it is a channel, name all samples in the column channels of a manifest"
)

_UM_PER_UNIT = {
    "m": 1e6, "dm": 1e5, "cm": 1e4, "mm": 1e3, "um": 1.0, "nm": 1e-3, "pm": 1e-6, "inch": 25400.0, "in": 25400.0,
    "micron": 1.0, "microns": 1.0, "micrometer": 1.0, "micrometre": 1.0, "meter": 1e6, "decimeter": 1e5,
    "centimeter": 1e4, "millimeter": 1e3, "nanometer": 1e-3, "angstrom": 1e-4, "picometer": 1e-6,
}  # fmt: skip


@dataclass(frozen=True)
class Level:
    """One resolution of a slide: its size in px of this level, and level-0 px per px of this level."""

    width: int
    height: int
    downsample: float


@dataclass(frozen=True)
class Resolution:
    """Micrometres per level-0 px; None where unknown, then `reason` says why, with the offending value."""

    mpp: float | None
    reason: str = ""


UNSTATED = Resolution(None, "the file does not state it")


@dataclass(frozen=True)
class SlideFacts:
    """Facts that an adapter finds in its file before any pixel is read."""

    channels: tuple[str, ...]
    dtype: np.dtype[np.generic]
    levels: tuple[Level, ...]
    resolution: Resolution
    paths: tuple[Path, ...]
    bounds: tuple[int, int, int, int] | None = None  # x, y, width, height, level-0 px
    notes: tuple[str, ...] = ()  # what was chosen or assumed in reading the file, for a person to check
    file_of: tuple[int, ...] = ()  # index of each channel's file; () if all are of one
    icc: str = ""  # name of the ICC profile that the file carries, which is not applied; "" without one

    @property
    def is_rgb(self) -> bool:
        """Whether the channels are red, green and blue in uint8."""
        return self.channels == RGB and self.dtype == np.uint8

    @property
    def known_bounds(self) -> tuple[int, int, int, int]:
        """The bounds; the whole slide where the file names none."""
        return self.bounds or (0, 0, self.levels[0].width, self.levels[0].height)


def icc_name(profile: bytes | None) -> str:
    """Return the name of an ICC profile, as it states it itself; "" without one."""
    if not profile:
        return ""
    try:
        return ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile))).strip() or "without a name"
    except (ImageCms.PyCMSError, OSError):
        return "damaged"


def resolution(x: float | str | None, y: float | str | None, *, source: str) -> Resolution:
    """Return the resolution that um per px across and down state, as read from `source`, if they make sense."""
    if x is None or y is None:
        return UNSTATED
    try:
        across, down = parse_number(str(x)), parse_number(str(y))
    except ValueError:
        return Resolution(None, f"{source} is not a number: {x!r}, {y!r}")
    low, high = MPP_RANGE
    if not (low <= across <= high and low <= down <= high):
        sides = f"{across:g}" if across == down else f"{across:g} x {down:g}"
        return Resolution(None, f"{source} gives {sides} um/px, outside {low:g} to {high:g}")
    if abs(across - down) > MPP_TOLERANCE * max(across, down):
        return Resolution(None, f"{source} gives {across:g} um/px across and {down:g} down: pixels must be square")
    # The geometric mean keeps the area of a pixel. Equal values stay as they are: the root would move the last digit.
    return Resolution(across if across == down else math.sqrt(across * down))


def tiff_resolution(page: Any, *, description: str, imagej: dict[str, Any] | None, image: int = 0) -> Resolution:
    """Return the resolution of a TIFF page: from OME-XML, ImageJ's unit, Aperio's MPP, else the resolution tags.

    `description` is of the file's first page, `image` the number of the page's image in an OME-XML document.
    """
    # The tags come last: ImageJ counts them in a unit of its own, and OME writers may leave them at 1.
    if description.lstrip().startswith("<") and "<OME" in description[:4000]:
        return _ome_resolution(ome_pixels(description, image, size=(page.imagewidth, page.imagelength)))
    if imagej and imagej.get("unit"):
        um_per_unit = um_per(str(imagej["unit"]))
        unknown = Resolution(None, f"the unit {str(imagej['unit'])!r} is not one of length")
    elif description.startswith("Aperio") and (match := re.search(r"\|\s*MPP\s*=\s*([^|\s]+)", description)):
        return resolution(match[1], match[1], source="the Aperio description")
    else:
        unit = int(page.tags.valueof(296, 2))
        um_per_unit = {2: _UM_PER_UNIT["inch"], 3: _UM_PER_UNIT["cm"]}.get(unit)
        unknown = UNSTATED if unit == 1 else Resolution(None, f"ResolutionUnit is {unit}")
    if um_per_unit is None:
        return unknown
    # XResolution and YResolution, px per unit.
    fractions = [page.tags.valueof(tag) for tag in (282, 283)]
    if None in fractions:
        return UNSTATED
    mpp = []
    for numerator, denominator in fractions:
        if numerator == 0 or denominator == 0:
            return Resolution(None, f"the resolution tag is {numerator}/{denominator}")
        mpp.append(um_per_unit * denominator / numerator)
    return resolution(mpp[0], mpp[1], source="the resolution tag")


def _ome_resolution(pixels: ET.Element | None) -> Resolution:
    """Return the resolution of an image of an OME-XML document."""
    if pixels is None:
        return Resolution(None, "its OME-XML cannot be read, or does not describe this image")
    mpp: list[str | None] = []
    for axis in "XY":
        text = pixels.get(f"PhysicalSize{axis}")
        um_per_unit = um_per(pixels.get(f"PhysicalSize{axis}Unit", "um"))
        # OME allows the units "pixel" and "reference frame", which state no length.
        if text is None or um_per_unit is None:
            return UNSTATED
        try:
            mpp.append(repr(parse_number(text) * um_per_unit))
        except ValueError:
            mpp.append(text)
    return resolution(mpp[0], mpp[1], source="the OME-XML")


def ome_pixels(description: str, image: int = 0, *, size: tuple[int, int] | None = None) -> ET.Element | None:
    """Return the ``Pixels`` element of an image of an OME-XML document; None if it is not there.

    Where several images are described, one whose (width, height) differs from `size` is not the image.
    """
    try:
        elements = ET.fromstring(description).findall(".//{*}Image/{*}Pixels")
    except ET.ParseError:
        return None
    if image >= len(elements):
        return None
    stated_size = elements[image].get("SizeX"), elements[image].get("SizeY")
    # Images of different sizes may be in another order than their descriptions; a single one has no rival.
    is_other_image = len(elements) > 1 and size is not None and stated_size != tuple(map(str, size))
    return None if is_other_image else elements[image]


def um_per(unit: str) -> float | None:
    """Return micrometres per unit of length; None if the unit is not known."""
    # Three spellings of the micro sign: ImageJ's escape, U+00B5 and the Greek letter.
    plain = unit.replace("\\u00B5", "u").replace("\u00b5", "u").replace("\u03bc", "u").strip().lower()
    return _UM_PER_UNIT.get(plain)

"""How many micrometres a pixel has, as far as the file says, and why not where it does not."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from typing import Any

from pathopatch.core.config import MPP_RANGE

MAX_MISMATCH = 0.02
"""Relative difference of two mpp values that are still taken for the same."""

_UM_PER_UNIT = {
    "m": 1e6, "dm": 1e5, "cm": 1e4, "mm": 1e3, "um": 1.0, "nm": 1e-3, "pm": 1e-6, "inch": 25400.0, "in": 25400.0,
    "micron": 1.0, "microns": 1.0, "micrometer": 1.0, "micrometre": 1.0, "meter": 1e6, "decimeter": 1e5,
    "centimeter": 1e4, "millimeter": 1e3, "nanometer": 1e-3, "angstrom": 1e-4, "picometer": 1e-6,
}  # fmt: skip


@dataclass(frozen=True)
class Resolution:
    """Micrometres per pixel of level 0, or why they are unknown.

    Parameters
    ----------
    mpp : float or None
        um per level-0 px.
    reason : str
        Why `mpp` is None, with the offending value.
    """

    mpp: float | None
    reason: str = ""


UNSTATED = Resolution(None, "the file does not state it")


def resolution(x: float | str | None, y: float | str | None, *, source: str) -> Resolution:
    """Return the resolution that two values state, checked for sense.

    Parameters
    ----------
    x, y : float or str or None
        um per px across and down, as read; None where missing.
    source : str
        Where they were read, for the message.
    """
    if x is None or y is None:
        return UNSTATED
    try:
        across, down = float(x), float(y)
    except ValueError:
        return Resolution(None, f"{source} is not a number: {x!r}, {y!r}")
    low, high = MPP_RANGE
    if not (low <= across <= high and low <= down <= high):
        said = f"{across:g}" if across == down else f"{across:g} x {down:g}"
        return Resolution(None, f"{source} gives {said} um/px, outside {low:g} to {high:g}")
    if abs(across - down) > MAX_MISMATCH * max(across, down):
        return Resolution(None, f"{source} gives {across:g} um/px across and {down:g} down: pixels must be square")
    return Resolution(across if across == down else math.sqrt(across * down))


def axis_resolution(x: float, y: float, unit_x: str | None, unit_y: str | None, *, source: str) -> Resolution:
    """Return the resolution that two lengths of a pixel and their units state; a length without a unit says nothing.

    Parameters
    ----------
    x, y : float
        Size of a pixel across and down, in its unit.
    unit_x, unit_y : str or None
        Names of the units.
    source : str
        Where they were read, for the message.
    """
    um = []
    for value, unit in ((x, unit_x), (y, unit_y)):
        if unit is None:
            return Resolution(None, f"{source} gives {value:g} without a unit")
        um_per_unit = _um(str(unit))
        if um_per_unit is None:
            return Resolution(None, f"{source} is in the unit {unit!r}, which is not one of length")
        um.append(value * um_per_unit)
    return resolution(um[0], um[1], source=source)


def tiff_resolution(page: Any, *, description: str, imagej: dict[str, Any] | None, image: int = 0) -> Resolution:
    """Return the resolution of a TIFF: from OME-XML, ImageJ's unit, Aperio's MPP, else the resolution tags.

    Parameters
    ----------
    page : tifffile.TiffPage
        The page that carries the tags.
    description : str
        ImageDescription of the file's first page.
    imagej : dict or None
        ImageJ metadata, if it is an ImageJ file.
    image : int
        Number of the page's image among those of an OME-XML document.
    """
    if description.lstrip().startswith("<") and "<OME" in description[:4000]:
        return _ome_resolution(ome_pixels(description, image, size=(page.imagewidth, page.imagelength)))
    if imagej and imagej.get("unit"):
        return _unit_resolution(page, str(imagej["unit"]))
    if description.startswith("Aperio") and (match := re.search(r"\|\s*MPP\s*=\s*([^|\s]+)", description)):
        return resolution(match[1], match[1], source="the Aperio description")
    unit = int(page.tags.valueof(296, 2))
    name = {2: "inch", 3: "cm"}.get(unit)
    if name is None:
        return UNSTATED if unit == 1 else Resolution(None, f"ResolutionUnit is {unit}")
    return _unit_resolution(page, name)


def _unit_resolution(page: Any, unit: str) -> Resolution:
    """Return the resolution from the tags XResolution and YResolution, px per unit."""
    um_per_unit = _um(unit)
    if um_per_unit is None:
        return Resolution(None, f"the unit {unit!r} is not one of length")
    values = [page.tags.valueof(tag) for tag in (282, 283)]
    if None in values:
        return UNSTATED
    mpp = []
    for numerator, denominator in values:
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
        um_per_unit = _um(pixels.get(f"PhysicalSize{axis}Unit", "um"))
        if text is None or um_per_unit is None:
            return UNSTATED
        try:
            mpp.append(repr(float(text) * um_per_unit))
        except ValueError:
            mpp.append(text)
    return resolution(mpp[0], mpp[1], source="the OME-XML")


def ome_pixels(description: str, image: int = 0, *, size: tuple[int, int] | None = None) -> ET.Element | None:
    """Return the ``Pixels`` element of an image of an OME-XML document; None if it is not there.

    Parameters
    ----------
    description : str
        The document.
    image : int
        Number of the image, from 0.
    size : tuple of int, optional
        (width, height) that it has; where several images are described, one of another size is none.
    """
    try:
        found = ET.fromstring(description).findall(".//{*}Image/{*}Pixels")
    except ET.ParseError:
        return None
    if image >= len(found):
        return None
    said = found[image].get("SizeX"), found[image].get("SizeY")
    is_other = len(found) > 1 and size is not None and said != tuple(map(str, size))
    return None if is_other else found[image]


def _um(unit: str) -> float | None:
    """Return micrometres per unit of length; None if the unit is not known."""
    plain = unit.replace("\\u00B5", "u").replace("\u00b5", "u").replace("\u03bc", "u").strip().lower()
    return _UM_PER_UNIT.get(plain)

"""Show an open slide to a person: as a small picture, a line of text, and a card in notebooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pathopatch.core.errors import PathopatchError
from pathopatch.core.html import THUMBNAIL_PX, card
from pathopatch.slides.background import Polarities
from pathopatch.slides.composite import compose
from pathopatch.slides.resample import Pixels, level_for
from pathopatch.slides.slide_file import SlideFile

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL.Image import Image

_MOST_READ_PX = 2**26  # of a level, without being asked: some seconds
_LOW, _HIGH = 1.0, 99.9  # percentiles drawn black and full: of a slide with little tissue it is the brightest pixels


def thumbnail(overview: Pixels, polarities: Polarities, *, is_rgb: bool) -> Image:
    """Return an overview (C, h, w) as a picture; see `Slide.thumbnail`."""
    from PIL import Image

    windows = np.zeros((len(overview), 2)) if is_rgb else display_windows(overview, polarities)
    # What is no number has no colour: black.
    return Image.fromarray(compose(np.nan_to_num(overview, posinf=0, neginf=0), windows, is_rgb=is_rgb))


def display_windows(overview: NDArray[np.generic], polarities: Polarities) -> NDArray[np.float64]:
    """Return the intensities of an overview (C, h, w) that are drawn black and full, (C, 2), source units.

    They are percentiles of all its finite pixels, since tissue is not sought for a picture.
    """
    bounds = np.zeros((len(overview), 2))
    for row, plane, polarity in zip(bounds, overview, polarities, strict=True):
        values = plane[np.isfinite(plane)].astype(np.float64)
        if values.size:
            row[:] = np.percentile(values, (100 - _HIGH, 100 - _LOW) if polarity == "bright" else (_LOW, _HIGH))
    return bounds


def slide_text(slide: SlideFile) -> str:
    """Return a slide in one line."""
    width, height = slide.size
    scale = f"{slide.mpp:.4g} um/px" if slide.has_mpp else "um/px unknown"
    return f"<{type(slide).__name__} {_name(slide)!r}: {width} x {height} px, {scale}, {', '.join(slide.channels)}>"


def slide_html(slide: SlideFile, thumbnail: Callable[[int], Image]) -> str:
    """Return a slide as a card for notebooks, with its thumbnail unless much would be read for it."""
    width, height = slide.size
    size = f"{width} x {height} px"
    if slide.has_mpp:
        size += f", {width * slide.mpp / 1000:.3g} x {height * slide.mpp / 1000:.3g} mm"
    facts = [
        ("size", size),
        ("scale", f"{slide.mpp:.4g} um/px" if slide.has_mpp else "unknown: give open_slide mpp="),
        ("channels", ", ".join(slide.channels)),
        ("type", str(slide.dtype)),
        ("levels", ", ".join(f"1/{level.downsample:.4g}" for level in slide.levels)),
        *(("note", note) for note in slide.notes),
    ]
    picture = None
    try:
        if _read_px(slide, THUMBNAIL_PX) <= _MOST_READ_PX:
            picture = thumbnail(THUMBNAIL_PX)
        else:
            facts.append(("picture", "the file has no small level: slide.thumbnail() reads it whole"))
    except PathopatchError as error:  # the facts are still worth showing
        facts.append(("picture", str(error)))
    return card(_name(slide), facts, picture=picture)


def _name(slide: SlideFile) -> str:
    return ", ".join(path.name for path in slide.paths)


def _read_px(slide: SlideFile, max_px: int) -> int:
    """Return the pixels of the level from which a thumbnail is made, times its channels."""
    downsample = max(1.0, max(slide.size) / max_px)
    level = slide.levels[level_for([level.downsample for level in slide.levels], downsample)]
    return level.width * level.height * len(slide.channels)

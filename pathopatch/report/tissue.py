"""Answers what was taken for tissue: each tiled slide's overview with the outline of its stored mask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pathopatch.files import write_bytes
from pathopatch.patches import PatchStore
from pathopatch.patches.picture import Picture, compose, outlined, shrunk
from pathopatch.patches.tissue import EVERY_PIXEL
from pathopatch.report.markup import Html, paragraph, percent, safe, tag

_LONGEST_PX = 800
_BRIGHT_OUTLINE, _DARK_OUTLINE = (0, 200, 70), (255, 225, 0)  # RGB; seen on either background
_UNSCANNED = (128, 128, 128)
_JPEG = (  # a line of one pixel keeps its colour
    cv2.IMWRITE_JPEG_QUALITY, 88,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
)  # fmt: skip


@dataclass(frozen=True)
class Outlined:
    """One slide's picture.

    Parameters
    ----------
    file : str
        Relative to the page.
    caption : str
        What the mask says, and how it was found.
    """

    file: str
    caption: str


def tissue_picture(store: PatchStore, *, longest_px: int = _LONGEST_PX) -> Picture:
    """Return a slide's overview with the outline of its tissue.

    Parameters
    ----------
    store : PatchStore
        A finished store.
    longest_px : int
        Longest side of the picture; smaller overviews keep their size.

    Returns
    -------
    ndarray of uint8, shape (h, w, 3)
        RGB.
    """
    known = store.attributes
    overview = shrunk(store.overview(), longest_px)
    picture = compose(overview, store.windows, is_rgb=known["is_rgb"])
    height, width = picture.shape[:2]
    mask = cv2.resize(store.tissue(), (width, height), interpolation=cv2.INTER_NEAREST)
    if (unscanned := store.unscanned()) is not None:
        missing = cv2.resize(unscanned, (width, height), interpolation=cv2.INTER_NEAREST) != 0
        stripes = np.add.outer(np.arange(height), np.arange(width)) % 8 < 2
        picture[missing] = np.where(stripes[missing, None], 90, _UNSCANNED)
    return outlined(picture, mask > 0, colors=[_BRIGHT_OUTLINE if known["background"] == "bright" else _DARK_OUTLINE])


def write_outlines(stores: Mapping[str, Path], folder: Path) -> dict[str, Outlined]:
    """Write ``tissue/<slide>.jpg`` for each store into the report's folder; return picture and caption by slide."""
    found = {}
    for slide, path in stores.items():
        store = PatchStore(path)
        if store.attributes.get("is_ready_set"):
            continue  # patches that nothing lies between have no overview
        picture = cv2.cvtColor(tissue_picture(store), cv2.COLOR_RGB2BGR)
        encoded = cv2.imencode(".jpg", picture, _JPEG)[1]
        write_bytes(folder / "tissue" / f"{slide}.jpg", encoded.tobytes())
        found[slide] = Outlined(f"tissue/{safe(slide)}.jpg", _caption(slide, store.attributes, store.tissue()))
    return found


def tissue_section(outlines: Mapping[str, Outlined]) -> Html:
    """Return the outlines of all tiled slides."""
    if not outlines:
        return paragraph(
            "No slide has been tiled, and ready patches have no overview, so no tissue is outlined.", kind="absent"
        )
    figures = [
        tag(
            "figure",
            tag("img", src=each.file, alt=f"Slide {slide} with the outline of its tissue.", loading="lazy"),
            tag("figcaption", each.caption),
        )
        for slide, each in outlines.items()
    ]
    said = paragraph(
        "What lies inside an outline can be tissue; there, each pixel at the target resolution must pass the threshold "
        "too. Look at every picture: a wrong outline makes wrong tissue fractions, and everything after them wrong."
    )
    return tag("div", said, tag("div", *figures, class_="gallery"))


def _caption(slide: str, known: Mapping[str, Any], mask: NDArray[np.uint8]) -> str:
    """Return in words how much of a slide is tissue, and what says so."""
    tissue = known["tissue"]
    scanned = 1 - tissue.get("unscanned_share", 0.0)
    told = [f"{slide}: {percent(float(mask.mean()) / scanned if scanned else 0.0)} % of what was scanned is tissue"]
    if tissue.get("is_supplied"):
        told.append("by the mask that was supplied")
    elif tissue["threshold"] == EVERY_PIXEL:
        told.append(f"{known['background']} background, of which none is in view")
    elif tissue["threshold"] is None:
        told.append(f"{known['background']} background, no tissue was found")
    else:
        told.append(f"{known['background']} background, {tissue['method']}, signal above {tissue['threshold']:.3f}")
        used = [name for name, (low, high) in zip(known["channels"], tissue["windows"], strict=True) if high > low]
        told += [f"signal of {', '.join(used)}"] if len(used) < len(known["channels"]) else []
    for key, what in (("ink_share", "pen marks"), ("unscanned_share", "not scanned")):
        told += [f"{percent(tissue[key], 2)} % {what}, left out"] if tissue.get(key) else []
    return "; ".join(told) + "."

"""Draw what was taken for tissue: each tiled slide's overview with the outline of its stored mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2

from pathopatch.core.files import write_bytes
from pathopatch.patches import PatchStore
from pathopatch.patches.picture import Picture, compose, hatched, mask_under, outlined, shrunk
from pathopatch.patches.tissue import EVERY_PIXEL
from pathopatch.report.markup import Html, number, paragraph, percent, safe, tag
from pathopatch.report.tissue_facts import TissueFacts

_LONGEST_PX = 800
_BRIGHT_OUTLINE, _DARK_OUTLINE = (0, 200, 70), (255, 225, 0)  # RGB; seen on either background
_JPEG = (  # a line of one pixel keeps its colour
    cv2.IMWRITE_JPEG_QUALITY, 88,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
)  # fmt: skip


@dataclass(frozen=True)
class Outlined:
    """One slide's picture.

    Parameters
    ----------
    slide_id : str
    file : str
        Relative to the page.
    caption : str
        What the mask says, and how it was found.
    """

    slide_id: str
    file: str
    caption: str


def tissue_picture(store: PatchStore, *, longest_px: int = _LONGEST_PX) -> Picture:
    """Return a slide's overview with the outline of its tissue; what was never scanned is hatched.

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
    unscanned = store.unscanned()
    if unscanned is not None:
        picture = hatched(picture, mask_under(picture, unscanned))
    color = _BRIGHT_OUTLINE if known["background"] == "bright" else _DARK_OUTLINE
    return outlined(picture, mask_under(picture, store.tissue()), colors=[color])


def write_outlines(
    stores: Mapping[str, Path], facts: Sequence[TissueFacts], folder: Path, *, href: str
) -> list[Outlined]:
    """Write ``<slide>.jpg`` into a folder for each slide; return the pictures in the order of the facts.

    Parameters
    ----------
    stores : mapping of str to Path
        The finished store of each slide.
    facts : sequence of TissueFacts
        Of the slides to draw.
    folder : Path
        For the pictures.
    href : str
        The folder as the page sees it.
    """
    found = []
    for each in facts:
        store = PatchStore(stores[each.slide_id])
        picture = cv2.cvtColor(tissue_picture(store), cv2.COLOR_RGB2BGR)
        encoded = cv2.imencode(".jpg", picture, _JPEG)[1]
        write_bytes(folder / f"{each.slide_id}.jpg", encoded.tobytes())
        file = f"{href}/{safe(each.slide_id)}.jpg"
        found.append(Outlined(each.slide_id, file, _caption(each, store.attributes)))
    return found


def tissue_section(outlines: Sequence[Outlined], facts: Sequence[TissueFacts]) -> Html:
    """Return the outlines of all tiled slides, after the slides that a person should look at first."""
    if not outlines:
        return paragraph(
            "No slide has been tiled, and ready patches have no overview, so no tissue is outlined.", kind="absent"
        )
    said = paragraph(
        "What lies inside an outline can be tissue; there, each pixel at the target resolution must pass the threshold "
        "too. Look at every picture: a wrong outline makes wrong tissue fractions, and everything after them wrong."
    )
    return tag("div", first_to_look(facts), said, gallery(outlines))


def first_to_look(facts: Sequence[TissueFacts]) -> Html:
    """Return the slides that have a reason to be looked at, with the reasons; nothing if none has."""
    items = [
        tag("li", tag("a", each.slide_id, href=f"#tissue-{each.slide_id}"), f": {'; '.join(each.reasons)}.")
        for each in facts
        if each.reasons
    ]
    if not items:
        return Html()
    return tag("div", tag("p", tag("strong", "Look at these first."), class_="warning"), tag("ul", *items))


def gallery(outlines: Sequence[Outlined], *, links: Mapping[str, str] | None = None) -> Html:
    """Return all pictures; `links` names a file with the outline of each slide, relative to the page."""
    figures = []
    for each in outlines:
        text = f"Slide {each.slide_id} with the outline of its tissue."
        link = (links or {}).get(each.slide_id)
        said = [each.caption] if link is None else [each.caption, " ", tag("a", "Outline for QuPath", href=link)]
        image = tag("img", src=each.file, alt=text, loading="lazy")
        figures.append(tag("figure", image, tag("figcaption", *said), id=f"tissue-{each.slide_id}"))
    return tag("div", *figures, class_="gallery")


def _caption(facts: TissueFacts, known: Mapping[str, Any]) -> str:
    """Return in words how much of a slide is tissue, what says so, and how sure that is."""
    tissue = known["tissue"]
    whole = "what was scanned" if facts.unscanned_share else "the overview"
    told = [f"{facts.slide_id}: {percent(facts.share)} % of {whole} is tissue"]
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
    told += [f"{percent(tissue['ink_share'], 2)} % pen marks, left out"] if tissue.get("ink_share") else []
    told += [f"{percent(facts.unscanned_share, 2)} % not scanned (hatched)"] if facts.unscanned_share else []
    told += [] if facts.confidence is None else [f"confidence {number(facts.confidence, 2)}"]
    return "; ".join([*told, *facts.doubts]) + "."

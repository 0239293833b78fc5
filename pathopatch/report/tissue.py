"""Describe and draw the tissue of tiled slides: which to check first, a contact sheet, and outlines for QuPath."""

from __future__ import annotations

import hashlib
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pathopatch.core.artefacts import read_table
from pathopatch.core.config import UNCERTAIN_BELOW
from pathopatch.core.files import atomic_path, inside, read_json, write_bytes, write_json
from pathopatch.core.progress import Progress
from pathopatch.core.text import pluralize
from pathopatch.patches.annotations.polygons import tissue_geojson
from pathopatch.patches.picture import FAINT, INK, PAPER, font, hatched, mask_under, outlined, shortened, write_png
from pathopatch.patches.store import PatchStore
from pathopatch.patches.tissue import EVERY_PIXEL
from pathopatch.slides.composite import Picture, compose, shrunk

_LONGEST_PX = 800
_BRIGHT_OUTLINE, _DARK_OUTLINE = (0, 200, 70), (255, 225, 0)  # RGB, on bright and on dark background
# Without chroma subsampling (4:4:4), or an outline of one pixel would lose its colour.
_JPEG = (
    *(cv2.IMWRITE_JPEG_QUALITY, 88),
    *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
)
_OUTLIER_LIMIT = 3.5  # robust z-score, as Iglewicz and Hoaglin recommend
_LEAST_SLIDES = 8  # the median of fewer slides describes no cohort
# Of shares and levels in [0, 1]: in a cohort of equal slides a tiny difference is no outlier.
_LEAST_SPREAD = 0.02
_SLIDES_A_SHEET, _COLUMNS = 60, 6
_PICTURE_PX, _FRAME_PX, _GAP_PX = 300, 6, 16
_TEXT_PX, _LINE_PX = 18, 24
_REASON_PX, _REASON_LINE_PX, _REASON_LINES, _REASON_LETTERS = 14, 18, 3, 42
_ALARM = (190, 30, 30)  # RGB of the frame and reasons of a slide to check first


@dataclass(frozen=True, kw_only=True)
class TissueFacts:
    """What a store records of its slide's tissue. Shares and confidence are in [0, 1]."""

    slide_id: str
    share: float  # of the scanned part of the overview that is tissue
    # Median of the pixels without tissue, mean over the channels, NaN without such pixels. 0 and 1 are the ends of the
    # slide's intensity windows.
    background_level: float = math.nan
    confidence: float | None = None  # of the mask; None where the mask was supplied
    unscanned_share: float | None = None  # of the overview
    doubts: tuple[str, ...] = ()  # objections to the mask; also of a slide that is not uncertain
    reasons: tuple[str, ...] = ()  # why a person should check this slide first
    rule: str = "none"  # how the mask was found: "supplied", "every pixel", "none" (no tissue), or a method's name
    threshold: float | None = None  # signal above which a pixel is tissue, where a method found one
    background: str = ""  # "bright" or "dark"
    signal_channels: tuple[str, ...] = ()  # channels of the signal, where it is not made of all of them
    ink_share: float = 0.0  # of the overview, under pen marks


def read_tissue_facts(stores: Mapping[str, Path]) -> list[TissueFacts]:
    """Return the facts of each store that has an overview, worst first.

    Slides with a reason come first, then the less certain ones; a store without a confidence counts as certain.
    """
    opened = ((name, PatchStore(path)) for name, path in stores.items())
    facts = with_outliers([_facts(name, store) for name, store in opened if store.has_overview])
    return sorted(
        facts,
        key=lambda slide: (not slide.reasons, 1.0 if slide.confidence is None else slide.confidence, slide.slide_id),
    )


def with_outliers(facts: Sequence[TissueFacts]) -> list[TissueFacts]:
    """Return the facts; outliers of the cohort have that as a further reason."""
    marked = list(facts)
    for name, attribute in (("tissue share", "share"), ("background level", "background_level")):
        values = np.array([getattr(slide, attribute) for slide in facts], np.float64)
        for index in np.flatnonzero(cohort_outliers(values, least_spread=_LEAST_SPREAD)).tolist():
            reason = f"{name} {values[index]:.1%}, median of the cohort {np.nanmedian(values):.1%}"
            marked[index] = replace(marked[index], reasons=(*marked[index].reasons, reason))
    return marked


def cohort_outliers(values: NDArray[np.float64], *, least_spread: float) -> NDArray[np.bool_]:
    """Return which values (N,), one per slide, are far from the others: |x - median| / (1.4826 MAD) above 3.5.

    NaN is unknown: no outlier, and not counted. Fewer than 8 known values have no outlier. `least_spread` is a lower
    bound of 1.4826 MAD, in the unit of the values.

    References
    ----------
    Iglewicz, Hoaglin, How to Detect and Handle Outliers, 1993: modified z-score above 3.5.
    """
    finite = values[~np.isnan(values)]
    if len(finite) < _LEAST_SLIDES:
        return np.zeros(len(values), np.bool_)
    distance = np.abs(values - np.median(finite))
    spread = max(1.4826 * float(np.nanmedian(distance)), least_spread)
    return distance > _OUTLIER_LIMIT * spread


def _facts(slide_id: str, store: PatchStore) -> TissueFacts:
    tissue, level = store.attributes["tissue"], store.coarsest_level
    channels, background = store.attributes["channels"], store.attributes["background"]
    confidence, unscanned_share = tissue.get("confidence"), tissue.get("unscanned_share")
    # Parts that were never scanned are neither tissue nor glass.
    share = float(store.tissue().mean()) / max(1e-12, 1 - (unscanned_share or 0.0))
    is_ground, unscanned = store.tissue(level) == 0, store.unscanned(level)
    if unscanned is not None:
        is_ground &= unscanned == 0
    doubts = tuple(str(doubt).rstrip(".") for doubt in tissue.get("doubts", ()))
    reasons = ["no tissue was found"] if share == 0 else []
    if confidence is not None and confidence < UNCERTAIN_BELOW:
        reasons += [f"uncertain, confidence {confidence:.2f}", *doubts]
    facts = TissueFacts(
        slide_id=slide_id,
        share=share,
        background_level=_background_level(store.overview(level), is_ground, store.windows),
        confidence=confidence,
        unscanned_share=unscanned_share,
        doubts=doubts,
        reasons=tuple(reasons),
        background=background,
        ink_share=tissue.get("ink_share", 0.0),
    )
    if tissue.get("is_supplied"):
        return replace(facts, rule="supplied")
    if tissue["threshold"] is None:
        return facts
    if tissue["threshold"] == EVERY_PIXEL:
        return replace(facts, rule="every pixel")
    # A channel whose window is empty has no signal.
    signal = [name for name, (low, high) in zip(channels, tissue["windows"], strict=True) if high > low]
    return replace(
        facts,
        rule=tissue["method"],
        threshold=tissue["threshold"],
        signal_channels=tuple(signal) if len(signal) < len(channels) else (),
    )


def _background_level(
    overview: NDArray[np.generic], is_ground: NDArray[np.bool_], windows: NDArray[np.float64]
) -> float:
    """Return the median of some pixels (h, w) of an overview (C, h, w) on the scale of the windows (C, 2)."""
    if not is_ground.any():
        return math.nan
    levels = [
        (float(np.median(plane[is_ground].astype(np.float64))) - low) / (high - low)
        for plane, (low, high) in zip(overview, windows.tolist(), strict=True)
        if high > low
    ]
    return float(np.mean(levels)) if levels else math.nan


def tissue_picture(store: PatchStore, *, longest_px: int = _LONGEST_PX) -> Picture:
    """Return a slide's overview with its tissue outlined and unscanned parts hatched, RGB uint8 (h, w, 3)."""
    picture = compose(shrunk(store.overview(), longest_px), store.windows, is_rgb=store.attributes["is_rgb"])
    unscanned = store.unscanned()
    if unscanned is not None:
        picture = hatched(picture, mask_under(picture, unscanned))
    color = _BRIGHT_OUTLINE if store.attributes["background"] == "bright" else _DARK_OUTLINE
    return outlined(picture, mask_under(picture, store.tissue()), colors=[color])


def write_tissue_pictures(stores: Mapping[str, Path], facts: Sequence[TissueFacts], folder: Path) -> None:
    """Write ``<slide>.jpg`` into a folder for each slide."""
    for slide in facts:
        picture = cv2.cvtColor(tissue_picture(PatchStore(stores[slide.slide_id])), cv2.COLOR_RGB2BGR)
        write_bytes(folder / f"{slide.slide_id}.jpg", cv2.imencode(".jpg", picture, _JPEG)[1].tobytes())


def write_sheets(
    stores: Mapping[str, Path], facts: Sequence[TissueFacts], path: Path, *, title: str, progress: Progress | None
) -> tuple[Path, ...]:
    """Write the contact sheet, 60 slides each, remove further old sheets, and return the files."""
    n_sheets = -(-len(facts) // _SLIDES_A_SHEET)
    paths = [path, *(path.with_stem(f"{path.stem}-{number}") for number in range(2, n_sheets + 1))]
    if progress:
        progress("tissue", 0, len(facts))
    for number, place in enumerate(paths):
        start = number * _SLIDES_A_SHEET
        cells = []
        for done, slide in enumerate(facts[start : start + _SLIDES_A_SHEET], start + 1):
            cells.append(_cell(PatchStore(stores[slide.slide_id]), slide))
            if progress:
                progress("tissue", done, len(facts), slide.slide_id)
        heading = f"{title}: tissue of {pluralize(len(facts), 'slide')}, worst first"
        heading += f", sheet {number + 1} of {n_sheets}" if n_sheets > 1 else ""
        with atomic_path(place) as temporary:
            write_png(temporary, _joined(cells, heading))
    # Sheets of an earlier, larger cohort would be taken for this one's.
    number = n_sheets + 1
    while (old := path.with_stem(f"{path.stem}-{number}")).is_file():
        old.unlink()
        number += 1
    return tuple(paths)


def _cell(store: PatchStore, facts: TissueFacts) -> Picture:
    """Return a slide's picture with its id, tissue share and confidence; with reasons, in a red frame."""
    view = tissue_picture(store, longest_px=_PICTURE_PX)
    factor = max(1, _PICTURE_PX // max(view.shape[:2]))
    # Whole pixels are repeated, so that a one-pixel outline stays sharp.
    view = view.repeat(factor, axis=0).repeat(factor, axis=1)
    height, width = view.shape[:2]
    box = _PICTURE_PX + 2 * _FRAME_PX
    cell = Image.new("RGB", (box, box + 2 * _LINE_PX + _REASON_LINES * _REASON_LINE_PX), PAPER)
    left, top = (box - width) // 2, (box - height) // 2
    cell.paste(Image.fromarray(view), (left, top))
    draw = ImageDraw.Draw(cell)
    draw.rectangle((left - 1, top - 1, left + width, top + height), outline=FAINT)
    if facts.reasons:
        draw.rectangle((0, 0, box - 1, box - 1), outline=_ALARM, width=_FRAME_PX - 2)
    share = f"tissue {facts.share:.1%}"
    share += "" if facts.confidence is None else f", confidence {facts.confidence:.2f}"
    for number, text in enumerate((facts.slide_id, share)):
        at = (0, box + number * _LINE_PX)
        draw.text(at, shortened(text, box, _TEXT_PX), fill=INK, font=font(_TEXT_PX))
    lines = textwrap.wrap("; ".join(facts.reasons), _REASON_LETTERS, max_lines=_REASON_LINES, placeholder="…")
    for number, text in enumerate(lines):
        at = (0, box + 2 * _LINE_PX + number * _REASON_LINE_PX)
        draw.text(at, shortened(text, box, _REASON_PX), fill=_ALARM, font=font(_REASON_PX))
    return np.asarray(cell)


def _joined(cells: Sequence[Picture], heading: str) -> Picture:
    """Return the cells row by row on one sheet, below a heading and a key."""
    height, width = cells[0].shape[:2]
    columns = min(_COLUMNS, max(len(cells), 3))  # the heading needs the width of three cells
    rows, top = -(-len(cells) // columns), 2 * _GAP_PX + 2 * _LINE_PX
    size = (_GAP_PX + columns * (width + _GAP_PX), top + rows * (height + _GAP_PX))
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    key = "Outlined: taken for tissue. Grey stripes: not scanned. Red frame: look at this first. Research use only."
    for number, text in enumerate((heading, key)):
        at = (_GAP_PX, _GAP_PX + number * _LINE_PX)
        draw.text(at, shortened(text, size[0] - 2 * _GAP_PX, _TEXT_PX), fill=INK, font=font(_TEXT_PX))
    for number, cell in enumerate(cells):
        row, column = divmod(number, columns)
        sheet.paste(Image.fromarray(cell), (_GAP_PX + column * (width + _GAP_PX), top + row * (height + _GAP_PX)))
    return np.asarray(sheet)


def write_outlines(
    checked: Path, stores: Mapping[str, Path], facts: Sequence[TissueFacts], folder: Path, *, force: bool
) -> tuple[dict[str, str], tuple[Path, ...]]:
    """Write each slide's outline unless a person changed the file; return file names by slide, and the kept files."""
    origins = _bounds_origins(checked)
    record = inside(folder, "outlines.json")
    # SHA-256 of each outline as it was last written: a file with another digest was changed by a person.
    digests: dict[str, str] = dict(read_json(record)) if record.is_file() else {}
    files, kept = {}, []
    for slide_id in (slide.slide_id for slide in facts if slide.slide_id in origins):
        path = inside(folder, f"{slide_id}.geojson")
        store = PatchStore(stores[slide_id])
        files[slide_id] = path.name
        if path.is_file() and not force:
            # The manifest may name this very file as the mask: written anew, it would make the tiling stale.
            if store.attributes["tissue"].get("is_supplied"):
                continue
            if hashlib.sha256(path.read_bytes()).hexdigest() != digests.get(slide_id):
                kept.append(path)
                continue
        text = tissue_geojson(
            store.tissue() != 0,
            slide_id=slide_id,
            slide_size=tuple(store.attributes["size_px"]),
            bounds_origin=origins[slide_id],
        ).encode()
        write_bytes(path, text)
        digests[slide_id] = hashlib.sha256(text).hexdigest()
    write_json(record, digests)
    return files, tuple(kept)


def _bounds_origins(checked: Path) -> dict[str, tuple[int, int]]:
    """Return the top-left corner of each slide's bounds, level-0 px, from ``slides.parquet``."""
    if not checked.is_file():
        return {}
    table = read_table(checked)
    bounds = zip(table["slide_id"], table["bounds"].astype(str).str.split(","), strict=True)
    return {str(slide_id): (int(box[0]), int(box[1])) for slide_id, box in bounds if len(box) == 4}

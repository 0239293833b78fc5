"""Describe and draw the tissue of tiled slides: which to check first, pictures, and outlines for QuPath."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.core.artefacts import read_table
from pathopatch.core.config import UNCERTAIN_BELOW
from pathopatch.core.files import inside, read_json, write_bytes, write_json
from pathopatch.core.task import Progress
from pathopatch.patches.annotations.polygons import tissue_geojson
from pathopatch.patches.picture import hatched, mask_under, outlined
from pathopatch.patches.store import PatchStore
from pathopatch.patches.tissue_model import EVERY_PIXEL
from pathopatch.slides.composite import compose, shrunk

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
    threshold, signal = tissue["threshold"], []
    if tissue.get("is_supplied"):
        rule = "supplied"
    elif threshold is None:
        rule = "none"
    elif threshold == EVERY_PIXEL:
        rule = "every pixel"
    else:
        rule = tissue["method"]
        # A channel whose window is empty has no signal.
        signal = [name for name, (low, high) in zip(channels, tissue["windows"], strict=True) if high > low]
    return TissueFacts(
        slide_id=slide_id,
        share=share,
        background_level=_background_level(store.overview(level), is_ground, store.windows),
        confidence=confidence,
        unscanned_share=unscanned_share,
        doubts=doubts,
        reasons=tuple(reasons),
        rule=rule,
        threshold=threshold,
        background=background,
        signal_channels=tuple(signal) if len(signal) < len(channels) else (),
        ink_share=tissue.get("ink_share", 0.0),
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


def write_tissue_pictures(
    stores: Mapping[str, Path], facts: Sequence[TissueFacts], folder: Path, *, progress: Progress | None = None
) -> None:
    """Write ``<slide>.jpg`` for each slide: its overview, tissue outlined, unscanned parts hatched."""
    if progress:
        progress("tissue", 0, len(facts))
    for done, slide in enumerate(facts, 1):
        store = PatchStore(stores[slide.slide_id])
        view = compose(shrunk(store.overview(), _LONGEST_PX), store.windows, is_rgb=store.attributes["is_rgb"])
        unscanned = store.unscanned()
        if unscanned is not None:
            view = hatched(view, mask_under(view, unscanned))
        color = _BRIGHT_OUTLINE if slide.background == "bright" else _DARK_OUTLINE
        view = outlined(view, mask_under(view, store.tissue()), colors=[color])
        picture = cv2.cvtColor(view, cv2.COLOR_RGB2BGR)
        write_bytes(folder / f"{slide.slide_id}.jpg", cv2.imencode(".jpg", picture, _JPEG)[1].tobytes())
        if progress:
            progress("tissue", done, len(facts), slide.slide_id)


def write_outlines(
    checked: Path, stores: Mapping[str, Path], facts: Sequence[TissueFacts], folder: Path, *, force: bool
) -> tuple[dict[str, str], tuple[Path, ...]]:
    """Write each slide's outline unless a person changed the file; return file names by slide, and the kept files."""
    # The top-left corner of each slide's bounds, level-0 px, from which QuPath measures.
    table = read_table(checked) if checked.is_file() else pd.DataFrame({"slide_id": [], "bounds": []}, dtype=str)
    bounds = zip(table["slide_id"], table["bounds"].astype(str).str.split(","), strict=True)
    origins = {str(slide_id): (int(box[0]), int(box[1])) for slide_id, box in bounds if len(box) == 4}
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

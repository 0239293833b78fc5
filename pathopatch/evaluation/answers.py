"""Read what somebody answered to the images of a pack, by name or by place on its mosaic, as margins."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.core.csv_table import CsvTable, read_csv_table
from pathopatch.core.errors import InputCorruptError, InputUnsupportedError
from pathopatch.core.input_files import open_regular
from pathopatch.groups.decisions.agreement import agreement
from pathopatch.metrics.area_response import MARGINS, YES_NO, Floats, Rule
from pathopatch.metrics.bootstrap import bootstrap_by_patient

Kind = Literal["probability", "logit", "score", "yes-no"]
NO_ANSWER = "none"
"""Where an answer would stand: there is none, as of a program that leaves out glass."""
_YES = ("yes", "true", "tumour", "tumor", "positive", "1")
_NO = ("no", "false", "non-tumour", "non-tumor", "other", "negative", "normal", "0")
_BOX = ("minx", "miny", "width", "height")
_LEAST_OVERLAP = 0.5  # of an image and the patch that was answered, as the share of both that is common
_LEAST_PROBABILITY = 1e-7
LEAST_AGREEMENT = 0.3
"""Lower end of the agreement with itself above which answers are told from chance. None of 1,600 tables without
information got there (``pipelines/area-reliance``). Of 293 networks and heads with 9 to 61 % tumour, flipping and
other ground alone left a kappa of 0.62 or more.
"""
_FEWEST_OF_WORD = 5  # of the pairs' answers: with fewer there is no interval
_Row: TypeAlias = tuple[int, dict[str, str]]  # its number in the file, and its cells


@dataclass(frozen=True, eq=False)
class Answers:
    """Answers to N images: margins above 0 for tumour, NaN without an answer, and by which rule they are judged."""

    margins: Floats  # (N,)
    kind: Kind
    rule: Rule
    overlap: float | None = None  # of answers by place: the median share of image and patch that is common
    reason: str = ""  # why no verdict may follow
    at_ends: float = 0.0  # share of the answers that are rounded to a probability of 0 or 1


def read_answers(
    path: Path,
    names: Sequence[str],
    corners: NDArray[np.int64],
    px: int,
    *,
    kind: Kind | None = None,
    column: str | None = None,
    yes: str | None = None,
    decision: float | None = None,
) -> Answers:
    """Return the answers to N images.

    Parameters
    ----------
    path : Path
        A table with the columns ``image`` and ``score``; or, of answers by place, one with ``minx, miny, width,
        height`` as wsinfer and `predict` write it, or a GeoJSON file of patches, in px of the mosaic.
    names : sequence of str, length N
        Of the images.
    corners : ndarray of int64, shape (N, 2)
        (x, y) of each image on the mosaic, px.
    px : int
        Side of an image.
    kind : str, optional
        What the answers are; by default yes/no if they are such words or 0 and 1, probabilities if all are in [0, 1],
        and other scores if not.
    column : str, optional
        Column or measurement that holds the answer. By default ``score``, or the only one.
    yes : str, optional
        Word for tumour; all other answers are then one other word.
    decision : float, optional
        Value above which the answer is tumour: by default 0.5 of probabilities and 0 of logits.

    Raises
    ------
    TableError, InputUnsupportedError
        Answers that are missing, doubled, unknown or no such number or word, with their lines; or one to everything.
    """
    if path.suffix.lower() in (".geojson", ".json"):
        table = _features(path)
    else:
        names_of = ("image", column or "score", *_BOX)
        options: dict[str, Any] = {"required": (), "optional": names_of, "pattern": ("others", ".*")}
        table = read_csv_table(path, kind="list of answers", item="image", numbers=names_of[1:], **options)
    table.raise_problems()
    is_by_name, overlap = "image" in table.header, None
    column = _answer_column(table, column or ("score" if is_by_name else None))
    answered = _by_name(table, column, names) if is_by_name else {}
    if not is_by_name:
        boxes = _boxes(table)
        _note_two_answers(table, column, boxes)
        matched, common = match_places(boxes, corners, px)
        answered = {name: table.rows[row] for name, row in zip(names, matched, strict=True) if row >= 0}
        overlap = float(np.median(common)) if len(common) else 0.0
    table.raise_problems()
    given = {name: (row, cells.get(column, "").strip()) for name, (row, cells) in answered.items()}
    given = {name: (row, text) for name, (row, text) in given.items() if text.casefold() != NO_ANSWER}
    _require_two(table, given)
    if kind is None and (yes is not None or all(text.casefold() in (*_YES, *_NO) for _, text in given.values())):
        kind = "yes-no"
    values = _values(table, column, given, kind, yes)
    z = np.array([values.get(name, np.nan) for name in names])
    held = z[np.isfinite(z)]
    if kind == "yes-no":
        return Answers(z, kind, YES_NO, overlap)
    if kind == "probability" or (kind is None and held.min() >= 0 and held.max() <= 1):
        # What a program rounds to, whatever digits it writes: 255 of 8 bits have 17.
        limit = 0.5 if decision is None else decision
        # Not beyond halfway from the decision to either end: what lies on its one side stays there.
        step = float(np.diff(np.unique(held.round(7))).min(initial=min(limit, 1 - limit)))
        least = max(0.5 * step, _LEAST_PROBABILITY)
        at_ends = float(np.mean((held <= least) | (held >= 1 - least)))
        margins = _logit(z, least) - _logit(np.array([limit]), least)
        return Answers(margins, "probability", MARGINS, overlap, at_ends=at_ends)
    if kind == "logit":
        return Answers(z - (decision or 0.0), kind, MARGINS, overlap)
    reason = "scores that are neither probabilities, logits nor yes and no are described only"
    return Answers(z - (np.median(held) if decision is None else decision), "score", MARGINS, overlap, reason)


def _by_name(table: CsvTable, column: str, names: Sequence[str]) -> dict[str, _Row]:
    """Return the row of each image; note what is missing, doubled, unknown or empty."""
    known, found = set(names), dict[str, _Row]()
    for number, cells in table.rows:
        name = cells["image"].strip()
        if name not in known:
            table.add_problem("INPUT_UNSUPPORTED", number, "image", name, "no such image", "use the pack's names")
        elif name in found:
            table.add_problem("DUPLICATE_ID", number, "image", name, "answered twice", "keep one answer")
        elif not cells[column].strip():
            table.add_problem("INPUT_MISSING", number, column, "", "no answer", f"write it, or '{NO_ANSWER}'")
        found.setdefault(name, (number, cells))
    for name in names:
        if name not in found:
            table.add_problem("INPUT_MISSING", None, "image", name, "not answered", f"add it, or '{NO_ANSWER}'")
    return found


def _features(path: Path) -> CsvTable:
    """Return the patches of a GeoJSON file as rows with their box, measurements and classification."""
    try:
        with open_regular(path) as file:
            read = json.load(file)
        features = read if isinstance(read, list) else read["features"]
        rows = [(number, _feature(feature)) for number, feature in enumerate(features, start=1)]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputCorruptError(
            f"not a GeoJSON of patches: {error!r}", place=str(path), remedy="export the patches as GeoJSON"
        ) from error
    return CsvTable(path, header=list(dict.fromkeys(name for _, cells in rows for name in cells)), rows=rows)


def _feature(feature: dict[str, Any]) -> dict[str, str]:
    points = np.concatenate([np.reshape(ring, (-1, 2)) for ring in feature["geometry"]["coordinates"]])
    (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
    cells = dict(zip(_BOX, map(str, (left, top, right - left, bottom - top)), strict=True))
    properties = feature.get("properties") or {}
    measured = properties.get("measurements") or {}
    if isinstance(measured, list):  # of older QuPath
        measured = {entry["name"]: entry["value"] for entry in measured}
    cells |= {str(name): str(value) for name, value in measured.items()}
    if name := (properties.get("classification") or {}).get("name"):
        cells["classification"] = str(name)
    return cells


def _answer_column(table: CsvTable, column: str | None) -> str:
    """Return which column holds the answer; it must be named where there are several."""
    found = [name for name in table.header if name not in (*_BOX, "image", "slide")]
    if column is None and len(found) > 1 and "classification" in found:
        found.remove("classification")  # beside a measurement
    if column in found or (column is None and len(found) == 1):
        return column or found[0]
    raise InputUnsupportedError(
        f"columns {', '.join(found) or 'without an answer'}" + (f", no {column!r}" if column else ""),
        place=str(table.path),
        remedy="name the answer's column by --score",
    )


def _boxes(table: CsvTable) -> NDArray[np.float64]:
    """Return the boxes (n, 4) of the rows: x, y, width, height."""
    table.check_header(_BOX, [*table.header], "")
    table.raise_problems()
    boxes = np.zeros((len(table.rows), 4))
    for place, (number, cells) in enumerate(table.rows):
        try:
            boxes[place] = [float(cells[name]) for name in _BOX]
        except (ValueError, KeyError):
            message = "the patch has no place"
            table.add_problem("INPUT_CORRUPT", number, "minx", cells.get("minx", ""), message, "give px of the mosaic")
    return boxes


def _note_two_answers(table: CsvTable, column: str, boxes: NDArray[np.float64]) -> None:
    """Note each row that answers otherwise than a row of the same place above."""
    answers = dict[tuple[float, ...], str]()
    for (number, cells), box in zip(table.rows, boxes.tolist(), strict=True):
        text = cells.get(column, "").strip()
        if answers.setdefault(tuple(box), text) != text:
            table.add_problem("DUPLICATE_ID", number, column, text, "another answer to this place", "keep one answer")


def match_places(
    boxes: NDArray[np.float64], corners: NDArray[np.int64], px: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return by image which of the boxes (n, 4) lies over it, -1 if none does, and the overlap of those that do.

    Of several it is the one that has most in common with the image: common area by the area of both.
    """
    matched = np.full(len(corners), -1, np.int64)
    overlaps = np.zeros(len(corners))
    for number, corner in enumerate(corners):
        sides = np.minimum(boxes[:, :2] + boxes[:, 2:], corner + px) - np.maximum(boxes[:, :2], corner)
        common = sides.clip(0).prod(axis=1)
        share = common / (boxes[:, 2:].prod(axis=1) + px**2 - common)
        if len(share) and share.max() >= _LEAST_OVERLAP:
            matched[number], overlaps[number] = share.argmax(), share.max()
    return matched, overlaps[matched >= 0]


def _require_two(table: CsvTable, given: Mapping[str, tuple[int, str]]) -> None:
    words = {text.casefold() for _, text in given.values()}
    if len(words) < 2:
        raise InputUnsupportedError(
            f"every answer is {words.pop()!r}" if words else "no image is answered",
            place=str(table.path),
            remedy="ask again: one answer to everything says nothing of the area",
        )


def _values(
    table: CsvTable, column: str, given: Mapping[str, tuple[int, str]], kind: Kind | None, yes: str | None
) -> dict[str, float]:
    """Return numbers, 1 and -1 of yes and no; raise the problems of texts that are no such answer."""
    remedy = "write a number" if kind != "yes-no" else "write one word for tumour, and one for all else"
    others = Counter(text.casefold() for _, text in given.values() if yes and text.casefold() != yes.casefold())
    positive = _YES if yes is None else (yes.casefold(),)
    negative = _NO if yes is None else tuple(name for name, _ in others.most_common(1))
    words, values = dict.fromkeys(negative, -1.0) | dict.fromkeys(positive, 1.0), dict[str, float]()
    for name, (row, text) in given.items():
        try:
            value = words[text.casefold()] if kind == "yes-no" else float(text)
        except (ValueError, KeyError):
            value = np.nan
        values[name] = value
        if not np.isfinite(value) or (kind == "probability" and not 0 <= value <= 1):
            table.add_problem("INPUT_UNSUPPORTED", row, column, text, "no such answer", remedy)
    table.raise_problems()
    return values


def _logit(p: Floats, least: float) -> Floats:
    clipped = np.clip(p, least, 1 - least)
    return np.asarray(np.log(clipped) - np.log1p(-clipped))


def self_agreement(first: Floats, second: Floats, patch: NDArray[np.int64], *, is_words: bool) -> dict[str, Any]:
    """Return how far margins of N pairs of images agree above chance, with the 95 % interval by `patch` (N,).

    The images of a pair show the same tissue at the same area. Of words it is Cohen's kappa, else the rank correlation;
    pairs of which one has no answer (NaN) are left out. ``value``, ``low`` and ``high`` are NaN without a difference.
    """
    rows = np.isfinite(first) & np.isfinite(second)
    first, second, patch = first[rows], second[rows], patch[rows]
    measure = "kappa" if is_words else "rank correlation"
    if is_words:
        one, other = (np.where(z > 0, "yes", "no").tolist() for z in (first, second))
        words = agreement(one, other, patch.astype(str).tolist())
        # Of one or two tumours chance makes both alike, and no resample shows it.
        fewest = min((min(texts.count("yes"), texts.count("no")) for texts in (one, other)), default=0)
        low, high = (words.low, words.high) if fewest >= _FEWEST_OF_WORD else (np.nan, np.nan)
        return {"measure": measure, "pairs": words.n, "value": words.kappa, "low": low, "high": high}
    ranks = pd.DataFrame({"first": first, "second": second}).rank().to_numpy()

    def correlation(rows: NDArray[np.int64]) -> float:
        drawn = ranks[rows]
        return float(np.corrcoef(drawn.T)[0, 1]) if len(drawn) > 1 and (np.ptp(drawn, axis=0) > 0).all() else np.nan

    low, high = bootstrap_by_patient(correlation, patch)
    value = correlation(np.arange(len(ranks)))
    return {"measure": measure, "pairs": len(ranks), "value": value, "low": low, "high": high}

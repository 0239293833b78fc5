"""Write patches and positive regions for other programs: GeoJSON for QuPath, CSV in wsinfer's columns.

The GeoJSON is compressed and streamed, equal bytes for equal arguments. Its coordinates are whole level-0 px from the
top left of what QuPath shows. QuPath starts at OpenSlide's ``bounds-x/y`` where a slide has them, so they are
subtracted here, and in no other export.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import math
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from pathopatch.patches.annotations.polygons import connected_pieces, mask_polygons, region_text

_COLORS = ([70, 130, 180], [200, 40, 40])  # steel blue, red: distinct for any colour vision
_PATCHES = uuid.uuid5(uuid.NAMESPACE_URL, "pathopatch:patch")
_REGIONS = uuid.uuid5(uuid.NAMESPACE_URL, "pathopatch:region")
_BATCH = 1000  # features that are formatted and compressed at a time
_COLUMNS = ("patch_id", "x", "y", "width", "height", "tissue_fraction", "scanned_fraction", "logit", "probability")
_UM2_PER_MM2 = 1e6
_to_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


def write_tiles(
    path: Path,
    predictions: pd.DataFrame | Iterable[pd.DataFrame],
    *,
    slide_id: str,
    run: str,
    class_names: Sequence[str],
    decision_threshold: float,
    slide_size: tuple[int, int],
    origin: tuple[int, int] = (0, 0),
) -> None:
    """Write one locked tile per predicted patch, row by row, to `path` (``.geojson.gz``).

    `predictions` has patch_id, x, y, width, height (level-0 px), tissue_fraction, logit and probability, in one table
    or in parts; scanned_fraction where not all was scanned. `run` identifies the model: with slide, x and y it makes
    the tile's id, so that a second import replaces the first. A tile has the second class above `decision_threshold`,
    on the logit. Patches are cut at `slide_size`, (width, height); `origin` is the slide's bounds (x, y); both in
    level-0 px.
    """
    tables = [predictions] if isinstance(predictions, pd.DataFrame) else predictions
    make_id = id_maker(_PATCHES, run, slide_id)
    classes = [
        f'"classification": {_to_json({"name": name, "color": color})}, '
        for name, color in zip(class_names, _COLORS, strict=True)
    ]
    probability_name = _to_json(f"{class_names[1]} probability")
    parts = (table.iloc[start : start + _BATCH] for table in tables for start in range(0, len(table), _BATCH))
    rows = (row for part in parts for row in zip(*(_values(part, name) for name in _COLUMNS), strict=True))

    def features() -> Iterator[str]:
        for patch_id, x, y, width, height, tissue, scanned, logit, probability in rows:
            left, top = x - origin[0], y - origin[1]
            right, bottom = min(x + width, slide_size[0]) - origin[0], min(y + height, slide_size[1]) - origin[1]
            if right <= left or bottom <= top:
                continue
            # A patch without a logit has no class; QuPath shows it as unclassified.
            classification = classes[logit > decision_threshold] if math.isfinite(logit) else ""
            values = [(probability_name, probability), ('"logit"', logit), ('"tissue fraction"', tissue)]
            if scanned < 1:
                values.append(('"scanned fraction"', scanned))
            numbers = _measurements(values)
            # Formatted by hand: a slide may have a million tiles, and a JSON encoder takes several times as long.
            yield (
                f'{{"type": "Feature", "id": "{make_id(f"{x},{y}")}", "geometry": {{"type": "Polygon", "coordinates": '
                f"[[[{left}, {top}], [{right}, {top}], [{right}, {bottom}], [{left}, {bottom}], [{left}, {top}]]]}}, "
                f'"properties": {{"objectType": "tile", "isLocked": true, {classification}"measurements": {numbers}, '
                f'"metadata": {{"patch_id": {_to_json(str(patch_id))}}}}}}}'
            )

    write_features(path, features())


def _values(table: pd.DataFrame, name: str) -> list[Any]:
    """Return a column's values; all is scanned where a table does not say."""
    values: list[Any] = table[name].tolist() if name in table else [1.0] * len(table)
    return values


@dataclass(frozen=True, kw_only=True, eq=False)
class PositiveRegions:
    """The R positive regions of one slide, in the order of their first cells, row by row."""

    polygons: NDArray[Any]  # (R,), shapely Polygons with their holes, valid, whole level-0 px, cut at the slide's edge
    area_mm2: NDArray[np.float64]  # (R,), of scanned pixels
    mean_probability: NDArray[np.float64]  # (R,), mean over the cells of each region
    cells: NDArray[np.int64]  # (R,), number of cells


def positive_regions(
    probability: NDArray[np.floating[Any]],
    *,
    decision_probability: float,
    cell_px: float,
    mpp: float,
    slide_size: tuple[int, int],
    scanned: NDArray[np.float64] | float = 1.0,
    patch_px: float = math.inf,
) -> PositiveRegions:
    """Return the connected regions of cells above the decision threshold, the cells that the overlay outlines.

    `probability` is (ny, nx), NaN, which is not positive, where nothing was predicted; cell (0, 0) starts at level-0
    (0, 0). `cell_px` is the side of a cell, level-0 px, a real number of at least 1; edges are rounded to whole px.
    `mpp` is um per level-0 px, `slide_size` (width, height) in level-0 px; area outside does not count. `scanned` is
    the scanned share of each cell, (ny, nx). `patch_px` is the side of the patches, level-0 px: areas are those of the
    patches where these leave gaps.
    """
    ny, nx = probability.shape
    x, y = (
        np.minimum(np.floor(np.arange(count + 1) * cell_px + 0.5).astype(np.int64), length)
        for count, length in ((nx, slide_size[0]), (ny, slide_size[1]))
    )
    height, width = np.diff(y), np.diff(x)
    # Of a cell that begins within half a pixel of the slide's edge, no pixel is left.
    is_positive = (probability > decision_probability) & (height > 0)[:, None] & (width > 0)
    # Connected by sides: a region joined at a corner alone would have no valid outline.
    labels, count = connected_pieces(is_positive)
    row, column = np.nonzero(is_positive)
    region = labels[row, column] - 1
    cells = np.bincount(region, minlength=count)
    probability_sum = np.bincount(region, weights=probability[row, column], minlength=count)
    scanned_px = np.minimum(height, patch_px)[row] * np.minimum(width, patch_px)[column]
    scanned_px = scanned_px * np.broadcast_to(scanned, probability.shape)[row, column]
    area_px = np.bincount(region, weights=scanned_px, minlength=count)
    on_slide = shapely.transform(
        mask_polygons(is_positive, labels),
        lambda corners: np.stack([x[corners[:, 0].astype(int)], y[corners[:, 1].astype(int)]], axis=1),
    )
    return PositiveRegions(
        # Rings from a defined corner in a defined direction, so that equal maps give equal bytes.
        polygons=np.asarray(shapely.orient_polygons(shapely.normalize(on_slide)), object),
        area_mm2=np.asarray(area_px * (mpp**2 / _UM2_PER_MM2), np.float64),
        mean_probability=probability_sum / cells,
        cells=cells.astype(np.int64),
    )


def write_regions(
    path: Path,
    regions: PositiveRegions,
    *,
    slide_id: str,
    run: str,
    class_name: str,
    origin: tuple[int, int] = (0, 0),
) -> None:
    """Write one locked annotation of class `class_name` per region; the other arguments as `write_tiles`.

    The annotation's id is made of the corner of the region's first cell.
    """
    make_id = id_maker(_REGIONS, run, slide_id)
    columns = (regions.area_mm2.tolist(), regions.mean_probability.tolist(), regions.cells.tolist())

    def features() -> Iterator[str]:
        for polygon, area_mm2, mean, cells in zip(regions.polygons, *columns, strict=True):
            corners = shapely.get_coordinates(polygon.exterior).astype(np.int64).tolist()
            first_x, first_y = min(corners, key=lambda corner: (corner[1], corner[0]))
            numbers = {"area mm2": area_mm2, f"mean {class_name} probability": mean, "cells": cells}
            yield region_text(
                polygon, make_id(f"{first_x},{first_y}"), (class_name, _COLORS[1]), origin, isLocked=True,
                # As `_measurements`: infinite ones and NaN are left out.
                measurements={name: round(number, 6) for name, number in numbers.items() if math.isfinite(number)},
            )  # fmt: skip

    write_features(path, features())


def collection_parts(features: Iterable[str]) -> Iterator[str]:
    """Yield the text of a FeatureCollection, one line per feature."""
    yield '{"type": "FeatureCollection", "features": ['
    yield from (("\n" if number == 0 else ",\n") + feature for number, feature in enumerate(features))
    yield "\n]}\n"


def write_features(path: Path, features: Iterable[str]) -> None:
    """Write a FeatureCollection, one line per feature; few features are in memory at a time."""
    with (
        path.open("wb") as raw,
        # Without name and date, so that equal features give equal bytes.
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=6, mtime=0) as stream,
    ):
        parts = collection_parts(features)
        while batch := "".join(islice(parts, _BATCH)):
            stream.write(batch.encode())


def id_maker(namespace: uuid.UUID, run: str, slide_id: str) -> Callable[[str], str]:
    """Return a function name -> uuid5 of ``run/slide/name``, as text."""
    # The common beginning is hashed once: with `uuid.uuid5` the ids take longer than all else of a tile.
    prefix = hashlib.sha1(namespace.bytes + f"{run}/{slide_id}/".encode(), usedforsecurity=False)

    def make_id(name: str) -> str:
        digest = prefix.copy()
        digest.update(name.encode())
        return str(uuid.UUID(bytes=digest.digest()[:16], version=5))

    return make_id


def _measurements(values: Sequence[tuple[str, float]]) -> str:
    """Return numbers as a JSON object, given (name as JSON, number)."""
    # Infinite ones and NaN are left out: QuPath drops null, and fails on text.
    return "{" + ", ".join([f"{name}: {round(value, 6)!r}" for name, value in values if math.isfinite(value)]) + "}"


def write_wsinfer_csv(
    path: Path, predictions: pd.DataFrame | Iterable[pd.DataFrame], *, class_names: Sequence[str]
) -> None:
    """Write one row per predicted patch, in level-0 px, with the probability of each class.

    `predictions` has x, y, width, height (level-0 px) and probability (of the second class), in one table or in parts.
    """
    negative, positive = class_names
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["minx", "miny", "width", "height", f"prob_{negative}", f"prob_{positive}"])
        for part in [predictions] if isinstance(predictions, pd.DataFrame) else predictions:
            columns = (part[name].tolist() for name in ("x", "y", "width", "height", "probability"))
            writer.writerows(
                [x, y, width, height, f"{1.0 - probability:.9g}", f"{probability:.9g}"]
                for x, y, width, height, probability in zip(*columns, strict=True)
            )

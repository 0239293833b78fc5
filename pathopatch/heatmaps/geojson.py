"""How predictions become tiles that QuPath imports: GeoJSON, gzip, written as a stream.

Coordinates are whole full-resolution px from the top left of what QuPath shows: where a slide carries
OpenSlide's ``bounds-x/y``, QuPath starts there, so they are subtracted here and in no other export.
"""

from __future__ import annotations

import gzip
import json
import math
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

_COLORS = ([70, 130, 180], [200, 40, 40])  # steel blue, red: told apart with any colour vision
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "pathopatch:patch")
_BATCH = 1000  # features compressed at a time


def write_geojson(
    path: Path,
    predictions: pd.DataFrame,
    *,
    slide_id: str,
    run: str,
    class_names: Sequence[str],
    decision_threshold: float,
    slide_size: tuple[int, int],
    origin: tuple[int, int] = (0, 0),
) -> None:
    """Write one locked tile a predicted patch, row by row; equal arguments give equal bytes.

    Parameters
    ----------
    path : Path
        File to write (``.geojson.gz``); the caller renames it into place.
    predictions : DataFrame
        Columns patch_id, x, y, width, height (level-0 px), tissue_fraction, logit, probability.
    slide_id : str
        Id of the slide.
    run : str
        What tells this model from others; with slide, x and y it makes the tile's id, so that a second
        import replaces the first.
    class_names : sequence of str, length 2
        Non-tumour, then tumour.
    decision_threshold : float
        On the logit: above it a tile is classified as the second class.
    slide_size : tuple of int
        (width, height), level-0 px; overhanging patches are cut there.
    origin : tuple of int
        The slide's bounds (x, y), level-0 px.
    """
    features = _features(predictions, slide_id, run, class_names, decision_threshold, slide_size, origin)
    with (
        path.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=6, mtime=0) as stream,
    ):
        stream.write(b'{"type": "FeatureCollection", "features": [')
        batch: list[str] = []
        first = True
        for feature in features:
            batch.append(("\n" if first else ",\n") + json.dumps(feature, ensure_ascii=False, allow_nan=False))
            first = False
            if len(batch) == _BATCH:
                stream.write("".join(batch).encode())
                batch.clear()
        stream.write("".join(batch).encode() + b"\n]}\n")


def _features(
    predictions: pd.DataFrame,
    slide_id: str,
    run: str,
    class_names: Sequence[str],
    decision_threshold: float,
    slide_size: tuple[int, int],
    origin: tuple[int, int],
) -> Iterator[dict[str, Any]]:
    """Yield one GeoJSON feature a row."""
    names = ("patch_id", "x", "y", "width", "height", "tissue_fraction", "logit", "probability")
    columns = (predictions[name].to_numpy() for name in names)
    for patch_id, x, y, width, height, tissue, logit, probability in zip(*columns, strict=True):
        # A patch without a logit has no class; QuPath shows it as unclassified.
        positive = int(logit > decision_threshold)
        named = {"classification": {"name": class_names[positive], "color": _COLORS[positive]}}
        yield {
            "type": "Feature",
            "id": str(uuid.uuid5(_NAMESPACE, f"{run}/{slide_id}/{x},{y}")),
            "geometry": {"type": "Polygon", "coordinates": [_ring(x, y, width, height, slide_size, origin)]},
            "properties": {
                "objectType": "tile",
                "isLocked": True,
                **(named if math.isfinite(logit) else {}),
                "measurements": _numbers(
                    {f"{class_names[1]} probability": probability, "logit": logit, "tissue fraction": tissue}
                ),
                "metadata": {"patch_id": str(patch_id)},
            },
        }


def _ring(
    x: np.int64,
    y: np.int64,
    width: np.int64,
    height: np.int64,
    size: tuple[int, int],
    origin: tuple[int, int],
) -> list[list[int]]:
    """Return a patch's closed ring, cut at the slide's right and lower edge, in QuPath's px."""
    left, top = int(x) - origin[0], int(y) - origin[1]
    right, bottom = min(int(x + width), size[0]) - origin[0], min(int(y + height), size[1]) - origin[1]
    return [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]


def _numbers(values: dict[str, float]) -> dict[str, float]:
    """Return the finite measurements, rounded; QuPath drops null and fails on text."""
    return {name: round(float(value), 6) for name, value in values.items() if math.isfinite(value)}

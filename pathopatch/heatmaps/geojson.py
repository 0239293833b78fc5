"""How predictions become tiles that QuPath imports: GeoJSON, gzip, written as a stream.

Coordinates are whole full-resolution px from the top left of what QuPath shows: where a slide carries
OpenSlide's ``bounds-x/y``, QuPath starts there, so they are subtracted here and in `regions`, in no other export.
The text of a feature is put together by hand: a slide may have a million of them.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

COLORS = ([70, 130, 180], [200, 40, 40])  # steel blue, red: told apart with any colour vision
to_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "pathopatch:patch")
_BATCH = 1000  # features put together and compressed at a time
_COLUMNS = ("patch_id", "x", "y", "width", "height", "tissue_fraction", "logit", "probability")


def write_geojson(
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
    """Write one locked tile a predicted patch, row by row; equal arguments give equal bytes.

    Parameters
    ----------
    path : Path
        File to write (``.geojson.gz``); the caller renames it into place.
    predictions : DataFrame or iterable of DataFrame
        Columns patch_id, x, y, width, height (level-0 px), tissue_fraction, logit, probability. Several tables are
        written one after the other as if they were one, each dropped before the next is asked for. A patch of which
        nothing lies on the slide is left out.
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
    rows = _rows([predictions] if isinstance(predictions, pd.DataFrame) else predictions)
    write_features(path, _tiles(rows, slide_id, run, class_names, decision_threshold, slide_size, origin))


def write_features(path: Path, features: Iterable[str]) -> None:
    """Write a FeatureCollection, a line a feature, gzip without name and date; few features are held at a time.

    Parameters
    ----------
    path : Path
        File to write (``.geojson.gz``); the caller renames it into place.
    features : iterable of str
        Each feature as JSON.
    """
    with (
        path.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=6, mtime=0) as stream,
    ):
        stream.write(b'{"type": "FeatureCollection", "features": [')
        batch: list[str] = []
        first = True
        for feature in features:
            batch.append(("\n" if first else ",\n") + feature)
            first = False
            if len(batch) == _BATCH:
                stream.write("".join(batch).encode())
                batch.clear()
        stream.write("".join(batch).encode() + b"\n]}\n")


def id_maker(namespace: uuid.UUID, run: str, slide_id: str) -> Callable[[str], str]:
    """Return what makes an id of a name: the uuid5 of ``run/slide/name``, whose first two parts are hashed once."""
    prefix = hashlib.sha1(namespace.bytes + f"{run}/{slide_id}/".encode(), usedforsecurity=False)

    def make(name: str) -> str:
        digest = prefix.copy()
        digest.update(name.encode())
        return str(uuid.UUID(bytes=digest.digest()[:16], version=5))

    return make


def measurements(values: Sequence[tuple[str, float]]) -> str:
    """Return finite numbers as a JSON object, given (name as JSON, number); QuPath drops null and fails on text."""
    return "{" + ", ".join([f"{name}: {round(value, 6)!r}" for name, value in values if math.isfinite(value)]) + "}"


def _rows(tables: Iterable[pd.DataFrame]) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of all tables as plain Python values."""
    for table in tables:
        for start in range(0, len(table), _BATCH):
            part = table.iloc[start : start + _BATCH]
            yield from zip(*(part[name].tolist() for name in _COLUMNS), strict=True)


def _tiles(
    rows: Iterable[tuple[Any, ...]],
    slide_id: str,
    run: str,
    class_names: Sequence[str],
    decision_threshold: float,
    slide_size: tuple[int, int],
    origin: tuple[int, int],
) -> Iterator[str]:
    """Yield one GeoJSON feature a row."""
    make_id = id_maker(_NAMESPACE, run, slide_id)
    classes = [
        f'"classification": {to_json({"name": name, "color": color})}, '
        for name, color in zip(class_names, COLORS, strict=True)
    ]
    probability_name = to_json(f"{class_names[1]} probability")
    for patch_id, x, y, width, height, tissue, logit, probability in rows:
        left, top = x - origin[0], y - origin[1]
        right, bottom = min(x + width, slide_size[0]) - origin[0], min(y + height, slide_size[1]) - origin[1]
        if right <= left or bottom <= top:
            continue
        # A patch without a logit has no class; QuPath shows it as unclassified.
        classified = classes[logit > decision_threshold] if math.isfinite(logit) else ""
        numbers = measurements(((probability_name, probability), ('"logit"', logit), ('"tissue fraction"', tissue)))
        yield (
            f'{{"type": "Feature", "id": "{make_id(f"{x},{y}")}", "geometry": {{"type": "Polygon", "coordinates": '
            f"[[[{left}, {top}], [{right}, {top}], [{right}, {bottom}], [{left}, {bottom}], [{left}, {top}]]]}}, "
            f'"properties": {{"objectType": "tile", "isLocked": true, {classified}"measurements": {numbers}, '
            f'"metadata": {{"patch_id": {to_json(str(patch_id))}}}}}}}'
        )

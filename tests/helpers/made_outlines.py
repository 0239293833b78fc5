"""Outlines as QuPath writes them: squares, features with a class, and files of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def square(left: float, top: float, width: float, height: float | None = None) -> list[list[float]]:
    """Return the closed ring of a rectangle, by default as high as wide."""
    right, bottom = left + width, top + (width if height is None else height)
    return [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]


def feature(geometry: Any, name: str | None = "Tumor", kind: str | None = "annotation") -> dict[str, Any]:
    properties: dict[str, Any] = {"objectType": kind} if kind else {}
    if name is not None:
        properties |= {"classification": {"name": name, "color": [200, 0, 0]}}
    return {"type": "Feature", "id": "0", "geometry": geometry, "properties": properties}


def polygon(*rings: Any, name: str | None = "Tumor", kind: str | None = "annotation") -> dict[str, Any]:
    """Return a feature of an outline and its holes."""
    return feature({"type": "Polygon", "coordinates": list(rings)}, name, kind)


def geojson(folder: Path, *features: Any, name: str = "a.geojson") -> Path:
    (folder / name).write_text(json.dumps({"type": "FeatureCollection", "features": features}), encoding="utf-8")
    return folder / name

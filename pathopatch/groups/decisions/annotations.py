"""Write the regions that reviewers drew as QuPath's GeoJSON, which `pathopatch tile` reads as annotations."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable
from typing import Any

import shapely

from pathopatch.groups.decisions.decision import REMOVED, RecordedDecision, current_decisions
from pathopatch.groups.decisions.region import region_polygon

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "pathopatch:drawn-region")
_COLORS = {"tumour": [213, 94, 0], "non-tumour": [0, 114, 178]}  # vermilion and blue of Okabe and Ito, as on the page


def current_regions(rows: Iterable[RecordedDecision]) -> list[RecordedDecision]:
    """Return the regions that stand, neither withdrawn nor removed, sorted by time."""
    return [row for row in current_decisions(rows) if row.region and row.verdict != REMOVED]


def region_features(rows: Iterable[RecordedDecision], *, origin: tuple[int, int]) -> list[dict[str, Any]]:
    """Return one GeoJSON feature per region of one slide that stands, in the frame of QuPath.

    The classes are "tumour" and "non-tumour"; the metadata has reviewer, time and note. `origin` is the corner (x, y)
    of the slide's bounds, level-0 px, from which QuPath measures: it is subtracted.
    """
    return [
        {
            "type": "Feature",
            "id": str(uuid.uuid5(_NAMESPACE, f"{row.slide_id}/{row.region}")),
            "geometry": {"type": "Polygon", "coordinates": [_ring(row.region, origin)]},
            "properties": {
                "objectType": "annotation",
                "classification": {"name": row.verdict, "color": _COLORS[row.verdict]},
                "metadata": {"reviewer": row.reviewer, "made": row.made, "note": row.comment},
            },
        }
        for row in current_regions(rows)
    ]


def region_files(rows: Iterable[RecordedDecision], origin_of: Callable[[str], tuple[int, int]]) -> dict[str, str]:
    """Return the text of ``<slide_id>.geojson`` by its name, for each slide with regions.

    `origin_of` maps a slide id to the corner of the slide's bounds, see `region_features`.
    """
    by_slide: dict[str, list[RecordedDecision]] = {}
    for row in current_regions(rows):
        by_slide.setdefault(row.slide_id, []).append(row)
    return {
        f"{slide_id}.geojson": _collection(region_features(of_slide, origin=origin_of(slide_id)))
        for slide_id, of_slide in sorted(by_slide.items())
    }


def _ring(region: str, origin: tuple[int, int]) -> list[list[int]]:
    corners = shapely.get_coordinates(region_polygon(region)).astype(int) - origin
    points: list[list[int]] = corners.tolist()
    return points


def _collection(features: list[dict[str, Any]]) -> str:
    lines = ",\n".join(json.dumps(feature, ensure_ascii=False) for feature in features)
    return f'{{"type": "FeatureCollection", "features": [\n{lines}\n]}}\n'

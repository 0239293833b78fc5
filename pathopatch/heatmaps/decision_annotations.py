"""Write reviewers' decisions on a slide as annotations for QuPath, and the regions that they drew for `tile`."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import shapely

from pathopatch.groups.decisions.decision import REMOVED, RecordedDecision, current_decisions, region_polygon
from pathopatch.heatmaps.patch_exports import id_maker, write_features

# Other names than the model's classes: exported together with its regions, a reviewer's label stays one.
_CLASSES: dict[str, tuple[str, tuple[int, int, int]]] = {
    "accept": ("slide accepted", (0, 158, 115)),
    "reject": ("slide rejected", (204, 121, 167)),
    "flag": ("slide flagged", (240, 228, 66)),
    "tumour": ("tumour (reviewer)", (213, 94, 0)),
    "non-tumour": ("non-tumour (reviewer)", (0, 114, 178)),
    "unsure": ("unsure (reviewer)", (150, 150, 150)),
}
"""QuPath's class and its colour (Okabe-Ito) by verdict."""
_DESCRIPTION = "ANNOTATION_DESCRIPTION"  # the key under which QuPath keeps what it shows as an annotation's description
_DECISIONS = uuid.uuid5(uuid.NAMESPACE_URL, "pathopatch:decision")
_to_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """A decision with its place on the slide."""

    key: str  # what was decided on; with the slide it makes the id, so that a later decision replaces the earlier one
    verdict: str
    name: str
    outline: Any  # valid shapely Polygon, whole level-0 px from the corner of the whole slide
    metadata: Mapping[str, str]


def annotations_of(
    decisions: Iterable[RecordedDecision],
    *,
    patch_px: int,
    slide_size: tuple[int, int],
    bounds: tuple[int, int, int, int],
) -> list[Annotation]:
    """Return the decisions on one slide that stand, the earliest first; each kind of decision has a case in `_outline`.

    A verdict on the slide outlines its scanned part `bounds`, (x, y, width, height); a label outlines its patch of side
    `patch_px`, cut at `slide_size`, (width, height). All in level-0 px. Patches beyond the slide are left out, and
    so are regions that were removed.
    """
    rows = [row for row in current_decisions(decisions) if row.verdict != REMOVED]
    annotations = [_annotation(row, _outline(row, patch_px, slide_size, bounds)) for row in rows]
    return [annotation for annotation in annotations if not annotation.outline.is_empty]


def _annotation(row: RecordedDecision, outline: Any) -> Annotation:
    """Return a decision with its outline."""
    return Annotation(
        key=row.region or ("slide" if row.x is None else f"{row.x},{row.y}"),
        verdict=row.verdict,
        name=f"{row.verdict} ({row.reviewer})",
        outline=outline,
        metadata=_metadata(row),
    )


def _outline(
    row: RecordedDecision, patch_px: int, slide_size: tuple[int, int], bounds: tuple[int, int, int, int]
) -> Any:
    """Return what a decision is about, a polygon in level-0 px; empty if that is not on the slide."""
    if row.region:
        return region_polygon(row.region)
    if row.x is None or row.y is None:
        x, y, width, height = bounds
        return shapely.box(x, y, x + width, y + height)
    right, bottom = min(row.x + patch_px, slide_size[0]), min(row.y + patch_px, slide_size[1])
    return shapely.box(row.x, row.y, right, bottom) if right > row.x and bottom > row.y else shapely.Polygon()


def _metadata(row: RecordedDecision) -> dict[str, str]:
    """Return what else the log says of a decision, without what is empty."""
    values = {
        _DESCRIPTION: ". ".join(text for text in (row.reason, row.comment) if text),
        "reviewer": row.reviewer,
        "made": row.made,
        "reason": row.reason,
        "note": row.comment,
        "run": row.run,
        "heatmap": row.fingerprint,
    }
    return {name: text for name, text in values.items() if text}


def write_annotations(path: Path, annotations: Iterable[Annotation], *, slide_id: str, origin: tuple[int, int]) -> None:
    """Write one locked annotation per decision to `path` (``.geojson.gz``), the same bytes for the same decisions.

    `origin` is the corner of the slide's bounds (x, y), level-0 px, which is subtracted.
    """
    write_features(path, _features(annotations, slide_id=slide_id, origin=origin))


def region_files(rows: Iterable[RecordedDecision], origin_of: Callable[[str], tuple[int, int]]) -> dict[str, str]:
    """Return the text of ``<slide_id>.geojson`` by its name, for each slide with regions, as `tile` reads annotations.

    The classes are those of the annotations for QuPath. `origin_of` maps a slide id to the corner of the slide's
    bounds (x, y), level-0 px, which is subtracted.
    """
    by_slide: dict[str, list[Annotation]] = {}
    for row in current_decisions(rows):
        if row.region and row.verdict != REMOVED:
            by_slide.setdefault(row.slide_id, []).append(_annotation(row, region_polygon(row.region)))
    lines = {
        slide_id: ",\n".join(_features(by_slide[slide_id], slide_id=slide_id, origin=origin_of(slide_id)))
        for slide_id in sorted(by_slide)
    }
    return {
        f"{slide_id}.geojson": f'{{"type": "FeatureCollection", "features": [\n{text}\n]}}\n'
        for slide_id, text in lines.items()
    }


def _features(annotations: Iterable[Annotation], *, slide_id: str, origin: tuple[int, int]) -> Iterator[str]:
    """Yield each annotation as a locked GeoJSON feature in the frame of QuPath."""
    make_id = id_maker(_DECISIONS, "review", slide_id)
    for annotation in annotations:
        class_name, color = _CLASSES[annotation.verdict]
        rings = [shapely.get_coordinates(r) for r in (annotation.outline.exterior, *annotation.outline.interiors)]
        yield _to_json(
            {
                "type": "Feature",
                "id": make_id(annotation.key),
                "geometry": {
                    "type": "Polygon",
                    "coordinates": [(ring - origin).round().astype(int).tolist() for ring in rings],
                },
                "properties": {
                    "objectType": "annotation",
                    "isLocked": True,
                    "name": annotation.name,
                    "classification": {"name": class_name, "color": color},
                    "measurements": {},
                    "metadata": annotation.metadata,
                },
            }
        )

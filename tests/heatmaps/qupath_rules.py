"""Would QuPath take a GeoJSON file in full? Its reader's rules as a JSON schema, and what no schema can say."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import jsonschema
import shapely
from shapely.geometry import mapping, shape

_SCHEMA = json.loads((Path(__file__).parent / "qupath.schema.json").read_text(encoding="utf-8"))


def read_features(path: Path, object_type: str) -> list[dict[str, Any]]:
    """The features of a file, after checking them; ValueError or jsonschema's ValidationError says what is wrong."""
    content = json.loads(gzip.decompress(path.read_bytes()), parse_constant=_refuse)
    jsonschema.Draft202012Validator(_SCHEMA).validate(content)
    features: list[dict[str, Any]] = content["features"]
    if len({feature["id"] for feature in features}) != len(features):
        raise ValueError("two features share an id: QuPath would keep one")
    for number, feature in enumerate(features):
        if feature["properties"]["objectType"] != object_type:
            raise ValueError(f"feature {number} is no {object_type}")
        for ring in feature["geometry"]["coordinates"]:
            if ring[0] != ring[-1]:
                raise ValueError(f"feature {number} has an open ring")
        _round_trip(number, feature["geometry"])
    return features


def areas(features: list[dict[str, Any]]) -> list[float]:
    """Each feature's area as shapely reads it, px squared."""
    return [shape(feature["geometry"]).area for feature in features]


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


def _round_trip(number: int, geometry: dict[str, Any]) -> None:
    """Refuse an outline that crosses itself or that shapely would write as another area."""
    polygon = shape(geometry)
    if not polygon.is_valid or polygon.is_empty or not polygon.area > 0:
        raise ValueError(f"feature {number}: {shapely.is_valid_reason(polygon)}, area {polygon.area:g}")
    again = shape(json.loads(json.dumps(mapping(polygon))))
    if again.area != polygon.area or not again.equals(polygon):
        raise ValueError(f"feature {number} changes on its way through shapely")

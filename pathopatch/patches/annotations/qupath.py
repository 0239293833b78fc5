"""Read the outlines of a GeoJSON file of QuPath."""

from __future__ import annotations

import codecs
import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import shapely

from pathopatch.core.errors import InputCorruptError, InputMissingError, InputTooLargeError
from pathopatch.patches.annotations.outlines import MAX_BYTES, UNCLASSIFIED, Outlines, checked_polygon

_TYPES_WITHOUT_AREA = {"Point", "MultiPoint", "LineString", "MultiLineString"}
_MAX_NESTING = 16


def read_qupath(path: Path) -> Outlines:
    """Return the outlines of a FeatureCollection, a list of features, or one feature; ``.gz`` is unpacked.

    Only objects of the type "annotation" are taken. Tiles, detections, cells, cores, points and lines are counted only.
    Points are relative to the corner of the slide's bounds.
    A message names a feature by its number, from 0. Errors as of `read_annotations`.
    """
    names: list[str] = []
    shapes: list[Any] = []
    skipped: Counter[str] = Counter()
    for number, feature in enumerate(_features(path)):
        try:
            kind = _object_type(feature)
            if kind != "annotation":
                skipped[f"objects of the type {kind!r}"] += 1
                continue
            # GeoJSON allows a feature with the geometry null; one without the key is refused.
            is_unlocated = "geometry" in feature and feature["geometry"] is None
            parts = [] if is_unlocated else list(_polygons(feature.get("geometry"), 0))
            name = _class_name(feature)
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise _corrupt(path, f"feature {number}: {error}") from error
        if not parts:
            skipped["annotations without area (points, lines)"] += 1
            continue
        names.append(name)
        shapes.append(parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts))
    return Outlines(
        names=tuple(names), shapes=tuple(shapes), is_from_bounds=True, place=str(path), skipped=dict(skipped)
    )


def _features(path: Path) -> list[Any]:
    text = _text(path)
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise _corrupt(path, "it is nested too deep") from error
    except ValueError as error:
        raise _corrupt(path, f"not JSON: {error}") from error
    if isinstance(content, dict) and content.get("type") == "FeatureCollection":
        content = content.get("features")
    elif isinstance(content, dict) and content.get("type") == "Feature":
        content = [content]
    if not isinstance(content, list):
        raise _corrupt(path, "neither a FeatureCollection nor a list of features")
    return content


def _text(path: Path) -> bytes:
    """Return a file's text in UTF-8, unpacked."""
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as stream:
            # One byte more than allowed: a few packed bytes may unpack to terabytes.
            content = stream.read(MAX_BYTES + 1)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise InputMissingError(f"no file {path.name}", place=str(path), remedy="check the path") from error
    except (OSError, EOFError, zlib.error) as error:
        raise _corrupt(path, f"it cannot be unpacked: {error}") from error
    if len(content) > MAX_BYTES:
        raise InputTooLargeError(
            f"more than {MAX_BYTES // 2**20} MiB of text",
            place=str(path),
            remedy="export the annotations alone, without detections and tiles",
        )
    return content.removeprefix(codecs.BOM_UTF8)


def _object_type(feature: Any) -> str:
    """Return the type of a feature's object; "annotation" if the file names none."""
    if feature["type"] != "Feature":
        raise ValueError(f"type {feature['type']!r} is no feature")
    properties = feature.get("properties") or {}
    object_type = properties.get("objectType") or properties.get("object_type")
    if object_type is None:
        # Before version 0.3 QuPath wrote the name of its Java class as the id of each feature.
        java_class = str(feature.get("id", ""))
        is_other = java_class.startswith("Path") and java_class != "PathAnnotationObject"
        return java_class if is_other else "annotation"
    return str(object_type)


def _class_name(feature: Any) -> str:
    """Return the name of a feature's class; the parts of a derived one are joined by ": ", as QuPath shows them."""
    name = (feature.get("properties") or {}).get("classification")
    if isinstance(name, dict):
        name = name.get("name") or ": ".join(name.get("names") or ())
    if name is None or name == "":
        return UNCLASSIFIED
    if not isinstance(name, str):
        raise ValueError(f"the classification {name!r} has no name")
    return name


def _polygons(geometry: Any, nesting: int) -> Iterator[Any]:
    """Yield the polygons of a geometry; `nesting` counts the collections around it."""
    if nesting > _MAX_NESTING:
        raise ValueError("geometries nested too deep")
    kind = geometry["type"]
    if kind == "GeometryCollection":
        for part in geometry["geometries"]:
            yield from _polygons(part, nesting + 1)
    elif kind == "Polygon":
        yield checked_polygon(geometry["coordinates"])
    elif kind == "MultiPolygon":
        yield from (checked_polygon(rings) for rings in geometry["coordinates"])
    elif kind not in _TYPES_WITHOUT_AREA:
        raise ValueError(f"unknown type of geometry {kind!r}")


def _corrupt(path: Path, message: str) -> InputCorruptError:
    return InputCorruptError(message, place=str(path), remedy="export the annotations anew from QuPath, as GeoJSON")

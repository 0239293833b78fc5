"""What does a GeoJSON file of QuPath hold? Its annotations' outlines and their classes."""

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
from pathopatch.patches.annotations.outlines import MAX_BYTES, UNCLASSIFIED, Outlines, polygon

_WITHOUT_AREA = {"Point", "MultiPoint", "LineString", "MultiLineString"}
_MAX_NESTING = 16
_OLD_OBJECTS = {"PathAnnotationObject": "annotation"}  # `id` of files before version 0.3


def read_qupath(path: Path) -> Outlines:
    """Return the outlines of a FeatureCollection, a list of features, or one feature; ``.gz`` is unpacked.

    Only objects of the type "annotation" count; tiles, detections, cells and cores are left out and counted, and so
    are points and lines. Points are measured from the corner of the slide's bounds.

    Raises
    ------
    InputMissingError
        There is no such file.
    InputCorruptError
        It is not GeoJSON, or holds coordinates that are none; the feature is named by its number, from 0.
    InputTooLargeError
        It holds more than 256 MiB of text.
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
            is_unlocated = "geometry" in feature and feature["geometry"] is None  # GeoJSON allows it
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
    """Return the features of a file."""
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
    """Return a file's text in UTF-8, unpacked, if it is not too much."""
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as stream:
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
    """Return what kind of object a feature is; "annotation" if it does not say."""
    if feature["type"] != "Feature":
        raise ValueError(f"type {feature['type']!r} is no feature")
    said = (feature.get("properties") or {}).get("objectType") or (feature.get("properties") or {}).get("object_type")
    if said is None:
        old = str(feature.get("id", ""))
        said = _OLD_OBJECTS.get(old, old) if old.startswith("Path") else "annotation"
    return str(said)


def _class_name(feature: Any) -> str:
    """Return the name of a feature's class; the parts of a derived one are joined by ": ", as QuPath shows them."""
    said = (feature.get("properties") or {}).get("classification")
    if isinstance(said, dict):
        said = said.get("name") or ": ".join(said.get("names") or ())
    if said is None or said == "":
        return UNCLASSIFIED
    if not isinstance(said, str):
        raise ValueError(f"the classification {said!r} has no name")
    return said


def _polygons(geometry: Any, nesting: int) -> Iterator[Any]:
    """Yield the polygons of a geometry."""
    if nesting > _MAX_NESTING:
        raise ValueError("geometries nested too deep")
    kind = geometry["type"]
    if kind == "GeometryCollection":
        for part in geometry["geometries"]:
            yield from _polygons(part, nesting + 1)
    elif kind == "Polygon":
        yield polygon(geometry["coordinates"])
    elif kind == "MultiPolygon":
        yield from (polygon(rings) for rings in geometry["coordinates"])
    elif kind not in _WITHOUT_AREA:
        raise ValueError(f"no geometry of the type {kind!r} is known")


def _corrupt(path: Path, what: str) -> InputCorruptError:
    return InputCorruptError(what, place=str(path), remedy="export the annotations anew from QuPath, as GeoJSON")

"""Read the outlines of QuPath and ASAP files, and place them on a slide as valid shapes."""

from __future__ import annotations

import codecs
import gzip
import json
import zlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.parsers import expat

import numpy as np
import shapely
from numpy.typing import ArrayLike, NDArray

from pathopatch.core.errors import (
    InputCorruptError,
    InputMissingError,
    InputTooLargeError,
    InputUnsupportedError,
    ModalityMismatchError,
)
from pathopatch.core.input_files import open_regular, require_narrow, wide_coding
from pathopatch.core.text import parse_number, pluralize
from pathopatch.slides.manifest import is_annotation

MAX_BYTES = 256 * 2**20
"""Largest text of an annotation file, a hundred times that of usual ones: it bounds the memory of reading."""
UNCLASSIFIED = "(unclassified)"
"""Name of outlines without a class."""
_TYPES_WITHOUT_AREA = {"Point", "MultiPoint", "LineString", "MultiLineString"}
_MAX_NESTING = 16
# A spline becomes the polygon through its points, as in ASAP's own masks.
_TYPES_WITH_AREA = {"polygon", "spline", "rectangle"}
_CODINGS_NOT_READ = ("UTF-32", "UTF-32LE", "UTF-32BE")  # by the parser of XML, which reads UTF-16
# Where twelve triangles share each corner, a line meets 24. Mending took 50 us a crossing: 3,000 random corners, 60 s.
_MEETINGS_PER_LINE, _SPARE_MEETINGS = 27, 20_000
_MOST_LINES_AT_ONCE = 2**12
_MAX_COORDINATE_PX = 1e8  # beyond any slide; float64 areas stay exact up to here


@dataclass(frozen=True, kw_only=True, eq=False)
class Outlines:
    """Areas that an annotation file holds."""

    names: tuple[str, ...]  # class of each
    shapes: tuple[Any, ...]  # shapely Polygon or MultiPolygon, maybe invalid; level-0 px in the frame of the file
    is_from_bounds: bool  # from the corner of the slide's bounds (QuPath), not of the whole slide (ASAP)
    place: str  # the file
    skipped: Mapping[str, int]  # number of other things in the file, by description
    is_of_artefacts: bool = False  # of GrandQC, which outlines artefacts alone: none says that there are none

    def without(self, ignored: Collection[str]) -> Outlines:
        """Return these outlines but for some classes."""
        pairs = [pair for pair in zip(self.names, self.shapes, strict=True) if pair[0] not in ignored]
        return replace(self, names=tuple(name for name, _ in pairs), shapes=tuple(shape for _, shape in pairs))

    def skipped_text(self) -> list[str]:
        """Return a warning for each kind of thing that was left out."""
        return [f"{count} {description} left out" for description, count in self.skipped.items()]


def read_annotations(path: Path) -> Outlines:
    """Return the outlines of a file in its own frame: QuPath's GeoJSON, also with ``.gz``, or ASAP's XML.

    Raises
    ------
    InputMissingError, InputUnsupportedError, InputCorruptError, InputTooLargeError
        There is no such file; it is of another format, cannot be read or has bad coordinates, or is over 256 MiB.
    """
    if not is_annotation(path):
        raise InputUnsupportedError(
            f"annotations of the format {path.suffix!r}",
            place=str(path),
            remedy="give QuPath's GeoJSON (.geojson, .geojson.gz) or ASAP's XML (.xml)",
        )
    return read_asap(path) if path.name.lower().endswith(".xml") else read_qupath(path)


def checked_polygon(rings: Sequence[ArrayLike]) -> Any:
    """Return the shapely Polygon of an outline and its holes; ValueError if a point is none of a slide."""
    if not rings:
        raise ValueError("a polygon without an outline")
    shell, *holes = (_ring(points) for points in rings)
    return shapely.Polygon(shell, holes)


def _ring(points: ArrayLike) -> NDArray[np.float64]:
    """Return the points of a ring, shape (N, 2); a third coordinate is dropped."""
    try:
        xy = np.asarray(points, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"coordinates that are no pairs of numbers: {error}") from error
    if xy.ndim != 2 or xy.shape[1] < 2:
        raise ValueError(f"coordinates that are no pairs of numbers: shape {xy.shape}")
    xy = xy[:, :2]
    if len(xy) < 3:
        raise ValueError(f"an outline of {len(xy)} points")
    # Not `> maximum`: a comparison with NaN is false.
    is_bad = ~(np.abs(xy) <= _MAX_COORDINATE_PX).all(axis=1)
    if is_bad.any():
        raise ValueError(f"point {tuple(xy[is_bad][0].tolist())} is outside any slide")
    return xy


def place_on_slide(
    outlines: Outlines, *, slide_size: tuple[int, int], bounds_origin: tuple[int, int]
) -> tuple[NDArray[Any], NDArray[Any], list[str]]:
    """Return names (N,), valid shapes (N,) and warnings of the outlines that have an area.

    Level-0 px of the whole slide; `bounds_origin` (x, y) is added to every point. Raises ModalityMismatchError if every
    outline is outside the slide, and InputTooLargeError if they cross each other too often to be repaired and united.
    """
    warnings = []
    names, shapes = np.array(outlines.names, dtype=object), np.array(outlines.shapes, dtype=object)
    _require_untangled(names, shapes, outlines.place)
    shapes, repaired = _repaired(shapes)
    if repaired:
        warnings.append(f"{repaired} outlines that cross themselves were repaired")
    has_area = shapely.area(shapes) > 0
    if without_area := int((~has_area).sum()):
        warnings.append(f"{without_area} outlines without area left out")
    names, shapes = names[has_area], shapes[has_area]
    if bounds_origin != (0, 0):
        shapes = np.array([shapely.transform(shape, lambda xy: xy + bounds_origin) for shape in shapes], dtype=object)
    return names, shapes, warnings + _outside_warnings(shapes, slide_size, outlines.place)


def _require_untangled(names: NDArray[Any], shapes: NDArray[Any], place: str) -> None:
    """Refuse outlines whose lines meet each other far more often than those of regions that share their borders."""
    parts, shape_of_part = shapely.get_parts(shapes, return_index=True)
    rings, part_of_ring = shapely.get_rings(parts, return_index=True)
    points, ring = shapely.get_coordinates(rings, return_index=True)
    is_line = ring[1:] == ring[:-1]
    lines = shapely.linestrings(np.stack([points[:-1][is_line], points[1:][is_line]], axis=1))
    tree = shapely.STRtree(lines)
    first, count = 0, 1
    while first < len(lines):
        meetings = tree.query(lines[first : first + count], predicate="intersects").shape[1]
        if meetings > _SPARE_MEETINGS + _MEETINGS_PER_LINE * count:
            index = int(shape_of_part[part_of_ring[ring[:-1][is_line][first]]])
            raise InputTooLargeError(
                f"outline {index + 1} ({names[index]}) crosses itself or others too often: "
                f"{pluralize(count, 'line')} of it meet {meetings} others",
                place=place,
                remedy="draw it again without crossings, or export it alone",
            )
        first += count
        # Few at first: where everything crosses, each line meets all others.
        count = min(2 * count, _MOST_LINES_AT_ONCE)


def _repaired(shapes: NDArray[Any]) -> tuple[NDArray[Any], int]:
    """Return valid shapes, and how many of those with an area had to be repaired."""
    is_broken = ~shapely.is_valid(shapes)
    repaired = shapes.copy()
    repaired[is_broken] = _make_valid(shapes[is_broken])
    # A hand that circles a place twice means the inside, but make_valid makes it a hole, as it does with the part of a
    # hole that lies outside its outline. So the result is cut to the union of the outer rings.
    for index in np.flatnonzero(is_broken).tolist():
        parts = shapely.get_parts(shapes[index])
        if any(len(part.interiors) for part in parts):
            outer = shapely.union_all(_make_valid(np.array([shapely.Polygon(part.exterior) for part in parts], object)))
            repaired[index] = shapely.intersection(repaired[index], outer)
    return repaired, int((is_broken & (shapely.area(repaired) > 0)).sum())


def _make_valid(shapes: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(shapely.make_valid(shapes, method="structure", keep_collapsed=False), object)


def _outside_warnings(shapes: NDArray[Any], slide_size: tuple[int, int], place: str) -> list[str]:
    """Return warnings about outlines outside the slide; raise if all are."""
    if not len(shapes):
        return []
    slide = shapely.box(0, 0, *slide_size)
    is_outside = ~shapely.intersects(shapes, slide)
    if is_outside.all():
        left, top, right, bottom = shapely.total_bounds(shapes)
        raise ModalityMismatchError(
            f"all {len(shapes)} outlines lie beyond the slide: they span {left:.0f} to {right:.0f} and {top:.0f} to "
            f"{bottom:.0f} px, the slide is {slide_size[0]} x {slide_size[1]} px",
            place=place,
            remedy="give the annotations that belong to this slide, in level-0 pixels",
        )
    is_cut = ~is_outside & ~shapely.covers(slide, shapes)
    counts = (
        (int(is_outside.sum()), "outlines beyond the slide left out"),
        (int(is_cut.sum()), "outlines reach over the slide's edge and are cut"),
    )
    return [f"{count} {text}" for count, text in counts if count]


def read_qupath(path: Path) -> Outlines:
    """Return the outlines of a FeatureCollection, a list of features, or one feature; ``.gz`` is unpacked.

    Only objects of the type "annotation" are taken. Tiles, detections, cells, cores, points and lines are counted only.
    A message names a feature by its number, from 0.
    """
    names: list[str] = []
    shapes: list[Any] = []
    skipped: Counter[str] = Counter()
    features, is_grandqc = _features(path)
    for number, feature in enumerate(features):
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
        names=tuple(names),
        shapes=tuple(shapes),
        is_from_bounds=not is_grandqc,
        place=str(path),
        skipped=dict(skipped),
        is_of_artefacts=is_grandqc,
    )


def _features(path: Path) -> tuple[list[Any], bool]:
    """Return the features of a file, and whether GrandQC wrote it, which states its table of classes beside them."""
    text = _text(path)
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise _corrupt(path, "it is nested too deep") from error
    except ValueError as error:
        raise _corrupt(path, f"not JSON: {error}") from error
    is_grandqc = False
    if isinstance(content, dict) and content.get("type") == "FeatureCollection":
        metadata = content.get("metadata")
        is_grandqc = isinstance(metadata, dict) and "class_mapping" in metadata
        content = content.get("features")
    elif isinstance(content, dict) and content.get("type") == "Feature":
        content = [content]
    if not isinstance(content, list):
        raise _corrupt(path, "neither a FeatureCollection nor a list of features")
    return content, is_grandqc


def _text(path: Path) -> bytes:
    """Return a file's text in UTF-8, unpacked."""
    try:
        with open_regular(path) as file:
            stream = gzip.GzipFile(fileobj=file) if path.suffix.lower() == ".gz" else file
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
    remedy = "save the annotations anew, in QuPath as GeoJSON or in ASAP as XML"
    return InputCorruptError(message, place=str(path), remedy=remedy)


def read_asap(path: Path) -> Outlines:
    """Return the outlines of an ASAP file, each named by its group.

    Dots, point sets, measurements and outlines of fewer than three points have no area and are counted only. ASAP has
    no polygons with holes: a hole is a polygon of its own group, which the configuration lists under ``holes``.
    """
    content = _text(path)
    if wide_coding(content) in _CODINGS_NOT_READ:
        require_narrow(content, place=path)
    reader = _Reader()
    try:
        reader.parser.Parse(content, True)
    except (expat.ExpatError, ValueError) as error:
        raise _corrupt(path, f"not an annotation file of ASAP: {error}") from error
    return Outlines(
        names=tuple(reader.names),
        shapes=tuple(reader.shapes),
        is_from_bounds=False,
        place=str(path),
        skipped=dict(reader.skipped),
    )


class _Reader:
    """Outlines read so far. Elements come one by one: a tree of 256 MiB of XML would take gigabytes."""

    def __init__(self) -> None:
        self.parser = expat.ParserCreate()
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.StartDoctypeDeclHandler = self._refuse_doctype
        self.names: list[str] = []
        self.shapes: list[Any] = []
        self.skipped: Counter[str] = Counter()
        self._nesting = 0
        self._attributes: dict[str, str] = {}
        self._points: list[tuple[int, float, float]] = []

    def _refuse_doctype(self, *_: object) -> None:
        # Entities that expand each other turn a kilobyte into gigabytes, and external ones read other files.
        raise ValueError("it defines a document type; entities are not read")

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        self._nesting += 1
        if self._nesting > _MAX_NESTING:
            raise ValueError("nested too deep")
        if self._nesting == 1 and tag != "ASAP_Annotations":
            raise ValueError(f"it begins with <{tag}>, not with <ASAP_Annotations>")
        if tag == "Annotation":
            self._attributes, self._points = attributes, []
        elif tag == "Coordinate":
            try:
                order, x, y = int(attributes["Order"]), *(parse_number(attributes[name]) for name in "XY")
            except KeyError as error:
                raise ValueError(f"a coordinate without {error}") from error
            self._points.append((order, x, y))

    def _end(self, tag: str) -> None:
        self._nesting -= 1
        if tag != "Annotation":
            return
        kind = self._attributes.get("Type", "")
        if kind.lower() not in _TYPES_WITH_AREA:
            self.skipped[f"annotations of the type {kind!r}"] += 1
            return
        # ASAP saves a stray click as an outline of one or two points. A broken rectangle is still refused.
        if len(self._points) < 3 and kind.lower() != "rectangle":
            self.skipped["annotations of fewer than three points"] += 1
            return
        try:
            shape = checked_polygon([[(x, y) for _, x, y in sorted(self._points)]])
        except ValueError as error:
            raise ValueError(f"annotation {self._attributes.get('Name', '')!r}: {error}") from error
        self.names.append(self._attributes.get("PartOfGroup") or UNCLASSIFIED)
        self.shapes.append(shape)

"""Read the outlines of an XML file of ASAP."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any
from xml.parsers import expat

from pathopatch.core.errors import InputCorruptError, InputMissingError, InputTooLargeError
from pathopatch.patches.annotations.outlines import MAX_BYTES, UNCLASSIFIED, Outlines, checked_polygon

# A spline becomes the polygon through its points, as in ASAP's own masks.
_TYPES_WITH_AREA = {"polygon", "spline", "rectangle"}
_MAX_NESTING = 16


def read_asap(path: Path) -> Outlines:
    """Return the outlines of an ASAP file, each named by its group.

    Points are relative to the corner of the whole slide. Dots, point sets, measurements and outlines of fewer than
    three points have no area and are counted only. ASAP has no polygons with holes: a hole is a polygon of its own
    group, which the configuration lists under ``holes``.
    Errors as of `read_annotations`.
    """
    if not path.is_file():
        raise InputMissingError(f"no file {path.name}", place=str(path), remedy="check the path")
    if (size := path.stat().st_size) > MAX_BYTES:
        raise InputTooLargeError(f"{size} bytes of XML", place=str(path), remedy=f"give at most {MAX_BYTES} bytes")
    reader = _Reader()
    try:
        with path.open("rb") as stream:
            reader.parser.ParseFile(stream)
    except (expat.ExpatError, ValueError) as error:
        raise InputCorruptError(
            f"not an annotation file of ASAP: {error}", place=str(path), remedy="save the annotations anew in ASAP"
        ) from error
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
                order, x, y = int(attributes["Order"]), float(attributes["X"]), float(attributes["Y"])
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

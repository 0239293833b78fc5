"""What does an XML file of ASAP hold? Its annotations' outlines and the groups that they belong to."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any
from xml.parsers import expat

from pathopatch.core.errors import InputCorruptError, InputMissingError, InputTooLargeError
from pathopatch.patches.annotations.outlines import MAX_BYTES, UNCLASSIFIED, Outlines, polygon

NO_GROUP = "None"
"""ASAP's own word for annotations that belong to no group."""
_AREAS = {"polygon", "spline", "rectangle"}
_MAX_NESTING = 16


def read_asap(path: Path) -> Outlines:
    """Return the outlines of an ASAP file, each named by its group.

    Points are measured from the corner of the whole slide. A spline is taken as the polygon through its points, as
    ASAP does when it makes a mask; dots, point sets, measurements and outlines of fewer than three points have no area
    and are counted. ASAP has no polygons with holes: a hole is a polygon of a group of its own, which the configuration
    lists under ``holes``.

    Raises
    ------
    InputMissingError
        There is no such file.
    InputCorruptError
        It is not ASAP's XML, defines a document type or entities, is nested too deep, or holds coordinates that are
        none.
    InputTooLargeError
        It holds more than 256 MiB of text.
    """
    if not path.is_file():
        raise InputMissingError(f"no file {path.name}", place=str(path), remedy="check the path")
    if (size := path.stat().st_size) > MAX_BYTES:
        raise InputTooLargeError(f"{size} bytes of XML", place=str(path), remedy=f"give at most {MAX_BYTES} bytes")
    found = _Reader()
    try:
        with path.open("rb") as stream:
            found.parser.ParseFile(stream)
    except (expat.ExpatError, ValueError) as error:
        raise InputCorruptError(
            f"not an annotation file of ASAP: {error}", place=str(path), remedy="save the annotations anew in ASAP"
        ) from error
    return Outlines(
        names=tuple(found.names),
        shapes=tuple(found.shapes),
        is_from_bounds=False,
        place=str(path),
        skipped=dict(found.skipped),
    )


class _Reader:
    """What was read so far; elements come one by one, so that no tree is built."""

    def __init__(self) -> None:
        self.parser = expat.ParserCreate()
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.StartDoctypeDeclHandler = self._refuse
        self.names: list[str] = []
        self.shapes: list[Any] = []
        self.skipped: Counter[str] = Counter()
        self._nesting = 0
        self._annotation: dict[str, str] = {}
        self._points: list[tuple[int, float, float]] = []

    def _refuse(self, *_: object) -> None:
        raise ValueError("it defines a document type; entities are not read")

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        self._nesting += 1
        if self._nesting > _MAX_NESTING:
            raise ValueError("nested too deep")
        if self._nesting == 1 and tag != "ASAP_Annotations":
            raise ValueError(f"it begins with <{tag}>, not with <ASAP_Annotations>")
        if tag == "Annotation":
            self._annotation, self._points = attributes, []
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
        kind = self._annotation.get("Type", "")
        if kind.lower() not in _AREAS:
            self.skipped[f"annotations of the type {kind!r}"] += 1
            return
        if len(self._points) < 3 and kind.lower() != "rectangle":  # a click too many; ASAP saves it as it is
            self.skipped["annotations of fewer than three points"] += 1
            return
        try:
            shape = polygon([[(x, y) for _, x, y in sorted(self._points)]])
        except ValueError as error:
            raise ValueError(f"annotation {self._annotation.get('Name', '')!r}: {error}") from error
        self.names.append(self._annotation.get("PartOfGroup") or UNCLASSIFIED)
        self.shapes.append(shape)

"""Which regions of a slide are tumour, and which were labelled? Told by the outlines that a person drew.

Points are level-0 px. Two conventions differ: QuPath, through OpenSlide, measures from the corner of the slide's
bounds, ASAP from the corner of the whole slide; here all is measured from the corner of the whole slide.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from pathopatch.annotations.asap import read_asap
from pathopatch.annotations.outlines import Outlines
from pathopatch.annotations.qupath import read_qupath
from pathopatch.config import AnnotationConfig
from pathopatch.errors import InputUnsupportedError, ModalityMismatchError
from pathopatch.manifest import ANNOTATION_SUFFIXES

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class Regions:
    """What the outlines of one slide say.

    Parameters
    ----------
    tumor : shapely geometry
        Valid, may be empty; level-0 px.
    labelled : shapely geometry or None
        What was labelled, tumour or not; None: the whole slide.
    warnings : tuple of str
        What was mended or left out, with numbers.
    """

    tumor: Any
    labelled: Any | None
    warnings: tuple[str, ...] = ()


def read_annotations(path: Path) -> Outlines:
    """Return the outlines of a file, in its own frame.

    Parameters
    ----------
    path : Path
        QuPath's GeoJSON (``.geojson``, ``.json``, either with ``.gz``) or ASAP's XML.

    Raises
    ------
    InputMissingError
        There is no such file.
    InputUnsupportedError
        Another format.
    InputCorruptError
        It cannot be read, or holds coordinates that are none.
    InputTooLargeError
        It is too large to be an annotation file.
    """
    name = path.name.lower()
    if not name.endswith(ANNOTATION_SUFFIXES):
        raise InputUnsupportedError(
            f"annotations of the format {path.suffix!r}",
            place=str(path),
            remedy="give QuPath's GeoJSON (.geojson, .geojson.gz) or ASAP's XML (.xml)",
        )
    return read_asap(path) if name.endswith(".xml") else read_qupath(path)


def regions_of(
    path: Path, config: AnnotationConfig, *, slide_size: tuple[int, int], bounds_origin: tuple[int, int] = (0, 0)
) -> Regions:
    """Return the regions that an annotation file states; what was mended is logged as well.

    Parameters
    ----------
    path : Path
        See `read_annotations`.
    config : AnnotationConfig
        What the class names mean.
    slide_size : tuple of int
        (width, height), level-0 px.
    bounds_origin : tuple of int
        (x, y) of the slide's bounds, level-0 px; added to QuPath's points, not to ASAP's.

    Raises
    ------
    InputUnsupportedError
        A class name stands in none of the lists of the configuration; all names found are listed.
    ModalityMismatchError
        Every outline lies beyond the slide.
    InputMissingError, InputCorruptError, InputTooLargeError
        See `read_annotations`.
    """
    outlines = read_annotations(path)
    found = regions(outlines, config, slide_size=slide_size, bounds_origin=bounds_origin)
    for warning in found.warnings:
        _log.warning("%s: %s", path.name, warning)
    return found


def regions(
    outlines: Outlines,
    config: AnnotationConfig,
    *,
    slide_size: tuple[int, int],
    bounds_origin: tuple[int, int] = (0, 0),
) -> Regions:
    """Return the regions that outlines state: their unions, so that what overlaps counts once.

    Where tumour and non-tumour overlap, tumour counts; holes are taken out of the tumour. See `regions_of`.
    """
    _refuse_unmapped(outlines, config)
    warnings = [f"{count} {what} left out" for what, count in outlines.skipped.items()]
    is_used = np.array([name not in config.ignored for name in outlines.names], np.bool_)
    if ignored := int((~is_used).sum()):
        warnings.append(f"{ignored} outlines of ignored classes left out")
    names = np.array(outlines.names, dtype=object)[is_used]
    shapes = np.array(outlines.shapes, dtype=object)[is_used]
    shapes, repaired = _valid(shapes)
    if repaired:
        warnings.append(f"{repaired} outlines that cross themselves were mended")
    has_area = shapely.area(shapes) > 0
    if flat := int((~has_area).sum()):
        warnings.append(f"{flat} outlines without area left out")
    names, shapes = names[has_area], shapes[has_area]
    if outlines.is_from_bounds and config.subtracted_bounds:
        shapes = np.array([shapely.transform(shape, lambda xy: xy + bounds_origin) for shape in shapes], dtype=object)
    warnings += _beyond(shapes, slide_size, outlines.place)
    tumor, non_tumor, holes = (
        shapely.union_all(shapes[np.isin(names, listed)]) for listed in (config.tumor, config.non_tumor, config.holes)
    )
    if config.labelled == "annotated" and not len(shapes):
        warnings.append("no outline that says tumour or non-tumour: no patch of this slide is labelled")
    is_whole = config.labelled == "whole-slide"
    return Regions(
        tumor=shapely.difference(tumor, holes),
        labelled=None if is_whole else shapely.union_all([tumor, non_tumor, holes]),
        warnings=tuple(warnings),
    )


def _refuse_unmapped(outlines: Outlines, config: AnnotationConfig) -> None:
    """Raise if a class name has no meaning in the configuration."""
    known = {*config.tumor, *config.non_tumor, *config.holes, *config.ignored}
    counts = Counter(outlines.names)
    unmapped = sorted(set(counts) - known)
    if unmapped:
        listed = ", ".join(f"{name!r} ({counts[name]})" for name in sorted(counts))
        raise InputUnsupportedError(
            f"annotation classes without a meaning: {', '.join(map(repr, unmapped))}; in the file are {listed}",
            place=outlines.place,
            remedy="name each in tumor, non_tumor, holes or ignored under [tile.labels.annotations] of the study file",
        )


def _valid(shapes: NDArray[Any]) -> tuple[NDArray[Any], int]:
    """Return valid shapes, and how many had to be mended.

    An outline that crosses itself is taken as a hand drew it: what it goes round twice is inside, not a hole. What a
    hole holds outside its outline is no area. Those without any area come out empty and do not count as mended.
    """
    broken = ~shapely.is_valid(shapes)
    mended = shapes.copy()
    mended[broken] = _structured(shapes[broken])
    for index in np.flatnonzero(broken).tolist():
        parts = shapely.get_parts(shapes[index])
        if any(len(part.interiors) for part in parts):
            outer = shapely.union_all(_structured(np.array([shapely.Polygon(part.exterior) for part in parts], object)))
            mended[index] = shapely.intersection(mended[index], outer)
    return mended, int((broken & (shapely.area(mended) > 0)).sum())


def _structured(shapes: NDArray[Any]) -> NDArray[Any]:
    """Return shapes made valid; parts without area are dropped."""
    return np.asarray(shapely.make_valid(shapes, method="structure", keep_collapsed=False), object)


def _beyond(shapes: NDArray[Any], slide_size: tuple[int, int], place: str) -> list[str]:
    """Return warnings about outlines that lie beyond the slide; raise if all do."""
    if not len(shapes):
        return []
    slide = shapely.box(0, 0, *slide_size)
    off = ~shapely.intersects(shapes, slide)
    if off.all():
        left, top, right, bottom = shapely.total_bounds(shapes)
        raise ModalityMismatchError(
            f"all {len(shapes)} outlines lie beyond the slide: they span {left:.0f} to {right:.0f} and {top:.0f} to "
            f"{bottom:.0f} px, the slide is {slide_size[0]} x {slide_size[1]} px",
            place=place,
            remedy="give the annotations that belong to this slide, in level-0 pixels",
        )
    over = ~off & ~shapely.covers(slide, shapes)
    counts = ((off, "outlines beyond the slide left out"), (over, "outlines reach over the slide's edge and are cut"))
    return [f"{int(which.sum())} {what}" for which, what in counts if which.any()]

"""Find the tumour regions and the labelled regions of a slide from the outlines that a person drew.

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

from pathopatch.core.config import AnnotationConfig
from pathopatch.core.errors import InputUnsupportedError
from pathopatch.patches.annotations.asap import read_asap
from pathopatch.patches.annotations.outlines import Outlines
from pathopatch.patches.annotations.placing import on_slide
from pathopatch.patches.annotations.qupath import read_qupath
from pathopatch.slides.manifest import ANNOTATION_SUFFIXES

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
    names, shapes, mended = on_slide(
        names,
        shapes,
        slide_size=slide_size,
        bounds_origin=bounds_origin if outlines.is_from_bounds and config.subtracted_bounds else (0, 0),
        place=outlines.place,
    )
    warnings += mended
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

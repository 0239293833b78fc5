"""Find the tumour regions and the labelled regions of a slide from the outlines that a person drew.

Points are level-0 px from the corner of the whole slide, as in ASAP. QuPath, which reads through OpenSlide, measures
from the corner of the slide's bounds instead.
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
from pathopatch.patches.annotations.outlines import Outlines, place_on_slide
from pathopatch.patches.annotations.qupath import read_qupath
from pathopatch.slides.manifest import ANNOTATION_SUFFIXES

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class Regions:
    """Tumour and labelled regions of one slide.

    Parameters
    ----------
    tumor : shapely geometry
        Valid, may be empty; level-0 px.
    labelled : shapely geometry or None
        Labelled as tumour or non-tumour; None: the whole slide.
    warnings : tuple of str
        What was repaired or left out, with numbers.
    """

    tumor: Any
    labelled: Any | None
    warnings: tuple[str, ...]


def read_annotations(path: Path) -> Outlines:
    """Return the outlines of a file in its own frame: QuPath's GeoJSON, also with ``.gz``, or ASAP's XML.

    Raises
    ------
    InputMissingError
        There is no such file.
    InputUnsupportedError
        Another format.
    InputCorruptError
        It cannot be read, or has bad coordinates.
    InputTooLargeError
        It holds more than 256 MiB of text.
    """
    name = path.name.lower()
    if not name.endswith(ANNOTATION_SUFFIXES):
        raise InputUnsupportedError(
            f"annotations of the format {path.suffix!r}",
            place=str(path),
            remedy="give QuPath's GeoJSON (.geojson, .geojson.gz) or ASAP's XML (.xml)",
        )
    return read_asap(path) if name.endswith(".xml") else read_qupath(path)


def read_regions(
    path: Path, config: AnnotationConfig, *, slide_size: tuple[int, int], bounds_origin: tuple[int, int] = (0, 0)
) -> Regions:
    """Return the regions of an annotation file, and log their warnings.

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
        A class is in no list of the configuration; the message has all names of the file.
    ModalityMismatchError
        Every outline is outside the slide.
    InputMissingError, InputCorruptError, InputTooLargeError
        See `read_annotations`.
    """
    outlines = read_annotations(path)
    regions = find_regions(outlines, config, slide_size=slide_size, bounds_origin=bounds_origin)
    for warning in regions.warnings:
        _log.warning("%s: %s", path.name, warning)
    return regions


def find_regions(
    outlines: Outlines,
    config: AnnotationConfig,
    *,
    slide_size: tuple[int, int],
    bounds_origin: tuple[int, int] = (0, 0),
) -> Regions:
    """Return the unions of the outlines by class; parameters and errors as for `read_regions`.

    Where tumour and non-tumour overlap, tumour counts. Holes are cut out of the tumour.
    """
    _require_known_classes(outlines, config)
    warnings = outlines.skipped_text()
    # Ignored outlines go first: they may be anywhere, also outside the slide.
    used = outlines.without(config.ignored)
    if ignored := len(outlines.names) - len(used.names):
        warnings.append(f"{ignored} outlines of ignored classes left out")
    names, shapes, placing_warnings = place_on_slide(
        used,
        slide_size=slide_size,
        bounds_origin=bounds_origin if outlines.is_from_bounds and config.subtracted_bounds else (0, 0),
    )
    warnings += placing_warnings
    tumor, non_tumor, holes = (
        shapely.union_all(shapes[np.isin(names, listed)]) for listed in (config.tumor, config.non_tumor, config.holes)
    )
    if config.labelled == "annotated" and not len(shapes):
        warnings.append("no outline that says tumour or non-tumour: no patch of this slide is labelled")
    return Regions(
        tumor=shapely.difference(tumor, holes),
        labelled=None if config.labelled == "whole-slide" else shapely.union_all([tumor, non_tumor, holes]),
        warnings=tuple(warnings),
    )


def _require_known_classes(outlines: Outlines, config: AnnotationConfig) -> None:
    """Refuse classes that the configuration does not list: a forgotten tumour class would become non-tumour."""
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

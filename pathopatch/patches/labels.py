"""Compute each patch's tumour fraction, tumour pixels, labelled fraction and label."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import shapely
from numpy.typing import NDArray

from pathopatch.core.config import MIN_SCANNED, AnnotationConfig, LabelConfig
from pathopatch.core.errors import InputUnsupportedError, PathopatchError
from pathopatch.patches.annotations.masks import MaskRegion, check_mask, check_tissue_mask
from pathopatch.patches.annotations.outlines import Outlines, place_on_slide, read_annotations
from pathopatch.patches.annotations.polygons import PolygonRegion
from pathopatch.patches.grid import Grid
from pathopatch.slides.resample import rectangle_counts

_log = logging.getLogger(__name__)
_GLASS_BELOW = 0.01  # tissue fraction of a patch; by default patches below it have no group
_MAX_ON_GLASS = 0.05  # of a slide's tumour patches: outlines that are drawn by hand run over the edge of the tissue


@dataclass(frozen=True, kw_only=True, eq=False)
class Regions:
    """Tumour and labelled regions of one slide: valid shapely geometries, maybe empty; level-0 px."""

    tumor: Any
    labelled: Any | None  # as tumour or non-tumour; None: the whole slide
    warnings: tuple[str, ...]  # what was repaired or left out, with numbers


def find_regions(
    outlines: Outlines,
    config: AnnotationConfig,
    *,
    slide_size: tuple[int, int],
    bounds_origin: tuple[int, int] = (0, 0),
) -> Regions:
    """Return the unions of the outlines by class, whose names `config` explains.

    Where tumour and non-tumour overlap, tumour counts. Holes are cut out of the tumour. Level-0 px are `slide_size`,
    (width, height), and `bounds_origin`, (x, y), which is added to QuPath's points and not to ASAP's.

    Raises
    ------
    InputUnsupportedError
        A class is in no list of the configuration; the message has all names of the file.
    ModalityMismatchError
        Every outline is outside the slide.
    """
    counts = Counter(outlines.names)
    # A forgotten tumour class would become non-tumour.
    if unmapped := sorted(set(counts) - {*config.tumor, *config.non_tumor, *config.holes, *config.ignored}):
        listed = ", ".join(f"{name!r} ({counts[name]})" for name in sorted(counts))
        raise InputUnsupportedError(
            f"annotation classes without a meaning: {', '.join(map(repr, unmapped))}; in the file are {listed}",
            place=outlines.place,
            remedy="name each in tumor, non_tumor, holes or ignored under [tile.labels.annotations] of the study file",
        )
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


@dataclass(frozen=True, kw_only=True)
class LabelSource:
    """The files that label one slide.

    Raises
    ------
    InputUnsupportedError
        More than one of mask, annotations and absence states the tumour.
    """

    tumor_mask: Path | None = None  # raster of the tumour
    whole_slide: Literal["none", "all"] | None = None  # none: the whole slide holds no tumour; all: it is tumour
    labelled_mask: Path | None = None  # raster; default: the whole slide with a mask, as configured with annotations
    annotations: Path | None = None  # outlines of QuPath or ASAP

    def __post_init__(self) -> None:
        statements = {
            f"the mask {self.tumor_mask}": self.tumor_mask is not None,
            f"the annotations {self.annotations}": self.annotations is not None,
            f"the word {self.whole_slide}": self.whole_slide is not None,
        }
        stated = [name for name, is_stated in statements.items() if is_stated]
        if len(stated) > 1:
            raise InputUnsupportedError(
                f"the tumour is stated by {' and by '.join(stated)}",
                place=str(self.tumor_mask or self.annotations),
                remedy="give one of them",
            )

    @property
    def paths(self) -> dict[str, Path]:
        """The given files, by role."""
        files = {"tumor_mask": self.tumor_mask, "labelled_mask": self.labelled_mask, "annotations": self.annotations}
        return {role: path for role, path in files.items() if path is not None}


class SlideLabels:
    """Where a slide holds tumour and where it is labelled, as a `source` states it; its files are read once.

    `slide_size`, (width, height), and `bounds_origin`, (x, y), from which QuPath measures, are level-0 px. `grid` has
    the patches that masks must be fine enough for. Raises as `MaskRegion`, `read_annotations` and `find_regions`.
    """

    def __init__(
        self,
        source: LabelSource | None,
        *,
        slide_size: tuple[int, int],
        bounds_origin: tuple[int, int] = (0, 0),
        config: LabelConfig | None = None,
        grid: Grid | None = None,
    ) -> None:
        tumor: MaskRegion | PolygonRegion | None = None
        labelled: MaskRegion | PolygonRegion | None = None
        source = source or LabelSource()
        if source.annotations is not None:
            settings = (config or LabelConfig()).annotations
            outlines = read_annotations(source.annotations)
            areas = find_regions(outlines, settings, slide_size=slide_size, bounds_origin=bounds_origin)
            for warning in areas.warnings:
                _log.warning("%s: %s", source.annotations.name, warning)
            tumor = PolygonRegion(areas.tumor, slide_size)
            labelled = None if areas.labelled is None else PolygonRegion(areas.labelled, slide_size)
        elif source.tumor_mask is not None:
            tumor = MaskRegion(source.tumor_mask, slide_size, grid=grid)
        elif source.whole_slide is not None:
            whole = shapely.box(0, 0, *slide_size)
            tumor = PolygonRegion(whole if source.whole_slide == "all" else shapely.Polygon(), slide_size)
        if source.labelled_mask is not None:
            labelled = MaskRegion(source.labelled_mask, slide_size, grid=grid)
        self._tumor, self._labelled, self.whole_slide = tumor, labelled, source.whole_slide

    @property
    def has_tumor_mask(self) -> bool:
        """Whether it is known where there is tumour; the whole slide may be without any."""
        return self._tumor is not None

    def fractions(
        self, x: NDArray[np.int64], y: NDArray[np.int64], extent: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return each patch's tumour fraction and labelled fraction, (N,) each, in [0, 1]; NaN where unknown.

        Fractions are of the patch's part on the slide. `x`, `y` and `extent`, a patch's side, are level-0 px.
        """
        tumor, labelled = (
            np.full(len(x), np.nan) if region is None else region.fractions(x, y, extent)
            for region in (self._tumor, self._labelled)
        )
        # Without any statement of what was labelled, a known tumour fraction means that all of the patch was.
        return tumor, np.where(np.isnan(labelled) & ~np.isnan(tumor), 1.0, labelled)

    def tumor_mask(self, x: int, y: int, grid: Grid, *, fraction: float) -> NDArray[np.bool_]:
        """Return the tumour pixels of the patch at (x, y), level-0 px, bool of shape (P, P), none beyond the slide.

        A pixel of a raster counts if at least half of it is tumour, one of an outline if its centre is. `fraction` is
        the patch's tumour fraction: nothing is read where it is 0 or 1.
        """
        mask = np.zeros((grid.patch_px, grid.patch_px), np.bool_)
        if fraction > 0:
            assert self._tumor is not None
            inside = grid.inside(x, y)
            is_tumor = fraction == 1 or self._tumor.patch_mask(x, y, downsample=grid.downsample, inside=inside)
            mask[: inside[1], : inside[0]] = is_tumor
        return mask


def patch_means(mask: NDArray[np.bool_], grid: Grid) -> NDArray[np.float64]:
    """Return the mean of an overview's mask (h, w) over each patch of a grid, (N,): over the pixels that it touches."""
    height, width = mask.shape
    x, y = grid.origins().T
    left, right = x * width // grid.width, np.ceil((x + grid.extent) * width / grid.width).astype(np.int64)
    top, bottom = y * height // grid.height, np.ceil((y + grid.extent) * height / grid.height).astype(np.int64)
    right, bottom = np.clip(right, left + 1, width), np.clip(bottom, top + 1, height)
    counts = rectangle_counts(mask, (top, left), (bottom, right))
    return np.asarray(counts / ((bottom - top) * (right - left)), np.float64)


def label_file_errors(
    source: LabelSource,
    *,
    tissue_mask: Path | None = None,
    slide_size: tuple[int, int],
    bounds_origin: tuple[int, int] = (0, 0),
    config: LabelConfig | None = None,
    grid: Grid | None = None,
    is_quick: bool = False,
) -> dict[str, PathopatchError]:
    """Return the errors in a slide's files of tumour, labels and tissue, by role.

    With `is_quick` only the headers of masks are read. Without a `config` any class name is accepted, and without a
    `grid` masks of any detail.
    """
    paths = {**source.paths, **({} if tissue_mask is None else {"tissue_mask": tissue_mask})}
    errors: dict[str, PathopatchError] = {}
    for role, path in paths.items():
        try:
            if role == "annotations":
                outlines = read_annotations(path)
                settings = (
                    AnnotationConfig(tumor=tuple(sorted(set(outlines.names)))) if config is None else config.annotations
                )
                find_regions(outlines, settings, slide_size=slide_size, bounds_origin=bounds_origin)
            elif role == "tissue_mask":
                check_tissue_mask(path, slide_size, grid=grid, is_quick=is_quick)
            else:
                check_mask(path, slide_size, grid=grid, is_quick=is_quick)
        except PathopatchError as error:
            errors[role] = error
    return errors


def tumor_on_glass(
    x: NDArray[np.int64],
    y: NDArray[np.int64],
    label: NDArray[np.int64],
    tissue_fraction: NDArray[np.float64],
    scanned_fraction: NDArray[np.float64],
    *,
    extent: float,
    whole_slide: str | None = None,
) -> list[str]:
    """Return a warning where too many of a slide's tumour patches hold next to no tissue, with their number and place.

    So do labels of which none is on tissue. Patches that are too little scanned for a group do not count, nor tumour
    that no file places, see `LabelSource.whole_slide`. Arrays are of shape (N,); `x`, `y` and `extent`, a patch's side,
    are level-0 px.
    """
    is_scanned = scanned_fraction >= MIN_SCANNED
    is_glass, is_tumor, is_labelled = (
        tissue_fraction < _GLASS_BELOW,
        (label == 1) & is_scanned & (whole_slide is None),
        (label >= 0) & is_scanned,
    )
    remedy = "may be turned, mirrored or shifted, or belong to another slide"
    misplaced, total = is_tumor & is_glass, int(np.count_nonzero(is_tumor))
    count = int(np.count_nonzero(misplaced))
    if count > _MAX_ON_GLASS * total:
        left, right, top, bottom = (edge(side[misplaced]) for side in (x, y) for edge in (np.min, np.max))
        return [
            f"{count} of {total} tumour patches ({count / total:.0%}) hold next to no tissue, at x {left} to "
            f"{right + extent:.0f}, y {top} to {bottom + extent:.0f} px: the tumour mask or outlines {remedy}"
        ]
    if is_labelled.any() and is_glass[is_labelled].all() and not is_glass.all():
        count = int(np.count_nonzero(is_labelled))
        return [f"none of {count} labelled patches holds tissue: the labelled_mask or outlines {remedy}"]
    return []


def labels(
    tumor_fraction: NDArray[np.float64], labelled_fraction: NDArray[np.float64], *, patch_px: int, config: LabelConfig
) -> NDArray[np.int64]:
    """Return each patch's label, int64 of shape (N,): 1 tumour, 0 non-tumour, -1 not labelled or ambiguous.

    The limits of `config` are inclusive. Without a least tumour fraction one pixel makes a patch tumour.
    """
    slack = 1e-9  # rounding of an area mean must not decide at a limit
    least = 1 / patch_px**2 if config.min_tumor_fraction is None else config.min_tumor_fraction
    is_known = (labelled_fraction >= config.min_labelled_fraction * (1 - slack)) & ~np.isnan(tumor_fraction)
    if config.ambiguous is not None:
        low, least = config.ambiguous
        is_known &= (tumor_fraction <= low + slack) | (tumor_fraction >= least * (1 - slack))
    is_tumor = tumor_fraction >= least * (1 - slack)
    return np.where(is_known, is_tumor.astype(np.int64), np.int64(-1))

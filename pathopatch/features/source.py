"""The patches behind a feature file, as `pathopatch.patches.source` has those of slides and stores.

The grid's cells have the step between neighbouring patches. The patches of other tools may lie on several grids: then
each counts in the cell nearest to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pathopatch.core.artefacts import content_fingerprints, files_fingerprint
from pathopatch.core.config import TileConfig
from pathopatch.core.errors import InputUnsupportedError, MppMissingError
from pathopatch.features.slide_features import SlideFeatures
from pathopatch.features.tissue import measure_tissue, measuring_grid
from pathopatch.patches.analysis import PatchBatch, SlideAnalysis, analyse_slide
from pathopatch.patches.grid import Grid
from pathopatch.patches.tissue_model import TissueModel
from pathopatch.slides.resolution import RGB, Level, Resolution, SlideFacts, resolution
from pathopatch.slides.slide import Slide

_ROWS = 4096  # features in a batch, unless it is said
_PICTURE_PX = 1536  # longest side of the white ground where there is no slide
_OFF_GRID_PX = 1.0  # a patch further from its grid than rounding explains lies on another one
_ROUNDING_PX = 0.5
_LEAST_SHARE = 0.05  # of the distances of neighbouring patches, which the step between them has
_MOST_CELLS = 8  # of a patch's side: patches that overlap more have cells of their own size
_NO_SLIDE = "no slide was given: the map is drawn on white"


class FromFeatures:
    """The patches behind one slide's features, whose values take the place of pixels.

    `features` are in level-0 pixels, see `SlideFeatures.in_level0_px`. `slide` is what they were made of: maps are
    drawn on it, on white by default, and its tissue is measured where the features have no tissue fractions.

    Raises
    ------
    InputUnsupportedError
        The features have no coordinates or no size, or are of a slide of another size.
    MppMissingError
        Nobody states um/px.
    """

    def __init__(self, features: SlideFeatures, *, slide: Slide | None = None) -> None:
        self.features, self.slide, self.slide_id = features, slide, features.slide_id
        self.warnings = list(features.notes)
        if slide is None:
            self.warnings.append(_NO_SLIDE)
            self._mpp, self.size_px = _stated_mpp(features), size_of(features)
        else:
            features.require_size(slide.size, place=str(slide.paths[0]))
            self._mpp, self.size_px = slide.mpp, slide.size
        self.grid, is_on_grid = grid_of_patches(features, self.size_px)
        self.placement: Literal["grid", "nearest"] = "grid" if is_on_grid else "nearest"

    @property
    def mpp(self) -> float:
        """Micrometres per level-0 px."""
        return self._mpp

    @cached_property
    def origins(self) -> NDArray[np.int64]:
        """(x, y) of each patch, whole level-0 px, int64 of shape (N, 2)."""
        return whole_px(self.features)

    @cached_property
    def files(self) -> str:
        """One fingerprint of all files that the features and coordinates were read from."""
        return files_fingerprint([self.features.path, *self.features.companions])

    @property
    def contents(self) -> list[str]:
        """Fingerprints by which a model may know the slide."""
        slides = [] if self.slide is None else content_fingerprints(self.slide.paths)
        return [self.files, *slides]

    @cached_property
    def inside_fractions(self) -> NDArray[np.float64]:
        """Share of each patch that lies on the slide, (N,)."""
        return measuring_grid(self.size_px, self.grid.extent).inside_fractions(self.origins)

    @cached_property
    def fractions(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Tissue and scanned fraction of each patch, (N,) each, measured unless the tissue is stored.

        Where neither is possible, the tissue is NaN. Without a measurement all that lies on the slide is scanned.
        """
        features = self.features
        if features.tissue_fraction is not None:
            return features.tissue_fraction.astype(np.float64), self.inside_fractions
        if self.slide is None or len(features) == 0:
            return np.full(len(features), np.nan), self.inside_fractions
        x, y = self.origins.T
        return measure_tissue(self.slide, x, y, self.grid.extent, analysis=self.analysis)

    @cached_property
    def analysis(self) -> SlideAnalysis:
        """The analysis of the slide by default rules; where there is no slide, of white without any tissue mask."""
        if self.slide is not None:
            return analyse_slide(self.slide, TileConfig())
        scale = max(1.0, max(self.size_px) / _PICTURE_PX)
        width, height = (max(1, round(side / scale)) for side in self.size_px)
        nothing: NDArray[np.uint8] = np.empty((0, 0), np.uint8)
        tissue = TissueModel(
            polarities=("bright",) * 3, windows=np.zeros((3, 2)), threshold=None, mask=nothing, scale_x=1.0, scale_y=1.0
        )
        return SlideAnalysis(
            grid=self.grid,
            tissue=tissue,
            windows=np.array([[0.0, 255.0]] * 3),
            overview=np.full((3, height, width), 255, np.uint8),
            fill=np.full(3, 255, np.uint8),
            background="bright",
        )

    def batches(
        self,
        batch_size: int | None = None,
        *,
        min_tissue: float = 0.0,
        min_scanned: float = 0.0,
        fractions_out: NDArray[np.float64] | None = None,
        scanned_out: NDArray[np.float64] | None = None,
    ) -> Iterator[PatchBatch]:
        """Yield features as patches of one pixel, (n, D, 1, 1); as `iterate_patches`.

        They have no masks. Patches of unknown tissue are among them.
        """
        tissue, scanned = self.fractions
        for out, values in ((fractions_out, tissue), (scanned_out, scanned)):
            if out is not None:
                out[:] = values
        rows = np.flatnonzero(~(tissue < min_tissue) & (scanned >= min_scanned))
        step = batch_size or _ROWS
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            values = self.features.features[part][:, :, None, None]
            yield PatchBatch(part, values, tissue[part], scanned[part], np.empty((len(part), 0, 0), np.uint8))

    @property
    def source(self) -> str | dict[str, str]:
        """Where the slide lies, or the features where there is no slide."""
        return str(self.features.path) if self.slide is None else self.slide.source

    @cached_property
    def facts(self) -> SlideFacts:
        """The facts of the slide; where there is no slide, of a white one as large."""
        if self.slide is not None:
            return self.slide.facts
        return SlideFacts(
            channels=RGB,
            dtype=np.dtype(np.uint8),
            levels=(Level(*self.size_px, 1.0),),
            resolution=Resolution(self.mpp),
            paths=(self.features.path,),
            bounds=(0, 0, *self.size_px),
        )

    def undecodable(self) -> NDArray[np.bool_]:
        """Return that no patch is, (N,): features are whole."""
        return np.zeros(len(self.features), np.bool_)

    def require_unchanged(self) -> None:
        """Raise InputChangedError if the slide's files have changed since it was opened."""
        if self.slide is not None:
            self.slide.require_unchanged()


def grid_of_patches(features: SlideFeatures, size: tuple[int, int]) -> tuple[Grid, bool]:
    """Return a grid of cells of the step between neighbouring patches, and whether the patches lie on it.

    `size` is the slide's (width, height), level-0 px. The step is a real number: coordinates in micrometres are whole
    in micrometres alone. InputUnsupportedError for a single patch whose side is not known.
    """
    x, y = _xy(features)
    step = _step(x, y)
    side = features.side or step
    if step < side / _MOST_CELLS:
        step = side
    if not step or not side:
        raise InputUnsupportedError(
            "the side of the patches is not known",
            place=str(features.path),
            remedy="keep the tool's files of coordinates beside its features",
        )
    width, height = size
    ratio = max(1, round(side / step))
    if abs(side / step - ratio) * step > _OFF_GRID_PX:  # patches that overlap by another part than a whole number
        grid = Grid(width=width, height=height, downsample=1.0, patch_px=round(side), stride_px=round(step))
    else:
        grid = Grid(width=width, height=height, downsample=step, patch_px=ratio, stride_px=1)
    starts_x, starts_y = (np.floor(np.arange(n) * grid.stride + 0.5) for n in (grid.nx, grid.ny))
    origins = whole_px(features)
    is_on_grid = bool(np.isin(origins[:, 0], starts_x).all() and np.isin(origins[:, 1], starts_y).all())
    return grid, is_on_grid and len(np.unique(origins, axis=0)) == len(origins)


def _step(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Return the distance of neighbouring patches, 0 where no two are in a row or column."""
    distances = []
    for along, across in ((x, y), (y, x)):
        order = np.lexsort((along, np.round(across)))
        is_neighbour = np.diff(np.round(across[order])) == 0
        distances.append(np.diff(along[order])[is_neighbour])
    found = np.concatenate(distances)
    found = found[found > _OFF_GRID_PX]
    if not len(found):
        return 0.0
    values, counts = np.unique(np.round(found), return_counts=True)
    # Patches of two grids may stand in one row, at any distance; that is rare.
    step = float(values[counts >= _LEAST_SHARE * counts.sum()].min(initial=values[counts.argmax()]))
    step = float(found[np.abs(found - step) <= _OFF_GRID_PX].mean())
    span = float(np.ptp(x))
    exact = span / max(1, round(span / step))  # of whole pixels, where the step is not: their rounding has no effect
    return exact if abs(exact - step) <= _ROUNDING_PX else step


def _xy(features: SlideFeatures) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if features.x is None or features.y is None:
        raise InputUnsupportedError(
            "features without coordinates: no map can be drawn",
            place=str(features.path),
            remedy="keep the tool's files of coordinates beside its features",
        )
    return features.x, features.y


def whole_px(features: SlideFeatures) -> NDArray[np.int64]:
    """Return the patches' corners, (N, 2), in whole level-0 px."""
    return np.floor(np.stack(_xy(features), axis=1) + 0.5).astype(np.int64)


def _stated_mpp(features: SlideFeatures) -> float:
    """Return um per level-0 px, as the features state it; MppMissingError if they do not, or it makes no sense."""
    stated = resolution(features.mpp, features.mpp, source="the feature file")
    if stated.mpp is None:
        raise MppMissingError(
            f"um/px of level 0 is not known ({stated.reason}): the map has no scale",
            place=str(features.path),
            remedy="give --slide-mpp, or name the folder of the slides with --slides",
        )
    return stated.mpp


def size_of(features: SlideFeatures) -> tuple[int, int]:
    """Return the slide's (width, height), level-0 px: as its features state it, else as its patches reach."""
    if features.size_px is not None:
        return features.size_px
    x, y = _xy(features)
    side = features.side or _step(x, y) or 1.0
    width, height = (int(np.ceil(values.max() + side)) if len(values) else 1 for values in (x, y))
    return width, height

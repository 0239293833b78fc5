"""The patches of one slide, wherever they come from: the slide, a tiled slide's store, or a set of ready patches.

`pathopatch.features.source` has the same over a feature file.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pathopatch.core.artefacts import Stamp, content_fingerprints, fingerprint_file, read_table
from pathopatch.core.config import TileConfig
from pathopatch.core.mask_bits import pack_masks, unpack_masks
from pathopatch.core.task import Outcome
from pathopatch.core.work_folder import WorkFolder
from pathopatch.patches import intensity
from pathopatch.patches.analysis import PatchBatch, SlideAnalysis, analyse_slide, grid_of, iterate_patches
from pathopatch.patches.grid import Grid
from pathopatch.patches.import_list import ImageSpec, fitted, read_image, read_pixels
from pathopatch.patches.labels import patch_means
from pathopatch.patches.tissue_fit import fit_tissue
from pathopatch.patches.tissue_model import TissueModel
from pathopatch.slides import Slide, TolerantSlide
from pathopatch.slides.background import guess_polarities, parse_background
from pathopatch.slides.resample import resized

if TYPE_CHECKING:
    import pandas as pd

STAGE = "tile"
"""The stage that makes stores and patch tables."""
_SHEET_PX = 4096  # longest side of the sheet on which tissue is found, as of a slide's overview
_GROUNDS = 32  # patches that are looked at for one with ground


class FromSlide:
    """The patches of an open slide, cut as a configuration says.

    Raises
    ------
    MppMissingError, InputUnsupportedError
        As `grid_of`; `analysis` and `batches` raise as `analyse_slide` and `iterate_patches`.
    """

    placement: Literal["grid"] = "grid"  # the patches lie on the grid

    def __init__(self, slide: Slide, slide_id: str, tiling: TileConfig, *, tissue_mask: Path | None = None) -> None:
        self.slide, self.slide_id, self.tiling, self.tissue_mask = slide, slide_id, tiling, tissue_mask
        self.grid = grid_of(slide, tiling)
        self.warnings = list(slide.notes)
        self.mpp, self.size_px = slide.mpp if slide.has_mpp else None, slide.size
        self.facts, self.channels, self.dtype, self.is_rgb = slide.facts, slide.channels, slide.dtype, slide.is_rgb

    @cached_property
    def origins(self) -> NDArray[np.int64]:
        """(x, y) of each patch of the grid, level-0 px, int64 of shape (N, 2)."""
        return self.grid.origins()

    @property
    def inside_fractions(self) -> NDArray[np.float64]:
        """Share of each patch's pixels that lies on the slide, (N,)."""
        return self.grid.inside_fractions(self.origins)

    @property
    def contents(self) -> list[str]:
        """The `content_fingerprints` of the slide's files, by which a model may know it."""
        # Of MIRAX an earlier version took the first file alone.
        return content_fingerprints(self.slide.paths) + content_fingerprints(self.slide.paths[:1])

    @cached_property
    def analysis(self) -> SlideAnalysis:
        """Tissue, windows and overview; the slide is read, and what is uncertain joins the warnings."""
        analysis = analyse_slide(self.slide, self.tiling, tissue_mask=self.tissue_mask)
        self.warnings += analysis.warnings(self.slide.mpp, self.tiling.registration.warn_um)
        self.warnings += analysis.overhang_warnings()
        return analysis

    @property
    def tissue(self) -> TissueModel:
        """What tells tissue from background; the slide is read."""
        return self.analysis.tissue

    @property
    def windows(self) -> NDArray[np.float64]:
        """Intensities that become 0 and 1, shape (C, 2), source units."""
        return self.analysis.windows

    def batches(
        self,
        batch_size: int | None = None,
        *,
        min_tissue: float = 0.0,
        min_scanned: float = 0.0,
        fractions_out: NDArray[np.float64] | None = None,
        scanned_out: NDArray[np.float64] | None = None,
        rows: NDArray[np.int64] | None = None,
    ) -> Iterator[PatchBatch]:
        """Yield patches as `iterate_patches`; with `rows`, (n,), those of `origins` alone, numbered from 0."""
        return iterate_patches(
            self.slide,
            self.analysis,
            origins=self.origins if rows is None else self.origins[rows],
            min_tissue=min_tissue,
            min_scanned=min_scanned,
            batch_size=batch_size,
            fractions_out=fractions_out,
            scanned_out=scanned_out,
        )

    def overview_fractions(self) -> NDArray[np.float64]:
        """Return about how much tissue each patch (N,) holds, by the overview: no patch is read for it."""
        return patch_means(self.tissue.mask != 0, self.grid)

    @cached_property
    def clearest(self) -> tuple[NDArray[np.float32], NDArray[np.bool_]] | None:
        """A patch (C, P, P) with much ground, scaled to [0, 1], and its tissue (P, P); None where all is tissue.

        It is the best of some that were scanned wholly and lie on the slide wholly.
        """
        side, rows = (self.grid.patch_px,) * 2, np.argsort(self.overview_fractions(), kind="stable")
        pool = max(_GROUNDS, len(rows) // 4)  # of the clearest ones any: where nothing was scanned there is no tissue
        rows = np.concatenate([np.random.default_rng(0).permutation(rows[:pool]), rows[pool:]])

        def is_whole(row: int) -> bool:
            x, y = self.origins[row].tolist()
            return self.grid.inside(x, y) == side and self.tissue.scanned_mask(x, y, self.grid.downsample, side) is None

        chosen = np.array(sorted(islice(filter(is_whole, rows.tolist()), _GROUNDS)), np.int64)
        best: tuple[NDArray[np.float32], NDArray[np.bool_]] | None = None
        for batch in self.batches(rows=chosen) if len(chosen) else ():
            for patch, tissue in zip(batch.patches, unpack_masks(batch.tissue_mask, self.grid.patch_px), strict=True):
                if not tissue.all() and (best is None or tissue.sum() < best[1].sum()):
                    best = intensity.scale(patch, self.windows), tissue
        return best

    def to_do(self, *, keeps_pixels: bool = True) -> Outcome:
        """Return the outcome of a dry run: what would be read, in gigabytes of pixels, uncompressed."""
        each = len(self.channels) * self.grid.patch_px**2 * min(self.dtype.itemsize, 4)  # float64 becomes float32
        counts = {
            "mpp": self.slide.mpp,
            "background": self.slide.background,  # which reads pixels, as the stage's own check does
            "patches": len(self.origins),
            "gigabytes": len(self.origins) * each * keeps_pixels / 1e9,
        }
        return Outcome(slide_id=self.slide_id, state="to do", counts=counts)

    @property
    def source(self) -> str | dict[str, str]:
        """Where the slide lies, see `Slide.source`."""
        return self.slide.source

    def undecodable(self) -> NDArray[np.bool_]:
        """Return which patches, (N,), overlap what could not be decoded so far, of a slide that tolerates it."""
        if not isinstance(self.slide, TolerantSlide):
            return np.zeros(len(self.origins), np.bool_)
        # Aligned channels are read beside the patch too, by the largest shift.
        margin = max((abs(shift) for offset in self.analysis.offsets for shift in offset), default=0)
        return self.slide.is_lost(self.origins - margin, self.grid.extent + 2 * margin)

    def require_unchanged(self) -> None:
        """Raise InputChangedError if the slide's files have changed since it was opened."""
        self.slide.require_unchanged()


class Measured(NamedTuple):
    """Patches as networks take them, and what is measured on them."""

    scaled: NDArray[np.float32]  # (n, C, P, P), in [0, 1]
    mean: NDArray[np.float32]  # (n, C), of the scaled pixels
    saturated: NDArray[np.float64]  # (n,): saturated fraction, in [0, 1]
    sharpness: NDArray[np.float64]  # (n,)


def measured(source: FromSlide | FromImages, patches: NDArray[np.generic], rows: NDArray[np.int64]) -> Measured:
    """Scale patches (n, C, P, P) at some `rows` of a source, and measure of each what lies on the slide."""
    grid, tissue = source.grid, source.tissue
    # At an unknown scale, sharpness is measured at the patches' own.
    factor = 1.0 if source.mpp is None else source.tiling.intensity.sharpness_mpp / (source.mpp * grid.downsample)
    scaled, mean = np.empty(patches.shape, np.float32), np.empty(patches.shape[:2], np.float32)
    saturated, sharpness = np.empty((2, len(patches)))
    # Patch by patch, which the processor's cache holds.
    for number, (x, y) in enumerate(source.origins[rows].tolist()):
        width, height = inside = grid.inside(x, y)
        mean[number] = intensity.scale(patches[number], source.windows, out=scaled[number]).mean(axis=(1, 2))
        saturated[number] = intensity.saturated_fraction(
            patches[number, :, :height, :width],
            source.windows,
            polarities=tissue.polarities,
            # Asked per patch and only if needed: the masks of all patches together would not fit into memory.
            scanned=partial(tissue.scanned_mask, x, y, grid.downsample, inside),
        )
        sharpness[number] = intensity.sharpness(scaled[number, :, :height, :width], factor=factor)
    return Measured(scaled, mean, saturated, sharpness)


class FromStore:
    """The patches of a tiled slide, from its store; raises as `PatchStore`."""

    def __init__(self, work: Path, slide_id: str) -> None:
        from pathopatch.patches.store import PatchStore  # here: Zarr loads slowly, and slides need none

        self.slide_id, self.store = slide_id, PatchStore(WorkFolder(work).store(slide_id))
        self._table_path = WorkFolder(work).patches(slide_id)
        self.mpp: float | None = self.store.attributes["mpp"]

    @property
    def origins(self) -> NDArray[np.int64]:
        """(x, y) of each patch, level-0 px, int64 of shape (N, 2)."""
        return self.store.origins

    @property
    def stamp(self) -> Stamp:
        """Checksums of the stored pixels and of the patch table."""
        inputs = {"pixels": self.store.pixels_checksum, "patches": fingerprint_file(self._table_path)}
        return Stamp(stage=STAGE, inputs=inputs)

    @property
    def windows(self) -> NDArray[np.float64]:
        """Intensities that become 0 and 1, shape (C, 2), source units."""
        return self.store.windows

    def table(self, *, min_scanned: float) -> pd.DataFrame:
        """Return the rows of the patch table that have so much scanned area."""
        table = read_table(self._table_path)
        return table[~(table["scanned_fraction"] < min_scanned)]


class FromImages:
    """The patches of a set: its tissue model and intensity windows, found on all its images at low resolution."""

    def __init__(self, files: Sequence[Path], spec: ImageSpec, tiling: TileConfig) -> None:
        self.files, self.spec, self.tiling, self.mpp = files, spec, tiling, tiling.mpp
        self.channels, self.dtype, self.is_rgb = spec.channels, np.dtype(spec.dtype), spec.is_rgb
        # A sheet of as many columns as rows, or more; the last places may be empty.
        self.grid = sheet_grid(len(files), spec.width)
        self.origins = self.grid.origins()[: len(files)]
        self.marks: list[str] = []  # of each patch's pixels, whatever its file's format
        side = spec.width
        small = max(1, min(side, _SHEET_PX // self.grid.nx))
        strip = np.empty((len(spec.channels), len(files) * small, small), self.dtype)
        for number, file in enumerate(files):
            pixels = read_pixels(file)
            shape = f"{pixels.dtype} {pixels.shape}".encode()
            self.marks.append(hashlib.blake2b(shape + pixels.tobytes(), digest_size=16).hexdigest())
            strip[:, number * small : (number + 1) * small] = resized(fitted(pixels, spec), (small, small))
        polarities = guess_polarities(strip, is_colour=spec.is_colour)
        if tiling.tissue.background != "auto":
            stated = parse_background(tiling.tissue.background, spec.channels, place="[tile.tissue] background")
            polarities = tuple(polarity or guess for polarity, guess in zip(stated, polarities, strict=True))
        # Its overview is the patches one below the other, P px of height each.
        self.tissue = fit_tissue(
            strip,
            polarities=polarities,
            is_colour=spec.is_colour,
            # Neighbours on the sheet are unrelated, so specks and holes across their borders mean nothing.
            config=tiling.tissue.model_copy(update={"min_speck_um2": 0.0, "max_hole_um2": 0.0}),
            scale_x=side / small,
            scale_y=side / small,
            mpp=1.0,  # of no effect: nothing is cleaned by its area
            channels=spec.channels,
            is_flat=True,
        )
        self.windows = intensity.windows(
            strip,
            self.tissue.mask != 0,
            rule=tiling.intensity,
            is_rgb_uint8=spec.is_rgb,
            polarities=polarities,
            channels=spec.channels,
        )

    def batches(self) -> Iterator[PatchBatch]:
        """Yield the patches one by one, as `iterate_patches` does."""
        side = self.spec.width
        for row, file in enumerate(self.files):
            patch = read_image(file, self.spec)
            mask = self.tissue.patch_mask(patch, 0, row * side, 1.0, (side, side))
            fraction = np.array([mask.mean()])
            yield PatchBatch(np.array([row]), patch[None], fraction, np.ones(1), pack_masks(mask[None]))


def sheet_grid(count: int, side: int) -> Grid:
    """Return the grid of a square sheet that holds `count` patches, row by row."""
    columns = math.ceil(math.sqrt(count))
    size = {"width": columns * side, "height": math.ceil(count / columns) * side}
    return Grid(**size, downsample=1.0, patch_px=side, stride_px=side)

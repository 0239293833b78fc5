"""Measure how much tissue the patches behind features hold, on the slides that the features were made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pathopatch.core.config import TileConfig
from pathopatch.core.errors import InputMissingError, InputUnsupportedError
from pathopatch.core.input_files import log_left_out, walk_files
from pathopatch.patches.analysis import SlideAnalysis, analyse_slide, iterate_patches
from pathopatch.patches.grid import Grid
from pathopatch.slides import Slide
from pathopatch.slides.slide_paths import SLIDE_SUFFIXES, slide_id_from_path

_MOST_PX = 256
"""Side at which larger patches are measured: the side that `tile` cuts by default, at about the encoders' scale."""


def find_slides(folder: Path, slide_ids: Iterable[str]) -> dict[str, Path]:
    """Return the slide of each id: the file or OME-Zarr folder below `folder` whose stem it is.

    InputMissingError if slides are not there, InputUnsupportedError if two files have the stem of one.
    """
    wanted = set(slide_ids)
    by_id: dict[str, Path] = {}
    for path in _slides_below(folder):
        name = path.name.removesuffix(path.suffix).removesuffix(".ome")
        slide_id = name if name in wanted else slide_id_from_path(path)
        if slide_id not in wanted:
            continue
        if slide_id in by_id:
            raise InputUnsupportedError(
                f"two files are named as slide {slide_id}: {by_id[slide_id]} and {path}",
                place=str(folder),
                remedy="give a folder in which each slide is there once",
            )
        by_id[slide_id] = path
    if missing := sorted(wanted - by_id.keys()):
        raise InputMissingError(
            f"no slide for {len(missing)} of {len(wanted)} feature files, such as {', '.join(missing[:3])}",
            place=str(folder),
            remedy="give the folder of the slides; a slide's file is named as its feature file, with another ending",
        )
    return by_id


def _slides_below(folder: Path) -> Iterator[Path]:
    """Yield all slides below a folder, by their endings; OME-Zarr folders are not entered."""
    for parent, folders, files in walk_files(folder, log_left_out):
        slides = [name for name in folders if name.lower().endswith(".zarr")]
        folders[:] = [name for name in folders if name not in slides]
        yield from (parent / name for name in sorted(files + slides) if name.lower().endswith(SLIDE_SUFFIXES))


def measuring_grid(size: tuple[int, int], side: float) -> Grid:
    """Return a grid of patches of that side as they are measured; both are level-0 px. Only its geometry is used."""
    patch_px = min(_MOST_PX, max(1, round(side)))
    return Grid(width=size[0], height=size[1], downsample=side / patch_px, patch_px=patch_px, stride_px=patch_px)


def measure_tissue(
    slide: Slide, x: NDArray[np.int64], y: NDArray[np.int64], side: float, *, analysis: SlideAnalysis | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the tissue and the scanned fraction of square patches, as `tile` measures them, float64 (N,) each.

    `x` and `y`, int64 (N,), are top-left corners in level-0 px, as `side` is; patches of more than 256 px are measured
    at that side. `analysis` is the slide's; by default the rules of tissue are the default ones. InputUnsupportedError
    if a patch lies outside the slide: the positions are of another slide or in another frame; else as `analyse_slide`.
    """
    width, height = slide.size
    outside = int(np.count_nonzero((x + side <= 0) | (y + side <= 0) | (x >= width) | (y >= height)))
    if outside:
        raise InputUnsupportedError(
            f"{outside} of {len(x)} patches lie outside the slide of {width} x {height} px",
            place=str(slide.paths[0]),
            remedy="give the slides that these features were made of",
        )
    analysis = analysis or analyse_slide(slide, TileConfig())
    grid = measuring_grid(slide.size, side)
    fractions, scanned = np.zeros(len(x)), np.ones(len(x))
    batches = iterate_patches(
        slide,
        replace(analysis, grid=grid),
        origins=np.maximum(np.stack([x, y], axis=1), 0),  # a patch that begins before the slide is moved onto it
        min_tissue=np.finfo(np.float64).tiny,  # so that patches without tissue on the overview are not read
        fractions_out=fractions,
        scanned_out=scanned,
    )
    for _ in batches:
        pass
    return fractions, scanned

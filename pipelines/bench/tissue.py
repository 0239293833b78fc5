"""Measure the error and the speed of tissue fractions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import imagecodecs
import numpy as np
import skimage
import tifffile
from inputs import TILE_PX, Inputs
from measure import Row, Work, ratio, require_equal, speedup

from pathopatch.patches.tissue_model import TissueModel
from pathopatch.slides import open_slide
from pathopatch.slides.resample import planes

_SCALE = 4  # level-0 px per px of the overview's mask
_THRESHOLD = 0.2
_PATCHES_A_PIECE = 16


def rows(inputs: Inputs) -> Iterator[Row]:
    """All rows about tissue."""
    yield Row("error of the tissue fraction", _error(), 0.0, "at most", "absolute")
    path = inputs.rgb_jpeg()
    with open_slide(path, background="bright") as slide, tifffile.TiffFile(path) as tiff:
        side = slide.size[0] // TILE_PX * TILE_PX
        places = [(x, y) for y in range(0, side, TILE_PX) for x in range(0, side, TILE_PX)]
        patches = [planes(slide.read_region(x, y, TILE_PX, TILE_PX)) for x, y in places]
        page, content = tiff.pages[0], path.read_bytes()
        tiles = [content[o : o + n] for o, n in zip(page.dataoffsets, page.databytecounts, strict=True)]
    model = _model(np.random.default_rng(0).random((side // _SCALE, side // _SCALE)) < 0.8)

    def ours(index: int) -> float:
        mask = model.patch_mask(patches[index], *places[index], 1.0, (TILE_PX, TILE_PX))
        return np.count_nonzero(mask) / TILE_PX**2

    def by_skimage(index: int) -> float:
        x, y = (at // _SCALE for at in places[index])
        part = model.mask[y : y + TILE_PX // _SCALE, x : x + TILE_PX // _SCALE]
        near = skimage.transform.resize(part, (TILE_PX, TILE_PX), order=0, preserve_range=True, anti_aliasing=False)
        dark = 1 - skimage.util.img_as_float32(patches[index]).min(axis=0)
        return float(((dark > np.float32(_THRESHOLD)) & (near > 0)).mean())

    def decode(index: int) -> object:
        return imagecodecs.jpeg8_decode(tiles[index], outcolorspace=2)

    every = range(len(patches))
    require_equal(map(ours, every), map(by_skimage, every))
    yield Row(
        "tissue fractions, by scikit-image patch by patch", speedup(_work(ours, every), _work(by_skimage, every)), 9.0
    )
    spent = ratio(_work(ours, every), _work(decode, every))
    yield Row("time of the tissue fractions by that of decoding the tiles", spent, 0.6, "at most")


def _work(measure_patch: Callable[[int], object], indices: Sequence[int]) -> Callable[[], Sequence[Work]]:
    """Pieces of a few patches."""

    def piece(some: Sequence[int]) -> None:
        for index in some:
            measure_patch(index)

    starts = range(0, len(indices), _PATCHES_A_PIECE)
    return lambda: [partial(piece, indices[start : start + _PATCHES_A_PIECE]) for start in starts]


def _model(mask: np.ndarray) -> TissueModel:
    """Bright background, RGB."""
    return TissueModel(polarities=("bright",) * 3, windows=np.array([[0.0, 255.0]] * 3), threshold=_THRESHOLD,
                       mask=mask.astype(np.uint8), scale_x=float(_SCALE), scale_y=float(_SCALE))  # fmt: skip


def _error() -> float:
    """Largest difference of a patch's tissue fraction from the mean of its own mask, drawn pixel by pixel."""
    rng = np.random.default_rng(0)
    worst = 0.0
    for dtype in (np.uint8, np.uint16, np.float32):
        for _ in range(20):
            patch = rng.integers(0, 256, (1, 64, 64)).astype(dtype)
            model = TissueModel(polarities=("dark",), windows=np.array([[0.0, 255.0]]), threshold=0.5,
                                mask=np.ones((8, 8), np.uint8), scale_x=8.0, scale_y=8.0)  # fmt: skip
            fraction = np.count_nonzero(model.patch_mask(patch, 0, 0, 1.0, (64, 64))) / 64**2
            worst = max(worst, abs(fraction - float((patch[0] / 255 > 0.5).mean())))
    return worst

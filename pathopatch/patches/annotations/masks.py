"""Read masks of a whole slide, at any scale, and return what they set of each patch: its fraction and its pixels.

A fraction is the exact area mean of the mask over the patch's part on the slide. Mask pixels are squares: the edges of
a patch and of its pixels cut them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray

from pathopatch.core.errors import InputUnsupportedError, ModalityMismatchError
from pathopatch.core.mask_bits import pack_masks, resize_mask, unpack_masks
from pathopatch.patches.annotations.outlines import UNCLASSIFIED, Outlines, place_on_slide, read_annotations
from pathopatch.patches.annotations.polygons import rasterize
from pathopatch.patches.grid import Grid
from pathopatch.slides import Slide, open_slide
from pathopatch.slides.image_file import MAX_PIXELS, raster
from pathopatch.slides.manifest import is_annotation

_TISSUE, _CUT_OUT, _MISSED, _NOT_TISSUE, _ARTEFACT = "tissue", "ignore*", "missed tissue", "not tissue", "artefact"
_MEANINGS = {
    **dict.fromkeys((_TISSUE, UNCLASSIFIED, "region*", "none", "normal tissue"), _TISSUE),  # "None" is ASAP's
    **{kind: kind for kind in (_CUT_OUT, _MISSED, _NOT_TISSUE)},
    **dict.fromkeys(("fold", "darkspot & foreign object", "penmarking", "edge & air bubble", "oof"), _ARTEFACT),
}
"""What the classes of tissue outlines mean, in any case: ours, QuPath's, ASAP's, and those of GrandQC."""
_USABLE_ENDING = "_mask_use.png"  # of HistoQC's mask, which leaves out artefacts as well as glass
_log = logging.getLogger(__name__)
_MAX_ASPECT_DIFFERENCE = 0.02
_HALF_UINT8 = 127  # a mask of 0 and 255, or a JPEG, is set above this
_BAND_BYTES = 64 * 2**20
_COARSEST_PX, _COARSEST_PATCHES = 100, 2  # side of a mask's pixel at the target mpp: the larger of both
_ROUNDING = 1e-9  # of an area: rounding must not decide at one half


class TissueCorrection(NamedTuple):
    """What a person corrects of the tissue that was found, on the overview, (h, w) each."""

    missed: NDArray[np.bool_]
    not_tissue: NDArray[np.bool_]


def read_mask(path: Path) -> NDArray[np.bool_]:
    """Return a raster mask, bool of shape (H, W): PNG, JPEG or TIFF; of a TIFF pyramid or stack the first page.

    A pixel is set above 127 in a JPEG file and in a uint8 image with values above 1, and above 0 in any other image
    (0 and 1, boolean, 16 bit, float). The largest channel counts, without alpha. A TIFF whose tags call 0 white is
    inverted first. It is turned as its tag or EXIF data say, as slides are.
    A table of colours, but for a PNG of black and white ones, alpha that is not opaque, and class numbers in place of
    0 and 1 or 0 and 255 are refused; other errors are those of `raster`.
    """
    source = raster(path)
    pixels: Any = source.pixels()
    # The decoder of PNG looks up the colours.
    if source.is_palette and not (source.kind == "png" and _is_black_and_white(pixels)):
        raise InputUnsupportedError(
            "a mask with a table of colours, whose meaning is unknown",
            place=str(path),
            remedy="write it anew as grey values, with 0 for no and 255 for yes",
        )
    if source.is_inverted and pixels.dtype.kind in "bu":
        pixels = ~pixels
    if pixels.ndim == 3:
        pixels = _largest_colour(np.moveaxis(pixels, -1, 0), path)
    if pixels.ndim != 2 or pixels.size == 0:
        raise InputUnsupportedError(
            f"a mask of shape {pixels.shape}", place=str(path), remedy="give an image of one channel"
        )
    if source.kind == "jpeg":
        limit = _HALF_UINT8  # compression blurs 0 and 1 anyway, so 0 and 255 are meant
    else:
        limit = _uint8_limit(float(pixels.max()), path) if pixels.dtype == np.uint8 else 0
    return np.asarray(np.greater(pixels, limit), np.bool_)


def require_fit(
    mask_px: tuple[int, int],
    slide_size: tuple[int, int],
    grid: Grid | None = None,
    *,
    place: str,
    covered: str = "slide",
) -> None:
    """Refuse a mask that is not of its slide, or far coarser than the patches of a grid; sizes are (width, height).

    `covered` is the word for what the mask covers.

    Raises
    ------
    ModalityMismatchError
        Mask and slide are not in proportion within 2 %.
    InputUnsupportedError
        A pixel of the mask is far larger than a patch.
    """
    (width, height), (slide_width, slide_height) = mask_px, slide_size
    # Sides are rounded to whole pixels, and one pixel of a tiny mask is more than 2 %.
    allowed = max(_MAX_ASPECT_DIFFERENCE, 1 / min(width, height))
    if abs(slide_width / width / (slide_height / height) - 1) > allowed:
        is_turned = abs(slide_width / height / (slide_height / width) - 1) <= allowed
        turned = "; turned by 90° it would fit" if is_turned else ""
        raise ModalityMismatchError(
            f"the mask is {width} x {height} px and the {covered} {slide_width} x {slide_height} px: "
            f"their proportions differ by more than 2 %{turned}",
            place=place,
            remedy=f"give the mask that belongs to this {covered}; it must cover the whole of it",
        )
    if grid is None:
        return
    coarsest = grid.downsample * max(_COARSEST_PX, _COARSEST_PATCHES * grid.patch_px)
    if min(slide_width / width, slide_height / height) > coarsest:
        least = " x ".join(str(math.ceil(size / coarsest)) for size in slide_size)
        raise InputUnsupportedError(
            f"a mask of {width} x {height} px for a slide of {slide_width} x {slide_height} px: "
            "each of its pixels covers several patches",
            place=place,
            remedy=f"write the mask with at least {least} px, better with a pixel for every few of the slide",
        )


class MaskRegion:
    """What a mask, or its file, sets of squares given in level-0 px; it covers the whole slide.

    A TIFF of more than 2^28 px is read in bands of rows, any other mask is held as bits. Raises as `read_mask` and
    `require_fit`; `slide_size` is (width, height), level-0 px.
    """

    def __init__(
        self, mask: NDArray[np.bool_] | Path, slide_size: tuple[int, int], *, grid: Grid | None = None
    ) -> None:
        self._large = mask if isinstance(mask, Path) and _is_large(mask) else None
        self._slide_size = slide_size
        if self._large is not None:
            source = raster(self._large, is_whole=False)
            height, width = source.height, source.width
            # The rows that were read last: the patches of a row of the grid share theirs.
            self._rows, self._bits = slice(0, 0), np.empty((0, 0), np.uint8)
            self._limit: int | None = None  # value above which a pixel is set; known once all was read
        else:
            pixels = read_mask(mask) if isinstance(mask, Path) else mask
            height, width = pixels.shape
            self._rows, self._bits = slice(0, height), pack_masks(pixels)
        self._size_px = width, height
        require_fit(self._size_px, slide_size, grid, place=str(mask) if isinstance(mask, Path) else "")

    def fractions(self, x: NDArray[np.int64], y: NDArray[np.int64], extent: float) -> NDArray[np.float64]:
        """Return the mask's fraction of each patch's part on the slide, (N,), in [0, 1]; 0 beyond the slide.

        `x` and `y`, (N,), are origins, and `extent` is the side of a patch, level-0 px.
        """
        fractions = np.zeros(len(x))
        # Patches of one row share their rows of a large mask, which are decoded once.
        for index in np.lexsort((x, y)).tolist():
            left, top = x[index].item(), y[index].item()
            columns, across = _cover(left, left + extent, self._slide_size[0], self._size_px[0])
            rows, down = _cover(top, top + extent, self._slide_size[1], self._size_px[1])
            if across.size and down.size and (part := self._part(rows, columns)).any():
                fractions[index] = min(1.0, float(down @ (part @ across) / (down.sum() * across.sum())))
        return fractions

    def patch_mask(self, x: int, y: int, *, downsample: float, inside: tuple[int, int]) -> NDArray[np.bool_]:
        """Return the pixels of a patch that the mask sets over at least half of their area, (height, width).

        The origin (x, y) is in level-0 px, `downsample` is level-0 px per px of the patch, and `inside` is (width,
        height) of its part on the slide, px.
        """
        (columns, column_edges), (rows, row_edges) = (
            _cells(start, n, downsample, size, mask_px)
            for start, n, size, mask_px in zip((x, y), inside, self._slide_size, self._size_px, strict=True)
        )
        return _majority(self._part(rows, columns), row_edges, column_edges)

    def _part(self, rows: slice, columns: slice) -> NDArray[np.bool_]:
        """Return a rectangle of the mask."""
        if self._large is not None and rows != self._rows:
            if self._limit is None:
                self._limit = _scan(self._large)
            with _open_large(self._large) as mask:
                packed = [pack_masks(band > self._limit) for band in _bands(mask, rows)]
            self._rows, self._bits = rows, np.concatenate(packed)
        top, first_byte = self._rows.start, columns.start // 8
        bits = self._bits[rows.start - top : rows.stop - top, first_byte : -(-columns.stop // 8)]
        return unpack_masks(bits, columns.stop - 8 * first_byte)[:, columns.start - 8 * first_byte :]


def check_mask(
    path: Path, slide_size: tuple[int, int], *, grid: Grid | None = None, is_quick: bool = False, is_banded: bool = True
) -> None:
    """Refuse a mask file that does not fit a slide, or is damaged; raises as `MaskRegion`.

    With `is_quick` only the header is read: damaged pixels are not found. With `is_banded` a large TIFF is read in
    bands; without, it is refused as too large.
    """
    is_large = is_banded and _is_large(path)
    source = raster(path, is_whole=not is_large)
    require_fit((source.width, source.height), slide_size, grid, place=str(path))
    if not is_quick:
        (_scan if is_large else read_mask)(path)


def read_tissue_mask(
    path: Path,
    *,
    slide_size: tuple[int, int],
    overview_px: tuple[int, int],
    bounds_origin: tuple[int, int] = (0, 0),
    grid: Grid | None = None,
) -> NDArray[np.bool_] | TissueCorrection:
    """Return a supplied tissue mask, bool: a raster at its own scale, outlines at that of the overview.

    A pixel is set where its centre is inside an outline of tissue; outlines of QuPath's class ``Ignore*`` are cut out,
    and a file without outlines means no tissue. Outlines of the classes ``Missed tissue`` and ``Not tissue`` correct
    what is found, and no others may be beside them. GrandQC's artefacts, and what HistoQC's mask leaves out, are not
    tissue. Sizes are (width, height); `slide_size` and `bounds_origin`, which is added to QuPath's points alone, are
    level-0 px. Raises as `read_mask`, `require_fit` and `place_on_slide`; InputUnsupportedError for corrections beside
    other classes, and for classes without a meaning.
    """
    if not is_annotation(path):
        mask = read_mask(path)
        require_fit((mask.shape[1], mask.shape[0]), slide_size, grid, place=str(path))
        if path.name.lower().endswith(_USABLE_ENDING):
            is_usable = resize_mask(mask, overview_px)
            return TissueCorrection(np.zeros_like(is_usable), ~is_usable)
        return mask
    outlines = _tissue_outlines(path)
    names, shapes, warnings = place_on_slide(
        outlines, slide_size=slide_size, bounds_origin=bounds_origin if outlines.is_from_bounds else (0, 0)
    )
    for warning in outlines.skipped_text() + warnings:
        _log.warning("%s: %s", path.name, warning)
    scale = np.array(overview_px) / slide_size

    def drawn(region: Any) -> NDArray[np.bool_]:
        return rasterize(shapely.transform(region, lambda xy: xy * scale), overview_px)

    kinds = np.array([_MEANINGS[name.lower()] for name in names], object)
    has_tissue = (kinds == _TISSUE).any()
    kinds[kinds == _ARTEFACT] = _CUT_OUT if has_tissue else _NOT_TISSUE
    is_correction = np.isin(kinds, (_MISSED, _NOT_TISSUE))
    if is_correction.any() or (outlines.is_of_artefacts and not has_tissue):
        if not is_correction.all():
            raise InputUnsupportedError(
                f"corrections beside outlines of the classes {', '.join(sorted(set(names[~is_correction])))}",
                place=str(path),
                remedy='give corrections alone, "Missed tissue" and "Not tissue", or outlines of all the tissue',
            )
        missed, not_tissue = (shapely.union_all(shapes[kinds == kind]) for kind in (_MISSED, _NOT_TISSUE))
        return TissueCorrection(drawn(shapely.difference(missed, not_tissue)), drawn(not_tissue))
    is_cut_out = kinds == _CUT_OUT
    return drawn(shapely.difference(shapely.union_all(shapes[~is_cut_out]), shapely.union_all(shapes[is_cut_out])))


def check_tissue_mask(
    path: Path, slide_size: tuple[int, int], *, grid: Grid | None = None, is_quick: bool = False
) -> None:
    """Refuse a tissue mask that is missing or broken, or has classes without a meaning; raises as its reader."""
    if is_annotation(path):
        _tissue_outlines(path)
    else:
        check_mask(path, slide_size, grid=grid, is_quick=is_quick, is_banded=False)


def _tissue_outlines(path: Path) -> Outlines:
    """Return the outlines of a file, whose classes all say what is tissue."""
    outlines = read_annotations(path)
    if unknown := sorted({name for name in outlines.names if name.lower() not in _MEANINGS}):
        raise InputUnsupportedError(
            f"classes that do not say what is tissue: {', '.join(map(repr, unknown))}",
            place=str(path),
            remedy='give each the class "Tissue", or "Not tissue" (beside tissue "Ignore*"), or take them out',
        )
    return outlines


def _is_large(path: Path) -> bool:
    """Return whether a mask is a TIFF that is read in bands."""
    source = raster(path, is_whole=False)
    # `read_mask` refuses tables of colours and inverts values, which reading in bands does not.
    is_plain = source.kind == "tiff" and not source.is_palette and not source.is_inverted
    return is_plain and source.width * source.height > MAX_PIXELS


def _cover(start: float, stop: float, size: int, mask_px: int) -> tuple[slice, NDArray[np.float64]]:
    """Return the mask pixels of an axis that a level-0 interval covers, and how much of each; `size` is the slide's."""
    # Clipped after the division too: rounding may reach past the last mask pixel.
    begin, end = (min(max(0.0, at) * mask_px / size, mask_px) for at in (start, stop))
    if end <= begin:
        return slice(0, 0), np.zeros(0)
    first, last = math.floor(begin), math.ceil(end)
    edges = np.clip(np.arange(first, last + 1, dtype=np.float64), begin, end)
    return slice(first, last), np.diff(edges)


def _cells(start: int, n: int, downsample: float, size: int, mask_px: int) -> tuple[slice, NDArray[np.float64]]:
    """Return the mask pixels of an axis that n patch pixels cover, and the n + 1 edges of those in px of that part.

    `start` and `size`, the slide's, are level-0 px. Beyond the slide edges coincide.
    """
    edges = np.clip((start + np.arange(n + 1) * downsample) * (mask_px / size), 0, mask_px)
    first = min(math.floor(edges[0]), mask_px - 1)
    return slice(first, max(first + 1, math.ceil(edges[-1]))), edges - first


def _majority(
    part: NDArray[np.bool_], row_edges: NDArray[np.float64], column_edges: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Return which cells of a grid are set over at least half of their area; edges are in px of the part."""
    # The sum up to any point is linear in x and in y within a pixel, so that it is exact between pixels too.
    sums: NDArray[Any] = cv2.integral(np.ascontiguousarray(part).view(np.uint8))  # (h + 1, w + 1)
    for axis, edges in enumerate((row_edges, column_edges)):
        before = np.minimum(edges.astype(np.int64), part.shape[axis] - 1)
        share = np.expand_dims(edges - before, 1 - axis)
        low, high = (np.take(sums, places, axis=axis) for places in (before, before + 1))
        sums = low + share * (high - low)
    area_px = np.outer(np.diff(row_edges), np.diff(column_edges))
    set_px = np.diff(np.diff(sums, axis=0), axis=1)
    return np.asarray((set_px >= 0.5 * area_px - _ROUNDING) & (area_px > 0), np.bool_)


def _is_black_and_white(pixels: NDArray[Any]) -> bool:
    """Return whether colours (H, W, S), without alpha, are all black or white."""
    colours = pixels[..., :3]
    return bool(np.isin(colours, (0, 255)).all() and (colours == colours[..., :1]).all())


def _largest_colour(samples: NDArray[Any], path: Path) -> NDArray[Any]:
    """Return the largest colour of each pixel (H, W); refuse alpha that is not opaque. The samples are (S, H, W)."""
    colours = 1 if len(samples) == 2 else 3  # what follows them is alpha
    alpha = samples[colours:]
    opaque = np.iinfo(alpha.dtype).max if alpha.dtype.kind in "iu" else 1
    # Programs that draw on a transparent layer keep the shape in alpha, and any colour below it.
    if (alpha < opaque).any():
        raise InputUnsupportedError(
            "a mask with transparent pixels: the shape may be in the colours or in the alpha channel",
            place=str(path),
            remedy="write the shape as one grey channel, 0 for no and 255 for yes (Pillow: image.getchannel('A'))",
        )
    return np.asarray(samples[:colours].max(axis=0))


def _uint8_limit(highest: float, path: Path) -> int:
    """Return the value above which a lossless uint8 mask is set: 0 for one of 0 and 1, else half of 255."""
    # Such values are class numbers, and which class is meant is unknown.
    if 1 < highest <= _HALF_UINT8:
        raise InputUnsupportedError(
            f"a mask whose values reach up to {highest:g}, neither 0 and 1 nor 0 and 255",
            place=str(path),
            remedy="write it anew with 0 for no and 255 for yes",
        )
    return _HALF_UINT8 if highest > 1 else 0


def _scan(path: Path) -> int:
    """Decode every band of a large TIFF, and return the value above which its pixels are set."""
    with _open_large(path) as mask:
        highest = max(float(band.max()) for band in _bands(mask, slice(0, mask.size[1])))
        return _uint8_limit(highest, path) if mask.dtype == np.uint8 else 0


def _open_large(path: Path) -> Slide:
    """Open the first page of a large TIFF."""
    # A dark background: tiles that are not stored in the file are not set.
    names = tuple(f"C{sample}" for sample in range(raster(path, is_whole=False).samples))
    return open_slide(f"{path}#page=0", channels=names, background="dark")


def _bands(mask: Slide, rows: slice) -> Iterator[NDArray[Any]]:
    """Yield the largest colour of some rows of a mask, (h, width), in bands of bounded size."""
    width = mask.size[0]
    step = max(1, _BAND_BYTES // (width * len(mask.channels) * mask.dtype.itemsize))
    for start in range(rows.start, rows.stop, step):
        height = min(step, rows.stop - start)
        yield _largest_colour(mask.read_region(0, start, width, height), mask.paths[0])

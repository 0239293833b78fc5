"""Find the glass of a brightfield image: its level in each channel, and how evenly it is lit.

Glass is the brightest compact peak of an image, whatever its level: stain only absorbs light. So nothing here depends
on exposure, white balance or bit depth. The *absorption* of a pixel is 1 minus its smallest share of the glass over
the channels: 0 on glass, 1 on black. Pure arithmetic on arrays.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

_SAMPLE_PX = 2**20
_BIN = 0.004  # of absorption
_LEAST_BLUR = 0.006  # of the histogram, absorption; also above the steps of dim uint8 images
_LOWEST = -0.15  # absorption; highlights are brighter than glass
_PROMINENCE = 1.3  # by which the density falls behind a peak, and rises again behind a valley
_LEAST_SHARE = 0.002  # of the pixels: what is rarer is a highlight
# A peak of at most this share may be glints, if glass with at most this spread lies within this absorption behind it,
# and is so many times as common.
_MOST_GLINT, _GLASS_BEHIND, _NEAREST_GLASS, _GLINT_TO_GLASS = 0.05, 0.02, 0.1, 10
# Standard deviation of the peak's absorption. On 47 real brightfield fields it is 0.005 to 0.028, also where glass is
# 0.2 % of the field, and the peak lies 0.00 to 0.06 below the 99.5th percentile. Fields of tissue alone begin with
# the peak of stroma or nuclei, of 0.09 to 0.18. Smooth stroma alone may have 0.03, hence `Glass.spread`.
_LARGEST_SPREAD = 0.04
_BLOCKS, _BLOCK_PX = 32, 12  # along the longer side, for the illumination, and about so many px wide
_LEAST_RANGE, _LARGEST_RANGE = 0.1, 0.8  # natural logarithm: a vignette of +-5 % and of +-40 %
_BELOW_WEIGHT = 0.1
_LEAST_BLOCKS = 0.15  # share of the blocks in which glass is seen, for an illumination to be believed
_HIGHLIGHT, _LARGEST_HIGHLIGHTS = 0.03, 0.02  # absorption below that of glass, and the share of such pixels
_NEAR, _GAIN = 0.01, 1.5  # absorption from that of glass, and by which an illumination must add to such pixels


@dataclass(frozen=True, kw_only=True, eq=False)
class Illumination:
    """Light that falls off towards some side: a factor on every channel, at most 1.

    Its natural logarithm has these coefficients over (1, x, y, x^2, xy, y^2); x and y run from -1 to 1 over the slide.
    """

    coefficients: tuple[float, ...]

    def at(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return the factor, (H, W), on a lattice of positions `x` (W,) and `y` (H,) from -1 to 1 over the slide."""
        one, of_x, of_y, of_xx, of_xy, of_yy = self.coefficients
        rows = (one + of_y * y + of_yy * y * y).astype(np.float32)[:, None]
        columns = (of_x * x + of_xx * x * x).astype(np.float32)[None]
        total = (of_xy * y).astype(np.float32)[:, None] * x.astype(np.float32)[None]
        total += rows
        total += columns
        return np.asarray(np.exp(total, out=total), np.float32)

    def over(self, height: int, width: int, *, step: int = 1, rows: slice | None = None) -> NDArray[np.float32]:
        """Return the factor at every k-th pixel of all or some rows of an image of the whole slide, (height, width)."""
        return self.at(_positions(width)[::step], _positions(height)[rows or slice(None)][::step])


@dataclass(frozen=True, kw_only=True, eq=False)
class Glass:
    """The glass of a brightfield image."""

    level: NDArray[np.float64]  # (C,) its intensity, source units; where the light is uneven, where it is brightest
    spread: float  # standard deviation of its absorption
    valley: float | None  # absorption at which pixels are rarest between glass and tissue; None: there is no tissue
    share: float  # of the pixels whose absorption is below the valley; without one, within two spreads of the glass
    illumination: Illumination | None = None  # None: the light is even
    # Darker glass may be in view: the brightest places suggest uneven light, be it found or not, or glass fills half of
    # the image, and no illumination was looked for.
    may_be_uneven: bool = False


def find_glass(pixels: NDArray[np.generic], usable: NDArray[np.bool_], *, is_flat: bool = False) -> Glass | None:
    """Return the glass of a brightfield image; None where none is in view.

    `pixels`, (C, H, W), is the whole slide, small, source units; `usable`, (H, W), are the pixels that count. With
    `is_flat` no uneven light is looked for: the pixels are no picture of one field.
    """
    step = 1.0 if pixels.dtype.kind in "iu" else 0.0
    thin = max(1, int((usable.size / _SAMPLE_PX) ** 0.5))
    part = usable[::thin, ::thin]
    means, is_whole = (_means(plane, thin) for plane in pixels), bool(part.all())
    values = np.stack([plane.ravel() if is_whole else plane[part] for plane in means])  # (C, N)
    even = _peak(values, step, None)
    if is_flat:
        return even and even[0]
    # Glass on half of the image: no vignette, but the rest may be glass beside a seam or a bubble.
    if even is not None and even[1] > 0.5:
        return replace(even[0], may_be_uneven=True)
    light = _illumination(pixels, usable)
    if light is None:
        return even and even[0]
    uneven = _peak(values / light.over(*usable.shape, step=thin)[part], step, light)
    even_share = 0.0 if even is None else even[1]
    if uneven is not None and uneven[1] > max(_GAIN * even_share, 10 * _LEAST_SHARE):
        # The light may have been fitted to tissue here and there.
        return replace(uneven[0], may_be_uneven=True)
    return even and replace(even[0], may_be_uneven=True)


def _means(plane: NDArray[np.generic], step: int) -> NDArray[np.float32]:
    """Return means over 3 x 3 pixels, of every k-th row and column."""
    height, width = plane.shape
    rows, columns = np.arange(0, height, step), np.arange(0, width, step)
    sums = np.zeros((len(rows), width), np.uint16 if plane.dtype == np.uint8 else np.float32)  # exact for integers
    for by in (-1, 0, 1):
        sums += plane[np.clip(rows + by, 0, height - 1)]
    total = sum(np.take(sums, np.clip(columns + by, 0, width - 1), axis=1) for by in (-1, 0, 1))
    return np.asarray(total / np.float32(9), np.float32)


def _absorption(
    pixels: NDArray[np.generic], level: NDArray[np.float64], light: NDArray[np.float32] | None
) -> NDArray[np.float32]:
    """Return 1 minus the smallest share of a level over the channels, (C, H, W) -> (H, W); highlights are below 0."""
    smallest = pixels[0] * np.float32(1 / level[0])
    for plane, of_channel in zip(pixels[1:], level[1:], strict=True):
        np.minimum(smallest, plane * np.float32(1 / of_channel), out=smallest)
    if light is not None:
        smallest /= light
    return np.asarray(np.subtract(np.float32(1), smallest, out=smallest), np.float32)


def _peak(values: NDArray[np.float32], step: float, light: Illumination | None) -> tuple[Glass, float] | None:
    """Return the glass of pixels (C, N) and the share of them near its level; None where the first peak is wide."""
    if not values.size:
        return None
    reference = np.percentile(values, 99.5, axis=1).astype(np.float64)
    if not (reference > 0).all():
        return None
    absorbed = _absorption(values[:, None], reference, None)[0]
    first_peak = _first_peak(absorbed, step / float(reference.min()))
    if first_peak is not None and first_peak[2] is not None:
        # Edges of bubbles and of a cover slip are brighter than glass: close behind them glass is far more common.
        rest = absorbed[absorbed >= first_peak[2]]
        glint = 1 - rest.size / absorbed.size
        behind = _first_peak(rest, step / float(reference.min())) if glint < _MOST_GLINT else None
        if behind is not None and behind[1] <= _GLASS_BEHIND and behind[0] - first_peak[0] <= _NEAREST_GLASS:
            share = np.count_nonzero(np.abs(rest - behind[0]) <= 2 * behind[1]) / absorbed.size
            first_peak = behind if share > _GLINT_TO_GLASS * glint else first_peak
    if first_peak is None or first_peak[1] > _LARGEST_SPREAD:
        return None
    middle, spread, valley = first_peak
    distance = np.abs(absorbed - middle)
    # Nothing is brighter than glass: where much is, the light was fitted to tissue.
    if light is not None and np.count_nonzero(absorbed < middle - _HIGHLIGHT) > _LARGEST_HIGHLIGHTS * absorbed.size:
        return None
    is_near = distance <= max(2 * spread, _LEAST_BLUR)
    # The smoothed density may have its peak between two values, where no pixel lies.
    if not is_near.any():
        return None
    level = np.median(values[:, is_near], axis=1).astype(np.float64)
    if not (level > 0).all():
        return None
    below = distance <= 2 * spread if valley is None else absorbed < valley
    glass = Glass(
        level=level,
        spread=spread / (1 - middle),
        valley=None if valley is None else (valley - middle) / (1 - middle),
        share=float(np.count_nonzero(below) / below.size),
        illumination=light,
    )
    return glass, float(np.count_nonzero(distance <= _NEAR) / distance.size)


def _first_peak(absorbed: NDArray[np.float32], step: float) -> tuple[float, float, float | None] | None:
    """Return place and standard deviation of the first peak of the absorption's density, and the valley behind it."""
    bins = round((1 - _LOWEST) / _BIN)
    counts, edges = np.histogram(np.clip(absorbed, _LOWEST, 1), bins=bins, range=(_LOWEST, 1))
    blur = max(_LEAST_BLUR, 0.6 * step) / _BIN
    density = cv2.GaussianBlur(counts.astype(np.float64)[None], (0, 0), blur, borderType=cv2.BORDER_CONSTANT)[0]
    centres = (edges[:-1] + edges[1:]) / 2
    # Brighter pixels so few are highlights, whose peaks do not count.
    is_common = np.cumsum(counts) > max(_LEAST_SHARE * absorbed.size, 30)
    highest = np.maximum.accumulate(density)
    behind = np.flatnonzero(is_common & (density < highest / _PROMINENCE))
    if not behind.size:
        return None
    top = int(np.argmax(density[: behind[0]]))
    lowest = np.minimum.accumulate(density[top:])
    rises = np.flatnonzero((density[top:] > _PROMINENCE * lowest) & (density[top:] > 1e-5 * absorbed.size))
    valley = float(centres[top + int(np.argmin(density[top : top + rises[0]]))]) if rises.size else None
    is_above = density > density[top] * np.exp(-0.5)
    left = top - int(np.flatnonzero(~is_above[: top + 1])[-1]) if not is_above[: top + 1].all() else top
    right = int(np.flatnonzero(~is_above[top:])[0]) if not is_above[top:].all() else len(density) - top
    # Pale tissue widens one side only, so the narrower side tells; the histogram's own blur is taken off.
    spread = max(min(left, right) ** 2 - blur**2, 0.25) ** 0.5 * _BIN
    return float(centres[top]), spread, valley


def _illumination(pixels: NDArray[np.generic], usable: NDArray[np.bool_]) -> Illumination | None:
    """Return the light fitted through the brightest pixels of each block; None where it is even or unclear."""
    height, width = usable.shape
    side = max(8, max(height, width) // _BLOCKS)
    down, across = height // side, width // side
    if down * across < 24:
        return None
    thin = max(1, side // _BLOCK_PX)
    logs = np.mean([np.log(np.maximum(_means(plane, thin), 1e-3)) for plane in pixels], axis=0)
    part, small = usable[::thin, ::thin], max(1, side // thin)
    side = small * thin
    down, across = part.shape[0] // small, part.shape[1] // small
    blocks = logs[: down * small, : across * small].reshape(down, small, across, small)
    blocks = blocks.transpose(0, 2, 1, 3).reshape(down * across, -1)
    inside = part[: down * small, : across * small].reshape(down, small, across, small)
    is_whole = inside.mean(axis=(1, 3)).ravel() > 0.9
    brightest = np.percentile(blocks, 95, axis=1)[is_whole]
    x, y = (np.arange(count) * side + side / 2 for count in (across, down))
    x, y = (points.ravel()[is_whole] for points in np.meshgrid(2 * x / width - 1, 2 * y / height - 1))
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1)
    weights = np.ones(len(brightest))
    coefficients = np.zeros(6)
    # First an envelope: blocks below the fit count little, since their brightest pixels may be tissue.
    for _ in range(20):
        coefficients = np.linalg.lstsq(terms * weights[:, None], brightest * weights, rcond=None)[0]
        weights = np.where(brightest > terms @ coefficients, 1.0, _BELOW_WEIGHT)
    # Then blocks off the fit are left out, within a limit that closes step by step.
    limit = 0.15
    for _ in range(8):
        above = brightest - terms @ coefficients
        is_glass = np.abs(above) < limit
        if np.count_nonzero(is_glass) < max(12, _LEAST_BLOCKS * len(brightest)):
            return None
        coefficients = np.linalg.lstsq(terms[is_glass], brightest[is_glass], rcond=None)[0]
        limit = max(0.03, 0.7 * limit)
    coefficients[0] = 0.0
    field = Illumination(coefficients=tuple(coefficients.tolist())).over(height, width, step=thin)[part]
    highest = float(np.log(field.max()))
    if not _LEAST_RANGE <= highest - float(np.log(field.min())) <= _LARGEST_RANGE:
        return None
    coefficients[0] = -highest
    return Illumination(coefficients=tuple(coefficients.tolist()))


def _positions(count: int) -> NDArray[np.float64]:
    """Return the middles of pixels along an axis, from -1 to 1 over the slide."""
    return (2 * np.arange(count) + 1) / count - 1

"""Guess the polarity of each channel's background, dark or bright; split signals into background and tissue.

A polarity belongs to a channel: SHG is dark, an H&E plane beside it is bright. No rule depends on exposure: levels are
compared with the channel's own range. Pure arithmetic on arrays.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from pathopatch.core.errors import InputUnsupportedError

Polarity = Literal["dark", "bright"]
Polarities = tuple[Polarity, ...]
Background = str
"""Polarities as a text, see `parse_background`."""

# Least distance of the means of background and tissue, in standard deviations of the background. Otsu's method splits
# pure noise as readily as tissue: Gaussian, Poisson and exponential noise gave 2.3 to 3.2. Uniform values, gradients
# and vignettes gave 3.0 to 3.6, real slides of both polarities 3.9 to 17 where background was in view.
SEPARATION = 3.8
_SPLITS = 3  # on a slide that is mostly tissue the first split falls within the tissue
_OTSU_BINS = 512
_BORDER_SHARE = 0.03  # of the shorter side, on each edge
_HISTOGRAM_BINS = 64
_UNDECIDED = 0.25  # tissue on less than a hundredth of a slide leaves noise alone, which votes by chance
_LEAST_BRIGHT = 0.2  # a slide of noise alone votes within 0.15, and is dark
_BRIGHT_COLOUR, _DARK_COLOUR = 0.5, 0.25  # median over 99.5th percentile: brightfield 0.69 to 1, fluorescence to 0.22
_DARKEST_BRIGHT = 50  # of 255: glass at a fifth of the usual exposure
_SAME_CONTENT = 0.5  # correlation of channels that show the same thing
_COMPARED_PX = 512  # from twice as long a side on, they are compared at every second pixel, and so on
_ENTRY = re.compile(r"\s*(?:(?P<channel>.+?)\s*=)??\s*(?P<polarity>dark|bright)\s*(?:,(?=.)|\Z)", re.IGNORECASE)


def guess_polarities(
    overview: NDArray[np.generic], *, is_colour: bool, valid: NDArray[np.bool_] | None = None
) -> Polarities:
    """Return whether each channel is dark or bright where there is no tissue.

    Colour is bright where its median, taken of the brightest channel, is at least half of its 99.5th percentile, and
    dark where it is below a quarter. Between the two, and for other channels, the border and the most frequent value
    are compared with the middle of the range. Without any pixel colour is bright, all else dark; noise alone is dark.

    The `overview`, (C, h, w), of any real type, is the whole slide; values that are not finite are left out. With
    `is_colour` its channels are red, green and blue of one image. `valid`, (h, w), are the scanned pixels; else all.
    """
    inside = np.ones(overview.shape[1:], bool) if valid is None else valid
    plain = plain_polarity(overview, inside) if is_colour else None
    if plain is not None:
        return (plain,) * len(overview)
    height, width = inside.shape
    frame_px = max(1, round(min(height, width) * _BORDER_SHARE))
    border = np.ones((height, width), bool)
    border[frame_px : height - frame_px, frame_px : width - frame_px] = False
    votes = [_vote(plane, inside, border) for plane in overview]
    if is_colour:
        mean_vote = float(np.mean([vote for vote in votes if vote is not None]))
        return ("bright" if mean_vote > 0 else "dark",) * len(overview)
    group_votes = np.zeros(len(overview))
    # Channels that rise and fall together show one thing and have one polarity.
    for group in correlated_channels(overview, inside):
        cast_votes = [vote for channel in group if (vote := votes[channel]) is not None]
        group_votes[group] = float(np.mean(cast_votes)) if cast_votes else -1.0
    return tuple("bright" if vote > _LEAST_BRIGHT else "dark" for vote in group_votes.tolist())


def correlated_channels(overview: NDArray[np.generic], inside: NDArray[np.bool_]) -> list[list[int]]:
    """Return groups of channels that rise and fall together; arguments as of `guess_polarities`."""
    groups: list[list[int]] = []
    thin = max(1, max(inside.shape) // _COMPARED_PX)
    values = overview[:, ::thin, ::thin][:, inside[::thin, ::thin]].astype(np.float64)
    values = values[:, np.isfinite(values).all(axis=0)]
    for channel, value in enumerate(values):
        for group in groups:
            first = values[group[0]]
            # Nothing rises and falls with a constant channel.
            is_constant = value.size < 2 or first.min() == first.max() or value.min() == value.max()
            if not is_constant and np.corrcoef(first, value)[0, 1] >= _SAME_CONTENT:
                group.append(channel)
                break
        else:
            groups.append([channel])
    return groups


def parse_background(text: str, channels: Sequence[str], *, place: str = "") -> tuple[Polarity | None, ...]:
    """Return the polarity that a text states for each channel; None where it states none.

    The text is ``dark`` or ``bright`` for all channels, or for some of them, ``CARS=dark,HE=bright``. Any other, or
    one that names a channel that is not there, is an InputUnsupportedError, which names the `place`.
    """
    stated: dict[str, Polarity] = {}
    # Names of files may hold commas, equals signs and outer spaces, so the text is not simply split.
    name_of = {name.strip().casefold(): name for name in channels} | {name.strip(): name for name in channels}
    position = 0
    while position < len(text) or not text:
        match = _ENTRY.match(text, position)
        if match is None:
            remedy = "say dark, bright, or CHANNEL=dark,CHANNEL=bright"
            raise InputUnsupportedError(f"background {text!r}", place=place, remedy=remedy)
        channel, position = match["channel"], match.end()
        key = (channel or "").strip()
        names = channels if channel is None else [name_of.get(key) or name_of.get(key.casefold(), channel)]
        stated |= dict.fromkeys(names, cast(Polarity, match["polarity"].casefold()))
    if unknown := [name for name in stated if name not in channels]:
        what = f"background {text!r} names {', '.join(unknown)}, the slide has {', '.join(channels)}"
        raise InputUnsupportedError(what, place=place, remedy="name channels of the slide")
    return tuple(stated.get(name) for name in channels)


def background_text(channels: Sequence[str], polarities: Sequence[Polarity]) -> str:
    """Return polarities as `parse_background` reads them: one word where all agree."""
    if len(set(polarities)) == 1:
        return polarities[0]
    return ",".join(f"{name}={polarity}" for name, polarity in zip(channels, polarities, strict=True))


def plain_polarity(overview: NDArray[np.generic], inside: NDArray[np.bool_]) -> Polarity | None:
    """Return the polarity of a colour image (3, h, w) by its pixels `inside`, (h, w); None if brightness is unclear."""
    pixels = overview.max(axis=0)[inside].astype(np.float64)
    pixels = pixels[np.isfinite(pixels)]
    if not pixels.size:
        return "bright"
    middle, high = np.percentile(pixels, (50, 99.5)).tolist()
    if high <= 0 or (overview.dtype == np.uint8 and high < _DARKEST_BRIGHT):
        return "dark"
    if _DARK_COLOUR <= middle / high < _BRIGHT_COLOUR:
        return None
    return "bright" if middle / high >= _BRIGHT_COLOUR else "dark"


def _vote(plane: NDArray[np.generic], inside: NDArray[np.bool_], border: NDArray[np.bool_]) -> float | None:
    """Return how far the background lies above the middle of the range (in [-1, 1]); None without a pixel."""
    values = plane.astype(np.float64)
    usable = inside & np.isfinite(values)
    pixels = values[usable]
    if not pixels.size:
        return None
    # The border of a slide is mostly background, and so is its most frequent value; the mean of the two counts.
    border_pixels = values[usable & border]
    border_level = float(np.median(border_pixels if border_pixels.size else pixels))
    low, high = np.percentile(pixels, (1, 99)).tolist()
    if low == high:
        is_full = plane.dtype.kind in "iu" and low == np.iinfo(cast(Any, plane.dtype)).max
        return 1.0 if is_full else -1.0
    counts, edges = np.histogram(np.clip(pixels, low, high), bins=_HISTOGRAM_BINS, range=(low, high))
    fullest = int(np.argmax(counts))
    most_frequent = float(edges[fullest] + edges[fullest + 1]) / 2
    level = (border_level + most_frequent) / 2
    vote = float(np.clip(2 * (level - low) / (high - low) - 1, -1, 1))
    if abs(vote) > _UNDECIDED:
        return vote
    # Where tissue is sparse the percentiles hold background alone, so the extremes take their place.
    least, most = float(pixels.min()), float(pixels.max())
    return 2 * (level - least) / (most - least) - 1


def accepted_split(
    values: NDArray[np.float32], spread: float, *, further_spread: float | None = None, background_up_to: float = 1.0
) -> float | None:
    """Return the signal above which a pixel is tissue; None where no split leaves a compact background.

    Otsu's method splits the `values`, (N,), signals in [0, 1]. A split counts if the means of its classes are at least
    `SEPARATION` standard deviations of the lower class apart. A background is credited with a standard deviation of at
    least `spread`, in the split of a lower class `further_spread` (default: the same). A lower class with a mean above
    `background_up_to` is no background.
    """
    for _ in range(_SPLITS):
        split = _split(values, spread)
        if split is None:
            return None
        threshold, values, is_separate = split
        if is_separate and float(values.mean(dtype=np.float64)) <= background_up_to:
            # Nuclei and stroma are further apart than pale stroma and glass: the first split leaves pale tissue with
            # the glass. Pixels of no signal take no part in the second: padding and glass are two levels as well.
            further = _split(values[values > 0], spread if further_spread is None else further_spread)
            return further[0] if further is not None and further[2] else threshold
    return None


def _split(values: NDArray[np.float32], spread: float) -> tuple[float, NDArray[np.float32], bool] | None:
    """Return Otsu's threshold, the lower class, and whether that is a compact background; None for one value only."""
    threshold = otsu(values)
    if threshold is None:
        return None
    is_low = values <= threshold
    low, high = values[is_low], values[~is_low]
    if low.size == 0 or high.size == 0:
        return None
    distance = float(high.mean(dtype=np.float64) - low.mean(dtype=np.float64))
    return threshold, low, distance >= SEPARATION * max(float(low.std(dtype=np.float64)), spread)


def otsu(values: NDArray[np.float32]) -> float | None:
    """Return the threshold of largest between-class variance, the middle of a plateau; None for one value only."""
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    # Values that differ by rounding alone cannot be binned.
    if not high - low > _OTSU_BINS * np.finfo(np.float32).eps * max(abs(low), abs(high)):
        return None
    counts, edges = np.histogram(values, bins=_OTSU_BINS, range=(low, high))
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1].astype(np.float64)
    above = values.size - below
    sum_below = np.cumsum(counts * centres)
    mean_below = sum_below[:-1] / np.maximum(below, 1)
    mean_above = (sum_below[-1] - sum_below[:-1]) / np.maximum(above, 1)
    between = below * above * (mean_below - mean_above) ** 2
    best = np.flatnonzero(between >= between.max() * (1 - 1e-12))
    return float((edges[best[0] + 1] + edges[best[-1] + 1]) / 2)

"""Render a random island of a crop in a random stain on synthetic ground.

Everything but the crop's own texture is drawn from one distribution for both classes. Pure arithmetic on arrays.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

_FINE = 4  # island pixels per pixel and side; their mean feathers the rim
_COARSE_PX = 24  # side of the noise that an island is cut from
_MEANS = np.array([0.33, 0.54, 0.30])  # optical density of red, green, blue in haematoxylin and eosin
_SPREADS = (0.50, 0.58)  # standard deviation over mean
_GAIN = 190.0  # dark: grey values per unit of optical density
_NOISE = 1.0  # of the camera, grey values
_WAVE = 0.35  # amplitude of waves of the stain


@dataclass(frozen=True, eq=False)
class Look:
    """Random properties of a crop, shared by both its sizes, which differ only in the island's share.

    Parameters
    ----------
    mean, sd : ndarray of float64, shape (3,)
        Of the tissue's optical density.
    ground : ndarray of float64, shape (P, P, 3)
        Glass as optical density, or black ground in grey values.
    field : ndarray of float64, shape (_FINE * P, _FINE * P)
        The island of any share is where it is highest.
    noise : ndarray of float64, shape (P, P, 3)
        Of the camera, grey values.
    """

    mean: FloatArray
    sd: FloatArray
    ground: FloatArray
    field: FloatArray
    noise: FloatArray


def draw_look(rng: np.random.Generator, *, side_px: int, is_dark: bool) -> Look:
    """Return a random stain, ground, island field and noise."""
    strength = rng.uniform(0.9, 1.1) * rng.uniform(0.94, 1.06, 3)
    mean = _MEANS * strength
    sd = mean * rng.uniform(*_SPREADS) * rng.uniform(0.95, 1.05, 3)
    base, tilt = ((4.0, 12.0), 2.0) if is_dark else ((0.015, 0.06), 0.012)
    ramp = np.linspace(-1, 1, side_px)
    angle = rng.uniform(0, 2 * np.pi)
    slope = rng.uniform(0, tilt) * (np.cos(angle) * ramp[None, :] + np.sin(angle) * ramp[:, None])  # (P, P)
    return Look(
        mean=mean,
        sd=sd,
        ground=rng.uniform(*base, 3) + slope[:, :, None],
        field=_field(rng, side_px),
        noise=rng.normal(0, _NOISE, (side_px, side_px, 3)),
    )


def island(field: FloatArray, share: float) -> FloatArray:
    """Return the island's fraction of each pixel, in [0, 1], shape (P, P); its mean is `share`."""
    side = field.shape[0] // _FINE
    cut = np.quantile(field, 1 - share)
    return (field > cut).reshape(side, _FINE, side, _FINE).mean(axis=(1, 3))


def waves(rng: np.random.Generator, side_px: int, *, is_long: bool) -> FloatArray:
    """Return a factor of the density (P, P): plane waves of 16 to 24 px, or of 40 to 64."""
    length = rng.uniform(40, 64) if is_long else rng.uniform(16, 24)
    angle, phase = rng.uniform(0, 2 * np.pi, 2)
    y, x = np.indices((side_px, side_px))
    return np.asarray(1 + _WAVE * np.sin(2 * np.pi * (np.cos(angle) * x + np.sin(angle) * y) / length + phase))


def part(rng: np.random.Generator, inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return a connected-looking part (P, P), a third to two thirds of what is `inside`."""
    field = _field(rng, inside.shape[0])[::_FINE, ::_FINE]
    return inside & (field > np.quantile(field[inside], rng.uniform(1 / 3, 2 / 3)))


def render(density: FloatArray, cover: FloatArray, look: Look, *, is_dark: bool) -> NDArray[np.uint8]:
    """Return the finished patch, uint8 of shape (P, P, 3).

    Parameters
    ----------
    density : ndarray of float64, shape (P, P, 3)
        Of the tissue, as `restained` returns it.
    cover : ndarray of float64, shape (P, P)
        The island.
    look : Look
        What was drawn for the crop.
    is_dark : bool
        Whether tissue shines by its density on black ground, or absorbs light on glass.
    """
    share = cover[:, :, None]
    if is_dark:
        shown = look.ground + _GAIN * share * density
    else:
        shown = 255 * 10**-look.ground * (1 - share + share * 10**-density)
    return np.clip(np.rint(shown + look.noise), 0, 255).astype(np.uint8)


def restained(pixels: NDArray[np.uint8], tissue: NDArray[np.bool_], mean: FloatArray, sd: FloatArray) -> FloatArray:
    """Return optical density (P, P, 3), at least 0, with the given mean and standard deviation over the tissue.

    Holes are restained with it and stay pale tissue: nothing of the tile's own glass is left.
    """
    density = -np.log10(np.maximum(pixels, 1) / 255.0)
    inside = density[tissue]  # (n, 3)
    scaled = (density - inside.mean(axis=0)) / np.maximum(inside.std(axis=0), 0.02)
    return np.maximum(mean + sd * scaled, 0.0)


def _field(rng: np.random.Generator, side_px: int) -> FloatArray:
    """Return smooth noise with one hill, so that an island is mostly in one piece."""
    noise = cv2.GaussianBlur(rng.normal(0, 1, (_COARSE_PX, _COARSE_PX)), (0, 0), rng.uniform(2.5, 4.0))
    axis = np.linspace(-1, 1, _COARSE_PX)
    x, y = rng.uniform(-0.6, 0.6, 2)
    hill = -((axis[None, :] - x) ** 2 + (axis[:, None] - y) ** 2)
    rough = noise / noise.std() + rng.uniform(3.0, 6.0) * hill
    return cv2.resize(rough, (_FINE * side_px, _FINE * side_px), interpolation=cv2.INTER_CUBIC)

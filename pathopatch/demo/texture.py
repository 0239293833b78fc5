"""Draw the tissue of one field of a synthetic slide in CARS, TPEF and SHG.

Only the texture depends on the label: tumour has more, smaller and rounder nuclei and fewer, shorter collagen fibres.
The *grade* of a field says how much, and overlaps between the classes as in real tissue. The mean of each channel
inside the tissue is set afterwards, nearly independent of the label.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
_SHIFT = 4  # cv2 draws with 1/16 px accuracy
_ONE = 1 << _SHIFT


@dataclass(frozen=True, kw_only=True)
class TextureSpec:
    """Numbers of the texture; pairs are for clear non-tumour (grade -1) and clear tumour (grade 1)."""

    nucleus_diameter_um: tuple[float, float] = (11.0, 5.5)
    nucleus_aspect: tuple[float, float] = (2.2, 1.1)  # spindles, discs
    nucleus_cover: tuple[float, float] = (0.13, 0.36)  # share of the tissue; with the size, 11 times as many nuclei
    nucleus_spread: float = 0.12  # log-normal sd of a nucleus' diameter: cells of one field differ
    nucleus_depth: tuple[float, float, float] = (0.4, 0.65, 0.5)  # dim in all three, in CARS still brighter than glass
    fibres_per_100um2: tuple[float, float] = (0.7, 0.2)
    fibre_length_um: tuple[float, float] = (42.0, 22.0)
    fibre_width_um: float = 1.6
    fibre_share: tuple[float, float] = (0.8, 0.5)  # of the SHG signal; the rest is diffuse
    shg_depletion: float = 0.25  # log ratio of the SHG means: real, and weak beside the jitter
    mean_jitter: tuple[float, float, float] = (0.18, 0.18, 0.4)  # log-normal sd of a field's channel means
    droplets_per_100um2: float = 0.5  # lipid droplets in CARS, granules in TPEF, whatever the label
    grade_limit: float = 1.8  # grades beyond are drawn as this: extrapolated sizes would be absurd


@dataclass(frozen=True, kw_only=True)
class SlideStyle:
    """Properties of a slide that do not depend on the label."""

    gain: tuple[float, ...]  # mean counts inside tissue: CARS, TPEF, SHG
    nucleus_scale: float  # factor on all nuclear diameters
    fibre_scale: float  # factor on the number of fibres


def smooth_noise(shape: tuple[int, int], scale_px: float, rng: np.random.Generator) -> Floats:
    """Return a smooth random field of mean 0 and sd about 1; `scale_px` is the size of its features."""
    height, width = shape
    rows, columns = (max(4, int(np.ceil(side / scale_px)) + 3) for side in shape)
    coarse = rng.standard_normal((rows, columns), dtype=np.float32)
    fine = cv2.resize(
        coarse, (int(np.ceil(columns * scale_px)), int(np.ceil(rows * scale_px))), interpolation=cv2.INTER_CUBIC
    )
    top, left = ((have - want) // 2 for have, want in zip(fine.shape, shape, strict=True))
    # Interpolation lowers the sd; 1.4 restores it.
    return np.asarray(fine[top : top + height, left : left + width] * 1.4, dtype=np.float32)


def island(field_px: int, share: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return the mask of a tissue island: a smooth blob that covers a share of a square field, to the pixel."""
    axis = (np.arange(field_px, dtype=np.float32) + 0.5) / field_px - 0.5
    reach = 0.5 - 0.5 * np.sqrt(share)  # how far the centre may lie off, so that the blob fits
    cx, cy = rng.uniform(-0.8 * reach, 0.8 * reach, 2).astype(np.float32)
    power = 2.0 + 3.0 * share  # large islands are rounded squares: they meet their neighbours
    distance = np.abs(axis - cx)[None, :] ** power + np.abs(axis - cy)[:, None] ** power
    roughness = 0.22 * (1 - 0.6 * share)
    ragged = np.log(distance) / power - roughness * smooth_noise((field_px, field_px), field_px / 4, rng)
    count = round(share * field_px * field_px)
    # The `count` pixels nearest to the centre: exactly the wanted area, whatever the shape.
    mask = np.zeros(field_px * field_px, dtype=bool)
    mask[np.argpartition(ragged.ravel(), count - 1)[:count]] = True
    return mask.reshape(field_px, field_px)


def draw_field(
    tissue: NDArray[np.bool_],
    grade: float,
    *,
    style: SlideStyle,
    spec: TextureSpec,
    mpp: float,
    rng: np.random.Generator,
) -> Floats:
    """Return the signal of one field before optics and noise: CARS, TPEF, SHG in counts, 0 outside tissue; (3, H, W).

    `grade` says how tumour-like the tissue looks: -1 clear non-tumour, 1 clear tumour.
    """
    shape = (tissue.shape[0], tissue.shape[1])
    t = (float(np.clip(grade, -spec.grade_limit, spec.grade_limit)) + 1) / 2
    direction = float(rng.uniform(0, np.pi))
    nuclei = _nuclei(tissue, t, direction, style=style, spec=spec, mpp=mpp, rng=rng)
    fibres = _fibres(shape, t, direction, style=style, spec=spec, mpp=mpp, rng=rng)
    droplets = _droplets(shape, spec, mpp, rng)
    granules = _droplets(shape, spec, mpp, rng)
    fibres = fibres / max(float(fibres[tissue].mean()), 1e-3)
    share = _between(spec.fibre_share, t)
    signals = np.stack(
        [
            1 + 0.16 * smooth_noise(shape, 9 / mpp, rng) + 0.5 * droplets + 0.08 * fibres,
            1 + 0.16 * smooth_noise(shape, 9 / mpp, rng) + 0.4 * granules + 0.12 * fibres,
            (1 - share) + share * fibres,
        ]
    )
    depth = np.array(spec.nucleus_depth, dtype=np.float32)[:, None, None]
    signals = np.maximum(signals, 0.1) * (1 - depth * nuclei) * tissue
    # Setting the means last removes the brightness that the texture above gave to each class.
    means = np.array(style.gain) * np.exp(rng.normal(0, spec.mean_jitter))
    means[2] *= np.exp(-spec.shg_depletion * (t - 0.5))
    scale = means / signals[:, tissue].mean(axis=1)
    return np.asarray(signals * scale[:, None, None], dtype=np.float32)


def _between(ends: tuple[float, float], t: float) -> float:
    """Return the geometric interpolation of two positive numbers, which stays positive for t outside [0, 1]."""
    return float(ends[0] * (ends[1] / ends[0]) ** t)


def _nuclei(
    tissue: NDArray[np.bool_],
    t: float,
    direction: float,
    *,
    style: SlideStyle,
    spec: TextureSpec,
    mpp: float,
    rng: np.random.Generator,
) -> Floats:
    """Return nuclear cover in [0, 1], shape (H, W): ellipses at random places with little overlap."""
    diameter = _between(spec.nucleus_diameter_um, t) * style.nucleus_scale / mpp
    aspect = max(1.0, _between(spec.nucleus_aspect, t))
    cover = min(0.4, _between(spec.nucleus_cover, t))
    ys, xs = np.nonzero(tissue)
    wanted = cover * len(ys) / (np.pi / 4 * diameter**2)
    count = int(wanted) + int(rng.random() < wanted % 1)
    canvas = np.zeros(tissue.shape, dtype=np.uint8)
    # More places than nuclei, since a place inside an earlier nucleus is skipped.
    picks = rng.integers(0, len(ys), 12 * count)
    sizes = diameter * np.exp(rng.normal(0, spec.nucleus_spread, 12 * count))
    angles = direction + rng.normal(0, 0.35, 12 * count)
    placed = 0
    for pick, size, angle in zip(picks, sizes, angles, strict=True):
        if placed == count:
            break
        x, y = int(xs[pick]), int(ys[pick])
        if canvas[y, x]:
            continue
        axes = (round(size / 2 * aspect**0.5 * _ONE), round(size / 2 / aspect**0.5 * _ONE))
        cv2.ellipse(canvas, (x * _ONE, y * _ONE), axes, np.rad2deg(angle), 0, 360, 255, -1, cv2.LINE_AA, _SHIFT)
        placed += 1
    return np.asarray(canvas / 255, dtype=np.float32)


def _fibres(
    shape: tuple[int, int],
    t: float,
    direction: float,
    *,
    style: SlideStyle,
    spec: TextureSpec,
    mpp: float,
    rng: np.random.Generator,
) -> Floats:
    """Return wavy collagen fibres in [0, 1], shape (H, W), along one direction."""
    area_um2 = shape[0] * shape[1] * mpp**2
    count = max(3, round(_between(spec.fibres_per_100um2, t) * style.fibre_scale * area_um2 / 100))
    length = _between(spec.fibre_length_um, t) / mpp * np.exp(rng.normal(0, 0.3, count))
    angle = direction + rng.normal(0, 0.25, count)
    start = rng.uniform(-0.1, 1.1, (count, 2)) * np.array(shape[::-1])
    along = np.linspace(-0.5, 0.5, 9)
    wave = 0.06 * np.sin(2 * np.pi * (1.5 * along[None, :] + rng.random((count, 1))))
    dx = length[:, None] * (along * np.cos(angle)[:, None] - wave * np.sin(angle)[:, None])
    dy = length[:, None] * (along * np.sin(angle)[:, None] + wave * np.cos(angle)[:, None])
    lines = np.stack([start[:, :1] + dx, start[:, 1:] + dy], axis=-1)  # (count, 9, 2)
    points = np.rint(lines * _ONE).astype(np.int32)
    # Fibres of one layer have one brightness. Layers add up, so crossings are brighter.
    layers = np.zeros((3, *shape), dtype=np.uint8)
    for index, layer in enumerate(layers):
        cv2.polylines(
            layer, list(points[index::3]), False, 255, max(1, round(spec.fibre_width_um / mpp)), cv2.LINE_AA, _SHIFT
        )
    weights = np.array([0.45, 0.3, 0.2]) / 255
    return np.asarray(np.tensordot(weights, layers, 1), dtype=np.float32)


def _droplets(shape: tuple[int, int], spec: TextureSpec, mpp: float, rng: np.random.Generator) -> Floats:
    """Return small bright dots of about 2 um, shape (H, W)."""
    count = round(spec.droplets_per_100um2 * shape[0] * shape[1] * mpp**2 / 100)
    dots = np.zeros(shape, dtype=np.float32)
    dots[rng.integers(0, shape[0], count), rng.integers(0, shape[1], count)] = rng.exponential(6, count)
    return np.asarray(cv2.GaussianBlur(dots, (0, 0), 0.9 / mpp), dtype=np.float32)

"""Fill what was cut out of a patch with its own background: a smooth level and the noise around it."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from pathopatch.core.errors import InputUnsupportedError, NonFiniteError

_HALO_PX = 2  # around tissue: blurred tissue below the mask's threshold, which would outline what was cut out
_FEW_CLEAR = 0.02  # share of the patch: fewer clear pixels lie in holes of the tissue, and tell no plane
_LEAST_SPREAD = 0.2  # standard deviation over the patch's side, of clear pixels that tell a slope; all over, it is 0.29
_CLONES = 4  # times that noise is copied in one piece
_ENOUGH_GROUND_PX = 512
_TYPICAL = 4.4  # mean absolute deviations; 3.5 standard deviations of normal noise


def inpaint(
    pixels: npt.NDArray[np.float32],
    tissue: npt.NDArray[np.bool_],
    kept: npt.NDArray[np.bool_],
    rng: np.random.Generator,
    *,
    ground: npt.NDArray[Any] | None = None,
) -> npt.NDArray[np.float32]:
    """Return a patch (C, H, W) in which ground replaces the tissue (H, W) not `kept`, and the halo of all tissue.

    `ground` (C, n) are pixels of the slide away from tissue, taken where the patch has few clear pixels.
    InputUnsupportedError, NonFiniteError for tissue all over and no `ground`, or one of another shape or with NaN.
    """
    if ground is not None and (ground.ndim != 2 or len(ground) != len(pixels) or not ground.size):
        raise InputUnsupportedError(
            f"ground of shape {ground.shape} for {len(pixels)} channels", remedy="Give at least one pixel, (C, n)."
        )
    square = np.ones((2 * _HALO_PX + 1, 2 * _HALO_PX + 1), np.uint8)
    is_near = cv2.dilate(tissue.view(np.uint8), square).astype(np.bool_)
    freed = np.flatnonzero(is_near & ~kept)
    filled = pixels.copy()
    if not freed.size:
        return filled
    clear = np.flatnonzero(~is_near)
    is_few = len(clear) < _FEW_CLEAR * tissue.size
    if is_few:
        clear = np.flatnonzero(~tissue)
    flat = filled.reshape(len(filled), -1)  # (C, H * W), a view
    if is_few and ground is not None:
        flat[:, freed] = _draw(ground, freed.size, rng)
    elif clear.size:
        flat[:, freed] = _plane_and_noise(pixels, clear, freed, rng)
    else:
        raise InputUnsupportedError(
            "a patch with tissue all over has no ground to show",
            remedy="Give ground: pixels of its slide without tissue.",
        )
    return filled


def _draw(ground: npt.NDArray[Any], count: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return `count` pixels (C, count) drawn from the typical ones of (C, n)."""
    some = ground[:, rng.integers(ground.shape[1], size=_ENOUGH_GROUND_PX)].astype(np.float64)
    if not np.isfinite(some).all():
        raise NonFiniteError("the ground holds NaN or infinite pixels", remedy="Leave them out.")
    some = some[:, _is_typical(some)]
    return some[:, rng.integers(some.shape[1], size=count)]


def _plane_and_noise(
    pixels: npt.NDArray[np.float32], clear: npt.NDArray[np.intp], wanted: npt.NDArray[np.intp], rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Return ground (C, n) for the n `wanted` pixels: a plane through the `clear` ones, and their residuals."""
    channels, height, width = pixels.shape
    flat = pixels.reshape(channels, -1).astype(np.float64)
    y, x = np.divmod(np.arange(height * width), width)
    axes = [y / height - 0.5, x / width - 0.5]
    # A slope is not taken from few pixels, nor far from where it was seen: pale tissue beside a strip of glass sets it.
    known_axes = [t for t in axes if clear.size >= _FEW_CLEAR * y.size and t[clear].std() >= _LEAST_SPREAD]
    design = np.stack([np.ones(y.size), *known_axes], axis=1)
    for _ in range(2):  # again without what stands out: debris and pale tissue
        known = design[clear]
        # Clear pixels on one line leave a slope open, which rcond makes 0.
        slopes = np.linalg.lstsq(known.T @ known, known.T @ flat[:, clear].T, rcond=1e-6)[0]
        residual = flat - (design @ slopes).T  # (C, H * W)
        clear = clear[_is_typical(residual[:, clear])]
    # Compressed and resampled noise is correlated: it is copied in one piece where clear pixels allow it.
    source = rng.choice(clear, wanted.size)
    is_clear = np.bincount(clear, minlength=y.size) > 0
    for down, right in rng.integers((height, width), size=(_CLONES, 2)).tolist():
        moved = (y[wanted] + down) % height * width + (x[wanted] + right) % width
        source = np.where(is_clear[moved], moved, source)
    return np.asarray((design[wanted] @ slopes).T + residual[:, source], dtype=np.float64)


def _is_typical(values: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Return which of n values (C, n) lie close to the median in all channels."""
    middle = values.shape[1] // 2
    deviation = np.abs(values - np.partition(values, middle, axis=1)[:, [middle]])  # np.median takes longer
    # The mean deviation, not the median one, which is 0 where most values are equal: on a detector's black level.
    is_typical = np.asarray((deviation <= _TYPICAL * deviation.mean(axis=1, keepdims=True)).all(axis=0))
    # Of five channels on, each pixel may stand out in another one.
    return is_typical if is_typical.any() else ~is_typical

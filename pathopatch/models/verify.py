"""Verify that a bundle, or what is exported of it, still gives the answers that it gave when it was written.

The patches are always the same, and nobody's tissue. They are made by single operations of IEEE arithmetic on numbers
of a seed, whose rounding no machine and no version of a library changes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pathopatch.models.spec import BundleSpec

COUNT = 16
_SEED = 20250
_COARSE = 7  # places on a side that are drawn; what is between them is interpolated
_GROUND = {"bright": 0.94, "dark": 0.04}
_LEAST_AREA = 0.1


@dataclass(frozen=True, kw_only=True)
class Verified:
    """How near the answers by one program came to those that were kept."""

    runtime: str  # openvino, torch, onnxruntime or numpy, with its version
    difference: float  # largest of a logit or probability; NaN where nothing was computed
    problem: str = ""  # what is wrong, for a person; "" if nothing is


def sample_patches(spec: BundleSpec) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return patches (16, C, p, p) in [0, 1], in steps of 1/255, and their tissue masks (16, p, p), p = `patch_px`.

    The tissue area rises from 0.1 to 1. Of a head on features the first are features (16, D), the masks are empty.
    """
    rng = np.random.default_rng(_SEED)
    if spec.encoder is not None:
        mean, std = (np.array(values, np.float64) for values in (spec.mean, spec.std))
        return (mean + std * (4 * rng.random((COUNT, len(mean))) - 2)).astype(np.float32), np.zeros((COUNT, 0, 0), bool)
    channels, side = len(spec.channels), spec.patch_px
    fields = _smooth(rng.random((COUNT, channels + 1, _COARSE, _COARSE)), side)
    shade, shape = fields[:, :channels], fields[:, channels].reshape(COUNT, -1)
    grain = rng.random((COUNT, channels, side, side))
    rank = np.argsort(np.argsort(-shape, axis=1, kind="stable"), axis=1, kind="stable")
    areas = np.linspace(_LEAST_AREA, 1, COUNT)
    tissue = (rank < np.rint(areas * side**2)[:, None]).reshape(COUNT, side, side)
    ground = _GROUND["dark" if spec.background == "dark" else "bright"]
    pixels = np.where(tissue[:, None], 0.1 + 0.6 * shade + 0.2 * grain, ground)
    return (np.rint(pixels * 255) / 255).astype(np.float32), tissue


def _smooth(coarse: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """Return fields (N, C, side, side), linear between the places (N, C, k, k) of a coarse grid."""
    at = np.linspace(0, coarse.shape[-1] - 1, side)
    first = np.minimum(at.astype(np.int64), coarse.shape[-1] - 2)
    part = at - first
    rows = coarse[..., first, :] * (1 - part)[:, None] + coarse[..., first + 1, :] * part[:, None]
    return np.asarray(rows[..., first] * (1 - part) + rows[..., first + 1] * part)

"""Measure each patch while it is stored: tissue fraction, saturated fraction, sharpness."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pathopatch.patches import intensity
from pathopatch.patches.store_writer import StoreWriter
from pathopatch.slides.background import Polarity

MEASURED = ("tissue_fraction", "saturated_fraction", "sharpness")
"""Columns of the patch table that are known only after its pixels were read."""


def measure(
    part: NDArray[np.generic],
    scaled: NDArray[np.float32],
    windows: NDArray[np.float64],
    *,
    sharpness_factor: float,
    polarities: Sequence[Polarity],
    scanned: Callable[[], NDArray[np.bool_] | None] | None = None,
) -> tuple[float, float]:
    """Return the saturated share and the sharpness of a patch; other arguments as of `store_measured`.

    Parameters
    ----------
    part : ndarray, shape (C, H, W)
        What of the patch lies on the slide, source units.
    scaled : ndarray of float32, shape (C, H, W)
        The same in [0, 1].
    scanned : callable, optional
        Returns which pixels were scanned, (H, W), or None; asked only where it matters. All were if not given.
    """
    saturated = intensity.saturated_fraction(part, windows, polarities=polarities)
    if saturated and scanned is not None and (mask := scanned()) is not None:
        saturated = intensity.saturated_fraction(part, windows, polarities=polarities, scanned=mask)
    return saturated, intensity.sharpness(scaled, factor=sharpness_factor)


def store_measured(
    writer: StoreWriter,
    batches: Iterable[tuple[NDArray[np.int64], NDArray[np.generic], NDArray[np.float64]]],
    count: int,
    *,
    windows: NDArray[np.float64],
    sharpness_factor: float = 1.0,
    polarities: Sequence[Polarity],
    inside: Callable[[int], tuple[int, int]] | None = None,
    scanned: Callable[[int], NDArray[np.bool_] | None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, NDArray[np.float64]]:
    """Append patches to a store and return what was measured on the way, per patch.

    Parameters
    ----------
    writer : StoreWriter
        The store; the caller finishes it.
    batches : iterable
        (rows, patches, tissue_fraction) as `pathopatch.patches.analysis.iterate_patches` yields them, in the order of
        the rows.
    count : int
        Patches in all, N.
    windows : ndarray of float64, shape (C, 2)
        Intensities that become 0 and 1, source units.
    sharpness_factor : float
        How many px of a patch are one at the scale at which sharpness is measured.
    polarities : sequence of {"dark", "bright"}, length C
        Which end of a window is a saturated signal, see `pathopatch.patches.intensity.saturated_fraction`.
    inside : callable, optional
        Returns the (width, height) of a row's part on the slide, px; without it a patch lies on it whole.
    scanned : callable, optional
        Returns which pixels of that part were scanned, (height, width); None, as without it: all were.
    progress : callable, optional
        Called with (patches done, patches in all).

    Returns
    -------
    dict of str to ndarray of float64, shape (N,)
        A column for each of `MEASURED`.
    """
    measured = {name: np.zeros(count) for name in MEASURED}
    for rows, patches, fraction in batches:
        writer.append(patches)
        measured["tissue_fraction"][rows] = fraction
        for row, patch in zip(rows.tolist(), patches, strict=True):
            width, height = (None, None) if inside is None else inside(row)
            part = patch[:, :height, :width]
            saturated, sharpness = measure(
                part,
                intensity.scale(part, windows),
                windows,
                sharpness_factor=sharpness_factor,
                polarities=polarities,
                scanned=None if scanned is None else partial(scanned, row),
            )
            measured["saturated_fraction"][row], measured["sharpness"][row] = saturated, sharpness
        if progress is not None:
            progress(int(rows[-1]) + 1, count)
    return measured

"""Draw the attention of a slide classifier: one colour per patch, by the rank of its weight within the slide."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from pathopatch.features.slide_features import SlideFeatures
from pathopatch.heatmaps.features import grid_of_patches, size_of, whole_px
from pathopatch.heatmaps.overlay import Legend, render
from pathopatch.heatmaps.stitch import mean_of_nearest, stitch
from pathopatch.slides.composite import Picture

_SHEET_PX = 1000  # longest side of the slide in the picture


def attention_ranks(weight: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return for each weight (N,) the share of patches that have a lower one, in [0, 1]; equal weights share a rank."""
    # Weights sum to 1 over thousands of patches, and a few hold most of it: in colours of the weights all others would
    # look alike.
    if len(weight) < 2:
        return np.full(len(weight), 0.5)
    return np.asarray((rankdata(weight) - 1) / (len(weight) - 1), np.float64)


def draw_attention(features: SlideFeatures, weight: NDArray[np.floating]) -> Picture:
    """Return a picture of the ranks of weights (N,) on white, uint8 (H, W, 3).

    `features` has the corners of the N patches in level-0 px. InputUnsupportedError as of `grid_of_patches`.
    """
    size = size_of(features)
    grid, is_on_grid = grid_of_patches(features, size)
    x, y = whole_px(features).T
    cells = (stitch if is_on_grid else mean_of_nearest)(grid, x, y, attention_ranks(weight))
    scale = max(size) / min(_SHEET_PX, max(size))  # level-0 px a pixel of the picture
    width, height = (max(1, round(side / scale)) for side in size)
    return render(
        np.full((height, width, 3), 255, np.uint8),
        cells,
        cell_px=(grid.stride / scale,) * 2,
        um_per_px=None if features.mpp is None else features.mpp * scale,
        legend=Legend(name=features.slide_id, title="attention, by rank", area="patches"),
    )

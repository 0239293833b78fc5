"""Where on a slide a model sees tumour, and how that reaches a viewer.

``predict`` makes a table of a slide and a model, ``stitch`` a map of the table, ``artefacts`` writes both and the
exports. ``ome_tiff``, ``ome_zarr``, ``rgb_pyramid``, ``overlay``, ``geojson``, ``regions`` and ``wsinfer_csv`` each
write one format from plain arrays and tables.
The names below are loaded on first use, so that the arithmetic and the formats do without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathopatch.heatmaps.artefacts import PredictResult as PredictResult
    from pathopatch.heatmaps.artefacts import is_predicted as is_predicted
    from pathopatch.heatmaps.artefacts import predict_to as predict_to
    from pathopatch.heatmaps.predict import predict_slide as predict_slide
    from pathopatch.heatmaps.tiling import tiling_of as tiling_of

_HOMES = {
    "PredictResult": "pathopatch.heatmaps.artefacts",
    "is_predicted": "pathopatch.heatmaps.artefacts",
    "predict_slide": "pathopatch.heatmaps.predict",
    "predict_to": "pathopatch.heatmaps.artefacts",
    "tiling_of": "pathopatch.heatmaps.tiling",
}
FACTS = "heatmap.json"
"""File in a heatmap's folder that says what its cells do not: geometry, windows, threshold, counts, stamp."""

__all__ = ["FACTS", "PredictResult", "is_predicted", "predict_slide", "predict_to", "tiling_of"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

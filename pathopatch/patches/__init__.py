"""Which patches does a slide have, what is in them, where are they kept? The stage is `tile`.

The names below are loaded on first use, so that who only reads a grid does without the stores.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathopatch.patches.analysis import SlideAnalysis as SlideAnalysis
    from pathopatch.patches.analysis import analyse_slide as analyse_slide
    from pathopatch.patches.analysis import grid_of as grid_of
    from pathopatch.patches.analysis import iterate_patches as iterate_patches
    from pathopatch.patches.cache_check import is_finished as is_finished
    from pathopatch.patches.cache_check import is_tiled as is_tiled
    from pathopatch.patches.cohort import cohort_config as cohort_config
    from pathopatch.patches.grid import Grid as Grid
    from pathopatch.patches.labels import LabelSource as LabelSource
    from pathopatch.patches.patch_import import tile_patches as tile_patches
    from pathopatch.patches.store import PatchStore as PatchStore
    from pathopatch.patches.store import require_one_geometry as require_one_geometry
    from pathopatch.patches.tile import TileResult as TileResult
    from pathopatch.patches.tile import tile_slide as tile_slide

_HOMES = {
    "Grid": "pathopatch.patches.grid",
    "LabelSource": "pathopatch.patches.labels",
    "PatchStore": "pathopatch.patches.store",
    "SlideAnalysis": "pathopatch.patches.analysis",
    "TileResult": "pathopatch.patches.tile",
    "analyse_slide": "pathopatch.patches.analysis",
    "cohort_config": "pathopatch.patches.cohort",
    "grid_of": "pathopatch.patches.analysis",
    "is_finished": "pathopatch.patches.cache_check",
    "is_tiled": "pathopatch.patches.cache_check",
    "iterate_patches": "pathopatch.patches.analysis",
    "require_one_geometry": "pathopatch.patches.store",
    "tile_patches": "pathopatch.patches.patch_import",
    "tile_slide": "pathopatch.patches.tile",
}
__all__ = [
    "Grid",
    "LabelSource",
    "PatchStore",
    "SlideAnalysis",
    "TileResult",
    "analyse_slide",
    "cohort_config",
    "grid_of",
    "is_finished",
    "is_tiled",
    "iterate_patches",
    "require_one_geometry",
    "tile_patches",
    "tile_slide",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

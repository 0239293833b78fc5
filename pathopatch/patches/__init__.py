"""Cut slides into patches: grid, tissue, intensity, labels, and the store that keeps them.

The names below are loaded on first use, so that reading a grid does not load the stores.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathopatch.patches.analysis import SlideAnalysis as SlideAnalysis
    from pathopatch.patches.analysis import analyse_slide as analyse_slide
    from pathopatch.patches.analysis import grid_of as grid_of
    from pathopatch.patches.analysis import iterate_patches as iterate_patches
    from pathopatch.patches.grid import Grid as Grid
    from pathopatch.patches.labels import LabelSource as LabelSource
    from pathopatch.patches.patch_import import tile_patches as tile_patches
    from pathopatch.patches.store import PatchStore as PatchStore
    from pathopatch.patches.store import require_one_geometry as require_one_geometry
    from pathopatch.patches.tile import TileResult as TileResult
    from pathopatch.patches.tile import is_finished as is_finished
    from pathopatch.patches.tile import is_tiled as is_tiled
    from pathopatch.patches.tile import tile_slide as tile_slide

_NAMES = {
    "analysis": ("SlideAnalysis", "analyse_slide", "grid_of", "iterate_patches"),
    "grid": ("Grid",),
    "labels": ("LabelSource",),
    "patch_import": ("tile_patches",),
    "store": ("PatchStore", "require_one_geometry"),
    "tile": ("TileResult", "is_finished", "is_tiled", "tile_slide"),
}


def __getattr__(name: str) -> Any:
    for module, names in _NAMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Which patches does a slide have, what is in them, where are they kept? The stage is `tile`."""

from pathopatch.patches.analysis import SlideAnalysis, analyse_slide, grid_of, iterate_patches
from pathopatch.patches.cohort import cohort_config
from pathopatch.patches.finished import is_finished, is_tiled
from pathopatch.patches.grid import Grid
from pathopatch.patches.labels import LabelSource
from pathopatch.patches.ready import tile_patches
from pathopatch.patches.store import PatchStore, require_one_geometry
from pathopatch.patches.tile import TileResult, tile_slide

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

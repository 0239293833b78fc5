"""Train a classifier and search its settings."""

from pathopatch.training.dataset import PatchSet, load_patches
from pathopatch.training.fit import TrainingResult, fit_arrays
from pathopatch.training.patch_masks import PatchMasks
from pathopatch.training.phase_data import runs_with_groups
from pathopatch.training.run import fit
from pathopatch.training.search import search_text
from pathopatch.training.tune import tune

__all__ = [
    "PatchMasks",
    "PatchSet",
    "TrainingResult",
    "fit",
    "fit_arrays",
    "load_patches",
    "runs_with_groups",
    "search_text",
    "tune",
]

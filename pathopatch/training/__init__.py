"""How a classifier is trained and its settings are searched: patches and groups in, a run with its model out."""

from pathopatch.training.dataset import PatchSet, load_patches
from pathopatch.training.fit import Fitted, fit_arrays
from pathopatch.training.multirun import train_many, train_one
from pathopatch.training.required_groups import runs_with_groups
from pathopatch.training.run import fit
from pathopatch.training.search import search_text
from pathopatch.training.tune import tune

__all__ = [
    "Fitted",
    "PatchSet",
    "fit",
    "fit_arrays",
    "load_patches",
    "runs_with_groups",
    "search_text",
    "train_many",
    "train_one",
    "tune",
]

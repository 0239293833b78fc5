"""Patch-wise tumour classification that does not learn the tissue-area shortcut.

The public names are loaded on first use, so that each part can be used alone.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pathopatch.core.version import FOREIGN_REMEDY, __version__, foreign_distribution

if TYPE_CHECKING:
    from pathopatch import debias as debias
    from pathopatch import features as features
    from pathopatch import metrics as metrics
    from pathopatch.core.config import AugmentConfig as AugmentConfig
    from pathopatch.core.config import EvaluateConfig as EvaluateConfig
    from pathopatch.core.config import FlagsConfig as FlagsConfig
    from pathopatch.core.config import GroupsConfig as GroupsConfig
    from pathopatch.core.config import IntensityConfig as IntensityConfig
    from pathopatch.core.config import LabelConfig as LabelConfig
    from pathopatch.core.config import PredictConfig as PredictConfig
    from pathopatch.core.config import ReadyConfig as ReadyConfig
    from pathopatch.core.config import RegistrationConfig as RegistrationConfig
    from pathopatch.core.config import SplitsConfig as SplitsConfig
    from pathopatch.core.config import StudyConfig as StudyConfig
    from pathopatch.core.config import TileConfig as TileConfig
    from pathopatch.core.config import TissueConfig as TissueConfig
    from pathopatch.core.config import TrainConfig as TrainConfig
    from pathopatch.core.config import TuneConfig as TuneConfig
    from pathopatch.core.config import load_study as load_study
    from pathopatch.groups import assign_groups as assign_groups
    from pathopatch.heatmaps.prediction import SlidePrediction as SlidePrediction
    from pathopatch.heatmaps.prediction import predict_slide as predict_slide
    from pathopatch.heatmaps.prediction import read_prediction as read_prediction
    from pathopatch.models.loading import load_ensemble as load_ensemble
    from pathopatch.models.loading import load_model as load_model
    from pathopatch.patches.tile import tile_slide as tile_slide
    from pathopatch.report import write_report as write_report
    from pathopatch.report.group_audit import GroupAudit as GroupAudit
    from pathopatch.report.group_audit import audit_groups as audit_groups
    from pathopatch.slides import open_slide as open_slide
    from pathopatch.stages.study import run_study as run_study

_CONFIGS = (
    "AugmentConfig",
    "EvaluateConfig",
    "FlagsConfig",
    "GroupsConfig",
    "IntensityConfig",
    "LabelConfig",
    "PredictConfig",
    "ReadyConfig",
    "RegistrationConfig",
    "SplitsConfig",
    "StudyConfig",
    "TileConfig",
    "TissueConfig",
    "TrainConfig",
    "TuneConfig",
    "load_study",
)
_HOMES = {
    "open_slide": "pathopatch.slides",
    "tile_slide": "pathopatch.patches.tile",
    "assign_groups": "pathopatch.groups",
    "load_model": "pathopatch.models.loading",
    "load_ensemble": "pathopatch.models.loading",
    "predict_slide": "pathopatch.heatmaps.prediction",
    "read_prediction": "pathopatch.heatmaps.prediction",
    "SlidePrediction": "pathopatch.heatmaps.prediction",
    "audit_groups": "pathopatch.report.group_audit",
    "GroupAudit": "pathopatch.report.group_audit",
    "run_study": "pathopatch.stages.study",
    "write_report": "pathopatch.report",
    **dict.fromkeys(_CONFIGS, "pathopatch.core.config"),
}
_MODULES = ("debias", "features", "metrics")
__all__ = [
    "AugmentConfig",
    "EvaluateConfig",
    "FlagsConfig",
    "GroupAudit",
    "GroupsConfig",
    "IntensityConfig",
    "LabelConfig",
    "PredictConfig",
    "ReadyConfig",
    "RegistrationConfig",
    "SlidePrediction",
    "SplitsConfig",
    "StudyConfig",
    "TileConfig",
    "TissueConfig",
    "TrainConfig",
    "TuneConfig",
    "__version__",
    "assign_groups",
    "audit_groups",
    "debias",
    "features",
    "load_ensemble",
    "load_model",
    "load_study",
    "metrics",
    "open_slide",
    "predict_slide",
    "read_prediction",
    "run_study",
    "tile_slide",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"pathopatch.{name}")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'pathopatch' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES, *_MODULES])


if _foreign := foreign_distribution():
    warnings.warn(f"another package with this import name is installed: {_foreign}. {FOREIGN_REMEDY}", stacklevel=2)

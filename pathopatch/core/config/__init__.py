"""Configuration: one frozen model per stage, each default in one place with its reason.

Configurations are read from TOML, checked once, and stored as JSON beside the results. Unknown keys are errors.
"""

from pathopatch.core.config.base import LEAST_PX, MOST_PX, MPP_RANGE, Config, Fraction, PatchLimits, parse, tables_of
from pathopatch.core.config.encoding import EncodeConfig, Pooling
from pathopatch.core.config.slides import (
    UNCERTAIN_BELOW,
    AnnotationConfig,
    IntensityConfig,
    LabelConfig,
    ReadyConfig,
    RegistrationConfig,
    TileConfig,
    TissueConfig,
)
from pathopatch.core.config.study import (
    EvaluateConfig,
    FlagsConfig,
    PredictConfig,
    SettingsConfig,
    StudyConfig,
    load_settings,
    load_study,
)
from pathopatch.core.config.training import (
    HEAD_NETWORKS,
    NO_EFFECT,
    AugmentConfig,
    GroupsConfig,
    SplitsConfig,
    TimmArguments,
    TrainConfig,
    TuneConfig,
    head_settings,
    known_limits,
)

__all__ = [
    "AnnotationConfig",
    "AugmentConfig",
    "Config",
    "EncodeConfig",
    "EvaluateConfig",
    "FlagsConfig",
    "Fraction",
    "GroupsConfig",
    "HEAD_NETWORKS",
    "IntensityConfig",
    "LabelConfig",
    "LEAST_PX",
    "MOST_PX",
    "MPP_RANGE",
    "NO_EFFECT",
    "PatchLimits",
    "Pooling",
    "PredictConfig",
    "ReadyConfig",
    "RegistrationConfig",
    "SettingsConfig",
    "SplitsConfig",
    "StudyConfig",
    "TileConfig",
    "TimmArguments",
    "TissueConfig",
    "TrainConfig",
    "UNCERTAIN_BELOW",
    "TuneConfig",
    "head_settings",
    "known_limits",
    "load_settings",
    "load_study",
    "parse",
    "tables_of",
]

"""Configuration: one frozen model per stage, each default in one place with its reason.

Configurations are read from TOML, checked once, and stored as JSON beside the results. Unknown keys are errors.
"""

from pathopatch.core.config.base import LEAST_PX as LEAST_PX
from pathopatch.core.config.base import MIN_SCANNED as MIN_SCANNED
from pathopatch.core.config.base import MOST_PX as MOST_PX
from pathopatch.core.config.base import MPP_RANGE as MPP_RANGE
from pathopatch.core.config.base import MPP_TOLERANCE as MPP_TOLERANCE
from pathopatch.core.config.base import Config as Config
from pathopatch.core.config.base import Fraction as Fraction
from pathopatch.core.config.base import PatchLimits as PatchLimits
from pathopatch.core.config.base import field_docs as field_docs
from pathopatch.core.config.base import mpp_agrees as mpp_agrees
from pathopatch.core.config.base import parse as parse
from pathopatch.core.config.base import require_unit_scale as require_unit_scale
from pathopatch.core.config.base import tables_of as tables_of
from pathopatch.core.config.slides import UNCERTAIN_BELOW as UNCERTAIN_BELOW
from pathopatch.core.config.slides import AnnotationConfig as AnnotationConfig
from pathopatch.core.config.slides import IntensityConfig as IntensityConfig
from pathopatch.core.config.slides import LabelConfig as LabelConfig
from pathopatch.core.config.slides import ReadyConfig as ReadyConfig
from pathopatch.core.config.slides import RegistrationConfig as RegistrationConfig
from pathopatch.core.config.slides import TileConfig as TileConfig
from pathopatch.core.config.slides import TissueConfig as TissueConfig
from pathopatch.core.config.study import RECOMMENDED as RECOMMENDED
from pathopatch.core.config.study import AreaCorrection as AreaCorrection
from pathopatch.core.config.study import BatchConfig as BatchConfig
from pathopatch.core.config.study import BatchOptions as BatchOptions
from pathopatch.core.config.study import EvaluateConfig as EvaluateConfig
from pathopatch.core.config.study import Output as Output
from pathopatch.core.config.study import PredictConfig as PredictConfig
from pathopatch.core.config.study import RunVariant as RunVariant
from pathopatch.core.config.study import SettingsConfig as SettingsConfig
from pathopatch.core.config.study import StudyConfig as StudyConfig
from pathopatch.core.config.study import load_settings as load_settings
from pathopatch.core.config.study import load_study as load_study
from pathopatch.core.config.training import EXACT as EXACT
from pathopatch.core.config.training import LEARNT_BY_STEPS as LEARNT_BY_STEPS
from pathopatch.core.config.training import LINEAR_HEAD as LINEAR_HEAD
from pathopatch.core.config.training import NO_EFFECT as NO_EFFECT
from pathopatch.core.config.training import AugmentConfig as AugmentConfig
from pathopatch.core.config.training import ComposingConfig as ComposingConfig
from pathopatch.core.config.training import GroupsConfig as GroupsConfig
from pathopatch.core.config.training import SplitsConfig as SplitsConfig
from pathopatch.core.config.training import TimmArguments as TimmArguments
from pathopatch.core.config.training import TrainConfig as TrainConfig
from pathopatch.core.config.training import TuneConfig as TuneConfig
from pathopatch.core.config.training import head_settings as head_settings
from pathopatch.core.config.training import known_limits as known_limits

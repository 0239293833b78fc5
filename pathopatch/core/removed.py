"""Commands, options, settings and values of earlier versions that are gone, each with what to use instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pathopatch.core.method_names import REMOVED_METHODS

_RANK = "set bins, which keep the groups apart as well"

COMMANDS: dict[str, str] = {
    "export ome-zarr": "convert the slide with Bio-Formats (bfconvert) or QuPath; pathopatch itself reads it as it is",
    "export openvino": "write ONNX with export onnx, which OpenVINO reads; it computes in float32 or bfloat16",
    "export torchscript": "write ONNX with export onnx; for 8-bit RGB slides export wsinfer writes TorchScript",
    "mil": "train on labels of slides with STAMP, which reads the same features; see also audit --features",
}
"""Remedies by command, such as ``export openvino``."""
SETTINGS: dict[str, str] = {
    "TrainConfig.attribute": _RANK,
    "TrainConfig.biased_weight_decay_scale": "leave it out: it is 2, as in the paper",
    "TrainConfig.clip_norm": "lower learning_rate",
    "TrainConfig.compile": "leave it out: it changed the speed alone",
    "TrainConfig.pair_weight": "leave it out: pairs gained nothing over composed patches alone",
    "TrainConfig.s": REMOVED_METHODS["oversample"],
    "TrainConfig.select_at": "leave it out: a run is selected by what it draws by",
    "TrainConfig.tensorboard": "read history.csv of the run",
    "TrainConfig.threshold_by_area": "leave it out, and train resample, gerne or auto: it repaired no model",
    "TuneConfig.bootstrap": "leave it out: intervals of trials are of 1,000 draws of patients, as those of runs",
    "TuneConfig.budget_steps": "set trials: steps of the search are trials x steps x phases of the method",
    "TuneConfig.prune": "leave it out: every trial runs to its end; lower trials for a shorter search",
}
"""Remedies by configuration and key, such as ``TrainConfig.pair_weight``."""
VALUES: dict[str, str] = {
    "IntensityConfig.scope=cohort": "state the window of each channel in [tile.intensity] windows",
    "StudyConfig.attributes=rank": _RANK,
    "TissueConfig.combine=maximum": "use each, or name the channels that count in [tile.tissue] channels",
    "TissueConfig.method=triangle": "use otsu, or fixed with a fixed_threshold",
    "EncodeConfig.encoder=.onnx": "export the network as TorchScript: torch.jit.trace(network, x).save('encoder.pt')",
    "EncodeConfig.pooling=layer3": "use mean, or export the network up to its third stage as TorchScript",
    "TrainConfig.intervene_growth=one": "use many, or own",
    **{f"TrainConfig.method={name}": remedy for name, remedy in REMOVED_METHODS.items()},
    **{f"StudyConfig.methods={name}": remedy for name, remedy in REMOVED_METHODS.items()},
}
"""Remedies by configuration, key and value, such as ``TrainConfig.intervene_growth=one``."""
LAYOUTS: dict[str, str] = dict.fromkeys(
    ("lazyslide", "slideflow", "atlaspatch", "mussel"),
    "write tables from these files by the ten lines of Python in docs/how-to/other-features.md, and name their folder",
)
"""Remedies by layout of feature files."""
_MOVED: dict[str, tuple[str, str]] = {
    "predict all": ("predict", "all_patches = true"),
    "predict min-tissue": ("predict", "min_tissue = 0.05"),
    "predict runtime": ("predict", 'runtime = "torch"'),
    "predict stride-px": ("predict", "stride_px = 128"),
    "predict tta": ("predict", "tta = true"),
    "predict no-totals": ("batch", "totals = false"),
    "predict strict": ("batch", "strict = true"),
    "tile strict": ("batch", "strict = true"),
}
"""Options that are settings of a file: its table, and an example of the line."""
OPTIONS: dict[str, str] = {
    "demo seeds": "run pipelines/area-benchmark of the source, which has its cohorts over several seeds",
    "export qupath manifest": "leave it out: QuPath lays the files onto the slide that is open",
    "tissue out": "open tissue/index.html of the work folder; tissue/pictures has each slide as JPEG",
    "train rank": _RANK,
    "train s": SETTINGS["TrainConfig.s"],
    "train select-at": SETTINGS["TrainConfig.select_at"],
    "train threshold-by-area": SETTINGS["TrainConfig.threshold_by_area"],
    "tune rank": _RANK,
    "tune select-at": SETTINGS["TrainConfig.select_at"],
    "tune budget-steps": SETTINGS["TuneConfig.budget_steps"],
    "tune prune": SETTINGS["TuneConfig.prune"],
    "predict mpp": "--slide-mpp states um/px of slides; an encoder's is encoder_mpp under [predict] of --config",
    **{option: f"write {line} under [{table}] of a file for --config" for option, (table, line) in _MOVED.items()},
}
"""Remedies by command and option without its dashes, such as ``train rank``."""

_FORMER_DEFAULTS: dict[str, Any] = {
    "attribute": "groups",
    "biased_weight_decay_scale": 2.0,
    "budget_steps": None,
    "clip_norm": None,
    "pair_weight": 0.0,
    "s": 1.25,
    "select_at": None,
    "threshold_by_area": False,
    "compile": False,
    "tensorboard": False,
    "prune": False,
}


def without_former_defaults(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return stored settings without removed ones at their default, so that an earlier run equals one of today.

    Removed settings of another value stay: they decided the weights.
    """
    missing = object()
    return {
        name: without_former_defaults(value) if isinstance(value, Mapping) else value
        for name, value in settings.items()
        if value != _FORMER_DEFAULTS.get(name, missing)
    }

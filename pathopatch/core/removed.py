"""Commands, settings and values of earlier versions that are gone, each with what to use instead."""

from __future__ import annotations

COMMANDS: dict[str, str] = {
    "export ome-zarr": "convert the slide with Bio-Formats (bfconvert) or QuPath; pathopatch itself reads it as it is",
    "export openvino": "write ONNX with export onnx, which OpenVINO reads; it computes in float32 or bfloat16",
    "mil": "train on labels of slides with STAMP, which reads the same features; see also audit --features",
}
"""Remedies by command, such as ``export openvino``."""
SETTINGS: dict[str, str] = {}
"""Remedies by configuration and key, such as ``TrainConfig.pair_weight``."""
VALUES: dict[str, str] = {
    "IntensityConfig.scope=cohort": "state the window of each channel in [tile.intensity] windows",
    "TissueConfig.combine=maximum": "use each, or name the channels that count in [tile.tissue] channels",
    "TissueConfig.method=triangle": "use otsu, or fixed with a fixed_threshold",
}
"""Remedies by configuration, key and value, such as ``TrainConfig.intervene_growth=one``."""

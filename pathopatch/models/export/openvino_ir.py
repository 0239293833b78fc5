"""Convert an exported network to OpenVINO's own format, in float32 or calibrated to int8, and run it on arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathopatch.core.errors import InputUnsupportedError

FILES = ("model.xml", "model.bin")
_CPU = "CPU"


def convert(onnx: bytes) -> Any:
    """Return an ONNX network as a model of OpenVINO."""
    import openvino

    return openvino.Core().read_model(onnx)


def quantized(model: Any, patches: NDArray[np.float32]) -> Any:
    """Return a model in int8, calibrated on patches (N, C, patch_px, patch_px) in [0, 1].

    Raises
    ------
    InputUnsupportedError
        NNCF is not installed.
    """
    try:
        import nncf
    except ModuleNotFoundError as error:
        raise InputUnsupportedError("nncf is not installed", place="--int8", remedy="pip install nncf") from error
    return nncf.quantize(model, nncf.Dataset([patch[None] for patch in patches]), subset_size=len(patches))


def probabilities(model: Any, patches: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the probabilities (N, K) of a model for patches (N, C, patch_px, patch_px), one at a time."""
    import openvino

    compiled = openvino.Core().compile_model(model, _CPU, {"INFERENCE_PRECISION_HINT": "f32"})
    return np.concatenate([np.array(compiled(patch[None])[0]) for patch in patches])


def save(model: Any, folder: Path, *, metadata: str) -> None:
    """Write ``model.xml`` and ``model.bin``, weights as they are; `metadata` is kept in the first."""
    import openvino

    model.set_rt_info(metadata, "pathopatch")
    for number, operation in enumerate(model.get_ordered_ops()):
        if operation.get_type_name() not in ("Parameter", "Result"):
            operation.set_friendly_name(f"op{number}")  # OpenVINO numbers them anew in each conversion
    openvino.save_model(model, folder / FILES[0], compress_to_fp16=False)

"""Run the ONNX graph of a bundle by OpenVINO, on a processor."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathopatch.core.artefacts import fingerprint
from pathopatch.core.user_cache import read_cached, write_cached
from pathopatch.models.runtime import Precision, patches_per_pass
from pathopatch.models.spec import OnnxGraph
from pathopatch.models.weights import file_fingerprint

_DEVICE = "CPU"
_INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "bf16")


class OpenVINORuntime:
    """``model.onnx`` of a bundle, compiled, with the weights that it refers to; both as `graph` states.

    Each pass has the same number of patches, the last one padded, so that a logit depends on its patch alone. By
    default there is a thread for each core that this process may use.
    """

    name = "openvino"

    def __init__(
        self,
        path: Path,
        weights_path: Path,
        graph: OnnxGraph,
        *,
        precision: Precision = "float32",
        threads: int | None = None,
    ) -> None:
        self.version = version()
        self.precision = precision
        self._weights_path = weights_path
        self.patches_per_pass = patches_per_pass(max(graph.input_shape[-1], graph.inside_px))
        shape = self.patches_per_pass, *graph.input_shape
        self._pass = FixedBatch(_compiled(path, graph, shape, precision, threads or cores()), shape)

    @cached_property
    def weights(self) -> str:
        """Fingerprint of the weights."""
        return file_fingerprint(self._weights_path)

    def logits(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits, float32 (N, K), of standardised float32 patches (N, C, input_px, input_px), N from 0."""
        return self._pass(x)


class FixedBatch:
    """Run a compiled network of one input and one output on any number of patches, a fixed number in each pass.

    `shape` is that of its input, (patches, C, H, W).
    """

    def __init__(self, compiled: Any, shape: tuple[int, ...]) -> None:
        self._request = compiled.create_infer_request()
        self._shape = shape

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the output (N, K) for patches (N, C, H, W); NaN where a patch holds NaN or infinity."""
        size = self._shape[0]
        parts = [self._infer(x[start : start + size]) for start in range(0, max(1, len(x)), size)]
        return np.concatenate(parts)

    def _infer(self, part: NDArray[np.float32]) -> NDArray[np.float32]:
        batch = np.ascontiguousarray(part, np.float32)
        if len(part) < self._shape[0]:
            batch = np.zeros(self._shape, np.float32)
            batch[: len(part)] = part
        (output,) = self._request.infer({0: batch}, share_inputs=True).values()
        values = np.array(output[: len(part)])  # a copy: the next pass overwrites it
        # OpenVINO's maximum of NaN and 0 is 0, so that a network would return numbers for patches of NaN.
        values[~np.isfinite(batch[: len(part)].sum(axis=(1, 2, 3)))] = np.nan
        return values


def is_bfloat16_native() -> bool:
    """Return whether this processor multiplies bfloat16 in hardware."""
    return "BF16" in _core().get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES")


def identity() -> tuple[str, ...]:
    """Return what a compiled network depends on beside itself: this version on this processor."""
    return version(), processor(), *_core().get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES")


def processor() -> str:
    """Return the processor's name."""
    return str(_core().get_property(_DEVICE, "FULL_DEVICE_NAME"))


def instruction_sets() -> tuple[str, ...]:
    """Return the vector instructions of this processor that speed networks up; () where the system does not tell."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii").split()
    except OSError:
        return ()
    return tuple(name for name in _INSTRUCTIONS if name in flags)


def version() -> str:
    """Return OpenVINO's version."""
    import openvino

    return str(openvino.__version__)


@cache
def _core() -> Any:
    import openvino

    return openvino.Core()


def cores() -> int:
    """Return the number of cores that this process may use; OpenVINO counts those of the whole machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def compile_network(model: Any, shape: tuple[int, ...], precision: str, threads: int) -> Any:
    """Return a converted network, compiled for inputs of one shape; nothing is kept in the cache."""
    model.reshape(list(shape))
    return _core().compile_model(model, _DEVICE, _settings(precision, threads))


def read_network(path: Path) -> Callable[[Mapping[str, NDArray[np.float32]]], NDArray[np.float32]]:
    """Return a function that gives the output (N, K) of an ONNX model for its inputs by name, in float32, any N."""
    compiled = _core().compile_model(_core().read_model(path), _DEVICE, _settings("float32", cores()))
    return lambda inputs: np.array(next(iter(compiled(dict(inputs)).values())))


def _settings(precision: str, threads: int) -> dict[str, Any]:
    return {
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],  # it would pick bfloat16 itself
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,  # several processes would share the first cores
    }


def _compiled(path: Path, graph: OnnxGraph, shape: tuple[int, ...], precision: Precision, threads: int) -> Any:
    """Return a compiled network, from the user's cache if it is there."""
    core, settings = _core(), _settings(precision, threads)
    name = f"network-{fingerprint([*identity(), graph, shape, settings])}"
    if (stored := read_cached(name)) is not None:
        try:
            return core.import_model(stored, _DEVICE, settings)
        except RuntimeError:  # of another build of OpenVINO
            pass
    model = core.read_model(path)
    model.reshape(list(shape))
    if (classes := model.output(0).get_partial_shape()[1]) != graph.classes:
        raise RuntimeError(f"it gives {classes} logits, {graph.classes} are stated")
    compiled = core.compile_model(model, _DEVICE, settings)
    write_cached(name, compiled.export_model().getvalue())
    return compiled

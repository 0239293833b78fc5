"""Pick the device that torch computes on."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pathopatch.core.errors import InputUnsupportedError

if TYPE_CHECKING:
    import torch

_CUDA_DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"


def pick_device(name: str = "auto") -> torch.device:
    """Return a device by name: ``auto`` (CUDA if there is any, else the processor), ``cpu``, ``cuda:1``, ``mps``.

    Raises
    ------
    InputUnsupportedError
        torch knows no such device, or this machine has none.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)  # a name may be valid though the machine has no such device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputUnsupportedError(
            f"no device {name!r} on this machine", place="--device", remedy="use 'auto' or 'cpu'"
        ) from error
    return device


def has_cuda_driver() -> bool:
    """Return whether NVIDIA's driver finds a GPU, without importing torch, which takes seconds."""
    try:
        driver = ctypes.CDLL(_CUDA_DRIVER)
    except OSError:
        return False
    count = ctypes.c_int(0)
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


class _FullFloat32:
    """A context in which CUDA devices compute float32 in full, without TF32, whose mantissa has 10 bits.

    The setting is the process's: it is restored when the last thread leaves.
    """

    def __init__(self) -> None:
        self._lock, self._inside, self._before = threading.Lock(), 0, ("", "")

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._before = self._set(("ieee", "ieee"))
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._set(self._before)

    def _set(self, precisions: tuple[str, str]) -> tuple[str, str]:
        """Set the precisions of convolutions and of matrix products; return those before."""
        import torch

        # Unless told otherwise convolutions take TF32, and matrix products too where the environment says so.
        cudnn: Any = torch.backends.cudnn  # a module by its type, which replaces itself
        convolutions, products = cudnn.conv, torch.backends.cuda.matmul
        before = convolutions.fp32_precision, products.fp32_precision
        convolutions.fp32_precision, products.fp32_precision = precisions
        return before


full_float32 = _FullFloat32()


def is_bfloat16_native(device: torch.device) -> bool:
    """Return whether the device multiplies bfloat16 in hardware; emulated, it is slower than float32."""
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        capabilities: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
        return any(bool(capabilities.get(name)) for name in ("amx_bf16", "avx512_bf16", "arm_bf16", "bf16"))
    return False

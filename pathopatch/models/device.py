"""Pick the device that torch computes on."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

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


def is_bfloat16_native(device: torch.device) -> bool:
    """Return whether the device multiplies bfloat16 in hardware; emulated, it is slower than float32."""
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        capabilities: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
        return any(bool(capabilities.get(name)) for name in ("amx_bf16", "avx512_bf16", "arm_bf16", "bf16"))
    return False

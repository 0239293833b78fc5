"""Read models that were made for wsinfer and QuPath's wsinfer extension [1]_, as bundles.

References
----------
.. [1] Kaczmarzyk et al., "Open and reusable deep learning for pathology with WSInfer and QuPath", npj Precision
   Oncology 8, 9 (2024).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from pathopatch.core.config import LEAST_PX, MOST_PX, MPP_RANGE, Config, parse
from pathopatch.core.errors import CheckpointIncompatibleError, InputMissingError
from pathopatch.core.files import read_json
from pathopatch.core.version import __version__
from pathopatch.models.spec import BundleSpec, TorchScriptSpec, class_names
from pathopatch.models.weights import file_sha256

NETWORK, DESCRIPTION = "torchscript_model.pt", "config.json"
METHOD = "imported from wsinfer"
_TUMOR = {"tumor", "tumour", "cancer", "carcinoma", "malignant"}
_NEGATION = {"no", "non", "not", "without", "benign", "normal"}
_STEPS = (["Resize", "ToTensor", "Normalize"], ["ToTensor", "Normalize"], ["Resize", "ToTensor"], ["ToTensor"])
_BILINEAR = 2  # torchvision's default, by Pillow's number
_Side = Annotated[int, Field(ge=1, le=MOST_PX)]
_Positive = Annotated[float, Field(gt=0)]


class _ResizeArguments(Config):
    size: _Side | tuple[_Side] | tuple[_Side, _Side]
    interpolation: int = Field(default=_BILINEAR, ge=0, le=5)
    antialias: Literal[True] | None = None  # Pillow's filters are

    @model_validator(mode="after")
    def _is_square(self) -> _ResizeArguments:
        if len({*self.sides}) > 1:
            raise ValueError(f"size is {self.size}: must be square")
        return self

    @property
    def sides(self) -> tuple[int, ...]:
        """The sides as a tuple."""
        return (self.size,) if isinstance(self.size, int) else self.size


class _NormalizeArguments(Config):
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[_Positive, _Positive, _Positive] = (1.0, 1.0, 1.0)
    inplace: bool = False


class _Resize(Config):
    name: Literal["Resize"]
    arguments: _ResizeArguments


class _ToTensor(Config):
    name: Literal["ToTensor"]
    arguments: Config = Config()  # it takes none


class _Normalize(Config):
    name: Literal["Normalize"]
    arguments: _NormalizeArguments


class _Description(Config):
    """``config.json`` of a model, version 1.0. Further keys have no meaning to wsinfer."""

    model_config = ConfigDict(extra="ignore")

    spec_version: Literal["1.0"]
    architecture: str
    num_classes: int = Field(ge=1)
    class_names: tuple[str, ...]
    patch_size_pixels: int = Field(ge=LEAST_PX, le=MOST_PX)
    spacing_um_px: float = Field(ge=MPP_RANGE[0], le=MPP_RANGE[1])
    transform: tuple[Annotated[_Resize | _ToTensor | _Normalize, Field(discriminator="name")], ...]

    @model_validator(mode="after")
    def _is_whole(self) -> _Description:
        if len(self.class_names) != self.num_classes or len(set(self.class_names)) < self.num_classes:
            raise ValueError(f"{self.num_classes} classes with the names {self.class_names}: one name a class is due")
        if [step.name for step in self.transform] not in _STEPS:
            names = ", ".join(step.name for step in self.transform) or "empty"
            raise ValueError(f"transform is {names}: must be Resize, ToTensor, Normalize, the first and last optional")
        return self


def read_wsinfer(folder: Path, *, tumor_classes: Sequence[str] = (), made_by: str = "") -> BundleSpec:
    """Return what a model's description for wsinfer says, as the spec of a bundle. The network is not read.

    `folder` holds ``config.json`` and ``torchscript_model.pt``. `tumor_classes` together are the second class of the
    bundle, all others the first; default: the only class whose name says tumour. `made_by` is for the model card.

    Raises
    ------
    InputMissingError, InputCorruptError, InputUnsupportedError
        A file is not there, or the description is no JSON, or not as wsinfer has it.
    CheckpointIncompatibleError
        The tumour class is not one of the model's, or none is named and no name says which it is.
    """
    place = str(folder / DESCRIPTION)
    if not (folder / NETWORK).is_file():
        raise InputMissingError(
            f"no file {NETWORK}", place=str(folder), remedy="give the folder of a model for wsinfer"
        )
    described = parse(_Description, read_json(folder / DESCRIPTION), place=place)
    chosen = _chosen(described.class_names, tumor_classes, place)
    rest = " or ".join(name for number, name in enumerate(described.class_names) if number not in chosen)
    resize = next((step.arguments for step in described.transform if isinstance(step, _Resize)), None)
    normalize = next(
        (step.arguments for step in described.transform if isinstance(step, _Normalize)), _NormalizeArguments()
    )
    return BundleSpec(
        package_version=__version__,
        architecture="torchscript",
        channels=("R", "G", "B"),
        dtype="uint8",
        background="bright",
        patch_px=described.patch_size_pixels,
        stride_px=described.patch_size_pixels,
        mpp=described.spacing_um_px,
        input_px=described.patch_size_pixels,  # the network's own resizing is a part of it
        mean=normalize.mean,
        std=normalize.std,
        class_names=(rest or class_names(2)[0], " or ".join(described.class_names[number] for number in chosen)),
        method=METHOD,
        parameters={
            "network": described.architecture,
            "made_by": made_by or "unknown",
            "classes": ", ".join(described.class_names),
        },
        torchscript=TorchScriptSpec(
            sha256=file_sha256(folder / NETWORK),
            class_names=described.class_names,
            chosen=chosen,
            resize_px=resize.sides[0] if resize else None,
            interpolation=resize.interpolation if resize else _BILINEAR,
        ),
    )


def _chosen(names: Sequence[str], tumor_classes: Sequence[str], place: str) -> tuple[int, ...]:
    """Return the numbers of the tumour classes."""
    remedy = f"name them by --tumor-class; the model has {', '.join(names)}"
    if unknown := [name for name in tumor_classes if name not in names]:
        raise CheckpointIncompatibleError(f"no class {', '.join(unknown)}", place=place, remedy=remedy)
    words_of = {name: set(re.findall(r"[a-z]+", name.lower())) for name in names}
    # ``Tumor`` says that it is tumour, ``non-tumour`` does not.
    tumors = [name for name, words in words_of.items() if words & _TUMOR and not words & _NEGATION]
    wanted = tumor_classes or (tumors if len(names) > 1 else names)
    if not tumor_classes and len(wanted) != 1:
        raise CheckpointIncompatibleError(
            f"{len(wanted)} of the classes are named as tumour, one is due",
            place=place,
            remedy=remedy,
        )
    chosen = tuple(number for number, name in enumerate(names) if name in wanted)
    if len(names) > 1 and len(chosen) == len(names):
        raise CheckpointIncompatibleError("every class is named as tumour", place=place, remedy=remedy)
    return chosen

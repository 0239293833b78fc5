"""Read what is stated of a model of another program, wsinfer's [1]_ or a bare ONNX network, as the spec of a bundle.

No network is run here, and no file outside a model's folder is opened.

References
----------
.. [1] Kaczmarzyk et al., "Open and reusable deep learning for pathology with WSInfer and QuPath", npj Precision
   Oncology 8, 9 (2024).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import ConfigDict, Field, model_validator

from pathopatch.core.config import LEAST_PX, MOST_PX, MPP_RANGE, Config, parse, require_unit_scale
from pathopatch.core.config.study import read_toml
from pathopatch.core.errors import (
    CheckpointIncompatibleError,
    InputMissingError,
    InputUnsupportedError,
    MppMissingError,
)
from pathopatch.core.files import read_json, refuse_links_outside
from pathopatch.core.input_files import require_regular
from pathopatch.core.version import __version__
from pathopatch.models.spec import ONNX_NETWORK, BundleSpec, OutputKind, TorchScriptSpec, class_names
from pathopatch.models.weights import file_sha256

_DESCRIPTION, _PROGRAM = "config.json", "torchscript_model.pt"
_MAKERS_OWN = ("made_by", "licence", "network")  # a person may state them in other words than the files
_TUMOR = {"tumor", "tumour", "cancer", "carcinoma", "malignant"}
# ``Tumor`` says that it is tumour, ``non-tumour``, ``tumor-free`` and ``nontumor`` do not.
_NEGATIVE = re.compile(
    r"\b(non[a-z]*|no|not|without|free|neg|negative|benign|norm|normal|healthy|control|uninvolved|background|others?"
    r"|rest|else|stroma|glass|inflammation|necrosis|art[ei]fact)\b"
)
_STEPS = (["Resize", "ToTensor", "Normalize"], ["ToTensor", "Normalize"], ["Resize", "ToTensor"], ["ToTensor"])
_BILINEAR = 2  # torchvision's default, by Pillow's number
_Side = Annotated[int, Field(ge=1, le=MOST_PX)]
_Positive = Annotated[float, Field(gt=0)]


class ModelDescription(Config):
    """What an import must know of a network: its own files state some of it, a TOML file and options the rest."""

    mpp: float = Field(ge=MPP_RANGE[0], le=MPP_RANGE[1])  # of the patches, um/px
    patch_px: int = Field(ge=LEAST_PX, le=MOST_PX)  # side of the patches, which are brought to `input_px` by area
    input_px: int = Field(ge=LEAST_PX, le=MOST_PX)  # side of what the network takes
    mean: tuple[float, ...]  # of each channel in [0, 1]: the network takes (value - mean) / std
    std: tuple[_Positive, ...]
    channels: tuple[str, ...] = Field(min_length=1)  # in the network's order
    classes: tuple[str, ...] = Field(min_length=1)  # as the network's outputs; a single one is told from all else
    tumor_classes: tuple[str, ...] = ()  # default: the only class whose name says tumour
    licence: str = Field(min_length=1)
    made_by: str = "unknown"
    network: str = "unknown"
    dtype: Literal["uint8", "uint16"] = "uint8"  # of the slides' pixels
    background: Literal["bright", "dark", "auto"] = "bright"
    outputs: OutputKind | None = None  # of the network; None: as an ONNX network shows itself

    @model_validator(mode="after")
    def _are_of_values_to_1(self) -> ModelDescription:
        require_unit_scale(self.mean, self.std)
        return self


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


class _WsinferModel(Config):
    """``config.json`` of a model, version 1.0; further keys have no meaning here."""

    model_config = ConfigDict(extra="ignore")

    spec_version: Literal["1.0"]
    architecture: str
    num_classes: int = Field(ge=1)
    class_names: tuple[str, ...]
    patch_size_pixels: int = Field(ge=LEAST_PX, le=MOST_PX)
    spacing_um_px: float = Field(ge=MPP_RANGE[0], le=MPP_RANGE[1])
    transform: tuple[Annotated[_Resize | _ToTensor | _Normalize, Field(discriminator="name")], ...]

    @model_validator(mode="after")
    def _is_whole(self) -> _WsinferModel:
        if len(self.class_names) != self.num_classes or len(set(self.class_names)) < self.num_classes:
            raise ValueError(f"{self.num_classes} classes with the names {self.class_names}: one name a class is due")
        if [step.name for step in self.transform] not in _STEPS:
            names = ", ".join(step.name for step in self.transform) or "empty"
            raise ValueError(f"transform is {names}: must be Resize, ToTensor, Normalize, the first and last optional")
        return self


@dataclass(frozen=True)
class _Origin:
    """What the files of a model state: keys of `ModelDescription`, and how its network is built."""

    network: Path  # a file of TorchScript or ONNX
    kind: str
    stated: dict[str, Any]
    torchscript: dict[str, Any] | None = None  # further values of `TorchScriptSpec`


@dataclass(frozen=True)
class ForeignModel:
    """A model of another program: the spec of its bundle, and its own network and classes."""

    network: Path  # a file of TorchScript where the spec says so, else of ONNX
    spec: BundleSpec
    classes: tuple[str, ...]  # as the network's outputs
    chosen: tuple[int, ...]  # numbers of those that are the bundle's second class
    outputs: OutputKind | None  # of the network, if it is stated


def read_model(source: Path, *, description: Path | None = None, **options: Any) -> ForeignModel:
    """Return a model of another program, as its files, a TOML file and options describe it.

    `source` is a folder of wsinfer, or a file of ONNX. The TOML file `description` and `options` have keys of
    `ModelDescription`; empty options state nothing. Without `description` a TOML file of the name of the network's file
    is read, if there is one.

    Raises
    ------
    InputMissingError, MppMissingError
        A file is not there, or nothing states a fact that is needed.
    InputCorruptError, InputUnsupportedError
        The model is of another kind, or a description cannot be read, or says what a bundle cannot hold.
    CheckpointIncompatibleError
        Two descriptions contradict each other, or no class is known to be tumour.
    """
    origin = _read_origin(source)
    if description is None and source.is_file() and source.with_suffix(".toml").is_file():
        description = source.with_suffix(".toml")
    stated = read_toml(description) if description else {}
    stated |= {name: value for name, value in options.items() if value}
    known = origin.stated
    if differing := [
        f"{name} is {known[name]} in its files, and {value} is stated"
        for name, value in stated.items()
        if name not in _MAKERS_OWN and name in known and not _agree(value, known[name])
    ]:
        raise CheckpointIncompatibleError("; ".join(differing), place=str(source), remedy="leave out what is wrong")
    facts = known | stated
    for one, other in (("patch_px", "input_px"), ("input_px", "patch_px")):
        if one not in facts and other in facts:
            facts[one] = facts[other]
    remedy = "in the TOML file of --description; no default is guessed"
    if "mpp" not in facts:
        raise MppMissingError(
            "nothing states the scale of the model's patches",
            place=str(source),
            remedy=f"state what its makers do, in um/px, as mpp {remedy}",
        )
    needed = [name for name, about in ModelDescription.model_fields.items() if about.is_required()]
    if missing := [name for name in needed if name not in facts]:
        raise InputMissingError(f"nothing states {', '.join(missing)}", place=str(source), remedy=f"state it {remedy}")
    return _described(origin, parse(ModelDescription, facts, place=str(description or source)), place=str(source))


def _agree(one: Any, other: Any) -> bool:
    """Return whether two statements are equal; numbers up to their rounding."""
    try:
        return bool(np.allclose(one, other, rtol=1e-6, atol=0))
    except (TypeError, ValueError):  # no numbers, or another count
        return bool(one == other)


def _described(origin: _Origin, described: ModelDescription, *, place: str) -> ForeignModel:
    """Return a model with the spec of its bundle."""
    names, digest = described.classes, file_sha256(origin.network)
    chosen = _chosen(names, described.tumor_classes, place)
    rest = " or ".join(name for number, name in enumerate(names) if number not in chosen)
    architecture, torchscript = ONNX_NETWORK, None
    if origin.torchscript is not None:
        architecture = "torchscript"
        torchscript = TorchScriptSpec(sha256=digest, class_names=names, chosen=chosen, **origin.torchscript)
    taken = {"mpp", "patch_px", "input_px", "mean", "std", "channels", "dtype", "background"}
    spec = described.model_dump(include=taken) | {
        "package_version": __version__,
        "architecture": architecture,
        "stride_px": described.patch_px,
        "class_names": (rest or class_names(2)[0], " or ".join(names[number] for number in chosen)),
        "method": f"imported from {origin.kind}",
        "parameters": {
            **described.model_dump(include={"network", "made_by", "licence"}),
            "classes": ", ".join(names),
            "network_sha256": digest,
        },
        "torchscript": torchscript,
    }
    return ForeignModel(origin.network, parse(BundleSpec, spec, place=place), names, chosen, described.outputs)


def _read_origin(source: Path) -> _Origin:
    """Return what the files of a model state; its kind is known by their names."""
    require_regular(source)
    if source.suffix == ".onnx" and source.is_file():
        return _Origin(source, "ONNX", {"network": source.stem})
    if all((source / name).is_file() for name in (_DESCRIPTION, _PROGRAM)):
        refuse_links_outside(source)
        return _read_wsinfer(source)
    remedy = (
        f"give a folder of wsinfer ({_DESCRIPTION} and {_PROGRAM}), or the network as a file .onnx with a TOML file "
        "that describes it"
    )
    if not source.exists():
        raise InputMissingError("no such file or folder", place=str(source), remedy=remedy)
    raise InputUnsupportedError("no model of a kind that is imported", place=str(source), remedy=remedy)


def _read_wsinfer(folder: Path) -> _Origin:
    path = folder / _DESCRIPTION
    described = parse(_WsinferModel, read_json(path), place=str(path))
    resize = next((step.arguments for step in described.transform if isinstance(step, _Resize)), None)
    normalize = next(
        (step.arguments for step in described.transform if isinstance(step, _Normalize)), _NormalizeArguments()
    )
    stated = {
        "network": described.architecture,
        "mpp": described.spacing_um_px,
        "patch_px": described.patch_size_pixels,
        "input_px": described.patch_size_pixels,  # the network's own resizing is a part of it
        "mean": list(normalize.mean),
        "std": list(normalize.std),
        "channels": ["R", "G", "B"],
        "classes": list(described.class_names),
        "outputs": "logits",
        "licence": "not stated",
    }
    resized = {
        "resize_px": resize.sides[0] if resize else None,
        "interpolation": resize.interpolation if resize else _BILINEAR,
    }
    return _Origin(folder / _PROGRAM, "wsinfer", stated, torchscript=resized)


def _chosen(names: Sequence[str], tumor_classes: Sequence[str], place: str) -> tuple[int, ...]:
    """Return the numbers of the tumour classes."""
    remedy = f"name them by --tumor-class; the model has {', '.join(names)}"
    if len(set(names)) < len(names):
        raise CheckpointIncompatibleError(
            f"two classes of one name: {', '.join(names)}", place=place, remedy="give each output a name of its own"
        )
    if unknown := [name for name in tumor_classes if name not in names]:
        raise CheckpointIncompatibleError(f"no class {', '.join(unknown)}", place=place, remedy=remedy)
    positive = [name for name in names if not _NEGATIVE.search(name.lower().replace("_", " "))]
    wanted = tumor_classes or [name for name in positive if _TUMOR & {*re.findall(r"[a-z]+", name.lower())}]
    if len(names) == 1 and not wanted:
        raise CheckpointIncompatibleError(
            f"its single class is named {names[0]}, which does not say tumour: low values may be it",
            place=place,
            remedy="export the network with an output of tumour, or say --tumor-class if that name means tumour",
        )
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

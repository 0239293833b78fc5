"""Read what model zoos say of their models, as the specs of bundles: wsinfer [1]_, MONAI [2]_, BioImage [3]_, timm.

No network is run here, and no file outside a model's folder is opened.

References
----------
.. [1] Kaczmarzyk et al., "Open and reusable deep learning for pathology with WSInfer and QuPath", npj Precision
   Oncology 8, 9 (2024).
.. [2] Cardoso et al., "MONAI: An open-source framework for deep learning in healthcare", arXiv:2211.02701 (2022).
.. [3] Ouyang et al., "BioImage Model Zoo: A Community-Driven Resource for Accessible Deep Learning in BioImage
   Analysis", bioRxiv 2022.06.07.495102 (2022).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from pathopatch.core.config import LEAST_PX, MOST_PX, MPP_RANGE, Config, TimmArguments, parse
from pathopatch.core.config.study import read_toml
from pathopatch.core.errors import (
    CheckpointIncompatibleError,
    CheckpointUnsafeError,
    InputCorruptError,
    InputMissingError,
    InputUnsupportedError,
    MppMissingError,
)
from pathopatch.core.files import read_json, refuse_links_outside
from pathopatch.core.input_files import require_regular, require_small
from pathopatch.core.version import __version__
from pathopatch.models.spec import ONNX_NETWORK, BundleSpec, OutputKind, TorchScriptSpec, class_names
from pathopatch.models.weights import file_inside, file_sha256

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt", "*.joblib", "models/*.pt")
_TORCHSCRIPT = (".pt", ".pth", ".ts", ".torchscript")
_MOST_TEXT_BYTES = 2**20  # the descriptions of zoos have some kB
_MOST_TENSOR_BYTES = 2**28  # of a test tensor: 300 RGB patches of 256 px
_MOST_DIFFERENCE = 1e-3  # of a network's outputs from those that its makers state
_RGB = {"r": "R", "red": "R", "g": "G", "green": "G", "b": "B", "blue": "B"}
_MAKERS_OWN = ("made_by", "licence", "network")  # a person may state them in other words than the files
_NUMBERS = ("gain", "offset", "mean", "std")
_NOT_STATED = "not stated"
_AGAIN = "get the model's folder again"
_OWN_FILE = "give the network's own file, ONNX or TorchScript, and a TOML file that states the scaling"
_TUMOR = {"tumor", "tumour", "cancer", "carcinoma", "malignant"}
_NEGATION = {"no", "non", "not", "without", "benign", "normal"}
_STEPS = (["Resize", "ToTensor", "Normalize"], ["ToTensor", "Normalize"], ["Resize", "ToTensor"], ["ToTensor"])
_BILINEAR = 2  # torchvision's default, by Pillow's number
_Side = Annotated[int, Field(ge=1, le=MOST_PX)]
_Positive = Annotated[float, Field(gt=0)]
_GainOffset = tuple[float | NDArray[np.float64], float | NDArray[np.float64]]


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
    outputs: OutputKind | None = None  # of the network; None: as it shows itself


class _Lenient(Config):
    """A part of a file of a zoo; further keys have no meaning here."""

    model_config = ConfigDict(extra="ignore")


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


class _WsinferModel(_Lenient):
    """``config.json`` of a model, version 1.0."""

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


class _MonaiTensor(_Lenient):
    num_channels: int = Field(ge=1, le=1000)
    spatial_shape: tuple[int | str, ...]
    channel_def: dict[str, str]

    def names(self) -> list[str]:
        """Return the names of the channels in order."""
        return [self.channel_def.get(str(number), "") for number in range(self.num_channels)]


class _MonaiFormat(_Lenient):
    inputs: Annotated[dict[str, _MonaiTensor], Field(min_length=1, max_length=1)]
    outputs: Annotated[dict[str, _MonaiTensor], Field(min_length=1, max_length=1)]


class _TimmInput(_Lenient):
    mean: tuple[float, float, float]
    std: tuple[_Positive, _Positive, _Positive]
    input_size: tuple[Literal[3], _Side, _Side]
    license: str | None = None


def _shaping(arguments: object) -> object:
    """Return the arguments of a network of timm without those that follow from its classes and its input."""
    if not isinstance(arguments, dict):
        return arguments
    follow = ("num_classes", "in_chans", "img_size")
    return {name: value for name, value in arguments.items() if name not in follow and value is not None}


class _TimmModel(_Lenient):
    """``config.json`` beside the weights of a network of timm, as ``timm.models.save_for_hf`` writes it."""

    architecture: str
    pretrained_cfg: _TimmInput
    model_args: Annotated[TimmArguments, BeforeValidator(_shaping)] = {}
    label_names: tuple[str, ...] | dict[str, str] = ()


class _Axis(_Lenient):
    type: Literal["batch", "channel", "space"]
    id: str = ""
    size: int | dict[str, Any] | None = None
    scale: float = 1.0
    unit: str | None = None
    channel_names: tuple[str, ...] = ()


class _File(_Lenient):
    source: Annotated[str, Field(pattern=r"^[^\x00]+$")]
    sha256: str | None = None


class _Step(_Lenient):
    id: str
    kwargs: dict[str, Any] = {}


class _Values(_Lenient):
    type: str = "float32"
    range: tuple[float | None, float | None] = (None, None)


class _Tensor(_Lenient):
    axes: tuple[_Axis, ...]
    test_tensor: _File
    data: _Values = _Values()
    preprocessing: tuple[_Step, ...] = ()
    postprocessing: tuple[_Step, ...] = ()


class _Weights(_Lenient):
    onnx: _File


class _Author(_Lenient):
    name: str


class _Tolerance(_Lenient):
    absolute_tolerance: float = Field(default=_MOST_DIFFERENCE, ge=0)
    relative_tolerance: float = Field(default=0.0, ge=0)


class _Tolerances(_Lenient):
    reproducibility_tolerance: tuple[_Tolerance, ...] = ()


class _BioImageModel(_Lenient):
    """``rdf.yaml`` of a model, of format 0.5."""

    format_version: Annotated[str, Field(pattern=r"^0\.5\.")]
    type: Literal["model"]
    name: str
    license: str | None = None
    authors: tuple[_Author, ...] = ()
    inputs: tuple[_Tensor]
    outputs: tuple[_Tensor]
    weights: _Weights
    config: dict[str, Any] = {}


@dataclass(frozen=True)
class StatedAnswers:
    """Patches as a model's makers take them before any scaling, and the answers that they state."""

    patches: Path
    answers: Path
    white: float  # value in `patches` that is 1 here
    ends_in: str  # "softmax", "sigmoid" or "": applied to the network's outputs
    tolerance: _Tolerance

    def check(self, run: Callable[[NDArray[np.float32]], NDArray[np.float32]], spec: BundleSpec) -> None:
        """Refuse a network whose outputs `run`, (N, K) of standardised patches, are not as stated."""
        mean, std = (np.array(values)[:, None, None] for values in (spec.mean, spec.std))
        patches, stated = _read_array(self.patches), _read_array(self.answers)
        difference = np.inf
        if patches.ndim == 4 and patches.shape[1] == len(mean):
            outputs = run(((patches / self.white - mean) / std).astype(np.float32)).astype(np.float64)
            if self.ends_in == "softmax":
                outputs = np.exp(outputs - np.logaddexp.reduce(outputs, axis=1, keepdims=True))
            elif self.ends_in == "sigmoid":
                outputs = 1 / (1 + np.exp(-outputs))
            if stated.size == outputs.size:
                stated = stated.reshape(outputs.shape)
                allowed = self.tolerance.relative_tolerance * np.abs(stated)
                difference = float((np.abs(outputs - stated) - allowed).max())
        if not difference <= self.tolerance.absolute_tolerance:  # NaN is not <=
            raise CheckpointIncompatibleError(
                f"the network's answers to its test patches differ from those stated by {difference:.3g}, "
                f"{self.tolerance.absolute_tolerance:g} at most",
                place=str(self.answers),
                remedy=_AGAIN,
            )


@dataclass(frozen=True)
class _Origin:
    """What the files of a model state: keys of `ModelDescription`, and how its network is built."""

    network: Path  # a file of TorchScript, ONNX, or safetensors of a network of timm
    kind: str
    stated: dict[str, Any]
    torchscript: dict[str, Any] | None = None  # further values of `TorchScriptSpec`
    timm: tuple[str, dict[str, Any]] | None = None  # architecture, and its arguments
    test: StatedAnswers | None = None
    in_doubt: OutputKind | None = None  # for what its makers' program takes a single output


@dataclass(frozen=True)
class ForeignModel:
    """A model of another program: the spec of its bundle, and its own network and classes."""

    origin: _Origin
    spec: BundleSpec
    classes: tuple[str, ...]  # as the network's outputs
    chosen: tuple[int, ...]  # numbers of those that are the bundle's second class
    outputs: OutputKind | None  # of the network, if it is stated


def read_model(source: Path, *, description: Path | None = None, **options: Any) -> ForeignModel:
    """Return a model of another program, as its files, a TOML file and options describe it.

    `source` is a folder of wsinfer, MONAI, the BioImage Model Zoo or timm, or a file of ONNX or TorchScript. The TOML
    file `description` and `options` have keys of `ModelDescription`; empty options state nothing. Without
    `description` a TOML file of the name of the network's file is read, if there is one.

    Raises
    ------
    InputMissingError, MppMissingError
        A file is not there, or nothing states a fact that is needed.
    InputCorruptError, InputUnsupportedError, InputTooLargeError
        A description cannot be read, or says what a bundle cannot hold.
    CheckpointUnsafeError
        The network is a pickle, or a path leads outside the folder.
    CheckpointIncompatibleError
        Two descriptions contradict each other, or no class is known to be tumour.
    """
    origin = _read_origin(source)
    if description is None and source.is_file() and source.with_suffix(".toml").is_file():
        description = source.with_suffix(".toml")
    stated = _read_bounded(description, read_toml) if description else {}
    stated |= {name: value for name, value in options.items() if value}
    known = {name: value for name, value in origin.stated.items() if value}
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
            remedy=f"state what its makers do, in um/px: by --mpp, or as mpp {remedy}",
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
    timm_args: dict[str, Any] = {}
    if origin.torchscript is not None:
        architecture = "torchscript"
        torchscript = TorchScriptSpec(sha256=digest, class_names=names, chosen=chosen, **origin.torchscript)
    elif origin.timm is not None and len(names) == 2:  # what makes two classes of others is a part of a graph
        architecture, timm_args = origin.timm
    taken = {"mpp", "patch_px", "input_px", "mean", "std", "channels", "dtype", "background"}
    spec = described.model_dump(include=taken) | {
        "package_version": __version__,
        "architecture": architecture,
        "timm_args": timm_args,
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
    return ForeignModel(origin, parse(BundleSpec, spec, place=place), names, chosen, described.outputs)


def _read_origin(source: Path) -> _Origin:
    """Return what the files of a model state; its kind is known by their names."""
    require_regular(source)
    if source.suffix == ".onnx" and source.is_file():
        return _Origin(source, "ONNX", {"network": source.stem})
    if source.suffix in _TORCHSCRIPT and source.is_file():
        return _Origin(source, "TorchScript", {"network": source.stem}, torchscript={})
    if source.is_dir():
        refuse_links_outside(source)
        for files, read in _READERS.items():
            if all((source / name).is_file() for name in files):
                return read(source)
        if pickles := sorted(path.name for pattern in _PICKLES for path in source.glob(pattern)):
            raise CheckpointUnsafeError(
                f"the network is a pickle, {pickles[0]}, which could run code when read; it was not read",
                place=str(source),
                remedy="get the model as safetensors, ONNX or TorchScript",
            )
    raise InputMissingError(
        "no model of a known kind",
        place=str(source),
        remedy=f"give a file .onnx or {', '.join(_TORCHSCRIPT)}, or a folder that holds one of: "
        + "; ".join(" and ".join(files) for files in _READERS),
    )


def _read_wsinfer(folder: Path) -> _Origin:
    path = folder / "config.json"
    described = parse(_WsinferModel, _read_bounded(path, read_json), place=str(path))
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
        "licence": _NOT_STATED,
    }
    resized = {
        "resize_px": resize.sides[0] if resize else None,
        "interpolation": resize.interpolation if resize else _BILINEAR,
    }
    return _Origin(folder / "torchscript_model.pt", "wsinfer", stated, torchscript=resized, in_doubt="logits")


def _read_monai(folder: Path) -> _Origin:
    path, inference = (folder / "configs" / f"{name}.json" for name in ("metadata", "inference"))
    metadata = _read_bounded(path, read_json)
    form = parse(_MonaiFormat, metadata.get("network_data_format") or {}, place=str(path))
    (image,), (answer,) = form.inputs.values(), form.outputs.values()
    stated = {
        "network": metadata.get("name"),
        "made_by": metadata.get("authors"),
        "licence": metadata.get("license") or _first_line(folder / "LICENSE"),
        "input_px": _square(image.spatial_shape),
        "channels": _colours(image.names()),
        "classes": answer.names() if all(answer.names()) else None,
    }
    # The value range of metadata.json is that of the slides in some bundles, and of the network's input in others.
    in_doubt = None
    if inference.is_file():
        in_doubt = _monai_outputs(inference, n_classes=len(answer.names()))
        key = next(iter(form.inputs))
        stated |= _moments(_monai_scaling(inference, key), image.num_channels, 255.0, inference)
    return _Origin(folder / "models" / "model.ts", "MONAI", stated, torchscript={}, in_doubt=in_doubt)


def _monai_outputs(inference: Path, *, n_classes: int) -> OutputKind | None:
    """Return what a single output is that a bundle's inference makes a probability; None if it makes none.

    CheckpointIncompatibleError if the classes do not exclude each other: each has a sigmoid.
    """
    made = [step for name, step in _monai_steps(inference, "postprocessing") if name == "Activations"]
    for step in made:
        if step.get("sigmoid") and n_classes > 1:
            raise CheckpointIncompatibleError(
                "each of its classes has a sigmoid, and a bundle's classes exclude each other",
                place=str(inference),
                remedy="use a network of one class, or with a softmax",
            )
    return "logits" if any(step.get("sigmoid") for step in made) else None


def _monai_steps(inference: Path, part: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield name and arguments of each step of a part of a bundle's inference that is not switched off.

    What is no step, such as a reference to one, is given as its text.
    """
    made = _read_bounded(inference, read_json).get(part)
    steps = made.get("transforms") if isinstance(made, dict) else made
    for step in steps if isinstance(steps, list) else [steps]:
        if not isinstance(step, dict):
            yield f"{step}", {}
        elif step.get("_disabled_") is not True:
            name = str(step.get("_target_")).rpartition(".")[2].removesuffix("d")
            yield name if step.get("_disabled_") in (None, False) else f"{name}, which may be switched off", step


def _monai_scaling(inference: Path, image: str) -> Iterator[_GainOffset]:
    """Yield gain and offset of each step by which a bundle's own inference scales what it names `image`.

    The pixels are those of 8-bit slides. ValueError names a step that is no fixed scaling.
    """
    darkest, brightest = np.array(0.0), np.array(255.0)  # as they are after the steps so far
    for name, step in _monai_steps(inference, "preprocessing"):
        keys = step.get("keys", image)
        keys = keys if isinstance(keys, list) else [keys]
        if image not in keys and not any(str(key).startswith(("@", "$")) for key in keys):  # which stand for others
            continue
        if name == "ScaleIntensityRange":
            low, high, to_low, to_high = (float(step[key]) for key in ("a_min", "a_max", "b_min", "b_max"))
            if step.get("clip") and not (low <= darkest.min() and brightest.max() <= high):
                raise ValueError(f"{name} with clip")
            gain = np.array((to_high - to_low) / (high - low))
            offset = to_low - low * gain
        elif name == "NormalizeIntensity" and not step.get("nonzero") and {"subtrahend", "divisor"} <= step.keys():
            subtrahend, divisor = (np.array(step[key], np.float64) for key in ("subtrahend", "divisor"))
            gain, offset = 1 / divisor, -subtrahend / divisor
        elif name == "LoadImage" and step.get("reader") != "WSIReader" and step.get("reverse_indexing") is not False:
            raise ValueError(f"{name}, which turns images: columns become rows")
        elif name in ("CastToType", "ToTensor", "EnsureType", "EnsureChannelFirst", "LoadImage"):
            continue
        else:
            raise ValueError(name)
        darkest, brightest = darkest * gain + offset, brightest * gain + offset
        yield gain, offset


def _read_bioimage(folder: Path) -> _Origin:
    path = folder / "rdf.yaml"
    described = parse(_BioImageModel, _read_bounded(path, _read_yaml), place=str(path))
    (image,), (answer,) = described.inputs, described.outputs
    ends = [step.id for step in answer.postprocessing if step.id != "ensure_dtype"]
    classes = [name for axis in answer.axes if axis.type == "channel" for name in axis.channel_names]
    white = {"uint8": 255.0}.get(image.data.type, image.data.range[1] if image.data.range[0] == 0 else None)
    problem = ""
    if (axes := [axis.id or axis.type for axis in image.axes]) != ["batch", "channel", "y", "x"]:
        problem = f"its input has the axes {', '.join(axes)}, and batch, channel, y, x are due"
    elif white not in (1, 255):
        problem = "it does not say whether pixels are from 0 to 1 or from 0 to 255"
    elif ends not in ([], ["softmax"], ["sigmoid"]) or (ends == ["sigmoid"] and len(classes) > 1):
        problem = f"its outputs pass through {', '.join(ends)}, and classes exclude each other here"
    if problem or white is None:
        raise InputUnsupportedError(problem, place=str(path), remedy=_OWN_FILE)
    _, channel, y, x = image.axes
    stated = {
        "network": described.name,
        "made_by": ", ".join(author.name for author in described.authors),
        "licence": described.license or _NOT_STATED,
        "mpp": x.scale if x.unit == y.unit == "micrometer" and x.scale == y.scale else None,
        "input_px": _square((y.size, x.size)),
        "channels": _colours(channel.channel_names),
        "classes": classes,
        **_moments(_bioimage_steps(image.preprocessing), len(channel.channel_names), white, path),
    }
    own = parse(_Tolerances, described.config.get("bioimageio") or {}, place=str(path)).reproducibility_tolerance
    patches, answers = (_inside(folder, tensor.test_tensor) for tensor in (image, answer))
    test = StatedAnswers(patches, answers, white, "".join(ends), own[0] if own else _Tolerance())
    network = _inside(folder, described.weights.onnx)
    return _Origin(network, "the BioImage Model Zoo", stated, test=test, in_doubt="logits" if ends else None)


def _bioimage_steps(steps: Sequence[_Step]) -> Iterator[_GainOffset]:
    """Yield gain and offset of each step of a model's preprocessing."""
    for number, step in enumerate(steps):
        values = {name: np.array(value, np.float64) for name, value in step.kwargs.items() if name in _NUMBERS}
        if step.id == "scale_linear":
            yield values.get("gain", np.array(1.0)), values.get("offset", np.array(0.0))
        elif step.id == "fixed_zero_mean_unit_variance":
            yield 1 / values["std"], -values["mean"] / values["std"]
        elif step.id != "ensure_dtype" or (number and not str(step.kwargs.get("dtype")).startswith("float")):
            raise ValueError(f"{step.id} {step.kwargs.get('dtype', '')}".strip())


def _read_timm(folder: Path) -> _Origin:
    path = folder / "config.json"
    described = parse(_TimmModel, _read_bounded(path, read_json), place=str(path))
    form, names = described.pretrained_cfg, described.label_names
    stated = {
        "network": described.architecture,
        "licence": form.license or _NOT_STATED,
        "input_px": _square(form.input_size[1:]),
        "mean": list(form.mean),
        "std": list(form.std),
        "channels": ["R", "G", "B"],
        "classes": list(names) if isinstance(names, tuple) else None,
    }
    return _Origin(folder / "model.safetensors", "timm", stated, timm=(described.architecture, described.model_args))


_READERS: dict[tuple[str, ...], Callable[[Path], _Origin]] = {
    ("config.json", "torchscript_model.pt"): _read_wsinfer,
    ("configs/metadata.json", "models/model.ts"): _read_monai,
    ("rdf.yaml",): _read_bioimage,
    ("config.json", "model.safetensors"): _read_timm,
}


def _moments(steps: Iterable[_GainOffset], channels: int, white: float, place: Path) -> dict[str, list[float]]:
    """Return mean and std by which a bundle scales pixels as the steps do, each a gain and then an offset.

    The steps take pixels from 0 to `white`. What they raise, such as for a step that is no fixed scaling, is told.
    """
    gain, offset = np.full(channels, white), np.zeros(channels)
    try:
        with np.errstate(all="ignore"):  # what is not finite is refused below
            for factor, shift in steps:
                gain, offset = gain * factor, offset * factor + shift
        if not (gain.shape == offset.shape == (channels,) and np.isfinite([gain, offset]).all() and (gain > 0).all()):
            raise ValueError(f"gains {gain.tolist()} and offsets {offset.tolist()}")
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        raise InputUnsupportedError(
            f"preprocessing by {error}: only fixed gains above 0 and offsets are taken over",
            place=str(place),
            remedy=_OWN_FILE,
        ) from error
    return {"mean": (-offset / gain).tolist(), "std": (1 / gain).tolist()}


def _colours(names: Sequence[str]) -> list[str] | None:
    """Return the names of colour channels as slides have them; None for others, whose meaning is not known."""
    colours = [_RGB.get(name.lower(), "") for name in names]
    return colours if sorted(colours) == ["B", "G", "R"] else None


def _square(sides: Sequence[object]) -> int | None:
    """Return the side of a square of fixed size; None if the size is not fixed."""
    numbers = [side for side in sides if isinstance(side, int)]
    return numbers[0] if len(numbers) == len(sides) == 2 and numbers[0] == numbers[1] else None


def _first_line(path: Path) -> str:
    """Return the first line of a licence."""
    if not path.is_file():
        return _NOT_STATED
    with path.open(encoding="utf-8", errors="replace") as stream:
        text = stream.read(_MOST_TEXT_BYTES)
    return next((line.strip()[:200] for line in text.splitlines() if line.strip()), _NOT_STATED)


def _inside(folder: Path, file: _File) -> Path:
    """Return a file of a model, which must lie in its folder and have the content that is stated."""
    path = file_inside(folder, file.source)
    if file.sha256 is not None and file_sha256(path) != file.sha256:
        raise InputCorruptError("not the file that rdf.yaml names", place=str(path), remedy="fetch it again")
    return path


def _read_bounded(path: Path, read: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Return the content of a description, by `read`, unless it is far larger than any."""
    require_small(path, _MOST_TEXT_BYTES)
    return read(path)


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml  # type: ignore[import-untyped]  # it ships no type hints

    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    # Its constructors raise these for a value that does not fit its tag.
    except (yaml.YAMLError, AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise InputCorruptError(f"not YAML: {error}", place=str(path), remedy=_AGAIN) from error
    if not isinstance(value, dict):
        raise InputCorruptError("not a YAML mapping", place=str(path), remedy=_AGAIN)
    return value


def _read_array(path: Path) -> NDArray[np.float64]:
    """Return the numbers of a .npy file."""
    try:
        if path.stat().st_size > _MOST_TENSOR_BYTES:
            raise ValueError(f"more than {_MOST_TENSOR_BYTES} bytes")
        return np.asarray(np.load(path, allow_pickle=False), np.float64)
    except (ValueError, TypeError, OSError, EOFError) as error:
        raise InputCorruptError(f"not a readable array of numbers: {error}", place=str(path), remedy=_AGAIN) from error


def _chosen(names: Sequence[str], tumor_classes: Sequence[str], place: str) -> tuple[int, ...]:
    """Return the numbers of the tumour classes."""
    remedy = f"name them by --tumor-class; the model has {', '.join(names)}"
    if len(set(names)) < len(names):
        raise CheckpointIncompatibleError(f"two classes of one name: {', '.join(names)}", place=place, remedy=_AGAIN)
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

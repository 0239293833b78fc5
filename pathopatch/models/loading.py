"""Open the models of bundles: pick what runs their networks, and the precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from pathopatch.core.artefacts import changed, fingerprint
from pathopatch.core.config import AreaCorrection
from pathopatch.core.errors import CheckpointIncompatibleError, InputCorruptError, InputUnsupportedError
from pathopatch.models.backbones import find_weights
from pathopatch.models.bundle import (
    ARCHIVE,
    BACKBONE,
    GRAPH,
    INTO_BUNDLE,
    WEIGHTS,
    bundle_folder,
    checked_bundle,
    first_of,
    incompatible,
    joint_fingerprint,
    require_reliance,
)
from pathopatch.models.device import has_cuda_driver
from pathopatch.models.forward import Ensemble, PatchClassifier
from pathopatch.models.runtime import NumPyRuntime, Precision, Runtime
from pathopatch.models.spec import ONNX_NETWORK, BundleSpec, joint_spec
from pathopatch.models.weights import file_fingerprint, file_sha256, require_finite

if TYPE_CHECKING:
    from torch import nn

RuntimeName = Literal["auto", "openvino", "torch"]
_PRECISIONS = ("auto", "float32", "bfloat16")
# What constructors of networks raise for numbers that do not go together.
_NETWORK_ERRORS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def load_model(
    folder: Path | str,
    *,
    device: str = "auto",
    precision: str = "auto",
    runtime: str = "auto",
    threads: int | None = None,
) -> PatchClassifier:
    """Return the model of a bundle, ready to predict. No code of the bundle is run.

    Parameters
    ----------
    folder : Path or str
        The bundle.
    device : str
        As `pick_device` takes it.
    precision : str
        ``float32``, ``bfloat16``, faster where the device has it and less exact, or ``auto``: float32.
    runtime : str
        ``openvino`` (processors), ``torch``, or ``auto``: torch on a GPU and for a bundle without ``model.onnx``, else
        OpenVINO. A head on features needs neither: NumPy runs it unless torch is asked for.
    threads : int, optional
        Of a processor, for each forward pass; as many as it has cores by default.

    Raises
    ------
    InputMissingError
        There is no bundle, or a part of it is missing, or the weights of its backbone.
    InputCorruptError
        The weights or the graph are cut off or damaged.
    NonFiniteError
        A weight is NaN or infinite.
    InputUnsupportedError
        The runtime cannot run this network or use this device.
    CheckpointUnsafeError
        A pickle (``.pt``, ``.pth`` and so on), which could run code when read.
    CheckpointIncompatibleError
        A bundle of another version, one whose spec and weights contradict each other, or something else.

    Examples
    --------
    >>> from pathopatch.demo import EXAMPLE_MODEL
    >>> pathopatch.load_model(EXAMPLE_MODEL).spec.channels
    ('CARS', 'TPEF', 'SHG')
    """
    folder = Path(folder)
    options: dict[str, Any] = {"device": device, "precision": precision, "runtime": runtime, "threads": threads}
    return _load(folder, *checked_bundle(folder), **options)


def _load(
    folder: Path,
    spec: BundleSpec,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    device: str,
    precision: str,
    runtime: str,
    threads: int | None,
) -> PatchClassifier:
    """Return the model of a bundle that is checked."""
    if spec.mask == "normalise":
        if precision == "bfloat16":
            raise InputUnsupportedError(
                "a network that takes the tissue mask computes in float32",
                place="[predict] precision",
                remedy="use 'auto' or 'float32'",
            )
        precision = "float32"
    require_finite(folder / WEIGHTS)
    if spec.encoder is not None and runtime == "auto":
        n_classes = len(spec.class_names)
        try:
            _refuse_other_shapes(
                shapes, {"classifier.weight": (n_classes, len(spec.mean)), "classifier.bias": (n_classes,)}
            )
        except ValueError as error:
            raise incompatible(f"the weights are not those of {spec.architecture!r}: {error}", folder) from error
        return PatchClassifier(spec, NumPyRuntime(folder / WEIGHTS))
    if _runs_openvino(spec, runtime, device):
        return PatchClassifier(spec, _open_openvino(folder, spec, precision, threads))
    network = network_of(folder, spec, shapes, device=device)
    return PatchClassifier(spec, _open_torch(network, device, precision, threads))


def load_ensemble(
    folders: Sequence[Path | str],
    *,
    device: str = "auto",
    precision: str = "auto",
    runtime: str = "auto",
    threads: int | None = None,
    area_correct: AreaCorrection = "none",
) -> Ensemble:
    """Return the models of one or more bundles; arguments and errors are those of `load_model` and `joint_spec`.

    `area_correct` is that of `PredictConfig`; raises as `require_reliance`. CheckpointIncompatibleError for two
    bundles with the same weights.

    Examples
    --------
    >>> from pathopatch.demo import EXAMPLE_MODEL
    >>> len(pathopatch.load_ensemble([EXAMPLE_MODEL]).members)
    1
    """
    options: dict[str, Any] = {"device": device, "precision": precision, "runtime": runtime, "threads": threads}
    return Model.of(folders, area_correct=area_correct).load(**options)


@dataclass(frozen=True)
class Model:
    """One or more bundles, whose probabilities are averaged: checked and fingerprinted once, picklable."""

    folders: tuple[Path, ...]
    area_correct: AreaCorrection
    specs: tuple[BundleSpec, ...] = field(compare=False)
    spec: BundleSpec = field(compare=False)  # of all together
    weights: tuple[str, ...]  # fingerprints
    settings: str  # fingerprint of the specs
    _shapes: tuple[dict[str, tuple[int, ...]], ...] = field(compare=False, repr=False)

    @classmethod
    def of(cls, folders: Path | str | Sequence[Path | str], *, area_correct: AreaCorrection = "none") -> Model:
        """Check bundles, or those of training runs, before any network is built; raises as `load_ensemble`."""
        paths = tuple(bundle_folder(Path(each)) for each in ([folders] if isinstance(folders, Path | str) else folders))
        if not paths:
            raise InputUnsupportedError("no model is named", place="--model", remedy="name at least one bundle")
        specs, shapes = zip(*map(checked_bundle, paths), strict=True)
        spec = joint_spec(specs)
        if area_correct != "none":
            require_reliance(paths, specs)
        weights = tuple(file_fingerprint(path / WEIGHTS) for path in paths)
        first_with: dict[str, Path] = {}
        for path, mark in zip(paths, weights, strict=True):
            # The same network twice is no second opinion, and the spread would not show it.
            if (twin := first_with.setdefault(mark, path)) is not path:
                raise CheckpointIncompatibleError(
                    f"{twin} and {path} have the same weights", place="--model", remedy="name each model once"
                )
        settings = fingerprint([each.model_dump(mode="json") for each in specs])
        return cls(paths, area_correct, specs, spec, weights, settings, shapes)

    @property
    def fingerprint(self) -> str:
        """What predictions call the model by, see `joint_fingerprint`."""
        return joint_fingerprint(list(zip(self.specs, self.weights, strict=True)), correct=self.area_correct)

    def load(self, **options: Any) -> Ensemble:
        """Return the networks, ready to predict; options and raises as `load_model`, and InputChangedError."""
        members = [
            _load(folder, spec, shapes, **options)
            for folder, spec, shapes in zip(self.folders, self.specs, self._shapes, strict=True)
        ]
        for member, folder, weights in zip(members, self.folders, self.weights, strict=True):
            if not member.spec.lacks_backbone and member.runtime.weights != weights:
                raise changed(folder)
        return Ensemble(members, area_correct=self.area_correct, fingerprint=self.fingerprint)


def load_network(folder: Path) -> nn.Module:
    """Return the network of a bundle, in float32 on the processor."""
    return network_of(folder, *checked_bundle(folder, with_graph=False))


def _runs_openvino(spec: BundleSpec, runtime: str, device: str) -> bool:
    """Return whether OpenVINO runs a network, and refuse what cannot be done."""
    if runtime not in get_args(RuntimeName):
        raise InputUnsupportedError(
            f"no runtime {runtime!r}",
            place="[predict] runtime",
            remedy="use 'auto', 'openvino' or 'torch'",
        )
    if runtime == "openvino" and device not in ("auto", "cpu"):
        raise InputUnsupportedError(
            f"OpenVINO runs on processors, not on {device!r}",
            place="[predict] runtime",
            remedy="use torch, or --device cpu",
        )
    if runtime == "openvino" and spec.lacks_backbone:
        raise InputUnsupportedError(
            "the weights of the backbone are not in the bundle, and OpenVINO takes weights from there alone",
            place="[predict] runtime",
            remedy="use 'auto' or 'torch'",
        )
    if runtime == "openvino" and spec.onnx is None:
        raise InputUnsupportedError(
            f"the bundle has no {GRAPH}, which OpenVINO runs",
            place="[predict] runtime",
            remedy=f"write it: {INTO_BUNDLE}; or use the runtime torch",
        )
    if runtime == "auto" and device == "auto" and spec.architecture == ONNX_NETWORK:
        return True
    if runtime == "auto" and device == "auto" and has_cuda_driver():
        # An installation for prediction has no torch, and uses the processor.
        with suppress(ModuleNotFoundError):
            from pathopatch.models.device import pick_device

            device = pick_device().type
    return runtime == "openvino" or (runtime == "auto" and device in ("auto", "cpu") and spec.onnx is not None)


def _open_openvino(folder: Path, spec: BundleSpec, precision: str, threads: int | None) -> Runtime:
    from pathopatch.models.runtime.openvino_runtime import OpenVINORuntime

    assert spec.onnx is not None
    graph = spec.onnx
    if file_sha256(folder / WEIGHTS) != graph.weights_sha256:
        raise InputCorruptError(
            f"{WEIGHTS} is not the file that {GRAPH} was made for",
            place=str(folder),
            remedy=f"copy the bundle again; if its weights were replaced on purpose: {INTO_BUNDLE}",
        )

    try:
        return OpenVINORuntime(
            folder / GRAPH, folder / WEIGHTS, graph, precision=_named_precision(precision), threads=threads
        )
    except RuntimeError as error:
        raise CheckpointIncompatibleError(
            f"OpenVINO cannot run {GRAPH}: {error}", place=str(folder), remedy="use the runtime torch"
        ) from error


def _open_torch(network: nn.Module, device: str, precision: str, threads: int | None) -> Runtime:
    from pathopatch.models.device import pick_device
    from pathopatch.models.runtime.torch_runtime import TorchRuntime

    return TorchRuntime(network, device=pick_device(device), precision=_named_precision(precision), threads=threads)


def _named_precision(requested: str) -> Precision:
    if requested not in _PRECISIONS:
        raise InputUnsupportedError(
            f"no precision {requested!r}", place="[predict] precision", remedy="use 'auto', 'float32' or 'bfloat16'"
        )
    # bfloat16 moved probabilities by up to 0.27: it is for those who ask for it.
    return "bfloat16" if requested == "bfloat16" else "float32"


def network_of(
    folder: Path, spec: BundleSpec, shapes: Mapping[str, tuple[int, ...]], *, device: str = "cpu"
) -> nn.Module:
    """Return a network with the weights of its bundle; one from TorchScript on the device where it will run.

    InputMissingError as of `find_weights`, for a backbone that the bundle does not hold.
    """
    if spec.torchscript is not None:
        from pathopatch.models.device import pick_device
        from pathopatch.models.torchscript_archive import open_archive

        if file_sha256(folder / ARCHIVE) != spec.torchscript.sha256:
            raise InputCorruptError(
                f"{ARCHIVE} is not the one that the bundle was made with",
                place=str(folder / ARCHIVE),
                remedy="copy the bundle again, or import the model again",
            )
        return open_archive(folder / ARCHIVE, spec, device=pick_device(device))
    if spec.architecture == ONNX_NETWORK:
        raise InputUnsupportedError(
            "the network is an ONNX graph, which OpenVINO alone runs",
            place=str(folder),
            remedy="predict with the runtime 'auto' or 'openvino' of [predict], on a processor",
        )
    from safetensors.torch import load_file

    from pathopatch.models.networks import build_network, network_shapes

    of_backbone = BACKBONE if spec.lacks_backbone else ()
    try:
        # A small file may name a network of billions of weights: nothing is allocated for one that does not fit.
        expected = network_shapes(spec.architecture, len(spec.mean), **spec.form)
        _refuse_other_shapes(
            shapes, {name: shape for name, shape in expected.items() if not name.startswith(of_backbone)}
        )
        pretrained: str | Path = "none"
        if spec.backbone is not None and spec.lacks_backbone:
            pretrained = find_weights(spec.backbone)
        network = build_network(spec.architecture, len(spec.mean), pretrained=pretrained, **spec.form)
        network.load_state_dict(load_file(folder / WEIGHTS), strict=not spec.lacks_backbone)
    except _NETWORK_ERRORS as error:
        raise incompatible(f"the weights are not those of {spec.architecture!r}: {error}", folder) from error
    return network


def _refuse_other_shapes(shapes: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ValueError if weights have other names or shapes than their network's."""
    differences = [
        f"{name} is {shapes.get(name, 'missing')}, expected {expected.get(name, 'none')}"
        for name in dict.fromkeys((*expected, *shapes))
        if shapes.get(name) != expected.get(name)
    ]
    if differences:
        raise ValueError(first_of(differences))

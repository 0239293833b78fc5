"""Verify that a bundle, or what is exported of it, still gives the answers that it gave when it was written.

``check.json`` of a bundle holds the logits of these patches, and digests of settings and weights. It finds damage,
files of two models, and edits. It is no signature: who writes ``check.json`` anew is not found.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathopatch.core.artefacts import EXPORT
from pathopatch.core.errors import (
    InputCorruptError,
    InputUnsupportedError,
)
from pathopatch.core.files import read_json
from pathopatch.models.bundle import (
    CHECK,
    CHECK_VERSION,
    WEIGHTS,
    checked_bundle,
    read_check,
    runtime_of,
    write_check,
)
from pathopatch.models.forward import SAMPLES, sample_patches
from pathopatch.models.known_answers import NOT_READ, PATCHES, read_arrays
from pathopatch.models.loading import load_model, network_of
from pathopatch.models.spec import ONNX_NETWORK, BundleSpec
from pathopatch.models.weights import file_fingerprint, require_finite

DESCRIPTION = "config.json"
"""File of an export: wsinfer's description."""
EXPORTED = {"onnx": "model.onnx", "wsinfer": "torchscript_model.pt"}
"""The network of an export, by its format."""
_EXPORT_TOLERANCE = 1e-5  # of a probability; of logits as part of the largest one
_LOGARITHM_WEIGHT, _LEAST = 0.01, 1e-30  # so that a probability's logarithm may differ by 1e-3
_PROGRAMS = {"onnx": ("onnxruntime", "openvino"), "wsinfer": ("torch",)}
_TOLERANCE = 1e-4


@dataclass(frozen=True, kw_only=True)
class Verified:
    """How near the answers by one program came to those that were kept."""

    runtime: str  # openvino, torch, onnxruntime or numpy, with its version
    difference: float  # largest of a logit or probability; NaN where nothing was computed
    problem: str = ""  # what is wrong, for a person; "" if nothing is


Replay = Callable[[Mapping[str, NDArray[np.float32]]], NDArray[np.float32]]


def verify_export(folder: Path) -> list[Verified]:
    """Return how near an export's answers for its own patches are to those that are due, by each program that has it.

    The programs are onnxruntime and openvino, or torch for wsinfer's format. TorchScript is run after the checks of
    `load_program`; one that they refuse is a problem.

    Raises
    ------
    InputUnsupportedError
        The folder is no export, or no program that runs it is installed.
    InputMissingError, InputCorruptError
        ``export.json`` is missing or cannot be read.
    """
    kind = str(read_json(folder / EXPORT).get("format"))
    if kind not in _PROGRAMS:
        raise InputUnsupportedError("no export of a model", place=str(folder), remedy="give the folder of an export")
    verified = []
    for name in _installed(_PROGRAMS[kind], folder):
        difference, problem = math.nan, ""
        try:
            difference, largest = _difference(folder, kind, name)
            if not difference <= _EXPORT_TOLERANCE * max(1.0, largest):  # NaN is not
                problem = f"its answers for {PATCHES} differ by {difference:g}"
        except _errors_of(name) as error:
            problem = f"{name} does not run it: {error}"
        program = f"{name} {import_module(name).__version__}"
        verified.append(Verified(runtime=program, difference=difference, problem=problem))
    return verified


def _difference(folder: Path, kind: str, program: str) -> tuple[float, float]:
    """Return the largest difference of an export's outputs from those that are due, and the largest of these."""
    stored = read_arrays(folder / PATCHES)
    arrays = {name: array.astype(np.float32) for name, array in stored.items() if name != "class_names"}
    due = arrays.pop("expected")
    arrays["patches"] /= 255
    if kind == "wsinfer":
        (norm,) = (step for step in read_json(folder / DESCRIPTION)["transform"] if step["name"] == "Normalize")
        mean, std = (np.array(norm["arguments"][key], np.float32)[:, None, None] for key in ("mean", "std"))
        arrays["patches"] = (arrays["patches"] - mean) / std
    replay = _open(folder / EXPORTED[kind], program)
    # Batches of two sizes: an answer depends on its patch alone.
    parts = [replay({name: array[rows] for name, array in arrays.items()}) for rows in (slice(1), slice(1, None))]
    given = np.concatenate(parts)
    if given.shape != due.shape:
        raise ValueError(f"its answers are of shape {given.shape}, {due.shape} is due")
    difference = np.abs(given - due)
    if kind == "onnx":  # of probabilities near 0 and 1 the other class's logarithm tells more
        apart = np.abs(np.log(np.maximum(given, _LEAST)) - np.log(np.maximum(due, _LEAST)))
        difference = np.maximum(difference, _LOGARITHM_WEIGHT * apart)
    return float(difference.max()), float(np.abs(due).max())


def _open(path: Path, program: str) -> Replay:
    """Return what runs an exported network by a program."""
    if program == "openvino":
        from pathopatch.models.runtime.openvino_runtime import read_network

        return read_network(path)
    if program == "onnxruntime":
        session = import_module(program).InferenceSession(path, providers=["CPUExecutionProvider"])
        return lambda inputs: np.asarray(session.run(None, dict(inputs))[0])
    import torch

    from pathopatch.models.torchscript_archive import load_program

    network = load_program(path, torch.device("cpu")).eval()

    def replay(inputs: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.asarray(network(torch.from_numpy(inputs["patches"])).numpy())

    return replay


def _errors_of(program: str) -> tuple[type[Exception], ...]:
    """Return what is raised for files that cannot be read, and by a program that cannot run a network."""
    if program != "onnxruntime":
        return NOT_READ
    state: Any = import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NotImplemented", "RuntimeException")
    return (*NOT_READ, *(getattr(state, name) for name in names))


def rewrite_check(folder: Path) -> Path:
    """Take the answers that a bundle gives now, by torch if that runs it, as those to compare with."""
    spec, shapes = checked_bundle(folder, with_settings=False)
    require_finite(folder / WEIGHTS)
    network = None if spec.architecture == ONNX_NETWORK else network_of(folder, spec, shapes)
    write_check(folder, spec, runtime_of(folder, spec, network))
    return folder / CHECK


def verify_bundle(folder: Path) -> list[Verified]:
    """Compare the answers of a bundle with those in its ``check.json``, by each installed program that can run it.

    OpenVINO runs ``model.onnx``, NumPy heads on features; an export is verified by `verify_export`. Logits are equal if
    they differ by at most 1e-4 of the largest one, or of 1 if all are smaller: the rounding of float32 grows with the
    logit, and the same tolerance accepts a graph when it is written. A difference beyond it is a `problem` of the
    program.

    Raises
    ------
    InputMissingError
        There is no bundle, or it has no ``check.json``.
    InputCorruptError
        Settings or weights are not those of ``check.json``, or that is damaged.
    InputUnsupportedError
        No program that runs the bundle is installed.
    PathopatchError
        The bundle cannot be read, as `load_model`.
    """
    if (folder / EXPORT).is_file():
        return verify_export(folder)
    spec, _ = checked_bundle(folder)
    expected = _expected_logits(folder, len(spec.class_names))
    able = [] if spec.architecture == ONNX_NETWORK else ["torch"]
    able += ["numpy"] if spec.encoder else ["openvino"] if spec.onnx else []
    return [_compare(folder, spec, name, expected) for name in _installed(able, folder)]


def _expected_logits(folder: Path, n_classes: int) -> NDArray[np.float32]:
    """Return the logits (16, K) of ``check.json``, after comparing it with the bundle's weights."""
    path, remedy = folder / CHECK, f"pathopatch verify {folder} --write"
    check = read_check(folder)
    logits: NDArray[np.float32] = np.empty(0, np.float32)
    if check.get("schema_version") == CHECK_VERSION:
        with suppress(KeyError, OverflowError, TypeError, ValueError):
            logits = np.array(check["logits"], np.float32)
    if logits.shape != (SAMPLES, n_classes):
        raise InputCorruptError(
            f"{CHECK} is not one of {SAMPLES} patches and {n_classes} classes, version {CHECK_VERSION}",
            place=str(path),
            remedy=f"copy the bundle again, or write it anew: {remedy}",
        )
    if check.get("weights_sha256") != file_fingerprint(folder / WEIGHTS):
        raise InputCorruptError(
            "the weights of the model are not those that it was written with",
            place=str(folder),
            remedy=f"copy the bundle again; if you changed them on purpose: {remedy}",
        )
    return logits


def _installed(able: Sequence[str], folder: Path) -> list[str]:
    """Return which of the programs that can run a model are installed; InputUnsupportedError if none is."""
    if installed := [name for name in able if find_spec(name) is not None]:
        return installed
    raise InputUnsupportedError(
        "what is installed cannot run this model", place=str(folder), remedy=f"install one of {', '.join(able)}"
    )


def _compare(folder: Path, spec: BundleSpec, program: str, expected: NDArray[np.float32]) -> Verified:
    """Return how near a program comes to logits (16, K)."""
    name = "auto" if program == "numpy" else program  # which of a head is NumPy
    model = load_model(folder, device="cpu", precision="float32", runtime=name)
    runtime, answers = model.runtime, model.predict_logits(*sample_patches(spec))
    difference = float(np.abs(answers - expected).max())
    is_near = difference <= _TOLERANCE * max(1.0, float(np.abs(expected).max()))  # NaN is not <=
    problem = "" if is_near else f"a logit differs by {difference:.2g} from that in {CHECK}"
    return Verified(runtime=f"{runtime.name} {runtime.version}", difference=difference, problem=problem)

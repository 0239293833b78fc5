"""Store trained models as folders of safetensors, JSON and a model card, and read them safely.

The header of the weights repeats their contract: channels and their order, classes, scaling, sizes. A bundle whose
``config.json`` differs from it is refused, since a network fed with other channels returns wrong numbers without an
error. The checks do without torch. A bundle may come from a stranger: its weights' shapes are compared before memory is
taken for them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from pathopatch.core.artefacts import fingerprint
from pathopatch.core.config import LINEAR_HEAD, AreaCorrection
from pathopatch.core.errors import (
    CheckpointIncompatibleError,
    CheckpointUnsafeError,
    InputCorruptError,
    InputMissingError,
    InputUnsupportedError,
    with_code,
)
from pathopatch.core.files import atomic_path, read_json, remove, temporary_path, write_bytes, write_json
from pathopatch.models.card import model_card
from pathopatch.models.spec import BUNDLE_VERSION, ONNX_NETWORK, AreaReliance, BundleSpec, OnnxGraph
from pathopatch.models.weights import file_fingerprint, require_finite

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pathopatch.models.forward import PatchClassifier
    from pathopatch.models.onnx_graph import ImportedGraph
    from pathopatch.models.runtime import Runtime

WEIGHTS, SPEC, GRAPH, CARD = "model.safetensors", "config.json", "model.onnx", "README.md"
BLOCK = "pathopatch"  # key of `SPEC` with the spec
CHECK, CHECK_VERSION = "check.json", 1
"""Answers to made patches with digests of settings and weights, and the version of its format and of the patches."""
BACKBONE = "backbone."  # beginning of the names of a frozen backbone's tensors
ARCHIVE = "model.torchscript"  # of a bundle whose network came as one
INTO_BUNDLE = "pathopatch export onnx BUNDLE --into-bundle"
# A single key of the weights' header: safetensors orders several at random, so that equal models had other bytes.
_HEADER = "pathopatch"
_MOST_GRAPH_BYTES = 2**26  # without weights: the largest of timm's have some MB
# How a graph names the file of a weight: key and value, each behind its field's number and its length.
_LOCATION = b"location"
_IN_WEIGHTS = b"\x0a\x08" + _LOCATION + b"\x12" + bytes([len(WEIGHTS)]) + WEIGHTS.encode()
_NO_HEADER = "not the header of a bundle's weights"
_SHOWN_LINES = 5  # of an error's text
_OS_ERROR = re.compile(r"\(os error (\d+)\)")  # as safetensors passes it on
# Of a spec: what tells of the training, and no answer or its meaning depends on. The graph has a digest of its own.
_DESCRIBING = {"group_metrics", "data", "training", "parameters", "package_version", "onnx"}
_PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin", ".joblib")
_PICKLE_STARTS = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def save_bundle(
    folder: Path,
    network: nn.Module | ImportedGraph,
    spec: BundleSpec,
    *,
    archive: Path | None = None,
    compare: Callable[[PatchClassifier], None] | None = None,
) -> None:
    """Write a bundle as a whole. Equal models give equal bytes.

    It has weights, graph, spec, model card, and answers by which `verify_bundle` finds changes. An earlier bundle is
    replaced; on a full disk (`DiskFullError`) it is untouched. `network` is as `build_network` made it for
    ``spec.architecture``, or as `open_archive` opened `archive` by the spec. An `ImportedGraph` raises
    InputUnsupportedError if its graph cannot be run, since nothing else runs it. `compare` raises for answers of the
    model that are wrong.
    """
    import torch

    from pathopatch.models.forward import PatchClassifier
    from pathopatch.models.onnx_graph import write_graph

    spec = spec.model_copy(update={"onnx": None})
    # Contiguous and in one memory format, so that equal models give equal bytes.
    tensors = {
        name: value.detach().to("cpu", memory_format=torch.contiguous_format).contiguous().clone()
        for name, value in network.state_dict().items()
        if not (spec.lacks_backbone and name.startswith(BACKBONE))
    }
    header = {_HEADER: json.dumps(spec.contract(), sort_keys=True)}
    with atomic_path(folder) as temporary:
        temporary.mkdir(parents=True)
        write_tensors(temporary / WEIGHTS, tensors, header)
        if archive is not None:
            shutil.copyfile(archive, temporary / ARCHIVE)
        if spec.is_imported:
            require_finite(temporary / WEIGHTS)  # training sees to that for its own networks
        # torch alone runs a network that ONNX cannot hold, that was trained without the packages that write ONNX, or
        # whose backbone lies elsewhere. NumPy runs a head on features.
        optional: tuple[type[Exception], ...] = (
            () if spec.architecture == ONNX_NETWORK else (InputUnsupportedError, ImportError)
        )
        with suppress(*optional):
            is_head = spec.encoder is not None or spec.lacks_backbone
            graph = None if is_head else write_graph(temporary / GRAPH, temporary / WEIGHTS, spec, network)
            _require_small(temporary / GRAPH)
            spec = spec.model_copy(update={"onnx": graph})
        _write_spec(temporary, spec)
        runtime = runtime_of(temporary, spec, network)
        if compare:
            compare(PatchClassifier(spec, runtime))
        write_check(temporary, spec, runtime)


def _require_small(graph: Path) -> None:
    """Remove and refuse a graph that no bundle may hold: its weights stayed in it."""
    if graph.is_file() and graph.stat().st_size > _MOST_GRAPH_BYTES:
        graph.unlink()
        raise InputUnsupportedError(
            f"its graph has more than {_MOST_GRAPH_BYTES} bytes beside its float32 weights",
            place=GRAPH,
            remedy="convert the network's weights to float32",
        )


def runtime_of(folder: Path, spec: BundleSpec, network: nn.Module | ImportedGraph | None) -> Runtime:
    """Return what runs a network in float32: torch, or OpenVINO for one that came as a graph, now in `folder`."""
    import torch

    if isinstance(network, torch.nn.Module):
        from pathopatch.models.runtime.torch_runtime import TorchRuntime

        return TorchRuntime(network)
    from pathopatch.models.runtime.openvino_runtime import OpenVINORuntime

    assert spec.onnx is not None
    return OpenVINORuntime(folder / GRAPH, folder / WEIGHTS, spec.onnx)


def _write_spec(folder: Path, spec: BundleSpec) -> None:
    """Write a bundle's spec into its file, and its card."""
    write_json(folder / SPEC, {BLOCK: spec.model_dump(mode="json")})
    write_bytes(folder / CARD, model_card(spec).encode())


def rewrite_graph(folder: Path, network: nn.Module) -> Path:
    """Write ``model.onnx`` of a bundle anew and return its path; `network` is the bundle's."""
    from pathopatch.models.onnx_graph import write_graph

    spec, _ = checked_bundle(folder, with_graph=False)
    if spec.lacks_backbone:
        raise InputUnsupportedError(
            "the weights of the backbone are not in the bundle, and a graph takes weights from there alone",
            place=str(folder),
            remedy="predict without it: torch runs the model",
        )
    with atomic_path(folder) as temporary:
        shutil.copytree(folder, temporary, symlinks=True)  # no link of a stranger's brings another file in
        graph = write_graph(temporary / GRAPH, temporary / WEIGHTS, spec, network)
        before = settings_sha256(temporary)
        _write_spec(temporary, spec.model_copy(update={"onnx": graph}))
        update_check(temporary, before)
    return folder / GRAPH


def record_reliance(folder: Path, found: AreaReliance) -> None:
    """Write into a bundle and its card what was found of the model; errors as `checked_bundle`, or of the disk."""
    spec = checked_bundle(folder)[0].model_copy(update={"area_reliance": found})
    with atomic_path(folder) as temporary:  # between settings and their hash a prediction would be refused
        shutil.copytree(folder, temporary, symlinks=True)
        before = settings_sha256(temporary)
        _write_spec(temporary, spec)
        update_check(temporary, before)


def require_reliance(folders: Sequence[Path], specs: Sequence[BundleSpec]) -> None:
    """Refuse to correct the answers of a model unless it relies on the area: CheckpointIncompatibleError."""
    remedy = "run pathopatch predict without --area-correct"
    if len(folders) > 1:
        raise CheckpointIncompatibleError("the mean of several models is not corrected", place="--model", remedy=remedy)
    remedy += ", or ask the model: pathopatch audit-model MODEL SLIDES -o OUT --record"
    found = specs[0].area_reliance
    if found is None or found.verdict != "relies":
        verdict = "nobody has asked this model, as it is now, whether it relies on the tissue area"
        if found is not None:
            verdict = f"asked on {found.date}, it is {found.verdict} to rely on the tissue area"
        raise CheckpointIncompatibleError(verdict, place=str(folders[0]), remedy=remedy)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors, sorted by name, as a safetensors file with the permissions of any new file there; OSError."""
    from safetensors.torch import save_file

    # safetensors writes under a name of its own, which only its user may read and which a killed process leaves:
    # so it writes into a folder that `clean` knows, and the file takes the permissions of a new one.
    folder = temporary_path(path)
    folder.mkdir()
    try:
        file = folder / path.name
        file.touch()
        mode = file.stat().st_mode
        save_file(dict(sorted(tensors.items())), file, metadata=dict(metadata))
        file.chmod(mode)
        file.replace(path)
    except SafetensorError as error:
        number = _OS_ERROR.search(str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
    finally:
        remove(folder)


def incompatible(problem: str, place: Path) -> CheckpointIncompatibleError:
    """Return the error that a bundle, or a part of it, is not one that can be used."""
    return CheckpointIncompatibleError(
        problem, place=str(place), remedy="copy all files of the bundle again, or make it anew"
    )


def first_of(lines: Sequence[str]) -> str:
    """Return the first lines of an error as one text, and how many there are beside."""
    more = [f"and {len(lines) - _SHOWN_LINES} more"] if len(lines) > _SHOWN_LINES else []
    return "; ".join([*lines[:_SHOWN_LINES], *more])


def bundle_folder(path: Path) -> Path:
    """Return the bundle that a path names: the path itself, or ``model/`` in the folder of a training run."""
    inner = path / "model"
    # By the weights: a run has a config.json of its own.
    is_run = not os.path.isfile(path / WEIGHTS) and os.path.isfile(inner / SPEC)  # noqa: PTH113  # no name raises
    return inner if is_run else path


def checked_bundle(
    folder: Path, *, with_graph: bool = True, with_settings: bool = True
) -> tuple[BundleSpec, dict[str, tuple[int, ...]]]:
    """Return a bundle's spec and the shapes of its weights, after comparing it with their header and ``check.json``.

    What is stated of another model's reliance on the tissue area is left out.
    """
    _refuse_pickles(folder)
    config = bundle_config(folder)
    spec = read_spec(folder, config)
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise InputMissingError(f"no {WEIGHTS}", place=str(folder), remedy="give the folder of a model bundle")
    header, shapes = read_header(weights)
    stated = spec.contract()
    try:
        trained = BundleSpec.model_validate(header).contract()  # settings newer than the weights take their defaults
    except ValidationError:
        trained = header
    differences = [
        f"{name} is {stated.get(name)!r}, the weights were trained with {trained.get(name)!r}"
        for name in sorted({*stated, *trained})
        if stated.get(name) != trained.get(name)
    ]
    if differences:
        raise incompatible(f"{SPEC} does not fit {WEIGHTS}: {first_of(differences)}", folder)
    if spec.torchscript is not None and not (folder / ARCHIVE).is_file():
        raise InputMissingError(f"no {ARCHIVE}", place=str(folder), remedy="copy the bundle again")
    if with_graph and spec.onnx is not None:
        _check_graph(folder / GRAPH, spec, spec.onnx)
    if with_settings:
        _refuse_edited(folder, config)
    if (found := spec.area_reliance) and found.model != joint_fingerprint([(spec, file_fingerprint(weights))]):
        spec = spec.model_copy(update={"area_reliance": None})
    return spec, shapes


def read_check(folder: Path) -> dict[str, Any]:
    """Return ``check.json`` of a bundle; errors as `read_json`."""
    try:
        return read_json(folder / CHECK)
    except InputMissingError as error:
        raise InputMissingError(
            f"no {CHECK}: the bundle holds no answers to compare with",
            place=str(folder),
            remedy=f"where you trust the bundle, store its answers of now: pathopatch verify {folder} --write",
        ) from error


def _refuse_edited(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse settings that are not those of ``check.json``."""
    if read_check(folder).get("settings_sha256") != settings_sha256(folder, config):
        raise InputCorruptError(
            "the settings of the model are not those that it was written with",
            place=str(folder),
            remedy=f"copy the bundle again; if you changed them on purpose: pathopatch verify {folder} --write",
        )


def _check_graph(path: Path, spec: BundleSpec, stated: OnnxGraph) -> None:
    """Refuse a graph that is missing, is another one than the spec names, or takes weights from other files."""
    made_for = stated.architecture, stated.input_shape, stated.classes
    if (due := (spec.architecture, spec.input_shape, len(spec.class_names))) != made_for:
        problem = f"{GRAPH} was made for {made_for}, the spec names {due} (architecture, input, classes)"
        raise incompatible(problem, path.parent)
    if not path.is_file():
        raise InputMissingError(f"no {GRAPH}", place=str(path.parent), remedy="copy the bundle again")
    size = path.stat().st_size
    content = path.read_bytes() if size <= _MOST_GRAPH_BYTES else b""
    if hashlib.sha256(content).hexdigest() != stated.sha256:
        raise InputCorruptError(
            f"{GRAPH} is not the one that the spec names ({size} bytes)",
            place=str(path),
            remedy=f"copy the bundle again, or write it anew: {INTO_BUNDLE}",
        )
    if content.count(_LOCATION) != content.count(_IN_WEIGHTS):
        raise CheckpointUnsafeError(
            f"{GRAPH} takes weights from another file than {WEIGHTS}; it was not read",
            place=str(path),
            remedy="use a bundle that pathopatch wrote",
        )


def read_header(weights: Path) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """Return the contract that the header of a bundle's weights repeats, and the shape of each tensor by its name."""
    try:
        str(weights).encode()
    except UnicodeEncodeError as error:  # safetensors opens no such file
        raise with_code(error, place=ascii(str(weights))) from error
    size = weights.stat().st_size
    with weights.open("rb") as stream:
        header_bytes = int.from_bytes(stream.read(8), "little")
    if size < 8 + header_bytes:
        raise _cut_off(weights, f"{size} bytes, its header has {header_bytes}")
    try:
        with safe_open(weights, framework="numpy") as stream:
            contract = json.loads((stream.metadata() or {}).get(_HEADER) or "{}")
            shapes = {name: tuple(stream.get_slice(name).get_shape()) for name in stream.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, RecursionError) as error:
        if isinstance(error, SafetensorError) and "incomplete" in str(error):  # the header alone is whole
            raise _cut_off(weights, str(error)) from error
        raise incompatible(f"{_NO_HEADER}: {error}", weights) from error
    if not isinstance(contract, dict):
        raise incompatible(f"{_NO_HEADER}: its contract is no JSON object", weights)
    return contract, shapes


def _cut_off(weights: Path, problem: str) -> InputCorruptError:
    return InputCorruptError(
        f"weights cut off or damaged: {problem}",
        place=str(weights),
        remedy="copy the bundle again, or make it anew",
    )


def bundle_config(folder: Path) -> dict[str, Any]:
    """Return the values of a bundle's ``config.json``; refuse what is something else."""
    _refuse_other_kinds(folder)
    path = folder / SPEC
    if not path.is_file() and (folder / "model.json").is_file():
        raise CheckpointIncompatibleError(
            f"a bundle of pathopatch 0.1.0: its settings are in model.json, not in {SPEC}",
            place=str(folder),
            remedy="write them there by the command in docs/reference/artefacts.md, or train the model anew",
        )
    try:
        return read_json(path)
    except InputMissingError as error:
        raise InputMissingError(
            f"no file {SPEC}", place=str(path), remedy="give the folder of a model bundle, such as WORK/runs/NAME/model"
        ) from error
    except InputCorruptError as error:
        raise incompatible(error.message, path) from error


def stated_spec(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the spec, as it is written, of what `bundle_config` returned; refuse other files of this name."""
    stated = config.get(BLOCK)
    if not isinstance(stated, dict):
        raise incompatible(f"it has no table {BLOCK!r}, as bundles of pathopatch have", folder / SPEC)
    return stated


def read_spec(folder: Path, config: Mapping[str, Any] | None = None) -> BundleSpec:
    """Return a bundle's spec, of its `bundle_config`; refuse what is something else, of another version, or invalid."""
    raw, path = stated_spec(folder, bundle_config(folder) if config is None else config), folder / SPEC
    version = raw.get("schema_version")
    if version != BUNDLE_VERSION:
        again = "import model" if str(raw.get("method", "")).startswith("imported") else "train WORK"
        raise CheckpointIncompatibleError(
            f"bundle version {version!r}, this program reads {BUNDLE_VERSION}",
            place=str(path),
            remedy=f"use the version of pathopatch that wrote it, or run pathopatch {again} anew",
        )
    try:
        spec = BundleSpec.model_validate(raw)
    except ValidationError as error:
        lines = [
            f"{'.'.join(str(part) for part in item['loc']) or 'bundle'}: {item['msg']}"
            for item in error.errors(include_url=False)
        ]
        raise incompatible(f"not a valid bundle: {first_of(lines)}", path) from error
    if spec.encoder is not None and spec.architecture != LINEAR_HEAD:
        raise CheckpointIncompatibleError(
            f"a head {spec.architecture!r} on features, written by pathopatch {spec.package_version}; this version "
            f"reads {LINEAR_HEAD!r} alone",
            place=str(path),
            remedy="train a linear head on the same features: pathopatch train WORK; or use the version that wrote it",
        )
    return spec


def joint_fingerprint(members: Sequence[tuple[BundleSpec, str]], *, correct: AreaCorrection = "none") -> str:
    """Return a fingerprint of models, each given as its spec and the fingerprint of its weights, whatever runs them.

    A model whose answers are corrected for the tissue area is another one.
    """
    # A graph is another form of the weights, and what was found of a model does not change it.
    facts = [spec.model_dump(mode="json", exclude={"onnx", "area_reliance"}) for spec, _ in members]
    digests = [
        hashlib.sha256(f"{fingerprint(fact)}{weights}".encode()).hexdigest()
        for fact, (_, weights) in zip(facts, members, strict=True)
    ]
    joint = digests[0] if len(digests) == 1 else fingerprint(sorted(digests))
    if correct == "none":
        return joint
    rule = members[0][0].area_reliance
    assert rule is not None  # `require_reliance` has refused others
    return fingerprint([joint, correct, rule.areas, rule.response, rule.shift[correct]])


def bundle_fingerprint(folders: Sequence[Path]) -> str:
    """Return the `joint_fingerprint` of the models of some bundles; raises as `read_spec`, or of the disk."""
    members = [(read_spec(folder), file_fingerprint(folder / WEIGHTS)) for folder in folders]
    return joint_fingerprint(members)


def _refuse_other_kinds(folder: Path) -> None:
    """Refuse what only looks like a bundle: a FIFO would block its reader for ever, a link loop leads nowhere."""
    is_of_kind = {folder: Path.is_dir, folder / SPEC: Path.is_file, folder / WEIGHTS: Path.is_file}
    for path, is_kind in is_of_kind.items():
        if os.path.lexists(path) and not is_kind(path):
            raise CheckpointIncompatibleError(
                f"{path.name} is not a {'folder' if path is folder else 'file'}",
                place=str(path),
                remedy="give the folder of a model bundle, such as WORK/runs/NAME/model",
            )


def _refuse_pickles(folder: Path) -> None:
    """Refuse a pickle by its name or its first bytes, without unpickling it."""
    suspects = [folder] if folder.is_file() else sorted(folder.glob("*")) if folder.is_dir() else []
    for path in suspects:
        is_pickle = path.suffix in _PICKLES
        if path.suffix == ".safetensors" and path.is_file():  # to open a FIFO would block
            with path.open("rb") as stream:
                start = stream.read(9)
            # A zip archive or a binary pickle. safetensors begins with the header's length, which may look like a
            # pickle's first bytes, and then "{".
            is_pickle = start.startswith(_PICKLE_STARTS) and start[8:9] != b"{"
        if is_pickle:
            raise CheckpointUnsafeError(
                "a pickle could run code when read; it was not read",
                place=str(path),
                remedy="use a model bundle: a folder with model.safetensors and config.json",
            )


def settings_sha256(folder: Path, config: Mapping[str, Any] | None = None) -> str:
    """Return a digest of a bundle's settings by which an answer or its meaning changes, as `bundle_config` gave them.

    A setting that a later version adds, with its default, leaves the digest as it is.
    """
    config = bundle_config(folder) if config is None else config
    stated = {name: value for name, value in stated_spec(folder, config).items() if name not in _DESCRIBING}
    return hashlib.sha256(
        json.dumps({**config, BLOCK: stated}, sort_keys=True, separators=(",", ":")).encode()
    ).hexdigest()


def write_check(folder: Path, spec: BundleSpec, runtime: Runtime) -> None:
    """Write ``check.json`` of a bundle whose other files are written; `runtime` runs its network in float32."""
    from pathopatch.models.forward import PatchClassifier, sample_patches
    from pathopatch.models.runtime import require_finite_answers

    logits = PatchClassifier(spec, runtime).predict_logits(*sample_patches(spec))
    require_finite_answers(logits, place=spec.method)
    check = {
        "schema_version": CHECK_VERSION,
        "computed_by": f"{runtime.name} {runtime.version}",
        "settings_sha256": settings_sha256(folder),
        "weights_sha256": file_fingerprint(folder / WEIGHTS),
        # The shortest numbers that are these float32 again.
        "logits": [[float(str(value)) for value in row] for row in logits],
    }
    write_json(folder / CHECK, check)


def update_check(folder: Path, before: str) -> None:
    """Write the digest of changed settings into ``check.json``, if that held `before`, the one before the change."""
    if (folder / CHECK).is_file() and (check := read_json(folder / CHECK)).get("settings_sha256") == before:
        write_json(folder / CHECK, check | {"settings_sha256": settings_sha256(folder)})

"""How is an exported model written? As one folder, whole or not at all: the network, what it takes, how it is used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, get_args

from pathopatch.core.artefacts import Stamp, artefact, fingerprint_file
from pathopatch.core.errors import InputCorruptError, InputUnsupportedError
from pathopatch.core.files import atomic_path, read_json, write_json
from pathopatch.models.bundle import load_model
from pathopatch.models.compatibility import SPEC, WEIGHTS, read_spec
from pathopatch.models.export import onnx, wsinfer
from pathopatch.models.export.facts import FACTS, README, facts_of, readme_of
from pathopatch.models.export.network import ExportedNetwork
from pathopatch.models.export.torchscript import torchscript
from pathopatch.models.spec import BundleSpec

Format = Literal["torchscript", "onnx", "wsinfer"]
FORMATS: tuple[Format, ...] = get_args(Format)
EXPORT_VERSION = 1
"""Of what an export looks like."""
_NETWORK = {"torchscript": "model.pt", "onnx": "model.onnx", "wsinfer": wsinfer.WEIGHTS}


def export_model(bundle: Path, path: Path, *, kind: Format, force: bool = False) -> bool:
    """Write a bundle's model for another program, through a temporary name; return False if it was there already.

    Parameters
    ----------
    bundle : Path
        The model bundle.
    path : Path
        The folder to write: the network, ``export.json`` and ``README.md``, of wsinfer ``config.json`` too.
    kind : str
        One of `FORMATS`.
    force : bool
        Redo an export of another model or format.

    Raises
    ------
    StaleArtefactError
        An export of another model or format stands there, and `force` is off.
    InputUnsupportedError
        The format cannot hold the model, what writes it is not installed, or something stands there that is no export.
    PathopatchError
        The bundle cannot be read, as `load_model`.
    DiskFullError
        No space was left; an earlier export is untouched.
    """
    spec = read_spec(bundle)
    if kind == "wsinfer":
        wsinfer.check_held(spec)
    elif kind == "onnx":
        onnx.require_onnx()
    stamp = Stamp(
        stage=f"export {kind}",
        settings={"version": EXPORT_VERSION},
        inputs={name: fingerprint_file(bundle / name) for name in (WEIGHTS, SPEC)},
    )
    with artefact(path, stamp=stamp, force=force, existing=[_stamp_of_export(bundle, path)]) as made:
        if made.is_current:
            return False
        _write(bundle, path, spec, kind, stamp)
    return True


def _write(bundle: Path, path: Path, spec: BundleSpec, kind: Format, stamp: Stamp) -> None:
    model = load_model(bundle, device="cpu", precision="float32")
    facts = facts_of(spec, kind) | {"stamp": stamp.to_dict()}
    is_wsinfer = kind == "wsinfer"
    network = ExportedNetwork(
        model,
        takes="standardised" if is_wsinfer else "scaled",
        gives="logits" if is_wsinfer else "probabilities",
    )
    content = _content(network, spec, kind, json.dumps(facts, sort_keys=True))
    with atomic_path(path) as temporary:
        temporary.mkdir(parents=True)
        (temporary / _NETWORK[kind]).write_bytes(content)
        if is_wsinfer:
            write_json(temporary / wsinfer.CONFIG, wsinfer.config_of(spec))
        write_json(temporary / FACTS, facts)
        (temporary / README).write_text(readme_of(spec, kind), encoding="utf-8")


def _content(network: ExportedNetwork, spec: BundleSpec, kind: Format, facts: str) -> bytes:
    """Return the network's file."""
    if kind == "onnx":
        return onnx.onnx_bytes(network, spec, facts=facts)
    # wsinfer's own --speedup tries 224 px first, and its patches are of one side already
    return torchscript(network, spec, facts=facts, checks=kind == "torchscript")


def _stamp_of_export(bundle: Path, path: Path) -> Stamp | None:
    """Return the stamp of the export that stands at a path; refuse to touch anything else, the bundle above all."""
    place, home = path.resolve(), bundle.resolve()
    if place == home or home in place.parents or place in home.parents:
        raise InputUnsupportedError(
            "the export would stand in the bundle, or in its place", place=str(path), remedy="choose another folder"
        )
    if not path.exists():
        return None
    try:
        ours = read_json(path / FACTS).get("stamp") if (path / FACTS).is_file() else None
    except InputCorruptError:
        ours = None
    if not isinstance(ours, dict):
        raise InputUnsupportedError(
            "something that is no export of a model stands there", place=str(path), remedy="choose another folder"
        )
    return Stamp.from_dict(ours)

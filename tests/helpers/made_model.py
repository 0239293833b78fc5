"""A small model made on the spot, for slides of three uint8 channels at 0.5 um/px."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from pathopatch.models.bundle import BLOCK, CHECK, SPEC, save_bundle, settings_sha256
from pathopatch.models.networks import build_network
from pathopatch.models.spec import BundleSpec


def made_spec(patch_px: int = 16, channels: Sequence[str] = ("R", "G", "B"), **changed: Any) -> BundleSpec:
    """Return the spec of a small network; stride, input and the moments of the channels follow from the arguments."""
    values = {
        "architecture": "small-groupnorm", "channels": tuple(channels), "dtype": "uint8", "patch_px": patch_px,
        "stride_px": patch_px, "mpp": 0.5, "input_px": patch_px, "mean": (0.5,) * len(channels),
        "std": (0.2,) * len(channels), "method": "erm",
    }  # fmt: skip
    return BundleSpec(**(values | changed))


_WRITTEN: dict[str, bytes] = {}


def write_model(folder: Path) -> Path:
    """Write a bundle of random weights, the same ones each time, for patches of 16 px; return its folder."""
    if not _WRITTEN:
        torch.manual_seed(0)
        save_bundle(folder, build_network("small-groupnorm", 3), made_spec(background="bright"))
        _WRITTEN.update({path.name: path.read_bytes() for path in folder.iterdir()})
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in _WRITTEN.items():
        (folder / name).write_bytes(content)
    return folder


def stated(bundle: Path) -> dict[str, Any]:
    """Return the spec in a bundle's file, as it is written."""
    return dict(json.loads((bundle / SPEC).read_text())[BLOCK])


def edit_spec(bundle: Path, **changes: Any) -> dict[str, Any]:
    """Change what a bundle's file states, there alone; return it."""
    config, spec = json.loads((bundle / SPEC).read_text()), stated(bundle) | changes
    (bundle / SPEC).write_text(json.dumps(config | {BLOCK: spec}))
    return spec


def edit_both(bundle: Path, **changes: Any) -> None:
    """Change the contract of a bundle in its file and in the header of the weights, as who makes one would."""
    spec, weights = edit_spec(bundle, **changes), load_file(bundle / "model.safetensors")
    save_file(weights, bundle / "model.safetensors", metadata={"pathopatch": json.dumps(spec)})


def redigest(bundle: Path) -> None:
    """Make the digest in a bundle's check that of its settings, as who makes one would."""
    check = json.loads((bundle / CHECK).read_text()) | {"settings_sha256": settings_sha256(bundle)}
    (bundle / CHECK).write_text(json.dumps(check))


def as_old_bundle(bundle: Path) -> Path:
    """Make a bundle one of version 0.1: ``model.json``, and no answers to compare with; return it."""
    spec = stated(bundle)
    (bundle / "config.json").unlink()
    (bundle / "check.json").unlink()
    (bundle / "model.json").write_text(json.dumps(spec))
    return bundle

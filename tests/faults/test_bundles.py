"""Bundles from strangers: giant networks, absurd sizes, malformed or endless files; refused at once, by their code."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_model import edit_both, edit_spec, redigest, stated, write_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pathopatch.core.errors import (
    CheckpointIncompatibleError,
    CheckpointUnsafeError,
    InputCorruptError,
    InputMissingError,
)
from pathopatch.models.bundle import checked_bundle
from pathopatch.models.loading import load_model

pytestmark = pytest.mark.fault("hostile-bundle")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


def without_graph(bundle: Path) -> None:
    """Take a bundle's graph away, so that torch must build the network."""
    edit_spec(bundle, onnx=None)
    (bundle / "model.onnx").unlink()


# The peak of this program alone: what getrusage tells, a child inherits from the process that started it.
_GIANT = """
import re, sys, time
import torch, timm
from pathlib import Path
from pathopatch.core.errors import CheckpointIncompatibleError
from pathopatch.models.loading import load_model

began = time.process_time()
try:
    load_model(Path(sys.argv[1]), device="cpu", runtime="torch")
except CheckpointIncompatibleError as error:
    print(error)
peak_kib = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
print(time.process_time() - began, peak_kib / 2**20)
"""


@pytest.mark.slow
def test_a_small_bundle_of_a_giant_network_is_refused_before_its_memory(bundle: Path) -> None:
    without_graph(bundle)
    edit_both(bundle, architecture="vit_7b_patch16_dinov3")
    redigest(bundle)
    done = subprocess.run([sys.executable, "-c", _GIANT, str(bundle)], capture_output=True, text=True, check=True)
    message, figures = done.stdout.splitlines()
    seconds, gib = map(float, figures.split())
    assert "CHECKPOINT_INCOMPATIBLE: the weights are not those of 'vit_7b" in message
    assert (seconds < 5, gib < 1) == (True, True), figures


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"input_px": 60000}, "input_px"),
        ({"patch_px": 60000}, "patch_px"),
        ({"stride_px": 60000}, "stride_px"),
        ({"mpp": 1e-9}, "mpp"),
        ({"mpp": 1e9}, "mpp"),
        ({"class_names": [str(number) for number in range(10**4)]}, "class_names"),
        ({"channels": [str(n) for n in range(10**4)], "mean": [0.5] * 10**4, "std": [0.5] * 10**4}, "channels"),
        ({"channels": [str(n) for n in range(64)], "mean": [0.5] * 64, "std": [0.5] * 64, "input_px": 4096}, "values"),
        ({"mean": [float("nan")] * 3}, "mean"),
        ({"architecture": ""}, "no architecture"),
        ({"architecture": "mlp-100", "input_px": 4096}, "the weights are not those of 'mlp-100'"),
        ({"architecture": "vit_tiny_patch16_224", "input_px": 17}, "the weights are not those of"),
    ],
)
def test_absurd_sizes_in_a_bundle_are_refused_by_name(changes: dict[str, Any], said: str, bundle: Path) -> None:
    with_graph = bundle.parent / "with-graph"
    shutil.copytree(bundle, with_graph)
    edit_both(with_graph, **changes)
    redigest(with_graph)
    with pytest.raises(CheckpointIncompatibleError, match=f"{said}|was made for"):
        load_model(with_graph)
    without_graph(bundle)
    edit_both(bundle, **changes)
    redigest(bundle)
    with pytest.raises(CheckpointIncompatibleError, match=said) as caught:
        load_model(bundle, device="cpu")
    assert len(str(caught.value)) < 2000


def test_every_flipped_byte_of_a_graph_is_noticed(bundle: Path) -> None:
    graph = bundle / "model.onnx"
    content = graph.read_bytes()
    for place in np.random.default_rng(0).integers(len(content), size=20).tolist():
        graph.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(InputCorruptError, match="not the one"):
            load_model(bundle)
    graph.unlink()
    with pytest.raises(InputMissingError, match=r"model\.onnx"):
        load_model(bundle)


def test_a_graph_that_takes_weights_from_another_file_is_unsafe(bundle: Path) -> None:
    graph = bundle / "model.onnx"
    content = graph.read_bytes().replace(b"model.safetensors", b"/etc/../etc/group", 1)
    graph.write_bytes(content)
    edit_spec(bundle, onnx=stated(bundle)["onnx"] | {"sha256": hashlib.sha256(content).hexdigest()})
    with pytest.raises(CheckpointUnsafeError, match="another file"):
        load_model(bundle)


def test_weights_of_another_type_are_incompatible(bundle: Path) -> None:
    without_graph(bundle)
    weights = {name: value.bfloat16() for name, value in load_file(bundle / "model.safetensors").items()}
    with safe_open(bundle / "model.safetensors", framework="numpy") as stream:
        metadata = stream.metadata()
    save_file(weights, bundle / "model.safetensors", metadata=metadata)
    with pytest.raises(CheckpointIncompatibleError, match="BF16, bundles have float32"):
        load_model(bundle)


def test_weights_stored_again_are_not_read_at_the_old_places(bundle: Path) -> None:
    weights = load_file(bundle / "model.safetensors")
    with safe_open(bundle / "model.safetensors", framework="numpy") as stream:
        metadata = stream.metadata()
    save_file(weights, bundle / "model.safetensors", metadata={**metadata, "note": "a longer header"})
    with pytest.raises(InputCorruptError, match="is not the file"):
        load_model(bundle)


SPECS = {
    "empty": "",
    "no JSON": "\xff\0",
    "a list": "[1]",
    "null": "null",
    "deep lists": "[" * 10**5,
    "deep objects": '{"a":' * 10**5,
    "many unknown keys": '{"pathopatch": {"schema_version": 1, ' + ", ".join(f'"{n}": 0' for n in range(10**4)) + "}}",
    "of another program": '{"architecture": "resnet18", "num_classes": 2}',
    "a block of another kind": '{"pathopatch": [1]}',
}


@pytest.mark.parametrize("text", SPECS.values(), ids=SPECS)
def test_a_malformed_or_deep_spec_is_incompatible(text: str, bundle: Path) -> None:
    (bundle / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointIncompatibleError) as caught:
        checked_bundle(bundle)
    assert len(str(caught.value)) < 2000


def header(content: bytes, *, data: bytes = bytes(64)) -> bytes:
    return len(content).to_bytes(8, "little") + content + data


def contract(text: str) -> bytes:
    return header(json.dumps({"__metadata__": {"pathopatch": text}}).encode(), data=b"")


HEADERS = {
    "deep": header(b'{"a":' * 10**5),
    "no JSON": header(b"x" * 100),
    "a list": header(b"[1, 2]"),
    "another kind": header(b'{"a": {"dtype": "F32", "shape": "3", "data_offsets": [0, 12]}}'),
    "a negative side": header(b'{"a": {"dtype": "F32", "shape": [-3], "data_offsets": [0, 12]}}'),
    "a deep contract": contract("[" * 10**5),
    "a contract of another kind": contract("[1]"),
    "no JSON as contract": contract("x"),
    "no contract": header(b"{}", data=b""),
}


@pytest.mark.parametrize("content", HEADERS.values(), ids=HEADERS)
def test_weights_with_a_malformed_header_are_incompatible(content: bytes, bundle: Path) -> None:
    (bundle / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointIncompatibleError) as caught:
        checked_bundle(bundle)
    assert len(str(caught.value)) < 2000


def test_weights_whose_last_bytes_are_missing_are_corrupt(bundle: Path) -> None:
    weights = bundle / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InputCorruptError, match="cut off"):
        checked_bundle(bundle)


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize(
    ("name", "make"),
    [(name, make) for name in ("", "config.json", "model.safetensors") for make in (os.mkfifo, loop, endless)]
    + [("", Path.touch), ("config.json", Path.mkdir), ("model.safetensors", Path.mkdir)],
)
def test_a_fifo_or_a_link_loop_as_bundle_is_incompatible(
    name: str, make: Callable[[Path], None], bundle: Path, tmp_path: Path
) -> None:
    place = bundle / name if name else tmp_path / "other"
    if name:
        place.unlink()
    make(place)
    began = time.monotonic()
    with pytest.raises(CheckpointIncompatibleError, match="is not a"):
        load_model(place.parent if name else place)
    assert time.monotonic() - began < 5


def test_a_fifo_beside_the_weights_does_not_stop_the_reader(bundle: Path) -> None:
    os.mkfifo(bundle / "other.safetensors")
    assert checked_bundle(bundle)[0].architecture == "small-groupnorm"

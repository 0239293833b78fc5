"""Run networks that came as TorchScript archives.

TorchScript is a program. Reading an archive unpickles tensors and TorchScript classes alone, and no Python code runs.
But the program may call operators of torch, some of which read and write files. So an archive that could run code while
it is read is refused, and so is one that calls anything but arithmetic.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pathopatch.core.errors import (
    CheckpointIncompatibleError,
    CheckpointUnsafeError,
    InputCorruptError,
    InputMissingError,
)
from pathopatch.core.input_files import require_regular
from pathopatch.models.device import full_float32
from pathopatch.models.runtime import require_function
from pathopatch.models.spec import BundleSpec, TorchScriptSpec

_NAMESPACES = ("aten", "prim", "torchvision")
_FILE_OPERATORS = ("aten::from_file", "aten::save")
# What stays of a call when all calls are replaced by their bodies: the callee is not known before it runs.
_OPEN_CALLS = ("prim::CallFunction", "prim::CallMethod")
PROGRAM_ERRORS: tuple[type[Exception], ...] = (RuntimeError, torch.jit.Error)
"""What a program raises that does not run: the second is no child of the first."""
_SUM_TOLERANCE = 1e-3  # of probabilities that were rounded to float16
_SETTING_STATE = re.compile(rb"\bdef\s+__setstate__\b")


class TorchScriptNetwork(nn.Module):
    """A TorchScript network with its own resizing, as a network of two classes, for patches of a side of `patch_px`.

    `program` is from `load_program`: float32 (N, 3, s, s) to logits (N, K), as wsinfer takes them; K = 1 is that of one
    class against all else. `spec` says which of the K classes are the second one here, and the size s.
    """

    resize: Tensor

    def __init__(self, program: nn.Module, spec: TorchScriptSpec, patch_px: int) -> None:
        super().__init__()
        self.program = program
        self.chosen = list(spec.chosen)
        self.rest = [number for number in range(len(spec.class_names)) if number not in spec.chosen]
        self.is_resized = spec.resize_px not in (None, patch_px)
        to_px = spec.resize_px if self.is_resized and spec.resize_px else 0
        matrix = pillow_weights(patch_px, to_px, spec.interpolation) if to_px else np.empty((0, 0), np.float32)
        self.register_buffer("resize", torch.from_numpy(matrix))
        # Weights of a frozen program are constants of its code. Here they have names, so that bundles store them.
        for number, constant in enumerate(_constants(program)):
            self.register_buffer(f"constant{number}", constant)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, 2) of standardised patches (N, 3, patch_px, patch_px).

        Their softmax is the probability of the chosen classes together, and of the rest.
        """
        if self.is_resized:
            x = self.resize @ x @ self.resize.T
        logits = self.program(x).flatten(1)  # (N, K); some networks give (N, K, 1, 1)
        if not self.rest:
            return torch.cat([torch.zeros_like(logits), logits], dim=1)
        sides = [logits[:, side].logsumexp(dim=1, keepdim=True) for side in (self.rest, self.chosen)]
        return torch.cat(sides, dim=1)


def pillow_weights(from_px: int, to_px: int, interpolation: int) -> NDArray[np.float32]:
    """Return Pillow's resizing along one side as a matrix m (to_px, from_px): m @ x @ m.T resizes a plane x."""
    from PIL import Image

    identity = Image.fromarray(np.eye(from_px, dtype=np.float32))
    return np.array(identity.resize((from_px, to_px), Image.Resampling(interpolation)), dtype=np.float32)


def open_archive(path: Path, spec: BundleSpec, *, device: torch.device | None = None) -> TorchScriptNetwork:
    """Return the network of an archive, in evaluation mode, on a device: constants of a program cannot be moved later.

    CheckpointUnsafeError if it is a pickle, or its program does more than arithmetic; CheckpointIncompatibleError if it
    gives another number of logits than the spec has classes, or probabilities, or does not run.
    """
    assert spec.torchscript is not None
    program = load_program(path, device or torch.device("cpu"))
    network = TorchScriptNetwork(program, spec.torchscript, spec.input_px).eval().requires_grad_(False)
    outputs = _outputs(program.eval(), spec, path, device)
    if outputs.shape[1] > 1 and outputs.min() >= 0 and np.abs(outputs.sum(axis=1) - 1).max() <= _SUM_TOLERANCE:
        raise CheckpointIncompatibleError(
            "it gives probabilities, and wsinfer would take their softmax",
            place=str(path),
            remedy="export the network without its softmax",
        )
    return network.to(device) if device else network


def load_program(path: Path, device: torch.device) -> nn.Module:
    """Return the program of an archive after it was checked."""
    _check_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript is deprecated, and wsinfer's models are nothing else
            program: nn.Module = torch.jit.load(str(path), map_location=device)  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError, OSError) as error:
        raise InputCorruptError(
            f"not a readable TorchScript archive: {_cause(error)}", place=str(path), remedy="fetch the file again"
        ) from error
    for kind in (node.kind() for node in _nodes(program.inlined_graph)):
        if kind.partition("::")[0] not in _NAMESPACES or kind in (*_FILE_OPERATORS, *_OPEN_CALLS):
            raise CheckpointUnsafeError(
                f"its program calls {kind}; only arithmetic is run",
                place=str(path),
                remedy="use a network that was traced or scripted without it",
            )
    return program


def _check_file(path: Path) -> None:
    """Refuse what is no TorchScript archive, or would run code while it is read."""
    require_regular(path)
    if not path.is_file():
        raise InputMissingError(
            f"no file {path.name}", place=str(path), remedy="give the folder of a model, or copy it again"
        )
    if not zipfile.is_zipfile(path):
        with path.open("rb") as stream:
            if stream.read(2) == b"PK":
                raise InputCorruptError("the archive is cut off", place=str(path), remedy="fetch the file again")
        raise _pickle(path)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            code = [entry for entry in entries if "/code/" in entry.filename and entry.filename.endswith(".py")]
            if not code:  # torch.save writes a zip file too, without code
                raise _pickle(path)
            runs_early = any(_SETTING_STATE.search(archive.read(entry)) for entry in code)
    except (zipfile.BadZipFile, EOFError) as error:
        raise InputCorruptError(
            f"not a readable archive: {error}", place=str(path), remedy="fetch the file again"
        ) from error
    if runs_early:
        raise CheckpointUnsafeError(
            "its program would run while the file is read (__setstate__); nothing was run",
            place=str(path),
            remedy="use a network in float32, without layers that pack their weights",
        )


def _pickle(path: Path) -> CheckpointUnsafeError:
    return CheckpointUnsafeError(
        "not TorchScript: a pickle could run code when read; it was not read",
        place=str(path),
        remedy="write the network by torch.jit.save",
    )


def _nodes(graph: Any) -> Iterator[Any]:
    """Yield the nodes of a graph, and of all blocks and graphs within it."""
    for node in graph.nodes():
        yield node
        for block in node.blocks():
            yield from _nodes(block)
        # A function that is called by torch.jit.fork is no block: its graph is an attribute.
        for name in node.attributeNames():
            if node.kindOf(name) == "g":
                yield from _nodes(node.g(name))
            elif node.kindOf(name) == "gs":
                for within in node.gs(name):
                    yield from _nodes(within)


def _constants(program: Any) -> Iterator[Tensor]:
    """Yield the tensors in the code of a program, of more than one value; those of a frozen program are its weights."""
    for node in _nodes(program.inlined_graph):
        if node.kind() == "prim::Constant" and node.hasAttribute("value") and node.kindOf("value") == "t":
            tensor = node.t("value")
            if tensor.numel() > 1 and tensor.dtype == torch.float32:
                yield tensor


def _outputs(
    program: nn.Module, spec: BundleSpec, path: Path, device: torch.device | None = None
) -> NDArray[np.float32]:
    """Return a program's outputs (N, K) of a probe, which must be as many as its classes."""
    assert spec.torchscript is not None
    n_classes = len(spec.torchscript.class_names)
    side = spec.torchscript.resize_px or spec.input_px

    def run(x: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode(), full_float32:
            output = program(torch.from_numpy(np.ascontiguousarray(x)).to(device))
        if not (isinstance(output, Tensor) and output.shape[:1] == (len(x),)):
            given = f"of shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
            raise CheckpointIncompatibleError(
                f"its output for {len(x)} patches is {given}, one vector for each is due",
                place=str(path),
                remedy="export the network with its pooling",
            )
        values: NDArray[np.float32] = output.float().cpu().numpy()
        return values

    try:
        probe = require_function(run, len(spec.channels), side, place=str(path))
    except PROGRAM_ERRORS as error:
        raise CheckpointIncompatibleError(
            f"its program does not run on patches of {side} px: {_cause(error)}",
            place=str(path),
            remedy="compare the size that the description states with what the network takes",
        ) from error
    probe = probe.reshape(len(probe), -1) if probe.ndim > 1 else probe
    if probe.shape[1:] != (n_classes,):
        raise CheckpointIncompatibleError(
            f"its output for a patch is {probe.shape[1:]}, {(n_classes,)} is due",
            place=str(path),
            remedy="name as many classes as the network gives logits",
        )
    return probe


def _cause(error: Exception) -> str:
    """Return the last line of a torch error, which says what went wrong; its first ones list the program's code."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]

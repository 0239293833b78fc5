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
    InputUnsupportedError,
)
from pathopatch.core.input_files import require_regular
from pathopatch.models.device import full_float32
from pathopatch.models.runtime import require_function
from pathopatch.models.spec import BundleSpec, OutputKind, TorchScriptSpec

_NAMESPACES = ("aten", "prim", "torchvision")
_FILE_OPERATORS = ("aten::from_file", "aten::save")
# What stays of a call when all calls are replaced by their bodies: the callee is not known before it runs.
_OPEN_CALLS = ("prim::CallFunction", "prim::CallMethod")
PROGRAM_ERRORS: tuple[type[Exception], ...] = (RuntimeError, torch.jit.Error)
"""What a program raises that does not run: the second is no child of the first."""
_LEAST_PROBABILITY, _EPS = 1e-37, 1e-7  # of float32: the smallest with a logarithm, and the smallest below 1
_SUM_TOLERANCE = 1e-3  # of probabilities that were rounded to float16
# What an output may pass through after a softmax.
_PASSED = ("to", "float", "view", "reshape", "flatten", "squeeze", "unsqueeze", "contiguous", "clone", "detach")
_MOST_CODE_BYTES = 2**26  # that the archive may hold beside its own size: torch compresses code, and stores tensors
_SETTING_STATE = re.compile(rb"\bdef\s+__setstate__\b")


class TorchScriptNetwork(nn.Module):
    """A TorchScript network with its own resizing, as a network of two classes, for patches of a side of `patch_px`.

    `program` is from `load_program`: float32 (N, 3, s, s) to logits (N, K), or to probabilities where `spec` says so;
    K = 1 is that of one class against all else. `spec` says which of the K classes are the second one here, and the
    size s.
    """

    resize: Tensor

    def __init__(self, program: nn.Module, spec: TorchScriptSpec, patch_px: int) -> None:
        super().__init__()
        self.program = program
        self.chosen = list(spec.chosen)
        self.rest = [number for number in range(len(spec.class_names)) if number not in spec.chosen]
        self.gives_probabilities = spec.gives_probabilities
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
        if self.gives_probabilities:
            logits = _logits_of(logits)
        if not self.rest:
            return torch.cat([torch.zeros_like(logits), logits], dim=1)
        sides = [logits[:, side].logsumexp(dim=1, keepdim=True) for side in (self.rest, self.chosen)]
        return torch.cat(sides, dim=1)


def pillow_weights(from_px: int, to_px: int, interpolation: int) -> NDArray[np.float32]:
    """Return Pillow's resizing along one side as a matrix m (to_px, from_px): m @ x @ m.T resizes a plane x."""
    from PIL import Image

    identity = Image.fromarray(np.eye(from_px, dtype=np.float32))
    return np.array(identity.resize((from_px, to_px), Image.Resampling(interpolation)), dtype=np.float32)


def _logits_of(probabilities: Tensor) -> Tensor:
    """Return logits (N, K) whose softmax, or for K = 1 whose sigmoid, are the probabilities (N, K)."""
    probabilities = probabilities.float()  # in bfloat16 the bounds are 0 and 1
    if probabilities.shape[1] > 1:
        return probabilities.clamp(min=_LEAST_PROBABILITY).log()
    p = probabilities.clamp(min=_EPS, max=1 - _EPS)
    return p.log() - (1 - p).log()


def open_archive(path: Path, spec: BundleSpec, *, device: torch.device | None = None) -> TorchScriptNetwork:
    """Return the network of an archive, in evaluation mode, on a device: constants of a program cannot be moved later.

    CheckpointUnsafeError if it is a pickle, or its program does more than arithmetic; CheckpointIncompatibleError if it
    gives another number of logits than the spec has classes, or does not run.
    """
    assert spec.torchscript is not None
    program = load_program(path, device or torch.device("cpu"))
    network = TorchScriptNetwork(program, spec.torchscript, spec.input_px).eval().requires_grad_(False)
    _outputs(program.eval(), spec, path, device)
    return network.to(device) if device else network


def gives_probabilities(path: Path, spec: BundleSpec, *, stated: OutputKind | None) -> bool:
    """Return whether the network of an archive gives probabilities, to which no softmax may be applied again.

    Where it is not `stated`, the outputs of several classes tell it: they are in [0, 1] and sum to 1. A single output
    is a probability where the program ends in a sigmoid, and else a logit, as wsinfer takes it.
    CheckpointIncompatibleError if outputs are not as stated, and if each of several classes has a sigmoid.
    """
    program = load_program(path, torch.device("cpu")).eval()
    # One of several ends is enough: some networks have another in training.
    ends_in_sigmoid = "aten::sigmoid" in _last_operators(program.inlined_graph)
    outputs = _outputs(program, spec, path)
    if outputs.shape[1] == 1 and not ends_in_sigmoid:
        stated = stated or "logits"
    return are_probabilities(outputs, path, ends_in_sigmoid=ends_in_sigmoid, stated=stated)


def are_probabilities(
    outputs: NDArray[np.float32], path: Path, *, ends_in_sigmoid: bool, stated: OutputKind | None
) -> bool:
    """Return whether outputs (N, K) of a network are probabilities; errors as of `gives_probabilities`.

    Also CheckpointIncompatibleError for a single output in [0, 1] if nothing says what it is.
    """
    is_single, in_range = outputs.shape[1] == 1, bool(((outputs >= 0) & (outputs <= 1)).all())
    if is_single and in_range and not ends_in_sigmoid and stated is None:
        raise CheckpointIncompatibleError(
            f"its output, {outputs.min():.3g} to {outputs.max():.3g} on test patches, may be a logit or a probability",
            place=str(path),
            remedy='state outputs = "logits" or "probabilities" in a TOML file that describes the network',
        )
    if stated == "logits":
        return False
    if in_range and (is_single or np.abs(outputs.sum(axis=1) - 1).max() <= _SUM_TOLERANCE):
        return True
    if stated == "probabilities":
        raise CheckpointIncompatibleError(
            f"its outputs are stated to be probabilities, and are {outputs.min():.3g} to {outputs.max():.3g}, or do "
            "not sum to 1",
            place=str(path),
            remedy="compare the description with the network",
        )
    if ends_in_sigmoid and in_range:
        raise CheckpointIncompatibleError(
            "it ends in a sigmoid: each class has a probability of its own, and a bundle's classes exclude each other",
            place=str(path),
            remedy="export the network without the sigmoid if they do, or with one class",
        )
    return False


def _last_operators(graph: Any) -> set[str]:
    """Return the operators whose results a graph gives, such as ``aten::softmax``; changes of shape are none."""
    kinds, values = set(), list(graph.outputs())
    while values:
        value = values.pop()
        node = value.node()
        if node.kind() == "prim::If":
            number = [output.debugName() for output in node.outputs()].index(value.debugName())
            values += [list(block.outputs())[number] for block in node.blocks()]
        elif node.kind().partition("::")[2] in _PASSED:
            values.append(next(node.inputs()))
        else:
            kinds.add(node.kind())
    return kinds


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
            if sum(entry.file_size for entry in entries) > path.stat().st_size + _MOST_CODE_BYTES:
                raise InputUnsupportedError(
                    "it would be far larger when unpacked", place=str(path), remedy="store it by torch.jit.save"
                )
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

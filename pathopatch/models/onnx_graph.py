"""Write a network as the ONNX graph of a bundle, whose weights are those of ``model.safetensors``; take graphs over.

The graph names the place of each weight in that file [1]_. So a bundle holds its weights once, and both runtimes read
the same bytes.

References
----------
.. [1] ONNX, "External data", https://onnx.ai/onnx/repo-docs/ExternalData.html
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from pathopatch.core.artefacts import fingerprint, fingerprint_file
from pathopatch.core.errors import (
    CheckpointIncompatibleError,
    CheckpointUnsafeError,
    InputCorruptError,
    InputTooLargeError,
    InputUnsupportedError,
    PathopatchError,
)
from pathopatch.core.user_cache import read_cached, write_cached
from pathopatch.models import frozen, networks
from pathopatch.models.runtime import patches_per_pass, probe_patches, require_finite_answers, require_function
from pathopatch.models.runtime.openvino_runtime import FixedBatch, OpenVINORuntime, compile_network, cores
from pathopatch.models.runtime.torch_runtime import TorchRuntime
from pathopatch.models.spec import BundleSpec, OnnxGraph, OutputKind
from pathopatch.models.weights import file_inside, file_sha256, tensor_places

if TYPE_CHECKING:
    import onnx
    from torch import nn

INPUT, TISSUE, OUTPUT = "patches", "tissue", "logits"
_LOGIT_TOLERANCE = 1e-4  # relative to the largest logit, or to 1
_PROBE_STEP = 8  # a patch of each kind
_PROGRAM_OPSET = 18  # the first in which resizing is as torch's
_LEAST_BYTES = 64  # of a weight that a graph takes from the file of the weights; less stays in the graph
_MOST_BYTES = 2**31 - 1  # of a graph with its weights: protobuf holds no more
_LEAST_PROBABILITY, _EPS = 1e-37, 1e-7  # of float32: the smallest with a logarithm, and the smallest below 1
_SUM_TOLERANCE = 1e-3  # of probabilities that were rounded to float16
_PASSED = ("Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze")  # after a sigmoid


def export_program(
    network: nn.Module, inputs: Mapping[str, torch.Tensor], output: str, *, optimize: bool = False
) -> onnx.ModelProto:
    """Return a network in evaluation mode as ONNX, for any number of patches; `inputs` (N, C, H, W) are to trace it.

    With `optimize` weights are folded into each other, and lose their names. InputUnsupportedError if ONNX cannot hold
    the network.
    """
    import onnx

    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")  # torch and its libraries warn about each other
        try:
            program = torch.onnx.export(
                network,
                tuple(inputs.values()),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("N")},) * len(inputs),
                input_names=list(inputs),
                output_names=[output],
                optimize=optimize,
                verbose=False,
            )
            assert program is not None
            model = program.model_proto
            _remove_notes(model)
            onnx.checker.check_model(model, full_check=True)
        except (RuntimeError, ValueError, onnx.checker.ValidationError) as error:
            raise InputUnsupportedError(
                f"the network cannot be written as ONNX: {error}",
                place="architecture",
                remedy="predict with the runtime torch of [predict], or train another architecture",
            ) from error
    return model


def _remove_notes(model: onnx.ModelProto) -> None:
    """Remove source paths and notes on a translation, which are not needed to run a model."""
    graph = model.graph
    model.doc_string = graph.doc_string = ""
    del graph.value_info[:], graph.metadata_props[:], model.metadata_props[:]
    for named in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        del named.metadata_props[:]
        named.doc_string = ""


def write_graph(path: Path, weights: Path, spec: BundleSpec, network: nn.Module | ImportedGraph) -> OnnxGraph:
    """Write the network of a bundle as an ONNX graph, compare its logits with torch's, and return its facts.

    It takes ``patches``, standardised float32 (N, C, input_px, input_px), and gives ``logits`` (N, K). Equal models
    give equal bytes. `weights` is the bundle's safetensors file, beside `path`. InputUnsupportedError if ONNX cannot
    hold the network, or its graph has other logits.
    """
    import onnx

    run: Callable[[NDArray[np.float32]], NDArray[np.float32]]
    if isinstance(network, ImportedGraph):
        model, run = network.model_of_two(), network.logits
        places = _places_by_content(model, weights)
    elif spec.torchscript is None:
        model = onnx.ModelProto()
        model.ParseFromString(_graph_of(spec))
        places = tensor_places(weights)
    else:
        model = _graph_of_program(network, spec)
        places = _places_by_content(model, weights)
    if not isinstance(network, ImportedGraph):
        run = TorchRuntime(network).logits
    for tensor in model.graph.initializer:
        if tensor.name not in places:
            continue  # a constant
        start, size = places[tensor.name]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for name, value in (("location", weights.name), ("offset", str(start)), ("length", str(size))):
            entry = tensor.external_data.add()
            entry.key, entry.value = name, value
    content = model.SerializeToString(deterministic=True)
    path.write_bytes(content)
    graph = OnnxGraph(
        sha256=hashlib.sha256(content).hexdigest(),
        weights_sha256=file_sha256(weights),
        architecture=spec.architecture,
        input_shape=spec.input_shape,
        inside_px=0 if spec.backbone is None else spec.backbone.side_px,
        classes=len(spec.class_names),
        opset=next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx")),
        producer=f"{model.producer_name} {model.producer_version}".strip(),
    )
    _require_equal_logits(path, weights, graph, run)
    return graph


def _graph_of_program(network: nn.Module, spec: BundleSpec) -> onnx.ModelProto:
    """Return the graph of a network from TorchScript, with its weights, all of them initializers."""
    import onnx

    patches, buffer = torch.zeros(2, *spec.input_shape), io.BytesIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")  # torch's other exporter, which is not deprecated, takes no TorchScript
        try:
            traced = torch.jit.trace(network, (patches,), check_trace=False)  # type: ignore[no-untyped-call]
            torch.onnx.export(
                traced,
                (patches,),
                buffer,  # type: ignore[arg-type]  # this exporter takes streams
                dynamo=False,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_axes={name: {0: "N"} for name in (INPUT, OUTPUT)},
                # Layers stay as they are: weights that are folded into each other are in no file.
                training=torch.onnx.TrainingMode.PRESERVE,
                do_constant_folding=False,
                opset_version=_PROGRAM_OPSET,
            )
            model = onnx.load_from_string(buffer.getvalue())
        except (RuntimeError, ValueError, torch.onnx.errors.OnnxExporterError) as error:
            raise InputUnsupportedError(
                f"the network cannot be written as ONNX: {error}", place="architecture", remedy="use torch to run it"
            ) from error
    for node in model.graph.node:
        node.doc_string = ""
    _name_constants(model.graph)
    return model


def _name_constants(graph: onnx.GraphProto) -> None:
    """Make the constants of a graph initializers, which may lie in another file."""
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensor = node.attribute[0].t
            tensor.name = node.output[0]
            graph.initializer.append(tensor)
    kept = [node for node in graph.node if not (node.op_type == "Constant" and node.attribute[0].name == "value")]
    del graph.node[:]
    graph.node.extend(kept)


def _places_by_content(model: onnx.ModelProto, weights: Path) -> dict[str, tuple[int, int]]:
    """Return first byte and number of bytes in a safetensors file of the initializers that it holds, by their name."""
    # The exporter gives the weights of a program names of its own.
    digests = {}
    with weights.open("rb") as stream:
        for start, size in tensor_places(weights).values():
            stream.seek(start)
            digests[hashlib.sha256(stream.read(size)).digest()] = start, size
    return {
        tensor.name: digests[digest]
        for tensor in model.graph.initializer
        if len(tensor.raw_data) >= _LEAST_BYTES and (digest := hashlib.sha256(tensor.raw_data).digest()) in digests
    }


def _require_equal_logits(
    path: Path, weights: Path, graph: OnnxGraph, run: Callable[[NDArray[np.float32]], NDArray[np.float32]]
) -> None:
    """Remove a graph whose logits differ from those of the network by `run`, and raise."""
    x = probe_patches(*graph.input_shape[:2])[::_PROBE_STEP]
    expected = run(x)
    require_finite_answers(expected, place=graph.architecture)
    try:
        ready = OpenVINORuntime(path, weights, graph)
        difference = float(np.abs(ready.logits(x) - expected).max())
        problem = f"its logits differ by {difference:g}"
    except RuntimeError as error:
        difference, problem = math.inf, str(error)
    if not difference <= _LOGIT_TOLERANCE * max(1.0, float(np.abs(expected).max())):  # NaN is not <=
        path.unlink()
        raise InputUnsupportedError(
            f"OpenVINO cannot run {graph.architecture} as ONNX: {problem}",
            place="architecture",
            remedy="predict with the runtime torch of [predict]",
        )


def _graph_of(spec: BundleSpec) -> bytes:
    """Return the graph of any network of a spec's architecture, without weights: networks differ in these alone."""
    # To trace a network takes seconds, once for all runs of a study.
    made_by = [version(name) for name in ("torch", "timm", "onnx", "onnxscript")]
    written_in = [fingerprint_file(Path(str(module.__file__))) for module in (networks, frozen)]
    name = f"graph-{fingerprint([spec.architecture, len(spec.channels), spec.form, *written_in, *made_by])}"
    if (kept := read_cached(name)) is not None:
        return kept
    with torch.random.fork_rng(devices=()):  # the weights are random, and are not kept
        network = networks.build_network(spec.architecture, len(spec.channels), **spec.form)
    model = export_program(network.eval(), {INPUT: torch.zeros(2, *spec.input_shape)}, OUTPUT)
    names = set(network.state_dict())
    for tensor in model.graph.initializer:
        if tensor.name in names:
            tensor.ClearField("raw_data")
    content = bytes(model.SerializeToString(deterministic=True))
    write_cached(name, content)
    return content


def read_onnx(path: Path) -> onnx.ModelProto:
    """Return an ONNX file with its weights, which lie in it or in files of its folder; nothing else is opened.

    CheckpointUnsafeError for a path that leads outside the folder; InputCorruptError, InputTooLargeError.
    """
    import onnx
    from onnx import external_data_helper, numpy_helper

    folder, size = path.parent.resolve(), path.stat().st_size
    try:
        content = path.read_bytes() if size <= _MOST_BYTES else b""
        with contextlib.suppress(onnx.checker.ValidationError):  # of weights that are not loaded yet
            onnx.checker.check_model(content)
        model = _parsed(content)
        for tensor in filter(external_data_helper.uses_external_data, model.graph.initializer):
            stored = external_data_helper.ExternalDataInfo(tensor)
            file = file_inside(folder, stored.location)
            size += max(stored.length or 0, 0) or file.stat().st_size
        if size > _MOST_BYTES:
            raise InputTooLargeError(
                f"{size} bytes, {_MOST_BYTES} at most", place=str(path), remedy="use a smaller network"
            )
        for tensor in model.graph.initializer:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor, str(folder)), tensor.name))
        onnx.checker.check_model(model)
    except PathopatchError:
        raise
    except (ValueError, TypeError, OSError, onnx.checker.ValidationError) as error:
        raise InputCorruptError(
            f"not valid ONNX: {error}", place=str(path), remedy="fetch it again, with all files beside it"
        ) from error
    return model


def _parsed(content: bytes) -> onnx.ModelProto:
    """Return the bytes of an ONNX file as a model; ValueError if they are something else."""
    import onnx

    try:
        return onnx.load_from_string(content)
    except Exception as error:  # a DecodeError of protobuf, which onnx does not pass on
        raise ValueError(str(error)) from error


def _are_probabilities(
    outputs: NDArray[np.float32], path: Path, *, ends_in_sigmoid: bool, stated: OutputKind | None
) -> bool:
    """Return whether outputs (N, K) of a network are probabilities, to which no softmax may be applied again.

    Where it is not `stated`, the outputs of several classes tell it: they are in [0, 1] and sum to 1. A single output
    is a probability where the graph ends in a sigmoid. CheckpointIncompatibleError if outputs are not as stated, for a
    single one in [0, 1] that nothing explains, and if each of several classes has a sigmoid.
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


class ImportedGraph:
    """A network that came as ONNX, for standardised patches of a spec, whose K classes become two.

    `path` is its file. `chosen` are the numbers of the classes that are the second one here; with K = 1 that is told
    from all else. `stated` says what its outputs are, as in `_are_probabilities`. CheckpointIncompatibleError if it
    takes or gives something else, or its outputs are no function of the patch; further raises as `read_onnx`.
    """

    def __init__(
        self, path: Path, spec: BundleSpec, *, n_classes: int, chosen: Sequence[int], stated: OutputKind | None
    ) -> None:
        model = read_onnx(path)
        self._model, self._place, self._shape = model, path, spec.input_shape
        _remove_notes(model)
        _name_constants(model.graph)
        self._require_patches()
        self._content = model.SerializeToString()
        if b"location" in self._content:  # the name of the key by which a tensor names its file
            raise CheckpointUnsafeError(
                "a part of it that is no weight lies in another file, or is named `location`",
                place=str(path),
                remedy="export the network again, with its weights in one file",
            )
        self.weights = {
            f"weight{number}": torch.frombuffer(bytearray(tensor.raw_data), dtype=torch.float32)
            for number, tensor in enumerate(model.graph.initializer)
            if tensor.data_type == 1 and len(tensor.raw_data) >= _LEAST_BYTES
        }
        outputs = require_function(self.outputs, spec.input_channels, spec.input_px, place=str(path))
        if outputs.shape[1] != n_classes:
            raise self._incompatible(f"its output for a patch has {outputs.shape[1]} values, {n_classes} is due")
        self.gives_probabilities = _are_probabilities(
            outputs.astype(np.float32),
            path,
            ends_in_sigmoid=self._last_operator() == "Sigmoid",
            stated=stated,
        )
        # Columns of the first class and of the second one.
        columns = np.zeros((n_classes, 2), np.float32)
        columns[np.arange(n_classes), [int(number in chosen) for number in range(n_classes)]] = 1
        self._columns = columns

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the weights."""
        return self.weights

    def outputs(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the network's own outputs (N, K) of standardised patches (N, C, H, W), by OpenVINO."""
        return self._run(self._content, x)

    def logits(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits (N, 2) of standardised patches (N, C, H, W), as the bundle is to give them."""
        return self._run(self.model_of_two().SerializeToString(), x)

    def _run(self, content: bytes, x: NDArray[np.float32]) -> NDArray[np.float32]:
        import openvino

        # Two patches at least and no padding beyond: else an answer that depends on the other patches is not found.
        shape = max(2, min(len(x), patches_per_pass(x.shape[-1]))), *x.shape[1:]
        try:
            network = openvino.Core().read_model(content)
            outputs = FixedBatch(compile_network(network, shape, "float32", cores()), shape)(x)
        except RuntimeError as error:
            raise self._incompatible(f"OpenVINO cannot run it: {str(error).strip().splitlines()[-1]}") from error
        return outputs.reshape(len(x), -1)

    def model_of_two(self) -> onnx.ModelProto:
        """Return the graph with logits of two classes, by operators that are the same in all versions of ONNX."""
        import onnx
        from onnx import helper, numpy_helper

        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        graph, n_classes = model.graph, len(self._columns)
        name, number = graph.output[0].name, 0

        def add(operator: str, *constants: NDArray[np.float32], **attributes: Any) -> None:
            nonlocal name, number
            names = [f"pathopatch.{operator}.{number}.{place}" for place in range(len(constants))]
            graph.initializer.extend(map(numpy_helper.from_array, constants, names))
            number += 1
            graph.node.append(helper.make_node(operator, [name, *names], [f"pathopatch.{number}"], **attributes))
            name = f"pathopatch.{number}"

        add("Flatten", axis=1)
        if n_classes > 2 and not self.gives_probabilities:
            add("Softmax", axis=1)
        if n_classes == 1 and self.gives_probabilities:  # (1 - p, p)
            add("MatMul", np.array([[-1, 1]], np.float32))
            add("Add", np.array([[1, 0]], np.float32))
        else:
            add("MatMul", self._columns)
        if n_classes > 2 or self.gives_probabilities:
            add("Max", np.array(_LEAST_PROBABILITY if n_classes > 1 else _EPS, np.float32))
            add("Log")
        del graph.output[:]
        graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", 2]))
        return model

    def _require_patches(self) -> None:
        """Refuse a graph that does not take patches and give one vector for each; free the number of patches."""
        graph = self._model.graph
        weights = {tensor.name for tensor in graph.initializer}
        inputs = [value for value in graph.input if value.name not in weights]
        values = [*inputs, *graph.output]
        if len(inputs) != 1 or len(graph.output) != 1:
            raise self._incompatible(f"{len(inputs)} inputs and {len(graph.output)} outputs, one of each is due")
        if {value.type.tensor_type.elem_type for value in values} != {1}:
            raise self._incompatible("its input or output is not float32")
        dims = inputs[0].type.tensor_type.shape.dim
        stated = tuple(dim.dim_value for dim in dims)  # 0: any
        if len(dims) != 4 or any(side not in (0, due) for side, due in zip(stated[1:], self._shape, strict=True)):
            raise self._incompatible(f"it takes patches of {stated[1:]}, the description says {self._shape}")
        dims[0].dim_param = "N"
        del graph.input[:]
        graph.input.extend(inputs)
        graph.output[0].type.tensor_type.ClearField("shape")

    def _last_operator(self) -> str:
        """Return the operator whose results the graph gives; changes of shape and type are none."""
        by_output = {name: node for node in self._model.graph.node for name in node.output}
        name = self._model.graph.output[0].name
        while name in by_output and by_output[name].op_type in _PASSED:
            name = by_output[name].input[0]
        return str(by_output[name].op_type) if name in by_output else ""

    def _incompatible(self, problem: str) -> CheckpointIncompatibleError:
        return CheckpointIncompatibleError(
            problem, place=str(self._place), remedy="compare the description with the network, or export it again"
        )

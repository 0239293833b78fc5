"""Write a network as the ONNX graph of a bundle, whose weights are those of ``model.safetensors``.

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
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from pathopatch.core.artefacts import fingerprint, fingerprint_file
from pathopatch.core.errors import InputUnsupportedError
from pathopatch.core.user_cache import read_cached, write_cached
from pathopatch.models import networks
from pathopatch.models.runtime import probe_patches
from pathopatch.models.runtime.openvino_runtime import OpenVINORuntime
from pathopatch.models.runtime.torch_runtime import TorchRuntime
from pathopatch.models.spec import BundleSpec, OnnxGraph
from pathopatch.models.weights import file_sha256, tensor_places

if TYPE_CHECKING:
    import onnx
    from torch import nn

INPUT, TISSUE, OUTPUT = "patches", "tissue", "logits"
_LOGIT_TOLERANCE = 1e-4  # relative to the largest logit, or to 1
_PROBE_STEP = 8  # a patch of each kind
_PROGRAM_OPSET = 18  # the first in which resizing is as torch's
_LEAST_BYTES = 64  # of a weight that a graph takes from the file of the weights; less stays in the graph


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
            # Source paths and notes on the translation are not needed to run the model.
            graph = model.graph
            del graph.value_info[:], graph.metadata_props[:], model.metadata_props[:]
            for named in (*graph.node, *graph.input, *graph.output, *graph.initializer):
                del named.metadata_props[:]
                named.doc_string = ""
            onnx.checker.check_model(model, full_check=True)
        except (RuntimeError, ValueError, onnx.checker.ValidationError) as error:
            raise InputUnsupportedError(
                f"the network cannot be written as ONNX: {error}",
                place="architecture",
                remedy="predict with the runtime torch of [predict], or train another architecture",
            ) from error
    return model


def write_graph(path: Path, weights: Path, spec: BundleSpec, network: nn.Module) -> OnnxGraph:
    """Write the network of a bundle as an ONNX graph, compare its logits with torch's, and return its facts.

    It takes ``patches``, standardised float32 (N, C, input_px, input_px), and gives ``logits`` (N, K). Equal models
    give equal bytes. `weights` is the bundle's safetensors file, beside `path`. InputUnsupportedError if ONNX cannot
    hold the network, or its graph has other logits.
    """
    import onnx

    if spec.torchscript is None:
        model = onnx.ModelProto()
        model.ParseFromString(_graph_of(spec))
        places = tensor_places(weights)
    else:
        model = _graph_of_program(network, spec)
        places = _places_by_content(model, weights)
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
        classes=len(spec.class_names),
        opset=next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx")),
        producer=f"{model.producer_name} {model.producer_version}".strip(),
    )
    _require_equal_logits(path, weights, graph, network)
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
    graph = model.graph
    for node in graph.node:
        node.doc_string = ""
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensor = node.attribute[0].t
            tensor.name = node.output[0]
            graph.initializer.append(tensor)
    kept = [node for node in graph.node if not (node.op_type == "Constant" and node.attribute[0].name == "value")]
    del graph.node[:]
    graph.node.extend(kept)
    return model


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


def _require_equal_logits(path: Path, weights: Path, graph: OnnxGraph, network: nn.Module) -> None:
    """Remove a graph whose logits differ from the network's, and raise."""
    x = probe_patches(*graph.input_shape[:2])[::_PROBE_STEP]
    expected = TorchRuntime(network).logits(x)
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
    form = [spec.architecture, len(spec.channels), spec.form, fingerprint_file(Path(networks.__file__))]
    name = f"graph-{fingerprint([*form, *made_by])}"
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

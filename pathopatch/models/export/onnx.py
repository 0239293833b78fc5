"""Write a network as ONNX: equal bytes for equal models, without local paths."""

from __future__ import annotations

import contextlib
import io
import warnings
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch

from pathopatch.core.errors import InputUnsupportedError
from pathopatch.models.export.network import ExportedNetwork, probe
from pathopatch.models.spec import BundleSpec

if TYPE_CHECKING:
    import onnx

_NEEDED = ("onnx", "onnxscript")


def onnx_bytes(network: ExportedNetwork, spec: BundleSpec, *, metadata: str) -> bytes:
    """Return a network as an ONNX model: input ``patches``, output ``probabilities``, any number of patches.

    Parameters
    ----------
    network : ExportedNetwork
        Network to write.
    spec : BundleSpec
        The model's.
    metadata : str
        JSON for the model's metadata ``pathopatch``.

    Raises
    ------
    InputUnsupportedError
        The extra `export` is not installed, or ONNX cannot hold the network.
    """
    require_onnx()
    import onnx

    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")  # torch and its libraries warn about each other
        try:
            program = torch.onnx.export(
                network,
                (probe(spec, 2),),
                dynamo=True,
                dynamic_shapes={"patches": {0: torch.export.Dim("N")}},
                input_names=["patches"],
                output_names=["probabilities"],
                verbose=False,
            )
            assert program is not None
            model = program.model_proto
            _remove_origin(model)
            model.metadata_props.add(key="pathopatch", value=metadata)
            onnx.checker.check_model(model, full_check=True)
        except (RuntimeError, ValueError, onnx.checker.ValidationError) as error:
            raise InputUnsupportedError(
                f"{spec.architecture} cannot be written as ONNX: {error}",
                place="architecture",
                remedy="export it as torchscript, or train another architecture",
            ) from error
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def require_onnx() -> None:
    """Raise `InputUnsupportedError` if the packages that write ONNX are not installed."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise InputUnsupportedError(
            f"{' and '.join(missing)} is not installed", place="onnx", remedy="pip install onnx onnxscript"
        )


def _remove_origin(model: onnx.ModelProto) -> None:
    """Remove source paths and notes on the translation, which are not needed to run the model."""
    graph = model.graph
    del graph.value_info[:], graph.metadata_props[:], model.metadata_props[:]
    for named in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        del named.metadata_props[:]
        named.doc_string = ""

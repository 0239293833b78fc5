"""How a network becomes an ONNX file, in equal bytes for equal models and without a trace of who wrote it."""

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

INPUT, OUTPUT, BATCH = "patches", "probabilities", "N"
_NEEDED = ("onnx", "onnxscript")


def onnx_bytes(network: ExportedNetwork, spec: BundleSpec, *, facts: str) -> bytes:
    """Return a network as an ONNX model of one input and one output, any number of patches at a time.

    Parameters
    ----------
    network : ExportedNetwork
        What to write.
    spec : BundleSpec
        The model's.
    facts : str
        JSON that becomes the model's metadata ``pathopatch``.

    Raises
    ------
    InputUnsupportedError
        The extra `export` is not installed, or ONNX cannot hold the network.
    """
    require_onnx()
    import onnx

    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")  # of torch and its libraries about each other
        try:
            program = torch.onnx.export(
                network,
                (probe(spec, 2),),
                dynamo=True,
                dynamic_shapes={"patches": {0: torch.export.Dim(BATCH)}},
                input_names=[INPUT],
                output_names=[OUTPUT],
                verbose=False,
            )
            assert program is not None
            written = program.model_proto
            _forget(written)
            written.metadata_props.add(key="pathopatch", value=facts)
            onnx.checker.check_model(written, full_check=True)
        except (RuntimeError, ValueError, onnx.checker.ValidationError) as error:
            raise InputUnsupportedError(
                f"{spec.architecture} cannot be written as ONNX: {error}",
                place="architecture",
                remedy="export it as torchscript, or train another architecture",
            ) from error
    content: bytes = written.SerializeToString(deterministic=True)
    return content


def require_onnx() -> None:
    """Raise if what writes ONNX is not installed.

    Raises
    ------
    InputUnsupportedError
        It is not.
    """
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise InputUnsupportedError(
            f"{' and '.join(missing)} is not installed", place="onnx", remedy="pip install onnx onnxscript"
        )


def _forget(written: onnx.ModelProto) -> None:
    """Take out what says where the source stood and how it was translated: nothing of it is needed to run."""
    graph = written.graph
    del graph.value_info[:], graph.metadata_props[:], written.metadata_props[:]
    for named in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        del named.metadata_props[:]
        named.doc_string = ""

"""Write a network as TorchScript: equal bytes for equal models, without local paths.

torch numbers the classes that it records by all that the process recorded before. It also stores the source positions
of this machine and the example input. None of that is needed to run the network: it is removed, and the rest is packed
again in one order.
"""

from __future__ import annotations

import io
import re
import warnings
import zipfile
from collections.abc import Callable

import torch
from torch import Tensor, nn

from pathopatch.core.errors import InputUnsupportedError
from pathopatch.models.export.network import ExportedNetwork, check_patches, probe
from pathopatch.models.spec import BundleSpec

_METADATA = "pathopatch.json"
_TOLERANCE = 1e-5
_CLASS_NUMBER = re.compile(rb"\.?___torch_mangle_\d+")
_EARLIEST_DATE = (1980, 1, 1, 0, 0, 0)  # of the zip format
_REMOVED = re.compile(r"\.debug_pkl$|/traced_inputs(/|\.pkl$)|/\.data/serialization_id$")


def torchscript_bytes(network: ExportedNetwork, spec: BundleSpec, *, metadata: str, checks: bool) -> bytes:
    """Return a network as a TorchScript archive, with `metadata`, JSON, as ``extra/pathopatch.json``.

    With `checks` the network refuses patches of another shape, or with values outside [0, 1]. `InputUnsupportedError`
    if the recording differs from the network: it may depend on the example patches.
    """
    with warnings.catch_warnings(), torch.no_grad():
        # TorchScript is deprecated, but QuPath and wsinfer load nothing else.
        warnings.simplefilter("ignore")
        try:
            check = torch.jit.script(check_patches) if checks else None
            recorded = torch.jit.trace(_Flat(network, spec, check), probe(spec, 2), check_trace=False)  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            raise _not_recorded(spec, str(error)) from error
        buffer = io.BytesIO()
        torch.jit.save(recorded, buffer, _extra_files={_METADATA: metadata})
        packed = _repack(buffer.getvalue())
        loaded = torch.jit.load(io.BytesIO(packed))  # type: ignore[no-untyped-call]
        _compare(loaded, network, spec)
    return packed


class _Flat(nn.Module):
    """A network with all its tensors in one module, so that the recording has one class and one file of code."""

    def __init__(self, network: nn.Module, spec: BundleSpec, check: Callable[..., Tensor] | None) -> None:
        super().__init__()
        self.hidden = (network, check)  # in a tuple, so that torch does not register them as submodules
        self.shape = (len(spec.channels), spec.patch_px)
        for name, parameter in network.named_parameters():
            self.register_parameter(name.replace(".", "__"), parameter)
        for name, buffer in network.named_buffers():
            self.register_buffer(name.replace(".", "__"), buffer)
        self.eval()

    def forward(self, patches: Tensor) -> Tensor:
        """Return the network's output."""
        network, check = self.hidden
        result: Tensor = network(patches if check is None else check(patches, *self.shape))
        return result


def _repack(archive: bytes) -> bytes:
    """Return an archive with only what is needed to run, without class numbers, uncompressed, of one date."""
    result = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(result, "w", zipfile.ZIP_STORED) as new:
        for entry in old.infolist():
            if _REMOVED.search(entry.filename):
                continue
            content, name = old.read(entry), entry.filename
            if name.endswith(".py") or name.endswith("/data.pkl"):
                content = _CLASS_NUMBER.sub(b"", content)
                name = re.sub(r"/___torch_mangle_\d+\.py$", ".py", name)
            new.writestr(zipfile.ZipInfo(name, _EARLIEST_DATE), content)
    return result.getvalue()


def _compare(recorded: nn.Module, network: nn.Module, spec: BundleSpec) -> None:
    """Refuse a recording that differs on other batch sizes than the recorded one, which was 2."""
    for n in (1, 3):
        patches = probe(spec, n)
        try:
            difference = float((recorded(patches) - network(patches)).abs().max())
        except RuntimeError as error:
            raise _not_recorded(spec, str(error)) from error
        if not difference <= _TOLERANCE:  # NaN is not
            raise _not_recorded(spec, f"{n} patches differ by {difference:g}")


def _not_recorded(spec: BundleSpec, why: str) -> InputUnsupportedError:
    return InputUnsupportedError(
        f"{spec.architecture} cannot be recorded as TorchScript: {why}",
        place="architecture",
        remedy="export it as onnx, or train another architecture",
    )

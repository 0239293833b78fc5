"""How a network becomes TorchScript, in equal bytes for equal models and without a trace of who wrote it.

The recorder numbers its classes by all that the process recorded before, keeps where each line of source stood on this
machine, and the input it was shown. None of that is needed to run the network: it is left out, and what is left is
packed again in one order.
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
from pathopatch.models.export.checked import of_scaled_patches
from pathopatch.models.export.network import ExportedNetwork, probe
from pathopatch.models.spec import BundleSpec

FACTS_INSIDE = "pathopatch.json"
_TOLERANCE = 1e-5
_NUMBER = re.compile(rb"\.?___torch_mangle_\d+")
_EARLY = (1980, 1, 1, 0, 0, 0)  # the earliest that the format knows
_LEFT_OUT = re.compile(r"\.debug_pkl$|/traced_inputs(/|\.pkl$)|/\.data/serialization_id$")


def torchscript(network: ExportedNetwork, spec: BundleSpec, *, facts: str, checks: bool) -> bytes:
    """Return a network as a TorchScript archive.

    Parameters
    ----------
    network : ExportedNetwork
        What to record.
    spec : BundleSpec
        The model's.
    facts : str
        JSON that is packed in as ``extra/pathopatch.json``.
    checks : bool
        Refuse patches of another shape, or with values outside [0, 1], when the network is used.

    Raises
    ------
    InputUnsupportedError
        What was recorded does not do what the network does, so that it may depend on the patches it was shown.
    """
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # deprecated, but what QuPath and wsinfer load; what it records is compared
        try:
            check = torch.jit.script(of_scaled_patches) if checks else None
            recorded = torch.jit.trace(_Flat(network, spec, check), probe(spec, 2), check_trace=False)  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            raise _not_recorded(spec, str(error)) from error
        buffer = io.BytesIO()
        torch.jit.save(recorded, buffer, _extra_files={FACTS_INSIDE: facts})
        packed = _packed_again(buffer.getvalue())
        again = torch.jit.load(io.BytesIO(packed))  # type: ignore[no-untyped-call]
        _compare(again, network, spec)
    return packed


class _Flat(nn.Module):
    """A network whose tensors all stand in one module, as does what is recorded of it: one class, one file of code."""

    def __init__(self, network: nn.Module, spec: BundleSpec, check: Callable[..., Tensor] | None) -> None:
        super().__init__()
        self.hidden = (network, check)  # in a tuple, so that torch does not take them for parts
        self.shape = (len(spec.channels), spec.patch_px)
        for name, parameter in network.named_parameters():
            self.register_parameter(name.replace(".", "__"), parameter)
        for name, buffer in network.named_buffers():
            self.register_buffer(name.replace(".", "__"), buffer)
        self.eval()

    def forward(self, patches: Tensor) -> Tensor:
        """Return what the network does."""
        network, check = self.hidden
        result: Tensor = network(patches if check is None else check(patches, *self.shape))
        return result


def _packed_again(archive: bytes) -> bytes:
    """Return an archive with only what runs, under names without numbers, uncompressed, of one date."""
    result = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(result, "w", zipfile.ZIP_STORED) as new:
        for entry in old.infolist():
            if _LEFT_OUT.search(entry.filename):
                continue
            content, name = old.read(entry), entry.filename
            if name.endswith(".py") or name.endswith("/data.pkl"):
                content = _NUMBER.sub(b"", content)
                name = re.sub(r"/___torch_mangle_\d+\.py$", ".py", name)
            new.writestr(zipfile.ZipInfo(name, _EARLY), content)
    return result.getvalue()


def _compare(recorded: nn.Module, network: nn.Module, spec: BundleSpec) -> None:
    """Refuse what does not do the same on batches of other sizes than the one that was recorded."""
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

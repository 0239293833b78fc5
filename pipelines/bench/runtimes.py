"""Measure the forward pass by OpenVINO against torch: as a program one network in a process of its own, as rows all."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from inputs import Inputs
from measure import Row, Work, speedup
from torch.utils.flop_counter import FlopCounterMode

from pathopatch.models.bundle import save_bundle
from pathopatch.models.loading import load_model, load_network
from pathopatch.models.networks import build_network
from pathopatch.models.runtime.openvino_runtime import instruction_sets, is_bfloat16_native
from pathopatch.models.runtime.torch_runtime import TorchRuntime
from pathopatch.models.spec import BundleSpec

_LITE0 = "tf_efficientnet_lite0"
_LARGE = ("resnet18", 256), ("resnet50", 256), ("vit_small_patch16_224", 224)
_PASSES = 3
_FROZEN_PASS = 4  # patches per pass that were fastest there
_TOLERANCE = 1e-4  # of a logit, relative to the largest
_PRODUCT = "a matrix product"
_SIDE = 1024
_AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2"}


def rows(_inputs: Inputs) -> Iterator[Row]:
    """All rows about runtimes."""
    isa, precisions = widest(), ("float32", "bfloat16") if is_bfloat16_native() else ("float32",)
    # It is taken in place of torch because it is faster; how much depends on what torch makes of the processor.
    for precision in precisions:
        yield _row(_LITE0, 256, precision, f"frozen torch, {precision}", 1.0, isa)
    if isa != "AVX2":
        yield _row(_LITE0, 256, "float32", "frozen torch, float32", 1.0, "AVX2", _AVX2)
    for architecture, px in _LARGE:
        yield _row(architecture, px, "float32", "plain torch, float32", 1.0, isa)
    # What the processor can do at all: no network is faster than one large matrix product.
    for architecture, px in ((_LITE0, 256), *_LARGE):
        yield _row(architecture, px, "float32", f"{_PRODUCT} of as many operations, float32", 0.7, isa)
    if "bfloat16" in precisions:
        yield _row(_LITE0, 256, "bfloat16", f"{_PRODUCT} of as many operations, bfloat16", 0.7, isa)


def widest() -> str:
    """The widest instructions of this processor, as goals know them."""
    return "AVX-512" if "avx512f" in instruction_sets() else "AVX2"


def _row(
    architecture: str,
    px: int,
    precision: str,
    against: str,
    goal: float,
    isa: str,
    limits: dict[str, str] | None = None,
) -> Row:
    command = [sys.executable, __file__, architecture, str(px), precision, against]
    threads = {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env={**os.environ, **threads, **(limits or {})}, check=True, capture_output=True, text=True
    )
    name = f"{architecture}, {px} px: forward by OpenVINO in {precision}, by {against} ({isa})"
    return Row(name, float(done.stdout.split()[-1]), goal)


def compare(architecture: str, px: int, precision: str, against: str) -> float:
    """Return how many times as fast OpenVINO is; in float32 only if its logits are equal."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    spec = BundleSpec(
        architecture=architecture,
        channels=("R", "G", "B"),
        dtype="uint8",
        patch_px=px,
        stride_px=px,
        mpp=0.5,
        input_px=px,
        mean=(0.5, 0.5, 0.5),
        std=(0.2, 0.2, 0.2),
        method="erm",
    )
    pretrained = "efficientnet-lite0" if architecture == _LITE0 else "none"
    with tempfile.TemporaryDirectory(prefix="pathopatch-bench-") as folder:
        bundle = Path(folder) / "bundle"
        save_bundle(bundle, build_network(architecture, 3, pretrained=pretrained, input_px=px), spec)
        ours = load_model(bundle, device="cpu", precision=precision, runtime="openvino", threads=1).runtime
        network = load_network(bundle)
    x = np.random.default_rng(0).standard_normal((_PASSES * _FROZEN_PASS, 3, px, px), np.float32)
    if against.startswith("frozen"):
        # Freezing folds batch norms into convolutions: the fastest torch found here.
        form: dict[str, Any] = {"dtype": getattr(torch, precision), "memory_format": torch.channels_last}
        tensor = torch.from_numpy(x)
        with torch.no_grad():
            traced = torch.jit.trace(network.eval().to(**form), tensor[:_FROZEN_PASS].to(**form))
            frozen = torch.jit.freeze(traced)

        def theirs() -> np.ndarray:
            with torch.inference_mode():
                passes = [frozen(part.to(**form)) for part in tensor.split(_FROZEN_PASS)]
            return torch.cat(passes).float().numpy()
    else:
        plain = TorchRuntime(network)

        def theirs() -> np.ndarray:
            return plain.logits(x)

    if against.startswith(_PRODUCT):
        product, share = _matrix_product(network, x, precision)
        return share * speedup(lambda: [lambda: ours.logits(x)], lambda: [product])
    expected = theirs()
    if precision == "float32" and np.abs(ours.logits(x) - expected).max() > _TOLERANCE * max(1, np.abs(expected).max()):
        raise SystemExit("other logits: nothing to compare")
    return speedup(lambda: [lambda: ours.logits(x)], lambda: [theirs])


def _matrix_product(network: torch.nn.Module, x: np.ndarray, precision: str) -> tuple[Work, float]:
    """Products of square matrices, and how many times their operations a forward pass of all of x takes."""
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(torch.from_numpy(x[:1]))
    a, b = torch.randn(2, _SIDE, _SIDE).to(getattr(torch, precision))
    repeats = max(1, round(counter.get_total_flops() * len(x) / (2 * _SIDE**3)))
    share = counter.get_total_flops() * len(x) / (2 * _SIDE**3 * repeats)
    return lambda: [torch.mm(a, b) for _ in range(repeats)], share


if __name__ == "__main__":
    print(compare(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]))

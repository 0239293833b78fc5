"""Measure training or prediction on one device; write one row of JSON a line.

``run.py`` starts each part in a process of its own, so that one that fails or hangs takes no other with it. `--small`
is for a processor: it shows that the measurement runs, not how fast anything is.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import torch

sys.path[:0] = [str(Path(__file__).parents[2] / name) for name in ("pipelines/bench", "tests/helpers")]
from inputs import Inputs  # noqa: E402 - found through the line above

from pathopatch.core.config import PredictConfig, TrainConfig  # noqa: E402
from pathopatch.heatmaps.slide_prediction import predict_slide  # noqa: E402
from pathopatch.models.bundle import save_bundle  # noqa: E402
from pathopatch.models.device import full_float32  # noqa: E402
from pathopatch.models.frozen import torch_features  # noqa: E402
from pathopatch.models.loading import load_model  # noqa: E402
from pathopatch.models.networks import build_network  # noqa: E402
from pathopatch.models.spec import BundleSpec  # noqa: E402
from pathopatch.slides import open_slide  # noqa: E402
from pathopatch.training import loop  # noqa: E402
from pathopatch.training.dataset import PatchSet  # noqa: E402
from pathopatch.training.fit import fit_arrays  # noqa: E402
from pathopatch.training.frozen import _Features, open_backbone  # noqa: E402

MPP = 0.5
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Row:
    """A line of the table; a goal is met at or above it."""

    name: str
    value: float | str
    unit: str = ""
    goal: float | None = None


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    networks: tuple[str, ...] = ("small-groupnorm", "resnet18", "resnet50", "vit_small_patch16_224")
    compared: str = "resnet18"  # whose step is measured by method and by number of loaders
    predicting: str = "resnet50"
    px: int = 224
    batch_per_class: int = 32
    steps: int = 60
    warm_up: int = 15
    across: int = 36  # patches along a side of the slide
    readers: tuple[int, ...] = (1, 4, 8)


SMALL = Sizes(
    networks=("resnet18",),
    predicting="resnet18",
    px=32,
    batch_per_class=4,
    steps=4,
    warm_up=1,
    across=20,
    readers=(1, 2),
)


def machine(device: torch.device) -> Iterator[Row]:
    """What is measured on."""
    yield Row("python", platform.python_version())
    yield Row("torch", str(torch.__version__))
    yield Row("processor cores", str(os.cpu_count()))
    yield Row("device", str(device))
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        yield Row("card", card.name)
        yield Row("memory of the card", card.total_memory / 2**30, "GiB")
        yield Row("CUDA of torch", str(torch.version.cuda))
        yield Row("cuDNN", str(torch.backends.cudnn.version()))
        if command := shutil.which("nvidia-smi"):
            query = [command, "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
            yield Row("driver", subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip())


def training(device: torch.device, sizes: Sizes) -> Iterator[Row]:
    """The loop by the bare step, for each network and precision; methods; loaders."""
    patches = _patches(sizes)
    for network in sizes.networks:
        for precision in _DTYPES:
            name = f"train {network}, {precision}"
            bare = _bare_step(device, sizes, network, precision)
            seconds, waiting, peak = _loop_step(device, sizes, patches, network, precision)
            copying = _copy(device, sizes)
            samples = 2 * sizes.batch_per_class
            yield Row(f"{name}: the loop", samples / seconds, "samples/s")
            yield Row(f"{name}: the bare step", samples / bare, "samples/s")
            yield Row(f"{name}: the loop by the bare step", bare / seconds, "ratio", 0.92)
            yield Row(f"{name}: share of the loop's time that waits for data", waiting / seconds, "share")
            yield Row(f"{name}: share that copies would take alone", copying / seconds, "share")
            yield Row(f"{name}: share that the bare step would take alone", bare / seconds, "share")
            yield Row(f"{name}: peak memory", peak, "GiB")
    by_method = {
        method: _loop_step(device, sizes, patches, sizes.compared, "bfloat16", method=method)[0]
        for method in ("erm-balanced", "gerne")
    }
    name = f"train {sizes.compared}, bfloat16"
    yield Row(f"{name}: a GERNE step by an ERM step", by_method["gerne"] / by_method["erm-balanced"], "ratio")
    backbone = open_backbone(TrainConfig(frozen=True, mask="normalise"), 3)
    features = torch_features(_Features(backbone.network), device, None).features
    x = np.random.default_rng(0).standard_normal((8 * sizes.batch_per_class, 4, 128, 128), np.float32)
    seconds = _seconds(device, lambda: features(x), sizes.steps, sizes.warm_up)
    yield Row("features of a frozen tf_efficientnet_lite0, masked, 128 px", len(x) / seconds, "patches/s")
    for count in (1, 2, 4, 8):
        seconds, waiting, _ = _loop_step(device, sizes, patches, sizes.compared, "bfloat16", loaders=count)
        yield Row(f"{name}, {count} loaders: the loop", 2 * sizes.batch_per_class / seconds, "samples/s")
        yield Row(f"{name}, {count} loaders: share that waits for data", waiting / seconds, "share")


def _patches(sizes: Sizes) -> PatchSet:
    """Noise in four equal groups, in memory as the loop keeps it."""
    count = 16 * sizes.batch_per_class
    number = np.arange(count)
    shape = (count, 3, sizes.px, sizes.px)
    return PatchSet(
        x=np.random.default_rng(0).random(shape, np.float32).astype(np.float16),
        label=number % 2,
        attribute=number // 2 % 2,
        tissue_fraction=np.full(count, 0.5),
        patient=number.astype(str),
        patch_id=number.astype(str),
    )


def _loop_step(
    device: torch.device, sizes: Sizes, patches: PatchSet, network: str, precision: str, **settings: object
) -> tuple[float, float, float | str]:
    """Seconds of a step of the loop, those that it waits for its batch, and `_peak`."""
    config = TrainConfig.model_validate(
        {
            "method": "resample",
            "architecture": network,
            "input_px": sizes.px,
            "batch_per_class": sizes.batch_per_class,
            "steps": sizes.steps,
            "precision": precision,
            "device": str(device),
            "mean": (0.5,) * 3,
            "std": (0.3,) * 3,
            "select": "last",
            "tune_threshold": False,
            "evaluations": 1,
            **settings,
        }
    )
    waits: list[float] = []
    ends: list[float] = []
    make_batches = loop.load_batches

    def timed(*arguments: object, **options: object) -> Iterator[loop.Batch]:
        batches = make_batches(*arguments, **options)
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            waits.append(time.perf_counter() - start)
            if batch is None:
                return
            yield batch

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with mock.patch.object(loop, "load_batches", timed):
        fit_arrays(patches, None, config, progress=lambda *_: ends.append(time.perf_counter()))
    # Each step ends with a look at its loss, which waits for the device.
    seconds = (ends[-1] - ends[sizes.warm_up - 1]) / (len(ends) - sizes.warm_up)
    return seconds, float(np.mean(waits[sizes.warm_up : len(ends)])), _peak(device)


def _bare_step(device: torch.device, sizes: Sizes, architecture: str, precision: str) -> float:
    """Seconds of forward, backward and AdamW on one batch that lies on the device, channels last."""
    torch.manual_seed(0)
    network = build_network(architecture, 3, input_px=sizes.px)
    network = network.to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)  # as the loop has it
    shape = (2 * sizes.batch_per_class, 3, sizes.px, sizes.px)
    x = torch.randn(shape, device=device).contiguous(memory_format=torch.channels_last)
    label = torch.arange(len(x), device=device) % 2
    dtype = _DTYPES[precision]

    def step() -> None:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            logits = network(x)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits.float(), label).backward()
        optimizer.step()

    with full_float32:
        return _seconds(device, step, sizes.steps, sizes.warm_up)


def _copy(device: torch.device, sizes: Sizes) -> float:
    """Seconds in which a batch goes from pinned memory to the device; 0 on a processor."""
    if device.type == "cpu":
        return 0.0
    x = torch.empty((2 * sizes.batch_per_class, 3, sizes.px, sizes.px)).pin_memory()
    return _seconds(device, lambda: x.to(device, non_blocking=True), sizes.steps, sizes.warm_up)


def _seconds(device: torch.device, work: Callable[[], object], repeats: int, warm_up: int) -> float:
    """Mean seconds of some work that the device may finish later."""
    for _ in range(warm_up):
        work()
    _wait(device)
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    _wait(device)
    return (time.perf_counter() - start) / repeats


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak(device: torch.device) -> float | str:
    """Most memory of the device that tensors took, GiB; not known of a processor."""
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else "unknown"


def predict(device: torch.device, sizes: Sizes) -> Iterator[Row]:
    """From a local slide to the table by the forward pass alone; several slides side by side, each read in a thread."""
    with tempfile.TemporaryDirectory() as folder:
        path = Inputs(Path(folder), sizes.px * sizes.across).rgb_pyramid(sizes.px * sizes.across)
        model = load_model(_bundle(Path(folder) / "model", sizes), device=str(device), runtime="torch")
        name = f"predict {sizes.predicting}, {model.runtime.precision}"
        patches = sizes.across**2

        def whole(_: int) -> None:
            with open_slide(path, mpp=MPP, background="bright") as slide:
                assert len(predict_slide(slide, model, config=PredictConfig()).table) == patches

        sizes_seen: list[int] = []
        logits = model.runtime.logits
        with mock.patch.object(model.runtime, "logits", lambda x: (sizes_seen.append(len(x)), logits(x))[1]):
            whole(0)
        x = np.random.default_rng(0).standard_normal((max(sizes_seen), 3, sizes.px, sizes.px), np.float32)
        alone = len(x) / _seconds(device, lambda: logits(x), sizes.steps, sizes.warm_up)
        yield Row(f"{name}: forward alone, {len(x)} patches at a time", alone, "patches/s")
        for count in sizes.readers:
            start = time.perf_counter()
            with ThreadPoolExecutor(count) as pool:
                list(pool.map(whole, range(count)))
            speed = count * patches / (time.perf_counter() - start)
            yield Row(f"{name}: end to end, {count} reader threads", speed, "patches/s")
            yield Row(f"{name}: the same by forward alone", speed / alone, "ratio", 0.85)
        yield Row(f"{name}: peak memory", _peak(device), "GiB")


def _bundle(folder: Path, sizes: Sizes) -> Path:
    torch.manual_seed(0)
    spec = BundleSpec(
        architecture=sizes.predicting,
        channels=("R", "G", "B"),
        dtype="uint8",
        background="bright",
        patch_px=sizes.px,
        stride_px=sizes.px,
        mpp=MPP,
        input_px=sizes.px,
        mean=(0.5,) * 3,
        std=(0.2,) * 3,
        min_tissue=0.0,
        method="erm",
    )
    save_bundle(folder, build_network(sizes.predicting, 3, input_px=sizes.px), spec)
    return folder


def main() -> None:
    """Measure one part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("machine", "training", "predict"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    device, sizes = torch.device(options.device), SMALL if options.small else Sizes()
    parts = {"training": training, "predict": predict}
    rows = machine(device) if options.part == "machine" else parts[options.part](device, sizes)
    with options.out.open("a", encoding="utf-8") as stream:
        for row in rows:
            stream.write(json.dumps(asdict(row)) + "\n")
            stream.flush()  # what is measured stays if the rest fails


if __name__ == "__main__":
    main()

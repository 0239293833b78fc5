"""Measure prediction against the network's forward pass, its start, and the export of very many patches."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from inputs import TILE_PX, Inputs
from measure import Row, cpu_seconds
from reading import BareDecoder
from runtimes import widest
from whole import peak_of, processes_of_predict

from pathopatch.core.config import TrainConfig
from pathopatch.heatmaps.slide_prediction import predict_slide
from pathopatch.models.bundle import save_bundle
from pathopatch.models.forward import PatchClassifier
from pathopatch.models.loading import load_model
from pathopatch.models.networks import build_network, classifier_of
from pathopatch.models.spec import BundleSpec
from pathopatch.slides import open_slide
from pathopatch.training.frozen import open_backbone

ARCHITECTURE = "tf_efficientnet_lite0"
BATCH = 32
_PATCHES = 256  # that are passed forward alone; fewer came out a fifth apart from one time to the next
_ACROSS = 32  # patches along a side of the slide: a slide of few is mostly overview
_REPEATS, _STARTS = 3, 9
_START_S = {"AVX-512": 1.5, "AVX2": 2.2}
_MILLION = 1_000_000
_GEOJSON = """
import sys
from pathlib import Path
import numpy as np, pandas as pd
from pathopatch.heatmaps.patch_exports import write_tiles
n, side = int(sys.argv[1]), 1000
x, y = 256 * (np.arange(n) % side), 256 * (np.arange(n) // side)
logit = np.random.default_rng(0).normal(size=n)
table = pd.DataFrame({"patch_id": [f"s@{a},{b}" for a, b in zip(x, y)], "x": x, "y": y, "width": 256, "height": 256,
                      "tissue_fraction": 0.5, "logit": logit, "probability": 1 / (1 + np.exp(-logit))})
write_tiles(Path(sys.argv[2]), table, slide_id="s", run="r", class_names=("non-tumour", "tumour"),
              decision_threshold=0.0, slide_size=(256 * side, 256 * (n // side + 1)))
"""


def rows(inputs: Inputs) -> Iterator[Row]:
    """All rows about prediction."""
    bundle = write_bundle(inputs.folder / "bundle")
    yield _end_to_end(inputs, bundle)
    yield _end_to_end(inputs, write_bundle(inputs.folder / "frozen", frozen=True))
    yield _start(inputs, bundle)
    yield from processes_of_predict(inputs, bundle)
    yield from _geojson(inputs.folder)


def write_bundle(folder: Path, *, frozen: bool = False) -> Path:
    """A bundle of ImageNet weights and a random last layer, for brightfield patches at the made slides' own scale."""
    torch.manual_seed(0)
    network = build_network(ARCHITECTURE, 3, pretrained="efficientnet-lite0")
    form: dict[str, Any] = {"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2)}
    if frozen:
        backbone = open_backbone(TrainConfig(frozen=True, mask="normalise"), 3)
        network = backbone.network
        form = {"mean": backbone.mean, "std": backbone.std, "backbone": backbone.network.form, "mask": "normalise"}
    spec = BundleSpec(
        architecture=ARCHITECTURE,
        channels=("R", "G", "B"),
        dtype="uint8",
        background="bright",
        patch_px=TILE_PX,
        stride_px=TILE_PX,
        mpp=0.5,
        input_px=TILE_PX,
        min_tissue=0.0,
        method="erm",
        **form,
    )
    torch.nn.init.normal_(classifier_of(network).weight, std=0.02)  # it starts at 0: all probabilities would be 0.5
    save_bundle(folder, network, spec)
    return folder


def bare_seconds(path: Path, model: PatchClassifier, patches: int) -> float:
    """CPU seconds of what a prediction cannot do without: each tile decoded once, and the forward pass."""
    tiles = BareDecoder(path)
    x = np.random.default_rng(0).standard_normal((BATCH, *model.spec.input_shape), np.float32)
    work = tiles.bands(side=TILE_PX, stride=TILE_PX)
    decoding = cpu_seconds(lambda: [band() for band in work])
    model.runtime.logits(x)
    passes = min(patches, _PATCHES) // BATCH
    return decoding + patches / (passes * BATCH) * cpu_seconds(lambda: [model.runtime.logits(x) for _ in range(passes)])


def _end_to_end(inputs: Inputs, bundle: Path) -> Row:
    """The whole against its decoding and its forward pass."""
    model = load_model(bundle, device="cpu", threads=1)
    path = inputs.rgb_jpeg(TILE_PX * _ACROSS)

    def whole() -> None:
        with open_slide(path, mpp=0.5, background="bright") as slide:
            table = predict_slide(slide, model).table
        assert len(table) == _ACROSS**2

    ratios = []
    for _ in range(_REPEATS):
        before, spent, after = (
            bare_seconds(path, model, _ACROSS**2),
            cpu_seconds(whole),
            bare_seconds(path, model, _ACROSS**2),
        )
        ratios.append((before + after) / 2 / spent)
    network = f"{ARCHITECTURE}{', frozen and masked' if model.spec.backbone else ''}, {model.runtime.precision}"
    name = f"predict end to end, {_ACROSS**2} patches, by bare decoding and the forward pass ({network})"
    return Row(name, statistics.median(ratios), 0.8)


def _start(inputs: Inputs, bundle: Path) -> Row:
    """The whole command on a slide of one patch: what is there before, and around, the first patch."""
    path, seconds = inputs.rgb_jpeg(TILE_PX), []
    for repeat in range(_STARTS):
        start = time.perf_counter()
        subprocess.run(_command(path, bundle, inputs.folder / f"start-{repeat}"), check=True, capture_output=True)
        seconds.append(time.perf_counter() - start)
    isa, name = widest(), "predict, one slide of one patch, command to end"
    return Row(f"{name} ({isa})", statistics.median(seconds), _START_S[isa], "at most", "seconds")


def _command(path: Path, bundle: Path, out: Path) -> list[str]:
    options = ["--model", str(bundle), "-o", str(out), "--slide-mpp", "0.5", "--device", "cpu", "--quiet"]
    return [sys.executable, "-m", "pathopatch", "predict", str(path), *options]


def _geojson(folder: Path) -> Iterator[Row]:
    """A table of a million patches, made and written in a process of its own."""
    command = [sys.executable, "-c", _GEOJSON, str(_MILLION), str(folder / "million.geojson.gz")]
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    peak = peak_of(command)
    spent = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    yield Row("GeoJSON of a million patches, table and all", spent, 60.0, "at most", "CPU seconds")
    yield Row("the same, peak memory", peak / 2**20, 1.0, "at most", "GiB resident")

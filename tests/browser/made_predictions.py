"""Predictions to review: real and made slides by two made models, and made folders of any size."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from made_prediction import predict_to
from numpy.typing import NDArray

from pathopatch.core.artefacts import Stamp, read_table, write_tables
from pathopatch.core.config import PredictConfig
from pathopatch.core.files import write_json
from pathopatch.core.status import read_status, update_status
from pathopatch.demo.slides import CohortSpec, make_cohort
from pathopatch.heatmaps.pyramids import write_ome_tiff
from pathopatch.models.forward import PatchClassifier
from pathopatch.models.networks import build_network
from pathopatch.models.runtime.torch_runtime import TorchRuntime
from pathopatch.models.spec import BundleSpec
from pathopatch.slides import open_slide
from pathopatch.slides.manifest import read_manifest
from pathopatch.slides.slide import Slide

MODALITIES = "demo-multimodal"
"""Id of the made slide of CARS, TPEF and SHG."""
SLIDES = ("CMU-1-Small-Region", "idc_14306", MODALITIES)
_CONFIG = PredictConfig(device="cpu", precision="float32", threads=1)


@dataclass(frozen=True)
class Predicted:
    """Two folders of predictions of the same slides."""

    out: Path
    beside: Path


def made_model(slide: Slide, *, patch_px: int, method: str, seed: int) -> PatchClassifier:
    """A network of random weights whose logits on this slide have mean 0 and deviation 1.5: the map has a face."""
    is_rgb = slide.channels == ("R", "G", "B")
    spec = BundleSpec(
        architecture="small-groupnorm",
        channels=slide.channels,
        dtype=str(slide.dtype),
        background="bright" if is_rgb else "dark",
        patch_px=patch_px,
        stride_px=patch_px,
        mpp=slide.mpp,
        input_px=16,
        mean=(0.5,) * len(slide.channels),
        std=(0.2,) * len(slide.channels),
        decision_threshold=0.4,
        method=method,
    )
    torch.manual_seed(seed)
    network = build_network("small-groupnorm", len(slide.channels))
    last = network.classifier
    with torch.no_grad():
        last.bias.zero_()
        outputs = PatchClassifier(spec, TorchRuntime(network)).predict_logits(_some_patches(slide, patch_px))
        logit = outputs[:, 1] - outputs[:, 0]
        gain = 1.5 / float(logit.std())
        last.weight.mul_(gain)
        last.bias.copy_(torch.tensor([gain * float(logit.mean()), 0.0]))
    return PatchClassifier(spec, TorchRuntime(network))


def _some_patches(slide: Slide, patch_px: int) -> NDArray[np.float32]:
    """The most varied of patches all over a slide, scaled to [0, 1]."""
    across, down = ((side // patch_px - 1) * patch_px for side in slide.size)
    places = [(x, y) for y in np.linspace(0, down, 10, dtype=int) for x in np.linspace(0, across, 10, dtype=int)]
    read = np.stack([slide.read_region(int(x), int(y), patch_px, patch_px) for x, y in places]).astype(np.float32)
    tissue = read[np.argsort(read.std(axis=(1, 2, 3)))[50:]]
    high = np.percentile(tissue, 99, axis=(0, 2, 3), keepdims=True)
    return np.clip(tissue / (255 if slide.dtype == np.uint8 else high), 0, 1).astype(np.float32)


def predict_all(folder: Path, data: Path) -> Predicted:
    """Predict a real SVS, a real slide of breast tissue, and a made one of three modalities, by two models each."""
    manifest = make_cohort(folder / "demo", seed=3, spec=CohortSpec(slides=(1, 1, 1), patients=(1, 1, 1), fields=8))
    row = read_manifest(manifest).included[0]
    predicted = Predicted(folder / "debiased", folder / "plain")
    sources = (
        (SLIDES[0], str(data / "wsi" / "CMU-1-Small-Region.svs"), 64, "P01"),
        (SLIDES[1], str(data / "wsi" / "idc_14306.tif"), 50, "P02"),
        (SLIDES[2], row.source, 96, "P03"),
    )
    for slide_id, source, patch_px, patient_id in sources:
        with open_slide(source) as slide:
            for out, method, seed in ((predicted.out, "gerne", 0), (predicted.beside, "erm", 1)):
                model = made_model(slide, patch_px=patch_px, method=method, seed=seed)
                predict_to(slide, model, out, slide_id=slide_id, patient_id=patient_id, config=_CONFIG)
    return predicted


def table_of(out: Path, slide_id: str) -> pd.DataFrame:
    """The predictions of a slide, as they stand on the disk."""
    return read_table(out / "predictions" / f"{slide_id}.parquet")


def facts_of(out: Path, slide_id: str) -> dict[str, Any]:
    """Return the content of a slide's heatmap.json."""
    facts: dict[str, Any] = json.loads((out / "heatmaps" / slide_id / "heatmap.json").read_text(encoding="utf-8"))
    return facts


def many_slides(out: Path, template: Path, count: int) -> Path:
    """A folder of so many slides, each with the numbers of a real one, varied; the last one failed."""
    facts, entry = facts_of(template, SLIDES[0]), read_status(template, SLIDES[0])["predict"]
    random = np.random.default_rng(0)
    (out / "status").mkdir(parents=True)
    for number in range(count - 1):
        slide_id, tumour = f"slide-{number:04d}", int(random.integers(0, entry["counts"]["predicted"]))
        counts = {**entry["counts"], "tumour": tumour}
        predict_status = {**entry, "counts": counts, "patient_id": f"patient-{number // 2}"}
        (out / "heatmaps" / slide_id).mkdir(parents=True)
        described = json.dumps({**facts, "slide_id": slide_id, "counts": counts})
        (out / "heatmaps" / slide_id / "heatmap.json").write_text(described, encoding="utf-8")
        (out / "status" / f"{slide_id}.json").write_text(json.dumps({"predict": predict_status}), encoding="utf-8")
    failed = {"state": "failed", "code": "INPUT_CORRUPT", "message": "the slide cannot be decoded"}
    update_status(out, f"slide-{count - 1:04d}", "predict", failed)
    return out


def many_patches(out: Path, template: Path, across: int, down: int) -> str:
    """A slide without its file, whose grid is full of patches, its probability smooth with noise; returns its id."""
    slide_id = "many-patches"
    facts, entry = facts_of(template, SLIDES[0]), read_status(template, SLIDES[0])["predict"]
    step, count = int(facts["cell_px"]), across * down
    random = np.random.default_rng(0)
    row, column = np.divmod(np.arange(count), across)
    logit = 2 * np.sin(row / 40) + 2 * np.cos(column / 55) + random.normal(0, 1, count)
    probability = 1 / (1 + np.exp(-logit))
    tissue = np.clip(0.6 + 0.3 * np.sin(column / 20) + random.normal(0, 0.05, count), 0, 1)
    sample = table_of(template, SLIDES[0]).iloc[:1]
    table = sample.loc[sample.index.repeat(count)].reset_index(drop=True)
    table = table.assign(
        slide_id=slide_id,
        x=column * step,
        y=row * step,
        logit=logit,
        probability=probability,
        tissue_fraction=tissue,
        patch_id=[f"{slide_id}@{x},{y}" for x, y in zip(column * step, row * step, strict=True)],
    ).astype(sample.dtypes.to_dict())
    stamp = Stamp.from_dict(facts["stamp"])
    counts = {
        "patches": count, "predicted": count, "tumour": int((logit > facts["decision_threshold"]).sum()),
    }  # fmt: skip
    facts |= {
        "slide_id": slide_id, "size_px": [across * step, down * step], "bounds_px": [0, 0, across * step, down * step],
        "cells": [across, down], "counts": counts,
    }  # fmt: skip
    folder = out / "heatmaps" / slide_id
    write_json(folder / "heatmap.json", facts)
    maps = np.stack([probability, tissue]).reshape(2, down, across).astype(np.float32)
    names = tuple(facts["map_channels"])
    write_ome_tiff(folder / "heatmap.ome.tif", maps, channels=names, cell_um=facts["cell_um"], name=slide_id)
    write_tables(out / "predictions" / f"{slide_id}.parquet", iter([table]), stamp)
    predict_status = {name: value for name, value in entry.items() if name != "source"}
    update_status(out, slide_id, "predict", {**predict_status, "counts": counts})
    return slide_id

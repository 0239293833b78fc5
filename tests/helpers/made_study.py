"""A made-up study on disk, as the stages leave it: no slide is read and no network trained."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from pathopatch.core.artefacts import Stamp, write_table
from pathopatch.core.config import EvaluateConfig, TrainConfig
from pathopatch.core.files import write_bytes, write_json
from pathopatch.core.status import update_status
from pathopatch.evaluation.evaluate import evaluate_predictions
from pathopatch.groups import assign_groups, audit

QUICK = EvaluateConfig(bootstrap=40)
THRESHOLDS = (0.25, 0.5)
HOSTILE = "<script>alert('x')</script> & $\\alpha$"
STAMP = Stamp(stage="tile", settings={"is": "0"})
# How far each method's logit follows the label, and how far the tissue fraction.
_LEANS = {"erm": (1.0, 5.0), "erm-balanced": (1.2, 4.4), "resample": (2.0, 1.4), "gerne": (2.3, 0.3)}


def make_study(
    work: Path,
    *,
    seeds: tuple[int, ...] = (0,),
    patients: int = 24,
    per_slide: int = 90,
    own: tuple[str, ...] = (),
    blocks: int = 0,
    has_runs: bool = True,
) -> Path:
    """Write a made-up study and return its work folder; its patches may have an attribute of their own, or blocks.

    Each split has so many `blocks`, if there are any.
    """
    rng = np.random.default_rng(0)
    slides = _write_slides(work, rng, patients, per_slide)
    if own:
        slides["attribute"] = rng.choice(own, len(slides))
    if blocks:
        number = slides["patient_id"].str.removeprefix("patient").astype(int) // 4 % blocks
        slides["block"] = slides["split"] + number.astype(str)
    groups = assign_groups(slides, THRESHOLDS, min_tissue=0.01)
    write_table(work / "groups.parquet", groups, Stamp(stage="groups", settings={"is": "1"}))
    write_json(work / "groups" / "audit.json", {"stamp": STAMP.to_dict(), **audit(groups, THRESHOLDS)})
    for method, (label_lean, tissue_lean) in _LEANS.items() if has_runs else ():
        for seed in seeds:
            for threshold in THRESHOLDS:
                config = TrainConfig(method=method, threshold=threshold, seed=seed, steps=600)
                write_run(work, config, groups, rng, label_lean=label_lean, tissue_lean=tissue_lean)
    return work


def _write_slides(work: Path, rng: np.random.Generator, patients: int, per_slide: int) -> pd.DataFrame:
    """Write patch tables, statuses and overlays; the last slide is empty, one failed."""
    tables, facts = [], []
    for number in range(patients):
        split = "train" if number % 4 < 2 else ("val" if number % 4 == 2 else "test")
        slide, patient = f"slide{number:02d}", f"patient{number:02d}"
        label = rng.integers(0, 2, per_slide)
        fraction = np.clip(np.where(label == 1, rng.beta(4, 1.6, per_slide), rng.beta(1.3, 3.5, per_slide)), 0.02, 1)
        table = pd.DataFrame(
            {
                "patch_id": [f"{slide}@{index * 64},0" for index in range(per_slide)],
                "slide_id": slide,
                "patient_id": patient,
                "x": np.arange(per_slide) * 64,
                "y": 0,
                "tissue_fraction": fraction,
                "tumor_fraction": label * 0.5,
                "labelled_fraction": 1.0,
                "label": label,
                "saturated_fraction": 0.0,
                "sharpness": 0.1,
            }
        )
        write_table(work / "patches" / f"{slide}.parquet", table, STAMP)
        warnings = ["channel SHG is shifted by 6.1 um"] if number == 3 else []
        update_status(work, slide, "tile", {"state": "done", "warnings": warnings})
        tables.append(table.assign(split=split))
        facts.append({"slide_id": slide, "patient_id": patient, "split": split})
        if split == "test":
            counts = {"patches": per_slide, "predicted": per_slide - 3, "tumour": int(label.sum())}
            update_status(work, slide, "predict", {"state": "done", "counts": counts})
            _write_overlay(work / "heatmaps" / slide / "overlay.png", rng)
    update_status(work, "blank01", "tile", {"state": "done_empty"})
    update_status(work, "broken01", "tile", {"state": "failed", "code": "INPUT_CORRUPT", "message": HOSTILE})
    facts += [{"slide_id": name, "patient_id": name, "split": "test"} for name in ("blank01", "broken01")]
    checked = pd.DataFrame(facts).assign(mpp=0.5, channels="CARS,TPEF,SHG", background="dark")
    write_table(work / "slides.parquet", checked, Stamp(stage="check"))
    return pd.concat(tables, ignore_index=True)


def _write_overlay(path: Path, rng: np.random.Generator) -> None:
    """Write a coarse coloured picture of 1200 x 900 px."""
    coarse = rng.integers(0, 255, (9, 12), dtype=np.uint8)
    large = cv2.resize(cv2.applyColorMap(coarse, cv2.COLORMAP_VIRIDIS), (1200, 900), interpolation=cv2.INTER_NEAREST)
    write_bytes(path, cv2.imencode(".png", large)[1].tobytes())


def write_run(
    work: Path,
    config: TrainConfig,
    groups: pd.DataFrame,
    rng: np.random.Generator,
    *,
    label_lean: float,
    tissue_lean: float,
) -> None:
    """Write a run whose logits follow label and tissue to given degrees, and its evaluation."""
    folder = work / "runs" / config.run_name
    part = groups[groups["split"].isin(["val", "test"]) & (groups["label"] >= 0) & (groups["group@0.25"] >= 0)]
    names = ["patch_id", "split", "label", "tissue_fraction", *(f"group@{t:g}" for t in THRESHOLDS)]
    table = part[names].reset_index(drop=True)
    centred = table["tissue_fraction"] - 0.45
    noise = rng.normal(0, 1.3, len(table))
    table["logit"] = label_lean * (2 * table["label"] - 1) + tissue_lean * centred + noise
    table["probability"] = 1 / (1 + np.exp(-table["logit"] / 1.5))
    numbers = evaluate_predictions(table, groups, decision_threshold=0.1, config=QUICK)
    stamp = Stamp(stage="evaluate", settings={"is": "2"})
    write_table(folder / "evaluation" / "predictions.parquet", table, stamp)
    write_json(folder / "evaluation" / "metrics.json", {"run": config.run_name, **numbers, "stamp": stamp.to_dict()})
    write_json(folder / "config.json", config.model_dump(mode="json"))

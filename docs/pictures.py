"""Draw the pictures of the pages from slides that the demo makes: ``python docs/pictures.py WORK``.

It trains two small models, which takes some minutes on two cores. What is finished in WORK is kept.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from pathopatch import open_slide
from pathopatch.core.config import GroupsConfig, PredictConfig, StudyConfig, TileConfig
from pathopatch.demo.slides import CHANNELS, CohortSpec, make_cohort
from pathopatch.demo.study import TRAIN
from pathopatch.heatmaps.overlay import blend
from pathopatch.patches.picture import Picture, compose, mask_under, outlined
from pathopatch.report.audit_plots import shortcut_strength
from pathopatch.stages.predict import predict_cohort, slides_to_predict
from pathopatch.stages.study import run_study

IMAGES = Path(__file__).parent / "images"
SPEC = CohortSpec(slides=(14, 6, 4), patients=(14, 6, 4))
SLIDE = "test-02"
RUNS = {"Plain training (erm)": "erm-t0.25-s0", "Debiased (auto)": "auto-t0.25-s0"}
_QUALITY = 82  # of WebP: no artefacts are visible, and a picture has at most 100 kB


def main(work: Path) -> None:
    """Draw all pictures into docs/images."""
    study = StudyConfig(
        manifest=make_cohort(work / "cohort", seed=0, spec=SPEC),
        work=work,
        tile=TileConfig(patch_px=SPEC.field_px),
        groups=GroupsConfig(thresholds=(0.25,)),
        methods=("erm", "auto"),
        train=TRAIN.model_copy(update={"steps": 500, "input_px": 48}),
    )
    run_study(study)
    rows = [row for row in slides_to_predict(str(work / "cohort" / "manifest.csv")) if row.split == "test"]
    for name in RUNS.values():
        predict_cohort(rows, work / "runs" / name / "model", work / "predicted" / name, PredictConfig())
        errors = [wrong_patches(work, name, row.slide_id) for row in rows]
        false_alarms, missed = (sum(map(len, kind)) for kind in zip(*errors, strict=True))
        print(f"{name}, all test slides: {false_alarms} false alarms, {missed} missed")  # for the caption
    IMAGES.mkdir(exist_ok=True)
    draw_repair(work)
    draw_groups(work)
    draw_overlay(work)
    draw_audit(work)


def draw_repair(work: Path) -> None:
    """Draw a slide beside the maps of a plain and a debiased model, with their wrong patches marked."""
    slide = _slide(work, SLIDE)
    figure = Figure(figsize=(10, 3.75), dpi=110, layout="constrained")
    axes = figure.subplots(1, 1 + len(RUNS))
    tumor = cv2.imread(str(work / "cohort" / "masks" / f"{SLIDE}.png"), cv2.IMREAD_GRAYSCALE)
    axes[0].imshow(outlined(slide, mask_under(slide, (tumor > 0).astype(np.uint8)), colors=((255, 255, 255),)))
    axes[0].set_title("Slide, true tumour outlined", fontsize=10)
    step = SPEC.field_px
    for axis, (title, run) in zip(axes[1:], RUNS.items(), strict=True):
        patches = pd.read_parquet(work / "predicted" / run / "predictions" / f"{SLIDE}.parquet")
        grid = np.full((SPEC.fields, SPEC.fields), np.nan)
        grid[patches["y"] // step, patches["x"] // step] = patches["probability"]
        axis.imshow(blend(slide, grid, (step, step)))
        false_alarms, missed = wrong_patches(work, run, SLIDE)
        axis.scatter(*centres(false_alarms), marker="x", s=42, linewidths=1.8, c="#ff3b30")
        axis.scatter(*centres(missed), marker="o", s=42, linewidths=1.8, ec="white", fc="none")
        axis.set_title(f"{title}\n{len(false_alarms)} false alarms (x), {len(missed)} missed (o)", fontsize=10)
    for axis in axes:
        axis.set_axis_off()
    colors = mpl.cm.ScalarMappable(cmap="viridis")
    figure.colorbar(colors, ax=axes, shrink=0.75, label="probability of tumour", pad=0.01)
    _save(figure, "repair")


def wrong_patches(work: Path, run: str, slide_id: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the false alarms of a run on a slide, and the tumour patches that it missed."""
    out = work / "predicted" / run
    facts = json.loads((out / "heatmaps" / slide_id / "heatmap.json").read_text(encoding="utf-8"))
    truth = pd.read_csv(work / "cohort" / "truth.csv").query("slide_id == @slide_id")
    patches = pd.read_parquet(out / "predictions" / f"{slide_id}.parquet").dropna(subset="probability")
    patches = patches.merge(truth, on=["x", "y"])
    is_called = patches["probability"] >= facts["decision_probability"]
    return patches[is_called & (patches["label"] == 0)], patches[~is_called & (patches["label"] == 1)]


def centres(patches: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """Return x and y of the centres of patches, px."""
    return patches["x"] + SPEC.field_px / 2, patches["y"] + SPEC.field_px / 2


def draw_groups(work: Path) -> None:
    """Draw patches of the four groups, with the share of training patches that each has."""
    truth = pd.read_csv(work / "cohort" / "truth.csv").query("split == 'train'")
    truth = truth[truth["size"].isin(["small", "large"])]
    figure = Figure(figsize=(9, 3.5), dpi=110)
    axes = figure.subplots(2, 7, width_ratios=(1, 1, 1, 0.15, 1, 1, 1))
    figure.subplots_adjust(left=0.01, right=0.99, top=0.9, bottom=0.02, wspace=0.05, hspace=0.3)
    for axis in axes.flat:
        axis.set_axis_off()
    for row, label in enumerate(("non-tumour", "tumour")):
        for first, size, amount in ((0, "small", "little"), (4, "large", "much")):
            group = truth[(truth["size"] == size) & (truth["label"] == row)]
            axes[row, first + 1].set_title(f"{label}, {amount} tissue: {len(group) / len(truth):.0%}", fontsize=11)
            for axis, patch in zip(axes[row, first:], group.sample(3, random_state=1).itertuples(), strict=False):
                view = _slide(work, patch.slide_id)
                axis.imshow(view[patch.y : patch.y + SPEC.field_px, patch.x : patch.x + SPEC.field_px])
    _save(figure, "groups")


def draw_overlay(work: Path) -> None:
    """Take over the overlay of the debiased model."""
    path = work / "predicted" / RUNS["Debiased (auto)"] / "heatmaps" / SLIDE / "overlay.png"
    picture = Image.open(path).convert("RGB")
    picture.thumbnail((1000, 1000))
    picture.save(IMAGES / "overlay.webp", quality=_QUALITY, method=6)


def draw_audit(work: Path) -> None:
    """Take over a plot of the report."""
    audit = json.loads((work / "groups" / "audit.json").read_text(encoding="utf-8"))
    effect = audit["verdict"]["least_effect"]
    plot = work / "audit.png"
    plot.write_bytes(shortcut_strength(audit["fraction_only"], audit["sweep"], least_effect=effect))
    picture = Image.open(plot).convert("RGB")
    picture.thumbnail((1100, 1100))
    picture.save(IMAGES / "audit.webp", quality=_QUALITY, method=6)


def _slide(work: Path, slide_id: str) -> Picture:
    """Return a made slide in colours, at full size."""
    folder = work / "cohort" / "slides"
    with open_slide({name: folder / f"{slide_id}_{name}.tif" for name in CHANNELS}) as slide:
        overview, _, _ = slide.read_overview()
    windows = np.percentile(overview.reshape(len(CHANNELS), -1), (30, 99.7), axis=1).T
    return compose(overview, windows, is_rgb=False)


def _save(figure: Figure, name: str) -> None:
    path = IMAGES / f"{name}.png"
    figure.savefig(path)
    Image.open(path).convert("RGB").save(path.with_suffix(".webp"), quality=_QUALITY, method=6)
    path.unlink()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python docs/pictures.py WORK")
    main(Path(sys.argv[1]))

"""Draw the pictures of the pages from slides that the demo makes: ``python docs/pictures.py WORK``.

It trains three small models, which takes some minutes on two cores. What is finished in WORK is kept.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from pathopatch import open_slide
from pathopatch.core.config import GroupsConfig, PredictConfig, StudyConfig, TileConfig
from pathopatch.demo.quick import TRAIN, run_quick
from pathopatch.demo.slides import CHANNELS, CohortSpec, make_cohort
from pathopatch.slides.composite import Picture, compose
from pathopatch.stages.find_slides import slides_to_predict
from pathopatch.stages.predict import predict_cohort
from pathopatch.stages.study import run_study

IMAGES = Path(__file__).parent / "images"
SPEC = CohortSpec(slides=(14, 6, 4), patients=(14, 6, 4))
SLIDE = "test-02"
RUN = "auto-t0.25-s0"
_QUALITY = 82  # of WebP: no artefacts are visible


def main(work: Path) -> None:
    """Draw all pictures into docs/images."""
    study = StudyConfig(
        manifest=make_cohort(work / "cohort", seed=0, spec=SPEC),
        work=work,
        tile=TileConfig(patch_px=SPEC.field_px),
        groups=GroupsConfig(thresholds=(0.25,)),
        methods=("auto",),
        train=TRAIN.model_copy(update={"steps": 500, "input_px": 48}),
    )
    run_study(study)
    rows = [row for row in slides_to_predict(str(work / "cohort" / "manifest.csv")) if row.split == "test"]
    predict_cohort(rows, work / "runs" / RUN / "model", work / "predicted", PredictConfig())
    IMAGES.mkdir(exist_ok=True)
    draw_repair(work)
    draw_groups(work)
    draw_overlay(work)


def draw_repair(work: Path) -> None:
    """Take over the first picture of the demo's report."""
    run_quick(work / "quick")
    picture = Image.open(work / "quick" / "report" / "answer.png").convert("RGB")
    picture.thumbnail((1600, 1600))
    picture.save(IMAGES / "repair.webp", quality=_QUALITY, method=6)


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
    path = work / "predicted" / "heatmaps" / SLIDE / "overlay.png"
    picture = Image.open(path).convert("RGB")
    picture.thumbnail((1000, 1000))
    picture.save(IMAGES / "overlay.webp", quality=_QUALITY, method=6)


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

"""Write what the pages show of the program: pictures, of slides that the demo makes, and generated reference pages.

``python docs/assets.py WORK`` trains three small models and opens the review page in Chromium, in some minutes on two
cores. What is finished in WORK is kept. ``images/shown.json`` says of which files the pictures were taken.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import hooks
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image
from playwright.sync_api import sync_playwright

from pathopatch import open_slide
from pathopatch.core.config import GroupsConfig, PredictConfig, StudyConfig, TileConfig
from pathopatch.demo.quick import TRAIN, run_quick
from pathopatch.demo.slides import CHANNELS, CohortSpec, make_cohort
from pathopatch.slides.composite import Picture, compose
from pathopatch.stages.find_slides import find_cohort
from pathopatch.stages.predict import predict_cohort
from pathopatch.stages.study import run_study

DOCS = Path(__file__).parent
IMAGES, SHOWN = DOCS / "images", DOCS / "images" / "shown.json"
PACKAGE = DOCS.parent / "pathopatch"
OF_PAGES = {"review-cohort", "review-slide"}
_MAPS = ("heatmaps/overlay.py", "heatmaps/colors.py")
_DRAWN_BY = {
    "repair": ("report/answer_picture.py", *_MAPS),
    "overlay": _MAPS,
    "groups": ("slides/composite.py",),
    **dict.fromkeys(OF_PAGES, ("review/static/*.html", "review/static/*.css", "review/static/*.js", *_MAPS)),
}
"""Files of the package that each picture shows."""
SPEC = CohortSpec(slides=(14, 6, 4), patients=(14, 6, 4))
SLIDE = "test-02"
RUN = "auto-t0.25-s0"
_QUALITY = 80  # of WebP: no artefacts are visible


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
    rows = [row for row in find_cohort([str(work / "cohort" / "manifest.csv")]).rows if row.split == "test"]
    predict_cohort(rows, work / "runs" / RUN / "model", work / "predicted", PredictConfig())
    IMAGES.mkdir(exist_ok=True)
    draw_repair(work)
    draw_groups(work)
    draw_overlay(work)
    take_review(work / "quick")
    for name, text in hooks.generated_pages().items():
        (DOCS / name).write_text(text, encoding="utf-8")
    SHOWN.write_text(json.dumps(shown(), indent=2) + "\n", encoding="utf-8")


def shown() -> dict[str, str]:
    """Return for each picture a hash of the files that it shows."""
    hashes = {}
    for name, patterns in _DRAWN_BY.items():
        files = sorted(path for pattern in patterns for path in PACKAGE.glob(pattern))
        hashes[name] = sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    return hashes


def take_review(out: Path) -> None:
    """Take the pages of the cohort and of a slide, of the demo's predictions."""
    command = [sys.executable, "-m", "pathopatch", "review", str(out), "--port", "0", "--reader", "ada"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        assert server.stdout is not None
        address = next(found[0] for line in server.stdout if (found := re.search(r"http://\S+", line)))
        with sync_playwright() as playwright:
            chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = chromium.new_page(viewport={"width": 1400, "height": 900})
            page.goto(address)
            for name, path in (("review-cohort", "/"), ("review-slide", f"/slides/{SLIDE}")):
                page.goto(address.split("/?")[0] + path)
                page.wait_for_selector("body[data-ready=yes]")
                if name == "review-slide":
                    page.keyboard.press("z")  # a doubtful patch
                page.wait_for_load_state("networkidle")
                page.screenshot(path=out / "page.png", animations="disabled")
                picture = Image.open(out / "page.png").convert("RGB")
                picture.save(IMAGES / f"{name}.webp", quality=_QUALITY, method=6)
        server.terminate()


def draw_repair(work: Path) -> None:
    """Take over the first picture of the demo's report."""
    run_quick(work / "quick")
    picture = Image.open(work / "quick" / "report" / "answer.png").convert("RGB")
    picture.thumbnail((1400, 1400))
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
        sys.exit("usage: python docs/assets.py WORK")
    main(Path(sys.argv[1]))

"""The page on features: its commands run in order, print what it shows and write what it names."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from array_slides import h_and_e
from feature_work import planted
from made_feature_cohort import write_trident
from made_slides import write_rgb_pyramid

from pathopatch.features.readers import LAYOUTS

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "features.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(sh|text)\n(.*?)```", PAGE, flags=re.DOTALL)
FILES = re.findall(r"`((?:work|out)/[^`]*)`", PAGE)
SIDE_PX, WIDTH, HEIGHT, SLIDES = 64, 8, 5, 36  # px of a patch, patches of a slide


def draw_slide(folder: Path, slide_id: str, tissue: np.ndarray) -> None:
    """Write a slide whose patches are tissue from their top down to a fraction."""
    rows = np.arange(SIDE_PX)[None, :] < (tissue * SIDE_PX).round()[:, None]
    bars = rows.reshape(HEIGHT, WIDTH, SIDE_PX).transpose(0, 2, 1).reshape(HEIGHT * SIDE_PX, WIDTH)
    is_tissue = np.repeat(bars, SIDE_PX, axis=1)
    write_rgb_pyramid(folder / "slides" / f"{slide_id}.tif", h_and_e(is_tissue), mpp=0.5, levels=1)


@pytest.fixture
def cohort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go to a folder with everything that a reader of the page is told to have."""
    for name in ("trident/20x_256px_0px_overlap/features_uni_v2", "slides"):
        (tmp_path / name).mkdir(parents=True)
    column, row = np.tile(np.arange(WIDTH), HEIGHT), np.repeat(np.arange(HEIGHT), WIDTH)
    xy = SIDE_PX * np.stack([column, row], axis=1)
    patches, slides = [], []
    for number in range(SLIDES):
        slide_id, patient_id = f"S{number:02d}", f"P{number:02d}"
        features, label, tissue = planted(len(xy), seed=number, conflict=0.15)
        write_trident(next(tmp_path.glob("trident/*/*")) / f"{slide_id}.h5", features, xy, side=SIDE_PX, rows=HEIGHT)
        draw_slide(tmp_path, slide_id, tissue)
        about = {"slide_id": slide_id, "patient_id": patient_id}
        patches.append(pd.DataFrame(about | {"x": xy[:, 0], "y": xy[:, 1], "label": label}))
        slides.append(about | {"slide_label": number % 2})
    pd.concat(patches).to_csv(tmp_path / "labels.csv", index=False)
    pd.DataFrame(slides).to_csv(tmp_path / "slide_labels.csv", index=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def commands(block: str) -> list[list[str]]:
    """Return the commands of a block, without comments, each as its words."""
    lines = block.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def without_numbers(text: str) -> str:
    return re.sub(r"[+-]?\d+(\.\d+)?", "N", " ".join(text.split()))


def assert_shown(shown: str, printed: str) -> None:
    """Assert that each part of an excerpt, between its dots, was printed; numbers may be others."""
    for part in re.split(r"…|\n(?=\S)", shown):
        assert without_numbers(part) in without_numbers(printed), part


@pytest.mark.slow
def test_the_page_runs_in_order_and_prints_and_writes_what_it_says(cohort: Path, said: Callable[..., Any]) -> None:
    printed = ""
    for language, block in BLOCKS:
        if language == "sh":
            printed = ""
            for program, *arguments in commands(block):
                assert program == "pathopatch"
                printed += said(*arguments).out
        else:
            assert_shown(block, printed)
    for name in FILES:
        assert list(cohort.glob(re.sub(r"<[^>]*>", "*", name))), name


def test_the_table_names_every_layout() -> None:
    table = PAGE.partition("## Layouts")[2]
    assert sorted(re.findall(r"^\| `(\w+)`", table, flags=re.MULTILINE)) == sorted(LAYOUTS)


def test_the_page_is_short() -> None:
    assert len(re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL).split()) <= 900

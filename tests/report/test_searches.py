"""The searches in the report: every trial in a table, who won, and a picture that shows intervals against s."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from pathopatch.core.config import TrainConfig
from pathopatch.core.files import write_json
from pathopatch.report.collect import read_study
from pathopatch.report.page import write_report
from pathopatch.report.searches import accuracy_by_s, searches_section


def trials_of(n: int, *, s: bool, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    grid = np.array([1.0, 0.9, 1.1, 0.75, 1.25, 0.5, 1.5, 1.0])[:n] if s else np.full(n, np.nan)
    c = np.where(np.arange(n) % 2, 1.0, 0.5)
    wga = 0.75 - 0.5 * (np.nan_to_num(grid, nan=1.0) - 1.05) ** 2 + rng.normal(0, 0.02, n)
    table = pd.DataFrame({"trial": range(n), "learning_rate": 10 ** rng.uniform(-3.5, -2.5, n), "weight_decay": 0.01})
    table = table.assign(c=c, beta=grid / c - 1, s=grid, value=wga, wga=wga, wga_low=wga - 0.08, wga_high=wga + 0.07)
    table = table.assign(gba=wga + 0.1, gba_low=wga + 0.07, gba_high=wga + 0.12, picked_gba=wga + 0.1, step=500.0)
    table = table.assign(steps=600, state="complete", won=np.arange(n) == wga.argmax())
    if n > 5:
        table.loc[5, ["wga", "wga_low", "wga_high", "gba", "gba_low", "gba_high", "step"]] = np.nan
        table.loc[5, ["value", "steps", "state", "won"]] = [0.4, 250, "pruned", False]
    return table


def write_search(work: Path, method: str, trials: pd.DataFrame) -> str:
    config = TrainConfig(method=method)
    folder = work / "runs" / config.run_name
    write_json(folder / "config.json", config.model_dump(mode="json"))
    trials.to_csv(folder / "trials.csv", index=False)
    return config.run_name


def test_every_trial_stands_in_the_table_with_its_interval_its_steps_and_who_won(tmp_path: Path) -> None:
    trials = trials_of(8, s=True)
    trials.loc[2, ["wga", "wga_low", "wga_high"]] = [0.701, 0.612, 0.788]
    write_search(tmp_path, "gerne", trials)
    write_search(tmp_path, "erm", trials_of(3, s=False))
    pictures: dict[str, bytes] = {}
    page = str(searches_section(read_study(tmp_path), pictures))
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))
    assert "gerne-t0.25-s0: 8 trials, 1 pruned, 4450 training steps in all" in text
    assert page.index("erm-t0.25-s0: 3 trials") < page.index("gerne-t0.25-s0: 8 trials")
    assert "70.1 [61.2, 78.8]" in text
    assert page.count("(won)") == 2
    assert " 250 pruned" in text
    gerne, erm = text.split("gerne-t0.25-s0: 8")[1], text.split("erm-t0.25-s0: 3")[1].split("gerne-t0.25-s0: 8")[0]
    assert " c beta s WGA GBA " in gerne
    assert " weight decay WGA " in erm  # no c, beta or s that the method does not have
    assert list(pictures) == ["searches.png"]


def test_the_picture_is_the_same_for_the_same_trials_and_shows_each_of_them() -> None:
    searches = {"gerne-t0.25-s0": trials_of(8, s=True), "erm-t0.25-s0": trials_of(3, s=False)}
    first = accuracy_by_s(searches)
    assert first == accuracy_by_s(searches)
    fewer = accuracy_by_s({name: trials[trials["trial"] != 1] for name, trials in searches.items()})
    shown, without = (np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int) for png in (first, fewer))
    assert (np.abs(shown - without).sum(axis=2) > 0).sum() > 100


def test_a_work_folder_without_a_search_says_so(tmp_path: Path) -> None:
    page = write_report(tmp_path)
    assert "No run was searched" in page.read_text()

"""Ask networks of the demo's cohorts by the commands alone, and rank them; see README.md.

For each seed and share of conflicting training patches: slides are made, `pathopatch run` trains and evaluates, and
`pathopatch audit-model` asks each bundle about the test slides, without labels. Usage: by_command.py WORK [SEED ...]
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from pathopatch.demo.slides import CohortSpec, make_cohort

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "area-benchmark"))
from area_benchmark.natural import SETTINGS  # noqa: E402

ROWS = {  # method and mask
    "erm": ("erm", "none"), "resample": ("resample", "none"), "gerne": ("gerne", "none"),
    "auto, masked": ("auto", "normalise"), "interior erm": ("erm", "interior"),
}  # fmt: skip
CEILING = 0.5
CASES = {0.005: ("erm",), 0.04: tuple(ROWS), 0.2: ("erm",), CEILING: ("erm", "auto, masked", "interior erm")}


def command(*words: object) -> None:
    """Run pathopatch."""
    program = Path(sys.executable).parent / "pathopatch"
    subprocess.run([program, *map(str, words), "--quiet"], check=True, stdout=subprocess.DEVNULL)


def ask(work: Path, seed: int, share: float) -> Iterator[dict[str, Any]]:
    """Train the rows of a cohort, ask each, and yield what is found beside its worst group."""
    folder, spec = work / f"{seed}-{share:g}", CohortSpec(minority_share=share, between_share=min(0.02, share))
    manifest = make_cohort(folder / "cohort", seed=seed, spec=spec)
    slides = pd.read_csv(manifest)
    asked = slides[slides["split"] == "test"].drop(columns=["split", "tumor_mask"])
    asked.to_csv(manifest.with_name("asked.csv"), index=False)
    train = SETTINGS["demo"]
    text = f'manifest = "{manifest}"\nwork = "{folder}"\nmethods = []\nseeds = [{seed}]\n'
    text += f"[tile]\npatch_px = {spec.field_px}\n[groups]\nthresholds = [0.25]\n[train]\n"
    for key in ("input_px", "steps", "batch_per_class", "learning_rate", "weight_decay", "threshold"):
        text += f"{key} = {getattr(train, key)}\n"
    for name in CASES[share]:
        method, mask = ROWS[name]
        text += f'[[runs]]\nname = "{name}"\nmethod = "{method}"\nmask = "{mask}"\n'
    study = folder / "study.toml"
    study.write_text(text)
    command("run", study, "--until", "evaluate")
    for _, measured in pd.read_csv(folder / "comparison.csv").iterrows():
        out = folder / "asked" / measured["run"]
        command("audit-model", folder / "runs" / measured["run"], manifest.with_name("asked.csv"), "-o", out)
        result = json.loads((out / "area-reliance.json").read_text())
        found = {name: result.get(name, {}).get("value", np.nan) for name in ("eta", "adj")}
        about = {"seed": seed, "share": share, "run": measured["run"], "verdict": result["verdict"]}
        print(about, flush=True)
        yield {**about, **found, "wga": 100 * measured["wga"]}


def main() -> None:
    """Print a row per network, and how eta and adj rank with the deficit of the worst group."""
    work, seeds = Path(sys.argv[1]).resolve(), [int(seed) for seed in sys.argv[2:]] or [0, 1, 2]
    table = pd.DataFrame([row for seed in seeds for share in CASES for row in ask(work, seed, share)])
    best = table[table["share"] == CEILING].groupby("seed")["wga"].max()
    table["deficit"] = table["seed"].map(best) - table["wga"]
    print(table.to_string(index=False, float_format=lambda value: f"{value:.3f}"))
    for name in ("eta", "adj"):
        print(name, f"{spearmanr(table[name].abs(), table['deficit']).statistic:.2f}", len(table), "networks")


if __name__ == "__main__":
    main()

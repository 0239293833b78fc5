"""Print a Markdown table of each method's results on the unseen patient for the given work folders."""

import sys
from pathlib import Path
from typing import Any

import pandas as pd

from pathopatch.core.files import read_json
from pathopatch.evaluation.run_settings import describe_runs, run_settings
from pathopatch.metrics.accuracy import auroc

THRESHOLD = "0.75"
MEASURES = {
    "AUROC": ("auroc", "{:.3f}"),
    "worst group": ("wga", "{:.1f}"),
    "mean of groups": ("gba", "{:.1f}"),
    "slope, non-tumour": ("slope_0", "{:.2f}"),
    "slope, tumour": ("slope_1", "{:.2f}"),
}


def row(evaluation: Path) -> dict[str, Any]:
    """Return the numbers of one evaluated run on the test split; accuracies in percent."""
    table = pd.read_parquet(evaluation / "predictions.parquet")
    table = table[table["split"] == "test"]
    test_metrics = read_json(evaluation / "metrics.json")["splits"]["test"]
    judged = test_metrics["thresholds"][THRESHOLD]
    return {
        "run": evaluation.parent.name,
        "auroc": auroc(table["probability"].to_numpy(), table["label"].to_numpy()),
        "wga": 100 * judged["wga"]["value"],
        "gba": 100 * judged["gba"]["value"],
        **{f"slope_{label}": dependence["slope"] for label, dependence in enumerate(test_metrics["tissue_dependence"])},
    }


def cell(values: pd.Series, form: str) -> str:
    """Return mean ± sd over the seeds."""
    return f"{form.format(values.mean())} ± {form.format(values.std(ddof=1))}"


for work in map(Path, sys.argv[1:]):
    order = read_json(work / "study.json")["methods"]
    rows = pd.DataFrame([row(path) for path in sorted(work.glob("runs/*/evaluation"))]).set_index("run")
    settings = {run: run_settings(work, run) for run in rows.index}
    runs = rows.join(describe_runs(settings)).join(pd.DataFrame.from_dict(settings, "index")[["method", "seed"]])
    runs = runs[runs["rerun_of"] == ""]
    print(f"\n{work.name}: mean ± sd of seeds {', '.join(map(str, sorted(runs['seed'].unique())))}\n")
    print(f"| method | {' | '.join(MEASURES)} |\n|{'---|' * (1 + len(MEASURES))}")
    for name in order:
        for (variant, _), mine in runs[runs["method"] == name].groupby(["variant", "settings_key"]):
            cells = " | ".join(cell(mine[column], form) for column, form in MEASURES.values())
            print(f"| {name}{', ' if variant else ''}{variant} | {cells} |")

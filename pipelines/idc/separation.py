"""Print, for each run of the given work folders, the unseen patient's AUROC and mean probabilities by label."""

import sys
from pathlib import Path

import pandas as pd

from pathopatch.metrics.accuracy import auroc

for work in map(Path, sys.argv[1:]):
    for path in sorted(work.glob("runs/*/evaluation/predictions.parquet")):
        table = pd.read_parquet(path)
        table = table[(table["split"] == "test") & (table["label"] >= 0)]
        area = auroc(table["probability"].to_numpy(), table["label"].to_numpy())
        mean = table.groupby("label")["probability"].mean()
        line = f"{work.name:<14}{path.parent.parent.name:<30}AUROC {area:.3f}   mean probability: "
        print(f"{line}tumour {mean[1]:.3f}, non-tumour {mean[0]:.3f}, difference {mean[1] - mean[0]:.3f}")

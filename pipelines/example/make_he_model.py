"""Make the model of `pathopatch predict --example-model` anew, after trying it on the other patient.

Usage: make_he_model.py WORK. Needs PATHOPATCH_REAL_DATA. It prints the AUROC of each row in both directions, and writes
the first row's model, trained on both slides, only if both of its AUROCs are at least `LEAST_AUROC`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd

from pathopatch.demo import EXAMPLE_HE_MODEL
from pathopatch.metrics.accuracy import auroc
from pathopatch.models.bundle import read_spec, save_bundle
from pathopatch.models.card import NOTE
from pathopatch.models.loading import load_network

HERE = Path(__file__).resolve().parent
MANIFESTS = HERE.parents[1] / "data_manifests"
LEAST_AUROC = 0.85
WORDS = (
    "For trying pathopatch alone. It learnt from two breast carcinoma slides, and no other tissue, scanner or "
    "stain: its map says nothing about a patient."
)


def run(folder: Path, manifest: str, until: str) -> Path:
    """Run the study on the slides of a manifest, and return its work folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cohort.csv").write_text(manifest, encoding="utf-8")
    shutil.copy(HERE / "he-model.toml", folder / "study.toml")
    program = Path(sys.executable).parent / "pathopatch"
    subprocess.run([program, "run", folder / "study.toml", "--until", until, "--quiet"], check=True)
    return folder / "work"


def main() -> None:
    """Try every row on the other patient, and write the model."""
    top, chosen = Path(sys.argv[1]), []
    for name in ("idc", "idc-reversed"):
        work = run(top / name, (MANIFESTS / f"{name}.csv").read_text(encoding="utf-8"), "evaluate")
        for file in sorted(work.glob("runs/*/evaluation/predictions.parquet")):
            table = pd.read_parquet(file)
            table = table[(table["split"] == "test") & (table["label"] >= 0)]
            area = auroc(table["probability"].to_numpy(), table["label"].to_numpy())
            print(f"{name:<14}{file.parent.parent.name:<36}AUROC {area:.3f}", flush=True)
            chosen += [area] if file.parent.parent.name.endswith("-masked") else []
    if len(chosen) < 2 or min(chosen) < LEAST_AUROC:
        sys.exit(f"the model is not written: AUROC {chosen}, {LEAST_AUROC} at least")
    both = (MANIFESTS / "idc.csv").read_text(encoding="utf-8").replace(",test,", ",train,")
    work = run(top / "both", both, "train")
    (bundle,) = work.glob("runs/*-masked/model")
    spec = read_spec(bundle)
    spec = spec.model_copy(update={"parameters": {**spec.parameters, NOTE: WORDS}})
    save_bundle(EXAMPLE_HE_MODEL, load_network(bundle), spec)
    print(EXAMPLE_HE_MODEL)


if __name__ == "__main__":
    main()

"""Train the default on each ground by the commands alone, and ask it; see README.md.

Where there are folds the model is that of the first one. All patients are asked about; of ready patches that have a
split those of test.
Usage: defaults.py WORK [GROUND ...], where a ground is of `GROUNDS`, or an imposed cohort such as lung-bright-9.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from by_command import benchmark, command, imposed_lists, load, natural, toml

from pathopatch.core.files import read_json
from pathopatch.demo.slides import CohortSpec, make_cohort
from pathopatch.slides.slide_paths import expand_variables

FOLDS, CASE = "folds", "1 %"
ANY_SIGNAL = {
    "background": "dark", "method": "fixed", "fixed_threshold": 0.02, "min_speck_um2": 0, "max_hole_um2": 0,
}  # fmt: skip
SHG = {"patch_px": 256, "tissue": ANY_SIGNAL, "intensity": {"windows": {"SHG": [0, 255]}}}
GROUNDS: dict[str, dict[str, Any]] = {  # sections of a configuration, and patches asked about of a slide
    "ucsb": {"groups": {"thresholds": [0.5]}, "splits": {FOLDS: 5}, "per_slide": 8},
    "shg": {"tile": SHG, "groups": {"thresholds": [0.02], "min_tissue": 0}, "splits": {FOLDS: 7}, "per_slide": 8},
    "demo": {"tile": {"patch_px": CohortSpec().field_px}, "groups": {"thresholds": [0.25]}, "per_slide": 4},
    "lung-images": {"groups": {"thresholds": [0.65], "split_seed": 1}, "per_slide": 300},
    "ocdc": {"tile": {"patch_px": 64}, "groups": {"thresholds": [0.5]}, "splits": {FOLDS: 10}, "per_slide": 12},
}
IMPOSED = [f"{ground}-{polarity}-9" for ground in ("lung", "colon") for polarity in ("bright", "dark")]
_NOT_SECTIONS = ("per_slide",)


def ask(work: Path, ground: str) -> dict[str, Any]:
    """Train the default on a ground, ask it, and return what is found."""
    top = work / ground
    top.mkdir(parents=True, exist_ok=True)
    about = GROUNDS.get(ground, {"groups": {"thresholds": [0.5]}, "per_slide": 300})
    sections = {name: values for name, values in about.items() if name not in _NOT_SECTIONS}
    config, cohort = top / "study.toml", top / "work"
    source, asked = sources(top, ground)
    config.write_text("".join(f"{name} = {toml(values)}\n" for name, values in sections.items()))
    command("tile", *source, "-o", cohort, *(("--config", config) if "tile" in about else ()))
    command("groups", cohort, "--config", config)
    fold = cohort / "folds" / "1" if FOLDS in about.get("splits", {}) else cohort
    command("train", fold, "--threshold", about["groups"]["thresholds"][0])
    (run,) = (fold / "runs").iterdir()
    out = top / "asked-about"
    command("audit-model", run, asked or cohort, "-o", out, "--per-slide", about["per_slide"], "--force")
    found = json.loads((out / "area-reliance.json").read_text())
    ends = {name: found.get(name, {}) for name in ("eta", "adj")}
    numbers = {name: tuple(end.get(part) for part in ("value", "low", "high")) for name, end in ends.items()}
    return {"ground": ground, "head": read_json(run / "run.json")["chosen"], "verdict": found["verdict"], **numbers}


def sources(top: Path, ground: str) -> tuple[tuple[object, ...], Path | None]:
    """Return the words that `tile` takes of a ground, and what is asked about in place of all of it."""
    if ground == "ucsb":
        return ("--patches", natural._cut_ucsb(top / "patches") / "patches.csv"), None
    if ground == "lung-images":
        return ("--patches", Path(expand_variables("${PATHOPATCH_REAL_DATA}/lung")[0])), None
    if ground == "demo":
        return (make_cohort(top / "cohort", seed=1, spec=CohortSpec()),), None
    if ground in GROUNDS:
        return (natural.MANIFESTS / {"shg": "shg-cores.csv", "ocdc": "ocdc-fields.csv"}[ground],), None
    lists = imposed_lists(top, ground, [CASE], load(benchmark.HERE / "benchmark.toml"), asked="test")
    command("tile", "--patches", top / "asked.csv", "-o", top / "asked")
    return ("--patches", lists[CASE]), top / "asked"


def main() -> None:
    """Print a line per ground."""
    work, grounds = Path(sys.argv[1]).resolve(), sys.argv[2:] or [*GROUNDS, *IMPOSED]
    for ground in grounds:
        print(ask(work, ground), flush=True)


if __name__ == "__main__":
    main()

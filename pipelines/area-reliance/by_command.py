"""Ask networks of whole cohorts by the commands alone, and rank them; see README.md.

For each share of conflicting training patches: patches are made, `pathopatch run` trains and evaluates, and
`pathopatch audit-model` asks each bundle about patches without labels. Usage: by_command.py WORK [COHORT ...], where
a cohort is the seed of one of the demo's, or lung-bright-26.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from pathopatch.demo.slides import CohortSpec, make_cohort

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "area-benchmark"))
import benchmark  # noqa: E402
from area_benchmark import cohort as imposed_cohort  # noqa: E402
from area_benchmark import natural  # noqa: E402
from area_benchmark.cells import CONFLICTING  # noqa: E402
from area_benchmark.settings import BenchmarkConfig, load  # noqa: E402

ROWS = {  # method and mask
    "erm": ("erm", "none"), "resample": ("resample", "none"), "gerne": ("gerne", "none"),
    "auto, masked": ("auto", "normalise"), "interior erm": ("erm", "interior"),
}  # fmt: skip
CEILING = "ceiling"
DEMO = {"0.005": ("erm",), "0.04": tuple(ROWS), "0.2": ("erm",), CEILING: ("erm", "auto, masked", "interior erm")}
IMPOSED = {
    "1 %": ("erm", "resample", "auto, masked", "interior erm"), "5 %": ("erm",), "15 %": ("erm",), "30 %": ("erm",),
    CEILING: ("erm", "auto, masked", "interior erm"),
}  # fmt: skip


def command(*words: object) -> None:
    """Run pathopatch."""
    program = Path(sys.executable).parent / "pathopatch"
    subprocess.run([program, *map(str, words), "--quiet"], check=True, stdout=subprocess.DEVNULL)


def demo(work: Path, seed: int) -> Iterator[dict[str, Any]]:
    """Yield a row per network of the demo's cohorts of a seed; each is asked about the test slides."""
    settings, names = (
        natural.SETTINGS["demo"],
        ("input_px", "steps", "batch_per_class", "learning_rate", "weight_decay"),
    )
    shared = {name: getattr(settings, name) for name in names}
    for case, rows in DEMO.items():
        share = 0.5 if case == CEILING else float(case)
        folder = work / f"demo-{seed}" / case
        spec = CohortSpec(minority_share=share, between_share=min(0.02, share))
        manifest = make_cohort(folder / "cohort", seed=seed, spec=spec)
        slides, asked = pd.read_csv(manifest), manifest.with_name("asked.csv")
        slides[slides["split"] == "test"].drop(columns=["split", "tumor_mask"]).to_csv(asked, index=False)
        runs = {row: {**shared, "method": ROWS[row][0], "mask": ROWS[row][1]} for row in rows}
        source = {"manifest": str(manifest), "tile": {"patch_px": spec.field_px}}
        yield from answers(folder, source, runs, asked, about={"cohort": seed, "case": case}, seed=seed, threshold=0.25)


def imposed(work: Path, name: str) -> Iterator[dict[str, Any]]:
    """Yield a row per network of an imposed cohort; each is asked about the patches of validation."""
    top, config = work / name, load(benchmark.HERE / "benchmark.toml")
    searched = benchmark.winning_settings(config, benchmark.HERE)
    ground, _, seed = name.split("-")
    lists = imposed_lists(top, name, IMPOSED, config, asked="val")
    command("tile", "--patches", top / "asked.csv", "-o", top / "asked")
    for case, listed in lists.items():
        runs = {row: set_by(config.settings(row, seed=int(seed), **searched[row])) for row in IMPOSED[case]}
        yield from answers(
            top / case, {"patches": str(listed)}, runs, top / "asked", "--per-slide", len(pd.read_csv(listed)),
            about={"cohort": name, "case": case}, seed=int(seed), threshold=config.thresholds[0],
        )  # fmt: skip


def imposed_lists(
    top: Path, name: str, cases: Collection[str], config: BenchmarkConfig, *, asked: str
) -> dict[str, Path]:
    """Make an imposed cohort such as lung-bright-26; return a patch list per case, beside ``asked.csv`` of a split."""
    ground, polarity, seed = name.split("-")
    options = config.grounds[ground].cohort
    crops = benchmark._crops(
        config.grounds[ground].source, **options.model_dump(include={"crop_px", "apart_px", "side_px", "min_tissue"})
    )
    planned = imposed_cohort.plan(crops, options, seed=int(seed))
    imposed_cohort.write(top, crops, planned, polarity=polarity, label=options.label)  # type: ignore[arg-type]
    patches, others = (read(top / part) for part in ("patches", "others"))
    patches[patches["split"] == asked].drop(columns="split").assign(label=0).to_csv(top / "asked.csv", index=False)
    is_train = (patches["split"] == "train").to_numpy()
    pair = (np.cumsum(is_train) - 1) // 2  # as in `area_benchmark.cells.load`
    lists = {case: top / f"{case}.csv" for case in cases}
    for case, path in lists.items():
        swapped = pair % 2 == 1 if case == CEILING else pair < round(CONFLICTING[case] * is_train.sum() / 2)  # type: ignore[index]
        pd.concat([patches[~(is_train & swapped)], others[swapped[is_train]]]).to_csv(path, index=False)
    return lists


def read(folder: Path) -> pd.DataFrame:
    """Return the table of a set of patches, their paths relative to the folder above."""
    table = pd.read_csv(folder / "patches.csv")
    return table.assign(path=folder.name + "/" + table["path"])


def set_by(settings: Any) -> dict[str, Any]:
    """Return what differs from the defaults of `[train]`, without what a study sets for all runs."""
    chosen: dict[str, Any] = settings.model_dump(
        mode="json", exclude_defaults=True, exclude={"seed", "threshold", "name", "row_name"}
    )
    return chosen


def answers(
    folder: Path, source: Mapping[str, Any], runs: Mapping[str, Mapping[str, Any]], *asked: object,
    about: Mapping[str, Any], seed: int, threshold: float,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Train the rows of a cohort, ask each, and yield what is found beside its worst group."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {**source, "work": str(folder), "methods": [], "seeds": [seed], "groups": {"thresholds": [threshold]}}
    values["runs"] = [{"name": row, **settings} for row, settings in runs.items()]
    study = folder / "study.toml"
    study.write_text("".join(f"{key} = {toml(value)}\n" for key, value in values.items()))
    command("run", study, "--until", "evaluate")
    for _, measured in pd.read_csv(folder / "comparison.csv").iterrows():
        out = folder / "asked-about" / measured["run"]
        command("audit-model", folder / "runs" / measured["run"], *asked, "-o", out)
        result = json.loads((out / "area-reliance.json").read_text())
        row = {**about, "run": measured["run"], "verdict": result["verdict"]}
        print(row, flush=True)
        found = {name: result.get(name, {}).get("value", np.nan) for name in ("eta", "adj")}
        yield {**row, **found, "wga": 100 * measured["wga"]}


def toml(value: Any) -> str:
    """Return a value as TOML; None is left out of tables."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {toml(item)}" for key, item in value.items() if item is not None) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


def main() -> None:
    """Print a row per network, and how eta and adj rank with the deficit of the worst group."""
    work, names = Path(sys.argv[1]).resolve(), sys.argv[2:] or ["0", "1", "2"]
    made = (demo(work, int(name)) if name.isdigit() else imposed(work, name) for name in names)
    table = pd.DataFrame([row for rows in made for row in rows])
    best = table[table["case"] == CEILING].groupby("cohort")["wga"].max()
    table["deficit"] = table["cohort"].map(best) - table["wga"]
    print(table.to_string(index=False, float_format=lambda value: f"{value:.3f}"))
    for name in ("eta", "adj"):
        print(name, f"{spearmanr(table[name].abs(), table['deficit']).statistic:.2f}", len(table), "networks")


if __name__ == "__main__":
    main()

"""What the demo runs on its cohort: the one-seed tour, and the study over seeds with its controls.

The study's question is whether GERNE keeps the worst group when tumour patches mostly hold much tissue. Its controls
ask the same of the generator: without the shortcut nothing is to be gained, the tissue fraction alone does not tell
the label on the test split, and neither does the brightness of the tissue.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pathopatch.core import files
from pathopatch.core.config import GroupsConfig, StudyConfig, TileConfig, TrainConfig, TuneConfig
from pathopatch.core.method_names import MethodName
from pathopatch.core.progress import Progress
from pathopatch.core.work_folder import WorkFolder
from pathopatch.demo.controls import brightness_accuracy
from pathopatch.demo.slides import CohortSpec, make_cohort
from pathopatch.evaluation import compare, comparison_table
from pathopatch.report import write_report
from pathopatch.stages.audit import audit_text
from pathopatch.stages.evaluate import evaluate_runs
from pathopatch.stages.groups import form_groups
from pathopatch.stages.study import run_study, study_runs, tile_study
from pathopatch.training import train_many

THRESHOLDS = (0.25, 0.5)
METHODS: tuple[MethodName, ...] = ("erm", "erm-balanced", "resample", "groupdro", "gerne")
ONCE: tuple[MethodName, ...] = ("gerne-auto",)  # nothing of it is tuned: trained once, beside the searched ones
TOUR_METHODS: tuple[MethodName, ...] = ("erm", "erm-balanced", "resample", "gerne")
ERM: tuple[MethodName, MethodName] = ("erm", "erm-balanced")  # METHOD 6: a claim is made against the better of the two
TOUR_TRIALS = 2
LEARNING_RATES = (5e-4, 2e-3)  # around the default of TRAIN; in its steps lower ones do not converge
STUDY_TRIALS = 3
CLAIM: tuple[MethodName, ...] = (*ERM, "gerne")  # also trained twice as long, and without the shortcut
TRAIN = TrainConfig(input_px=64, steps=800, batch_per_class=32, learning_rate=1e-3, weight_decay=1e-2)


def run_demo(work: Path, *, jobs: int = 0, force: bool = False, progress: Progress | None = None) -> str:
    """Make the cohort of seed 0, run every stage on it, and return the tables and where the pictures are.

    Parameters
    ----------
    work : Path
        Work folder; the slides go to ``cohort/`` in it.
    jobs : int
        Training runs side by side; 0 for one a core.
    force : bool
        Redo what was made with other settings.
    progress : callable, optional
        Told how far each stage is.
    """
    study = study_of(work, seed=0, methods=TOUR_METHODS, trials=TOUR_TRIALS, jobs=jobs, progress=progress)
    result = run_study(study, workers=study.jobs, force=force, progress=progress)
    slides = sorted({outcome.slide_id for outcome in result.outcomes if outcome.state != "failed"})
    pictures = [WorkFolder(work).heatmap(slide) / "overlay.png" for slide in slides]
    return "\n".join(
        [
            audit_text(work),
            "",
            comparison_table(work),
            "",
            "heatmaps:",
            *(f"  {picture}" for picture in pictures if picture.is_file()),
            f"report: {work / 'report' / 'index.html'}",
        ]
    )


def study_of(
    work: Path,
    *,
    seed: int,
    methods: tuple[MethodName, ...],
    trials: int | None,
    jobs: int = 0,
    shortcut: bool = True,
    progress: Progress | None = None,
) -> StudyConfig:
    """Make one cohort and return the study on it; a seed drives the cohort, the search and the training alike."""
    spec = CohortSpec()
    return StudyConfig(
        manifest=make_cohort(work / "cohort", seed=seed, shortcut=shortcut, spec=spec, progress=progress),
        work=work,
        tile=TileConfig(patch_px=spec.field_px),
        groups=GroupsConfig(thresholds=THRESHOLDS),
        methods=methods,
        seeds=(seed,),
        train=TRAIN,
        tune=None if trials is None else TuneConfig(trials=trials, learning_rates=LEARNING_RATES),
        jobs=jobs or os.cpu_count() or 1,
    )


def run_seeds(
    work: Path,
    *,
    seeds: int = 3,
    jobs: int = 0,
    force: bool = False,
    progress: Progress | None = None,
) -> str:
    """Run the full study on seeds 1 to `seeds`, write ``study.csv`` and ``controls.csv``, and return their summary.

    Parameters
    ----------
    work : Path
        Work folder; each seed has a folder of its own in it.
    seeds : int
        How many seeds; seed 0 is the one the cohort was designed on, and is left out.
    jobs : int
        Training runs side by side; 0 for one a core.
    force : bool
        Redo what was made with other settings.
    progress : callable, optional
        Told how far each stage is.
    """
    rows, controls = [], []
    for seed in range(1, seeds + 1):
        rows.append(one_seed(work / f"seed-{seed}", seed, jobs=jobs, force=force, progress=progress))
        controls.append(one_control(work, seed, jobs=jobs, force=force, progress=progress))
        table, checks = pd.concat(rows, ignore_index=True), pd.DataFrame(controls)
        for name, content in (("study.csv", table), ("controls.csv", checks)):
            files.write_bytes(work / name, content.to_csv(index=False, lineterminator="\n").encode())
    return "\n".join([summary(table), "", control_summary(checks)])


def one_seed(work: Path, seed: int, *, jobs: int, force: bool, progress: Progress | None) -> pd.DataFrame:
    """Tune every method at every threshold on one seed's cohort, train some winners twice as long; return the table."""
    study = study_of(work, seed=seed, methods=METHODS, trials=STUDY_TRIALS, jobs=jobs, progress=progress)
    tile_study(study, workers=study.jobs, force=force, progress=progress)
    form_groups(work, study.groups, force=force)
    runs = train_many(work, study_runs(study), study.tune, jobs=study.jobs, force=force, progress=progress)
    once = study_runs(study.model_copy(update={"methods": ONCE}))
    train_many(work, once, None, jobs=study.jobs, force=force, progress=progress)
    longer = [config for config in map(_twice_as_long, runs) if config.method in CLAIM]
    train_many(work, longer, None, jobs=study.jobs, force=force, progress=progress)
    evaluate_runs(work, None, study.evaluate, force=force, progress=progress)
    table = compare(work, config=study.evaluate)
    write_report(work)
    return table[table["threshold"] == table["trained_threshold"]].assign(cohort=seed)


def _twice_as_long(run: Path) -> TrainConfig:
    """Return a tuned run's settings with twice its steps."""
    config = TrainConfig.model_validate(files.read_json(run / "config.json"))
    return config.model_copy(update={"steps": 2 * config.steps, "name": "twice"})


def one_control(work: Path, seed: int, *, jobs: int, force: bool, progress: Progress | None) -> dict[str, float]:
    """Return the controls of one seed: (a) without the shortcut, (b) the fraction alone, (c) brightness alone."""
    shortcut = work / f"seed-{seed}"
    audit = files.read_json(WorkFolder(shortcut).audit)
    fair = work / f"seed-{seed}-fair"
    study = study_of(
        fair,
        seed=seed,
        methods=CLAIM,
        trials=STUDY_TRIALS,
        jobs=jobs,
        shortcut=False,
        progress=progress,
    )
    tile_study(study, workers=study.jobs, force=force, progress=progress)
    form_groups(fair, study.groups, force=force)
    train_many(fair, study_runs(study), study.tune, jobs=study.jobs, force=force, progress=progress)
    table = evaluate_runs(fair, None, study.evaluate, force=force, progress=progress)
    table = table[table["threshold"] == table["trained_threshold"]]
    found = {
        "seed": float(seed),
        "fraction_auroc": float(audit["fraction_only"]["test"]["auroc"]),
        "brightness_accuracy": brightness_accuracy(
            shortcut, study.tile, shortcut / "cohort" / "manifest.csv", threshold=THRESHOLDS[0]
        ),
    }
    for tau, part in table.groupby("threshold"):
        found[f"fair_erm_wga@{tau:g}"] = float(_better_erm(part.assign(cohort=seed))["wga"].iloc[0])
        found[f"fair_gerne_wga@{tau:g}"] = float(part.loc[part["method"] == "gerne", "wga"].iloc[0])
    return found


def summary(table: pd.DataFrame) -> str:
    """Return the study's table in words: mean and sd over seeds, per threshold, number of steps and method.

    "ERM" is the better of plain and class-balanced ERM by validation WGA, chosen anew in every seed.
    """
    lines = []
    for (tau, steps), part in table.groupby(["threshold", "steps"], sort=True):
        lines.append(
            f"tau {tau:g}, {steps:g} steps, percent, mean (sd) of {part['cohort'].nunique()} seeds, test split"
        )
        lines.append(f"  {'method':<14}{'WGA':>12}{'GBA':>12}{'biased avg':>12}   groups 0 to 3")
        chosen: dict[str, pd.DataFrame] = {name: part[part["method"] == name] for name in METHODS + ONCE}
        chosen["ERM (better)"] = _better_erm(part)
        lines += [_line(name, rows) for name, rows in chosen.items() if len(rows)]
        gain = _per_seed(chosen["gerne"], "wga") - _per_seed(chosen["ERM (better)"], "wga")
        lines.append(f"  gerne over ERM, WGA: {100 * gain.mean():+.1f} ({', '.join(f'{100 * x:+.1f}' for x in gain)})")
        if len(once := chosen[ONCE[0]]):
            tuned = {name: _per_seed(chosen[name], "wga").mean() for name in METHODS}
            best = max(tuned, key=lambda name: tuned[name])
            gap = 100 * (_per_seed(once, "wga").mean() - tuned[best])
            lines.append(f"  {ONCE[0]}, trained once, less {best}, the best of the searched, WGA: {gap:+.1f}")
        lines.append("")
    return "\n".join(lines)


def _better_erm(part: pd.DataFrame) -> pd.DataFrame:
    erm = part[part["method"].isin(ERM)]
    ranked = erm.sort_values(["wga_val", "gba_val", "run"], ascending=[False, False, True], na_position="last")
    return ranked.groupby("cohort").head(1)


def _per_seed(rows: pd.DataFrame, name: str) -> pd.Series[float]:
    return rows.set_index("cohort")[name].sort_index()


def _line(name: str, rows: pd.DataFrame) -> str:
    cells = [f"{100 * rows[key].mean():.1f} ({_sd(rows[key]):.1f})" for key in ("wga", "gba", "biased_average")]
    groups = " ".join(f"{100 * rows[f'accuracy_{g}'].mean():5.1f}" for g in range(4))
    return f"  {name:<14}{cells[0]:>12}{cells[1]:>12}{cells[2]:>12}   {groups}"


def _sd(values: Sequence[float] | pd.Series[float]) -> float:
    return float(100 * np.std(np.asarray(values, dtype=np.float64), ddof=1)) if len(values) > 1 else float("nan")


def control_summary(checks: pd.DataFrame) -> str:
    """Return the controls in words, one line per seed."""
    lines = ["controls"]
    for row in checks.to_dict("records"):
        fair = ", ".join(
            f"tau {tau:g}: "
            + ", ".join(f"{name} {100 * row[f'fair_{name}_wga@{tau:g}']:.1f}" for name in ("erm", "gerne"))
            for tau in THRESHOLDS
        )
        lines.append(
            f"  seed {row['seed']:g}: (a) WGA without the shortcut, {fair}; "
            f"(b) fraction-only AUROC on test {row['fraction_auroc']:.3f}; "
            f"(c) accuracy of the channels' means inside tissue {row['brightness_accuracy']:.3f}"
        )
    return "\n".join(lines)

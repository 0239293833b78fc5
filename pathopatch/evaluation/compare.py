"""Answers how the evaluated runs compare, and what each gained or lost on every group against ERM.

"ERM" is the better of plain and class-balanced ERM by validation WGA, of the same seed where there is one. Gains
are paired: both runs are judged on the same patches, and an interval resamples patients for both at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.config import EvaluateConfig
from pathopatch.errors import InputMissingError
from pathopatch.evaluation.dependence import dependence_comparison
from pathopatch.evaluation.judge import N_GROUPS, patient_counts, pooled_accuracy, with_interval
from pathopatch.files import inside, read_json, write_bytes
from pathopatch.groups import naming_of
from pathopatch.provenance import read_table

ERM_METHODS = ("erm", "erm-balanced")
_MEASURES = ("wga", "gba", "average", "auroc")
_BUDGET = ("steps", "batch_per_class")  # runs of another budget are neither compared nor averaged


def compare(
    work: Path,
    runs: list[str] | None = None,
    *,
    split: str | None = None,
    config: EvaluateConfig | None = None,
) -> pd.DataFrame:
    """Return one row per evaluated run and threshold, and write it as ``comparison.csv`` in the work folder.

    Beside it ``tissue_dependence.csv`` says what each run took out of the dependence on the tissue fraction.

    Parameters
    ----------
    work : Path
        Work folder with ``runs/<run>/evaluation``.
    runs : list of str, optional
        Run names; all evaluated ones if not given.
    split : str, optional
        The split that is reported; runs without it are left out. ``test`` if any run has it, else ``val``, which
        flatters, since models and thresholds were picked on it.
    config : EvaluateConfig, optional
        Number of resamplings behind the intervals of the gains, and their seed.

    Returns
    -------
    DataFrame
        run, method, seed, steps, batch_per_class, trained_threshold, threshold, split, n, patients,
        smallest_group_n, decision_threshold; wga, gba, average, auroc, each with ``_low`` and ``_high``;
        biased_average, wga_at_zero, wga_val, gba_val; for each group g ``accuracy_g`` (with ``_low`` and
        ``_high``), ``n_g``, ``patients_g``; reference (the ERM run), ``gain_wga`` and ``gain_g`` with ``_low``
        and ``_high``. NaN where something is missing.

    Raises
    ------
    InputMissingError
        No run is evaluated on that split, or a named one is not.
    """
    table = comparison(work, runs, split=split, config=config)
    text: str = table.to_csv(index=False, lineterminator="\n")
    write_bytes(work / "comparison.csv", text.encode())
    dependence = dependence_comparison(work, table, config=config).to_csv(index=False, lineterminator="\n")
    write_bytes(work / "tissue_dependence.csv", dependence.encode())
    return table


def comparison(
    work: Path,
    runs: list[str] | None = None,
    *,
    split: str | None = None,
    config: EvaluateConfig | None = None,
) -> pd.DataFrame:
    """Return what `compare` returns and write nothing.

    Parameters
    ----------
    work, runs, split, config
        As for `compare`.

    Raises
    ------
    InputMissingError
        No run is evaluated on that split, or a named one is not.
    """
    config = config or EvaluateConfig()
    names = evaluated_runs(work) if runs is None else list(runs)
    wanted = ("test", "val") if split is None else (split,)
    found = [[row for name in names for row in _rows_of(work, name, each)] for each in wanted]
    rows = next((rows for rows in found if rows), [])
    if not rows:
        raise InputMissingError(
            f"no run is evaluated on split {' or '.join(wanted)}",
            place=str(work / "runs"),
            remedy="run `pathopatch evaluate` first",
        )
    table = pd.DataFrame(rows)
    table["reference"] = [_reference(table, row) for _, row in table.iterrows()]
    patient = read_table(work / "groups.parquet").set_index("patch_id")["patient_id"]
    predictions = {name: _predictions(work, name, rows[0]["split"]) for name in table["run"].unique()}
    gains = [_gains(row, table, predictions, patient, config) for _, row in table.iterrows()]
    table = pd.concat([table, pd.DataFrame(gains, index=table.index)], axis=1)
    return table.sort_values(["threshold", "method", "seed", "run"], kind="stable", ignore_index=True)


def evaluated_runs(work: Path) -> list[str]:
    """Return the names of the runs that have an evaluation, sorted.

    Parameters
    ----------
    work : Path
        Work folder.
    """
    return sorted(path.parent.parent.name for path in work.glob("runs/*/evaluation/metrics.json"))


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """Return mean and standard deviation over seeds, one row per method and threshold.

    Parameters
    ----------
    table : DataFrame
        What `compare` returned.

    Returns
    -------
    DataFrame
        threshold, trained_threshold, method, steps, batch_per_class, runs (seeds); and for wga, gba, average,
        auroc and gain_wga the ``_mean`` and the ``_sd`` (of the sample, n - 1; NaN with one run).
    """
    keys = ["threshold", "trained_threshold", "method", *_BUDGET]
    names = [*_MEASURES, "gain_wga"]
    grouped = table.groupby(keys, sort=True, dropna=False)
    parts: list[pd.Series[Any]] = [grouped["seed"].nunique().rename("runs")]
    for name in names:
        parts += [grouped[name].mean().rename(f"{name}_mean"), grouped[name].std().rename(f"{name}_sd")]
    return pd.concat(parts, axis=1).reset_index()


def preferred_run(work: Path, *, threshold: float) -> str:
    """Return the name of the evaluated run that validation prefers at a threshold; the test split has no say.

    Parameters
    ----------
    work : Path
        Work folder with ``runs/<run>/evaluation``.
    threshold : float
        Tissue threshold whose WGA decides; ties go to the higher GBA, then to the first name.

    Raises
    ------
    InputMissingError
        No run is evaluated on validation at that threshold.
    """
    rows = [
        row for name in evaluated_runs(work) for row in _rows_of(work, name, "val") if row["threshold"] == threshold
    ]
    rows = [row for row in rows if np.isfinite(row["wga_val"])]
    if not rows:
        raise InputMissingError(
            f"no run has a validation WGA at threshold {threshold:g}",
            place=str(work / "runs"),
            remedy="run `pathopatch evaluate`; validation needs labelled patches in all four groups",
        )
    return str(min(rows, key=lambda row: (-row["wga_val"], -row["gba_val"], row["run"]))["run"])


def comparison_table(work: Path) -> str:
    """Return ``comparison.csv`` in short, as a text table for a terminal.

    Parameters
    ----------
    work : Path
        Work folder in which `compare` has been run.

    Raises
    ------
    InputMissingError
        There is no comparison, or no groups.
    """
    path = work / "comparison.csv"
    if not path.is_file():
        raise InputMissingError("no comparison.csv", place=str(work), remedy="run `pathopatch evaluate` first")
    table = pd.read_csv(path, keep_default_na=True, dtype={"run": str, "method": str, "reference": str})
    naming = naming_of(read_table(work / "groups.parquet"))
    if naming.is_own:  # all thresholds give the same groups
        table = table[table["threshold"] == table["threshold"].min()]
    lines = [
        f"Split {table['split'].iloc[0]}, in percent; smallest group n = {table['smallest_group_n'].min()}",
        f"  {'tau':<5}{'run':<26} {'WGA [95 % interval]':<22} {'GBA':>5} {'avg':>5} {'AUROC':>6}  "
        f"{'groups 0 to 3':<24} {'WGA gain':>8}",
    ]
    for threshold, part in table.groupby("threshold", sort=True):
        tau = "own" if naming.is_own else f"{threshold:g}"
        lines += [_text_row(f"{tau:<5}", row) for _, row in part.iterrows()]
        lines.append("")
    meaning = "own, the patches' own attribute" if naming.is_own else "tissue threshold"
    named = "; ".join(f"{number} {name}" for number, name in enumerate(naming.names))
    lines.append(f"tau: {meaning}. Groups: {named}.")
    return "\n".join(lines)


def _text_row(tau: str, row: pd.Series[Any]) -> str:
    """Return one run's line of the text table."""

    def percent(name: str) -> str:
        return f"{100 * row[name]:.1f}" if np.isfinite(row[name]) else "-"

    interval = f"{percent('wga')} [{percent('wga_low')}, {percent('wga_high')}]"
    accuracies = " ".join(f"{percent(f'accuracy_{number}'):>5}" for number in range(N_GROUPS))
    gain = f"{100 * row['gain_wga']:+.1f}" if np.isfinite(row["gain_wga"]) else "-"
    area = f"{row['auroc']:.3f}" if np.isfinite(row["auroc"]) else "-"
    return (
        f"  {tau}{row['run']:<26} {interval:<22} {percent('gba'):>5} {percent('average'):>5} {area:>6}  "
        f"{accuracies:<24} {gain:>8}"
    )


def _rows_of(work: Path, name: str, split: str) -> list[dict[str, Any]]:
    """Return one row per threshold of one run; none if it was not evaluated on that split."""
    numbers = read_json(inside(work, "runs", name, "evaluation", "metrics.json"))
    content = numbers["splits"].get(split)
    if content is None:
        return []
    about = _about(work, name)
    rows = []
    for threshold, judged in content["thresholds"].items():
        val = numbers["splits"].get("val", {}).get("thresholds", {}).get(threshold)
        row: dict[str, Any] = {"run": name, **about, "threshold": float(threshold), "split": split}
        row |= {key: judged[key] for key in ("n", "patients", "smallest_group_n", "decision_threshold")}
        for measure in _MEASURES:
            row |= _columns(measure, judged[measure], "value")
        row["biased_average"] = _number(judged["biased_average"])
        row["wga_at_zero"] = _number(judged["wga_at_zero"])
        row["wga_val"] = _number(val["wga"]["value"]) if val else float("nan")
        row["gba_val"] = _number(val["gba"]["value"]) if val else float("nan")
        for group in judged["groups"]:
            number = group["group"]
            row |= _columns(f"accuracy_{number}", group, "accuracy")
            row |= {f"n_{number}": group["n"], f"patients_{number}": group["patients"]}
        rows.append(row)
    return rows


def _about(work: Path, name: str) -> dict[str, Any]:
    """Return what a run's configuration says of it; a bundle from elsewhere has none and is its own method."""
    path = inside(work, "runs", name, "config.json")
    raw = read_json(path) if path.is_file() else {}
    raw = raw.get("config", raw)
    return {
        "method": str(raw.get("method", name)),
        "seed": int(raw.get("seed", 0)),
        "steps": raw.get("steps", float("nan")),
        "batch_per_class": raw.get("batch_per_class", float("nan")),
        "trained_threshold": raw.get("threshold", float("nan")),
    }


def _columns(name: str, content: dict[str, Any], key: str) -> dict[str, float]:
    """Return a number and its interval as three columns."""
    return {
        name: _number(content[key]),
        f"{name}_low": _number(content["low"]),
        f"{name}_high": _number(content["high"]),
    }


def _number(value: float | None) -> float:
    """Return a number of a JSON file, where null stands for NaN."""
    return float("nan") if value is None else float(value)


def _reference(table: pd.DataFrame, row: pd.Series[Any]) -> str:
    """Return the ERM run that a row is held against; empty if there is none.

    Only a run of as many steps and samples a step will do. The same seed and training threshold come first, then the
    higher validation WGA at the row's threshold, then GBA.
    """
    erm = table[table["method"].isin(ERM_METHODS) & (table["threshold"] == row["threshold"])]
    for key in _BUDGET:
        erm = erm[(erm[key] == row[key]) | (erm[key].isna() & pd.isna(row[key]))]
    for key in ("seed", "trained_threshold"):
        same = erm[erm[key] == row[key]]
        erm = erm if same.empty else same
    if erm.empty:
        return ""
    ranked = erm.sort_values(["wga_val", "gba_val", "run"], ascending=[False, False, True], na_position="last")
    return str(ranked["run"].iloc[0])


def _predictions(work: Path, name: str, split: str) -> pd.DataFrame:
    """Return one run's predictions on a split, by patch."""
    table = read_table(inside(work, "runs", name, "evaluation", "predictions.parquet"))
    return table[table["split"] == split].set_index("patch_id")


def _gains(
    row: pd.Series[Any],
    table: pd.DataFrame,
    predictions: dict[str, pd.DataFrame],
    patient: pd.Series[Any],
    config: EvaluateConfig,
) -> dict[str, float]:
    """Return what a run gained on WGA and on each group against its reference, over the patches both have."""
    empty = {f"gain_{name}{end}": float("nan") for name in ("wga", *range(N_GROUPS)) for end in ("", "_low", "_high")}
    if row["reference"] == "":
        return empty
    mine = predictions[row["run"]]
    theirs = predictions[row["reference"]].reindex(mine.index).dropna(subset=["logit"])
    mine = mine.loc[theirs.index]
    other = table[(table["run"] == row["reference"]) & (table["threshold"] == row["threshold"])].iloc[0]
    label = mine["label"].to_numpy() == 1
    right = (mine["logit"].to_numpy() > row["decision_threshold"]) == label
    reference_right = (theirs["logit"].to_numpy() > other["decision_threshold"]) == label
    group = mine[f"group@{row['threshold']:g}"].to_numpy(dtype=np.int64)
    return empty | paired_gains(
        right, reference_right, group, patient.loc[mine.index].to_numpy(dtype=str), config=config
    )


def paired_gains(
    right: NDArray[np.bool_],
    reference_right: NDArray[np.bool_],
    group: NDArray[np.int64],
    patient: NDArray[Any],
    *,
    config: EvaluateConfig,
) -> dict[str, float]:
    """Return the gain in WGA and in each group's accuracy over a reference, with paired 95 % intervals.

    Parameters
    ----------
    right, reference_right : ndarray of bool, shape (N,)
        Whether either model predicted each patch right.
    group : ndarray of int64, shape (N,)
        2 y + a, from 0 to 3.
    patient : ndarray, shape (N,)
        Patient of each patch: the unit that is resampled.
    config : EvaluateConfig
        Number of resamplings and their seed.

    Returns
    -------
    dict of str to float
        ``gain_wga``, ``gain_0`` to ``gain_3``, each with ``_low`` and ``_high``; NaN for an empty group, and for
        an interval from fewer than two patients.
    """
    hits, n = patient_counts(right, group, patient)
    reference_hits, _ = patient_counts(reference_right, group, patient)

    def worst(people: NDArray[Any]) -> float:
        mine = pooled_accuracy(hits[people], n[people]).min()
        return float(mine - pooled_accuracy(reference_hits[people], n[people]).min())

    settings = {"resamples": config.bootstrap, "seed": config.seed}
    gains = _columns("gain_wga", with_interval(worst, np.arange(len(n)), **settings), "value")
    for number in range(N_GROUPS):
        present = n[:, number] > 0
        difference = (hits - reference_hits)[present, number]
        count = n[present, number]

        def mean(
            people: NDArray[Any],
            difference: NDArray[np.int64] = difference,
            count: NDArray[np.int64] = count,
        ) -> float:
            return float(difference[people].sum() / count[people].sum()) if len(people) else float("nan")

        judged = with_interval(mean, np.arange(len(count)), **settings)
        gains |= _columns(f"gain_{number}", judged, "value")
    return gains

"""Answers how the evaluated runs compare, and what each gained or lost on every group against ERM.

"ERM" is the better of plain and class-balanced ERM by validation WGA, of the same seed where there is one, see
`_reference`. Gains
are paired: both runs are judged on the same patches, and an interval resamples patients for both at once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.core.artefacts import read_table
from pathopatch.core.config import EvaluateConfig
from pathopatch.core.errors import InputMissingError
from pathopatch.core.files import read_json, write_bytes
from pathopatch.core.work_folder import WorkFolder
from pathopatch.evaluation.compute_cost import BUDGET, budget_of
from pathopatch.evaluation.dependence import dependence_comparison, own_rows
from pathopatch.evaluation.evaluate import SWEEP_FILE, by_attribute
from pathopatch.evaluation.group_scores import patient_counts, pooled_accuracy, with_interval
from pathopatch.evaluation.leakage_checks import require_these_groups
from pathopatch.evaluation.sweep import sweep_text
from pathopatch.groups import GroupingAttribute, bins_attributes, threshold_attributes
from pathopatch.groups.attribute import training_label

ERM_METHODS = ("erm", "erm-balanced")
_MEASURES = ("wga", "gba", "average", "auroc")
_TOLD_APART_BY = ("threshold", "attribute", "trained_threshold", "trained_attribute", "method", *BUDGET)


def compare(
    work: Path,
    runs: list[str] | None = None,
    *,
    split: str | None = None,
    config: EvaluateConfig | None = None,
) -> pd.DataFrame:
    """Return one row per evaluated run and threshold, or set of bins, and write it as ``comparison.csv``.

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
        run, method, seed, steps, batch_per_class, trials, search_steps, search (see `budget_of`),
        trained_threshold (NaN of a run trained on bins), trained_attribute (``0.25``, ``bins 0.3,0.5``,
        ``rank, selected at 0.25``), threshold (NaN of bins), attribute (by which it is judged, the same words), split,
        n, patients, smallest_group_n, decision_threshold; wga, gba, average, auroc, each with ``_low`` and ``_high``;
        biased_average, wga_at_zero,
        wga_val, gba_val; for each group g ``accuracy_g`` (with ``_low`` and
        ``_high``), ``n_g``, ``patients_g``; reference (the ERM run), ``gain_wga`` and ``gain_g`` with ``_low``
        and ``_high``; sweep, in words how WGA and its gain over the ERM run of the training attribute behave over all
        tissue thresholds. NaN where something is missing.

    Raises
    ------
    InputMissingError, StaleArtefactError
        See `comparison`.
    """
    table = comparison(work, runs, split=split, config=config)
    text: str = table.to_csv(index=False, lineterminator="\n")
    write_bytes(WorkFolder(work).comparison, text.encode())
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
    StaleArtefactError
        A run was judged by groups that have been formed anew since.
    """
    config = config or EvaluateConfig()
    names = evaluated_runs(work) if runs is None else list(runs)
    require_these_groups(work, names)
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
    groups = read_table(WorkFolder(work).groups)
    patient = groups.set_index("patch_id")["patient_id"]
    attributes: dict[str, GroupingAttribute] = {
        attribute.label: attribute for attribute in (*threshold_attributes(groups), *bins_attributes(groups))
    }
    predictions = {name: _predictions(work, name, rows[0]["split"]) for name in table["run"].unique()}
    gains = [_gains(row, table, predictions, patient, attributes, config) for _, row in table.iterrows()]
    table = pd.concat([table, pd.DataFrame(gains, index=table.index)], axis=1)
    swept = {name: sweep_of(work, name, rows[0]["split"]) for name in table["run"].unique()}
    held = own_rows(table).set_index("run")["reference"]
    told = {
        run: sweep_text(mine, swept.get(held[run]) if held[run] != run else None) if len(mine) else ""
        for run, mine in swept.items()
    }
    table["sweep"] = table["run"].map(told)
    return table.sort_values(["threshold", "method", "seed", "run"], kind="stable", ignore_index=True)


def sweep_of(work: Path, name: str, split: str) -> pd.DataFrame:
    """Return one run's sweep over tissue thresholds on a split; without rows where there is none.

    Parameters
    ----------
    work : Path
        Work folder.
    name : str
        Run.
    split : str
        Split.
    """
    path = WorkFolder(work).evaluation(name) / SWEEP_FILE
    if not path.is_file():
        return pd.DataFrame()
    table = pd.read_csv(path, keep_default_na=True, dtype={"split": str, "note": str})
    return table[table["split"] == split].drop(columns="split").reset_index(drop=True)


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
        threshold, attribute, trained_threshold, trained_attribute, method, steps, batch_per_class, search, runs
        (seeds); and for wga, gba, average, auroc and gain_wga the ``_mean`` and the ``_sd`` (of the sample, n - 1; NaN
        with one run).
    """
    keys = [name for name in _TOLD_APART_BY if name in table]
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


def _rows_of(work: Path, name: str, split: str) -> list[dict[str, Any]]:
    """Return one row per threshold of one run; none if it was not evaluated on that split."""
    numbers = read_json(WorkFolder(work).evaluation(name) / "metrics.json")
    content = numbers["splits"].get(split)
    if content is None:
        return []
    about = _about(work, name)
    rows = []
    on_val = by_attribute(numbers["splits"].get("val", {"thresholds": {}}))
    for text, judged in by_attribute(content).items():
        val = on_val.get(text)
        cut = float(text) if text in content["thresholds"] else float("nan")
        row: dict[str, Any] = {"run": name, **about, "threshold": cut, "attribute": text, "split": split}
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
    path = WorkFolder(work).run(name) / "config.json"
    raw = read_json(path) if path.is_file() else {}
    raw = raw.get("config", raw)
    bins = raw.get("bins", ())
    return {
        "method": str(raw.get("method", name)),
        "seed": int(raw.get("seed", 0)),
        **budget_of(work, name, raw),
        "trained_threshold": float("nan") if bins else raw.get("threshold", float("nan")),
        "trained_attribute": training_label(raw),
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

    Only a run of as many steps and samples a step, and of the same search, will do. The same seed comes first. Then, of
    the runs that were trained and selected by the row's training attribute, or by the attribute at which it is judged,
    the one with the higher validation WGA at the latter, then GBA: a run trained on bins is not held, at a threshold,
    against an ERM that was selected for bins where the one selected for that threshold is better.
    """
    erm = table[table["method"].isin(ERM_METHODS) & (table["attribute"] == row["attribute"])]
    for key in BUDGET:
        erm = erm[(erm[key] == row[key]) | (erm[key].isna() & pd.isna(row[key]))]
    for key, values in (("seed", [row["seed"]]), ("trained_attribute", [row["trained_attribute"], row["attribute"]])):
        same = erm[erm[key].isin(values)]
        erm = erm if same.empty else same
    if erm.empty:
        return ""
    ranked = erm.sort_values(["wga_val", "gba_val", "run"], ascending=[False, False, True], na_position="last")
    return str(ranked["run"].iloc[0])


def _predictions(work: Path, name: str, split: str) -> pd.DataFrame:
    """Return one run's predictions on a split, by patch."""
    table = read_table(WorkFolder(work).evaluation(name) / "predictions.parquet")
    return table[table["split"] == split].set_index("patch_id")


def _gains(
    row: pd.Series[Any],
    table: pd.DataFrame,
    predictions: dict[str, pd.DataFrame],
    patient: pd.Series[Any],
    attributes: Mapping[str, GroupingAttribute],
    config: EvaluateConfig,
) -> dict[str, float]:
    """Return what a run gained on WGA and on each group against its reference, over the patches both have."""
    n_groups = n_groups_of(row)
    names = ("wga", *range(n_groups))
    empty = {f"gain_{name}{end}": float("nan") for name in names for end in ("", "_low", "_high")}
    if row["reference"] == "":
        return empty
    mine = predictions[row["run"]]
    theirs = predictions[row["reference"]].reindex(mine.index).dropna(subset=["logit"])
    group = attributes[row["attribute"]].groups_in(mine.loc[theirs.index])
    theirs, group = theirs[group >= 0], group[group >= 0]  # blank patches are in no bin
    mine = mine.loc[theirs.index]
    other = table[(table["run"] == row["reference"]) & (table["attribute"] == row["attribute"])].iloc[0]
    label = mine["label"].to_numpy() == 1
    right = (mine["logit"].to_numpy() > row["decision_threshold"]) == label
    reference_right = (theirs["logit"].to_numpy() > other["decision_threshold"]) == label
    return empty | paired_gains(
        right, reference_right, group, patient.loc[mine.index].to_numpy(dtype=str), n_groups=n_groups, config=config
    )


def n_groups_of(row: pd.Series[Any]) -> int:
    """Return how many groups a comparison's row is judged by: 2 A."""
    return sum(bool(re.fullmatch(r"n_\d+", str(name))) and bool(pd.notna(row[name])) for name in row.index)


def paired_gains(
    right: NDArray[np.bool_],
    reference_right: NDArray[np.bool_],
    group: NDArray[np.int64],
    patient: NDArray[Any],
    *,
    n_groups: int = 4,
    config: EvaluateConfig,
) -> dict[str, float]:
    """Return the gain in WGA and in each group's accuracy over a reference, with paired 95 % intervals.

    Parameters
    ----------
    right, reference_right : ndarray of bool, shape (N,)
        Whether either model predicted each patch right.
    group : ndarray of int64, shape (N,)
        A y + a, from 0.
    patient : ndarray, shape (N,)
        Patient of each patch: the unit that is resampled.
    n_groups : int
        2 A.
    config : EvaluateConfig
        Number of resamplings and their seed.

    Returns
    -------
    dict of str to float
        ``gain_wga``, ``gain_0`` and so on, each with ``_low`` and ``_high``; NaN for an empty group, and for
        an interval from fewer than two patients.
    """
    hits, n = patient_counts(right, group, patient, n_groups=n_groups)
    reference_hits, _ = patient_counts(reference_right, group, patient, n_groups=n_groups)

    def worst(people: NDArray[Any]) -> float:
        mine = pooled_accuracy(hits[people], n[people]).min()
        return float(mine - pooled_accuracy(reference_hits[people], n[people]).min())

    settings = {"resamples": config.bootstrap, "seed": config.seed}
    gains = _columns("gain_wga", with_interval(worst, np.arange(len(n)), **settings), "value")
    for number in range(n_groups):
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

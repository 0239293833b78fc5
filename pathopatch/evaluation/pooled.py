"""Answers how good a method is over a cross-validation: each patch judged once, by a model that never saw its patient.

Predictions of all folds are put together, each less the decision threshold of its own model, so that one threshold, 0,
stands for all of them; the pooled AUROC is of these margins. Intervals resample patients. Beside the pooled numbers
stand those of each fold: models of different folds share training patients, so their scatter is no standard error.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from pathopatch.core.artefacts import Stamp, artefact, fingerprint_file, read_table
from pathopatch.core.config import EvaluateConfig
from pathopatch.core.errors import InputMissingError
from pathopatch.core.files import read_json, write_bytes, write_json
from pathopatch.core.work_folder import WorkFolder
from pathopatch.evaluation.calibration import calibration
from pathopatch.evaluation.compute_cost import NO_SEARCH, SEARCH_FILE, budget_of
from pathopatch.evaluation.evaluate import SWEEP, by_attribute, judge_predictions, sweep_table, write_evaluation
from pathopatch.groups import threshold_attributes

FOLDS = "folds"
FOLDS_FILE = f"{FOLDS}.csv"
_MEASURES = ("wga", "gba", "average", "auroc")


def fold_folders(work: Path) -> list[Path]:
    """Return the work folders of the folds of a cross-validation, in order; none where there is one split.

    Parameters
    ----------
    work : Path
        Work folder, with or without ``groups.parquet``.
    """
    path = WorkFolder(work).groups
    if not path.is_file():
        return []
    groups = read_table(path)
    return [WorkFolder(work).fold(int(number)) for number in sorted(set(groups["fold"]))] if "fold" in groups else []


def pool_run(work: Path, name: str, *, config: EvaluateConfig | None = None, force: bool = False) -> Path:
    """Judge the test predictions of all folds together, as a run of the whole cohort, and return their folder.

    Parameters
    ----------
    work : Path
        Work folder whose folds have ``runs/<name>/evaluation``.
    name : str
        Run.
    config : EvaluateConfig, optional
        Resamplings and their seed.
    force : bool
        Redo what was made of other evaluations.

    Returns
    -------
    Path
        ``runs/<name>/evaluation``: as `evaluate_run` leaves it, both splits pooled, and ``folds.csv``, a row a fold and
        attribute. ``config.json`` beside it has the settings that all folds share: tuned ones may differ, and
        ``search.json`` what was spent on all folds together.

    Raises
    ------
    InputMissingError
        A fold has no such evaluation; the fold is named.
    StaleArtefactError
        Other evaluations were pooled before and `force` is off.
    """
    config = config or EvaluateConfig()
    folds = fold_folders(work)
    evaluations = [WorkFolder(fold).evaluation(name) for fold in folds]
    lacking = [
        fold.name for fold, each in zip(folds, evaluations, strict=True) if not (each / "metrics.json").is_file()
    ]
    if lacking:
        raise InputMissingError(
            f"run {name!r} is not evaluated in fold {', '.join(lacking)} of {len(folds)}",
            place=str(folds[0].parent),
            remedy="train it in every fold, or name with --run those that are",
        )
    out = WorkFolder(work).evaluation(name)
    inputs = {f"fold {fold.name}": fingerprint_file(each) for fold, each in zip(folds, evaluations, strict=True)}
    inputs["groups"] = fingerprint_file(WorkFolder(work).groups)
    stamp = Stamp(stage="evaluate", settings={"pool": config}, inputs=inputs)
    with artefact(out / "metrics.json", stamp=stamp, force=force) as made:
        if made.is_current:
            return out
        groups = read_table(WorkFolder(work).groups)
        numbers = [read_json(each / "metrics.json") for each in evaluations]
        raw = [read_table(each / "predictions.parquet") for each in evaluations]
        pooled = _pooled(raw, [each["decision_threshold"] for each in numbers])
        whole: dict[str, Any] = {
            "decision_threshold": 0.0,
            "train_splits": ("test",),
        }  # of whom each trains in other folds
        told = judge_predictions(pooled, groups, **whole, config=config)
        _at_zero(told, _pooled(raw, [0.0] * len(raw)), groups, whole, config)
        swept = sweep_table(pooled, groups, decision_threshold=0.0, config=config)
        about = {"run": name, "folds": len(folds)}
        write_evaluation(out, pooled, {**about, **told}, made, further={SWEEP: swept, FOLDS: fold_table(numbers)})
        configs = [read_json(each.parent / "config.json") for each in evaluations]
        spent = [budget_of(fold, name, each) for fold, each in zip(folds, configs, strict=True)]
        write_json(out.parent / SEARCH_FILE, _spent(spent))
        write_json(out.parent / "config.json", _shared(configs))
    return out


def fold_table(numbers: list[dict[str, Any]]) -> pd.DataFrame:
    """Return what the test split of each fold says, a row a fold and attribute.

    Parameters
    ----------
    numbers : list of dict
        ``metrics.json`` of each fold, in order.

    Returns
    -------
    DataFrame
        fold, attribute (``0.25``, ``bins 0.3,0.5``), n, patients, smallest_group_n, decision_threshold, wga, gba,
        average, auroc.
    """
    rows = []
    for number, content in enumerate(numbers, 1):
        for attribute, judged in by_attribute(content["splits"].get("test", {"thresholds": {}})).items():
            row = {"fold": number, "attribute": attribute}
            row |= {name: judged[name] for name in ("n", "patients", "smallest_group_n", "decision_threshold")}
            rows.append(row | {name: judged[name]["value"] for name in _MEASURES})
    return pd.DataFrame(rows)


def write_fold_tables(work: Path) -> pd.DataFrame:
    """Write ``folds.csv`` of a work folder: the folds of all pooled runs, and return it.

    Parameters
    ----------
    work : Path
        Work folder with at least one pooled run, see `pool_run`.
    """
    text = {"attribute": str}
    paths = sorted(work.glob(f"runs/*/evaluation/{FOLDS_FILE}"))
    tables = [pd.read_csv(path, dtype=text).assign(run=path.parent.parent.name) for path in paths]
    table = pd.concat(tables, ignore_index=True)
    table.insert(0, "run", table.pop("run"))
    write_bytes(work / FOLDS_FILE, table.to_csv(index=False, lineterminator="\n").encode())
    return table


def _pooled(predictions: list[pd.DataFrame], thresholds: list[float]) -> pd.DataFrame:
    """Return the predictions of all folds, each less a threshold of its own, test patches first."""
    parts = [
        table.assign(**{name: table[name] - threshold for name in map(str, table) if name.startswith("logit")})
        for table, threshold in zip(predictions, thresholds, strict=True)
    ]
    table = pd.concat(parts, ignore_index=True)
    return pd.concat([table[table["split"] == split] for split in ("test", "val")], ignore_index=True)


def _at_zero(
    told: dict[str, Any], raw: pd.DataFrame, groups: pd.DataFrame, whole: dict[str, Any], config: EvaluateConfig
) -> None:
    """Fill in what the logits themselves say: WGA had every model's decision threshold been 0, and calibration."""
    judged = judge_predictions(raw, groups, **whole, config=config.model_copy(update={"bootstrap": 0}))
    patient_of, n_values = groups.set_index("patch_id")["patient_id"], threshold_attributes(groups)[0].n_values
    for split, content in told["splits"].items():
        table = raw[raw["split"] == split]
        patient = patient_of.loc[table["patch_id"]].to_numpy(dtype=str)
        content["calibration"] = calibration(
            table, patient, n_values=n_values, resamples=config.bootstrap, seed=config.seed
        )
        for kind in ("thresholds", "bins"):
            for text, each in content[kind].items():
                each["wga_at_zero"] = judged["splits"][split][kind][text]["wga_at_zero"]


def _spent(budgets: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what was spent on a run in all folds, as ``search.json`` of one run says it."""
    offered = list(dict.fromkeys(each["search"] for each in budgets))
    told = [each if each == NO_SEARCH else f"{each} a fold" for each in offered]
    return {
        "offered": ", ".join(told),
        "trials": sum(each["trials"] for each in budgets),
        "steps": sum(each["search_steps"] for each in budgets),
        "folds": len(budgets),
    }


def _shared(configs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the settings that have one value in all folds."""
    return {key: value for key, value in configs[0].items() if all(other.get(key) == value for other in configs)}

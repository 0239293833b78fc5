"""Pool the folds of a cross-validation: each patch is tested once, by a model that never saw its patient.

Each prediction is taken less the decision threshold of its own model, so that one threshold, 0, serves for all folds;
the pooled AUROC is of these margins. AUROC at equal area compares patches of one fold only, whose answers are of one
model. Intervals resample patients. The numbers of each fold are beside the pooled
ones. Models of different folds share training patients, so their scatter is no standard error.
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
from pathopatch.evaluation.evaluate import by_attribute, evaluate_predictions, write_evaluation
from pathopatch.evaluation.reference import SEARCH_FILE, budget_of, total_budget
from pathopatch.groups import threshold_attributes, units_of

FOLDS_FILE = "folds.csv"
_MEASURES = ("wga", "gba", "average", "auroc")


def fold_folders(work: Path) -> list[Path]:
    """Return the work folders of the folds of a cross-validation, in order; none where there is one split."""
    path = WorkFolder(work).groups
    if not path.is_file():
        return []
    groups = read_table(path)
    return [WorkFolder(work).fold(int(number)) for number in sorted(set(groups["fold"]))] if "fold" in groups else []


def pool_run(work: Path, name: str, *, config: EvaluateConfig | None = None, force: bool = False) -> Path:
    """Evaluate the test predictions of all folds together, as a run of the whole cohort, and return their folder.

    ``runs/<name>/evaluation`` is as `evaluate_run` leaves it, both splits pooled, and ``folds.csv``, a row per fold and
    attribute. Beside it ``config.json`` has the settings that all folds share (tuned ones may differ), and
    ``search.json`` the budget of all folds together. InputMissingError names folds without such an evaluation.
    """
    config = config or EvaluateConfig()
    folds = fold_folders(work)
    evaluations = [WorkFolder(fold).evaluation(name) for fold in folds]
    scores = [path / "metrics.json" for path in evaluations]
    missing = [fold.name for fold, path in zip(folds, scores, strict=True) if not path.is_file()]
    if missing:
        raise InputMissingError(
            f"run {name!r} is not evaluated in fold {', '.join(missing)} of {len(folds)}",
            place=str(folds[0].parent),
            remedy="train it in every fold, or name the others: pathopatch evaluate WORK --run NAME",
        )
    out = WorkFolder(work).evaluation(name)
    inputs = {f"fold {fold.name}": fingerprint_file(path) for fold, path in zip(folds, evaluations, strict=True)}
    inputs["groups"] = fingerprint_file(WorkFolder(work).groups)
    stamp = Stamp(stage="evaluate", settings={"pool": config}, inputs=inputs)
    with artefact(out / "metrics.json", stamp=stamp, force=force, is_whole=lambda: not force) as output:
        if output.is_current:
            return out
        groups = read_table(WorkFolder(work).groups)
        fold_numbers = [read_json(path) for path in scores]
        predictions = [read_table(path / "predictions.parquet") for path in evaluations]
        pooled = _pooled(predictions, [content["decision_threshold"] for content in fold_numbers])
        numbers = evaluate_predictions(pooled, groups, decision_threshold=0.0, config=config)
        _add_raw_numbers(numbers, _pooled(predictions, [0.0] * len(folds)), groups, config)
        numbers = {"run": name, "folds": len(folds), **numbers}
        further = {"folds": _fold_table(fold_numbers)}
        write_evaluation(out, pooled, groups, numbers, output, config=config, further=further)
        configs = [read_json(path.parent / "config.json") for path in evaluations]
        budgets = [budget_of(fold, name, raw) for fold, raw in zip(folds, configs, strict=True)]
        write_json(out.parent / SEARCH_FILE, total_budget(budgets))
        shared = {key: value for key, value in configs[0].items() if all(other.get(key) == value for other in configs)}
        write_json(out.parent / "config.json", shared)
    return out


def _fold_table(fold_numbers: list[dict[str, Any]]) -> pd.DataFrame:
    """Return the scores of each fold's test split, a row per fold and attribute, from ``metrics.json`` of each fold."""
    rows = []
    for fold, content in enumerate(fold_numbers, 1):
        for label, scores in by_attribute(content["splits"].get("test", {"thresholds": {}})).items():
            row = {"fold": fold, "attribute": label}
            row |= {name: scores[name] for name in ("n", "patients", "smallest_group_n", "decision_threshold")}
            row |= {name: scores[name]["value"] for name in _MEASURES}
            rows.append(row | {"equal_area": content["splits"]["test"]["equal_area"]["value"]})
    return pd.DataFrame(rows)


def write_fold_tables(work: Path) -> pd.DataFrame:
    """Write ``folds.csv`` of a work folder, the folds of all runs that `pool_run` pooled, and return it."""
    paths = sorted(work.glob(f"runs/*/evaluation/{FOLDS_FILE}"))
    tables = [pd.read_csv(path, dtype={"attribute": str}).assign(run=path.parent.parent.name) for path in paths]
    table = pd.concat(tables, ignore_index=True)
    table.insert(0, "run", table.pop("run"))
    write_bytes(work / FOLDS_FILE, table.to_csv(index=False, lineterminator="\n").encode())
    return table


def _pooled(predictions: list[pd.DataFrame], thresholds: list[float]) -> pd.DataFrame:
    """Return the predictions of all folds with their fold, each less a threshold of its own, test patches first."""
    # The logits without a channel move by the same threshold, so that an ablation compares like with like.
    parts = [
        table.assign(
            **{name: table[name] - threshold for name in map(str, table) if name.startswith("logit")}, fold=fold
        )
        for fold, (table, threshold) in enumerate(zip(predictions, thresholds, strict=True), 1)
    ]
    table = pd.concat(parts, ignore_index=True)
    return pd.concat([table[table["split"] == split] for split in ("test", "val")], ignore_index=True)


def _add_raw_numbers(numbers: dict[str, Any], raw: pd.DataFrame, groups: pd.DataFrame, config: EvaluateConfig) -> None:
    """Put in place what follows from the logits themselves: WGA at a decision threshold of 0, and calibration."""
    no_intervals = config.model_copy(update={"bootstrap": 0})
    at_zero = evaluate_predictions(raw, groups, decision_threshold=0.0, config=no_intervals)
    patient_of, n_values = units_of(groups.set_index("patch_id")), threshold_attributes(groups)[0].n_values
    for split, content in numbers["splits"].items():
        table = raw[raw["split"] == split]
        patient = patient_of.loc[table["patch_id"]].to_numpy(dtype=str)
        content["calibration"] = calibration(
            table, patient, n_values=n_values, resamples=config.bootstrap, seed=config.seed
        )
        for kind in ("thresholds", "bins"):
            for key, scores in content[kind].items():
                scores["wga_at_zero"] = at_zero["splits"][split][kind][key]["wga_at_zero"]

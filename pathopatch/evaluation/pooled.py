"""Pool the folds of a cross-validation: each patch is tested once, by a model that never saw its patient.

Each prediction is taken less the decision threshold of its own model, so that one threshold, 0, serves for all folds;
the pooled AUROC is of these margins. AUROC at equal area compares patches of one fold only, whose answers are of one
model. Intervals resample patients. The numbers of each fold are in its own work folder. Models of different folds share
training patients, so their scatter is no standard error.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from pathopatch.core.artefacts import fingerprint_file, read_table
from pathopatch.core.config import EvaluateConfig
from pathopatch.core.errors import InputMissingError
from pathopatch.core.files import read_json, write_json
from pathopatch.core.work_folder import WorkFolder
from pathopatch.evaluation.evaluate import Predicted, write_evaluation
from pathopatch.evaluation.reference import SEARCH_FILE, budget_of, total_budget


def fold_folders(work: Path) -> list[Path]:
    """Return the work folders of the folds of a cross-validation, in order; none where there is one split."""
    path = WorkFolder(work).groups
    groups = read_table(path) if path.is_file() else pd.DataFrame()
    if "fold" not in groups or (groups["split"] != "test").any():  # a fold's own table has the column too
        return []
    return [WorkFolder(work).fold(int(number)) for number in sorted(set(groups["fold"]))]


def pool_run(work: Path, name: str, *, config: EvaluateConfig | None = None, force: bool = False) -> Path:
    """Evaluate the test predictions of all folds together, as a run of the whole cohort, and return their folder.

    ``runs/<name>/evaluation`` is as `evaluate_run` leaves it, both splits pooled. Beside it ``config.json`` has the
    settings that all folds share (tuned ones may differ), and ``search.json`` the budget of all folds together.
    InputMissingError names folds without such an evaluation.
    """
    config = config or EvaluateConfig()
    folds = fold_folders(WorkFolder(work).assignment_of(name))
    evaluations = [WorkFolder(fold).evaluation(name) for fold in folds]
    missing = [path.parents[2].name for path in evaluations if not (path / "metrics.json").is_file()]
    if missing:
        raise InputMissingError(
            f"run {name!r} is not evaluated in fold {', '.join(missing)} of {len(folds)}",
            place=str(folds[0].parent),
            remedy="train it in every fold, or name the others: pathopatch evaluate WORK --run NAME",
        )

    def predict(_: pd.DataFrame) -> Predicted:
        predictions = [read_table(path / "predictions.parquet") for path in evaluations]
        return Predicted(_pooled(predictions), 0.0, {"run": name, "folds": len(folds)})

    out, settings = WorkFolder(work).evaluation(name), {"pool": config}
    inputs = {f"fold {fold.name}": fingerprint_file(path) for fold, path in zip(folds, evaluations, strict=True)}
    write_evaluation(out, work, predict, settings=settings, inputs=inputs, config=config, force=force)
    configs = [read_json(path.parent / "config.json") for path in evaluations]
    budgets = [budget_of(fold, name, raw) for fold, raw in zip(folds, configs, strict=True)]
    write_json(out.parent / SEARCH_FILE, total_budget(budgets))
    shared = {key: value for key, value in configs[0].items() if all(other.get(key) == value for other in configs)}
    write_json(out.parent / "config.json", shared)
    return out


def _pooled(predictions: list[pd.DataFrame]) -> pd.DataFrame:
    """Return the predictions of all folds with their fold, each less the threshold of its model, test patches first."""
    # The logits without a channel move by the same threshold, so that an ablation compares like with like.
    parts = []
    for fold, table in enumerate(predictions, 1):
        logits = [str(name) for name in table if str(name).startswith("logit")]
        parts.append(table.assign(**{name: table[name] - table["threshold"] for name in logits}, fold=fold))
    table = pd.concat(parts, ignore_index=True)
    return pd.concat([table[table["split"] == split] for split in ("test", "val")], ignore_index=True)

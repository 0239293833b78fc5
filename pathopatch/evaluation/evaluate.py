"""Answers how good one training run is on labelled patches: reads a run's model and the groups, writes its evaluation.

``runs/<run>/evaluation/`` holds ``metrics.json`` (every number, with its stamp), ``groups.csv`` (one row per split,
threshold and group), ``sweep.csv`` (one row per split and tissue threshold of a sweep), ``tissue_dependence.csv``,
``calibration.csv``, ``reliability.csv`` and ``ablation.csv`` (audit of the trained model) and ``predictions.parquet``
(one row per patch).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.core.artefacts import (
    Artefact,
    Stamp,
    artefact,
    fingerprint_file,
    read_table,
)
from pathopatch.core.config import EvaluateConfig
from pathopatch.core.errors import InputUnsupportedError
from pathopatch.core.files import atomic_path, read_json
from pathopatch.core.work_folder import WorkFolder
from pathopatch.evaluation.ablation import ablation, ablation_table
from pathopatch.evaluation.audit import tissue_dependence
from pathopatch.evaluation.calibration import calibration, calibration_tables
from pathopatch.evaluation.group_scores import group_shares, judge
from pathopatch.evaluation.leakage_checks import require_unseen
from pathopatch.evaluation.predicting import predict_patches
from pathopatch.evaluation.sweep import sweep
from pathopatch.groups import GroupingAttribute, TissueBins, bins_attributes, threshold_attributes
from pathopatch.models.bundle import load_model
from pathopatch.training.run import drop_learnt_patches

SWEEP = "sweep"
SWEEP_FILE = f"{SWEEP}.csv"


def evaluate_run(
    work: Path,
    run_name: str,
    *,
    config: EvaluateConfig | None = None,
    splits: tuple[str, ...] = ("val", "test"),
    device: str = "auto",
    force: bool = False,
) -> Path:
    """Judge one run on labelled patches and return the folder of its numbers.

    Parameters
    ----------
    work : Path
        Work folder with ``groups.parquet``, the patch stores and ``runs/``.
    run_name : str
        Folder name below ``runs/``.
    config : EvaluateConfig, optional
        Number of resamplings and their seed.
    splits : tuple of str
        Splits to judge; one without labelled patches is left out, and of validation what the run learnt from.
    device : str
        Of the forward pass, "auto" for the best there is.
    force : bool
        Redo an evaluation of other settings or inputs.

    Returns
    -------
    Path
        ``runs/<run>/evaluation``. An evaluation of the same stamp is left as it is.

    Raises
    ------
    InputMissingError
        Groups, model or run are missing, or none of the splits has labelled patches.
    StaleArtefactError
        Another evaluation stands there and `force` is off.
    SplitLeakageError
        The run was trained on slides of a split that is to be judged: the groups were divided anew since.
    """
    config = config or EvaluateConfig()
    out = WorkFolder(work).evaluation(run_name)
    model_folder = WorkFolder(work).model(run_name)
    stamp = Stamp(
        stage="evaluate",
        settings={**config.model_dump(mode="json"), "splits": splits},
        inputs={
            "groups": fingerprint_file(WorkFolder(work).groups),
            "model": fingerprint_file(model_folder),
        },
    )
    with artefact(out / "metrics.json", stamp=stamp, force=force) as made:
        if made.is_current:
            return out
        groups = read_table(WorkFolder(work).groups)
        model = load_model(model_folder, device=device)
        unseen = sorted(set(splits) - set(_train_splits(work, run_name)))
        require_unseen(work, groups, model.spec, unseen, place=out.parent)
        predictions = predict_patches(work, groups, model, splits=splits, ablate=config.ablation)
        predictions = drop_learnt_patches(out.parent, predictions)
        threshold = model.spec.decision_threshold
        numbers = judge_predictions(
            predictions,
            groups,
            decision_threshold=threshold,
            train_splits=_train_splits(work, run_name),
            config=config,
        )
        swept = sweep_table(predictions, groups, decision_threshold=threshold, config=config)
        write_evaluation(out, predictions, {"run": run_name, **numbers}, made, further={SWEEP: swept})
    return out


def write_evaluation(
    out: Path,
    predictions: pd.DataFrame,
    numbers: dict[str, Any],
    made: Artefact,
    *,
    further: Mapping[str, pd.DataFrame],
) -> None:
    """Write an evaluation's numbers as JSON and tables, and its predictions; all of it or nothing.

    Parameters
    ----------
    out : Path
        Its folder; an earlier evaluation there is replaced.
    predictions : DataFrame
        A row per patch.
    numbers : dict
        What `judge_predictions` returned, and whatever else is known.
    made : Artefact
        The evaluation.
    further : mapping of str to DataFrame
        More tables by name; those without rows are not written.
    """
    tables = {**further, "groups": group_table(numbers), "tissue_dependence": dependence_table(numbers)}
    tables |= {**calibration_tables(numbers), "ablation": ablation_table(numbers)}
    with atomic_path(out) as temporary:
        temporary.mkdir(parents=True)
        made.write_table(temporary / "predictions.parquet", predictions)
        for name, table in tables.items():
            if len(table):  # of one channel there is no ablation, by an attribute of their own no sweep
                table.to_csv(temporary / f"{name}.csv", index=False, lineterminator="\n")
        made.write_json(temporary / "metrics.json", numbers)


def judge_predictions(
    predictions: pd.DataFrame,
    groups: pd.DataFrame,
    *,
    decision_threshold: float,
    train_splits: tuple[str, ...] = ("train",),
    config: EvaluateConfig | None = None,
) -> dict[str, Any]:
    """Return every number about some predictions: per split and threshold, and the dependence on tissue.

    Parameters
    ----------
    predictions : DataFrame
        Columns patch_id, split, label, tissue_fraction, ``group@<threshold>``, ``bin@<cuts>`` if there are bins, logit
        (tumour minus non-tumour), probability, and ``logit without <channel>`` where channels were taken away; one row
        per labelled patch that has a group.
    groups : DataFrame
        The groups table: gives each patch its patient, and the training split its group shares.
    decision_threshold : float
        On the logit.
    train_splits : tuple of str
        Splits that the model was trained on.
    config : EvaluateConfig, optional
        Number of resamplings and their seed.

    Returns
    -------
    dict
        `decision_threshold`, `train_splits` and `splits`: split -> {`thresholds`: threshold -> what `judge` returns,
        `bins`: cuts -> the same, empty without bins, `tissue_dependence`, `calibration`, `ablation`: what the functions
        of these names return}.

    Raises
    ------
    InputUnsupportedError
        A predicted patch is not in the groups table.
    """
    config = config or EvaluateConfig()
    patient_of = groups.set_index("patch_id")["patient_id"]
    unknown = ~predictions["patch_id"].isin(patient_of.index)
    if unknown.any():
        raise InputUnsupportedError(
            f"{int(unknown.sum())} predicted patches have no row in the groups table, the first is "
            f"{predictions.loc[unknown, 'patch_id'].iloc[0]!r}",
            remedy="run `pathopatch groups` and `pathopatch evaluate` again",
        )
    trained_on = groups[groups["split"].isin(train_splits)]
    attributes = threshold_attributes(groups)
    n_values = attributes[0].n_values
    splits: dict[str, Any] = {}
    for split, table in predictions.groupby("split", sort=False):
        patient = patient_of.loc[table["patch_id"]].to_numpy(dtype=str)
        common: dict[str, Any] = {"decision_threshold": decision_threshold, "config": config}
        splits[str(split)] = {
            "thresholds": {
                attribute.key: _judged(table, trained_on, patient, attribute, **common) for attribute in attributes
            },
            "bins": {bins.key: _judged(table, trained_on, patient, bins, **common) for bins in bins_attributes(groups)},
            "tissue_dependence": tissue_dependence(
                table["probability"].to_numpy(dtype=np.float64),
                table["tissue_fraction"].to_numpy(dtype=np.float64),
                table["label"].to_numpy(dtype=np.int64),
                patient,
                resamples=config.bootstrap,
                seed=config.seed,
            ),
            "calibration": calibration(table, patient, n_values=n_values, resamples=config.bootstrap, seed=config.seed),
            "ablation": ablation(
                table,
                patient,
                decision_threshold=decision_threshold,
                n_values=n_values,
                resamples=config.bootstrap,
                seed=config.seed,
            ),
        }
    return {
        "decision_threshold": float(decision_threshold),
        "train_splits": list(train_splits),
        "splits": splits,
    }


def _judged(
    table: pd.DataFrame,
    trained_on: pd.DataFrame,
    patient: NDArray[Any],
    attribute: GroupingAttribute,
    *,
    decision_threshold: float,
    config: EvaluateConfig,
) -> dict[str, Any]:
    """Return what `judge` says of some predictions by one attribute.

    A patch that has a group by its own attribute may be blank, and then is in no bin of the tissue.
    """
    group, n_values = attribute.groups_in(table), attribute.n_values
    is_known = group >= 0
    return judge(
        table["logit"].to_numpy(dtype=np.float64)[is_known],
        table["label"].to_numpy(dtype=np.int64)[is_known],
        group[is_known] % n_values,
        patient[is_known],
        decision_threshold=decision_threshold,
        train_shares=group_shares(attribute.groups_in(trained_on), n_groups=2 * n_values),
        n_values=n_values,
        resamples=config.bootstrap,
        seed=config.seed,
    )


def group_table(numbers: dict[str, Any]) -> pd.DataFrame:
    """Return the group accuracies as a table, one row per split, threshold (or ``bins 0.3,0.5``) and group.

    Parameters
    ----------
    numbers : dict
        What `judge_predictions` returned.
    """
    rows = [
        {"split": split, "threshold": text, **row}
        for split, content in numbers["splits"].items()
        for text, judged in by_attribute(content).items()
        for row in judged["groups"]
    ]
    return pd.DataFrame(rows)


def sweep_table(
    predictions: pd.DataFrame, groups: pd.DataFrame, *, decision_threshold: float, config: EvaluateConfig
) -> pd.DataFrame:
    """Return the sweep over tissue thresholds of each split; without rows where the attribute is the patches' own.

    Parameters
    ----------
    predictions, groups, decision_threshold, config
        As for `judge_predictions`.
    """
    patient_of = groups.set_index("patch_id")["patient_id"]
    parts = [
        sweep(
            table,
            patient_of.loc[table["patch_id"]].to_numpy(dtype=str),
            decision_threshold=decision_threshold,
            config=config,
        ).assign(split=split)
        for split, table in predictions.groupby("split", sort=False)
    ]
    table = pd.concat(parts, ignore_index=True)
    table.insert(0, "split", table.pop("split"))
    return table.iloc[:0] if threshold_attributes(groups)[0].is_patch_attribute else table


def by_attribute(content: dict[str, Any]) -> dict[str, Any]:
    """Return what was judged on one split, by the attribute's name: ``0.25``, or ``bins 0.3,0.5``."""
    by_bins = content.get("bins", {}).items()
    bins = {TissueBins.from_key(key).label: judged for key, judged in by_bins}
    return {**content["thresholds"], **bins}


def dependence_table(numbers: dict[str, Any]) -> pd.DataFrame:
    """Return the dependence on the tissue fraction as a table, one row per split and label.

    Parameters
    ----------
    numbers : dict
        What `judge_predictions` returned.
    """
    return pd.DataFrame(
        [
            {"split": split, **row}
            for split, content in numbers["splits"].items()
            for row in content["tissue_dependence"]
        ]
    )


def _train_splits(work: Path, run_name: str) -> tuple[str, ...]:
    """Return the splits that a run was trained on, from its configuration if it has one."""
    path = WorkFolder(work).run(run_name) / "config.json"
    if not path.is_file():
        return ("train",)
    raw = read_json(path)
    return tuple(raw.get("config", raw).get("train_splits", ("train",)))

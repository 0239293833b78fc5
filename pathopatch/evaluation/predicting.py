"""Answers what a model says of labelled patches, with all channels and without each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.core.errors import InputMissingError
from pathopatch.evaluation.ablation import WITHOUT, without_channel
from pathopatch.groups import bins_attributes, threshold_attributes
from pathopatch.models.bundle import PatchClassifier
from pathopatch.training.dataset import PatchSet, load_patches

_BATCH = 256  # patches read and predicted at a time


def predict_patches(
    work: Path, groups: pd.DataFrame, model: PatchClassifier, *, splits: tuple[str, ...], ablate: bool = False
) -> pd.DataFrame:
    """Return the predictions of a model on the labelled patches of some splits that have a group.

    Parameters
    ----------
    work : Path
        Work folder with the patch stores.
    groups : DataFrame
        The groups table.
    model : PatchClassifier
        The model.
    splits : tuple of str
        Splits to predict; one without labelled patches is left out.
    ablate : bool
        Predict them once more without each channel, if there are several.

    Returns
    -------
    DataFrame
        As `judge_predictions` takes it.

    Raises
    ------
    InputMissingError
        None of the splits has a labelled patch with a group.
    """
    names = [attribute.group_column for attribute in (*threshold_attributes(groups), *bins_attributes(groups))]
    wanted = groups[groups["split"].isin(splits) & (groups["label"] >= 0) & (groups[names[0]] >= 0)]
    if wanted.empty:
        raise InputMissingError(
            f"no labelled patch with tissue in split {' or '.join(splits)}",
            place="groups.parquet",
            remedy="give slides of these splits a tumor_mask in the manifest",
        )
    tables = []
    for split in splits:
        rows = wanted[wanted["split"] == split]
        if rows.empty:
            continue
        patches = load_patches(work, rows, input_px=model.spec.input_px, splits=(split,))
        margins = _margins(model, patches, ablate=ablate).loc[rows["patch_id"]].reset_index(drop=True)
        table = rows[["patch_id", "split", "label", "tissue_fraction", *names]].reset_index(drop=True)
        table["logit"] = margins["logit"]
        scaled = 0.5 * margins["logit"] / model.spec.temperature
        table["probability"] = 0.5 * (1 + np.tanh(scaled))  # no exponential overflows
        tables.append(pd.concat([table, margins.drop(columns="logit")], axis=1))
    return pd.concat(tables, ignore_index=True)


def _margins(model: PatchClassifier, patches: PatchSet, *, ablate: bool) -> pd.DataFrame:
    """Return z1 - z0 of every patch by its id, with all channels and, if asked, without each; batch by batch."""
    channels = model.spec.channels if ablate and len(model.spec.channels) > 1 else ()
    found: dict[str, list[NDArray[np.float64]]] = {"logit": [], **{f"{WITHOUT}{name}": [] for name in channels}}
    for start in range(0, len(patches), _BATCH):
        batch = patches.read(slice(start, start + _BATCH))
        found["logit"].append(_difference(model.predict_logits(batch)))
        for number, name in enumerate(channels):
            blanked = without_channel(batch, number, model.spec.mean[number])
            found[f"{WITHOUT}{name}"].append(_difference(model.predict_logits(blanked)))
    return pd.DataFrame({name: np.concatenate(parts) for name, parts in found.items()}, index=patches.patch_id)


def _difference(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return z1 - z0 of logits (N, 2)."""
    return logits[:, 1].astype(np.float64) - logits[:, 0].astype(np.float64)

"""Predict labelled patches with a trained model, and check first that it may be evaluated on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.core.artefacts import fingerprint_file, read_stamp, read_table
from pathopatch.core.errors import InputMissingError, SplitLeakageError, StaleArtefactError
from pathopatch.core.mask_bits import MaskKind
from pathopatch.core.work_folder import INNER_FOLDS, WorkFolder
from pathopatch.groups import bins_attributes, threshold_attributes
from pathopatch.models.forward import PatchClassifier
from pathopatch.models.leakage import TRAINED
from pathopatch.models.loading import load_model
from pathopatch.models.spec import BundleSpec
from pathopatch.training.crops import patches_with_crop
from pathopatch.training.data_summary import slide_marks
from pathopatch.training.dataset import PatchSet, load_features, load_patches

_BATCH = 256  # patches read and predicted at a time
WITHOUT = "logit without "
"""Column of a predictions table: the logit when the channel that follows is replaced by its mean."""


def predict_labelled(
    work: Path,
    groups: pd.DataFrame,
    model: PatchClassifier,
    *,
    splits: tuple[str, ...],
    ablate: bool = False,
    logits_of: Callable[[PatchSet, int | None], NDArray[np.float64]] | None = None,
) -> pd.DataFrame:
    """Return the predictions of a model on the labelled patches of some splits that have a group.

    A split without labelled patches is left out. With `ablate` the patches are predicted once more without each of
    several channels; those of colour are one. `logits_of` computes the logits (N, 2), without a channel of that number
    if there is one, in place of the model. The table is as `evaluate_predictions` takes it. `InputMissingError` if no
    split has such a patch.
    """
    names = [attribute.group_column for attribute in (*threshold_attributes(groups), *bins_attributes(groups))]
    labelled = labelled_rows(groups, splits, remedy="give slides of these splits a tumor_mask in the manifest")
    tables = []
    for split in splits:
        rows = labelled[labelled["split"] == split]
        if rows.empty:
            continue
        if model.spec.encoder is not None:
            patches = load_features(work, rows, splits=(split,))
        else:
            masks: tuple[MaskKind, ...] = () if model.spec.mask == "none" else ("tissue",)
            held_gib = 1.5 if logits_of is None else 0.0
            of_split: dict[str, Any] = {"input_px": model.spec.input_px, "splits": (split,), "cache_gib": held_gib}
            patches = load_patches(work, rows, masks=masks, **of_split)
        margins = (
            _margins(model, patches, ablate=ablate, logits_of=logits_of).loc[rows["patch_id"]].reset_index(drop=True)
        )
        table = rows[["patch_id", "split", "label", "tissue_fraction", *names]].reset_index(drop=True)
        table["logit"] = margins["logit"]
        # The logistic function as a tanh: no exponential overflows.
        table["probability"] = 0.5 * (1 + np.tanh(0.5 * margins["logit"] / model.spec.temperature))
        tables.append(pd.concat([table, margins.drop(columns="logit")], axis=1))
    return pd.concat(tables, ignore_index=True)


def predict_run(
    work: Path,
    groups: pd.DataFrame,
    run_name: str,
    *,
    splits: tuple[str, ...],
    ablate: bool = False,
    device: str = "auto",
    runtime: str = "auto",
) -> tuple[pd.DataFrame, BundleSpec]:
    """Return the predictions of a finished run on some splits, see `predict_labelled`, and what its bundle says.

    `SplitLeakageError` as of `require_unseen`; a split that was trained on may be predicted by name.
    """
    folder, bundle = WorkFolder(work).run(run_name), WorkFolder(work).model(run_name)
    model, of_patches = load_model(bundle, device=device, runtime=runtime), None
    require_unseen(work, groups, model.spec, sorted(set(splits) - {"train"}), place=folder)
    if model.spec.backbone is not None:
        from pathopatch.training.feature_cache import logits_from_cache  # needs torch, which others do without

        of_patches = logits_from_cache(work, groups, bundle, model.spec, device=device)
    predictions = predict_labelled(work, groups, model, splits=splits, ablate=ablate, logits_of=of_patches)
    return with_inner_folds(folder, predictions, temperature=model.spec.temperature), model.spec


def labelled_rows(groups: pd.DataFrame, splits: Sequence[str], *, remedy: str) -> pd.DataFrame:
    """Return the rows of some splits that have a label and a group; raise `InputMissingError` if there are none."""
    # Every threshold gives a group to the same patches.
    has_group = threshold_attributes(groups)[0].groups_in(groups) >= 0
    rows = groups[groups["split"].isin(list(splits)) & has_group]
    if rows.empty:
        raise InputMissingError(
            f"no labelled patch with tissue in split {' or '.join(splits)}", place="groups.parquet", remedy=remedy
        )
    return rows


def require_unseen(work: Path, groups: pd.DataFrame, spec: BundleSpec, splits: Sequence[str], *, place: Path) -> None:
    """Refuse to evaluate a run on its training data, as happens when the groups are divided anew after training.

    `splits` are those to evaluate on that were not trained on; `place` is the run's folder, for the message.
    `SplitLeakageError` if the run was trained on slides, or patients of a set of ready patches, of these splits.
    """
    rows = groups[groups["split"].isin(list(splits)) & (groups["label"] >= 0)]
    trained = set(spec.training.get(TRAINED, "").split(","))
    marks = slide_marks(WorkFolder(work).tiled.root, rows)
    if leaked := sorted(name for name, mark in marks.items() if mark in trained):
        raise SplitLeakageError(
            f"the run was trained on slides or patients that are in split {' or '.join(splits)} by now: {len(leaked)}, "
            f"the first is {leaked[0]}",
            place=str(place),
            remedy="train it again by the groups as they are: pathopatch train, or run, with --force",
        )


def with_inner_folds(folder: Path, predictions: pd.DataFrame, *, temperature: float) -> pd.DataFrame:
    """Return predictions in which patches that the run in `folder` learnt from have the logit of their inner fold."""
    path = folder / INNER_FOLDS
    if not path.is_file():
        return predictions
    table = pd.read_csv(path, dtype={"patch_id": str}, keep_default_na=False)
    logit = predictions["patch_id"].map(table.set_index("patch_id")["logit"]).fillna(predictions["logit"])
    return predictions.assign(logit=logit, probability=0.5 * (1 + np.tanh(0.5 * logit / temperature)))


def require_these_groups(work: Path, names: Sequence[str]) -> None:
    """Refuse runs that were evaluated by other groups than the present ones: other patches, patients or splits."""
    stamps = {name: read_stamp(WorkFolder(work).evaluation(name) / "metrics.json") for name in names}
    groups_of = {name: stamp.inputs["groups"] for name, stamp in stamps.items() if stamp and "groups" in stamp.inputs}
    present = fingerprint_file(WorkFolder(work).groups) if groups_of else ""
    if stale := [name for name, groups in groups_of.items() if groups != present]:
        raise StaleArtefactError(
            f"{len(stale)} of {len(names)} runs were judged by groups that have been formed anew since, the first is "
            f"{stale[0]!r}",
            place=str(work / "runs"),
            remedy="run `pathopatch evaluate --force`, or remove the folders of runs that are no longer wanted",
        )


def stored_predictions(work: Path, run: str, split: str) -> pd.DataFrame:
    """Return the predictions of a run's evaluation on one split, indexed by patch_id."""
    table = read_table(WorkFolder(work).evaluation(run) / "predictions.parquet")
    return table[table["split"] == split].set_index("patch_id")


def _margins(
    model: PatchClassifier,
    patches: PatchSet,
    *,
    ablate: bool,
    logits_of: Callable[[PatchSet, int | None], NDArray[np.float64]] | None,
) -> pd.DataFrame:
    """Return the logit of every patch, indexed by its id: with all channels, and on request without each of several."""
    channels = model.spec.channels if ablate and len(model.spec.channels) > 1 and not patches.is_rgb else ()
    columns: dict[str, list[NDArray[Any]]] = {"logit": [], **{f"{WITHOUT}{name}": [] for name in channels}}
    if logits_of is not None:
        for number, parts in zip((None, *range(len(channels))), columns.values(), strict=True):
            parts.append(logits_of(patches, number))
    for start in range(0, len(patches), _BATCH) if logits_of is None else ():
        part = slice(start, start + _BATCH)
        batch, tissue = patches.read(part), None if patches.tissue is None else patches.tissue.read(part)
        columns["logit"].append(model.predict_logits(batch, tissue))
        for number, name in enumerate(channels):
            blanked = without_channel(batch, number, model.spec.mean[number])
            columns[f"{WITHOUT}{name}"].append(model.predict_logits(blanked, tissue))
    logits = {name: np.concatenate(parts).astype(np.float64) for name, parts in columns.items()}  # (N, 2) each
    margins = pd.DataFrame({name: z[:, 1] - z[:, 0] for name, z in logits.items()}, index=patches.patch_id)
    if model.spec.crop_px is not None and patches.tissue is not None:  # of others it has a logit, but no answer
        margins["has_answer"] = patches_with_crop(patches, model.spec.crop_px)
    return margins


def without_channel(batch: NDArray[np.float32], channel: int, mean: float) -> NDArray[np.float32]:
    """Return patches (N, C, p, p), scaled to [0, 1], in which one channel is its mean over the training patches."""
    blanked = np.array(batch, dtype=np.float32)
    blanked[:, channel] = mean
    return blanked

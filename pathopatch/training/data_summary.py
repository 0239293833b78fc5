"""Summarise the training data for the model bundle: sizes and groups, range of appearance, and marks of its slides.

The marks tell where a model is used on slides that it was trained on, see `pathopatch.models.leakage`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.core.artefacts import fingerprint, read_table
from pathopatch.core.config import TrainConfig
from pathopatch.core.patients import BLOCK, mark_key
from pathopatch.core.work_folder import WorkFolder
from pathopatch.groups import TissueBins, slides_of, units_of
from pathopatch.groups.assign import JoinedBins
from pathopatch.models.leakage import MARK_DIGITS, TRAINED, VALIDATED
from pathopatch.models.spec import TrainingRange
from pathopatch.training.dataset import PatchSet
from pathopatch.training.group_checks import drawn_by

_MOST_MARKS = 4096  # a bundle stays small; beyond this number it holds none
_ENDS = (0.1, 99.9)  # percentiles: one stray patch does not widen the range
_TISSUE = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9)  # edges of the tissue fractions compared together
_FEWEST = 200  # patches that a 0.1 % percentile needs; smaller bins are joined with the next one
_CHUNK = 256


def summarize_data(
    groups: pd.DataFrame,
    config: TrainConfig,
    *,
    bins: JoinedBins | None,
    class_names: Sequence[str],
) -> dict[str, Any]:
    """Return slides, patients, blocks, patches and group sizes of the data for training and for selection.

    ``trained`` and, where there is validation, ``validated`` are of labelled patches of known attribute; `counts` is
    K x A, `by` what forms the groups.
    """

    def of_split(split: str) -> dict[str, Any]:
        stored = drawn_by(config, groups, split)
        drawn = stored if bins is None else TissueBins(bins.kept)
        rows = groups[(groups["split"] == split) & (groups["label"] >= 0) & (groups[stored.column] >= 0)]
        attribute = rows[stored.column].to_numpy(dtype=np.int64)
        attribute = attribute if bins is None else bins.join(attribute)
        cell = drawn.n_values * rows["label"].to_numpy(dtype=np.int64) + attribute
        counts = np.bincount(cell, minlength=len(class_names) * drawn.n_values)
        return {
            "splits": [split],
            "slides": int(slides_of(rows).nunique()),
            "patients": int(rows["patient_id"].nunique()),
            **({"blocks": int(units_of(rows).nunique())} if BLOCK in rows else {}),
            "patches": len(rows),
            "by": drawn.phrase,
            "attributes": list(drawn.value_names),
            "counts": counts.reshape(len(class_names), drawn.n_values).tolist(),
        }

    validated = of_split("val")
    summary = {"trained": of_split("train"), **({"validated": validated} if validated["patches"] else {})}
    is_other = validated["patches"] and validated["by"] != summary["trained"]["by"]
    return summary | ({"drawn_by": f"selected {validated['by']}"} if is_other else {})


def appearance_range(work: Path, groups: pd.DataFrame, train: PatchSet) -> TrainingRange:
    """Return the ranges of channel means and sharpness in training, which flag patches of other slides as unlike."""
    starts = range(0, len(train), _CHUNK)
    means = np.concatenate([train.read(slice(at, at + _CHUNK)).mean(axis=(2, 3)) for at in starts])  # (N, C)
    ends = np.percentile(means.astype(np.float64), _ENDS, axis=0).T  # (C, 2)
    mean = tuple((float(low), float(high)) for low, high in ends)
    table = _sharpness_table(work, groups, train)
    if table is None:
        return TrainingRange(mean=mean)
    tissue, sharpness = table.to_numpy(np.float64).T
    by_tissue = least_sharpness_by_tissue(tissue, sharpness)
    return TrainingRange(mean=mean, sharpness=_low_percentile(sharpness), sharpness_by_tissue=by_tissue)


def least_sharpness_by_tissue(
    tissue: NDArray[np.float64], sharpness: NDArray[np.float64]
) -> tuple[tuple[float, float], ...] | None:
    """Return (tissue fraction, least sharpness from there to the next) of patches in focus; None without tissue."""
    # A patch that is half glass shows half the detail even in focus, so patches of similar tissue are compared.
    if not np.isfinite(tissue).all():
        return None
    parts: list[tuple[float, NDArray[np.float64]]] = []
    number = np.searchsorted(_TISSUE, tissue, side="right") - 1
    for k, start in enumerate(_TISSUE):
        values = sharpness[number == k]
        if parts and len(parts[-1][1]) < _FEWEST:
            parts[-1] = parts[-1][0], np.concatenate([parts[-1][1], values])
        elif len(values):
            parts.append((start, values))
    if len(parts) > 1 and len(parts[-1][1]) < _FEWEST:  # the last bin has no next one: it joins the one before
        (start, values), (_, last) = parts[-2:]
        parts[-2:] = [(start, np.concatenate([values, last]))]
    return tuple((start, _low_percentile(values)) for start, values in parts)


def _low_percentile(values: NDArray[np.float64]) -> float:
    """Return the value that 99.9 % exceed."""
    return float(np.percentile(values, _ENDS[0]))


def _sharpness_table(work: Path, groups: pd.DataFrame, train: PatchSet) -> pd.DataFrame | None:
    """Return tissue_fraction and sharpness of the training patches; None if not measured, or if there are none."""
    trained = groups[groups["patch_id"].isin(train.patch_id)]
    tables = []
    for slide in trained["slide_id"].unique():
        path = WorkFolder(work).tiled.patches(slide)
        table = read_table(path) if path.is_file() else pd.DataFrame()
        if "sharpness" not in table:
            return None
        tables.append(table[["patch_id", "sharpness"]])
    if not tables:
        return None
    return trained.merge(pd.concat(tables), on="patch_id", validate="1:1")[["tissue_fraction", "sharpness"]]


def slide_marks(work: Path, rows: pd.DataFrame) -> dict[str, str]:
    """Return the mark of each slide, or patient of a set of ready patches, behind some patches.

    `rows` (slide_id, patient_id) are of the groups table of `work`. Keys are the slide or ``<set>, patient <patient>``;
    slides without a row in ``slides.parquet`` are left out.
    """
    path, marks = WorkFolder(work).tiled.slides, dict[str, str]()
    slides = read_table(path) if path.is_file() else pd.DataFrame()
    if "fingerprint" not in slides:
        return marks
    by_slide = slides.set_index("slide_id")
    for slide, patient in rows[["slide_id", "patient_id"]].drop_duplicates().itertuples(index=False):
        if slide not in by_slide.index:
            continue
        row = by_slide.loc[slide]
        if row["patient_id"]:
            marks[str(slide)] = str(row["fingerprint"])[:MARK_DIGITS]
        else:  # a set of ready patches holds several patients, of whom only some may have been trained on
            mark = fingerprint([row["fingerprint"], mark_key(str(patient))])[:MARK_DIGITS]
            marks[f"{slide}, patient {patient}"] = mark
    return marks


def bundle_marks(work: Path, groups: pd.DataFrame) -> dict[str, str]:
    """Return the marks of the slides for training and validation, as a bundle stores them."""
    labelled = groups[groups["label"] >= 0]
    stored = {}
    for key, split in ((TRAINED, "train"), (VALIDATED, "val")):
        marks = set(slide_marks(work, labelled[labelled["split"] == split]).values())
        if 0 < len(marks) <= _MOST_MARKS:
            stored[key] = ",".join(sorted(marks))
    return stored

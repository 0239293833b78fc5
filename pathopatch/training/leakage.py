"""Marks of the slides that a model was trained on, which keep it from being evaluated on them.

A mark is the start of the hash of a slide's file, whatever the file or the slide is called. Of a set of ready patches
it is the hash of all its images together with the patient. No name of a slide or patient can be read out of a mark.
Another slide of the same patient has another mark, and so has the same slide saved anew: a missing mark proves
nothing.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from pathopatch.core.artefacts import fingerprint, read_table
from pathopatch.core.work_folder import WorkFolder

TRAINED, VALIDATED = "train_slides", "val_slides"
"""Keys of a bundle's `training` that hold the marks, separated by commas."""
_DIGITS = 16
_MOST_MARKS = 4096  # a bundle stays small; beyond this number it holds none


def slide_marks(work: Path, rows: pd.DataFrame) -> dict[str, str]:
    """Return the mark of each slide, or patient of a set of ready patches, behind some patches.

    Parameters
    ----------
    work : Path
        Work folder, or that of a fold; without ``slides.parquet`` where it was tiled nothing is known.
    rows : DataFrame
        Rows of its groups table: slide_id, patient_id.

    Returns
    -------
    dict of str to str
        Slide, or ``<set>, patient <patient_id>``, to its mark; slides without a row in ``slides.parquet`` are left out.
    """
    path = WorkFolder(work).tiled.slides
    if not path.is_file():
        return {}
    slides = read_table(path)
    if "fingerprint" not in slides:
        return {}
    by_slide = slides.set_index("slide_id")
    marks = {}
    for slide, patient in rows[["slide_id", "patient_id"]].drop_duplicates().itertuples(index=False):
        if slide not in by_slide.index:
            continue
        row = by_slide.loc[slide]
        if row["patient_id"]:
            marks[str(slide)] = str(row["fingerprint"])[:_DIGITS]
        else:  # a set of ready patches holds several patients, of whom only some may have been trained on
            marks[f"{slide}, patient {patient}"] = fingerprint([row["fingerprint"], str(patient)])[:_DIGITS]
    return marks


def bundle_marks(work: Path, groups: pd.DataFrame, train_splits: tuple[str, ...]) -> dict[str, str]:
    """Return the marks of the slides for training and validation, as a bundle stores them."""
    labelled = groups[groups["label"] >= 0]
    parts = {TRAINED: labelled["split"].isin(train_splits), VALIDATED: labelled["split"] == "val"}
    stored = {}
    for key, chosen in parts.items():
        marks = sorted(set(slide_marks(work, labelled[chosen]).values()))
        if 0 < len(marks) <= _MOST_MARKS:
            stored[key] = ",".join(marks)
    return stored

"""Which slides has a model seen? Marks of them in its bundle, so that nobody judges it on what it was trained on.

A mark is the start of the hash of a slide's file, whatever the file or the slide is called; of a set of ready patches
it is the hash of all its images together with the patient. No name of a slide or patient can be read out of a mark.
Another slide of the same patient has another mark, and so has the same slide saved anew: no mark in common proves
nothing.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from pathopatch.core.artefacts import fingerprint, read_table
from pathopatch.core.files import tiled_in

TRAINED, VALIDATED = "train_slides", "val_slides"
"""Keys of a bundle's `training` that hold the marks, separated by commas."""
_DIGITS = 16
_MOST = 4096  # a bundle is to stay small; beyond, it says nothing


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
    path = tiled_in(work) / "slides.parquet"
    if not path.is_file():
        return {}
    known = read_table(path)
    if "fingerprint" not in known:
        return {}
    by_slide = known.set_index("slide_id")
    found = {}
    for slide, patient in rows[["slide_id", "patient_id"]].drop_duplicates().itertuples(index=False):
        if slide not in by_slide.index:
            continue
        row = by_slide.loc[slide]
        if row["patient_id"]:
            found[str(slide)] = str(row["fingerprint"])[:_DIGITS]
        else:
            found[f"{slide}, patient {patient}"] = fingerprint([row["fingerprint"], str(patient)])[:_DIGITS]
    return found


def seen(work: Path, groups: pd.DataFrame, train_splits: tuple[str, ...]) -> dict[str, str]:
    """Return what a bundle says of the slides that it was trained and validated on.

    Parameters
    ----------
    work : Path
        Work folder.
    groups : DataFrame
        Its groups table.
    train_splits : tuple of str
        Splits that were trained on.
    """
    labelled = groups[groups["label"] >= 0]
    parts = {TRAINED: labelled["split"].isin(train_splits), VALIDATED: labelled["split"] == "val"}
    found = {}
    for key, chosen in parts.items():
        marks = sorted(set(slide_marks(work, labelled[chosen]).values()))
        if 0 < len(marks) <= _MOST:
            found[key] = ",".join(marks)
    return found

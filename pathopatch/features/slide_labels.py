"""Read labels of whole slides from a CSV file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from pathopatch.core.patients import id_key, patient_problems
from pathopatch.features.label_cells import LABELS, label_cells, note_problems, read_label_table, shared_checks

_REQUIRED = ("slide_id", "slide_label")
_OPTIONAL = ("patient_id", "split")


def read_slide_labels(path: Path) -> pd.DataFrame:
    """Return the labels of slides, a row per slide: slide_id, patient_id, split, slide_label (int64: 1, 0, -1).

    The CSV file is UTF-8. Its columns are slide_id, the name of the feature file; slide_label (1, 0; -1 or empty:
    none); optional patient_id (in all rows or none; "" without it) and split (train, val, test or empty); and any
    others. TableError names every problem of the file, each with row, column, value and remedy.
    """
    table = read_label_table(path, item="slide", required=_REQUIRED, optional=_OPTIONAL)
    cells = label_cells(table, optional=_OPTIONAL)
    note_problems(table, cells, shared_checks(cells, ["slide_label"]))
    rows = [number for number, _ in table.rows]
    for place in np.flatnonzero(cells["slide_id"].map(id_key).duplicated() & (cells["slide_id"] != "")).tolist():
        slide_id = str(cells["slide_id"].iloc[place])
        table.add_problem(
            "DUPLICATE_ID", rows[place], "slide_id", slide_id, "the slide is listed twice", "list each slide once"
        )
    table.problems += patient_problems(zip(cells["patient_id"], cells["split"], rows, strict=True))
    table.raise_problems()
    labels = cells[["slide_id", "patient_id", "split", "slide_label"]]
    return labels.assign(slide_label=labels["slide_label"].map(LABELS).astype(np.int64))

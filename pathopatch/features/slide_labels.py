"""Read labels of whole slides from a CSV file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from pathopatch.core.csv_table import read_csv_table
from pathopatch.core.patients import patient_problems
from pathopatch.slides.manifest import ID_REMEDY, SPLITS, valid_slide_id

_REQUIRED = ("slide_id", "slide_label")
_OPTIONAL = ("patient_id", "split")
_LABELS = {"1": 1, "0": 0, "": -1}


def read_slide_labels(path: Path) -> pd.DataFrame:
    """Return the labels of slides, a row per slide: slide_id, patient_id, split, slide_label (int64: 1, 0, -1).

    The CSV file is UTF-8. Its columns are slide_id, the name of the feature file; slide_label (1, 0 or empty); optional
    patient_id (returned as "" without it) and split (train, val, test or empty); and any others. TableError names every
    problem of the file, each with row, column, value and remedy.
    """
    others = ("any column of your own", ".+")
    table = read_csv_table(path, kind="labels", item="slide", required=_REQUIRED, optional=_OPTIONAL, pattern=others)
    if not table.rows and not table.problems:
        table.add_problem("INPUT_MISSING", None, "slide_id", "", "no rows", "write one row per slide")
    table.raise_problems()
    numbers = [number for number, _ in table.rows]
    rows = [{name: text.strip() for name, text in cells.items()} for _, cells in table.rows]
    has_patients = "patient_id" in table.header
    seen: set[str] = set()
    for number, row in zip(numbers, rows, strict=True):
        row["patient_id"] = row.get("patient_id", "")
        row["split"] = row.get("split", "").casefold()
        checks = (
            ("slide_id", row["slide_id"] != "", "no slide", "write the slide's id: the name of its feature file"),
            ("slide_id", row["slide_id"] not in seen, "the slide is listed twice", "list each slide once"),
            ("slide_label", row["slide_label"] in _LABELS, "not a label", "write 1, 0, or nothing"),
            ("patient_id", not has_patients or valid_slide_id(row["patient_id"]), "not an allowed id",
             ID_REMEDY),
            ("split", row["split"] in ("", *SPLITS), "not a split", "write train, val, test or nothing"),
        )  # fmt: skip
        for column, is_right, message, remedy in checks:
            if not is_right:
                code = "DUPLICATE_ID" if row["slide_id"] in seen and column == "slide_id" else "INPUT_UNSUPPORTED"
                table.add_problem(code, number, column, row[column], message, remedy)
        seen.add(row["slide_id"])
    of_patients = ((row["patient_id"], row["split"], number) for number, row in zip(numbers, rows, strict=True))
    table.problems += patient_problems(of_patients)
    table.raise_problems()
    labels = pd.DataFrame(rows)[["slide_id", "patient_id", "split", "slide_label"]]
    return labels.assign(slide_label=labels["slide_label"].map(_LABELS).astype(np.int64))

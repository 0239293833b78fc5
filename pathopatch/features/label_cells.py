"""Read the cells that labels of patches and labels of slides share, and note what is wrong in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pathopatch.core.csv_table import CsvTable, read_csv_table
from pathopatch.slides.manifest import SPLITS
from pathopatch.slides.slide_paths import ID_REMEDY, valid_slide_id

LABELS = {"1": 1, "0": 0, "-1": -1, "": -1}
"""What is written for a label, and its number: -1 is no label."""
Check = tuple[str, Any, str, str]
"""A column, whether each row is right in it (n,), and the message and the remedy where it is not."""


def read_label_table(path: Path, *, item: str, required: Sequence[str], optional: Sequence[str]) -> CsvTable:
    """Return the table of a CSV file of labels with a row per `item`; errors as of `read_csv_table`."""
    # Columns of the user's own are welcome: any may be the attribute of a later audit.
    others = ("any column of your own", ".+")
    table = read_csv_table(
        path,
        kind="labels",
        item=item,
        required=required,
        optional=optional,
        pattern=others,
        numbers=("x", "y", "tissue_fraction"),
    )
    if not table.rows and not table.problems:
        table.add_problem("INPUT_MISSING", None, "slide_id", "", "no rows", f"write one row per {item}")
    return table


def label_cells(table: CsvTable, *, optional: Sequence[str]) -> pd.DataFrame:
    """Return the cells as text without spaces around it, "" in optional columns that are missing, splits in lower case.

    TableError if the table as a whole has problems: rows can only be checked where each was read in full.
    """
    table.raise_problems()
    cells: pd.DataFrame = pd.DataFrame([row for _, row in table.rows], dtype=str).apply(
        lambda column: column.str.strip()
    )
    for name in optional:
        if name not in cells:
            cells[name] = ""
    cells["split"] = cells["split"].str.casefold()
    return cells


def patients(cells: pd.DataFrame) -> pd.Series[str]:
    """Return the patient of each row: the slide itself where none is written."""
    return cells["patient_id"].where(cells["patient_id"] != "", cells["slide_id"])


def shared_checks(cells: pd.DataFrame, labels: Sequence[str]) -> list[Check]:
    """Return the checks of slide, patient, split, and of the columns with labels."""
    is_patient_given = bool((cells["patient_id"] != "").any())
    return [
        ("slide_id", cells["slide_id"] != "", "no slide", "write the slide's id: the name of its feature file"),
        *((name, cells[name].isin(list(LABELS)), "not a label", "write 1, 0, or nothing") for name in labels),
        ("patient_id", (cells["patient_id"] != "") == is_patient_given, "no patient",
         "name the patient in every row, or in none"),
        ("patient_id", [valid_slide_id(text) for text in patients(cells)], "not an allowed id",
         ID_REMEDY),
        ("split", cells["split"].isin(["", *SPLITS]), "not a split", "write train, val, test or nothing"),
    ]  # fmt: skip


def note_problems(table: CsvTable, cells: pd.DataFrame, checks: Iterable[Check]) -> None:
    """Add a problem to the table for each row that is not right."""
    numbers = [number for number, _ in table.rows]
    for column, is_right, message, remedy in checks:
        for place in np.flatnonzero(~np.broadcast_to(np.asarray(is_right, np.bool_), len(cells))).tolist():
            value = str(cells[column].iloc[place])
            table.add_problem("INPUT_UNSUPPORTED", numbers[place], column, value, message, remedy)

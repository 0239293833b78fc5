"""Read labels of patches or of slides from a CSV file; join those of patches by slide and level-0 position."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.core.csv_table import CsvTable, read_csv_table
from pathopatch.core.errors import InputMissingError, InputUnsupportedError
from pathopatch.core.patients import SPLITS, id_key, patient_problems
from pathopatch.core.text import pluralize
from pathopatch.slides.slide_paths import ID_REMEDY, valid_slide_id

_REQUIRED = ("slide_id", "x", "y", "label")
_OPTIONAL = ("patient_id", "split", "tissue_fraction", "slide_label")
_OF_SLIDES = ("patient_id", "split")  # optional columns of labels of slides
_NUMBERS = ("x", "y", "tissue_fraction")
_LABELS = {"1": 1, "0": 0, "-1": -1, "": -1}  # numbers of labels by their text; -1: no label
_KEY = ["slide_id", "x", "y"]
_EXAMPLES = 3  # keys that a message names


def read_labels(
    path: Path, *, attribute: str | None = None, distinct_patients: Collection[tuple[str, str]] = ()
) -> pd.DataFrame:
    """Return the labels of a CSV file, a row per patch.

    The file is UTF-8 and comma-separated. Columns: slide_id; x and y, the patch's top-left corner in level-0 px; label
    (1, 0; -1 or empty: none). Optional, in all rows or none: patient_id, tissue_fraction. Optional:
    split (train, val, test or empty), slide_label (of the slide as a whole, as label, the same in all its rows), and
    any others. `attribute` names the column that is audited in place of tissue.
    `distinct_patients` are pairs of ids that are two patients.

    Returns
    -------
    DataFrame
        slide_id; x, y (int64, rounded); label (int64: 1, 0, -1); patient_id (the slide's id where the file has none);
        split ("" where open); tissue_fraction (NaN where not given); slide_label (int64: 1, 0, -1); attribute (str, ""
        where unknown) if one is named.

    Raises
    ------
    InputMissingError, InputUnsupportedError
        There is no such file, or no column `attribute`; or the labels are of whole slides.
    TableError
        Every problem of the file, each with row, column, value and remedy.
    """
    table = _read_table(path, item="patch", required=_REQUIRED, optional=_OPTIONAL)
    if table.header and not {"x", "y"} & set(table.header):
        raise InputUnsupportedError(
            "labels without positions are of whole slides",
            place=str(path),
            remedy="add columns x and y, level-0 px of each patch's top-left corner",
        )
    if attribute is not None and table.header and attribute not in table.header:
        raise InputMissingError(
            f"no column {attribute!r} in the labels; there are {', '.join(table.header)}",
            place=str(path),
            remedy="name one of these with audit --attribute, or add the column",
        )
    cells = _cells(table, optional=_OPTIONAL)
    x, y, fraction = (pd.to_numeric(cells[name], errors="coerce").to_numpy(np.float64) for name in _NUMBERS)
    is_fraction_given = (cells["tissue_fraction"] != "").any()
    of_patches = [
        ("x", np.isfinite(x), "not a number", "write level-0 px"),
        ("y", np.isfinite(y), "not a number", "write level-0 px"),
        ("tissue_fraction", (not is_fraction_given) | ((fraction >= 0) & (fraction <= 1)), "not in [0, 1]",
         "give a number from 0 to 1 in every row, or in none"),
    ]  # fmt: skip
    _check(table, cells, ["label", "slide_label"], of_patches)
    table.raise_problems()
    labels = pd.DataFrame(
        {
            "slide_id": cells["slide_id"],
            "x": rounded_px(x),
            "y": rounded_px(y),
            "label": cells["label"].map(_LABELS).astype(np.int64),
            "patient_id": _patients(cells),
            "split": cells["split"],
            "tissue_fraction": fraction,
            "slide_label": cells["slide_label"].map(_LABELS).astype(np.int64),
        }
    )
    _check_rows_together(table, labels.assign(row=[number for number, _ in table.rows]), distinct_patients)
    table.raise_problems()
    return labels if attribute is None else labels.assign(attribute=cells[attribute])


def _check_rows_together(table: CsvTable, labels: pd.DataFrame, distinct: Collection[tuple[str, str]]) -> None:
    """Note patches that are listed twice, slides of two labels, and patients of two splits."""
    for slide_id, x, y, row in labels.loc[labels.duplicated(_KEY), [*_KEY, "row"]].itertuples(index=False):
        table.add_problem("DUPLICATE_ID", row, "slide_id", slide_id, f"the patch at {x}, {y} is listed twice",
                          "list each patch once", str(x), str(y))  # fmt: skip
    labels_of = labels.drop_duplicates(["slide_id", "slide_label"])
    for slide_id, row in labels_of.loc[labels_of.duplicated("slide_id"), ["slide_id", "row"]].itertuples(index=False):
        table.add_problem("INPUT_UNSUPPORTED", row, "slide_label", slide_id, "the rows of the slide differ in it",
                          "give all its rows one label")  # fmt: skip
    splits_of = labels.drop_duplicates(["slide_id", "patient_id", "split"])
    of_rows = zip(splits_of["patient_id"], splits_of["split"], splits_of["row"], strict=True)
    table.problems += patient_problems(of_rows, distinct)


def are_of_slides(path: Path) -> bool:
    """Return whether a CSV file labels whole slides: it has slide_label, and no positions of patches."""
    header = _read_table(path, item="slide", required=("slide_id",), optional=()).header
    return "slide_label" in header and not {"x", "y"} & set(header)


def read_slide_labels(path: Path, distinct_patients: Collection[tuple[str, str]] = ()) -> pd.DataFrame:
    """Return the labels of slides, a row per slide: slide_id, patient_id, split, slide_label (int64: 1, 0, -1).

    The CSV file is UTF-8. Its columns are slide_id, the name of the feature file; slide_label (1, 0; -1 or empty:
    none); optional patient_id (in all rows or none; without it the slide's id) and split (train, val, test or empty);
    and any others. `distinct_patients` are pairs of ids that are two patients. TableError names every problem of the
    file, each with row, column, value and remedy.
    """
    table = _read_table(path, item="slide", required=("slide_id", "slide_label"), optional=_OF_SLIDES)
    cells = _cells(table, optional=_OF_SLIDES)
    _check(table, cells, ["slide_label"])
    rows = [number for number, _ in table.rows]
    for place in np.flatnonzero(cells["slide_id"].map(id_key).duplicated() & (cells["slide_id"] != "")).tolist():
        slide_id = str(cells["slide_id"].iloc[place])
        table.add_problem(
            "DUPLICATE_ID", rows[place], "slide_id", slide_id, "the slide is listed twice", "list each slide once"
        )
    table.problems += patient_problems(zip(cells["patient_id"], cells["split"], rows, strict=True), distinct_patients)
    table.raise_problems()
    labels = cells[["slide_id", "patient_id", "split", "slide_label"]]
    return labels.assign(patient_id=_patients(cells), slide_label=labels["slide_label"].map(_LABELS).astype(np.int64))


def _read_table(path: Path, *, item: str, required: Sequence[str], optional: Sequence[str]) -> CsvTable:
    """Return the table of a CSV file of labels with a row per `item`."""
    # Columns of the user's own are welcome: any may be the attribute of a later audit.
    others = ("any column of your own", ".+")
    table = read_csv_table(
        path, kind="labels", item=item, required=required, optional=optional, pattern=others, numbers=_NUMBERS
    )
    if not table.rows and not table.problems:
        table.add_problem("INPUT_MISSING", None, "slide_id", "", "no rows", f"write one row per {item}")
    return table


def _cells(table: CsvTable, *, optional: Sequence[str]) -> pd.DataFrame:
    """Return the cells as text without spaces around it, "" in optional columns that are missing, splits in lower case.

    TableError if the table as a whole has problems: rows can only be checked where each was read in full.
    """
    table.raise_problems()
    rows = pd.DataFrame([row for _, row in table.rows], dtype=str)
    cells: pd.DataFrame = rows.apply(lambda column: column.str.strip())
    cells = cells.assign(**{name: "" for name in optional if name not in cells})
    return cells.assign(split=cells["split"].str.casefold())


def _patients(cells: pd.DataFrame) -> pd.Series[str]:
    """Return the patient of each row: the slide itself where none is written."""
    return cells["patient_id"].where(cells["patient_id"] != "", cells["slide_id"])


def _check(
    table: CsvTable, cells: pd.DataFrame, labels: Sequence[str], more: Iterable[tuple[str, Any, str, str]] = ()
) -> None:
    """Note each row that is wrong in its slide, patient, split or a column of labels, or by `more` checks.

    A check is a column, whether each row is right in it (n,), and the message and the remedy where it is not.
    """
    is_patient_given = (cells["patient_id"] != "").any()
    checks = [
        ("slide_id", cells["slide_id"] != "", "no slide", "write the slide's id: the name of its feature file"),
        *((name, cells[name].isin(list(_LABELS)), "not a label", "write 1, 0, or nothing") for name in labels),
        ("patient_id", (cells["patient_id"] != "") == is_patient_given, "no patient",
         "name the patient in every row, or in none"),
        ("patient_id", _patients(cells).map(valid_slide_id), "not an allowed id", ID_REMEDY),
        ("split", cells["split"].isin(["", *SPLITS]), "not a split", "write train, val, test or nothing"),
        *more,
    ]  # fmt: skip
    row = [number for number, _ in table.rows]
    for column, is_right, message, remedy in checks:
        for place in np.flatnonzero(~np.asarray(is_right, np.bool_)).tolist():
            table.add_problem("INPUT_UNSUPPORTED", row[place], column, str(cells[column].iloc[place]), message, remedy)


def slides_in_several_splits(labels: pd.DataFrame) -> dict[str, str]:
    """Return a text by slide that the labels put into several splits: its patients, each with its split."""
    in_split = labels.drop_duplicates(["slide_id", "split"])
    parted = in_split[in_split["slide_id"].duplicated(keep=False)]
    pairs = zip(parted["patient_id"].tolist(), parted["split"].tolist(), strict=True)
    names = [f"{patient} in {split or '(empty)'}" for patient, split in pairs]
    return {str(slide): " and ".join(part) for slide, part in pd.Series(names).groupby(parted["slide_id"].to_numpy())}


def slides_of_several_patients(patches: pd.DataFrame) -> list[str]:
    """Return the slides, sorted, whose patches (slide_id, patient_id) are of several patients."""
    patients = patches.groupby("slide_id")["patient_id"].nunique()
    return sorted(str(slide) for slide in patients[patients > 1].index)


def rounded_px(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return positions as whole level-0 px; halves go up."""
    return np.floor(values + 0.5).astype(np.int64)


def join_labels(patches: pd.DataFrame, labels: pd.DataFrame, *, place: str) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return the patches with the columns of their labels, and texts on what did not match.

    `patches` has the columns slide_id, x, y (int64, level-0 px), no two alike. They keep their order, with label -1 and
    NaN or "" in the other columns where there is no label. Patient, split and slide_label are those of the slide, also
    for its patches without a label. `place` is the labels' file. InputMissingError if no label belongs to any patch, or
    none of a slide that has features: its positions are in another frame.
    """
    slides, labelled = set(patches["slide_id"]), set(labels["slide_id"])
    if not slides & labelled:
        raise _unmatched("no label is of a slide with features", patches, labels, place=place)
    joined = patches.merge(labels.drop(columns="slide_label"), on=_KEY, how="left", indicator=True)
    n_matched = (joined["_merge"] == "both").groupby(joined["slide_id"]).sum()
    if lost := sorted(slide for slide in slides & labelled if not n_matched[slide]):
        of_slides = (table[table["slide_id"].isin(lost)] for table in (patches, labels))
        message = f"no label matches a patch in {pluralize(len(lost), 'slide')}: {', '.join(lost[:_EXAMPLES])}"
        raise _unmatched(message, *of_slides, place=place)
    notes = []
    if unknown := sorted(labelled - slides):
        notes.append(f"labels of {pluralize(len(unknown), 'slide')} without features: {_some(unknown)}")
    if unlabelled := sorted(slides - labelled):
        notes.append(f"{pluralize(len(unlabelled), 'slide')} without any label: {_some(unlabelled)}")
    here = labels[labels["slide_id"].isin(slides)]
    if n_lost := len(here) - int(n_matched.sum()):
        keys = here.merge(patches[_KEY], on=_KEY, how="left", indicator=True)
        examples = "; ".join(_keys(keys[keys["_merge"] == "left_only"]))
        notes.append(f"{n_lost} of {len(here)} labels match no patch, such as {examples}")
    if several := [slide for slide in slides_of_several_patients(labels) if slide in slides]:
        notes.append(f"{pluralize(len(several), 'slide')} of several patients: {_some(several)}")
        is_unknown = joined["slide_id"].isin(several) & (joined["_merge"] == "left_only")
        if n_unknown := int(is_unknown.sum()):
            notes.append(f"{pluralize(n_unknown, 'patch')} of them left out: without a label the patient is not known")
        joined = joined[~is_unknown].reset_index(drop=True)
    of_slide = labels.drop_duplicates("slide_id").set_index("slide_id")
    of_patches = joined["slide_id"].map
    joined = joined.drop(columns="_merge").assign(
        label=joined["label"].fillna(-1).astype(np.int64),
        patient_id=joined["patient_id"].fillna(of_patches(of_slide["patient_id"])).fillna(joined["slide_id"]),
        split=joined["split"].fillna(of_patches(labels.groupby("slide_id")["split"].max())).fillna(""),
        slide_label=joined["slide_id"].map(of_slide["slide_label"]).fillna(-1).astype(np.int64),
    )
    if "attribute" in joined:
        joined["attribute"] = joined["attribute"].fillna("")
    return joined, tuple(notes)


def _unmatched(message: str, patches: pd.DataFrame, labels: pd.DataFrame, *, place: str) -> InputMissingError:
    """Return the error that labels and patches have no key in common, with examples of both."""
    return InputMissingError(
        f"{message}; labels are of {'; '.join(_keys(labels))}; features are of {'; '.join(_keys(patches))}",
        place=place,
        remedy="write the ids of the feature files, and x, y of each patch's top-left corner in level-0 px",
    )


def _keys(table: pd.DataFrame) -> list[str]:
    """Return the first patches of a table as ``slide at x, y``."""
    first = table[_KEY].head(_EXAMPLES).itertuples(index=False)
    return [f"{slide_id} at {x}, {y}" for slide_id, x, y in first]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_EXAMPLES]) + (", …" if len(names) > _EXAMPLES else "")

"""Which ready patches make up a set? A CSV file or a folder, checked in full, every problem reported at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from pathopatch.core.artefacts import fingerprint_file
from pathopatch.core.errors import InputCorruptError, InputMissingError, InputUnsupportedError, ManifestError, Problem
from pathopatch.slides.manifest import SPLITS, expanded, valid_slide_id
from pathopatch.slides.manifest.separator import REMEDY, other_separator
from pathopatch.slides.mask_image import SUFFIXES

LIST_NAME = "patches.csv"
"""A folder with such a file is described by it."""
CLASSES = {"tumor": 1, "tumour": 1, "1": 1, "non_tumor": 0, "non-tumor": 0, "non_tumour": 0, "non-tumour": 0, "0": 0}
"""Names of folders that say what the patches in them are, without regard to case."""
_REQUIRED, _OPTIONAL = ("path", "label", "patient_id"), ("split", "tissue_fraction", "attribute", "label_name")
_LABELS = {"1": 1, "0": 0, "-1": -1, "": -1}
_LAYOUT = "FOLDER/[train|val|test/]tumor|non_tumor/PATIENT/*.png"


def read_list(source: Path) -> pd.DataFrame:
    """Return the patches that a CSV file or a folder names, one row a patch.

    Parameters
    ----------
    source : Path
        CSV file (UTF-8) with the columns path, label (1, 0, or -1 or empty for not labelled), patient_id, and maybe
        split, tissue_fraction (all rows or none), attribute (any values; empty: unknown) and label_name (what tables
        call a label in place of tumour and non-tumour: one name for each). Paths are relative to it; ``${NAME}`` is
        replaced from the environment. Or a folder with such a file ``patches.csv``; or a folder laid out as
        ``[split/]class/patient/image``, the class being tumor or non_tumor (or 1, 0): without the level of patients
        the layout does not say whose patches they are, and is refused.

    Returns
    -------
    DataFrame
        file (absolute), path (as written), label (1, 0, -1), patient_id, split ("" where open), tissue_fraction (NaN
        where not given), and attribute and label_name (str) if the list has them; in the order of the list.

    Raises
    ------
    InputMissingError
        There is no such file or folder, or no patch in it.
    InputCorruptError
        It is not a CSV file.
    InputUnsupportedError
        A folder of another layout.
    ManifestError
        Everything wrong in the list, each problem with row, column, value and remedy.
    """
    if source.is_dir() and not (source / LIST_NAME).is_file():
        place, cells = source, _folder(source)
    else:
        place = source / LIST_NAME if source.is_dir() else source
        cells = _csv(place)
    problems = list(_problems(cells, place))
    if not problems:
        problems = list(_leaks(cells))
    if problems:
        raise ManifestError(sorted(problems, key=lambda problem: problem.row or 0), place=str(place))
    table = pd.DataFrame(
        {
            "file": cells["file"],
            "path": cells["path"],
            "label": cells["label"].map(_LABELS).astype("int64"),
            "patient_id": cells["patient_id"],
            "split": cells["split"].str.casefold(),
            "tissue_fraction": pd.to_numeric(cells["tissue_fraction"]).astype("float64"),
        }
    )
    for name in ("attribute", "label_name"):
        if (cells[name] != "").any():
            table[name] = cells[name]
    return table.reset_index(drop=True)


def _csv(path: Path) -> pd.DataFrame:
    """Return the cells of a file as text, all columns there, with the absolute path and the row of each line."""
    try:
        with path.open(encoding="utf-8-sig") as stream:
            separator = other_separator(stream.readline(), _REQUIRED)
        if separator:
            raise InputUnsupportedError(f"separated by {separator}, not by commas", place=str(path), remedy=REMEDY)
        cells: pd.DataFrame = pd.read_csv(
            path, dtype=str, keep_default_na=False, skip_blank_lines=False, encoding="utf-8-sig"
        )
    except (FileNotFoundError, IsADirectoryError) as error:
        raise InputMissingError(f"no list of patches {path.name}", place=str(path), remedy="check the path") from error
    except pd.errors.EmptyDataError as error:
        raise InputMissingError(
            "the file is empty", place=str(path), remedy="write a header and one row per patch"
        ) from error
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise InputCorruptError(
            f"not a UTF-8 CSV file: {error}", place=str(path), remedy="save it as CSV, UTF-8"
        ) from error
    cells = pd.DataFrame({str(name).strip(): column.str.strip() for name, column in cells.items()})
    unknown = [name for name in map(str, cells) if name not in _REQUIRED + _OPTIONAL]
    missing = [name for name in _REQUIRED if name not in cells]
    if unknown or missing:
        said = [f"unknown {', '.join(unknown)}"] * bool(unknown) + [f"missing {', '.join(missing)}"] * bool(missing)
        raise InputUnsupportedError(
            f"columns: {'; '.join(said)}",
            place=str(path),
            remedy=f"use {', '.join(_REQUIRED)}, and maybe {', '.join(_OPTIONAL)}",
        )
    cells["row"] = range(2, len(cells) + 2)  # as a spreadsheet counts
    cells = cells[(cells[list(_REQUIRED)] != "").any(axis=1)].copy()
    if cells.empty:
        raise InputMissingError("no patch in the list", place=str(path), remedy="write one row per patch")
    for name in _OPTIONAL:
        if name not in cells:
            cells[name] = ""
    cells["file"] = [str((path.parent / expanded(text)[0]).absolute()) for text in cells["path"]]
    return cells


def _folder(folder: Path) -> pd.DataFrame:
    """Return the same for a folder whose layout says all that is needed."""
    rows, odd = [], []
    images = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))
    for path in sorted(images):  # without the hidden twins that macOS leaves on other systems' disks
        parts = path.relative_to(folder).parts[:-1]
        split = parts[0].casefold() if parts and parts[0].casefold() in SPLITS else ""
        rest = parts[1:] if split else parts
        if len(rest) != 2 or rest[0].casefold() not in CLASSES:
            odd.append("/".join(path.relative_to(folder).parts))
            continue
        label, name = str(CLASSES[rest[0].casefold()]), "/".join(path.relative_to(folder).parts)
        rows.append({"path": name, "label": label, "patient_id": rest[1], "split": split, "file": str(path.absolute())})
    if odd or not rows:
        kind = InputUnsupportedError if odd else InputMissingError
        raise kind(
            f"{len(odd)} images lie where nothing says what they are, the first is {odd[0]!r}" if odd else "no image",
            place=str(folder),
            remedy=f"lay them out as {_LAYOUT}, or write {LIST_NAME} with {', '.join(_REQUIRED)}",
        )
    return pd.DataFrame(rows).assign(tissue_fraction="", attribute="", label_name="", row=None)


def _problems(cells: pd.DataFrame, place: Path) -> Iterator[Problem]:
    """Yield what is wrong with single rows, and with rows that contradict each other."""
    has_fractions = (cells["tissue_fraction"] != "").any()
    seen: set[str] = set()
    names: dict[str, str] = {}
    splits: dict[str, dict[str, int | None]] = defaultdict(dict)
    for row in cells.to_dict("records"):
        splits[row["patient_id"]].setdefault(row["split"].casefold(), row["row"])
        checks = (
            ("label", row["label"] in _LABELS, "INPUT_UNSUPPORTED", "not a label", "write 1, 0, or nothing"),
            ("patient_id", valid_slide_id(row["patient_id"]), "INPUT_UNSUPPORTED", "not an allowed id",
             "use letters, digits, '.', '_' and '-'"),
            ("split", row["split"].casefold() in SPLITS, "INPUT_UNSUPPORTED", "not a split",
             "write train, val, test or nothing"),
            ("path", Path(row["file"]).is_file(), "INPUT_MISSING", "no such file",
             f"correct the path (relative to {place.parent})"),
            ("path", row["file"] not in seen, "DUPLICATE_ID", "the file stands twice", "list each patch once"),
            ("tissue_fraction", not has_fractions or _is_fraction(row["tissue_fraction"]), "INPUT_UNSUPPORTED",
             "not in [0, 1]", "give a number from 0 to 1 in every row, or in none"),
            ("label_name", names.setdefault(row["label"], row["label_name"]) == row["label_name"], "INPUT_UNSUPPORTED",
             f"label {row['label']} was {names[row['label']]!r} before", "give each label one name, in every row"),
        )  # fmt: skip
        seen.add(row["file"])
        for column, is_right, code, message, remedy in checks:
            if not is_right:
                yield Problem(
                    code=code, row=row["row"], column=column, value=row[column], message=message, remedy=remedy
                )
    for patient, named in splits.items():
        if len(named) > 1:
            said = ", ".join(split or "(empty)" for split in sorted(named))
            yield Problem(
                code="SPLIT_LEAKAGE", row=list(named.values())[-1], column="patient_id", value=patient,
                message=f"stands in the splits {said}", remedy="keep each patient in one split",
            )  # fmt: skip


def _is_fraction(text: str) -> bool:
    try:
        return 0 <= float(text) <= 1
    except ValueError:
        return False


def _leaks(cells: pd.DataFrame) -> Iterator[Problem]:
    """Yield images that stand under several patients: whichever way the patients are split, they may leak."""
    owners: dict[str, dict[str, str]] = defaultdict(dict)
    for row in cells.to_dict("records"):
        owners[fingerprint_file(Path(row["file"]))].setdefault(row["patient_id"], row["path"])
    for same in owners.values():
        if len(same) > 1:
            first, second, *_ = same.values()
            yield Problem(
                code="SPLIT_LEAKAGE", row=None, column="path", value=second,
                message=f"the same image as {first}, of another patient ({', '.join(same)})",
                remedy="keep one of them, or give both one patient_id",
            )  # fmt: skip

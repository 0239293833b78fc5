"""Read a manifest: check every row, compare the rows, and report every problem at once."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from pathopatch.core.artefacts import content_bytes, fingerprint_file
from pathopatch.core.csv_table import CsvTable, read_csv_table
from pathopatch.slides.manifest.cells import CHANNEL_COLUMN, COLUMNS, REQUIRED, RowParser
from pathopatch.slides.manifest.paths import Fragment, is_slide, split_fragment
from pathopatch.slides.manifest.rows import Manifest, SlideRow


def read_manifest(path: Path) -> Manifest:
    """Return the slides of a CSV file.

    Parameters
    ----------
    path : Path
        UTF-8, comma-separated, one row a slide. Paths in it are relative to it; ``${NAME}`` is replaced from the
        environment.

    Raises
    ------
    InputMissingError
        There is no such file.
    TableError
        Lists everything wrong in it, each problem with row, column, value and remedy.
    """
    table = read_csv_table(
        path,
        kind="manifest",
        item="slide",
        required=REQUIRED,
        optional=COLUMNS,
        pattern=("path:NAME", CHANNEL_COLUMN),
    )
    channels = {match[1]: name for name in table.header if (match := re.fullmatch(CHANNEL_COLUMN, name))}
    if table.header and "path" not in table.header and not channels:
        table.add_problem("INPUT_MISSING", None, "path", "", "no column names the files", "add path or path:NAME")
    if not table.rows and not table.problems:
        table.add_problem("INPUT_MISSING", None, "slide_id", "", "no rows", "write one row per slide")
    rows = [RowParser(table, number, cells, channels).row() for number, cells in table.rows]
    # Rows with problems are compared too: a user should see all of them in one go.
    _check_ids(table, rows)
    _check_patients(table, rows)
    _check_content(table, rows)
    table.raise_problems()
    return Manifest(tuple(rows), path)


def _check_ids(table: CsvTable, rows: list[SlideRow]) -> None:
    """Note ids that are equal or differ in case alone."""
    by_id: dict[str, list[SlideRow]] = defaultdict(list)
    for row in rows:
        # Without regard to case: on some file systems the artefacts of `s1` and `S1` would share a name.
        by_id[row.slide_id.casefold()].append(row)
    for slide_id, group in by_id.items():
        if slide_id and len(group) > 1:
            table.add_problem("DUPLICATE_ID", group[1].row, "slide_id", group[1].slide_id,
                              f"rows {_numbers(group)} have the same id",
                              "give each slide an id of its own")  # fmt: skip


def _check_patients(table: CsvTable, rows: list[SlideRow]) -> None:
    """Note patients whose slides are in several splits."""
    by_patient: dict[str, list[SlideRow]] = defaultdict(list)
    for row in rows:
        if row.patient_id and not row.exclude:
            by_patient[row.patient_id].append(row)
    for patient_id, group in by_patient.items():
        splits = sorted({row.split for row in group})
        if len(splits) > 1:
            names = ", ".join(split or "(empty)" for split in splits)
            table.add_problem("SPLIT_LEAKAGE", group[-1].row, "patient_id", patient_id,
                              f"rows {_numbers(group)} are in the splits {names}",
                              "keep each patient in one split")  # fmt: skip


def _check_content(table: CsvTable, rows: list[SlideRow]) -> None:
    """Note rows whose files hold the same bytes under several names."""
    # Only files of equal size, and equal page or plane, are read: a fingerprint of a whole cohort takes minutes.
    by_size: dict[tuple[int, str], list[tuple[SlideRow, Fragment]]] = defaultdict(list)
    for row in rows:
        for source in () if row.exclude else row.sources:
            fragment = Fragment(source) if is_slide(source) else split_fragment(source)
            if is_slide(fragment.path):  # a missing file has its own problem
                by_size[content_bytes(Path(fragment.path)), str(replace(fragment, path=""))].append((row, fragment))
    reported: set[tuple[int, ...]] = set()
    for candidates in by_size.values():
        by_content: dict[str, dict[int, SlideRow]] = defaultdict(dict)
        for row, fragment in candidates if len(candidates) > 1 else ():
            by_content[fingerprint_file(Path(fragment.path))][row.row] = row
        for same in by_content.values():
            # Slides with one file per channel would be reported once per channel.
            if len(same) > 1 and tuple(same) not in reported:
                reported.add(tuple(same))
                group = list(same.values())
                is_leak = len({row.split for row in group}) > 1
                table.add_problem("SPLIT_LEAKAGE" if is_leak else "DUPLICATE_ID", group[1].row, "path",
                                  group[1].sources[0], f"rows {_numbers(group)} have the same content",
                                  "keep one of them, exclude the others")  # fmt: skip


def _numbers(group: Iterable[SlideRow]) -> str:
    return ", ".join(str(row.row) for row in group)

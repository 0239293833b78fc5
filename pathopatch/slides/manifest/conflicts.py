"""Which rows contradict each other? Ids, patients and pixels that stand in the table more than once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pathopatch.core.artefacts import content_bytes, fingerprint_file
from pathopatch.slides.manifest.paths import Fragment, is_slide, split_fragment
from pathopatch.slides.manifest.rows import SlideRow
from pathopatch.slides.manifest.table import Table


def check_ids(table: Table, rows: list[SlideRow]) -> None:
    """Note ids that differ in nothing but case: their artefacts would share a name."""
    same: dict[str, list[SlideRow]] = defaultdict(list)
    for row in (row for row in rows if row.slide_id):
        same[row.slide_id.casefold()].append(row)
    for group in same.values():
        if len(group) > 1:
            table.add("DUPLICATE_ID", group[1].row, "slide_id", group[1].slide_id,
                      f"rows {_numbers(group)} have the same id", "give each slide an id of its own")  # fmt: skip


def check_patients(table: Table, rows: list[SlideRow]) -> None:
    """Note patients whose slides stand in several splits."""
    patients: dict[str, list[SlideRow]] = defaultdict(list)
    for row in rows:
        if row.patient_id and not row.exclude:
            patients[row.patient_id].append(row)
    for patient, group in patients.items():
        splits = sorted({row.split for row in group})
        if len(splits) > 1:
            said = ", ".join(split or "(empty)" for split in splits)
            table.add("SPLIT_LEAKAGE", group[-1].row, "patient_id", patient,
                      f"rows {_numbers(group)} are in the splits {said}", "keep each patient in one split")  # fmt: skip


def check_content(table: Table, rows: list[SlideRow]) -> None:
    """Note rows that hold the same pixels under several names; only files of equal size are compared."""
    users: dict[tuple[int, str], list[tuple[SlideRow, Fragment]]] = defaultdict(list)
    for row in rows:
        for source in () if row.exclude else row.sources:
            fragment = Fragment(source) if is_slide(source) else split_fragment(source)
            if not is_slide(fragment.path):
                continue  # noted already
            users[content_bytes(Path(fragment.path)), str(replace(fragment, path=""))].append((row, fragment))
    reported: set[tuple[int, ...]] = set()
    for candidates in users.values():
        same: dict[str, dict[int, SlideRow]] = defaultdict(dict)
        for row, fragment in candidates if len(candidates) > 1 else ():
            same[fingerprint_file(Path(fragment.path))][row.row] = row
        for group in same.values():
            if len(group) > 1 and tuple(group) not in reported:
                reported.add(tuple(group))
                _note_same_content(table, list(group.values()))


def _note_same_content(table: Table, group: list[SlideRow]) -> None:
    """Note rows with one content: a leak if their splits differ."""
    is_leak = len({row.split for row in group}) > 1
    table.add("SPLIT_LEAKAGE" if is_leak else "DUPLICATE_ID", group[1].row, "path", group[1].sources[0],
              f"rows {_numbers(group)} have the same content", "keep one of them, exclude the others")  # fmt: skip


def _numbers(group: Sequence[SlideRow]) -> str:
    return ", ".join(str(row.row) for row in group)

"""What is a slide called where nothing may say whose it is? A name made of its content, and of nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pathopatch.errors import DuplicateIdError, InputMissingError
from pathopatch.manifest import Fragment, SlideRow, split_fragment
from pathopatch.provenance import fingerprint, fingerprint_file

_DIGITS = 16


def pseudonymous(rows: Sequence[SlideRow]) -> list[SlideRow]:
    """Return the rows under names that neither ids nor files can be read out of; without patients.

    A slide has the same name whenever and wherever it is worked on, as long as its files' content is the same. One
    whose files are not there is called by its row.

    Parameters
    ----------
    rows : sequence of SlideRow
        The slides.

    Raises
    ------
    DuplicateIdError
        Two rows are one slide.
    """
    found: dict[str, SlideRow] = {}
    for row in rows:
        name = pseudonym(row)
        if name in found:
            raise DuplicateIdError(
                f"rows {found[name].row} and {row.row} are one slide", place=name, remedy="name each slide once"
            )
        found[name] = replace(row, slide_id=name, patient_id="")
    return list(found.values())


def pseudonym(row: SlideRow) -> str:
    """Return the name of a row's slide, made of its files' content, their channels, and pages or planes."""
    sources = row.source if isinstance(row.source, dict) else {"": row.source}
    try:
        parts = {}
        for channel, text in sources.items():
            chosen = Fragment(text) if Path(text).exists() else split_fragment(text)
            parts[channel] = [fingerprint_file(Path(chosen.path)), str(replace(chosen, path=""))]
    except InputMissingError:
        return f"slide-of-row-{row.row}"
    return f"slide-{fingerprint(parts)[:_DIGITS]}"

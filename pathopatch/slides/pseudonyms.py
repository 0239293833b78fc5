"""De-identify slides: a name made of the content of a slide's files, and of nothing else."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pathopatch.core.artefacts import fingerprint, fingerprint_file
from pathopatch.core.errors import DuplicateIdError, InputMissingError
from pathopatch.slides.manifest import Fragment, SlideRow, split_fragment

_DIGITS = 16
PSEUDONYM = re.compile(rf"slide-(?:[0-9a-f]{{{_DIGITS}}}|of-row-\d+)")


def pseudonymize(rows: Sequence[SlideRow]) -> list[SlideRow]:
    """Return the rows with pseudonyms as slide ids and without patients.

    A slide has the same pseudonym in every run, as long as the content of its files is the same.

    Parameters
    ----------
    rows : sequence of SlideRow
        The slides.

    Raises
    ------
    DuplicateIdError
        Two rows are one slide.
    """
    by_pseudonym: dict[str, SlideRow] = {}
    for row in rows:
        name = pseudonym(row)
        if name in by_pseudonym:
            raise DuplicateIdError(
                f"rows {by_pseudonym[name].row} and {row.row} are one slide",
                place=name,
                remedy="name each slide once",
            )
        by_pseudonym[name] = replace(row, slide_id=name, patient_id="")
    return list(by_pseudonym.values())


def pseudonym(row: SlideRow) -> str:
    """Return a slide's name made of its files' content, their channels, and pages or planes."""
    sources = row.source if isinstance(row.source, dict) else {"": row.source}
    try:
        parts = {}
        for channel, text in sources.items():
            fragment = Fragment(text) if Path(text).exists() else split_fragment(text)
            parts[channel] = [fingerprint_file(Path(fragment.path)), str(replace(fragment, path=""))]
    except (InputMissingError, OSError):
        # The error itself is reported when the slide is opened; until then it needs a name.
        return f"slide-of-row-{row.row}"
    return f"slide-{fingerprint(parts)[:_DIGITS]}"

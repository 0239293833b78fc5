"""De-identify slides: a name made of the content of a slide's files, and of nothing else."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pathopatch.core.artefacts import fingerprint, fingerprint_file
from pathopatch.core.errors import DuplicateIdError, InputMissingError, InputUnsupportedError
from pathopatch.core.status import read_status
from pathopatch.core.work_folder import WorkFolder
from pathopatch.slides.manifest import Fragment, SlideRow, split_fragment

_DIGITS = 16
_PSEUDONYM = re.compile(rf"slide-(?:[0-9a-f]{{{_DIGITS}}}|of-row-\d+)")


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


def require_unmixed(out: Path, *, deidentify: bool) -> None:
    """Refuse to put de-identified slides and named ones into one work folder.

    Parameters
    ----------
    out : Path
        Work folder; it may not exist yet.
    deidentify : bool
        Whether the slides of this run are de-identified.

    Raises
    ------
    InputUnsupportedError
        The folder holds slides of the other kind.
    """
    # The tables of a work folder list every slide that was predicted into it: a name beside a pseudonym would tell
    # whose slide it is.
    ids = {path.stem for pattern in ("status/*.json", "predictions/*.parquet") for path in out.glob(pattern)}
    deidentified = {name for name in ids if _PSEUDONYM.fullmatch(name) and not _is_identified(out, name)}
    if deidentify and (ids - deidentified or WorkFolder(out).slides.exists()):
        raise InputUnsupportedError(
            "the folder names slides: they were worked on without --deidentify",
            place=str(out),
            remedy="choose another folder for de-identified outputs",
        )
    if deidentified and not deidentify:
        raise InputUnsupportedError(
            f"the folder holds de-identified slides ({len(deidentified)}), and this run would add named ones",
            place=str(out),
            remedy="give --deidentify as before, or choose another folder",
        )


def _is_identified(out: Path, slide_id: str) -> bool:
    """Return whether a slide's status names its patient or its files."""
    # A user's own slide id may look like a pseudonym.
    entries = [entry for entry in read_status(out, slide_id).values() if isinstance(entry, dict)]
    return any(entry.get(name) for entry in entries for name in ("patient_id", "source"))

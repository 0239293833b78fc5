"""What is a slide called where nothing may say whose it is? A name made of its content, and of nothing else."""

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


def pseudonymous(rows: Sequence[SlideRow]) -> list[SlideRow]:
    """Return the rows under names that neither ids nor files can be read out of; without patients.

    A slide has the same name whenever and wherever it is worked on, as long as its files' content is the same. One
    whose files cannot be read is called by its row.

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
    except (InputMissingError, OSError):  # what is wrong with its files is said when it is worked on
        return f"slide-of-row-{row.row}"
    return f"slide-{fingerprint(parts)[:_DIGITS]}"


def require_apart(out: Path, *, deidentify: bool) -> None:
    """Refuse to work on slides without their names where slides have theirs, or the other way round.

    The tables of a work folder hold every slide that was ever predicted into it, and side by side a name tells whose a
    pseudonym is.

    Parameters
    ----------
    out : Path
        Work folder; it need not be there yet.
    deidentify : bool
        Whether what comes names nobody.

    Raises
    ------
    InputUnsupportedError
        Slides of the other kind stand there.
    """
    ids = {path.stem for pattern in ("status/*.json", "predictions/*.parquet") for path in out.glob(pattern)}
    nameless = {name for name in ids if _PSEUDONYM.fullmatch(name) and not _says_whose(out, name)}
    if deidentify and (ids - nameless or WorkFolder(out).slides.exists()):
        raise InputUnsupportedError(
            "the folder names slides: they were worked on without --deidentify",
            place=str(out),
            remedy="choose another folder for what is to name nobody",
        )
    if nameless and not deidentify:
        raise InputUnsupportedError(
            f"slides stand here without their names ({len(nameless)}), and would stand beside names",
            place=str(out),
            remedy="give --deidentify as before, or choose another folder",
        )


def _says_whose(out: Path, slide_id: str) -> bool:
    """Return whether a slide's status says of which patient it is, or where it lies."""
    entries = [entry for entry in read_status(out, slide_id).values() if isinstance(entry, dict)]
    return any(entry.get(name) for entry in entries for name in ("patient_id", "source"))

"""Names of readers: one normal form, by which a reader is one wherever the name comes from."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from pathopatch.core.artefacts import fingerprint
from pathopatch.core.errors import InputUnsupportedError

MOST_CHARACTERS = 200
_OF_FILE = 40  # characters of a name that stand in the name of a file
_HASH_DIGITS = 8


def reader_name(text: str, *, place: str = "--reader") -> str:
    """Return a name in its normal form: NFC, single blanks, no control or direction marks.

    InputUnsupportedError, with its `place`, where nothing is left, or more than 200 characters.
    """
    name = _normal(text)
    if not name or len(name) > MOST_CHARACTERS:
        message = f"{name[:20]}…: {len(name)} characters" if name else "nobody is named"
        raise InputUnsupportedError(
            message, place=place, remedy=f"name who decides, in {MOST_CHARACTERS} characters at most"
        )
    return name


def reader_key(name: str) -> str:
    """Return what is equal of two names of one reader, in normal form or not: case does not count."""
    return unicodedata.normalize("NFC", _normal(name).casefold())


def known_reader(name: str, known: Iterable[str]) -> str:
    """Return a name as it is among known ones, whatever its case; the name itself if it is new."""
    return next((other for other in sorted(known) if reader_key(other) == reader_key(name)), name)


def reader_file_part(name: str) -> str:
    """Return what stands for a reader in the name of a file: two names of two readers never give the same."""
    plain = re.sub(r"[^\w.-]+", "-", name)[:_OF_FILE]
    return plain if plain == name else f"{plain}-{fingerprint(reader_key(name))[:_HASH_DIGITS]}"


def _normal(text: str) -> str:
    shown = "".join(c for c in " ".join(text.split()) if unicodedata.category(c) not in ("Cc", "Cf"))
    return unicodedata.normalize("NFC", shown).strip()

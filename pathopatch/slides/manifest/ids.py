"""What may a slide or a patient be called? Ids become file names, on every system."""

from __future__ import annotations

import re
from pathlib import Path

from pathopatch.slides.manifest.paths import split_fragment

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}


def valid_slide_id(text: str) -> bool:
    """Return whether a text may be an id: a plain file name on every system, and harmless in a spreadsheet."""
    is_plain = _ID.fullmatch(text) is not None and not text.endswith(".")
    return is_plain and text.split(".")[0].casefold() not in _RESERVED


def slide_id_from_path(path: Path | str) -> str:
    """Return an id for a slide that has none: its file's stem, forbidden characters replaced by ``_``."""
    stem = Path(split_fragment(str(path)).path).stem
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", stem).lstrip("._-")[:128].rstrip(".")
    return safe if valid_slide_id(safe) else f"slide_{safe}"[:128].rstrip(".")

"""Find the file of a predicted slide."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pathopatch.core.status import read_status
from pathopatch.slides.manifest import SlideRow, pseudonym

Source = str | dict[str, str]
"""A path with its fragment, or one per channel."""


class SlidePlaces:
    """Where slides lie: in the manifest, else in their status, else the manifest's slide of the same content."""

    def __init__(self, out: Path, rows: Sequence[SlideRow]) -> None:
        self._out, self._rows = out, rows
        self._by_id = {row.slide_id: row.source for row in rows}
        self._by_pseudonym: dict[str, Source] | None = None

    def source(self, slide_id: str) -> Source | None:
        """Return a slide's path with its fragment, or one per channel; None where it is unknown."""
        source: Source | None = self._by_id.get(slide_id)
        source = source or read_status(self._out, slide_id).get("predict", {}).get("source")
        if source is None and self._by_pseudonym is None:  # pseudonyms take a look into each file
            self._by_pseudonym = {pseudonym(row): row.source for row in self._rows}
        return source or (self._by_pseudonym or {}).get(slide_id)

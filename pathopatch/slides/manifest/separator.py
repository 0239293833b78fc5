"""Tell a CSV file that is empty, or separated by something else than commas."""

from __future__ import annotations

from collections.abc import Collection

_OTHERS = {";": "semicolons", "\t": "tabs"}
REMEDY = "save it as CSV with commas between the cells"


def other_separator(text: str, names: Collection[str]) -> str:
    """Return what separates the cells in place of commas: ``semicolons``, ``tabs``, or nothing.

    Parameters
    ----------
    text : str
        Of the file; its first line has the names of the columns.
    names : collection of str
        Columns that the file must have: one of them shows what separates it.
    """
    header = text.splitlines()[0] if text.strip() else ""
    for mark, said in _OTHERS.items():
        cells = {cell.strip().strip('"') for cell in header.split(mark)}
        if mark in header and cells & set(names):
            return said
    return ""

"""No row of the table of faults is without a test."""

from __future__ import annotations

import re
from pathlib import Path

from fault_table import ROWS

_MARK = re.compile(r"mark\.fault\(([^)]*)\)")
_ROW = re.compile(r'^    (?:\*\()?\(("[a-z-]+"), f?"', re.MULTILINE)  # of a table whose rows name their fault first
_NAME = re.compile(r'"([a-z-]+)"')


def test_every_fault_is_shown_by_a_test() -> None:
    here = Path(__file__).parent
    texts = [path.read_text(encoding="utf-8") for path in here.parent.rglob("test_*.py")]
    marks = [mark for text in texts for mark in _MARK.findall(text)]
    for name in ("test_inputs.py", "test_manifests.py"):
        marks += _ROW.findall((here / name).read_text(encoding="utf-8"))
    shown = {name for mark in marks for name in _NAME.findall(mark)}
    assert set(ROWS) - shown == set()

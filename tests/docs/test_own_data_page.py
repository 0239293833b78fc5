"""The pages on the debiasing alone: the example is short, needs no slides, and does what it says."""

import os
import re
import subprocess
import sys

import pytest
from doc_pages import DOCS, code_blocks

from pathopatch.debias.methods import NAMES


@pytest.mark.slow
def test_the_example_is_short_runs_as_it_stands_and_keeps_the_worst_group() -> None:
    (code,) = code_blocks(DOCS / "how-to" / "own-data.md", "python")
    assert len(code.splitlines()) < 40
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    # the attribute alone gives 0; a cut half-way between the classes, 1.25 sd from either, gives .89
    assert float(done.stdout.removeprefix("worst group:")) > 0.75


def test_the_table_of_methods_lists_every_method() -> None:
    text = (DOCS / "understand" / "methods.md").read_text(encoding="utf-8").partition("## All methods\n")[2]
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in text.splitlines()]
    assert tuple(cells[0].strip("`") for cells in rows if cells and cells[0].startswith("`")) == NAMES

"""The README's example of the debiasing alone: short, without slides, and it does what it says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pathopatch.debias.methods import NAMES, method, steps_in_all

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
SECTION = README.partition("## Only the debiasing\n")[2].partition("\n## ")[0]


@pytest.mark.slow
def test_the_example_is_short_runs_as_it_stands_and_keeps_the_worst_group() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", SECTION, flags=re.DOTALL)
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


def test_the_table_lists_every_method_with_the_steps_that_it_takes() -> None:
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in SECTION.splitlines()]
    steps = {cells[0].strip("`"): float(cells[3]) for cells in rows if cells and cells[0].startswith("`")}
    assert tuple(steps) == NAMES
    assert steps == {name: steps_in_all(method(name), 400) / 400 for name in NAMES}

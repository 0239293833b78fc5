"""How is a manifest read? Once, checked in full, and every problem reported at once."""

from __future__ import annotations

from pathlib import Path

from pathopatch.core.errors import ManifestError
from pathopatch.slides.manifest.cells import Cells
from pathopatch.slides.manifest.conflicts import check_content, check_ids, check_patients
from pathopatch.slides.manifest.rows import Manifest
from pathopatch.slides.manifest.table import Table


def read_manifest(path: Path) -> Manifest:
    """Return the slides of a CSV file.

    Parameters
    ----------
    path : Path
        UTF-8, comma-separated, one row a slide. Paths in it are relative to it; ``${NAME}`` is replaced from the
        environment.

    Raises
    ------
    InputMissingError
        There is no such file.
    ManifestError
        Lists everything wrong in it, each problem with row, column, value and remedy.
    """
    table = Table(path)
    rows = [Cells(table, number, cells).parsed() for number, cells in table.records]
    check_ids(table, rows)
    check_patients(table, rows)
    check_content(table, rows)
    if table.problems:
        ordered = sorted(table.problems, key=lambda problem: problem.row or 0)
        raise ManifestError(ordered, place=str(path))
    return Manifest(tuple(rows), path)

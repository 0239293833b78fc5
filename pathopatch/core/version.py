"""The package's version, and whether another package of the same import name is installed.

This distribution is called ``pathopatch-gerne``. PyPI's ``pathopatch`` is another group's package with the same import
name, which CellViT requires: both write into one folder ``pathopatch`` and overwrite each other's files.
"""

from __future__ import annotations

import sys
from pathlib import Path

__version__ = "0.2.0"
FOREIGN_REMEDY = "use an environment without it: pip uninstall pathopatch, then install this package again"


def foreign_distribution() -> str:
    """Return the name and version of an installed distribution ``pathopatch``; empty if there is none."""
    # Its metadata's folder tells; importlib.metadata would take longer to load than all else that is imported here.
    for entry in sys.path:
        for folder in Path(entry or ".").glob("pathopatch-[0-9]*.*-info"):
            return folder.name.removesuffix(".dist-info").removesuffix(".egg-info").replace("-", " ")
    return ""

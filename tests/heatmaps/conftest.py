"""Fixtures of the heatmap tests: independent readers, in plain modules beside this file."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # so that tests can say `import qupath_rules`

import bioformats  # noqa: E402


@pytest.fixture(scope="session")
def bio_formats() -> bioformats.BioFormats:
    return bioformats.find()

"""What the site is made by, as a module."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import pytest
from doc_pages import DOCS


@pytest.fixture(scope="session")
def hooks() -> ModuleType:
    """Return ``docs/hooks.py``, which is no part of a package."""
    spec = importlib.util.spec_from_file_location("docs_hooks", DOCS / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

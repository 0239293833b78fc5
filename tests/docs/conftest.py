"""What the site is made by, as modules."""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest
from doc_pages import DOCS


def _module(name: str) -> ModuleType:
    """Return a module of ``docs``, which is no package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(DOCS)
        return importlib.import_module(name)


@pytest.fixture(scope="session")
def hooks() -> ModuleType:
    """Return ``docs/hooks.py``."""
    return _module("hooks")


@pytest.fixture(scope="session")
def assets() -> ModuleType:
    """Return ``docs/assets.py``."""
    return _module("assets")

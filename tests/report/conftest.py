"""Fixtures of the report's tests: a made-up study, written once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from made_study import make_study


@pytest.fixture(scope="session")
def study_writer() -> Callable[..., Path]:
    return make_study


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("studies") / "made-up")

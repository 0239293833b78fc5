"""Fixtures of the report's tests: a made-up study, written once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from made_study import QUICK, make_study
from read_page import Page

from pathopatch.report import write_report


@pytest.fixture(scope="session")
def study_writer() -> Callable[..., Path]:
    return make_study


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("studies") / "made-up")


@pytest.fixture(scope="session")
def page(work: Path) -> Page:
    return Page(write_report(work, evaluate=QUICK))

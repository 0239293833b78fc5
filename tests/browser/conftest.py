"""Fixtures of the browser tests: Chromium, slides predicted once, and windows without console errors."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent))  # so that tests can say `import pages`

import chromium  # noqa: E402

try:
    from playwright.sync_api import Browser, sync_playwright
except ImportError:
    sync_playwright = None

from pathopatch.core.errors import InputMissingError  # noqa: E402


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("browser")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    from pathopatch.review import viewer

    try:
        if sync_playwright is None:
            raise chromium.Unavailable("there is no playwright: pip install playwright")
        path = chromium.find()
        viewer.fetch()
    except (chromium.Unavailable, InputMissingError) as error:
        chromium.stop(error)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="session")
def axe() -> str:
    try:
        return chromium.axe()
    except chromium.Unavailable as error:
        chromium.stop(error)


@pytest.fixture(scope="session")
def predicted(browser: Browser, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    import made_predictions

    real_data = request.getfixturevalue("real_data")  # after the browser: without one, nothing is predicted
    return made_predictions.predict_all(tmp_path_factory.mktemp("predicted"), real_data)


@pytest.fixture(scope="session")
def address(predicted: Any) -> Iterator[str]:
    """The page over both runs; tests that decide take `folder` instead."""
    import pages

    with pages.serving(predicted.out, "--beside", predicted.beside) as url:
        yield url


@pytest.fixture
def folder(predicted: Any, tmp_path: Path) -> Path:
    """The predictions once more, to decide on."""
    copy = tmp_path / "out"
    shutil.copytree(predicted.out, copy, ignore=shutil.ignore_patterns("review.sqlite*"))
    return copy


@pytest.fixture
def own(folder: Path) -> Iterator[str]:
    """The page over predictions of the test's own, to decide on."""
    import pages

    with pages.serving(folder) as url:
        yield url


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Any]]:
    """Open a window; at the end none may have complained, or asked another host.

    The first argument is the address; `expected` says which complaints are part of the test.
    """
    import pages

    opened: list[tuple[pages.Visit, tuple[str, ...]]] = []

    def open_window(address: str, *, expected: tuple[str, ...] = (), **options: Any) -> pages.Visit:
        window = pages.Visit(browser, address, **options)
        opened.append((window, expected))
        return window

    yield open_window
    for window, expected in opened:
        window.close()
        assert window.elsewhere == []
        assert [complaint for complaint in window.complaints if not any(part in complaint for part in expected)] == []

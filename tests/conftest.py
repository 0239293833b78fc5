"""Fixtures of all tests: real images, synthetic slides with known pixels, and the command line."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from pathopatch import cli

sys.path.append(str(Path(__file__).parent / "helpers"))  # so that tests can say `import made_slides`

pytest_plugins = ["array_slides", "fault_table"]

_LONG = (
    "test_workflows.py", "test_offline.py", "test_study.py", "test_kill_training.py", "test_cli.py", "test_kill.py",
    "test_page.py", "test_ranks.py",
)  # fmt: skip
"""Files of tests that take longest, the longest first: begun last, one core would be at them alone."""


_NOT_QUICK = ("slow", "browser", "slurm", "gpu", "real")
_QUICK = {
    "": ("test_budget",),
    "cli": ("test_help", "test_training"),
    "core": ("test_artefacts", "test_config", "test_errors"),
    "debias": ("test_gerne", "test_methods"),
    "demo": ("test_slides",),
    "evaluation": ("test_group_scores", "test_run_settings"),
    "features": ("test_labels",),
    "groups": ("test_assign", "test_audit"),
    "heatmaps": ("test_predict_flags", "test_stitch"),
    "metrics": ("test_accuracy", "test_bootstrap"),
    "models": ("test_heads", "test_networks"),
    "patches": ("test_intensity", "test_tissue"),
    "report": ("test_page_format", "test_tissue"),
    "review": ("test_decisions",),
    "slides": ("test_manifest", "test_tiff"),
    "stages": ("test_folds", "test_tile"),
    "training": ("test_augment", "test_convex"),
}
"""Modules of tests that `--quick` collects, by folder: quick ones of every folder of the package."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="only tests of seconds, as `make check` runs them")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `--quick`, import no file that would not be run: importing all of them takes longer than the tests."""
    tests = Path(__file__).parent
    if not config.getoption("quick") or collection_path == tests:
        return None
    if collection_path.is_dir():
        return None if collection_path.parent == tests and collection_path.name in _QUICK else True
    folder = "" if collection_path.parent == tests else collection_path.parent.name
    return None if collection_path.stem in _QUICK.get(folder, ()) else True


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("quick"):
        items[:] = [item for item in items if not any(map(item.get_closest_marker, _NOT_QUICK))]
    items.sort(key=lambda item: _LONG.index(item.path.name) if item.path.name in _LONG else len(_LONG))


@pytest.fixture(scope="session", autouse=True)
def _user_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep compiled networks where all processes of the tests find them, and not in the user's own cache."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.getbasetemp().parent / "user-cache")
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.getbasetemp() / "user-state")


@pytest.fixture(scope="session", autouse=True)
def _cheap_files() -> Iterator[None]:
    """Spare what only a power cut or a reader would notice; `test_damaged_outputs.py` and `test_overlay.py` do.

    That is to write each file through to the disk, and to enlarge the pictures of slides of a hundred pixels.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _descriptor: None)
        patch.setattr("pathopatch.heatmaps.overlay._MIN_VIEW_PX", 300)
        yield


@pytest.fixture
def large_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enlarge the pictures of small slides as users, and other processes, do."""
    monkeypatch.setattr("pathopatch.heatmaps.overlay._MIN_VIEW_PX", 1000)


@pytest.fixture(scope="session")
def real_data() -> Path:
    folder = os.environ.get("PATHOPATCH_REAL_DATA")
    if not folder:
        pytest.skip("PATHOPATCH_REAL_DATA does not name the folder of real images")
    path = Path(folder)
    assert path.is_dir(), f"PATHOPATCH_REAL_DATA names {folder}, which is no folder"
    return path


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a skipped test on the real images if their folder is named."""
    report = yield
    if report.skipped and os.environ.get("PATHOPATCH_REAL_DATA") and "real_data" in getattr(item, "fixturenames", ()):
        report.outcome = "failed"
        report.longrepr = f"skipped although PATHOPATCH_REAL_DATA is set: {report.longrepr}"
    return report


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    """Return a function that types a command and returns its exit code."""
    before = signal.getsignal(signal.SIGTERM)

    def run(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["pathopatch", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0)

    yield run
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def said(typed: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Return a function that types a command, which is to end with `code`, and returns what was printed (out, err)."""

    def run(*arguments: object, code: int = 0) -> Any:
        assert typed(*arguments) == code
        return capsys.readouterr()

    return run


@pytest.fixture(autouse=True)
def _logging_on() -> None:
    """Let warnings of the package be logged, whatever a library set up for the whole process in an earlier test."""
    logging.disable(logging.NOTSET)
    logging.root.setLevel(logging.WARNING)
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if name.startswith("pathopatch") and isinstance(logger, logging.Logger):
            logger.disabled, logger.propagate = False, True

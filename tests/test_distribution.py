"""The distribution's name: PyPI's `pathopatch` is another group's package, which nobody is told to install."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import pathopatch
from pathopatch.core.version import foreign_distribution

ROOT = Path(__file__).parents[1]
# `pip install pathopatch…`, quoted or with an extra; a path or a wheel's file name is no index.
_FROM_AN_INDEX = re.compile(
    r"\b(?:pip|uv|pipx|conda|mamba)\b[^\n`&;|]*\b(?:install|add)\b[^\n`&;|]*[ '\"]pathopatch\b(?!/|-gerne\b)"
)


def texts() -> list[Path]:
    folders = ("pathopatch", "pipelines", "docs", "data_manifests", ".github")
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    paths += [path for path in ROOT.iterdir() if path.suffix in {".md", ".toml", ".cff"} or path.name == "Makefile"]
    return [path for path in paths if not {"vendor", "node_modules", "__pycache__"} & set(path.parts)]


def test_no_text_tells_to_install_pathopatch_from_an_index() -> None:
    assert _FROM_AN_INDEX.search("run pip install 'pathopatch[review]' first")
    assert _FROM_AN_INDEX.search("python -m pip install --upgrade pathopatch")
    assert not _FROM_AN_INDEX.search("pip install starlette && pathopatch review")
    assert not _FROM_AN_INDEX.search("run pip install 'pathopatch-gerne[train]' first")
    wrong = []
    for path in texts():
        text = path.read_bytes().decode("utf-8", errors="ignore")
        wrong += [f"{path.relative_to(ROOT)}: {match.group()}" for match in _FROM_AN_INDEX.finditer(text)]
    assert not [line for line in wrong if "pip uninstall pathopatch" not in line]


def test_a_foreign_distribution_of_the_name_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert foreign_distribution() == ""
    (tmp_path / "pathopatch-1.0.4.dist-info").mkdir()
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    assert foreign_distribution() == "pathopatch 1.0.4"


def test_importing_beside_a_foreign_distribution_warns_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "pathopatch-1.0.4.dist-info").mkdir()
    paths = [str(Path(pathopatch.__file__).parents[1]), str(tmp_path)]
    code = f"import sys; sys.path[:0] = {paths!r}; import pathopatch"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "another package with this import name is installed: pathopatch 1.0.4" in done.stderr
    assert "pip uninstall pathopatch" in done.stderr


def test_the_module_runs_as_the_command_does() -> None:
    done = subprocess.run([sys.executable, "-m", "pathopatch", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"pathopatch {pathopatch.__version__}\n"

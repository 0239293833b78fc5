"""The package stays small and easy to walk through: nothing is above its budget in ``pyproject.toml``."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "pathopatch"
TOOL = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pathopatch"]
BUDGET: dict[str, int] = TOOL["budget"]
SHAPE: dict[str, int] = TOOL["shape"]
BRANCHES = (
    ast.If, ast.For, ast.While, ast.Try, ast.IfExp, ast.BoolOp, ast.comprehension, ast.ExceptHandler, ast.Match,
)  # fmt: skip
PAGES = (".css", ".html", ".j2", ".js", ".svg")


def files_of(name: str) -> Iterator[Path]:
    """Yield the files that an entry of the budget counts."""
    for folder in name.split(" + "):
        match folder:
            case "root":
                yield from PACKAGE.glob("*.py")
            case "all" | "files":
                yield from PACKAGE.rglob("*.py")
            case "tests":
                yield from (ROOT / "tests").rglob("*.py")
            case "pages":
                pages = (path for part in ("report", "review") for path in (PACKAGE / part).rglob("*"))
                yield from (path for path in pages if path.suffix in PAGES and "vendor" not in path.parts)
            case _:
                yield from (PACKAGE / folder).rglob("*.py")


@pytest.mark.parametrize("name", BUDGET)
def test_a_folder_keeps_its_budget(name: str) -> None:
    lines = {path.relative_to(ROOT): path.read_bytes().count(b"\n") for path in files_of(name)}
    count = len(lines) if name == "files" else sum(lines.values())
    largest = sorted(lines, key=lambda path: -lines[path])[:20]
    listed = "\n".join(f"{lines[path]:6} {path}" for path in largest)
    assert count <= BUDGET[name], f"{name}: {count}, {BUDGET[name]} at most; the largest files:\n{listed}"


def test_every_folder_has_a_budget() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()} | {"root"}
    assert folders == {folder for name in BUDGET for folder in name.split(" + ")} - {"all", "files", "tests", "pages"}


def test_the_package_keeps_its_shape() -> None:
    trees = [list(ast.walk(ast.parse(path.read_bytes()))) for path in PACKAGE.rglob("*.py")]
    functions = {
        f"{node.name} {node.end_lineno - node.lineno + 1}"
        for nodes in trees
        for node in nodes
        if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= 80
    }
    branches = sum(isinstance(node, BRANCHES) for nodes in trees for node in nodes)
    assert sum(map(len, trees)) <= SHAPE["syntax_nodes"]
    assert branches <= SHAPE["branches"]
    assert len(functions) <= SHAPE["functions_over_80_lines"], functions


def test_few_functions_are_entered_before_a_map_is_written(tmp_path: Path) -> None:
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, ROOT / "pipelines" / "golden" / "trace_predict.py"]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    functions, files = map(int, re.findall(r"heatmap.ome.tif is written: (\d+) functions in (\d+) files", told)[0])
    assert functions <= SHAPE["functions_until_a_map"]
    assert files <= SHAPE["files_until_a_map"]

"""The package stays small: no folder has more lines of Python than its budget in ``pyproject.toml``."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "pathopatch"
BUDGET: dict[str, int] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pathopatch"][
    "budget"
]
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

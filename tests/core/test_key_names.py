"""Messages name the keys of a study file as they stand in it: the table in brackets, then the key."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import pathopatch
from pathopatch.core.config import Config, StudyConfig, load_study, tables_of
from pathopatch.core.errors import InputUnsupportedError

PACKAGE = Path(pathopatch.__file__).parent
PROSE = {"and", "is", "hold", "goes", "table", "tables", "sets", "says", "of", "holds"}
"""Words that may follow a table in a sentence."""
MENTION = re.compile(r"\[((?:[a-z_]+\.)*[a-z_]+)\](?: ([a-z_]+)\b)?")


def tables(kind: type[Config] = StudyConfig, name: str = "") -> Iterator[tuple[str, type[Config]]]:
    """Every table of a study file by its full name."""
    for short, inner in tables_of(kind).items():
        full = f"{name}.{short}" if name else short
        yield full, inner
        yield from tables(inner, full)


TABLES = dict(tables())
SHORT = {part for full in TABLES for part in full.split(".")}
ALL_KEYS = {key for kind in TABLES.values() for key in kind.model_fields}


@cache
def trees() -> dict[str, ast.Module]:
    """Every module of the package, by its path."""
    paths = sorted(PACKAGE.rglob("*.py"))
    return {str(path.relative_to(PACKAGE)): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


@cache
def texts() -> list[tuple[str, str]]:
    """Every string of the package that a user may see, with its place; values in it are written {}."""
    seen: list[tuple[str, str]] = []
    for path, tree in trees().items():
        nodes = list(ast.walk(tree))
        parts = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
        prose = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        calls = [node for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
        prose |= {id(part) for call in calls if call.func.id == "Fields" for part in call.args}  # of options
        for node in nodes:
            if isinstance(node, ast.JoinedStr):
                values = (str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
                seen.append((f"{path}:{node.lineno}", "".join(values)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts | prose:
                seen.append((f"{path}:{node.lineno}", node.value))
    return seen


@pytest.mark.slow
def test_every_table_and_key_that_a_message_names_exists() -> None:
    mentions = [
        (place, table, key)
        for place, text in texts()
        for table, key in MENTION.findall(text)
        if set(table.split(".")) & SHORT
    ]
    assert len(mentions) > 30
    unknown = [
        (place, table, key)
        for place, table, key in mentions
        if table not in TABLES or (key and key not in TABLES[table].model_fields and key not in PROSE)
    ]
    assert unknown == []


def test_no_message_names_a_key_with_dots() -> None:
    pairs = {f"{full.split('.')[-1]}.{key}" for full, kind in TABLES.items() for key in kind.model_fields}
    dotted = re.compile(r"\b(" + "|".join(re.escape(pair) for pair in sorted(pairs)) + r")\b(?!\.)")
    right = re.compile(r"\[[a-z_.]+\]|\S+\.(csv|json|parquet|html|md)")  # tables in brackets, and files
    dotted_texts = [(place, text) for place, text in texts() if " " in text and dotted.search(right.sub("", text))]
    assert dotted_texts == []


def test_a_place_that_is_a_key_says_its_table() -> None:
    """Errors of `debias` name arguments, which is all that it knows of; a few keys are columns or files too."""
    others = {"channels", "patches", "architecture", "labels", "tissue", "tile", "groups", "slides", "background"}
    bare = []
    for path, tree in trees().items():
        for node in ast.walk(tree):
            is_place = isinstance(node, ast.keyword) and node.arg == "place" and isinstance(node.value, ast.Constant)
            if is_place and node.value.value in ALL_KEYS - others and not path.startswith("debias"):
                bare.append((path, node.value.value))
    assert bare == []


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[tile.tissue]\ncolour = 1\n", "[tile.tissue] colour:"),
        ("[train.augment]\ngain = 7.0\n", "[train.augment] gain:"),
        ("[groups]\nthresholds = [0.5, 2.0]\n", "[groups] thresholds.1:"),
        ("[tune]\ntrials = 0\n", "[tune] trials:"),
        ("[colour]\nx = 1\n", "refused: colour:"),
    ],
)
def test_a_key_that_is_refused_is_named_as_in_the_file(tmp_path: Path, text: str, key: str) -> None:
    path = tmp_path / "study.toml"
    path.write_text('manifest = "m.csv"\nwork = "w"\n' + text, encoding="utf-8")
    with pytest.raises(InputUnsupportedError) as caught:
        load_study(path)
    assert key in str(caught.value)

"""The help of every command: whole texts, and commands in panels. Options that messages advise, too."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import pathopatch
from pathopatch.cli.program import app

PACKAGE = Path(pathopatch.__file__).parent
PANELS = ("Predict", "Review and export", "Data", "Audit", "Train and study", "Tools")


def commands(group: Any, names: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield each command below a group with its name, such as ``("export", "onnx")``."""
    for name, command in group.commands.items():
        yield (*names, name), command
        if hasattr(command, "commands"):
            yield from commands(command, (*names, name))


COMMANDS = dict(commands(typer.main.get_command(app)))


def shown(*names: str) -> str:
    """Return the help of a command without blanks, since a line may end at a hyphen."""
    done = CliRunner().invoke(app, [*names, "--help"])
    assert done.exit_code == 0
    return "".join(done.output.split())


@pytest.mark.parametrize("names", COMMANDS, ids=" ".join)
def test_help_shows_every_text_whole(names: tuple[str, ...]) -> None:
    command, text = COMMANDS[names], shown(*names)
    helps = [command.help, *(getattr(parameter, "help", None) for parameter in command.params)]
    for help_text in filter(None, helps):
        for line in help_text.split("\n\n"):
            assert "".join(line.split()) in text


def test_help_names_the_tables_of_a_settings_file() -> None:
    assert "of[tile]or[ready]or[splits]or[batch]alone" in shown("tile")
    assert "of[train]or[tune]or[batch]alone" in shown("train")


def test_the_help_of_an_option_is_that_of_its_setting() -> None:
    text = shown("train")
    assert "--learning-rate<float>Learningrateatthestart;ofasearchthatofitsfirsttrial." in text
    assert "Oneofwga,gba,equal_area." in text
    assert "erm,erm-balanced,resample,groupdro,gerneorauto" in text
    assert "Giveupaslidethattakesmoreseconds,inaprocessofitsown.Default:never.[x>=1]" in shown("predict")


def test_predict_has_few_options() -> None:
    options = [parameter for parameter in COMMANDS["predict",].params if parameter.param_type_name == "option"]
    assert len(options) - 1 <= 21  # without --help


def test_every_command_stands_in_one_of_the_panels() -> None:
    text = CliRunner().invoke(app, ["--help"]).output
    assert [line.removesuffix(":") for line in text.splitlines() if line.endswith(":")] == ["Options", *PANELS]
    assert {name for name, *_ in COMMANDS} <= set(re.findall(r"^  ([a-z-]+)  ", text, re.MULTILINE))


def test_each_parameter_of_a_command_acts() -> None:
    unread = []
    for path in (PACKAGE / "cli").glob("*.py"):
        for function in filter(lambda node: isinstance(node, ast.FunctionDef), ast.parse(path.read_text("utf-8")).body):
            read = {node.id for part in function.body for node in ast.walk(part) if isinstance(node, ast.Name)}
            for parameter in (*function.args.args, *function.args.kwonlyargs):
                unread += [] if parameter.arg in read else [(function.name, parameter.arg)]
    # One is read by `with_settings`, one acts before the command runs.
    acted_on = [("_program", "version")]
    assert [item for item in unread if item[1] != "config" and item not in acted_on] == []


@pytest.mark.parametrize("words", ["report w --force", "info a.tif --quiet", "doctor -q", "export onnx m --quiet"])
def test_an_option_that_would_do_nothing_is_unknown(words: str) -> None:
    done = CliRunner().invoke(app, words.split())
    assert done.exit_code == 2
    assert "No such option" in done.output


PROGRAMS = [" ".join(names) for names, command in COMMANDS.items() if not hasattr(command, "commands")]
RAISED_BY = {
    "evaluation/external_validation.py": ["evaluate"],
    "groups/attribute.py": ["train", "audit"],
    "features/source.py": ["predict"],
    "heatmaps/predict.py": ["predict"],
    "models/loading.py": ["evaluate", "predict"],
    "models/runtime/": ["evaluate", "predict", "train"],
    "models/verify.py": ["verify"],
    "models/foreign_model.py": ["import model"],
    "models/known_answers.py": ["import model"],
    "patches/describe.py": ["info"],
    "patches/import_list.py": ["tile"],
    "patches/patch_import.py": ["tile"],
    "review/": ["review"],
    "evaluation/answers.py": ["audit-model"],
    "stages/audit_model.py": ["audit-model"],
    "stages/pack.py": ["audit-model"],
    "stages/batch/slide_table.py": ["check", "info", "predict", "tile"],
    "stages/feature_audit.py": ["audit"],
    "stages/feature_tissue.py": ["audit"],
    "stages/find_slides.py": ["predict"],
    "stages/import_model.py": ["import model"],
    "stages/predict.py": ["predict"],
}
"""Commands that reach the messages of modules, by how their paths begin; any that redoes reaches the others."""
ELSEWHERE = {"core/removed.py", "models/export.py", "features/readers/hdf5.py", "review/viewer.py"}
"""Modules that name options of other programs, or that are gone."""


def messages(path: Path) -> Iterator[str]:
    """Yield each text of a module but docstrings; what is filled in is left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inner = {
        id(part)
        for node in ast.walk(tree)
        for part in (
            node.values if isinstance(node, ast.JoinedStr) else [node.value] if isinstance(node, ast.Expr) else []
        )
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner:
            yield node.value


def options_of(command: str) -> set[str]:
    return {option for parameter in COMMANDS[tuple(command.split())].params for option in parameter.opts}


_ANY = "|".join(sorted(PROGRAMS, key=len, reverse=True))
NAMED = re.compile(
    rf"\bpathopatch (?P<named>{_ANY})\b|(?P<clause>[,;:.] )"
    rf"|\b(?P<before>{_ANY})(?= (?:[A-Z]\S* |(?:th\w+ )?slide |again |with )*--)"
    rf"|(?<![\w-])(?P<option>--[a-z][a-z0-9-]+)(?: to (?P<after>(?:(?:{_ANY})(?:, | or )?)+))?"
)
"""A command, or an option with the commands that it is given to; a command is named until its clause ends."""


def unknown_options(text: str, readers: list[str]) -> Iterator[str]:
    """Yield each option in a message that a command named with it lacks, or without one any reader's."""
    command = None
    for match in NAMED.finditer(text):
        if match["option"] is None:
            command = match["named"] or match["before"]
            continue
        of = re.split(", | or ", match["after"]) if match["after"] else [command] if command else readers
        if not all(match["option"] in options_of(name) for name in of):
            yield match["option"]


def test_the_check_of_messages_finds_an_option_that_a_command_lacks() -> None:
    assert list(unknown_options("give --slide-mpp", ["tile", "run"])) == ["--slide-mpp"]
    assert list(unknown_options("run tile with --slide-mpp 1, or choose --folds", ["run"])) == ["--folds"]
    assert list(unknown_options("give --slide-mpp to tile, groups or predict", ["tile"])) == ["--slide-mpp"]
    assert list(unknown_options("pathopatch export onnx BUNDLE --into-bundle; give --slide-mpp to tile", ["run"])) == []


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_every_option_that_a_message_advises_is_one_of_the_command(path: Path) -> None:
    place = path.relative_to(PACKAGE).as_posix()
    if place.startswith("cli/") or place in ELSEWHERE:  # in cli/ each stands in the command that it is of
        return
    redo = [name for name in PROGRAMS if "--force" in options_of(name)]
    readers = next((names for start, names in RAISED_BY.items() if place.startswith(start)), redo)
    # A text that is an option alone is the place of an error, or a part of a command.
    texts = [text for text in messages(path) if not re.fullmatch("--[a-z0-9-]+( …)? ?", text)]
    # What stands already is met by the commands that redo it.
    by_text = {
        text: [name for name in readers if name in redo] or readers if "--force" in text else readers for text in texts
    }
    found = {text: options for text, names in by_text.items() if (options := [*unknown_options(text, names)])}
    assert not found, found

"""The help of every command: whole texts, and commands in panels."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from pathopatch.cli.program import app

PANELS = ("Predict", "Train and study", "Audit", "Data", "Review and export", "Tools")


def commands(group: Any, names: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield each command below a group with its name, such as ``("export", "onnx")``."""
    for name, command in group.commands.items():
        yield (*names, name), command
        if hasattr(command, "commands"):
            yield from commands(command, (*names, name))


COMMANDS = dict(commands(typer.main.get_command(app)))


def shown(*names: str) -> str:
    """Return the help of a command as one line, without frames."""
    done = CliRunner().invoke(app, [*names, "--help"], env={"COLUMNS": "400", "TERMINAL_WIDTH": "400"})
    assert done.exit_code == 0
    return " ".join(re.sub("[│╭╮╰╯─]", " ", done.output).split())


@pytest.mark.parametrize("names", COMMANDS, ids=" ".join)
def test_help_shows_every_text_whole(names: tuple[str, ...]) -> None:
    """Names in square brackets are styles to rich, and vanish where they are not escaped."""
    command, text = COMMANDS[names], shown(*names)
    helps = [command.help, *(getattr(parameter, "help", None) for parameter in command.params)]
    for help_text in filter(None, helps):
        for line in help_text.split("\n\n"):
            assert " ".join(line.replace("\\[", "[").split()) in text


def test_help_names_the_tables_of_a_settings_file() -> None:
    assert "table [tile] holds" in shown("tile")
    assert "table [train] holds" in shown("train")
    assert "tables [train] and [tune] hold" in shown("tune")


def test_every_command_stands_in_one_of_the_panels() -> None:
    text, group = shown(), typer.main.get_command(app)
    assert {getattr(command, "rich_help_panel", None) for command in group.commands.values()} == set(PANELS)
    assert all(f" {panel} " in text for panel in PANELS)
    assert " Commands " not in text

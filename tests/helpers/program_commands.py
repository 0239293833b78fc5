"""The commands of the program and their parameters."""

from __future__ import annotations

import typer

from pathopatch.cli.program import app


def _commands(command: typer.core.TyperCommand, name: str) -> dict[str, typer.core.TyperCommand]:
    found = {name: command}
    for child, inner in getattr(command, "commands", {}).items():
        found |= _commands(inner, f"{name} {child}")
    return found


COMMANDS = _commands(typer.main.get_command(app), "pathopatch")
"""Every command by its whole name, ``pathopatch export onnx``."""


def exists(words: list[str]) -> bool:
    """Return whether the program has a typed command and its long options."""
    command = next((" ".join(words[:length]) for length in (3, 2) if " ".join(words[:length]) in COMMANDS), None)
    if command is None:
        return False
    options = {option for parameter in COMMANDS[command].params for option in parameter.opts}
    return all(word in options for word in words if word.startswith("--"))

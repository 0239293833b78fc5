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

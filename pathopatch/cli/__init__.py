"""The command line, one command per stage: the only place that prints and exits."""

from pathopatch.cli.program import app, main

__all__ = ["app", "main"]

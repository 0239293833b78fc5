"""The program, whose demo has small slides and takes two steps."""

_DEMO = (
    "from dataclasses import replace; from pathopatch.cli import main; from pathopatch.demo import quick;"
    "quick.SPEC = replace(quick.SPEC, fields=4);"
    "quick.TRAIN = quick.TRAIN.model_copy(update={'steps': 2, 'evaluations': 1}); main()"
)


def program(command: str) -> tuple[str, str]:
    """Return Python's arguments that start the program for a command."""
    return ("-c", _DEMO) if command == "demo" else ("-m", "pathopatch")

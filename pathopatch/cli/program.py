"""Start and end the program: `main`, signals, and error codes."""

from __future__ import annotations

import os
import signal
import sys
import traceback

import typer

from pathopatch.cli.commands import app
from pathopatch.cli.output import interrupt_note, say


class _Terminated(BaseException):
    """SIGTERM arrived."""


def main() -> None:
    """Run the command line and exit with the codes that the docstring of `pathopatch.cli` lists."""
    signal.signal(signal.SIGTERM, _on_sigterm)
    from pathopatch.core.errors import PathopatchError

    try:
        code = app(standalone_mode=False)
    except PathopatchError as error:
        say(f"error: {error}")
        code = 1
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except _Terminated:
        say(f"terminated; {interrupt_note()}")
        code = 143
    except Exception as error:
        code = _unforeseen(error)
    if code == 130:  # typer may have turned the interrupt into this code itself
        say(f"interrupted; {interrupt_note()}")
    sys.exit(code if isinstance(code, int) else 0)


def _unforeseen(error: Exception) -> int:
    """Return the exit code of a wrong usage, or report a fault of this package."""
    show = getattr(error, "show", None)
    if callable(show):  # click's own usage errors
        show()
        return int(getattr(error, "exit_code", 2))
    if os.environ.get("PATHOPATCH_TRACE"):
        traceback.print_exception(error)
    say(
        f"error: INTERNAL: {type(error).__name__}: {error} Remedy: this is a fault of pathopatch; run again with "
        "PATHOPATCH_TRACE=1 and report what it prints"
    )
    return 1


def _on_sigterm(_number: int, _frame: object) -> None:
    raise _Terminated

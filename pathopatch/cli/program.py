"""List all commands by the panels of `pathopatch --help`; start and end the program: signals and exit codes."""

from __future__ import annotations

import faulthandler
import gc
import io
import os
import signal
import socket
import sys
import time
import traceback
import warnings
from collections import UserDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Annotated, Any

import typer.core
import typer.main

from pathopatch.cli import exporting, predicting, slides, training, upkeep
from pathopatch.cli.options import with_settings
from pathopatch.cli.output import interrupt_note, say
from pathopatch.core.version import __version__

Function = Callable[..., Any]
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # not in `pathopatch` itself: code that imports it may use the hub


def _named(*functions: Function, prefix: str = "") -> dict[str, Function | str]:
    return {function.__name__.removeprefix(prefix).replace("_", "-"): function for function in functions}


_GROUPS = {
    "export": (
        "Write what was read or found in other programs' formats.",
        _named(
            exporting.export_onnx, exporting.export_wsinfer, exporting.export_qupath, exporting.export_dicom,
            exporting.export_review, exporting.export_regions, prefix="export_",
        ),
    ),
    "import": ("Take over models from other programs' formats.", _named(exporting.import_model, prefix="import_")),
}  # fmt: skip
"""Commands of two words: what the first one is for, and the functions of the second."""
_PANELS = {
    "Predict": _named(predicting.predict, slides.info),
    "Review and export": _named(predicting.review, predicting.report)
    | {name: text for name, (text, _) in _GROUPS.items()},
    "Data": _named(slides.manifest, slides.check, slides.tile, slides.tissue),
    "Audit": _named(training.groups, training.audit, training.audit_model),
    "Train and study": _named(training.run, training.train, training.evaluate, training.demo),
    "Tools": _named(upkeep.status, upkeep.verify, upkeep.doctor, upkeep.clean),
}
"""The commands of each panel of `pathopatch --help`."""
_GRACE_S = 8.0
"""From SIGTERM to the end: Docker kills after 10 s, Slurm and Kubernetes after 30."""
_HELP = (
    "Patch-wise tumour classification that does not learn the tissue-area shortcut. "
    "Research use only, not for diagnosis."
)


class _Commands(UserDict[str, Any]):
    """Functions by name, each made a command when it is asked for: settings behind its options take time to load."""

    def __getitem__(self, name: str) -> Any:
        if name in _GROUPS:
            text, functions = _GROUPS[name]
            return typer.main.get_command(_app(name, text, {"Commands": functions}))
        made = _app(name)
        made.command(name)(with_settings(self.data[name]))
        return typer.main.get_command(made)


class _Group(typer.core.TyperGroup):
    """Commands in panels, with the first paragraph of each one's text."""

    panels: Mapping[str, Mapping[str, Function | str]]

    def __init__(self, **rest: Any) -> None:
        super().__init__(**rest)
        self.commands = _Commands({name: item for items in self.panels.values() for name, item in items.items()})

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the panels."""
        for panel, items in self.panels.items():
            texts = [item if isinstance(item, str) else str(item.__doc__).split("\n\n")[0] for item in items.values()]
            with formatter.section(panel):
                formatter.write_dl([(name, " ".join(text.split())) for name, text in zip(items, texts, strict=True)])


def _app(name: str, text: str = "", panels: Mapping[str, Mapping[str, Function | str]] | None = None) -> typer.Typer:
    """Return a program, or with `panels` a group of commands."""
    kind = None if panels is None else type("Group", (_Group,), {"panels": panels})
    made = typer.Typer(
        cls=kind, name=name, help=text, no_args_is_help=kind is not None, add_completion=False,
        pretty_exceptions_enable=False, rich_markup_mode=None,
    )  # fmt: skip
    if kind is not None:
        made.callback()(lambda: None)
    return made


app = _app("pathopatch", panels=_PANELS)


def _show_version(is_wanted: bool) -> None:
    if is_wanted:
        print(f"pathopatch {__version__}")
        raise typer.Exit


@app.callback(help=_HELP)
def _program(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Say which version this is.")
    ] = False,
) -> None:
    pass


class _Terminated(BaseException):
    """SIGTERM arrived."""


class _Sigterm:
    """Raise `_Terminated` in the main thread at the first SIGTERM; end the process if that has not ended it in time."""

    # What a handler raises is lost in a finaliser and in a library's bare `except`, and no handler runs while native
    # code does. So a thread waits too, which Python's own C code wakes.

    def __init__(self) -> None:
        self.has_arrived = False
        self._read, self._write = socket.socketpair()

    def install(self) -> None:
        """Take SIGTERM."""
        self._write.setblocking(False)
        signal.signal(signal.SIGTERM, self._raise_once)
        signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        Thread(target=self._end_late, daemon=True).start()
        if hasattr(os, "register_at_fork"):
            # A child that is ended would wake our thread; SIGTERM waits until it has left.
            os.register_at_fork(
                before=partial(signal.pthread_sigmask, signal.SIG_BLOCK, {signal.SIGTERM}),
                after_in_parent=partial(signal.pthread_sigmask, signal.SIG_UNBLOCK, {signal.SIGTERM}),
                after_in_child=self._leave_child,
            )

    def remove(self) -> None:
        """Leave SIGTERM to the system again, unless it has arrived."""
        if not self.has_arrived:  # the thread stays: threads of libraries may keep a finished process
            self._leave()
            self._write.close()

    def _leave(self) -> None:
        if signal.getsignal(signal.SIGTERM) == self._raise_once:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _leave_child(self) -> None:
        self._leave()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})

    def _raise_once(self, _number: int, _frame: object) -> None:
        if not self.has_arrived:
            self.has_arrived = True
            raise _Terminated

    def _end_late(self) -> None:
        with self._read:
            while number := self._read.recv(1):
                if number[0] == signal.SIGTERM:
                    time.sleep(_GRACE_S)
                    with suppress(OSError):
                        os.write(2, f"terminated; {interrupt_note()}\n".encode())
                    os._exit(143)


def main() -> None:
    """Run the command line: results go to standard output, progress to standard error; exit codes as errors.md says."""
    _open_closed_streams()
    faulthandler.enable(2, all_threads=False)  # else a library that crashes within a tile ends us without a word
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that cannot be shown must not stop the work on it
            stream.reconfigure(errors="backslashreplace")
    # A user needs no line of source below a warning.
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    code: object = 0
    sigterm = _Sigterm()
    with suppress(_Terminated):
        try:
            sigterm.install()
            code = _run()
        finally:
            sigterm.remove()
    if sigterm.has_arrived:
        say(f"terminated; {interrupt_note()}")
        code = 143
    gc.freeze()  # what is left ends with the process: a search for reference cycles takes a tenth of a second
    sys.exit(code if isinstance(code, int) else 0)


def _run() -> object:
    """Run the command line and return its exit code; None is 0."""
    try:
        code = app(standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except Exception as error:
        return _report(error)
    if code == 130:  # typer may have turned the interrupt into this code itself
        say(f"interrupted; {interrupt_note()}")
    return code


def _open_closed_streams() -> None:
    """Give standard streams that the caller closed to the null device.

    Else the next file that is opened takes the place of one, and libraries write their messages into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the smallest free number, for processes too
    # Without these, `print` writes errors to standard output.
    sys.stdout = sys.stdout or Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  # as long as the process
    sys.stderr = sys.stderr or Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115


def _report(error: Exception) -> int:
    """Print an error and return its exit code, that of a wrong usage included."""
    show = getattr(error, "show", None)
    if callable(show):  # click's own usage errors
        show()
        return int(getattr(error, "exit_code", 2))
    from pathopatch.core.errors import InternalError, with_code

    known = with_code(error)
    if known is not error and os.environ.get("PATHOPATCH_TRACE"):
        traceback.print_exception(error)
    if known is not error and isinstance(known, InternalError):
        known.remedy = "this is a fault of pathopatch; run again with PATHOPATCH_TRACE=1 and report what it prints"
    say(f"error: {known}")
    return 1

"""Try files in a process that may die of them, before this process opens them.

The libraries of OpenSlide and of CZI are written in C: a malformed file can end, or hang, the process that opens it.
The other process runs this module by itself, and so imports nothing of the package.
"""

from __future__ import annotations

import atexit
import json
import signal
import subprocess
import sys
from contextlib import suppress
from functools import lru_cache
from multiprocessing import parent_process
from pathlib import Path
from threading import Lock

_LIMIT_S = 300  # of a file on a slow drive
_lock = Lock()
_trials: list[subprocess.Popen[bytes]] = []  # the process, which lives through many files


def require_harmless(path: Path) -> None:
    """Raise WorkerCrashError, or SlideTimeoutError, if opening a file ends or hangs the process that does it.

    Worker processes try nothing, since they may die.
    """
    from pathopatch.core.errors import SlideTimeoutError, WorkerCrashError
    from pathopatch.core.files import file_state

    if parent_process() is not None or (code := _exit_code(str(path), file_state(path))) in (0, 1):
        return  # 1: the process could not start, so nothing was tried
    remedy = "copy it again from its source, or leave it out"
    if code == -getattr(signal, "SIGALRM", 0):
        raise SlideTimeoutError(f"opening it took more than {_LIMIT_S} s", place=str(path), remedy=remedy)
    raise WorkerCrashError(f"the library that opens it crashed (exit code {code})", place=str(path), remedy=remedy)


@lru_cache(maxsize=4096)
def _exit_code(path: str, _: tuple[int | str, ...]) -> int:
    """Return the exit code of the process that opened a file, minus the signal if by one; 0 if it lives."""
    with _lock:
        if not _trials:
            # Not of the working folder's modules: -P.
            command = [sys.executable, "-P", __file__]
            pipe = subprocess.PIPE
            _trials.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL))
        process = _trials[0]
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(OSError):  # it died, which no answer says as well
            process.stdin.write(json.dumps(path).encode() + b"\n")
            process.stdin.flush()
        if process.stdout.readline():
            return 0
        with _trials.pop():  # which closes its pipes, and waits
            return process.wait()


@atexit.register
def _end() -> None:
    for process in _trials:
        process.kill()
        process.communicate()


def _serve() -> None:
    """Open each file that a line of the standard input names, as a JSON text, and answer by a line."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is its parent's, who ends it
    for line in sys.stdin:
        if hasattr(signal, "alarm"):
            signal.alarm(_LIMIT_S)
        with suppress(Exception):  # which the process that asks will see for itself
            _open(json.loads(line))
        if hasattr(signal, "alarm"):
            signal.alarm(0)
        print(flush=True)  # noqa: T201


def _open(path: str) -> None:
    """Open a file by its library, and read the last pixel of each level."""
    with open(path, "rb") as stream:  # noqa: PTH123
        is_czi = stream.read(10) == b"ZISRAWFILE"
    if is_czi:
        from pylibCZIrw import czi

        with czi.open_czi(path) as file:
            file.read(roi=(*file.total_bounding_rectangle[:2], 1, 1))
        return
    import openslide

    if openslide.OpenSlide.detect_format(path):
        with openslide.OpenSlide(path) as slide:
            for level, (width, height) in enumerate(slide.level_dimensions):
                scale = slide.level_downsamples[level]
                slide.read_region((int((width - 1) * scale), int((height - 1) * scale)), level, (1, 1))


if __name__ == "__main__":
    _serve()

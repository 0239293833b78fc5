"""Note which addresses this process asks for, which paths it writes to, and which programs it starts.

Python imports a module of this name at its start where the folder is in PYTHONPATH: worker processes are audited too.
"""

from __future__ import annotations

import os
import sys

_LOG = os.open(os.environ["AUDIT_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_PATHS = {"os.mkdir": 0, "os.rename": 1, "os.link": 1, "os.symlink": 1, "sqlite3.connect": 0}  # which argument
_ADDRESSES = {"socket.connect": 1, "socket.sendto": 1, "socket.getaddrinfo": 0, "socket.gethostbyname": 0,
              "urllib.Request": 0}  # fmt: skip
_PROGRAMS = {"subprocess.Popen": 0, "os.exec": 0, "os.posix_spawn": 0, "os.system": 0}


def _note(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITES:
        kind, value = "writes", arguments[0]
    elif event in _PATHS:
        kind, value = "writes", arguments[_PATHS[event]]
    elif event in _ADDRESSES:
        kind, value = "asks", arguments[_ADDRESSES[event]]
        value = value[0] if isinstance(value, tuple) else value
    elif event in _PROGRAMS:
        kind, value = "starts", arguments[_PROGRAMS[event]]
    else:
        return
    if isinstance(value, int):  # an open file
        return
    text = os.fsdecode(value) if isinstance(value, str | bytes | os.PathLike) else str(value)
    if kind == "writes" and not text.startswith(":memory:"):
        text = os.path.abspath(text.removeprefix("file:"))  # noqa: PTH100  # links stay
    os.write(_LOG, f"{kind}\t{text}\n".encode(errors="backslashreplace"))


sys.addaudithook(_note)

"""Bring slides that lie elsewhere, by a command: ``[predict] fetch``.

Threads of the process that runs the command bring files into a scratch folder, while the slides before are predicted;
what works on slides asks there, also from other processes, and each slide's files go when it is done. A slide that was
predicted stays so without being fetched: its status says of what (``fetched``).
"""

from __future__ import annotations

import re
import shlex
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import gettempdir
from threading import Event, Lock
from typing import Any

from pathopatch.core.artefacts import fingerprint
from pathopatch.core.errors import InputMissingError, PathopatchError, with_code
from pathopatch.core.files import owner, read_json, remove, temporary_path, write_json
from pathopatch.core.locks import is_locked, slide_lock
from pathopatch.core.status import FINISHED, SlideStatus
from pathopatch.slides.manifest import SlideRow
from pathopatch.slides.slide_paths import split_fragment

_POLL_S = 0.05
_SCRATCH = "pathopatch-fetch"


@dataclass(frozen=True)
class Scratch:
    """The folder into which slides are brought, as those see it who work on them (picklable)."""

    folder: Path

    @contextmanager
    def fetched(self, row: SlideRow, status: SlideStatus) -> Iterator[str | dict[str, str] | None]:
        """Yield a slide's source on this machine, None if it is done; wait for it, and remove it at the end.

        InputMissingError if the command failed, or brought no file.
        """
        wanted, ended = self.wanted / row.slide_id, self.ended / row.slide_id
        wanted.touch()
        while not ended.exists():
            time.sleep(_POLL_S)
        try:
            found = read_json(ended)
            if "message" in found:
                raise InputMissingError(found["message"], place=row.slide_id, remedy=found["remedy"])
            yield found.get("source")
        finally:
            for path in (wanted, self.files / row.slide_id, ended):  # in this order: what is not wanted is not brought
                remove(path)
        if "source" in found and (entry := status.read()).get("state") in FINISHED:
            status.write({**entry, "fetched": found["mark"]})

    @property
    def wanted(self) -> Path:
        """Where empty files name the slides that somebody waits for, or works on."""
        return self.folder / "wanted"

    @property
    def files(self) -> Path:
        """Where slides lie, each in a folder of its id."""
        return self.folder / "files"

    @property
    def ended(self) -> Path:
        """Where it stands what became of each slide that was asked for or brought."""
        return self.folder / "ended"


@dataclass(frozen=True, kw_only=True)
class Fetch:
    """How slides are brought, and what need not be."""

    command: str  # see `PredictConfig`
    id_command: str | None
    out: Path
    stage: str
    about: Mapping[str, Any]  # what outputs depend on beside the slide
    is_whole: Callable[[str], bool]  # called with a slide_id: whether its outputs are as they were written
    force: bool  # bring what is done, too


@contextmanager
def fetching(fetch: Fetch, rows: Sequence[SlideRow], *, processes: int) -> Iterator[Scratch]:
    """Bring slides in their order, one ahead of each process that works on them, while the context lasts."""
    top = temporary_path(Path(gettempdir()) / _SCRATCH)
    for path in top.parent.glob(f"{_SCRATCH}.*"):  # of a process that was killed
        if (writer := owner(path)) is not None and writer.state == "dead":
            with suppress(OSError, PathopatchError):
                remove(path)
    scratch, stopped = Scratch(top), Event()
    for folder in (scratch.wanted, scratch.files, scratch.ended):
        folder.mkdir(parents=True)
    bringer = _Bringer(fetch, rows, scratch, stopped, room=2 * processes)
    with ThreadPoolExecutor(processes, thread_name_prefix="fetch") as pool:
        try:
            for _ in range(processes):
                pool.submit(bringer.work)
            yield scratch
        finally:
            stopped.set()
            pool.shutdown()
            remove(top)


class _Bringer:
    """What threads do who bring slides; there is `room` for so many before somebody waits for one."""

    def __init__(self, fetch: Fetch, rows: Sequence[SlideRow], scratch: Scratch, stopped: Event, *, room: int) -> None:
        self._fetch, self._scratch, self._stopped, self._room = fetch, scratch, stopped, room
        self._queue, self._by_id = deque(rows), {row.slide_id: row for row in rows}
        self._begun: set[str] = set()  # ever
        self._busy: set[str] = set()
        self._turn = Lock()

    def work(self) -> None:
        """Bring slides until the work on them has ended."""
        while not self._stopped.is_set():
            with self._turn:
                row = self._next()
                if row is not None:
                    self._begun.add(row.slide_id)
                    self._busy.add(row.slide_id)
            if row is None:
                self._stopped.wait(_POLL_S)
                continue
            found = self._bring(row)
            if not self._stopped.is_set():
                write_json(self._scratch.ended / row.slide_id, found)
            self._busy.discard(row.slide_id)

    def _next(self) -> SlideRow | None:
        """Return a slide that is waited for, or the next one if there is room; None if there is nothing to do now."""
        answered = self._busy | _names(self._scratch.ended)
        for name in _names(self._scratch.wanted) - answered:
            return self._by_id[name]
        while self._queue and len(self._busy | _names(self._scratch.files)) < self._room:
            row = self._queue.popleft()
            is_others = is_locked(self._fetch.out, slide_lock(row.slide_id, self._fetch.stage))
            if row.slide_id not in self._begun and not is_others:
                return row
        return None

    def _bring(self, row: SlideRow) -> dict[str, Any]:
        """Return a slide's source on this machine, or that it is done, or why there is none."""
        fetch, folder = self._fetch, self._scratch.files / row.slide_id
        try:
            sources = list(dict.fromkeys(split_fragment(source).path for source in row.sources))
            ids = [_run(fetch.id_command, {"source": text}, self._stopped) for text in sources if fetch.id_command]
            facts = {**asdict(row), "row": 0, "patient_id": "", "block": "", "split": ""}
            mark = fingerprint([facts, ids, fetch.about])
            entry = SlideStatus(out=fetch.out, slide_id=row.slide_id, stage=fetch.stage).read()
            is_same = entry.get("state") in FINISHED and entry.get("fetched") == mark
            if is_same and not fetch.force and fetch.is_whole(row.slide_id):
                return {"mark": mark}
            local = {}
            for number, source in enumerate(sources):
                file = folder / str(number) / (re.split(r"[/\\]", source.rstrip("/"))[-1] or "slide")
                file.parent.mkdir(parents=True)
                _run(fetch.command, {"source": source, "file": str(file)}, self._stopped)
                if not file.exists():
                    remedy = f"see what this does: {fetch.command}"
                    raise InputMissingError(f"no file came of {source}", remedy=remedy)
                local[source] = str(file)
            return {"mark": mark, "source": _localized(row.source, local)}
        except Exception as fault:  # noqa: BLE001  # in this thread nobody would hear it
            error = with_code(fault)
            remove(folder)
            return {"message": error.message, "remedy": error.remedy}


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def _run(template: str, values: Mapping[str, str], stopped: Event) -> str:
    """Return what a command prints. No shell reads it, so that no name is taken for a command."""
    words = [re.sub(r"\{(source|file)\}", lambda name: values[name[1]], word) for word in shlex.split(template)]
    remedy = f"see what it says: {shlex.join(words)}"
    pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
    try:
        with subprocess.Popen(words, stdin=nothing, stdout=pipe, stderr=pipe) as process:
            while True:
                with suppress(subprocess.TimeoutExpired):
                    said, errors = process.communicate(timeout=1.0)
                    break
                if stopped.is_set():
                    process.kill()
    except OSError as error:
        raise InputMissingError(f"{words[0]} cannot be run: {error.strerror}", remedy=remedy) from error
    if process.returncode:
        last = (errors.decode(errors="replace").strip().splitlines() or ["it says nothing"])[-1]
        raise InputMissingError(f"the command failed with code {process.returncode}: {last}", remedy=remedy)
    return said.decode(errors="replace").strip()


def _localized(source: str | dict[str, str], local: Mapping[str, str]) -> str | dict[str, str]:
    """Return a source with the files that were brought in place of those that were named."""
    if isinstance(source, dict):
        return {name: str(_localized(text, local)) for name, text in source.items()}
    path = split_fragment(source).path
    return local[path] + source[len(path) :]

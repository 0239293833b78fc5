"""Summarize a run of ``predict``, for a mail and for programs; known failures, ``ignore.csv``, alarm only once.

Statuses tell which slides earlier runs had, and heatmaps what their files held; of failed slides the last summary does.
"""

from __future__ import annotations

import os
import textwrap
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from pathopatch.core.artefacts import fingerprint, fingerprint_file
from pathopatch.core.csv_table import read_csv_table, unescape_formulas
from pathopatch.core.errors import InputMissingError, InputUnsupportedError, PathopatchError, with_code
from pathopatch.core.files import inside, json_text, read_json, write_bytes, write_csv
from pathopatch.core.input_files import LeftOut
from pathopatch.core.locks import STATUS, folder_lock
from pathopatch.core.status import FINISHED, read_status, slide_ids
from pathopatch.core.task import HasSlideId, Outcome
from pathopatch.core.work_folder import WorkFolder
from pathopatch.heatmaps.facts import read_facts
from pathopatch.slides.slide_paths import split_fragment
from pathopatch.stages.batch.run import exit_code, last_events

_COLUMNS = ("slide_id", "code", "why", "when", "content")  # of ignore.csv; an empty content stands for any
_LISTS = ("failed", "changed", "new", "done", "gone", "ignored", "left_out")
_FAILURES = 3  # are told in full, so that the text has at most 24 lines: a screen
_wrapped = partial(textwrap.wrap, width=79, subsequent_indent="  ", placeholder=" …")


def read_ignored(out: Path) -> dict[str, dict[str, str]]:
    """Return the rows of ``ignore.csv`` by slide_id, none without the file; TableError for a malformed one."""
    path, kind = inside(out, "ignore.csv"), "list of known failures"
    if not path.exists():
        return {}
    table = read_csv_table(path, kind=kind, item="slide", required=_COLUMNS[:2], optional=_COLUMNS[2:])
    rows: dict[str, dict[str, str]] = {}
    for number, cells in table.rows:
        row = {name: unescape_formulas(cells.get(name, "").strip()) for name in _COLUMNS}
        name = row["slide_id"]
        if rows.setdefault(name, row) is not row:
            remedy = "keep the row of the error that is known"
            table.add_problem("DUPLICATE_ID", number, "slide_id", name, f"slide {name} is listed twice", remedy, name)
    table.raise_problems()
    return rows


def ignore_failure(out: Path, slide_id: str, why: str) -> None:
    """Add a slide that failed to ``ignore.csv``, with its error and the content of its files."""
    import pandas as pd

    entry = read_status(out, slide_id).get("predict", {})
    # An error that left an earlier prediction as it was stands in the log alone.
    last = {event.get("slide_id"): event.get("code") for event in last_events(out, "predict")}
    code = entry["code"] if entry.get("state") == "failed" else last.get(slide_id)
    if code is None:
        raise InputMissingError(f"no failure of {slide_id!r}", place=str(out), remedy="name a slide that failed")
    values = slide_id, code, why, _now(), _content(files_of(entry))
    with folder_lock(out, STATUS):
        rows = read_ignored(out) | {slide_id: dict(zip(_COLUMNS, values, strict=True))}
        write_csv(inside(out, "ignore.csv"), pd.DataFrame(list(rows.values())))


def is_ignored(row: Mapping[str, str] | None, code: str, files: Sequence[str]) -> bool:
    """Return whether a slide failed as it is listed: by this error, on files of this content, where that is known."""
    if row is None or row["code"] != code:
        return False
    return not row["content"] or _content(files) in ("", row["content"])


def with_ignored(listed: Mapping[str, Mapping[str, str]], outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return outcomes, with the state "ignored" and the reason of slides that failed as they are listed."""
    return [
        replace(each, state="ignored", message=listed[each.slide_id]["why"])
        if each.state == "failed" and is_ignored(listed.get(each.slide_id), each.code, each.files)
        else each
        for each in outcomes
    ]


def _content(files: Sequence[str]) -> str:
    """Return the fingerprint of files in whatever order; "" of none."""
    return fingerprint(sorted(_marks(files))) if files else ""


def _marks(files: Sequence[str]) -> list[str]:
    """Return the fingerprint of each file, "" of one that cannot be read."""
    marks = [""] * len(files)
    for number, file in enumerate(files):
        with suppress(PathopatchError, OSError):
            marks[number] = fingerprint_file(_path(file))
    return marks


def _path(file: str) -> Path:
    """Return the path of a file of which a page or a plane may be named."""
    return Path(file if os.path.lexists(file) else split_fragment(file).path)


def files_of(entry: Mapping[str, Any]) -> list[str]:
    """Return the files that a slide's status of one stage names."""
    named = entry.get("files") or entry.get("source") or []
    return [named] if isinstance(named, str) else list(named.values() if isinstance(named, dict) else named)


def _predicted_files(out: Path, slide_id: str) -> list[str]:
    """Return the fingerprints of the files that a slide was predicted from; none if it was not."""
    with suppress(PathopatchError, KeyError):
        return list(read_facts(WorkFolder(out).heatmap(slide_id))["files"])
    return []


class RunSummary:
    """The summary of a run, JSON at `path` and a text beside it. Where an error ends the run, that is written.

    InputUnsupportedError if something else stands there, or `path` lies among the work folder's own files.
    """

    def __init__(self, path: Path, out: Path) -> None:
        self._path, self._out, self._began, self._last = path, out, _now(), dict[str, Any]()
        self.moved: Mapping[str, str] = {}  # by slide_id: where its file was, and where it is
        with suppress(PathopatchError):
            self._last = read_json(path)
        is_other = "exit_code" not in self._last if self._last else path.with_suffix(".txt").exists()
        place, folder = path.resolve(), out.resolve()
        if is_other or folder in place.parents[1:] or place == WorkFolder(folder).left_out:
            raise InputUnsupportedError(
                f"{path} is no place for a summary, since other files stand there",
                place="--summary",
                remedy="name a file of its own, such as OUT/last-run.json",
            )
        # A person or a program may have put something else into it.
        if not isinstance(self._last.get("failed_files"), dict):
            self._last["failed_files"] = {}
        if not isinstance(self._last.get("gone"), dict):
            self._last["gone"] = {}
        failed, listed = self._last["failed_files"], self._last.get("known")
        known = [name for name in slide_ids(out) if not isinstance(listed, list) or name in listed]
        known = [name for name in known if "predict" in read_status(out, name)]
        self._marks = {name: _predicted_files(out, name) or failed.get(name, []) for name in known}

    def __enter__(self) -> RunSummary:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or hasattr(error, "exit_code"):  # the command line's own: the end, or a wrong usage
            return
        code = 1 if isinstance(error, Exception) else 130 if isinstance(error, KeyboardInterrupt) else 143
        message = str(with_code(error)) if isinstance(error, Exception) else "a signal ended the run"
        with suppress(PathopatchError, OSError):  # the first error must be heard
            self._write({**self._last, "known": list(self._marks), "exit_code": code, "error": message})

    def write(self, rows: Sequence[HasSlideId], outcomes: Sequence[Outcome], left_out: Sequence[LeftOut]) -> str:
        """Write what a run found, of most with a note on each slide by slide_id, and return the text."""
        ids, states = {row.slide_id for row in rows}, {each.slide_id: each.state for each in outcomes}
        # What is current, and was not known before, was done by a run that broke off.
        states |= {name: "done" for name, state in states.items() if state == "current" and name not in self._marks}
        marks = {
            each.slide_id: _marks(each.files) or _predicted_files(self._out, each.slide_id)
            for each in outcomes
            if each.state != "current"
        }
        changed = {
            name: "predicted again" if states[name] in FINISHED else "not predicted again"
            for name, now in marks.items()
            if (before := self._marks.get(name)) and "" not in before and not {"", *before}.issuperset(now)
        }
        absent = sorted(self._marks.keys() - ids)
        files = [map(_path, files_of(read_status(self._out, name)["predict"])) for name in absent]
        gone = [name for name, paths in zip(absent, files, strict=True) if not all(map(os.path.lexists, paths))]
        gone_before = self._last["gone"]
        found = {
            "exit_code": exit_code(outcomes),
            "slides": len(ids),
            "unchanged": sum(state == "current" for state in states.values()),
            "failed": {
                each.slide_id: {"code": each.code, "message": message, "remedy": remedy}
                for each in outcomes
                if each.state == "failed"
                for message, _, remedy in [each.message.partition(" Remedy: ")]
            },
            "changed": {**self.moved, **changed},
            "new": {name: state for name, state in states.items() if name not in self._marks},
            "done": {name: state for name, state in states.items() if state in FINISHED},
            "gone": {name: "before" if name in gone_before else "since the last run" for name in gone},
            "ignored": {each.slide_id: f"{each.code}: {each.message}" for each in outcomes if each.state == "ignored"},
            "left_out": {str(item.path): item.reason for item in left_out},
            "failed_files": {name: marks[name] for name, state in states.items() if state in ("failed", "ignored")},
        }
        return self._write(found)

    def _write(self, found: Mapping[str, Any]) -> str:
        summary = {**found, "command": "predict", "out": str(self._out), "began": self._began, "ended": _now()}
        text = _text(summary)
        # A name that is not UTF-8 becomes an escape, which JSON has too.
        for path, content in ((self._path, json_text(summary, indent=2)), (self._path.with_suffix(".txt"), text)):
            write_bytes(path, f"{content}\n".encode(errors="backslashreplace"))
        return text


def _text(summary: Mapping[str, Any]) -> str:
    """Return a summary in lines that can be mailed: errors first, and nothing that is zero."""
    found: Mapping[str, Any] = {} if "error" in summary else summary
    verdict = "not all well" if summary["exit_code"] else "all well"
    lines = [f"pathopatch predict: {verdict}, exit code {summary['exit_code']}"]
    lines += [*_wrapped(f"{summary['ended']}, {summary['out']}", max_lines=1), ""]
    errors = [(f"{name}: {one['message']}", one["remedy"]) for name, one in found.get("failed", {}).items()]
    for message, remedy in errors[:_FAILURES]:
        lines += _wrapped(message, max_lines=2) + _wrapped(f"  Remedy: {remedy}" if remedy else "", max_lines=2)
    lines += [""] if errors else _wrapped(summary.get("error", ""), max_lines=12)
    for title in _LISTS:
        items = found.get(title, {}).items()
        notes = [f"{Path(name).name} ({note['code'] if title == 'failed' else note})" for name, note in items]
        lines += _wrapped(f"{title.replace('_', ' ')} {len(notes)}: {', '.join(notes)}", max_lines=1) if notes else []
    if found:
        lines.append(f"of {found['slides']} slides {found['unchanged']} are as before")
    return "\n".join(lines)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")

"""Summarize a run of ``predict``, for a mail and for programs; known failures, ``ignore.csv``, alarm only once."""

from __future__ import annotations

import os
import shlex
import textwrap
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from pathopatch.core.artefacts import fingerprint, fingerprint_file
from pathopatch.core.csv_table import read_csv_table, unescape_formulas
from pathopatch.core.errors import InputMissingError, InputUnsupportedError, PathopatchError, with_code
from pathopatch.core.files import disk_errors, inside, json_text, read_json, write_bytes, write_csv
from pathopatch.core.input_files import LeftOut
from pathopatch.core.locks import STATUS, folder_lock
from pathopatch.core.status import FINISHED, read_status, slide_ids
from pathopatch.core.task import HasSlideId, Outcome
from pathopatch.core.text import pluralize
from pathopatch.core.work_folder import WorkFolder
from pathopatch.heatmaps.facts import OTHER_MODEL
from pathopatch.slides.slide_paths import file_of
from pathopatch.stages.batch.run import exit_code, last_events, retry_command

_COLUMNS = ("slide_id", "code", "why", "when", "content")  # of ignore.csv; an empty content stands for any
_KINDS, _NAMES = 3, 40  # of failures, and of failed slides, in the text, which is to fit a screen
_NEW = "since the last run"
_wrapped = partial(
    textwrap.wrap, width=79, subsequent_indent="  ", placeholder=" …", break_on_hyphens=False, break_long_words=False
)


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
    marks = [""] * len(files)  # "" of one that cannot be read
    for number, file in enumerate(files):
        with suppress(PathopatchError, OSError):
            marks[number] = fingerprint_file(file_of(file))
    return fingerprint(sorted(marks)) if files else ""


def files_of(entry: Mapping[str, Any]) -> list[str]:
    """Return the files that a slide's status of one stage names."""
    named = entry.get("files") or entry.get("source") or []
    return [named] if isinstance(named, str) else list(named.values() if isinstance(named, dict) else named)


class RunSummary:
    """The summary of a run, JSON at `path` and a text beside it: what no whole summary has told yet.

    ``told`` in the JSON has the slides that a whole summary knew, and when the work on each ended. It stays as it is
    while a run goes on, and where an error, a signal or a kill ends one.
    InputUnsupportedError if something else stands at `path`, or it lies among the work folder's own files.
    """

    def __init__(self, path: Path, out: Path) -> None:
        self._path, self._out, self._began = path, out, _now()
        self.moved: Mapping[str, str] = {}  # by slide_id: where its file was, and where it is
        self._last = last = self._read()
        is_other = "exit_code" not in last if last else path.with_suffix(".txt").exists()
        place, folder = path.resolve(), out.resolve()
        if is_other or folder in place.parents[1:] or place == WorkFolder(folder).left_out:
            raise InputUnsupportedError(
                f"{path} is no place for a summary, since other files stand there",
                place="--summary",
                remedy="name a file of its own, such as OUT/last-run.json",
            )
        self._not_ended = _entries(last, "not_ended") if "error" in last else {}
        if "ended" in last and last["ended"] is None:
            self._not_ended[str(last.get("began"))] = "killed, or it still runs"
        if not isinstance(last.get("told"), dict):  # the first summary here: slides of earlier runs are known
            last["told"] = {
                name: one.get("ended") for name in slide_ids(out) if (one := read_status(out, name).get("predict"))
            }

    def _read(self) -> dict[str, Any]:
        with suppress(PathopatchError):
            return read_json(self._path)
        return {}

    def begin(self) -> None:
        """Write that the run goes on: so a mail of one that was killed says so."""
        text = self._path.with_suffix(".txt")
        with disk_errors(text):  # if nothing more can be written, nobody reads the "all well" of an earlier run
            text.unlink(missing_ok=True)
        words = f"running since {self._began}, not ended: if this is older than the night, it was killed"
        remedy = "if it was killed, look for the reason (memory, a reboot); the next run goes on"
        self._write({**self._last, "exit_code": None, "error": words, "remedy": remedy}, ended=None)

    def fail(self, error: Exception) -> str:
        """Write that an error ended the run, and return the text; after a signal that of `begin` stays."""
        code = getattr(error, "exit_code", 1)  # that of a wrong usage is the command line's own
        message, _, remedy = str(with_code(error) if code == 1 else error).partition(" Remedy: ")
        summary = {**(self._read() or self._last), "exit_code": code, "error": message, "remedy": remedy}
        with suppress(PathopatchError, OSError):  # the first error must be heard
            self._write(summary, ended=_now())
        return _text({**summary, "ended": _now(), "out": str(self._out)}, self._path, {})

    def write(self, rows: Sequence[HasSlideId], outcomes: Sequence[Outcome], left_out: Sequence[LeftOut]) -> str:
        """Write what a run found, of most with a note on each slide by slide_id, and return the text."""
        last = self._read() or self._last  # another run may have told something meanwhile
        told, failures_before = _entries(last, "told"), _entries(last, "failures")
        ids, states = {row.slide_id for row in rows}, {each.slide_id: each.state for each in outcomes}
        status = {name: read_status(self._out, name).get("predict", {}) for name in {*told, *states}}
        for name, state in states.items():
            if state in (*FINISHED, "current"):  # whichever run did it: what ended at another time than was told is new
                is_told = told.get(name, "") == status[name].get("ended")
                states[name] = "current" if is_told else status[name].get("state", "done")
        absent = sorted(name for name in told.keys() - ids if status[name])  # `clean` may have taken some out
        files = [map(file_of, files_of(status[name])) for name in absent]
        gone = [name for name, paths in zip(absent, files, strict=True) if not all(map(os.path.lexists, paths))]
        failed = [each for each in outcomes if each.state == "failed"]
        of_model = [each.slide_id for each in failed if OTHER_MODEL in each.message]
        failures = {each.slide_id: [each.code, _content(each.files)] for each in outcomes if each.code}
        found = {
            "exit_code": exit_code(outcomes),
            "slides": len(ids),
            "unchanged": sum(state == "current" for state in states.values()),
            "failed": {
                each.slide_id: {
                    "code": each.code,
                    "message": message,
                    "remedy": remedy,
                    "is_new": failures_before.get(each.slide_id) != failures[each.slide_id],
                }
                for each in failed
                if each.slide_id not in of_model
                for message, _, remedy in [each.message.partition(" Remedy: ")]
            },
            "moved": dict(self.moved),
            "new": {name: state for name, state in states.items() if name not in told},
            "done": {name: state for name, state in states.items() if state in FINISHED},
            "other_model": {name: "before" if name in _entries(last, "other_model") else _NEW for name in of_model},
            "gone": {name: "before" if name in _entries(last, "gone") else _NEW for name in gone},
            "ignored": {each.slide_id: f"{each.code}: {each.message}" for each in outcomes if each.state == "ignored"},
            "left_out": {str(item.path): item.reason for item in left_out},
            "failures": failures,
            "told": {name: entry.get("ended") for name, entry in status.items() if entry or name in states},
        }
        return self._write(found, ended=_now(), last=last)

    def _write(self, found: Mapping[str, Any], *, ended: str | None, last: Mapping[str, Any] | None = None) -> str:
        run = {"command": "predict", "out": str(self._out), "began": self._began, "ended": ended}
        summary = {**found, **run, "not_ended": self._not_ended}
        text = _text(summary, self._path, last or {})
        # The JSON comes last: a kill between the two has all told once more.
        for path, content in ((self._path.with_suffix(".txt"), text), (self._path, json_text(summary, indent=2))):
            # A name that is not UTF-8 becomes an escape, which JSON has too.
            write_bytes(path, f"{content}\n".encode(errors="backslashreplace"))
        return text


def _entries(summary: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a table of a summary; empty where a person or a program put something else in its place."""
    return value if isinstance(value := summary.get(name), dict) else {}


def _text(summary: Mapping[str, Any], file: Path, last: Mapping[str, Any]) -> str:
    """Return a summary in lines that can be mailed: what is to be done, new failures, and what else is new."""
    code, found = summary["exit_code"], {} if "error" in summary else summary
    failed, of_model = _entries(found, "failed"), _entries(found, "other_model")
    kinds: dict[tuple[str, str], list[str]] = {}
    for name in (name for name, one in failed.items() if one["is_new"]):
        kinds.setdefault((failed[name]["code"], failed[name]["remedy"]), []).append(name)
    kinds = dict(sorted(kinds.items(), key=lambda item: -len(item[1])))
    is_new_model = _NEW in of_model.values()
    to_do, command = summary.get("remedy") or "see what went wrong, below", ""
    if kinds and not is_new_model:
        to_do = "what the remedies below say" if len(kinds) > 1 else next(iter(kinds))[1] or "look at the slide"
    elif failed and not is_new_model:
        to_do = "nothing new; to hear no more of a known failure, such as this one:"
        command = f"pathopatch status {shlex.quote(summary['out'])} --ignore {next(iter(failed))} --why REASON"
    elif of_model:
        to_do = f"{'once,' if is_new_model else 'nothing new;'} to predict every slide by the present model:"
        command = retry_command("predict").replace("--retry-failed", "--force", 1) or "the same command with --force"
    elif found:
        to_do = "nothing"
    verdict = f"{'not all well' if code else 'all well'}, exit code {code}"
    lines = [f"pathopatch predict: {'not ended' if code is None else verdict}"]
    lines.append(f"{summary['ended'] or summary['began']}, {summary['out']}")
    lines += [*_wrapped(f"To do: {to_do}", max_lines=3), *([f"  {command}"] if command else []), ""]
    lines += _wrapped(summary.get("error", ""), max_lines=12)
    if is_new_model:
        slides = pluralize(len(of_model), "slide")
        lines += _wrapped(f"The model changed. What another one predicted of {slides} stays, and counts as failed.")
    failures = _failure_lines(failed, kinds, to_do, file)
    return "\n".join([*lines, *failures, *([""] if failures or is_new_model else []), *_news_lines(found, last)])


def _failure_lines(
    failed: Mapping[str, Mapping[str, Any]], kinds: Mapping[tuple[str, str], Sequence[str]], to_do: str, file: Path
) -> list[str]:
    """Return failures in lines: new ones first, by code and remedy, so that all of a kind have one thing to do."""
    before = [name for name, one in failed.items() if not one["is_new"]]
    shown = {*[*chain.from_iterable(kinds.values()), *before][:_NAMES]}

    def listed(title: str, names: Sequence[str], note: str = " ({code})") -> list[str]:
        texts = [name + note.format(**failed[name]) for name in names if name in shown]
        texts += [f"{len(names) - len(texts):,} more in {file.name}"] if len(names) > len(texts) else []
        return _wrapped(f"{title}: {', '.join(texts)}") if names else []

    lines = []
    for (code, remedy), names in [*kinds.items()][:_KINDS]:
        lines += listed(f"{pluralize(len(names), 'new failure')}, {code}", names, "")
        example = f"{names[0]}: " if len(names) > 1 else ""
        lines += _wrapped(f"  {example}{failed[names[0]]['message'].removeprefix(f'{code}: ')}", max_lines=2)
        lines += _wrapped(f"  Remedy: {remedy}", max_lines=2) if remedy not in ("", to_do) else []
    further = [*chain.from_iterable([*kinds.values()][_KINDS:])]
    lines += listed(pluralize(len(further), "further new failure"), further)
    return lines + listed(f"{pluralize(len(before), 'failure')} as before", before)


def _news_lines(found: Mapping[str, Any], last: Mapping[str, Any]) -> list[str]:
    """Return what else is new since the last whole summary, a line each, and how many slides are as before."""
    if not found:
        return []
    failed, left_out = _entries(last, "failures"), _entries(last, "left_out")
    notes = dict.fromkeys(found["done"], "again") | dict.fromkeys(failed, "failed before")
    notes |= dict.fromkeys(found["new"], "new")
    empty = {name: ", no tissue" for name, state in found["done"].items() if state == "done_empty"}
    news = {
        "done": [f"{name} ({notes[name]}{empty.get(name, '')})" for name in found["done"]],
        "renamed or moved": list(found["moved"]),
        "files gone": [name for name, since in found["gone"].items() if since == _NEW],
        "left out": [f"{Path(path).name} ({why})" for path, why in found["left_out"].items() if path not in left_out],
    }
    lines = [f"the run of {began} did not end; this one tells what it did" for began in found["not_ended"]]
    for title, texts in news.items():
        lines += _wrapped(f"{title} {len(texts)}: {', '.join(texts)}", max_lines=1) if texts else []
    counts = [f"of {found['slides']:,} slides {found['unchanged']:,} are as before"]
    counts += [f"{len(found['ignored'])} failed as ignore.csv lists"] if found["ignored"] else []
    counts += [f"{len(found['other_model']):,} are another model's"] if found["other_model"] else []
    return [*lines, ", ".join(counts)]


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")

"""Summarize many slides from their status files alone: states and errors for `status`, and the table of a cohort.

``cohort.csv`` has a row for each slide that was ever predicted into the work folder. It is written at the end of a run,
even of an interrupted one; after one that was killed, `status_summary` writes it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pathopatch.core import files
from pathopatch.core.artefacts import fingerprint_file, read_stamp
from pathopatch.core.config import UNCERTAIN_BELOW
from pathopatch.core.csv_table import csv_text
from pathopatch.core.errors import InputMissingError, PathopatchError, Remark, StaleArtefactError, merged, shared_text
from pathopatch.core.locks import folder_lock, is_locked, slide_lock
from pathopatch.core.status import FINISHED, FOLDER, TERMINAL_STATES, status_table
from pathopatch.core.work_folder import WorkFolder
from pathopatch.heatmaps import CHANGED
from pathopatch.heatmaps.facts import SUMMARY
from pathopatch.slides.manifest import file_times, source_content
from pathopatch.slides.slide_paths import SLIDE_SUFFIXES, file_of, slide_id_from_path
from pathopatch.stages.batch.parts import read_parts
from pathopatch.stages.batch.run import exit_code_of, last_events
from pathopatch.stages.batch.run_summary import files_of, is_ignored, read_ignored

COUNTS = ("patches", "predicted", "tumour", "unreadable")
COHORT = ("slide_id", "patient_id", "state", "code", *COUNTS, *SUMMARY, "leakage", "warnings")
"""Columns of ``cohort.csv``; areas in mm2, shares in [0, 1], empty where a slide has no such number.

``leakage`` is what the model has to do with the slide, see `pathopatch.models.leakage`.
"""
_TEXTS = ("patient_id", "state", "code", "leakage", "warnings")
STATES = (*TERMINAL_STATES, "ignored", "gone", "interrupted", "running", "not begun")
"""In the order in which they are shown. A status has the first three and `running`, which a killed process leaves.

A slide that is `ignored` failed as ``ignore.csv`` lists it. The file of one that is `gone` was removed after it failed;
the last run had slides that are `not begun`.
"""
_COLUMNS = ("state", "code", "message", "patches", "predicted", "tumour", "seconds", "ended", "tissue_confidence")
_SHOWN = ("slide_id", "stage", "state", "code", "patches", "predicted", "tumour", "seconds")
_FEW = 40  # slides: so many are listed without being asked for


def write_cohort_table(out: Path) -> None:
    """Write ``cohort.csv`` by rename; of processes that do so at a time the last one has what all wrote before."""
    with folder_lock(out, "cohort"):
        files.write_bytes(out / "cohort.csv", csv_text(cohort_table(out), float_format="%.9g").encode())


def cohort_table(out: Path) -> pd.DataFrame:
    """Return a row for each slide that was predicted, or failed to be; columns `COHORT`."""
    statuses = status_table(out, COHORT[1:])
    table = statuses[statuses["stage"] == "predict"].drop(columns="stage").reset_index(drop=True)
    table["state"] = [
        _interrupted(out, name, "predict", state) for name, state in table[["slide_id", "state"]].to_numpy()
    ]
    for name in _TEXTS:
        table[name] = table[name].astype(object).where(table[name].notna(), "")
    types = dict.fromkeys(COUNTS, "Int64") | dict.fromkeys(SUMMARY, "float64")
    typed: pd.DataFrame = table.astype(types)
    return typed


@contextmanager
def keep_cohort_table(out: Path) -> Iterator[None]:
    """Write ``cohort.csv`` at the end of what is done within.

    At an end by an error or an interruption, a table that cannot be written is left as it is: the first error must be
    heard.
    """
    try:
        yield
    except BaseException:
        with suppress(PathopatchError, OSError):
            write_cohort_table(out)
        raise
    write_cohort_table(out)


@dataclass(frozen=True, kw_only=True)
class StatusSummary:
    """What became of the slides of a work folder."""

    table: pd.DataFrame  # a row a slide and stage; columns slide_id, stage, `_COLUMNS`
    counts: pd.DataFrame  # slides by stage (rows) and state (columns)
    slides: int  # in any stage, with those that are not begun
    parts: str = ""  # which parts of a divided cohort these are
    outdated: tuple[str, ...] = ()  # what rests on tissue that was measured again since

    @property
    def exit_code(self) -> int:
        """As of a run: 0 when every slide is done, 3 when some are not, 1 when none is."""
        wanted = int(self.counts.drop(columns=["gone", "ignored"]).to_numpy().sum())
        return exit_code_of(int(self.counts[list(FINISHED)].to_numpy().sum()), wanted)

    def text(self, *, all_slides: bool = False) -> str:
        """Format table and totals; of many slides those that are not done, unless all are asked for."""
        lines = []
        is_few = self.table["slide_id"].nunique() <= _FEW
        hidden = () if all_slides or is_few else (*FINISHED, "ignored", "gone")
        rows = self.table[~self.table["state"].isin(hidden)]
        if len(rows):
            lines += [_columns(rows), ""]
        lines.append(f"{self.slides:,} slides" + (f", {self.parts}" if self.parts else ""))
        for stage, row in self.counts.iterrows():
            states = ", ".join(f"{count:,} {state}" for state, count in row.items() if count)
            patches = self.table.loc[self.table["stage"] == stage, "patches"].sum()
            lines.append(f"{stage}: {states}; {int(patches):,} patches")
        lines += _uncertain(self.table)
        failed = self.table[self.table["state"] == "failed"]
        if len(failed):
            coded = failed.assign(code=failed["code"].astype(object).fillna(""))
            # Of slides, whichever stages failed.
            codes = coded.drop_duplicates(["slide_id", "code"])["code"].value_counts(sort=True)
            lines.append("failed, by code: " + ", ".join(f"{count:,} {code}" for code, count in codes.items()))
        if self.counts["gone"].any():
            lines.append("gone: the files of slides that failed; pathopatch clean takes the slides out")
        lines += [f"out of date: {text}" for text in self.outdated]
        return "\n".join(lines)


def status_summary(out: Path, *, check: bool = False) -> StatusSummary:
    """Return what became of the slides of a folder of ``tile`` or ``predict``, and what ``predict`` would say of them.

    Of predicted slides a file is read whose size or time changed, and with `check` every file.
    """
    listed, parts = read_ignored(out), read_parts(out)
    events = (event for event in last_events(out, "predict") if event.get("state") == "failed")
    refused = {event.get("slide_id"): event for event in events}

    def as_of_now(slide_id: str, stage: str, entry: Mapping[str, Any]) -> Mapping[str, Any]:
        if stage == "predict" and entry["state"] in FINISHED:
            entry = {**entry, **_failure(entry, refused.get(slide_id, {}), check=check)}
        return {**entry, "state": _state(out, listed.get(slide_id), slide_id, stage, entry)}

    table = status_table(out, _COLUMNS, as_of_now)
    if table.empty:
        raise InputMissingError(
            "no slide was worked on here", place=str(out), remedy="name the folder of pathopatch tile or predict"
        )
    with suppress(PathopatchError, OSError):  # not where nothing may be written
        written_ns = max((path.stat().st_mtime_ns for path in out.glob("cohort.csv")), default=0)
        # A status is renamed into its folder, which has the time of the last one. Among the files of several parts is
        # the table of the one that was copied last.
        is_old = parts.text or (out / FOLDER).stat().st_mtime_ns >= written_ns
        if "predict" in set(table["stage"]) and is_old:
            write_cohort_table(out)
    counts = table.groupby(["stage", "state"]).size().unstack(fill_value=0)
    counts = counts.reindex(columns=list(STATES), fill_value=0)
    slides = set(table["slide_id"])
    for stage, rows in table.groupby("stage"):
        due = parts.slide_ids if stage == "predict" else frozenset()
        waiting = (_not_begun(out, str(stage)) | due) - set(rows["slide_id"])  # another process may have begun some
        counts.loc[stage, "not begun"] = len(waiting)
        slides |= waiting
    outdated = tuple(_outdated(out, table))
    return StatusSummary(table=table, counts=counts, slides=len(slides), parts=parts.text, outdated=outdated)


def _failure(entry: Mapping[str, Any], refused: Mapping[str, Any], *, check: bool) -> dict[str, Any]:
    """Return why a finished slide would fail now; empty if it would be current, or its file is away.

    `refused` is its failure in the last run, empty if it had none.
    """
    known = refused or {"code": StaleArtefactError.code, "message": CHANGED}
    code, message = (str(known.get(name, "")) for name in ("code", "message"))
    files = files_of(entry)
    now = file_times(files)
    is_asked = "content" in entry and now and (check or now != entry.get("file_times"))
    is_changed = is_asked and source_content(files) != entry["content"]
    # What the last run found in the file is there no more; another model or setting still is another one.
    is_of_file = code.startswith("INPUT_") or CHANGED in message
    return {"state": "failed", "code": code, "message": message} if is_changed or not is_of_file else {}


def _state(out: Path, ignored: Mapping[str, str] | None, slide_id: str, stage: str, entry: Mapping[str, Any]) -> str:
    """Return a slide's state as it is now: its process may have ended, and its file may have been removed."""
    state = _interrupted(out, slide_id, stage, str(entry["state"]))
    if is_gone(entry):
        return "gone"
    # While a drive is away nobody can ask for the content.
    files = [text for text in files_of(entry) if os.path.lexists(file_of(text))]
    is_known = state == "failed" and stage == "predict" and is_ignored(ignored, entry.get("code", ""), files)
    return "ignored" if is_known else state


def _interrupted(out: Path, slide_id: str, stage: str, state: str) -> str:
    """Return a state, or "interrupted" where the process that was running has ended."""
    with suppress(PathopatchError):  # of locks that this user may not take
        if state == "running" and not is_locked(out, slide_lock(slide_id, stage)):
            return "interrupted"
    return state


def is_gone(entry: Mapping[str, Any]) -> bool:
    """Return whether a slide failed in a stage, and a file of it was removed since, from a folder that is there."""
    files = [str(text) for text in entry.get("files", ())] if entry.get("state") == "failed" else []
    if entry.get("code") == InputMissingError.code:
        # A file that was missing from the beginning is a wrong path in the manifest. Version 0.2 recorded a folder that
        # was away as a slide, and as its own patient.
        is_own = bool(files) and slide_id_from_path(files[0]) == entry.get("patient_id")
        return is_own and not file_of(files[0]).name.lower().endswith(SLIDE_SUFFIXES)
    # The folder that a drive is mounted on is there without the drive, and empty.
    return any(not os.path.lexists(path) and any(path.parent.glob("*")) for path in map(file_of, files))


def _not_begun(out: Path, stage: str) -> set[str]:
    """Return the slides that the last run did not come to; none if it has ended, or its log is gone."""
    waiting: set[str] = set()
    for event in last_events(out, stage):
        if event.get("event") == "begin":
            waiting = set(event.get("slide_ids", waiting))
        elif event.get("event") == "slide":
            waiting.discard(event.get("slide_id", ""))
        elif event.get("event") == "end":
            return set()
    return waiting


def _outdated(out: Path, table: pd.DataFrame) -> Iterator[str]:
    """Yield what slides that were tiled again make out of date, each with what is to be run."""
    folder = WorkFolder(out)
    tiled = table.loc[(table["stage"] == "tile") & table["state"].isin(FINISHED), "slide_id"].tolist()

    def newer(than: Path, slide_id: str) -> bool:
        tables = folder.patches(slide_id), than
        return all(path.is_file() for path in tables) and tables[0].stat().st_mtime > than.stat().st_mtime

    groups = read_stamp(folder.groups) if folder.groups.is_file() else None
    changed = [
        name
        for name in tiled
        if groups is not None
        and newer(folder.groups, name)
        and groups.inputs.get(name) != fingerprint_file(folder.patches(name))
    ]
    if changed:
        yield f"the groups, by {_named(changed)}; run groups --force, then train, evaluate and report"
    changed = []
    for name in (name for name in tiled if newer(folder.predictions(name), name)):
        stamps = read_stamp(folder.store(name)), read_stamp(folder.predictions(name))
        if len({stamp.inputs.get("tissue_mask") for stamp in stamps if stamp is not None}) > 1:
            changed.append(name)
    if changed:
        yield f"the predictions of {_named(changed)}; run predict --force, then report"


def _named(slides: Sequence[str]) -> str:
    return ", ".join(slides[:_FEW]) + (f" and {len(slides) - _FEW:,} more" if len(slides) > _FEW else "")


def _uncertain(table: pd.DataFrame) -> list[str]:
    """Return how many slides' tissue is uncertain, and which; nothing where no status says how sure it is."""
    rated = table[table["tissue_confidence"].notna()]
    if rated.empty:
        return []
    names = rated.loc[rated["tissue_confidence"].astype(float) < UNCERTAIN_BELOW, "slide_id"].tolist()
    line = f"tissue: {len(names):,} of {len(rated):,} slides uncertain"
    return [f"{line}: {_named(names)}; look at them with pathopatch tissue" if names else line]


def _columns(rows: pd.DataFrame) -> str:
    """Return rows as aligned text, empty where nothing is known, and below them the messages of failures."""
    shown = rows[list(_SHOWN)].astype(dict.fromkeys(("patches", "predicted", "tumour"), "Int64"))
    table: str = shown.astype(object).where(shown.notna(), "").to_string(index=False)
    messages = zip(rows["slide_id"], rows["message"].astype(object).fillna(""), strict=True)
    remarks = [
        Remark(slide, f"{slide}: {message}", shared_text(message, slide), names_file=True)
        for slide, message in messages
        if message
    ]
    return "\n".join([table, *([""] if remarks else []), *merged(remarks, "slide")])

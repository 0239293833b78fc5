"""Which slides does a work folder hold predictions of? A row each, and the way from an id to the slide itself."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from pathopatch.core.errors import InputMissingError, PathopatchError
from pathopatch.core.status import FINISHED, read_status, slide_ids
from pathopatch.heatmaps import FACTS
from pathopatch.review.cache import ByteCache
from pathopatch.review.slide import ReviewedSlide, heatmap_fingerprint, read_facts
from pathopatch.slides.manifest import SlideRow, read_manifest, valid_slide_id
from pathopatch.slides.pseudonyms import pseudonym

_OPEN_SLIDES = 8
_COUNTS = ("patches", "predicted", "tumour", "unreadable")
_Mark = tuple[int, ...]


class ReviewedCohort:
    """The slides of a work folder, read again where their files have changed; any thread may ask.

    Parameters
    ----------
    out : Path
        Work folder of the predictions.
    beside : ReviewedCohort, optional
        Other predictions of the same slides.
    rows : sequence of SlideRow
        Where slides lie, before what the status files say. Of slides without their names the content is compared.
    work : Path, optional
        Folder of a ``groups.parquet``; `out` if not given.
    cache : ByteCache, optional
        Where pictures are kept.
    """

    def __init__(
        self,
        out: Path,
        *,
        beside: ReviewedCohort | None = None,
        rows: Sequence[SlideRow] = (),
        work: Path | None = None,
        cache: ByteCache | None = None,
    ) -> None:
        self.out, self.beside, self.work = out, beside, work or out
        self.cache = ByteCache() if cache is None else cache
        self._located = {row.slide_id: row.source for row in rows}
        self._unnamed = list(rows)
        self._lock = threading.RLock()
        self._rows: dict[str, tuple[_Mark, dict[str, Any]]] = {}
        self._folders: _Mark = ()
        self._open: OrderedDict[str, tuple[_Mark, ReviewedSlide]] = OrderedDict()

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each slide that was predicted, or failed to be, in the order of their ids.

        Returns
        -------
        list of dict
            slide_id, patient_id, state, code, message; patches, predicted, tumour (counts); positive_share (of the
            tissue area, as in ``cohort.csv``), tissue_area_mm2, tissue_share (of the scanned part), positive_area_mm2,
            flagged_share, lowest_margin, warnings (a list), fingerprint. None where there is no such number.
        """
        with self._lock:
            self._refresh()
            return [dict(row) for _, row in self._rows.values()]

    def ids(self) -> list[str]:
        """Return the slides' ids, in order."""
        with self._lock:
            if not self._rows or self._folders != self._folders_now():
                self._refresh()
            return list(self._rows)

    def known(self, slide_id: str) -> bool:
        """Return whether there is a slide of this id: looked up, never made a path."""
        with self._lock:
            if slide_id not in self._rows and self._folders != self._folders_now():
                self._refresh()
            return slide_id in self._rows

    def open(self, slide_id: str) -> ReviewedSlide:
        """Return a slide, the same one as before unless its files have changed.

        Raises
        ------
        InputMissingError
            There is no slide of this id, or it has no heatmap.
        InputCorruptError
            What describes its heatmap cannot be read.
        """
        if not self.known(slide_id):
            raise InputMissingError("no slide of this id", place=slide_id, remedy="choose one of the cohort's table")
        with self._lock:
            mark = self._slide_mark(slide_id)
            if slide_id in self._open and self._open[slide_id][0] == mark:
                self._open.move_to_end(slide_id)
                return self._open[slide_id][1]
            opened = self._opened(slide_id)
            left = [self._open.pop(slide_id)] if slide_id in self._open else []
            self._open[slide_id] = mark, opened
            while len(self._open) > _OPEN_SLIDES:
                left.append(self._open.popitem(last=False)[1])
        for _, slide in left:  # who still reads one opens its files again
            slide.close()
        return opened

    def fingerprint(self, slide_id: str) -> str | None:
        """Return that of a slide's heatmap; None where it has none.

        Raises
        ------
        InputMissingError
            There is no slide of this id.
        """
        if not self.known(slide_id):
            raise InputMissingError("no slide of this id", place=slide_id, remedy="choose one of the cohort's table")
        with self._lock:
            found: str | None = self._row(slide_id)["fingerprint"]
            return found

    def names(self) -> tuple[str, str | None]:
        """Return what the run and the one beside it are called: their folders, and their methods where known."""
        if self.beside is None:
            return self._named(self.out.resolve().name), None
        ours, theirs = self.out.resolve(), self.beside.out.resolve()
        if ours.name == theirs.name:
            return self._named(f"{ours.parent.name}/{ours.name}"), self.beside._named(
                f"{theirs.parent.name}/{theirs.name}"
            )
        return self._named(ours.name), self.beside._named(theirs.name)

    def close(self) -> None:
        """Let go of all slides' files."""
        with self._lock:
            opened = [slide for _, slide in self._open.values()]
            self._open.clear()
        for slide in opened:
            slide.close()
        if self.beside is not None:
            self.beside.close()

    @cached_property
    def _method(self) -> str:
        """The method of the first model that says so; empty if none does."""
        for slide_id in self.ids():
            try:
                if method := read_facts(self.out, slide_id).get("method"):
                    return str(method)
            except PathopatchError:
                continue
        return ""

    def _named(self, folder: str) -> str:
        return f"{folder} ({self._method})" if self._method else folder

    def _opened(self, slide_id: str) -> ReviewedSlide:
        entry = read_status(self.out, slide_id).get("predict", {})
        beside, why_not = self._beside(slide_id)
        return ReviewedSlide(
            self.out,
            slide_id,
            source=self._source(slide_id, entry.get("source")),
            work=self.work,
            patient_id=str(entry.get("patient_id", "")),
            name=self.names()[0],
            beside=beside,
            why_no_beside=why_not,
            cache=self.cache,
        )

    def _source(self, slide_id: str, known: str | dict[str, str] | None) -> str | dict[str, str] | None:
        """Return where a slide lies: what the manifest says by its id, its status, or the manifest by its content."""
        if known is None and slide_id not in self._located:
            self._located |= {pseudonym(row): row.source for row in self._unnamed}
            self._unnamed = []
        return self._located.get(slide_id, known)

    def _beside(self, slide_id: str) -> tuple[ReviewedSlide | None, str | None]:
        """Return the same slide by the run beside, or why not."""
        if self.beside is None:
            return None, None
        name = self.names()[1] or ""
        if not self.beside.known(slide_id):
            return None, f"{name} has no slide of this id"
        try:
            found = ReviewedSlide(self.beside.out, slide_id, name=name)
        except PathopatchError as error:
            return None, f"{name}: {error.message}"
        ours, theirs = (each["stamp"]["inputs"].get("slide") for each in (read_facts(self.out, slide_id), found.facts))
        if ours != theirs:
            return None, f"{name} predicted other pixels under this id"
        return found, None

    def _folders_now(self) -> _Mark:
        return tuple(_changed(self.out / name) for name in ("status", "heatmaps"))

    def _slide_mark(self, slide_id: str) -> _Mark:
        """Return when each file that a slide is made of was written."""
        own = (
            self.out / "status" / f"{slide_id}.json",
            self.out / "heatmaps" / slide_id / FACTS,
            self.out / "predictions" / f"{slide_id}.parquet",
            self.work / "groups.parquet",
        )
        other = () if self.beside is None else self.beside._slide_mark(slide_id)
        return *(_changed(path) for path in own), *other

    def _refresh(self) -> None:
        """Read the rows of new slides and of those whose files have changed, and forget those that are gone."""
        folders = self._folders_now()
        status = set(slide_ids(self.out))
        heatmaps = set(_names(self.out / "heatmaps"))
        known: dict[str, tuple[_Mark, dict[str, Any]]] = {}
        for slide_id in sorted(each for each in status | heatmaps if valid_slide_id(each)):
            mark = self._row_mark(slide_id)
            before = self._rows.get(slide_id)
            if before is not None and before[0] == mark:
                known[slide_id] = before
            elif (any(mark) or slide_id in status) and (row := _row(self.out, slide_id)) is not None:
                known[slide_id] = mark, row
        self._rows, self._folders = known, folders

    def _row_mark(self, slide_id: str) -> _Mark:
        # Text: of a thousand slides, paths as objects would take longer than all else.
        return _changed(f"{self.out}/status/{slide_id}.json"), _changed(f"{self.out}/heatmaps/{slide_id}/{FACTS}")

    def _row(self, slide_id: str) -> dict[str, Any]:
        """Return a known slide's row, read again if its files have changed."""
        mark, row = self._rows[slide_id]
        now = self._row_mark(slide_id)
        if now != mark and (read := _row(self.out, slide_id)) is not None:
            row = read
            self._rows[slide_id] = now, row
        return row


def open_cohort(
    out: Path, *, beside: Path | None = None, manifest: Path | None = None, work: Path | None = None
) -> ReviewedCohort:
    """Return the predictions of a work folder, ready to be looked at.

    Parameters
    ----------
    out : Path
        Work folder that `predict` wrote to.
    beside : Path, optional
        Another one, of the same slides by another model.
    manifest : Path, optional
        Where the slides lie, if their status files do not say or they have moved.
    work : Path, optional
        Folder of the ``groups.parquet`` that has the labels; `out` if not given.

    Raises
    ------
    InputMissingError
        A folder holds no prediction, or `work` no groups.
    ManifestError
        The manifest is wrong.
    """
    if work is not None and not (work / "groups.parquet").is_file():
        raise InputMissingError(
            "no groups.parquet", place=str(work), remedy="run pathopatch groups there, or drop --work"
        )
    rows = () if manifest is None else read_manifest(manifest).included
    other = None if beside is None else ReviewedCohort(beside, work=work)
    found = ReviewedCohort(out, beside=other, rows=rows, work=work)
    for each in (found, other):
        if each is not None and not each.ids():
            raise InputMissingError(
                "no prediction here", place=str(each.out), remedy="run pathopatch predict, or name its output folder"
            )
    return found


def _row(out: Path, slide_id: str) -> dict[str, Any] | None:
    """Return what a slide's status and heatmap say; None if it was not predicted."""
    entry = read_status(out, slide_id).get("predict") or {}
    try:
        facts = read_facts(out, slide_id)
        mark: str | None = heatmap_fingerprint(facts)
    except InputMissingError:
        facts, mark = {}, None
    except (PathopatchError, KeyError) as error:
        facts, mark = {}, None
        entry = {**entry, "state": "failed", "code": getattr(error, "code", "INPUT_CORRUPT"), "message": str(error)}
    if not entry and not facts:
        return None
    state = entry.get("state") or ("done" if facts["counts"]["predicted"] else "done_empty")
    is_done = state in FINISHED
    known = {**facts, **entry} if is_done else {}  # numbers of an earlier run do not stand beside a failure
    counts, summary = known.get("counts", {}), known.get("summary", {})
    tissue, area = summary.get("tissue_mm2"), _scanned_mm2(facts)
    return {
        "slide_id": slide_id,
        "patient_id": str(entry.get("patient_id", "")),
        "state": state,
        "code": str(entry.get("code", "")),
        "message": str(entry.get("message", "")),
        **{name: counts.get(name) for name in _COUNTS},
        "positive_share": summary.get("positive_share"),
        "tissue_area_mm2": tissue,
        "tissue_share": tissue / area if area and tissue is not None else None,
        "positive_area_mm2": summary.get("positive_mm2"),
        "flagged_share": summary.get("flagged_share"),
        "lowest_margin": summary.get("lowest_margin"),
        "warnings": list(entry.get("warnings") or known.get("warnings") or ()),
        "fingerprint": mark,
    }


def _scanned_mm2(facts: Mapping[str, Any]) -> float | None:
    """Return the area of a slide's scanned part."""
    if "bounds_px" not in facts:
        return None
    _, _, width, height = facts["bounds_px"]
    return float(width * height) * (float(facts["mpp"]) / 1000) ** 2


def _names(folder: Path) -> list[str]:
    """Return the names in a folder; none if it is not there."""
    try:
        return os.listdir(folder)  # noqa: PTH208 - a thousand paths as objects cost more than the listing
    except (FileNotFoundError, NotADirectoryError):
        return []


def _changed(path: Path | str) -> int:
    """Return when a file or folder was written, ns; 0 if it is not there."""
    try:
        return os.stat(path).st_mtime_ns  # noqa: PTH116 - as in `_names`
    except (FileNotFoundError, NotADirectoryError):
        return 0

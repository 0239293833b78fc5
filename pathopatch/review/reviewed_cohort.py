"""Open the predictions and decisions of a work folder: its list of slides, and each slide by its id."""

from __future__ import annotations

import getpass
import os
import shlex
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import field_validator

from pathopatch.core.config import Config
from pathopatch.core.config.base import parse
from pathopatch.core.config.study import read_toml
from pathopatch.core.errors import InputMissingError, PathopatchError
from pathopatch.core.files import read_json
from pathopatch.core.status import FINISHED, listed_status, read_status, slide_ids
from pathopatch.core.work_folder import WorkFolder
from pathopatch.groups.decisions.decision import RecordedDecision, is_own_class
from pathopatch.groups.decisions.readers import reader_name
from pathopatch.groups.decisions.table import read_decisions
from pathopatch.heatmaps import FACTS
from pathopatch.heatmaps.model_record import read_model_record
from pathopatch.review.decisions import DecisionLog
from pathopatch.review.reviewed_slide import (
    ByteCache,
    ReviewedSlide,
    Source,
    describe_model,
    heatmap_fingerprint,
    read_checked_facts,
    with_distinct_names,
)
from pathopatch.slides.manifest import SlideRow, pseudonym, read_manifest
from pathopatch.slides.slide_paths import valid_slide_id

_OPEN_SLIDES = 8
_KNOWN_ROWS = 50_000  # some 2 kB each
_LISTED_LEFT_OUT = 500
_COUNTS = ("patches", "predicted", "tumour", "unreadable")
_Mtimes = tuple[int, ...]
"""When files were written, ns: other times mean that what was read of them is outdated."""


class ReviewedCohort:
    """The predicted slides of a work folder, read again where files have changed; safe to share among threads.

    `beside` has the same slides by the run to compare with. `rows` say where slides lie, and take precedence over their
    status files; slides of deidentified predictions are found by their content. `work` is the folder of a
    ``groups.parquet``, `out` by default.
    """

    def __init__(
        self,
        out: Path,
        *,
        beside: ReviewedCohort | None = None,
        rows: Sequence[SlideRow] = (),
        work: Path | None = None,
    ) -> None:
        self.out, self.beside, self.work = out, beside, work or out
        self.cache = ByteCache()
        self._manifest_rows = tuple(rows)
        self._lock = threading.Lock()  # on the open slides
        self._open: OrderedDict[str, tuple[_Mtimes, ReviewedSlide]] = OrderedDict()

    def rows(self) -> list[dict[str, Any]]:
        """Return a row, see `_row`, for each slide whose prediction was attempted, in the order of their ids."""
        return [dict(row) for name in self._names() if (row := self._row(name)) is not None]

    def ids(self) -> list[str]:
        """Return the slides' ids, in order."""
        return [row["slide_id"] for row in self.rows()]

    def has_slide(self, slide_id: str) -> bool:
        """Return whether there is a slide of this id; any text is safe, since it never becomes a path."""
        return slide_id in self._names() and self._row(slide_id) is not None

    def open(self, slide_id: str) -> ReviewedSlide:
        """Return a slide, the same object until its files change; InputMissingError if there is none, or no heatmap."""
        self._require_row(slide_id)
        with self._lock:
            mtimes = self._slide_mtimes(slide_id)
            if slide_id in self._open and self._open[slide_id][0] == mtimes:
                self._open.move_to_end(slide_id)
                return self._open[slide_id][1]
            slide = self._reviewed_slide(slide_id)
            dropped = [self._open.pop(slide_id)] if slide_id in self._open else []
            self._open[slide_id] = mtimes, slide
            while len(self._open) > _OPEN_SLIDES:
                dropped.append(self._open.popitem(last=False)[1])
        # Outside the lock, since closing waits for whoever reads. A thread that still uses a closed slide reopens it.
        for _, slide_to_close in dropped:
            slide_to_close.close()
        return slide

    def fingerprint(self, slide_id: str) -> str | None:
        """Return the fingerprint of a slide's heatmap, None where it has none; InputMissingError for no slide."""
        fingerprint: str | None = self._require_row(slide_id)["fingerprint"]
        return fingerprint

    def models(self) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        """Return the model of the first readable heatmap, and that of the run beside, see `describe_model`."""
        other = None if self.beside is None else self.beside._model
        return (self._model, other) if self._model is None or other is None else with_distinct_names(self._model, other)

    def model_name(self, slide_id: str) -> str:
        """Return the name of the model that made a slide's heatmap; "" without one."""
        self._require_row(slide_id)
        try:
            return str(describe_model(self.out, read_checked_facts(self.out, slide_id))["name"])
        except InputMissingError:
            return ""

    def left_out(self) -> dict[str, Any]:
        """Return the ``count`` of files not predicted, and ``files``: file, reason and a command, or "" if unsafe."""
        try:
            reasons = read_json(WorkFolder(self.out).left_out)
        except PathopatchError:  # none, or damaged: it is only told of
            reasons = {}
        files = []
        for file, reason in islice(reasons.items(), _LISTED_LEFT_OUT):
            command = f"pathopatch info {shlex.quote(file)}" if file.isprintable() else ""
            files.append({"file": file, "reason": str(reason), "command": command})
        return {"count": len(reasons), "files": files}

    def card(self, fingerprint: str) -> str:
        """Return the card of a model of this run or of the one beside; InputMissingError if there is none."""
        for run in filter(None, (self, self.beside)):
            members = read_model_record(run.out, fingerprint).get("members", [])
            if cards := [str(member["card"]) for member in members if member.get("card")]:
                return "\n\n---\n\n".join(cards)
        raise InputMissingError("there is no card of this model", remedy="predict again, which writes it beside")

    def close(self) -> None:
        """Close all slides' files."""
        with self._lock:
            slides = [slide for _, slide in self._open.values()]
            self._open.clear()
        for slide in slides:
            slide.close()
        if self.beside is not None:
            self.beside.close()

    def _require_row(self, slide_id: str) -> dict[str, Any]:
        row = self._row(slide_id) if slide_id in self._names() else None
        if row is None:
            raise InputMissingError("no slide of this id", place=slide_id, remedy="choose one of the cohort's table")
        return row

    @cached_property
    def _model(self) -> dict[str, Any] | None:
        """The model of the first readable heatmap; None if there is none."""
        for slide_id in self.ids():
            try:
                return describe_model(self.out, read_checked_facts(self.out, slide_id))
            except (PathopatchError, KeyError):
                continue
        return None

    def _reviewed_slide(self, slide_id: str) -> ReviewedSlide:
        entry = listed_status(self.out, slide_id).get("predict", {})
        beside, why_not = self._slide_beside(slide_id)
        return ReviewedSlide(
            self.out,
            slide_id,
            source=self._source(slide_id),
            work=self.work,
            patient_id=str(entry.get("patient_id", "")),
            beside=beside,
            why_no_beside=why_not,
            cache=self.cache,
        )

    def _source(self, slide_id: str) -> Source | None:
        """Return where a slide lies: by manifest, else status, else the manifest's slide of the same content."""
        by_id = {row.slide_id: row.source for row in self._manifest_rows}
        source: Source | None = by_id.get(slide_id) or read_status(self.out, slide_id).get("predict", {}).get("source")
        return source or self._by_pseudonym.get(slide_id)

    @cached_property
    def _by_pseudonym(self) -> dict[str, Source]:  # pseudonyms take a look into each file
        return {pseudonym(row): row.source for row in self._manifest_rows}

    def _slide_beside(self, slide_id: str) -> tuple[ReviewedSlide | None, str | None]:
        """Return the same slide by the other run, or the reason why there is none."""
        if self.beside is None:
            return None, None
        other = self.models()[1]
        name = "the other run" if other is None else other["name"]
        if not self.beside.has_slide(slide_id):
            return None, f"{name} has no slide of this id"
        try:
            slide = ReviewedSlide(self.beside.out, slide_id)
        except PathopatchError as error:
            return None, f"{name}: {error.message}"
        # Two runs may have given one id to two slides.
        if (
            read_checked_facts(self.out, slide_id)["stamp"]["inputs"]["slide"]
            != slide.facts["stamp"]["inputs"]["slide"]
        ):
            return None, f"{name} predicted other pixels under this id"
        return slide, None

    def _slide_mtimes(self, slide_id: str) -> _Mtimes:
        """Return when each file that a slide is read from was written."""
        own = (
            self.out / "status" / f"{slide_id}.json",
            WorkFolder(self.out).heatmap(slide_id) / FACTS,
            WorkFolder(self.out).predictions(slide_id),
            WorkFolder(self.work).groups,
        )
        other = () if self.beside is None else self.beside._slide_mtimes(slide_id)
        return *(_mtime_ns(path) for path in own), *other

    def _names(self) -> dict[str, None]:
        # The times are taken before the listing: a slide that appears meanwhile is found by the next one.
        return _slide_names(self.out, *(_mtime_ns(self.out / name) for name in ("status", "heatmaps")))

    def _row(self, slide_id: str) -> dict[str, Any] | None:
        # Text: of a thousand slides, Path objects would take longer than all else.
        files = f"{self.out}/status/{slide_id}.json", f"{self.out}/heatmaps/{slide_id}/{FACTS}"
        return _row(self.out, slide_id, *map(_mtime_ns, files))


def open_cohort(
    out: Path, *, beside: Path | None = None, manifest: Path | None = None, work: Path | None = None
) -> ReviewedCohort:
    """Return the predictions of a work folder, ready to be shown; see `open_review`."""
    if work is not None and not WorkFolder(work).groups.is_file():
        raise InputMissingError(
            "no groups.parquet", place=str(work), remedy="run pathopatch groups there, or drop --work"
        )
    rows = () if manifest is None else read_manifest(manifest, distinct_patients=None).included
    other = None if beside is None else ReviewedCohort(beside, work=work)
    cohort = ReviewedCohort(out, beside=other, rows=rows, work=work)
    for run in (cohort, other):
        if run is not None and not run.ids():
            raise InputMissingError(
                "no prediction here", place=str(run.out), remedy="run pathopatch predict, or name its output folder"
            )
    return cohort


class ReviewConfig(Config):
    """``review.toml`` in a folder of predictions."""

    region_classes: tuple[str, ...] = ()
    """Classes of regions beside the built-in ones, in lower case."""

    @field_validator("region_classes")
    @classmethod
    def _are_names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not is_own_class(name) or names.count(name) > 1:
                raise ValueError(
                    f"{name!r} is no name of a class: give each once, in lower case, of 40 letters, digits and spaces "
                    "at most, other than the built-in verdicts"
                )
        return names


@dataclass(frozen=True, kw_only=True)
class Review:
    """What the page answers from: predictions, decisions, settings, and the reviewer who decides on it."""

    cohort: ReviewedCohort
    decisions: DecisionLog
    reviewer: str
    config: ReviewConfig = ReviewConfig()

    def rows(self) -> list[RecordedDecision]:
        """Return the rows of the log that the reviewer may see."""
        return self.decisions.rows(self.reviewer)


@contextmanager
def open_review(
    out: Path,
    *,
    reviewer: str | None = None,
    beside: Path | None = None,
    manifest: Path | None = None,
    work: Path | None = None,
    imported: Path | None = None,
    blinded: bool | None = None,
) -> Iterator[Review]:
    """Yield the predictions and decisions of a folder that ``predict`` wrote, and close them at the end.

    `reviewer` decides, by default the user. `beside` has predictions of the same
    slides by another model. `manifest` says where slides lie, and takes precedence over their status files. `work`, by
    default `out`, has labels and groups. Decisions in the file `imported` are merged first. `blinded` says whether
    reviewers read independently, from now on; None leaves that as it is.
    ``review.toml`` in `out`, if there is one, has settings, see `ReviewConfig`.

    Raises
    ------
    InputMissingError
        A file or folder is missing, or there is no prediction in `out`.
    InputUnsupportedError
        `out` cannot be written, or a decision to import or a setting is refused.
    InputCorruptError
        A file cannot be read.
    """
    settings = out / "review.toml"
    config = parse(ReviewConfig, read_toml(settings), place=str(settings)) if settings.is_file() else ReviewConfig()
    with closing(open_cohort(out, beside=beside, manifest=manifest, work=work)) as cohort:
        log = DecisionLog(out / "review.sqlite", fingerprint_of=lambda slide_id: cohort.fingerprint(slide_id) or "")
        with log as decisions:
            if imported is not None:
                decisions.merge(read_decisions(imported))
            if reviewer is None:
                try:
                    reviewer = getpass.getuser()
                except (KeyError, OSError):  # some containers have no name for their user
                    reviewer = "reviewer"
            reviewer = decisions.reader(reader_name(reviewer))
            if blinded is not None:
                decisions.set_blinded(blinded, reviewer)
            yield Review(cohort=cohort, decisions=decisions, reviewer=reviewer, config=config)


@lru_cache(maxsize=_KNOWN_ROWS)
def _row(out: Path, slide_id: str, *mtimes: int) -> dict[str, Any] | None:
    """Return a slide's row from its status and heatmap of these times; None if its prediction was never attempted.

    Shares are of the tissue area, as in ``cohort.csv``, but tissue_share is of the scanned part. None is unknown.
    ``written`` is when the newest of the files was, ms from the epoch.
    """
    entry = listed_status(out, slide_id).get("predict") or {}
    facts: dict[str, Any] = {}
    fingerprint, model = None, ""
    try:
        facts = dict(read_checked_facts(out, slide_id))
        fingerprint, model = heatmap_fingerprint(facts), str(facts["stamp"]["inputs"].get("model", ""))[:16]
    except InputMissingError:
        pass
    except (PathopatchError, KeyError) as error:
        facts = {}
        entry = {**entry, "state": "failed", "code": getattr(error, "code", "INPUT_CORRUPT"), "message": str(error)}
    if not entry and not facts:
        return None
    state = entry.get("state") or ("done" if facts["counts"]["predicted"] else "done_empty")
    # Numbers of an earlier run must not be shown beside the failure of a later one.
    numbers = {**facts, **entry} if state in FINISHED else {}
    counts, summary = numbers.get("counts", {}), numbers.get("summary", {})
    tissue_mm2 = summary.get("tissue_mm2")
    scanned_mm2 = summary.get("scanned_mm2")
    tissue_share = tissue_mm2 / scanned_mm2 if scanned_mm2 and tissue_mm2 is not None else None
    return {
        "slide_id": slide_id,
        "patient_id": str(entry.get("patient_id", "")),
        "written": max(mtimes) // 10**6,
        "state": state,
        "code": str(entry.get("code", "")),
        "message": str(entry.get("message", "")),
        "command": str(entry.get("command", "")),
        **{name: counts.get(name) for name in _COUNTS},
        "positive_share": summary.get("positive_share"),
        "tissue_area_mm2": tissue_mm2,
        "tissue_share": tissue_share,
        "positive_area_mm2": summary.get("positive_mm2"),
        "flagged_share": summary.get("flagged_share"),
        "lowest_margin": summary.get("lowest_margin"),
        "leakage": str(numbers.get("leakage", "")),
        "warnings": list(entry.get("warnings") or numbers.get("warnings") or ()),
        "fingerprint": fingerprint,
        "model": model,
    }


@lru_cache(maxsize=8)
def _slide_names(out: Path, *_mtimes: int) -> dict[str, None]:
    """Return the slides with a status or a heatmap, in order, in folders of these times."""
    heatmaps = out / "heatmaps"
    # A thousand paths as objects cost more than the listing.
    with_heatmap = os.listdir(heatmaps) if heatmaps.is_dir() else []  # noqa: PTH208
    return dict.fromkeys(sorted(filter(valid_slide_id, {*slide_ids(out), *with_heatmap})))


def _mtime_ns(path: Path | str) -> int:
    """Return when a file or folder was written, ns; 0 if it is not there."""
    try:
        return os.stat(path).st_mtime_ns  # noqa: PTH116 - as in `_slide_names`
    except OSError:  # it is not there, or a link that leads nowhere
        return 0

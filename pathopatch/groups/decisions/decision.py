"""A reviewer's decision on a slide, a patch or a region, the rules by which one of many counts, and what it changes.

A reviewer's later verdict on the same slide or patch replaces the own earlier one. Differing verdicts of two reviewers
are a dispute, until a further verdict settles it. A row with the verdict ``undo`` withdraws another row; then the one
before that counts again.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, ClassVar, Literal, NamedTuple

import pandas as pd

from pathopatch.core.errors import InputMissingError, InputUnsupportedError, LabelConflictError
from pathopatch.core.text import pluralize
from pathopatch.groups.decisions.readers import reader_name
from pathopatch.slides.slide_paths import valid_slide_id

SLIDE_VERDICTS = ("accept", "reject", "flag")
PATCH_VERDICTS = ("tumour", "non-tumour", "unsure")
REMOVED = "removed"
"""Verdict on a region that somebody drew and that counts no more."""
TISSUE_VERDICTS = ("missed tissue", "not tissue")
"""Verdicts on a region that correct the tissue that was found."""
LENGTH = "length"
"""Verdict on a line that was measured, in place of a region."""
VERDICTS = {
    "slide": SLIDE_VERDICTS,
    "patch": PATCH_VERDICTS,
    "region": ("tumour", "non-tumour", *TISSUE_VERDICTS, LENGTH, REMOVED),
}
"""Verdicts by what is decided on."""
UNDO = "undo"
"""Verdict of a row that withdraws another row."""
Subject = tuple[str, int | None, int | None, str]
"""What is decided on, see `Decision.subject`."""
_RESERVED = {UNDO, *(verdict for verdicts in VERDICTS.values() for verdict in verdicts)}
_CLASS = re.compile(r"\w[\w /+.()-]{0,39}")

DISPUTED = "disputed"
"""What stands where reviewers differ and nobody settled it."""
_LABELS = {"tumour": 1, "non-tumour": 0, "unsure": -1}  # -1: not labelled
_MAX_CHARACTERS = {
    **{"reviewer": 200, "run": 500, "fingerprint": 128, "reason": 1000, "comment": 10_000},
    "region": 32_000,  # cells of a spreadsheet hold 32,767
    "settles": 40,
}
_SQLITE_MAX_INTEGER = 2**63 - 1
_MAX_LISTED_DISPUTES = 50
_TWO_IDS = re.compile(r"[1-9]\d* [1-9]\d*", re.ASCII)
_WKT = re.compile(r"POLYGON \(\((\d{1,8} \d{1,8}(?:, \d{1,8} \d{1,8}){3,})\)\)", re.ASCII)
_LINE = re.compile(r"LINESTRING \((\d{1,8} \d{1,8}), (?!\1\))(\d{1,8} \d{1,8})\)", re.ASCII)
_FORM = "write POLYGON ((x y, x y, x y, x y)) in whole level-0 px, the first point again at the end"


def is_own_class(name: str) -> bool:
    """Return whether a region may have this class beside the built-in ones: in lower case, and no other verdict."""
    return bool(_CLASS.fullmatch(name)) and name == name.casefold().strip() and name not in _RESERVED


@dataclass(frozen=True, kw_only=True)
class Decision:
    """One person's verdict on a slide, a patch, or a region that was drawn.

    Raises
    ------
    InputUnsupportedError
        A value is not allowed; ``place`` names the column.
    """

    further_verdicts: ClassVar[tuple[str, ...]] = ()

    slide_id: str
    verdict: str  # one of those of slides, with x and y of patches, with a region of regions
    reviewer: str  # who decides
    x: int | None = None  # the patch's top-left corner, level-0 px; None for the whole slide
    y: int | None = None
    reason: str = ""
    comment: str = ""
    fingerprint: str = ""  # of the heatmap that the reviewer saw; "" if none
    run: str = ""  # the training run whose model made that heatmap
    threshold: float | None = None  # probability above which patches were shown as tumour, in [0, 1]
    region: str = ""  # outline of a drawn region, see `region_polygon`; "" for a slide or a patch
    settles: str = ""  # of an adjudication the ids of the two differing verdicts, as "3 7"; else ""

    def __post_init__(self) -> None:
        if not valid_slide_id(self.slide_id):
            raise _refused("slide_id", self.slide_id, "no slide id", "name a slide as the predictions do")
        for name, value in (("x", self.x), ("y", self.y)):
            is_place = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _SQLITE_MAX_INTEGER
            if value is not None and not is_place:
                raise _refused(name, value, "no level-0 px", "give the patch's corner, whole and not negative")
        if (self.x is None) != (self.y is None):
            raise _refused("y", self.y, "only one of x and y is given", "give both, or none for the whole slide")
        if self.region and self.x is not None:
            raise _refused("region", self.x, "a region has no x and y", "give the outline, or a patch's corner")
        allowed = (*VERDICTS[self.kind], *self.further_verdicts)
        is_own = self.kind == "region" and isinstance(self.verdict, str) and is_own_class(self.verdict)
        if self.verdict not in allowed and not is_own:
            raise _refused("verdict", self.verdict, f"no verdict on a {self.kind}", f"write {', '.join(allowed)}")
        for name, longest in _MAX_CHARACTERS.items():
            text = getattr(self, name)
            if not isinstance(text, str):
                raise _refused(name, text, "no text", "write text")
            if len(text) > longest:
                raise _refused(name, f"{text[:20]}…", f"{len(text)} characters", f"use {longest} at most")
            # SQLite ends text at a zero byte, and a lone surrogate cannot be encoded as UTF-8.
            if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
                raise _refused(name, text, "characters that no file holds", "write plain text")
        if self.region:
            is_line = region_polygon(self.region).geom_type == "LineString"
            if is_line != (self.verdict == LENGTH) and self.verdict not in (REMOVED, *self.further_verdicts):
                raise _refused("region", self.region[:20], f"no outline of {self.verdict!r}", _FORM)
        if self.settles and (self.kind == "region" or not _TWO_IDS.fullmatch(self.settles)):
            raise _refused(
                "settles", self.settles, "no ids of two verdicts on a slide or patch", "write two ids, as 3 7"
            )
        object.__setattr__(self, "reviewer", reader_name(self.reviewer, place="reviewer"))
        is_number = isinstance(self.threshold, int | float) and not isinstance(self.threshold, bool)
        if self.threshold is not None and not (is_number and 0 <= self.threshold <= 1):
            raise _refused("threshold", self.threshold, "no probability", "give a number from 0 to 1, or nothing")

    @property
    def kind(self) -> Literal["slide", "patch", "region"]:
        """What is decided on."""
        if self.region:
            return "region"
        return "slide" if self.x is None else "patch"

    @property
    def subject(self) -> Subject:
        """The slide's id, of a patch its corner, and of a region its outline."""
        return self.slide_id, self.x, self.y, self.region

    @property
    def settled_ids(self) -> tuple[int, ...]:
        """Ids of the two verdicts that an adjudication settles; none of any other decision."""
        return tuple(map(int, self.settles.split()))


@dataclass(frozen=True, kw_only=True)
class RecordedDecision(Decision):
    """A decision as the log holds it."""

    further_verdicts: ClassVar[tuple[str, ...]] = (UNDO,)

    id: int  # number of the row in the whole log, from 1 on
    made: str  # when, in UTC, as `utc_text` writes it: text sorts as time does
    undoes: int | None = None  # id of the row that this one withdraws
    revision: int = 0  # number of the row among those of its slide, from 1 on
    sorted_as: str = ""  # the time that it counts from, where the clock was behind an earlier row; else ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.verdict == UNDO) != (self.undoes is not None):
            raise _refused("undoes", self.undoes, f"it goes with the verdict {UNDO}", "name the row it withdraws")

    @property
    def order(self) -> tuple[str, int]:
        """Sorts rows by time; those of one time by id."""
        return self.sorted_as or self.made, self.id

    def to_dict(self) -> dict[str, Any]:
        """Return the row as plain values for JSON."""
        return dict(vars(self))  # `asdict` copies each value, which took a second for 10,000 rows


FIELDS = tuple(column.name for column in fields(RecordedDecision))
"""Names of a row's values, as the log has them."""


class Standing(NamedTuple):
    """What stands on one slide, patch or region."""

    decision: RecordedDecision  # the latest; of a settled dispute, what settled it
    readings: tuple[RecordedDecision, ...]  # each reviewer's latest, by name; no adjudication; none of a region
    dispute: tuple[RecordedDecision, ...]  # two readings that differ and that nobody settled; else none
    readers: frozenset[tuple[str, str]]  # who gave a verdict, or settled one, on which heatmap, and did not withdraw it


class StandingDecisions:
    """What stands of decisions, brought up to date as rows are added; those of one time are sorted by id.

    Of verdicts on slides those on the heatmap of this `fingerprint` are compared; without one, as for training, all,
    whichever heatmap was shown. Labels of patches are about the tissue. An adjudication gives way to another one, or to
    a verdict on another heatmap, alone; where that one differs, the dispute is open again. Whoever settled a dispute
    weighed the two verdicts named: a reading that repeats one of them opens no new dispute.
    """

    def __init__(self, rows: Iterable[RecordedDecision] = (), *, fingerprint: str | None = None) -> None:
        self.fingerprint = fingerprint
        self.by_subject: dict[Subject, Standing] = {}
        self._rows: dict[Subject, list[RecordedDecision]] = defaultdict(list)
        self._subject_of: dict[int | None, Subject] = {}
        self._withdrawn: set[int | None] = set()
        self.add(rows)

    def add(self, rows: Iterable[RecordedDecision]) -> None:
        """Add rows, in any order; an undo comes with or after what it withdraws."""
        rows = list(rows)
        for row in rows:
            self._rows[row.subject].append(row)
            self._subject_of[row.id] = row.subject
            self._withdrawn.add(row.undoes)
        for subject in self.subjects(rows):
            self._rows[subject].sort(key=lambda row: row.order)
            valid = [row for row in self._rows[subject] if row.verdict != UNDO and row.id not in self._withdrawn]
            self.by_subject.pop(subject, None)
            if valid:
                self.by_subject[subject] = self._standing(valid)

    def subjects(self, rows: Iterable[RecordedDecision]) -> list[Subject]:
        """Return on what rows that were added may have changed the decision."""
        undone = ((row.subject, self._subject_of.get(row.undoes, row.subject)) for row in rows)
        return list(dict.fromkeys(subject for both in undone for subject in both))

    def by_time(self) -> list[Standing]:
        """Return what stands on each slide, patch and region, by the time of the decision."""
        return sorted(self.by_subject.values(), key=lambda one: one.decision.order)

    def _standing(self, valid: Sequence[RecordedDecision]) -> Standing:
        """Return what stands of a subject's rows that nobody withdrew, by time."""
        decision = valid[0]
        is_patch = decision.kind == "patch"
        for row in valid:
            if row.settles or not decision.settles or not (is_patch or row.fingerprint == decision.fingerprint):
                decision = row
        readers = frozenset((row.reviewer.strip(), row.fingerprint) for row in valid)
        if decision.kind == "region":
            return Standing(decision, (), (), readers)
        own = {row.reviewer.strip(): row for row in valid if not row.settles}
        readings = tuple(own[name] for name in sorted(own))
        is_of_tissue = is_patch or self.fingerprint is None  # whichever heatmap was shown
        comparable = [row for row in readings if is_of_tissue or row.fingerprint == self.fingerprint]
        settling = [row for row in valid if row.settles and (is_of_tissue or row.fingerprint == self.fingerprint)]
        verdict_of = {row.id: row.verdict for row in self._rows[decision.subject]}
        weighed: set[str | None] = set()
        for row in settling:
            # One click on a later heatmap must not turn round what was settled.
            if not is_of_tissue or settling[-1].verdict == decision.verdict:
                weighed |= {row.verdict, *map(verdict_of.get, row.settled_ids)}
        for one in comparable:
            other = next((row for row in comparable if row.verdict != one.verdict), None)
            if other is not None and one.verdict not in weighed:
                return Standing(decision, readings, tuple(sorted((one, other), key=lambda row: row.id)), readers)
        return Standing(decision, readings, (), readers)

    def stands(self, row: RecordedDecision) -> bool:
        """Return whether a row counts, or is its reviewer's latest, and was not withdrawn."""
        one = self.by_subject.get(row.subject)
        return one is not None and row.id in {each.id for each in (one.decision, *one.readings)}


def latest_decision(rows: Sequence[RecordedDecision], reviewer: str) -> RecordedDecision | None:
    """Return the row of one slide that an undo by a reviewer withdraws next: their own latest; None if there is none.

    It may be one that somebody else's later verdict replaced: it still counts where two reviewers are compared.
    """
    withdrawn = {row.undoes for row in rows}
    own = [row for row in rows if row.reviewer.strip() == reviewer.strip() and row.verdict != UNDO]
    return max((row for row in own if row.id not in withdrawn), key=lambda row: row.order, default=None)


def content_key(row: RecordedDecision) -> tuple[object, ...]:
    """Return everything but the row's place in its log, which differs between two logs of the same decision."""
    return tuple(value for name, value in row.to_dict().items() if name not in ("id", "revision", "sorted_as"))


def utc_text(moment: datetime) -> str:
    """Return a time, given with its zone, in UTC to the microsecond: text sorts as time does."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


@lru_cache(maxsize=4096)  # every reading of a log checks its rows
def region_polygon(text: str) -> Any:
    """Return the shapely Polygon of a region, or the LineString of a length, level-0 px of the whole slide.

    The text is ``POLYGON ((x y, ...))``: one closed ring of whole numbers that does not cross or touch itself; or
    ``LINESTRING (x y, x y)``.

    Raises
    ------
    InputUnsupportedError
        It is no such ring; ``place`` is "region".
    """
    import shapely

    if _LINE.fullmatch(text):
        return shapely.from_wkt(text)
    form = _WKT.fullmatch(text)
    if form is None:
        raise _no_region(f"no outline of at least three points: {text[:40]!r}", _FORM)
    points = [tuple(map(int, point.split())) for point in form[1].split(", ")]
    if points[0] != points[-1]:
        raise _no_region("the outline is not closed", _FORM)
    if len(set(points)) < 3:
        raise _no_region("an outline of fewer than three places", "draw a larger region")
    polygon = shapely.Polygon(points)
    if not shapely.is_valid(polygon):
        place = re.search(r"\[(\S+) (\S+)\]", shapely.is_valid_reason(polygon))
        near = f" near {float(place[1]):.0f}, {float(place[2]):.0f} px" if place else ""
        raise _no_region(
            f"the outline crosses or touches itself{near}", "draw it again without crossing, or draw two regions"
        )
    return polygon


def _no_region(message: str, remedy: str) -> InputUnsupportedError:
    return InputUnsupportedError(message, place="region", remedy=remedy)


def _refused(column: str, value: object, message: str, remedy: str) -> InputUnsupportedError:
    return InputUnsupportedError(f"{value!r}: {message}", place=column, remedy=remedy)


@dataclass(frozen=True, eq=False)
class AppliedDecisions:
    """Patches after the decisions, and what they changed.

    ``summary`` holds plain values for JSON. ``rejected``, ``accepted``, ``flagged``: slides. ``patches_rejected``: how
    many went with them. ``relabelled``: patches by verdict. ``reviewers``: of the decisions that apply here.
    ``elsewhere``: slides with decisions that are not here. ``regions``: how many count; they change nothing here.
    ``disputed``: slides and patches that were left out, each with its verdicts.
    """

    patches: pd.DataFrame  # without those of rejected and disputed slides, and disputed ones; label as decided
    summary: dict[str, Any]
    changed_patch_ids: frozenset[str]  # patches whose label differs from before


def apply_decisions(
    patches: pd.DataFrame, rows: Sequence[RecordedDecision], *, leave_out_disputed: bool = False
) -> AppliedDecisions:
    """Return the patches without rejected slides, with the labels that reviewers gave.

    A decision counts whoever made it and whichever heatmap was shown: it is about the tissue. Those on slides that are
    not among the patches (columns patch_id, slide_id, label) are counted only, and so are regions: those are
    annotations for ``tile``. Disputed slides and patches are refused, or left out.

    Raises
    ------
    LabelConflictError
        Reviewers differ on one of the slides or patches, and nobody settled it; lists the verdicts.
    InputMissingError
        A relabelled patch of one of the slides does not exist: it was predicted on another grid.
    InputUnsupportedError
        Every slide was rejected, or the patches' labels have names of their own.
    """
    if "label_name" in patches and any(row.kind == "patch" for row in rows):
        raise InputUnsupportedError(
            "the labels of these patches are not tumour and non-tumour",
            place="label_name",
            remedy="correct the list of ready patches itself",
        )
    slide_ids = patches["slide_id"].astype(str)
    here = set(slide_ids)
    standing = StandingDecisions(rows).by_time()
    current = [one.decision for one in standing]
    regions = [row for row in current if row.kind == "region" and row.verdict not in (LENGTH, REMOVED)]
    standing_here = [one for one in standing if one.decision.slide_id in here and one.decision.kind != "region"]
    slides_by_verdict = {
        verdict: sorted(
            one.decision.slide_id
            for one in standing_here
            if one.decision.kind == "slide" and one.decision.verdict == verdict and not one.dispute
        )
        for verdict in SLIDE_VERDICTS
    }
    rejected = set(slides_by_verdict["reject"])
    disputed = [one for one in standing_here if one.dispute and one.decision.slide_id not in rejected]
    if disputed and not leave_out_disputed:
        raise _disputed(disputed)
    disputed_slides = {one.decision.slide_id for one in disputed if one.decision.kind == "slide"}
    if rejected | disputed_slides == here:
        raise InputUnsupportedError(
            f"all {len(here)} slides were rejected{' or are disputed' if disputed_slides else ''}",
            place="decisions",
            remedy="accept some, or add slides",
        )
    remaining = patches[~slide_ids.isin(rejected | disputed_slides)].reset_index(drop=True)
    verdicts = {
        f"{one.decision.slide_id}@{one.decision.x},{one.decision.y}": DISPUTED if one.dispute else one.decision.verdict
        for one in standing_here
        if one.decision.kind == "patch" and one.decision.slide_id not in rejected | disputed_slides
    }
    # A reviewer's work on patches that do not exist would be lost silently.
    if missing := sorted(set(verdicts) - set(remaining["patch_id"].astype(str))):
        shown = ", ".join(missing[:3]) + (" …" if len(missing) > 3 else "")
        raise InputMissingError(
            f"{len(missing)} relabelled patches are not among those that were tiled: {shown}",
            place="decisions, columns x and y",
            remedy="predict with the patch and stride of the work folder, and decide there; or remove these rows",
        )
    remaining = remaining[remaining["patch_id"].map(verdicts) != DISPUTED].reset_index(drop=True)
    decided = remaining["patch_id"].map(verdicts).map(_LABELS)
    label = decided.fillna(remaining["label"]).astype(remaining["label"].dtype)
    counts = Counter(verdicts.values())
    summary = {
        "reviewers": sorted({row.reviewer for one in standing_here for row in (one.decision, *one.readings)}),
        "rejected": slides_by_verdict["reject"],
        "accepted": slides_by_verdict["accept"],
        "flagged": slides_by_verdict["flag"],
        "patches_rejected": int(slide_ids.isin(rejected).sum()),
        "relabelled": {verdict: counts[verdict] for verdict in PATCH_VERDICTS},
        "regions": len(regions),
        "elsewhere": sorted({row.slide_id for row in current} - here),
        "disputed": [verdicts_text(one) for one in disputed],
    }
    changed = frozenset(remaining.loc[label != remaining["label"], "patch_id"].astype(str))
    return AppliedDecisions(remaining.assign(label=label), summary, changed)


def verdicts_text(standing: Standing) -> str:
    """Return a slide or patch and what each reviewer decided, as ``slide s1 (Ada: accept, Ben: reject)``."""
    row = standing.decision
    name = f"slide {row.slide_id}" if row.kind == "slide" else f"patch {row.slide_id}@{row.x},{row.y}"
    return f"{name} ({', '.join(f'{one.reviewer}: {one.verdict}' for one in standing.readings)})"


def _disputed(disputed: Sequence[Standing]) -> LabelConflictError:
    listed = [verdicts_text(one) for one in disputed[:_MAX_LISTED_DISPUTES]]
    more = [f"and {len(disputed) - len(listed)} more"] if len(listed) < len(disputed) else []
    return LabelConflictError(
        f"reviewers differ, and nobody settled it: {'; '.join([*listed, *more])}",
        place="decisions",
        remedy="settle each on the review page (Disputed), or decide anew on the present map, and export again; "
        "or run groups with --disputes leave-out",
    )


def decision_summary(summary: Mapping[str, Any]) -> str:
    """Return ``decided`` of ``groups/audit.json``, what decisions changed, as one sentence."""
    rejected, reviewers = summary["rejected"], ", ".join(summary["reviewers"]) or "nobody"
    slides = f"slides rejected: {', '.join(rejected)} ({pluralize(summary['patches_rejected'], 'patch')})"
    relabelled = ", ".join(f"{number} {verdict}" for verdict, number in summary["relabelled"].items() if number)
    changed = ", ".join(f"{number} in {split}" for split, number in summary.get("labels_changed", {}).items())
    patches = f"patches relabelled: {relabelled}; labels that changed by that: {changed or 'none'}"
    parts = [slides if rejected else "no slide rejected", patches if relabelled else "no patch relabelled"]
    if disputed := summary.get("disputed"):
        parts.append(f"left out as {pluralize(len(disputed), 'dispute')} that nobody settled: {', '.join(disputed)}")
    if n_regions := summary.get("regions", 0):
        parts.append(f"{pluralize(n_regions, 'region')} drawn and not used here: annotations for `pathopatch tile`")
    return f"Decisions of reviewers ({reviewers}): {'; '.join(parts)}."

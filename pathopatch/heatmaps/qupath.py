"""Write predicted slides and reviewers' decisions for QuPath, and the regions that they drew for `tile`.

Regions are linked where the disk allows it, and patches are written from the tables of predictions. ``export.json``
has the stamp of what was written.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import shapely

from pathopatch.core.artefacts import EXPORT, Stamp, fingerprint, made, read_table
from pathopatch.core.errors import InputCorruptError, InputMissingError, PathopatchError
from pathopatch.core.files import atomic_path, link_or_copy, write_json
from pathopatch.core.task import Progress
from pathopatch.core.work_folder import WorkFolder
from pathopatch.groups.decisions.decision import (
    DISPUTED,
    LENGTH,
    REMOVED,
    TISSUE_VERDICTS,
    RecordedDecision,
    Standing,
    StandingDecisions,
    region_polygon,
)
from pathopatch.groups.decisions.log import LOG_NAME, read_log
from pathopatch.heatmaps import FACTS
from pathopatch.heatmaps.facts import REGIONS, TABLE, TILES, HeatmapFacts, heatmap_grid, read_facts
from pathopatch.heatmaps.patch_exports import collection_parts, id_maker, write_features, write_tiles
from pathopatch.patches.annotations.polygons import region_text
from pathopatch.slides.slide_paths import valid_slide_id

# Other names than the model's classes: exported together with its regions, a reviewer's label stays one.
_CLASSES: dict[str, tuple[str, tuple[int, int, int]]] = {
    "accept": ("slide accepted", (0, 158, 115)),
    "reject": ("slide rejected", (204, 121, 167)),
    "flag": ("slide flagged", (240, 228, 66)),
    "tumour": ("tumour (reviewer)", (213, 94, 0)),
    "non-tumour": ("non-tumour (reviewer)", (0, 114, 178)),
    "unsure": ("unsure (reviewer)", (150, 150, 150)),
    "missed tissue": ("Missed tissue", (230, 159, 0)),
    "not tissue": ("Not tissue", (86, 180, 233)),
    DISPUTED: (DISPUTED, (0, 0, 0)),
}
"""QuPath's class and its colour (Okabe-Ito) by verdict."""
_DESCRIPTION = "ANNOTATION_DESCRIPTION"  # the key under which QuPath keeps what it shows as an annotation's description
_DECISIONS = uuid.uuid5(uuid.NAMESPACE_URL, "pathopatch:decision")
_DECISIONS_FILE = "decisions.geojson.gz"


@dataclass(frozen=True, kw_only=True)
class ExportFolder:
    """What an export of predicted slides wrote."""

    path: Path
    slides: int
    notes: Mapping[str, str]  # by slide: why it is left out


def write_qupath_folder(
    out: Path, path: Path, *, rows: Iterable[RecordedDecision] | None = None, force: bool = False,
    progress: Progress | None = None,
) -> ExportFolder:  # fmt: skip
    """Write ``<slide_id>/*.geojson.gz`` of all predicted slides, unless the same is there; equal inputs, equal bytes.

    `rows` are rows of the log of decisions to write, by default all rows of ``review.sqlite`` in `out`. The other
    parameters and the errors are those of `write_export`; InputCorruptError, too, if the decisions cannot be read.
    """
    decisions: dict[str, list[Standing]] = defaultdict(list)
    for one in StandingDecisions(read_log(out / LOG_NAME) if rows is None else rows).by_time():
        decisions[one.decision.slide_id].append(one)

    def mark_of(slide_id: str) -> str:
        outputs = whole_facts(out, slide_id, TABLE, REGIONS)["outputs"]
        shown = [[row.to_dict() for row in (one.decision, *one.readings)] for one in decisions[slide_id]]
        return fingerprint([[outputs[name]["fingerprint"] for name in (TABLE, REGIONS)], shown])

    def write(folder: Path, slide_id: str, _mark: str) -> None:
        _write_slide(out, folder / slide_id, slide_id, decisions[slide_id])

    return write_export(out, path, "QuPath", mark_of, write, force=force, progress=progress)


def write_export(
    out: Path, path: Path, kind: str, mark_of: Callable[[str], str], write: Callable[[Path, str, str], None], *,
    force: bool = False, progress: Progress | None = None,
) -> ExportFolder:  # fmt: skip
    """Write what other programs read of all predicted slides, unless the same is there.

    Parameters
    ----------
    out : Path
        Folder that ``predict`` wrote.
    path : Path
        Folder to write.
    kind : str
        QuPath or DICOM.
    mark_of, write : callable
        Return the fingerprint (mark) of what a slide's files are made of, or raise why it is left out. Write its files,
        given the new folder, the slide's id and that mark.
    force : bool
        Replace an export of other content.

    Raises
    ------
    InputMissingError
        Nothing is predicted in `out`.
    InputUnsupportedError
        There is something else at `path`.
    StaleArtefactError
        It is an export of other content, and `force` is off.
    PathopatchError
        Every slide is left out: the reason of the first.
    DiskFullError
        No space is left; an earlier export is untouched.
    """
    names = [path.parent.name for path in out.glob(f"heatmaps/*/{FACTS}")]
    names += [path.stem for path in out.glob("predictions/*.parquet")]  # a slide may lack either
    ids = sorted(filter(valid_slide_id, set(names)))
    if not ids:
        raise InputMissingError(
            "no prediction here", place=str(out), remedy="run pathopatch predict, or name its output folder"
        )
    errors: dict[str, PathopatchError] = {}
    inputs: dict[str, str] = {}
    for slide_id in ids:
        try:
            inputs[slide_id] = mark_of(slide_id)
        except PathopatchError as error:
            errors[slide_id] = error
    if not inputs:
        raise errors[ids[0]]
    notes = {slide_id: f"{error.message}; {error.remedy}" for slide_id, error in errors.items()}
    stamp = Stamp(stage=f"export {kind.lower()}", inputs=inputs)
    with made(path, stamp=stamp, force=force) as job:
        job.require_own(f"export for {kind}")
        if not job.is_current:
            with atomic_path(path) as folder:
                folder.mkdir()
                for number, (slide_id, mark) in enumerate(inputs.items(), 1):
                    write(folder, slide_id, mark)
                    if progress is not None:
                        progress("export", number, len(inputs), slide_id)
                write_json(folder / EXPORT, {"stamp": stamp.to_dict(), "left_out": notes})
    return ExportFolder(path=path, slides=len(inputs), notes=notes)


def whole_facts(out: Path, slide_id: str, *names: str) -> HeatmapFacts:
    """Return ``heatmap.json``; refuse a slide whose outputs of these names are not as they were written."""
    heatmap, again = WorkFolder(out).heatmap(slide_id), "predict the slide again"
    try:
        facts = read_facts(heatmap)
    except PathopatchError as error:
        raise InputCorruptError(error.message, place=slide_id, remedy=again) from error
    for name in names:
        path = WorkFolder(out).predictions(slide_id) if name == TABLE else heatmap / name
        if not path.is_file():
            raise InputMissingError(f"the slide lacks {path.name}", place=slide_id, remedy=again)
        # The sizes only: to read every file of a cohort would take as long as to import it.
        if facts.get("outputs", {}).get(name, {}).get("bytes") != path.stat().st_size:
            raise InputCorruptError(f"{path.name} is not as it was written", place=slide_id, remedy=again)
    return facts


def _write_slide(out: Path, folder: Path, slide_id: str, decisions: Sequence[Standing]) -> None:
    """Put a slide's heatmap and the decisions on it that stand into a new folder."""
    facts = whole_facts(out, slide_id, TABLE, REGIONS)
    folder.mkdir()
    link_or_copy(WorkFolder(out).heatmap(slide_id) / REGIONS, folder / REGIONS)
    write_tiles(
        folder / TILES,
        read_table(WorkFolder(out).predictions(slide_id)),
        slide_id=slide_id,
        run=facts["stamp"]["inputs"]["model"],
        class_names=facts["class_names"],
        decision_threshold=facts["decision_threshold"],
        slide_size=facts["size_px"],
        origin=facts["bounds_px"][:2],
    )
    if outlined := _outlined(decisions, facts):
        write_features(folder / _DECISIONS_FILE, _features(outlined, slide_id=slide_id, origin=facts["bounds_px"][:2]))


def _outlined(decisions: Iterable[Standing], facts: HeatmapFacts) -> list[tuple[Standing, Any]]:
    """Return the decisions that stand, each with its polygon; those beyond the slide are left out."""
    pairs = ((one, _outline(one.decision, facts)) for one in decisions if one.decision.verdict != REMOVED)
    return [(one, outline) for one, outline in pairs if not outline.is_empty]


def _outline(row: RecordedDecision, facts: HeatmapFacts) -> Any:
    """Return what a decision is about, a polygon in level-0 px; empty if that is not on the slide.

    A verdict on the slide outlines its scanned part; a label outlines its patch, cut at the slide's edge.
    """
    if row.region:
        return region_polygon(row.region)
    if row.x is None or row.y is None:
        x, y, width, height = facts["bounds_px"]
        return shapely.box(x, y, x + width, y + height)
    patch_px, size = heatmap_grid(facts).span_px, facts["size_px"]
    right, bottom = min(row.x + patch_px, size[0]), min(row.y + patch_px, size[1])
    return shapely.box(row.x, row.y, right, bottom) if right > row.x and bottom > row.y else shapely.Polygon()


def _metadata(one: Standing) -> dict[str, str]:
    """Return what else the log says of a decision, or of those that differ, without what is empty."""
    row = one.decision
    if one.dispute:
        notes = ((each.reviewer, ". ".join(filter(None, (each.reason, each.comment)))) for each in one.readings)
        values = {_DESCRIPTION: "; ".join(f"{name}: {note}" for name, note in notes if note)}
    else:
        values = {
            _DESCRIPTION: ". ".join(text for text in (row.reason, row.comment) if text),
            "reviewer": row.reviewer,
            "made": row.made,
            "reason": row.reason,
            "note": row.comment,
            "run": row.run,
            "heatmap": row.fingerprint,
        }
    return {name: text for name, text in values.items() if text}


def region_files(rows: Iterable[RecordedDecision], origin_of: Callable[[str], tuple[int, int]]) -> dict[str, str]:
    """Return the text of a GeoJSON file by its name, for each slide with regions, as `tile` reads them.

    ``<slide_id>.geojson`` holds annotations, of the classes of the annotations for QuPath, and
    ``<slide_id>.tissue.geojson`` corrections of the tissue. `origin_of` maps a slide id to the corner of the slide's
    bounds (x, y), level-0 px, which is subtracted.
    """
    by_file: dict[tuple[str, str], list[tuple[Standing, Any]]] = {}
    for one in StandingDecisions(rows).by_time():
        row = one.decision
        if row.region and row.verdict not in (LENGTH, REMOVED):
            ending = ".tissue.geojson" if row.verdict in TISSUE_VERDICTS else ".geojson"
            by_file.setdefault((row.slide_id, ending), []).append((one, region_polygon(row.region)))
    return {
        name + ending: "".join(collection_parts(_features(outlined, slide_id=name, origin=origin_of(name))))
        for (name, ending), outlined in sorted(by_file.items())
    }


def decision_files(out: Path, rows: Iterable[RecordedDecision]) -> dict[str, str]:
    """Return the text of ``<slide_id>.geojson`` by its name, with every reader's decisions, for each slide with any.

    Of each slide and patch there is what stands, and where several decided each one's own verdict; and all regions and
    lengths. A slide without a readable heatmap has none.
    """
    by_slide: dict[str, list[Standing]] = defaultdict(list)
    for one in StandingDecisions(rows).by_time():
        by_slide[one.decision.slide_id].append(one)
        if len(one.readings) > 1 or one.decision.settles:
            by_slide[one.decision.slide_id] += [Standing(row, (row,), (), one.readers) for row in one.readings]
    files = {}
    for slide_id, own in sorted(by_slide.items()):
        with suppress(PathopatchError):
            facts = read_facts(WorkFolder(out).heatmap(slide_id))
            if outlined := _outlined(own, facts):
                features = _features(outlined, slide_id=slide_id, origin=facts["bounds_px"][:2])
                files[f"{slide_id}.geojson"] = "".join(collection_parts(list(features)))
    return files


def _features(outlined: Iterable[tuple[Standing, Any]], *, slide_id: str, origin: tuple[int, int]) -> Iterator[str]:
    """Yield each decision with its polygon as a locked GeoJSON annotation, the same text for the same decisions.

    Polygons are in level-0 px; `origin` is the corner of the slide's bounds (x, y), which is subtracted.
    """
    make_id = id_maker(_DECISIONS, "review", slide_id)
    seen: set[str] = set()  # what stands comes before each reader's own
    for one, outline in outlined:
        row = one.decision
        verdict = DISPUTED if one.dispute else row.verdict
        # With the slide it makes the id, so that a later decision replaces the earlier one.
        key = row.region or ("slide" if row.x is None else f"{row.x},{row.y}")
        if not row.region and one.readings == (row,):
            key = key if key not in seen else f"{key},{row.reviewer.strip()}"
        seen.add(key)
        said = ", ".join(f"{each.reviewer}: {each.verdict}" for each in one.readings if len(one.readings) > 1)
        yield region_text(
            outline, make_id(key), _CLASSES.get(verdict, (verdict, None)), origin, isLocked=True,
            name=f"{verdict} ({said or row.reviewer})", measurements={}, metadata=_metadata(one),
        )  # fmt: skip

"""Write predicted slides and reviewers' decisions for QuPath: a folder of GeoJSON files for each slide.

Files of heatmaps are linked where the disk allows it. ``export.json`` has the stamp of what was written.
"""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pathopatch.core.artefacts import Stamp, artefact, fingerprint
from pathopatch.core.errors import InputCorruptError, InputMissingError, InputUnsupportedError, PathopatchError
from pathopatch.core.files import atomic_path, read_json, write_json
from pathopatch.core.progress import Progress
from pathopatch.core.work_folder import WorkFolder
from pathopatch.groups.decisions.decision import RecordedDecision, current_decisions
from pathopatch.groups.decisions.log import LOG_NAME, read_log
from pathopatch.heatmaps import FACTS
from pathopatch.heatmaps.decision_annotations import annotations_of, write_annotations
from pathopatch.heatmaps.facts import HeatmapFacts, grid_of, read_facts
from pathopatch.slides.slide_paths import valid_slide_id

_HEATMAP_FILES = ("patches.geojson.gz", "regions.geojson.gz")
_DECISIONS_FILE, _EXPORT = "decisions.geojson.gz", "export.json"


@dataclass(frozen=True, kw_only=True)
class QupathFolder:
    """What `write_qupath_folder` wrote."""

    path: Path
    slides: int
    notes: Mapping[str, str]  # by slide: why it is left out


def write_qupath_folder(
    out: Path, path: Path, *, force: bool = False, progress: Progress | None = None
) -> QupathFolder:
    """Write ``<slide_id>/*.geojson.gz`` of all predicted slides, unless the same is there; equal inputs, equal bytes.

    Parameters
    ----------
    out : Path
        Folder that ``predict`` wrote. Decisions are those of its ``review.sqlite``.
    path : Path
        Folder to write.
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
    InputCorruptError
        The decisions cannot be read.
    DiskFullError
        No space is left; an earlier export is untouched.
    """
    ids = sorted(facts.parent.name for facts in out.glob(f"heatmaps/*/{FACTS}") if valid_slide_id(facts.parent.name))
    if not ids:
        raise InputMissingError(
            "no prediction here", place=str(out), remedy="run pathopatch predict, or name its output folder"
        )
    existing = _stamp_of_export(path)
    decisions: dict[str, list[RecordedDecision]] = defaultdict(list)
    for row in current_decisions(read_log(out / LOG_NAME)):
        decisions[row.slide_id].append(row)
    notes: dict[str, str] = {}
    inputs: dict[str, str] = {}
    for slide_id in ids:
        try:
            marks = [_whole_facts(out, slide_id)["outputs"][name]["fingerprint"] for name in _HEATMAP_FILES]
            inputs[slide_id] = fingerprint([marks, [asdict(row) for row in decisions[slide_id]]])
        except PathopatchError as error:
            notes[slide_id] = f"{error.message}; predict the slide again"
    with artefact(path, stamp=Stamp(stage="export qupath", inputs=inputs), force=force, existing=[existing]) as output:
        if not output.is_current:
            with atomic_path(path) as folder:
                folder.mkdir()
                for number, slide_id in enumerate(inputs, 1):
                    _write_slide(out, folder / slide_id, slide_id, decisions[slide_id])
                    if progress is not None:
                        progress("export", number, len(inputs), slide_id)
                write_json(folder / _EXPORT, {"stamp": output.stamp.to_dict(), "left_out": notes})
    return QupathFolder(path=path, slides=len(ids), notes=notes)


def _stamp_of_export(path: Path) -> Stamp | None:
    """Return the stamp of the export at a path, None where there is nothing; refuse anything else."""
    if not path.exists():
        return None
    try:
        stamp = Stamp.from_dict(read_json(path / _EXPORT)["stamp"])
        if stamp.stage == "export qupath":
            return stamp
    except (PathopatchError, KeyError, TypeError):
        pass
    raise InputUnsupportedError(
        "the path exists and is no export for QuPath", place=str(path), remedy="choose another folder"
    )


def _whole_facts(out: Path, slide_id: str) -> HeatmapFacts:
    """Return ``heatmap.json``; refuse a heatmap whose files for QuPath are not as they were written."""
    heatmap = WorkFolder(out).heatmap(slide_id)
    facts = read_facts(heatmap)
    for name in _HEATMAP_FILES:
        if not (heatmap / name).is_file():
            raise InputMissingError(f"the heatmap lacks {name}")
        # The sizes only: to read every file of a cohort would take as long as to import it.
        if facts.get("outputs", {}).get(name, {}).get("bytes") != (heatmap / name).stat().st_size:
            raise InputCorruptError(f"{name} is not as it was written")
    return facts


def _write_slide(out: Path, folder: Path, slide_id: str, decisions: Sequence[RecordedDecision]) -> None:
    """Put a slide's heatmap and the decisions on it into a new folder."""
    facts = _whole_facts(out, slide_id)
    folder.mkdir()
    for name in _HEATMAP_FILES:
        _link(WorkFolder(out).heatmap(slide_id) / name, folder / name)
    size, bounds = facts["size_px"], facts["bounds_px"]
    annotations = annotations_of(decisions, patch_px=grid_of(facts).span_px, slide_size=size, bounds=bounds)
    if annotations:
        write_annotations(folder / _DECISIONS_FILE, annotations, slide_id=slide_id, origin=bounds[:2])


def _link(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it to another disk. `predict` never writes into a file that is there."""
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)

"""Write a folder from which QuPath makes a project: where slides lie, their heatmaps, and reviewers' decisions.

No slide is copied; files of heatmaps are linked where the disk allows it. The script ``make_project.groovy`` runs in
QuPath, reads ``slides.json``, and puts the project beside the folder.
"""

from __future__ import annotations

import csv
import hashlib
import os
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pathopatch.core.artefacts import Stamp, artefact
from pathopatch.core.csv_table import escape_formulas
from pathopatch.core.errors import InputMissingError, InputUnsupportedError, PathopatchError
from pathopatch.core.files import atomic_path, json_text, read_json
from pathopatch.core.progress import Progress
from pathopatch.core.work_folder import WorkFolder
from pathopatch.groups.decisions.decision import RecordedDecision, current_decisions
from pathopatch.groups.decisions.log import LOG_NAME, read_log
from pathopatch.heatmaps import FACTS
from pathopatch.heatmaps.decision_annotations import write_annotations
from pathopatch.heatmaps.qupath_slides import HEATMAP_FILES, QupathSlide, describe_slide
from pathopatch.heatmaps.slide_places import SlidePlaces
from pathopatch.slides.manifest import SlideRow
from pathopatch.slides.slide_paths import valid_slide_id

SCRIPT, CATALOGUE, TABLE, README = "make_project.groovy", "slides.json", "slides.csv", "README.txt"
_DECISIONS_FILE = "decisions.geojson.gz"
_COLUMNS = (
    "slide_id", "channel", "path", "chosen", "relative_path", "width_px", "height_px", "um_per_px", "image_type",
    "note",
)  # fmt: skip
_README = f"""Heatmaps of pathopatch for QuPath 0.5 or 0.6. Research use only, not for diagnosis.

1. Start QuPath, and choose Automate > Script editor.
2. In the script editor choose File > Open, and open {SCRIPT} of this folder.
3. Choose Run > Run. The project opens; it lies beside this folder, in a folder whose name ends in -project.
4. Double-click a slide. Choose Measure > Show measurement maps, and pick the probability.
5. Annotations are positive regions and what reviewers decided. The key D hides the patches, A the annotations.
6. Slides that were moved: write their folder into SLIDES_FOLDER, at the top of the script.
{TABLE} says where each slide lies, and why one is left out. It names the slides' files.
"""


@dataclass(frozen=True, kw_only=True)
class QupathFolder:
    """What `write_qupath_folder` wrote."""

    path: Path
    slides: int
    notes: Mapping[str, str]  # by slide: why the script leaves it out, or that its file is missing now


def write_qupath_folder(
    out: Path,
    path: Path,
    *,
    rows: Sequence[SlideRow] = (),
    force: bool = False,
    progress: Progress | None = None,
) -> QupathFolder:
    """Write all predicted slides of a folder for QuPath, unless the same is there; equal inputs give equal bytes.

    Parameters
    ----------
    out : Path
        Folder that ``predict`` wrote. Decisions are those of its ``review.sqlite``.
    path : Path
        Folder to write.
    rows : sequence of SlideRow
        Where slides lie; takes precedence over their status. De-identified slides are found by their files' content.
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
    earlier = _stamp_of_export(path)
    places, decisions = SlidePlaces(out, rows), _by_slide(read_log(out / LOG_NAME))

    # Described twice, for the stamp and to be written: thousands of slides need not be in memory.
    def slides() -> Iterator[QupathSlide]:
        for slide_id in ids:
            yield describe_slide(out, slide_id, places.source(slide_id), decisions.get(slide_id, ()), folder=path)

    stamp = Stamp(stage="export qupath", inputs={"content": _digest(slides())})
    notes: dict[str, str] = {}
    with artefact(path, stamp=stamp, force=force, existing=[earlier]) as output:
        if output.is_current:
            notes = {slide.slide_id: slide.note for slide in slides() if slide.note}
            return QupathFolder(path=path, slides=len(ids), notes=notes)
        with atomic_path(path) as folder:
            folder.mkdir()
            shutil.copyfile(_script(), folder / SCRIPT)
            (folder / README).write_bytes(_README.encode())
            with _Catalogue(folder, stamp) as catalogue:
                for number, slide in enumerate(slides(), 1):
                    catalogue.add(slide, _write_objects(out, folder, slide))
                    if slide.note:
                        notes[slide.slide_id] = slide.note
                    if progress is not None:
                        progress("export", number, len(ids), slide.slide_id)
    return QupathFolder(path=path, slides=len(ids), notes=notes)


def _script() -> Path:
    return Path(__file__).with_name(SCRIPT)


def _stamp_of_export(path: Path) -> Stamp | None:
    """Return the stamp of the export at a path, None where there is nothing; refuse anything else."""
    if not path.exists():
        return None
    try:
        return Stamp.from_dict(read_json(path / CATALOGUE)["stamp"])
    except (PathopatchError, KeyError, TypeError) as error:
        raise InputUnsupportedError(
            "the path exists and is no export for QuPath", place=str(path), remedy="choose another folder"
        ) from error


def _by_slide(rows: Sequence[RecordedDecision]) -> dict[str, list[RecordedDecision]]:
    """Return the decisions that stand, by slide."""
    by_slide: dict[str, list[RecordedDecision]] = defaultdict(list)
    for row in current_decisions(rows):
        by_slide[row.slide_id].append(row)
    return by_slide


def _digest(slides: Iterator[QupathSlide]) -> str:
    """Return a fingerprint of all that is written."""
    digest = hashlib.sha256(_script().read_bytes() + _README.encode())
    for slide in slides:
        annotations = [asdict(annotation) | {"outline": annotation.outline.wkt} for annotation in slide.annotations]
        digest.update(json_text(_plain(slide) | {"marks": slide.marks, "annotations": annotations}).encode())
    return digest.hexdigest()


def _plain(slide: QupathSlide) -> dict[str, Any]:
    """Return what the script reads of a slide, but for its files of objects."""
    values = {name: value for name, value in vars(slide).items() if name not in ("files", "marks", "annotations")}
    return values | {"files": [asdict(file) for file in slide.files]}


def _write_objects(out: Path, folder: Path, slide: QupathSlide) -> list[str]:
    """Put a slide's heatmap and decisions into the folder; return their names in it."""
    if not slide.marks:  # of a damaged heatmap
        return []
    place = folder / "objects" / slide.slide_id
    place.mkdir(parents=True)
    for name in HEATMAP_FILES:
        _link(WorkFolder(out).heatmap(slide.slide_id) / name, place / name)
    names = list(HEATMAP_FILES)
    if slide.annotations:
        x, y = slide.bounds[:2]
        write_annotations(place / _DECISIONS_FILE, slide.annotations, slide_id=slide.slide_id, origin=(x, y))
        names.append(_DECISIONS_FILE)
    return [f"objects/{slide.slide_id}/{name}" for name in names]


def _link(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it to another disk. `predict` never writes into a file that is there."""
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)


class _Catalogue:
    """``slides.json`` for the script, a slide a line, and ``slides.csv`` for people, a file a row."""

    def __init__(self, folder: Path, stamp: Stamp) -> None:
        self._folder, self._stamp = folder, stamp
        self._files = ExitStack()
        self._separator = "\n"

    def __enter__(self) -> _Catalogue:
        self._json = self._files.enter_context((self._folder / CATALOGUE).open("w", encoding="utf-8", newline="\n"))
        # With a byte order mark: without it Excel takes UTF-8 for another code.
        table = self._files.enter_context((self._folder / TABLE).open("w", encoding="utf-8-sig", newline=""))
        self._table = csv.writer(table)
        self._table.writerow(_COLUMNS)
        self._json.write(f'{{"stamp": {json_text(self._stamp.to_dict())}, "slides": [')
        return self

    def __exit__(self, *_: object) -> None:
        self._json.write("\n]}\n")
        self._files.close()

    def add(self, slide: QupathSlide, objects: Sequence[str]) -> None:
        """Write one slide, with its files of objects."""
        self._json.write(self._separator + json_text(_plain(slide) | {"objects": objects}))
        self._separator = ",\n"
        width, height = slide.size or ("", "")
        end = [width, height, slide.mpp or "", slide.image_type, escape_formulas(slide.note)]
        for file in slide.files:
            chosen = "&".join(filter(None, (file.chosen, "" if file.plane is None else f"plane={file.plane}")))
            texts = (file.channel or "", file.absolute, chosen, file.relative)
            self._table.writerow([slide.slide_id, *map(escape_formulas, texts), *end])
        if not slide.files:
            self._table.writerow([slide.slide_id, "", "", "", "", *end])

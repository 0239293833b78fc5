"""Find the slides that a command names, in folders, among files or in a manifest, and slides behind features."""

from __future__ import annotations

import glob
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pathopatch.core.errors import DuplicateIdError, InputMissingError, InputUnsupportedError
from pathopatch.core.input_files import LeftOut
from pathopatch.core.patients import id_key
from pathopatch.core.status import read_status, slide_ids
from pathopatch.core.task import Progress
from pathopatch.core.text import pluralize
from pathopatch.slides import parse_source
from pathopatch.slides.dicom import series_in
from pathopatch.slides.discovery import KnownIds, discover, why_none
from pathopatch.slides.discovery_files import set_name
from pathopatch.slides.manifest import SlideRow, file_times, is_manifest, read_manifest, source_content
from pathopatch.slides.slide_paths import (
    ID_REMEDY,
    SLIDE_SUFFIXES,
    file_of,
    is_zarr,
    slide_id_from_path,
    slide_id_from_text,
    valid_slide_id,
)
from pathopatch.stages.batch.run_summary import files_of

if TYPE_CHECKING:
    from pathopatch.features.readers.folder import SlideFolder


def slides_to_predict(source: str, *, slide_id: str | None = None) -> list[SlideRow]:
    """Return the row of the slide that a command line names: a path, or ``CARS=a.tif,TPEF=b.tif``.

    Its id is its file's stem, its DICOM folder's name, or what the stems of its files share; else `slide_id`.
    """
    parsed = parse_source(source)
    if isinstance(parsed, dict):
        identity = slide_id or slide_id_from_text(set_name(parsed))
    elif parsed.is_dir() and not is_zarr(parsed):  # of a DICOM series
        identity = slide_id or slide_id_from_text(parsed.resolve().name)
    else:
        identity = slide_id or slide_id_from_path(parsed)
    if not valid_slide_id(identity):
        raise InputUnsupportedError(f"{identity!r} is no slide id", place="--slide-id", remedy=ID_REMEDY)
    texts = {name: str(path) for name, path in parsed.items()} if isinstance(parsed, dict) else str(parsed)
    return [SlideRow(row=1, slide_id=identity, patient_id=identity, source=texts)]


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """The slides to predict, and what was found beside them and is not predicted."""

    rows: list[SlideRow]
    left_out: tuple[LeftOut, ...] = ()
    moved: Mapping[str, str] = field(default_factory=dict)  # by slide_id: where its file was, and where it is


class _GivenIds:
    """The ids that a work folder gave to slides: each stays with its path, and goes along with its content."""

    def __init__(self, out: Path | None) -> None:
        entries = {} if out is None else {name: read_status(out, name).get("predict", {}) for name in slide_ids(out)}
        self._taken = [id_key(name) for name in entries]
        # De-identified slides have ids made of their content, and name no file.
        self._files = {name: files for name, entry in entries.items() if (files := files_of(entry))}
        # Of a slide that failed no content is known.
        self._by_mark = {entry.get("content") or str(entry.get("file_times")): name for name, entry in entries.items()}
        self._bytes = {size for entry in entries.values() for size, _ in entry.get("file_times", ())}
        self._row_of: dict[str, SlideRow] = {}
        self.moved: dict[str, str] = {}

    def of(self, rows: Sequence[SlideRow]) -> KnownIds:
        """Return the ids of rows, and note in `moved` which slides lie elsewhere now."""
        by_place = {_place(files): name for name, files in self._files.items()}
        found = [(row, by_place.get(_place(row.sources))) for row in rows]
        self._row_of = {name: row for row, name in found if name is not None}
        waiting = [row for row, name in found if name is None]
        for row in waiting:
            name = self._with_content(row)
            before = self._row_of.get(name)
            # Of equal contents the row at the known place is the slide, unless something else lies there now.
            if name and (before is None or self._with_content(before) != name):
                waiting += [] if before is None else [before]
                self._row_of[name] = row
                self.moved[name] = f"{', '.join(self._files[name])} is now {', '.join(row.sources)}"
        return {row.row: name for name, row in self._row_of.items()}, self._taken

    def _with_content(self, row: SlideRow) -> str:
        """Return the id of the slide of a row's content, of one that failed of its size and time; "" of none."""
        times = file_times(row.sources)
        if not times or not self._bytes.issuperset(size for size, _ in times):  # only a file of known size is read
            return ""
        return self._by_mark.get(str(times)) or self._by_mark.get(source_content(row.sources), "")

    def require_folders(self, paths: Sequence[Path], rows: Sequence[SlideRow] = ()) -> None:
        """Raise InputMissingError for a folder that is gone, or that held slides of which none is among the rows."""
        absent = [files for name, files in self._files.items() if name not in self._row_of]
        for path in (path for path in paths if not file_of(str(path)).is_file()):
            within = f"{os.path.abspath(path)}{os.sep}"  # noqa: PTH100  # without "..", and with links as they are
            lost = sum(any(file.startswith(within) for file in files) for files in absent)
            is_empty = lost and not any(file.startswith(within) for row in rows for file in row.sources)
            if is_empty or not (path.exists() or path.name.lower().endswith(SLIDE_SUFFIXES)):
                what = f"no slide here, where {pluralize(lost, 'slide')} lay" if lost else "no file or folder here"
                raise InputMissingError(what, place=str(path), remedy="mount its drive, or leave it out")


def _place(files: Sequence[str]) -> frozenset[str]:
    """Return where a slide lies, without the planes of a file that were put in the order of a model."""
    return frozenset(map(os.path.abspath, map(file_of, files) if len(files) > 1 else files))


ToPredict = Sequence[SlideRow] | Sequence["SlideFeaturesRow"]


def find_cohort(
    sources: Sequence[str],
    *,
    out: Path | None = None,
    slide_id: str | None = None,
    distinct_patients: Collection[tuple[str, str]] | None = None,
    progress: Progress | None = None,
) -> Cohort:
    """Return the slides that a command line names: a manifest, folders, files, and ``CARS=a.tif,TPEF=b.tif``.

    Files that are no slides are left out. A slide that is missing or cannot be opened is among the rows, where it fails
    alone. ``*`` and ``?`` are expanded where the shell left them. The folder `out` of the outputs is not searched.
    `slide_id` is that of a single slide. `distinct_patients` is as for `read_manifest`.
    """
    sources = [path for text in sources for path in _expanded(text)]
    folders = [text for text in sources if Path(text).is_dir() and not is_zarr(Path(text))]
    if slide_id is not None and folders == sources[:1] and series_in(Path(sources[0])):
        folders = []  # with an id, a folder of a DICOM series is a single slide
    paths = [path for path in map(parse_source, sources) if isinstance(path, Path)]
    manifests = [text for text in sources if is_manifest(text)]
    known = _GivenIds(None if manifests else out)
    if len(sources) == 1 and not folders and not manifests:
        known.require_folders(paths)
        (row,) = slides_to_predict(sources[0], slide_id=slide_id)
        kept = slide_id or known.of([row])[0].get(row.row, row.slide_id)
        return Cohort(rows=[replace(row, slide_id=kept)], moved=known.moved)
    if slide_id is not None:
        raise InputUnsupportedError(
            f"an id {slide_id!r} for several slides", place="--slide-id", remedy="leave it out, or name a single slide"
        )
    if manifests and len(sources) > 1:
        raise InputUnsupportedError(
            f"a manifest beside {len(sources) - 1} other sources", place=manifests[0], remedy="give the manifest alone"
        )
    if manifests:
        manifest = read_manifest(Path(manifests[0]), strict=False, distinct_patients=distinct_patients)
        excluded = (LeftOut(Path(row.sources[0]), "the manifest excludes it") for row in manifest if row.exclude)
        return Cohort(rows=list(manifest.included), left_out=tuple(excluded))
    rows = [row for text in sources if isinstance(parse_source(text), dict) for row in slides_to_predict(text)]
    found = discover(paths, skipped=() if out is None else (out,), known=known.of, progress=progress)
    rows += [slide.row for slide in found.slides]
    known.require_folders(paths, rows)
    place = ", ".join(sources[:3])
    if not rows:
        raise InputMissingError(
            f"no slide here: {why_none(found.left_out)}", place=place, remedy="name the folder that holds the slides"
        )
    by_id: dict[str, SlideRow] = {}
    for row in rows:
        if by_id.setdefault(row.slide_id.casefold(), row) is not row:
            raise DuplicateIdError(
                f"two slides have the id {row.slide_id}", place=place, remedy="write a manifest that names them apart"
            )
    return Cohort(rows=rows, left_out=found.left_out, moved=known.moved)


def _expanded(text: str) -> list[str]:
    """Expand wildcards; return the text itself if it has none, or nothing fits."""
    if Path(text).exists() or not glob.has_magic(text):
        return [text]
    return sorted(glob.glob(text, recursive=True)) or [text]  # noqa: PTH207  # Path.glob takes no absolute pattern


@dataclass(frozen=True, kw_only=True)
class SlideFeaturesRow:
    """One slide whose features are predicted."""

    slide_id: str
    features: SlideFolder  # listed once: of a thousand slides a thousand files are opened to list them
    slide: SlideRow | None = None  # the slide itself, where it is at hand

    @property
    def patient_id(self) -> str:
        """The slide's patient; the slide itself where no manifest says."""
        return self.slide_id if self.slide is None else self.slide.patient_id


def features_to_predict(source: Path, *, slides: Path | None = None) -> list[SlideFeaturesRow]:
    """Return the slides of a feature folder or file, as `open_features` takes it.

    `slides` is a folder of the slides, found by the names of the feature files, or a manifest of them, which names
    patients too: they are drawn under the maps, and their tissue is measured where the feature files have none.
    InputMissingError if there are no features, or a slide of theirs is not in `slides`; else as `open_features`.
    """
    from pathopatch.features.readers import open_features

    try:
        folder = open_features(source)
    except InputMissingError as error:
        if not source.is_file():
            raise
        raise InputMissingError(
            "the model takes features, and this file has none",
            place=str(source),
            remedy="make features by the encoder that the model's README.md names, and give their folder",
        ) from error
    rows = _rows(slides, folder.slide_ids)
    return [SlideFeaturesRow(slide_id=name, features=folder, slide=rows.get(name)) for name in folder.slide_ids]


def _rows(slides: Path | None, slide_ids: Sequence[str]) -> dict[str, SlideRow]:
    """Return the row of each slide, of a manifest or made of the files of a folder."""
    if slides is None:
        return {}
    if is_manifest(slides):
        rows = {row.slide_id: row for row in read_manifest(slides, distinct_patients=None).included}
        if missing := [slide_id for slide_id in slide_ids if slide_id not in rows]:
            raise InputMissingError(
                f"no row for {len(missing)} of {len(slide_ids)} feature files, such as {', '.join(missing[:3])}",
                place=str(slides),
                remedy="give each slide a row whose slide_id is the name of its feature file",
            )
        return rows
    from pathopatch.features.tissue import find_slides

    paths = find_slides(slides, slide_ids)
    return {
        slide_id: SlideRow(row=number, slide_id=slide_id, patient_id=slide_id, source=str(path))
        for number, (slide_id, path) in enumerate(paths.items(), 1)
    }

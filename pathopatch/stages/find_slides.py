"""Find the slides that a command names, in folders, among files or in a manifest, and slides behind features."""

from __future__ import annotations

import glob
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pathopatch.core.errors import DuplicateIdError, InputMissingError, InputUnsupportedError
from pathopatch.core.input_files import LeftOut
from pathopatch.core.task import Progress
from pathopatch.slides import parse_source
from pathopatch.slides.dicom import series_in
from pathopatch.slides.discovery import discover, why_none
from pathopatch.slides.discovery_files import set_name
from pathopatch.slides.manifest import SlideRow, is_manifest, pseudonymize, read_manifest
from pathopatch.slides.slide_paths import ID_REMEDY, is_zarr, slide_id_from_path, slide_id_from_text, valid_slide_id

if TYPE_CHECKING:
    from pathopatch.features.readers.folder import SlideFolder


def slides_to_predict(source: str, *, slide_id: str | None = None, is_slide: bool = False) -> list[SlideRow]:
    """Return the rows that a command line's SLIDE or MANIFEST names: a ``.csv``, a path, or ``CARS=a.tif,TPEF=b.tif``.

    The id of a single slide is its file's stem, its DICOM folder's name, or what the stems of its files share, unless
    `slide_id` is given. With `is_slide`, `source` is no manifest.
    """
    if not is_slide and is_manifest(source):
        if slide_id is not None:
            raise InputUnsupportedError(
                f"an id {slide_id!r} for a whole manifest", place="--slide-id", remedy="give ids in its column slide_id"
            )
        return list(read_manifest(Path(source), strict=False, distinct_patients=None).included)
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

    def pseudonyms(self) -> dict[str, SlideRow]:
        """Return each slide's row under its pseudonym, by the id that it has."""
        return {row.slide_id: named for row, named in zip(self.rows, pseudonymize(self.rows), strict=True)}


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
    if len(sources) == 1 and not folders:
        if slide_id is not None or not is_manifest(sources[0]):
            return Cohort(rows=slides_to_predict(sources[0], slide_id=slide_id))
        manifest = read_manifest(Path(sources[0]), strict=False, distinct_patients=distinct_patients)
        excluded = (LeftOut(Path(row.sources[0]), "the manifest excludes it") for row in manifest if row.exclude)
        return Cohort(rows=list(manifest.included), left_out=tuple(excluded))
    if slide_id is not None:
        raise InputUnsupportedError(
            f"an id {slide_id!r} for several slides", place="--slide-id", remedy="leave it out, or name a single slide"
        )
    if manifests := [text for text in sources if is_manifest(text)]:
        raise InputUnsupportedError(
            f"a manifest beside {len(sources) - 1} other sources", place=manifests[0], remedy="give the manifest alone"
        )
    rows = [row for text in sources if isinstance(parse_source(text), dict) for row in slides_to_predict(text)]
    paths = [path for path in map(parse_source, sources) if isinstance(path, Path)]
    found = discover(paths, skipped=() if out is None else (out,), progress=progress)
    rows += [slide.row for slide in found.slides]
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
    return Cohort(rows=rows, left_out=found.left_out)


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


def find_models(paths: Sequence[Path]) -> list[Path]:
    """Return the bundles that paths name: each itself, or ``model/`` in the folder of a training run."""
    from pathopatch.models.bundle import bundle_folder

    return [bundle_folder(path) for path in paths]


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

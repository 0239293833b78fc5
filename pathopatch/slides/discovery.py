"""Find the slides below a folder: group channels, pair masks and outlines, name slides and patients."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pathopatch.core.errors import InputUnsupportedError
from pathopatch.core.input_files import LeftOut
from pathopatch.core.patients import id_key
from pathopatch.core.task import Progress
from pathopatch.core.text import pluralize
from pathopatch.slides.dicom import stated_ids
from pathopatch.slides.discovery_files import (
    CHANNELS,
    FoundFile,
    channel_of,
    describe,
    list_files,
    mask_role,
    patient_in,
    pattern_regex,
    picture_of,
    stem_of,
)
from pathopatch.slides.manifest import SlideRow, is_annotation, rows_of_same_content
from pathopatch.slides.slide_paths import slide_id_from_text, split_fragment

_PICTURES = (".png", ".jpg", ".jpeg")
_RASTERS = (*_PICTURES, ".tif", ".tiff")
_NO_PATIENTS = {
    "train", "val", "validation", "test", "training", "slides", "images", "wsi", "data", "raw", "tumor", "tumour",
    "normal", "benign", "malignant", "masks", "annotations", "svs", "ndpi", "mrxs", "tif", "tiff", "dicom", "he", "h&e",
}  # fmt: skip
"""Names of folders that hold several patients."""
KnownIds = tuple[Mapping[int, str], Collection[str]]
"""Ids that rows have already, by their numbers, and the `id_key` of each id that no other row may have."""
_MOST_SLIDES = 10  # of a patient, in the mean; folders of more are rather scanners, stains or batches


@dataclass
class _Slide:
    """The files of one slide."""

    name: str
    files: dict[str, FoundFile] = field(default_factory=dict)  # by channel; under "" a file of all channels
    masks: dict[str, Path] = field(default_factory=dict)  # by column of the manifest
    patient: str | None = None

    @property
    def first(self) -> FoundFile:
        return next(iter(self.files.values()))

    @property
    def title(self) -> str:
        """What its id is made of: of a single file the whole stem, as where the file is named alone."""
        path = Path(split_fragment(str(self.first.path)).path)
        if self.first.stated_ids[1]:
            return self.first.stated_ids[1]
        return path.stem if "" in self.files and self.name == stem_of(path) else self.name


@dataclass(frozen=True, kw_only=True)
class FoundSlide:
    """A slide as a row of a manifest, and what its files state."""

    row: SlideRow
    files: tuple[FoundFile, ...]

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of its channels; empty if it cannot be opened."""
        return self.files[0].channels if isinstance(self.row.source, str) else tuple(self.row.source)

    @property
    def mpp(self) -> float | None:
        """Micrometres per level-0 px, if one of its files states them."""
        return next((file.mpp for file in self.files if file.mpp is not None), None)


@dataclass(frozen=True, kw_only=True)
class Discovery:
    """The slides that were found, in the order of their files, and what is none."""

    slides: tuple[FoundSlide, ...]
    left_out: tuple[LeftOut, ...]
    patients: str  # where the patient ids come from; "": each slide is a patient of its own


def discover(
    sources: Sequence[Path],
    *,
    pattern: str | None = None,
    skipped: Collection[Path] = (),
    from_dicom: bool = False,
    known: Callable[[Sequence[SlideRow]], KnownIds] = lambda _: ({}, ()),
    progress: Progress | None = None,
) -> Discovery:
    """Find the slides among files and below folders, by their content; a slide that cannot be opened is among them.

    Files of one channel are one slide where their names, or their folders' names, differ in the channel alone. A
    `pattern` such as ``{slide}_{channel}.tif`` takes the place of the channels known by name; it may hold ``{patient}``
    too. A malformed one is an InputUnsupportedError. Folders that are `skipped` are not entered. `from_dicom` takes the
    ids of patients and slides from DICOM files that state them. `known` returns the `KnownIds` of rows without ids.
    """
    builder = _Builder(sources, None if pattern is None else pattern_regex(pattern))
    stems = list_files(sources, builder.left_out, skipped=skipped)
    images = {path: stem for path, stem in stems.items() if not is_annotation(path)}
    opened: list[FoundFile] = []
    for number, (path, stem) in enumerate(images.items(), 1):
        file = describe(path, stem)
        if isinstance(file, FoundFile):
            opened.append(replace(file, stated_ids=stated_ids(path)) if from_dicom and file.error is None else file)
        elif mask_role(stem) and path.suffix.lower() in _RASTERS:  # a mask need not be readable as a slide
            opened.append(FoundFile(path=path, stem=stem, error=InputUnsupportedError(file.reason, place=str(path))))
        else:
            builder.left_out.append(file)
        if progress:
            progress("find slides", number, len(images), path.name)
    builder.add_images(opened)
    builder.add_outlines([path for path in stems if is_annotation(path)])
    return builder.result(known)


def _doubt(file: FoundFile) -> int:
    """Return how likely a file belongs to a slide rather than being one: those that are needed first have 0."""
    suffix, parent = file.path.suffix.lower(), file.path.parent.name
    if suffix not in _RASTERS:
        return 0
    if mask_role(file.stem) or picture_of(file.stem) or mask_role(parent):
        return 2
    return int(suffix in _PICTURES)


class _Builder:
    """Builder of a cohort."""

    def __init__(self, sources: Sequence[Path], pattern: re.Pattern[str] | None) -> None:
        self._roots, self._pattern = tuple(sources), pattern
        self._slides: dict[tuple[Path, str, str], _Slide] = {}  # by folder, name and, of a single file, its whole name
        self._by_name: dict[str, dict[tuple[Path, str, str], _Slide]] = defaultdict(dict)
        self.left_out: list[LeftOut] = []

    def add_images(self, files: Iterable[FoundFile]) -> None:
        """Take slides first, then masks and pictures, which need a slide of their name."""
        for file in sorted(files, key=_doubt):
            if _doubt(file):
                self._add_companion(file)
            else:
                self._add_slide(file)

    def _add_slide(self, file: FoundFile) -> None:
        if self._pattern is not None:
            self._add_by_pattern(file, self._pattern)
            return
        folder, stem, channel = file.path.parent, file.stem, ""
        if len(file.channels) <= 1:  # none: it cannot be opened, and its name alone tells
            if found := channel_of(stem):
                channel, stem = found
            elif (found := channel_of(folder.name)) and folder not in self._roots:
                channel, folder, stem = found[0], folder.parent / found[1], stem
        if not stem:
            folder, stem = folder.parent, folder.name
        self._add_file(file, folder, stem, channel)

    def _add_by_pattern(self, file: FoundFile, pattern: re.Pattern[str]) -> None:
        relative = next((file.path.relative_to(root) for root in self._roots if file.path.is_relative_to(root)), None)
        match = pattern.fullmatch(file.path.name) or pattern.fullmatch((relative or file.path).as_posix())
        if match is None:
            self.left_out.append(LeftOut(file.path, "its name does not follow the pattern"))
            return
        words = match.groupdict()
        spelling_of = {
            name.casefold(): name for name in (*CHANNELS, *(c for s in self._slides.values() for c in s.files))
        }
        channel = words.get("channel") or ""
        self._add_file(file, Path(), words["slide"], spelling_of.get(channel.casefold(), channel), words.get("patient"))

    def _add_file(self, file: FoundFile, folder: Path, name: str, channel: str, patient: str | None = None) -> None:
        # A slide in one file and one in a file per channel may share a name, and so may files of two endings.
        key = (folder, name.casefold(), "" if channel else file.path.name)
        slide = self._slides.setdefault(key, _Slide(name, patient=patient))
        self._by_name[name.casefold()][key] = slide
        if channel in slide.files:
            self.left_out.append(LeftOut(file.path, f"{slide.files[channel].path.name} is the {channel} of {name}"))
        else:
            slide.files[channel] = file

    def _add_companion(self, file: FoundFile) -> None:
        """Take a mask or a picture of a slide, or a slide that only looks like one."""
        role, picture, in_folder = mask_role(file.stem), picture_of(file.stem), mask_role(file.path.parent.name)
        column, base = role or (in_folder[0] if in_folder else "", file.stem)
        slide = self._slide_of(file.path.parent, base if picture is None else picture, anywhere=in_folder is not None)
        if slide is None and role and "mask" in file.stem.casefold():
            self.left_out.append(LeftOut(file.path, "a mask by its name, and no slide has the rest of it"))
        elif slide is None and file.error is not None and role:
            self.left_out.append(LeftOut(file.path, file.error.message))
        elif slide is None:
            self._add_slide(file)
        elif not column:
            self.left_out.append(LeftOut(file.path, f"a picture of a slide by its name [{slide.name}]"))
        else:
            self._pair(slide, column, file.path)

    def add_outlines(self, paths: Iterable[Path]) -> None:
        """Pair files of outlines with the slides of their names."""
        for path in paths:
            stem = stem_of(path)
            bases = (stem, (mask_role(stem) or ("", stem))[1], Path(stem).stem)
            slide = next(filter(None, (self._slide_of(path.parent, base, anywhere=True) for base in bases)), None)
            if slide is None:
                self.left_out.append(LeftOut(path, "no slide has its name"))
            elif "tumor_mask" in slide.masks:
                mask = slide.masks["tumor_mask"].name
                self.left_out.append(
                    LeftOut(path, f"its slide has a mask too, and a row states the tumour once [{mask}]")
                )
            else:
                self._pair(slide, "annotations", path)

    def _pair(self, slide: _Slide, column: str, path: Path) -> None:
        if column in slide.masks:
            self.left_out.append(LeftOut(path, f"{slide.name} has {slide.masks[column].name} already"))
        else:
            slide.masks[column] = path

    def _slide_of(self, folder: Path, name: str, *, anywhere: bool) -> _Slide | None:
        """Return the slide that a name is of: in its folder, of its folder or, if allowed, the only one of the name."""
        if not name:
            near = [slide for slide in self._slides.values() if slide.first.path.parent == folder]
            return near[0] if len(near) == 1 else None
        named = self._by_name.get(name.casefold(), {})
        for key, slide in named.items():
            if key[0] in (folder, Path()):
                return slide
        return next(iter(named.values())) if anywhere and len(named) == 1 else None

    def result(self, known: Callable[[Sequence[SlideRow]], KnownIds]) -> Discovery:
        """Return the rows, numbered as in a manifest; `known` as for `discover`."""
        slides = sorted(self._slides.values(), key=lambda slide: (slide.first.path.parent, slide.name))
        paths = [slide.first.path for slide in slides]
        unnamed = [_row(slide, number) for number, slide in enumerate(slides, 2)]
        given, taken = known(unnamed)
        proposed = _slide_ids([slide.title for slide in slides], paths, taken)
        ids = [given.get(row.row, slide_id) for row, slide_id in zip(unnamed, proposed, strict=True)]
        from_files = [slide.first.stated_ids[0] for slide in slides]
        stated = [
            dicom or slide.patient or patient_in(slide.name) for dicom, slide in zip(from_files, slides, strict=True)
        ]
        patients, how = _patient_ids(stated, ids, paths, self._roots)
        how = how.replace("the names", "PatientID in the DICOM files, else the names") if any(from_files) else how
        rows = [
            replace(row, slide_id=slide_id, patient_id=patient)
            for row, slide_id, patient in zip(unnamed, ids, patients, strict=True)
        ]
        is_link = {row.row: path.resolve() != path.absolute() for row, path in zip(rows, paths, strict=True)}
        copies: dict[int | None, SlideRow] = {}
        for group in rows_of_same_content(rows):
            # What is known is predicted already, and a link's name is not the file's own.
            kept = min(group, key=lambda row: (row.row not in given, is_link[row.row]))
            copies |= {row.row: kept for row in group if row is not kept}
        self.left_out += [
            LeftOut(slide.first.path, f"its content is that of another slide [{copies[row.row].slide_id}]")
            for slide, row in zip(slides, rows, strict=True)
            if row.row in copies
        ]
        found = tuple(
            FoundSlide(row=row, files=tuple(slide.files.values()))
            for slide, row in zip(slides, rows, strict=True)
            if row.row not in copies
        )
        return Discovery(slides=found, left_out=tuple(self.left_out), patients=how)


def _row(slide: _Slide, number: int) -> SlideRow:
    """Return a slide's row, yet without ids."""
    known_channels = [name for name in CHANNELS if name in slide.files]
    files = {name: str(slide.files[name].path.absolute()) for name in dict.fromkeys([*known_channels, *slide.files])}
    masks: dict[str, Any] = {column: path.absolute() for column, path in slide.masks.items()}
    return SlideRow(row=number, slide_id="", patient_id="", source=files.get("", files), **masks)


def why_none(left_out: Sequence[LeftOut]) -> str:
    """Return why there is no slide: the most frequent reason for which files were left out."""
    if not left_out:
        return "there are no files"
    reason, count = Counter(item.reason for item in left_out).most_common(1)[0]
    return f"{pluralize(len(left_out), 'file')} left out, {count} of them since: {reason}"


def _slide_ids(names: Sequence[str], paths: Sequence[Path], taken: Collection[str]) -> list[str]:
    """Return an id for each slide: its name or, where several have it, its folder and name, or its first file's."""
    forms: tuple[Callable[[str, Path], str], ...] = (
        lambda name, path: f"{path.absolute().parent.name}_{name}",
        lambda _, path: path.name,
        lambda name, path: f"{hashlib.sha256(str(path).encode(errors='replace')).hexdigest()[:8]}_{name}",
    )
    ids = [slide_id_from_text(name) for name in names]
    for form in forms:
        counts = Counter([*map(id_key, ids), *taken])
        ids = [
            slide_id_from_text(form(name, path)) if counts[id_key(slide_id)] > 1 else slide_id
            for name, path, slide_id in zip(names, paths, ids, strict=True)
        ]
    return ids


def _patient_ids(
    stated: Sequence[str | None], ids: Sequence[str], paths: Sequence[Path], roots: Sequence[Path]
) -> tuple[list[str], str]:
    """Return a patient for each slide, and where they come from: names of files, folders below the roots, or ""."""
    if any(stated):
        patients = [slide_id_from_text(name) if name else own for name, own in zip(stated, ids, strict=True)]
        rest = "" if all(stated) else "; a slide whose name has none is a patient of its own"
        return patients, f"the names of the files{rest}"
    folders = [_folder_below(path, roots) for path in paths]
    slides_of = Counter(folders)
    is_evident = (
        len(slides_of) > 1
        and max(slides_of.values()) > 1
        and len(folders) <= _MOST_SLIDES * len(slides_of)
        and all(folder and folder.casefold() not in _NO_PATIENTS and channel_of(folder) is None for folder in slides_of)
    )
    if is_evident:
        return [slide_id_from_text(name) for name in folders], "the folders of the slides"
    return list(ids), ""


def _folder_below(path: Path, roots: Sequence[Path]) -> str:
    """Return the name of the folder just below a root that a file lies in; empty if it lies in the root itself."""
    root = next((root for root in roots if path.is_relative_to(root)), None)
    parts = () if root is None else path.relative_to(root).parts
    return parts[0] if len(parts) > 1 else ""

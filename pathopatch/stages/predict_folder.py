"""Find the slides that the command `predict` is to work on: in folders, among files, or in a manifest."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pathopatch.core.errors import DuplicateIdError, InputMissingError, InputUnsupportedError
from pathopatch.core.input_files import LeftOut
from pathopatch.core.progress import Progress
from pathopatch.models.bundle import check_bundles
from pathopatch.slides import parse_source
from pathopatch.slides.discovery import discover, why_none
from pathopatch.slides.manifest import SlideRow, is_manifest
from pathopatch.slides.omezarr import is_zarr
from pathopatch.stages.predict import slides_to_predict


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """The slides to predict, and what was found beside them and is not predicted."""

    rows: list[SlideRow]
    left_out: tuple[LeftOut, ...] = ()


def find_cohort(
    sources: Sequence[str],
    models: Sequence[Path],
    *,
    out: Path | None = None,
    slide_id: str | None = None,
    strict: bool = False,
    progress: Progress | None = None,
) -> Cohort:
    """Return the slides that a command line names: a manifest, folders, files, and ``CARS=a.tif,TPEF=b.tif``.

    Files that are no slides are left out. A slide that does not fit the models is among the rows, where it fails alone.
    So is one that is missing or cannot be opened; with `strict` it fails here.

    Parameters
    ----------
    sources : sequence of str
        What was typed; ``*`` and ``?`` are expanded where the shell left them.
    models : sequence of Path
        Folders of bundles.
    out : Path, optional
        Folder of the outputs, which is not searched.
    slide_id : str, optional
        Id of a single slide.

    Raises
    ------
    InputMissingError
        A folder holds no slide.
    InputUnsupportedError
        A manifest is named beside other sources, or an id is given to several slides.
    DuplicateIdError
        Two slides have the same id.
    PathopatchError
        As `slides_to_predict` and `check_bundles`; with `strict` also the first error of a slide.
    """
    sources = [path for text in sources for path in _expanded(text)]
    folders = [text for text in sources if Path(text).is_dir() and not is_zarr(Path(text))]
    if len(sources) == 1 and not folders:
        return Cohort(rows=slides_to_predict(sources[0], slide_id=slide_id, strict=strict))
    if slide_id is not None:
        raise InputUnsupportedError(
            f"an id {slide_id!r} for several slides", place="--slide-id", remedy="leave it out, or name a single slide"
        )
    if manifests := [text for text in sources if is_manifest(text)]:
        raise InputUnsupportedError(
            f"a manifest beside {len(sources) - 1} other sources", place=manifests[0], remedy="give the manifest alone"
        )
    check_bundles(models)  # before every file of a large folder is opened
    rows = [row for text in sources if isinstance(parse_source(text), dict) for row in slides_to_predict(text)]
    paths = [path for path in map(parse_source, sources) if isinstance(path, Path)]
    found = discover(paths, skipped=() if out is None else (out,), progress=progress)
    if strict and (errors := [file.error for slide in found.slides for file in slide.files if file.error is not None]):
        raise errors[0]
    rows += [slide.row for slide in found.slides]
    _require_slides(rows, found.left_out, place=", ".join(sources[:3]))
    return Cohort(rows=rows, left_out=found.left_out)


def _expanded(text: str) -> list[str]:
    """Return the paths that a text with wildcards stands for; the text itself if it has none, or nothing fits."""
    if Path(text).exists() or not glob.has_magic(text):
        return [text]
    return sorted(glob.glob(text, recursive=True)) or [text]  # noqa: PTH207  # Path.glob takes no absolute pattern


def _require_slides(rows: Sequence[SlideRow], left_out: Sequence[LeftOut], *, place: str) -> None:
    """Refuse to work on nothing, and on two slides of one id."""
    if not rows:
        raise InputMissingError(
            f"no slide here: {why_none(left_out)}", place=place, remedy="name the folder that holds the slides"
        )
    by_id: dict[str, SlideRow] = {}
    for row in rows:
        if by_id.setdefault(row.slide_id.casefold(), row) is not row:
            raise DuplicateIdError(
                f"two slides have the id {row.slide_id}", place=place, remedy="write a manifest that names them apart"
            )

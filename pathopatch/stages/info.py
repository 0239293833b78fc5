"""Describe one slide and draw it with its tissue outlined: the command `info`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pathopatch.core.config import TileConfig
from pathopatch.core.errors import InputUnsupportedError, MppMissingError
from pathopatch.core.files import atomic_path
from pathopatch.slides.manifest import SlideRow
from pathopatch.stages.batch.slide_table import open_row

if TYPE_CHECKING:
    from pathopatch.patches.describe import Description
    from pathopatch.slides import Slide


def describe_row(
    row: SlideRow, config: TileConfig, *, slide_mpp: float | None = None, picture: Path | None = None
) -> Description:
    """Return the facts of one slide (see `slides_to_predict`); write a PNG of it with the tissue's outline and a bar.

    `slide_mpp` is in um per level-0 px, for files that state none. A `picture` that is there is replaced.

    Raises
    ------
    InputUnsupportedError
        The picture's name does not end in ``.png``, or it is one of the slide's files.
    PathopatchError
        The slide cannot be opened or read.
    """
    from pathopatch.patches.describe import describe_slide, thumbnail
    from pathopatch.patches.picture import write_png

    with open_row(row, fallback_mpp=slide_mpp) as slide:
        if picture is not None:
            _require_picture(picture, slide)
        description = describe_slide(slide, config, slide_id=row.slide_id)
        if not slide.has_mpp:
            description = replace(description, warnings=(_missing_mpp(slide), *description.warnings))
    if picture is not None:
        with atomic_path(picture) as temporary:
            write_png(temporary, thumbnail(description))
    return description


def _missing_mpp(slide: Slide) -> str:
    """Return in the words of the error that every other command stops with that a slide's mpp is unknown."""
    try:
        return f"{slide.mpp:g} um/px"
    except MppMissingError as error:
        return str(error)


def _require_picture(path: Path, slide: Slide) -> None:
    """Refuse a picture that would be no PNG by its name, or stand in place of the slide."""
    if path.suffix.lower() != ".png" or path.resolve() in {file.resolve() for file in slide.paths}:
        raise InputUnsupportedError(
            f"a picture {path.name!r}", place="--out", remedy="give the name of a PNG file that is not the slide's own"
        )

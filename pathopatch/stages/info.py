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


def describe_row(
    row: SlideRow, config: TileConfig, *, slide_mpp: float | None = None, picture: Path | None = None
) -> Description:
    """Return the facts of one slide (see `slides_to_predict`); write a PNG of it with the tissue's outline and a bar.

    `slide_mpp` is in um per level-0 px, for files that state none. A `picture` that is there is replaced, unless it is
    one of the slide's files.
    """
    from pathopatch.patches.describe import describe_slide, thumbnail
    from pathopatch.patches.picture import write_png

    with open_row(row, fallback_mpp=slide_mpp) as slide:
        own = {file.resolve() for file in slide.paths}
        if picture is not None and (picture.suffix.lower() != ".png" or picture.resolve() in own):
            raise InputUnsupportedError(
                f"a picture {picture.name!r}",
                place="--out",
                remedy="give the name of a PNG file that is not the slide's own",
            )
        description = describe_slide(slide, config, slide_id=row.slide_id)
        try:
            _ = slide.mpp
        except MppMissingError as error:  # with which every other command stops
            description = replace(description, warnings=(str(error), *description.warnings))
    if picture is not None:
        with atomic_path(picture) as temporary:
            write_png(temporary, thumbnail(description))
    return description

"""Write the contact sheet of a cohort's tissue, to be checked before training: ``tissue/`` in a work folder.

A page, the sheet as PNG, and the outline of each slide for QuPath. An outline that a person changed is kept.
"""

from __future__ import annotations

import hashlib
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from pathopatch.core.artefacts import read_stamp, read_table
from pathopatch.core.errors import InputMissingError, InputUnsupportedError
from pathopatch.core.files import atomic_path, inside, read_json, write_bytes, write_json
from pathopatch.core.progress import Progress
from pathopatch.core.text import pluralize
from pathopatch.core.work_folder import WorkFolder
from pathopatch.patches import PatchStore
from pathopatch.patches.annotations.tissue_outlines import tissue_geojson
from pathopatch.patches.picture import FAINT, INK, PAPER, Picture, font, shortened, write_png
from pathopatch.report.rendering import render
from pathopatch.report.tissue import TissueFacts, read_tissue_facts, tissue_picture, write_tissue_pictures

FOLDER = "tissue"
_DIGESTS = "outlines.json"
_SLIDES_A_SHEET, _COLUMNS = 60, 6
_PICTURE_PX, _FRAME_PX, _GAP_PX = 300, 6, 16
_TEXT_PX, _LINE_PX = 18, 24
_REASON_PX, _REASON_LINE_PX, _REASON_LINES, _REASON_LETTERS = 14, 18, 3, 42
_ALARM = (190, 30, 30)  # RGB of the frame and reasons of a slide to check first


@dataclass(frozen=True, kw_only=True)
class ContactSheet:
    """The files that `write_contact_sheet` wrote.

    Parameters
    ----------
    page : Path
        ``tissue/index.html``.
    sheets : tuple of Path
        PNG files.
    first : tuple of TissueFacts
        Slides to check first, worst first.
    kept : tuple of Path
        Outlines that a person changed after they were written; they were left as they are.
    without_overview : tuple of str
        Sets of ready patches, which cannot be drawn.
    """

    page: Path
    sheets: tuple[Path, ...]
    first: tuple[TissueFacts, ...]
    kept: tuple[Path, ...]
    without_overview: tuple[str, ...]


def write_contact_sheet(
    work: Path, out: Path | None = None, *, force: bool = False, progress: Progress | None = None
) -> ContactSheet:
    """Draw all tiled slides of a work folder with their tissue outlined, worst first.

    Parameters
    ----------
    work : Path
        Work folder that `tile` wrote to.
    out : Path, optional
        PNG file of the contact sheet; default: ``tissue/contact-sheet.png``. Of more than 60 slides, further sheets
        stand beside it with a number.
    force : bool
        Also replace outlines that a person changed.
    progress : callable, optional
        Called after each slide.

    Raises
    ------
    InputMissingError
        No slide is tiled, or only ready patches are, which have no overview.
    InputUnsupportedError
        `out` is not called ``.png``.
    InputCorruptError, StaleArtefactError
        A store cannot be read, or is of another schema.
    DiskFullError
        No space was left.
    """
    folder = inside(work, FOLDER)
    sheet = folder / "contact-sheet.png" if out is None else out
    if sheet.suffix.lower() != ".png":
        raise InputUnsupportedError(f"a sheet {sheet.name!r}", place="--out", remedy="give the name of a PNG file")
    tiled = WorkFolder(work).tiled
    stores = {path.stem: path for path in sorted(tiled.root.glob("slides/*.zarr")) if read_stamp(path) is not None}
    if not stores:
        raise InputMissingError("no slide is tiled", place=str(work), remedy="run pathopatch tile first")
    facts = read_tissue_facts(stores)
    without = tuple(name for name in stores if name not in {slide.slide_id for slide in facts})
    if not facts:
        raise InputMissingError(
            f"no tiled slide has an overview: {', '.join(without)} holds ready patches, which come without one",
            place=str(work),
            remedy="look at the patches themselves; the contact sheet is for slides",
        )
    with atomic_path(folder / "pictures") as pictures:
        write_tissue_pictures(stores, facts, pictures)
    name = work.resolve().name
    sheets = _write_sheets(stores, facts, sheet, title=name, progress=progress)
    outlines, kept = _write_geojson(tiled.slides, stores, facts, folder, force=force)
    page = render(
        "contact_sheet.html.j2", title=f"Tissue: {name}", slides=facts, outlines=outlines, without_overview=without
    )
    write_bytes(folder / "index.html", page.encode())
    return ContactSheet(
        page=folder / "index.html",
        sheets=sheets,
        first=tuple(slide for slide in facts if slide.reasons),
        kept=kept,
        without_overview=without,
    )


def _write_sheets(
    stores: Mapping[str, Path], facts: Sequence[TissueFacts], path: Path, *, title: str, progress: Progress | None
) -> tuple[Path, ...]:
    """Write the slides, 60 a sheet, remove further old sheets, and return the files."""
    n_sheets = -(-len(facts) // _SLIDES_A_SHEET)
    paths = [path, *(path.with_stem(f"{path.stem}-{number}") for number in range(2, n_sheets + 1))]
    for number, place in enumerate(paths):
        start = number * _SLIDES_A_SHEET
        cells = []
        for done, slide in enumerate(facts[start : start + _SLIDES_A_SHEET], start + 1):
            cells.append(_cell(PatchStore(stores[slide.slide_id]), slide))
            if progress:
                progress("tissue", done, len(facts), slide.slide_id)
        heading = f"{title}: tissue of {pluralize(len(facts), 'slide')}, worst first"
        heading += f", sheet {number + 1} of {n_sheets}" if n_sheets > 1 else ""
        with atomic_path(place) as temporary:
            write_png(temporary, _joined(cells, heading))
    # Sheets of an earlier, larger cohort would be taken for this one's.
    number = n_sheets + 1
    while (old := path.with_stem(f"{path.stem}-{number}")).is_file():
        old.unlink()
        number += 1
    return tuple(paths)


def _cell(store: PatchStore, facts: TissueFacts) -> Picture:
    """Return a slide's picture with its id, tissue share and confidence; with reasons, in a red frame."""
    view = tissue_picture(store, longest_px=_PICTURE_PX)
    factor = max(1, _PICTURE_PX // max(view.shape[:2]))
    # Whole pixels are repeated, so that a one-pixel outline stays sharp.
    view = view.repeat(factor, axis=0).repeat(factor, axis=1)
    height, width = view.shape[:2]
    box = _PICTURE_PX + 2 * _FRAME_PX
    cell = Image.new("RGB", (box, box + 2 * _LINE_PX + _REASON_LINES * _REASON_LINE_PX), PAPER)
    left, top = (box - width) // 2, (box - height) // 2
    cell.paste(Image.fromarray(view), (left, top))
    draw = ImageDraw.Draw(cell)
    draw.rectangle((left - 1, top - 1, left + width, top + height), outline=FAINT)
    if facts.reasons:
        draw.rectangle((0, 0, box - 1, box - 1), outline=_ALARM, width=_FRAME_PX - 2)
    share = f"tissue {facts.share:.1%}"
    share += "" if facts.confidence is None else f", confidence {facts.confidence:.2f}"
    for number, text in enumerate((facts.slide_id, share)):
        at = (0, box + number * _LINE_PX)
        draw.text(at, shortened(text, box, _TEXT_PX), fill=INK, font=font(_TEXT_PX))
    lines = textwrap.wrap("; ".join(facts.reasons), _REASON_LETTERS, max_lines=_REASON_LINES, placeholder="…")
    for number, text in enumerate(lines):
        at = (0, box + 2 * _LINE_PX + number * _REASON_LINE_PX)
        draw.text(at, shortened(text, box, _REASON_PX), fill=_ALARM, font=font(_REASON_PX))
    return np.asarray(cell)


def _joined(cells: Sequence[Picture], heading: str) -> Picture:
    """Return the cells row by row on one sheet, below a heading and a key."""
    height, width = cells[0].shape[:2]
    columns = min(_COLUMNS, max(len(cells), 3))  # the heading needs the width of three cells
    rows, top = -(-len(cells) // columns), 2 * _GAP_PX + 2 * _LINE_PX
    size = (_GAP_PX + columns * (width + _GAP_PX), top + rows * (height + _GAP_PX))
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    key = "Outlined: taken for tissue. Grey stripes: not scanned. Red frame: look at this first. Research use only."
    for number, text in enumerate((heading, key)):
        at = (_GAP_PX, _GAP_PX + number * _LINE_PX)
        draw.text(at, shortened(text, size[0] - 2 * _GAP_PX, _TEXT_PX), fill=INK, font=font(_TEXT_PX))
    for number, cell in enumerate(cells):
        row, column = divmod(number, columns)
        sheet.paste(Image.fromarray(cell), (_GAP_PX + column * (width + _GAP_PX), top + row * (height + _GAP_PX)))
    return np.asarray(sheet)


def _write_geojson(
    checked: Path, stores: Mapping[str, Path], facts: Sequence[TissueFacts], folder: Path, *, force: bool
) -> tuple[dict[str, str], tuple[Path, ...]]:
    """Write each slide's outline unless a person changed the file; return file names by slide, and the kept files."""
    origins = _bounds_origins(checked)
    record = inside(folder, _DIGESTS)
    # SHA-256 of each outline as it was last written: a file with another digest was changed by a person.
    digests: dict[str, str] = dict(read_json(record)) if record.is_file() else {}
    files, kept = {}, []
    for slide_id in (slide.slide_id for slide in facts if slide.slide_id in origins):
        path = inside(folder, f"{slide_id}.geojson")
        store = PatchStore(stores[slide_id])
        files[slide_id] = path.name
        if path.is_file() and not force:
            # The manifest may name this very file as the mask: written anew, it would make the tiling stale.
            if store.attributes["tissue"].get("is_supplied"):
                continue
            if hashlib.sha256(path.read_bytes()).hexdigest() != digests.get(slide_id):
                kept.append(path)
                continue
        text = tissue_geojson(
            store.tissue() != 0,
            slide_id=slide_id,
            slide_size=tuple(store.attributes["size_px"]),
            bounds_origin=origins[slide_id],
        ).encode()
        write_bytes(path, text)
        digests[slide_id] = hashlib.sha256(text).hexdigest()
    write_json(record, digests)
    return files, tuple(kept)


def _bounds_origins(checked: Path) -> dict[str, tuple[int, int]]:
    """Return the top-left corner of each slide's bounds, level-0 px, from ``slides.parquet``."""
    if not checked.is_file():
        return {}
    table = read_table(checked)
    bounds = zip(table["slide_id"], table["bounds"].astype(str).str.split(","), strict=True)
    return {str(slide_id): (int(box[0]), int(box[1])) for slide_id, box in bounds if len(box) == 4}

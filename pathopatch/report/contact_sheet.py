"""Write the contact sheet of a cohort's tissue, for a person to look at before training: ``tissue/`` in a work folder.

A page, the sheet as PNG, and the outline of each slide for QuPath. An outline that somebody changed is kept.
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
from pathopatch.report.markup import BANNER, Html, document, paragraph, tag
from pathopatch.report.tissue import first_to_look, gallery, tissue_picture, write_outlines
from pathopatch.report.tissue_facts import TissueFacts, read_tissue_facts

FOLDER = "tissue"
_WRITTEN = "outlines.json"
_PAGE_SLIDES, _COLUMNS = 60, 6
_PICTURE_PX, _FRAME_PX, _GAP = 300, 6, 16
_TEXT_PX, _LINE = 18, 24
_REASON_PX, _REASON_LINE, _REASON_LINES, _REASON_LETTERS = 14, 18, 3, 42
_ALARM = (190, 30, 30)  # frame and reasons of a slide to look at first


@dataclass(frozen=True, kw_only=True)
class ContactSheet:
    """What was written.

    Parameters
    ----------
    page : Path
        ``tissue/index.html``.
    sheets : tuple of Path
        PNG files.
    first : tuple of TissueFacts
        Slides to look at first, worst first.
    kept : tuple of Path
        Outlines that were changed since they were written, and left as they are.
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
        Replace outlines that somebody changed, too.
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
    found = sorted(WorkFolder(work).tiled.root.glob("slides/*.zarr"))
    stores = {path.stem: path for path in found if read_stamp(path) is not None}
    facts = read_tissue_facts(stores)
    without = tuple(name for name in stores if name not in {each.slide_id for each in facts})
    if not facts:
        raise _nothing_to_draw(work, without)
    with atomic_path(folder / "pictures") as pictures:
        outlines = write_outlines(stores, facts, pictures, href="pictures")
    name = work.resolve().name
    sheets = _write_sheets(stores, facts, sheet, title=name, progress=progress)
    written, kept = _write_geojson(WorkFolder(work).tiled.root, stores, facts, folder, force=force)
    page = folder / "index.html"
    write_bytes(page, _page(name, facts, gallery(outlines, links=written), without).encode())
    return ContactSheet(
        page=page,
        sheets=sheets,
        first=tuple(each for each in facts if each.reasons),
        kept=kept,
        without_overview=without,
    )


def _nothing_to_draw(work: Path, without: Sequence[str]) -> InputMissingError:
    """Return the error of a work folder in which no slide has an overview."""
    if not without:
        return InputMissingError("no slide is tiled", place=str(work), remedy="run pathopatch tile first")
    return InputMissingError(
        f"no tiled slide has an overview: {', '.join(without)} holds ready patches, between which nothing lies",
        place=str(work),
        remedy="look at the patches themselves; the contact sheet is for slides",
    )


def _write_sheets(
    stores: Mapping[str, Path], facts: Sequence[TissueFacts], path: Path, *, title: str, progress: Progress | None
) -> tuple[Path, ...]:
    """Write the slides, 60 a sheet, and remove the sheets of an earlier, larger cohort; return the files."""
    pages = -(-len(facts) // _PAGE_SLIDES)
    paths = [path, *(path.with_stem(f"{path.stem}-{number}") for number in range(2, pages + 1))]
    for number, place in enumerate(paths):
        start = number * _PAGE_SLIDES
        cells = []
        for done, each in enumerate(facts[start : start + _PAGE_SLIDES], start + 1):
            cells.append(_cell(PatchStore(stores[each.slide_id]), each))
            if progress:
                progress("tissue", done, len(facts), each.slide_id)
        heading = f"{title}: tissue of {pluralize(len(facts), 'slide')}, worst first"
        heading += f", sheet {number + 1} of {pages}" if pages > 1 else ""
        with atomic_path(place) as temporary:
            write_png(temporary, _joined(cells, heading))
    number = pages + 1
    while (old := path.with_stem(f"{path.stem}-{number}")).is_file():
        old.unlink()
        number += 1
    return tuple(paths)


def _cell(store: PatchStore, facts: TissueFacts) -> Picture:
    """Return a slide's picture with its id, tissue share, confidence and, framed in red, why to look at it first."""
    view = tissue_picture(store, longest_px=_PICTURE_PX)
    factor = max(1, _PICTURE_PX // max(view.shape[:2]))
    view = view.repeat(factor, axis=0).repeat(factor, axis=1)
    height, width = view.shape[:2]
    box = _PICTURE_PX + 2 * _FRAME_PX
    cell = Image.new("RGB", (box, box + 2 * _LINE + _REASON_LINES * _REASON_LINE), PAPER)
    left, top = (box - width) // 2, (box - height) // 2
    cell.paste(Image.fromarray(view), (left, top))
    draw = ImageDraw.Draw(cell)
    draw.rectangle((left - 1, top - 1, left + width, top + height), outline=FAINT)
    if facts.reasons:
        draw.rectangle((0, 0, box - 1, box - 1), outline=_ALARM, width=_FRAME_PX - 2)
    share = f"tissue {facts.share:.1%}"
    share += "" if facts.confidence is None else f", confidence {facts.confidence:.2f}"
    for number, text in enumerate((facts.slide_id, share)):
        at = (0, box + number * _LINE)
        draw.text(at, shortened(text, box, _TEXT_PX), fill=INK, font=font(_TEXT_PX))
    said = textwrap.wrap("; ".join(facts.reasons), _REASON_LETTERS, max_lines=_REASON_LINES, placeholder="…")
    for number, text in enumerate(said):
        at = (0, box + 2 * _LINE + number * _REASON_LINE)
        draw.text(at, shortened(text, box, _REASON_PX), fill=_ALARM, font=font(_REASON_PX))
    return np.asarray(cell)


def _joined(cells: Sequence[Picture], heading: str) -> Picture:
    """Return the cells row by row on one sheet, below a heading and a key."""
    height, width = cells[0].shape[:2]
    columns = min(_COLUMNS, max(len(cells), 3))  # the heading needs the room of three
    rows, head = -(-len(cells) // columns), _GAP + 2 * _LINE
    size = (_GAP + columns * (width + _GAP), head + _GAP + rows * (height + _GAP))
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    key = "Outlined: taken for tissue. Grey stripes: not scanned. Red frame: look at this first. Research use only."
    for number, text in enumerate((heading, key)):
        at = (_GAP, _GAP + number * _LINE)
        draw.text(at, shortened(text, size[0] - 2 * _GAP, _TEXT_PX), fill=INK, font=font(_TEXT_PX))
    for number, cell in enumerate(cells):
        row, column = divmod(number, columns)
        sheet.paste(Image.fromarray(cell), (_GAP + column * (width + _GAP), head + _GAP + row * (height + _GAP)))
    return np.asarray(sheet)


def _write_geojson(
    tiled: Path, stores: Mapping[str, Path], facts: Sequence[TissueFacts], folder: Path, *, force: bool
) -> tuple[dict[str, str], tuple[Path, ...]]:
    """Write each slide's outline unless somebody changed the file; return file names by slide, and what was kept."""
    origins = _bounds_origins(tiled)
    record = inside(folder, _WRITTEN)
    digests: dict[str, str] = dict(read_json(record)) if record.is_file() else {}
    files, kept = {}, []
    for slide_id in (each.slide_id for each in facts if each.slide_id in origins):
        path = inside(folder, f"{slide_id}.geojson")
        store = PatchStore(stores[slide_id])
        files[slide_id] = path.name
        there = path.read_bytes() if path.is_file() else None
        is_own = there is None or hashlib.sha256(there).hexdigest() == digests.get(slide_id)
        if there is not None and store.attributes["tissue"].get("is_supplied") and not force:
            continue  # the slide may be tiled by this very file
        if not is_own and not force:
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


def _bounds_origins(tiled: Path) -> dict[str, tuple[int, int]]:
    """Return the corner of each slide's bounds, level-0 px, as the stage `check` wrote it down."""
    path = WorkFolder(tiled).slides
    if not path.is_file():
        return {}
    table = read_table(path)
    bounds = zip(table["slide_id"], table["bounds"].astype(str).str.split(","), strict=True)
    return {str(slide_id): (int(box[0]), int(box[1])) for slide_id, box in bounds if len(box) == 4}


def _page(name: str, facts: Sequence[TissueFacts], pictures: Html, without: Sequence[str]) -> str:
    """Return the page: what to look at first, how to correct an outline, and all slides."""
    title = f"Tissue: {name}"
    body = [first_to_look(facts)]
    if without:
        body.append(
            paragraph(f"Ready patches have no overview and are not drawn: {', '.join(without)}.", kind="absent")
        )
    correct = paragraph(
        "To correct an outline, drag its file into QuPath with the slide open, delete, redraw or add annotations, and "
        "export all of them as GeoJSON. Name that file in the manifest's column tissue_mask and tile again with "
        "--force. Annotations of the class Ignore* are cut out; all others are tissue."
    )
    header = tag(
        "header",
        tag("h1", title),
        paragraph(f"{pluralize(len(facts), 'slide')}, worst first. Grey stripes were not scanned.", kind="lead"),
        paragraph(BANNER, kind="banner"),
    )
    return document(title, header, tag("main", *body, correct, pictures))

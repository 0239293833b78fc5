"""Rows of a manifest: slides, what their ids and paths mean, and the pseudonyms of de-identified ones."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pathopatch.core.artefacts import fingerprint, fingerprint_file
from pathopatch.core.errors import DuplicateIdError, PathopatchError

SPLITS = ("train", "val", "test")
"""The splits of a cohort, in the order in which tables show them."""

SLIDE_SUFFIXES = (
    ".svs", ".tif", ".tiff", ".ndpi", ".scn", ".mrxs", ".vms", ".vmu", ".svslide", ".bif", ".btf", ".tf8", ".qptiff",
    ".czi", ".dcm", ".zarr", ".png", ".jpg", ".jpeg",
)  # fmt: skip
"""Endings of the files and folders that slides are, in lower case."""
_DIGITS = 16
PSEUDONYM = re.compile(rf"slide-(?:[0-9a-f]{{{_DIGITS}}}|of-row-\d+)")
_CHOICE = r"(?:page|plane|z|t)=\d{1,9}"
_FRAGMENT = re.compile(rf"(?P<path>.+?)#(?P<choices>{_CHOICE}(?:&{_CHOICE}){{0,3}})")
_MOST_ID_BYTES = 128  # names of files are made of ids, which have 255 bytes at most
ID_REMEDY = (
    f"use letters, digits, '.', '_' and '-', first a letter or digit, {_MOST_ID_BYTES} bytes at most, "
    "and no name that Windows reserves"
)
"""What to do about an id that is not allowed."""
_RESERVED_ON_WINDOWS = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}
_ZARR_GROUP = ("zarr.json", ".zattrs", ".zgroup")


@dataclass(frozen=True, kw_only=True)
class SlideRow:
    """One slide of a manifest."""

    slide_id: str  # safe as a file name, as is the patient's
    patient_id: str
    source: str | dict[str, str]  # absolute path, or one per channel name; fragments such as ``#page=2`` are kept
    row: int  # as a spreadsheet counts: the header is row 1
    split: str = ""  # one of `SPLITS`; "": the patient is still to be assigned
    channels: tuple[str, ...] | None = None  # names of the planes of a multi-plane file
    mpp: float | None = None  # um per level-0 px, in place of what the file says
    tumor_mask: Path | None = None  # raster; None: there is none, or the whole slide is non-tumour
    whole_slide_non_tumor: bool = False  # the manifest says ``none`` for the tumour mask
    labelled_mask: Path | None = None  # what was labelled at all
    annotations: Path | None = None  # outlines by a pathologist
    tissue_mask: Path | None = None  # raster or outlines; None: the tissue is found
    background: str | None = None  # None: it is guessed
    slide_label: int | None = None  # 0 or 1, of the slide as a whole; None: it has none
    exclude: bool = False  # checked, and left out of the work
    # Of the cohort, not of the manifest: a slide with the same ones in another order or case is read in this one.
    channel_order: tuple[str, ...] | None = None
    fallback_mpp: float | None = None  # um per level-0 px where neither manifest nor file states it

    @property
    def has_tumor(self) -> bool:
        """Whether anything says where tumour is, or that there is none."""
        return self.tumor_mask is not None or self.annotations is not None or self.whole_slide_non_tumor

    @property
    def sources(self) -> tuple[str, ...]:
        """All paths with their fragments, in channel order."""
        return (self.source,) if isinstance(self.source, str) else tuple(self.source.values())


@dataclass(frozen=True)
class Manifest:
    """A checked table of slides."""

    rows: tuple[SlideRow, ...]  # in the order of the file, excluded ones too
    path: Path  # the CSV file

    def __iter__(self) -> Iterator[SlideRow]:
        return iter(self.rows)

    @property
    def included(self) -> tuple[SlideRow, ...]:
        """The rows to work on."""
        return tuple(row for row in self.rows if not row.exclude)


@dataclass(frozen=True)
class Fragment:
    """A file, and what is chosen of it: numbers count from 0, None: all."""

    path: str
    page: int | None = None  # over the full-resolution pages, in the order of the file
    plane: int | None = None  # over the planes of the chosen pages
    z: int | None = None  # position on this axis, as the file's metadata name it
    t: int | None = None


def split_fragment(text: str) -> Fragment:
    """Return the file that a path names, and what is chosen of it, as in ``a.tif#page=2&plane=0`` or ``a.tif#z=3``."""
    match = _FRAGMENT.fullmatch(text)
    if match is None:
        return Fragment(text)
    pairs = [choice.split("=") for choice in match["choices"].split("&")]
    chosen = {name: int(number) for name, number in pairs}
    # One word given twice is no fragment: the text may be the name of a file.
    if len(chosen) < len(pairs):
        return Fragment(text)
    return Fragment(match["path"], **chosen)


def expand_variables(text: str) -> tuple[str, str]:
    """Return a text with ``${NAME}`` replaced from the environment, and the first undefined name or ""."""
    names = re.findall(r"\$\{([^}]*)\}", text)
    undefined = next((name for name in names if name not in os.environ), "")
    return re.sub(r"\$\{([^}]*)\}", lambda match: os.environ.get(match[1], ""), text), undefined


def valid_slide_id(text: str) -> bool:
    """Return whether a text may be an id: a plain file name on every system, and harmless in a spreadsheet.

    Letters and digits of any script are allowed, in Unicode's form NFC.
    """
    if not text or not _is_alphanumeric(text[0]) or text.endswith(".") or not all(map(_is_id_character, text)):
        return False
    is_bounded = len(text.encode()) <= _MOST_ID_BYTES and unicodedata.is_normalized("NFC", text)
    # Windows reserves these names with any ending too.
    return is_bounded and text.split(".")[0].casefold() not in _RESERVED_ON_WINDOWS


def _is_alphanumeric(character: str) -> bool:
    """Return whether a character is a letter or a decimal digit."""
    return unicodedata.category(character) in ("Lu", "Ll", "Lt", "Lm", "Lo", "Nd")


def _is_id_character(character: str) -> bool:
    """Return whether a character may stand inside an id."""
    # Some scripts write vowels and accents as marks of their own. Marks that change the direction are none of these.
    return character in "._-" or _is_alphanumeric(character) or unicodedata.category(character) in ("Mn", "Mc")


def slide_id_from_path(path: Path | str) -> str:
    """Return an id for a slide that has none: its file's stem, forbidden characters replaced by ``_``."""
    return slide_id_from_text(Path(split_fragment(str(path)).path).stem)


def slide_id_from_text(text: str) -> str:
    """Return the id that is most like a text."""
    safe = "".join(c if _is_id_character(c) else "_" for c in unicodedata.normalize("NFC", text))
    while safe and not _is_alphanumeric(safe[0]):
        safe = safe[1:]
    safe = _cut(safe)
    return safe if valid_slide_id(safe) else _cut(f"slide_{safe}")


def _cut(text: str) -> str:
    """Return the beginning of a text that is short enough for an id."""
    return text.encode()[:_MOST_ID_BYTES].decode(errors="ignore").rstrip(".")


def is_file(path: str) -> bool:
    """Return whether a file is there."""
    # Not Path.is_file, which raises for too long a name, or one with a zero byte; Path drops a trailing slash.
    return os.path.isfile(Path(path))  # noqa: PTH113


def is_folder(path: str) -> bool:
    """Return whether a folder is there."""
    return os.path.isdir(path)  # noqa: PTH112  # see `is_file`


def is_slide(path: str) -> bool:
    """Return whether a file or an OME-Zarr folder is there."""
    # A folder is not searched: a wrong path may name a whole disk.
    return is_file(path) or any(is_file(str(Path(path) / name)) for name in _ZARR_GROUP)


def pseudonymize(rows: Sequence[SlideRow]) -> list[SlideRow]:
    """Return the rows with pseudonyms as slide ids and without patients; DuplicateIdError if two rows are one slide.

    A slide has the same pseudonym in every run, as long as the content of its files is the same.
    """
    by_pseudonym: dict[str, SlideRow] = {}
    for row in rows:
        name = pseudonym(row)
        if name in by_pseudonym:
            both = f"rows {by_pseudonym[name].row} and {row.row}"
            raise DuplicateIdError(f"{both} are one slide", place=name, remedy="name each slide once")
        by_pseudonym[name] = replace(row, slide_id=name, patient_id="")
    return list(by_pseudonym.values())


def pseudonym(row: SlideRow) -> str:
    """Return a slide's name made of its files' content, their channels, and pages or planes."""
    sources = row.source if isinstance(row.source, dict) else {"": row.source}
    try:
        parts = {}
        for channel, text in sources.items():
            fragment = Fragment(text) if Path(text).exists() else split_fragment(text)
            # Only what is chosen: a choice that a later version adds must not rename the slides of this one.
            chosen = {name: value for name, value in asdict(fragment).items() if name != "path" and value is not None}
            parts[channel] = [fingerprint_file(Path(fragment.path)), chosen]
    except (PathopatchError, OSError):
        # The error itself is reported when the slide is opened; until then it needs a name.
        return f"slide-of-row-{row.row}"
    return f"slide-{fingerprint(parts)[:_DIGITS]}"

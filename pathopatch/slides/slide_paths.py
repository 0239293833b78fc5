"""Paths of slides, what is chosen of their files, and the ids that are made of them."""

from __future__ import annotations

import os
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from pathopatch.core.input_files import open_regular

SLIDE_SUFFIXES = (
    ".svs", ".tif", ".tiff", ".ndpi", ".scn", ".mrxs", ".vms", ".vmu", ".svslide", ".bif", ".btf", ".tf8", ".qptiff",
    ".czi", ".dcm", ".zarr", ".png", ".jpg", ".jpeg",
)  # fmt: skip
"""Endings of the files and folders that slides are, in lower case."""
_CHOICE = r"(?:page|plane|z|t)=\d{1,9}"
_FRAGMENT = re.compile(rf"(?P<path>.+?)#(?P<choices>{_CHOICE}(?:&{_CHOICE}){{0,3}})")
MOST_LIST_BYTES = 2**20  # OpenSlide refuses longer lists
_PLAIN_ID = re.compile(r"[A-Za-z0-9._-]+")
_MOST_ID_BYTES = 128  # names of files are made of ids, which have 255 bytes at most
ID_REMEDY = (
    f"use letters, digits, '.', '_' and '-', first a letter or digit, {_MOST_ID_BYTES} bytes at most, "
    "and no name that Windows reserves"
)
"""What to do about an id that is not allowed."""
_RESERVED_ON_WINDOWS = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}


@dataclass(frozen=True)
class Fragment:
    """A file, and what is chosen of it: numbers count from 0, None: all."""

    path: str
    page: int | None = None  # over the full-resolution pages, in the order of the file
    plane: int | None = None  # over the planes of the chosen pages
    z: int | None = None  # position on this axis, as the file's metadata name it
    t: int | None = None

    @property
    def chosen(self) -> tuple[int | None, ...]:
        """What is chosen of the file, without its path."""
        return self.page, self.plane, self.z, self.t


WHOLE_FILE = Fragment("")


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
    is_plain = _PLAIN_ID.fullmatch(text) is not None  # of two columns of each of thousands of rows
    if not text or not _is_alphanumeric(text[0]) or text.endswith("."):
        return False
    if not is_plain and not all(map(_is_id_character, text)):
        return False
    is_bounded = len(text.encode()) <= _MOST_ID_BYTES and unicodedata.is_normalized("NFC", text)
    # Windows reserves these names with any ending too.
    return is_bounded and text.split(".")[0].casefold() not in _RESERVED_ON_WINDOWS


def _is_alphanumeric(character: str) -> bool:
    """Return whether a character is a letter or a decimal digit."""
    return unicodedata.category(character) in ("Lu", "Ll", "Lt", "Lm", "Lo", "Nd")


def _is_id_character(character: str) -> bool:
    """Return whether a character is allowed inside an id."""
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
    # Not Path.is_file, which raises for too long a name, or one with a zero byte. A trailing slash is no difference.
    return os.path.isfile(path.rstrip("/"))  # noqa: PTH113


def is_folder(path: str) -> bool:
    """Return whether a folder is there."""
    return os.path.isdir(path)  # noqa: PTH112  # see `is_file`


def with_companions(path: Path) -> list[Path]:
    """Return a slide's file, and what is beside it of the slide: MIRAX's folder, the files that Hamamatsu's list names.

    Their pixels lie there.
    """
    name = str(path).lower()  # not `suffix`, which takes several times as long
    if name.endswith(".mrxs"):
        return [path, *filter(Path.is_dir, [path.with_suffix("")])]
    if not name.endswith((".vms", ".vmu")):
        return [path]
    try:
        with open_regular(path) as stream:
            lines = stream.read(MOST_LIST_BYTES).decode("latin-1").splitlines()
    except OSError:
        return [path]
    named = {line.partition("=")[2].strip() for line in lines}
    # Files of its folder alone; "" and ".." are none.
    files = [path.parent / name for name in sorted(named) if Path(name).name == name]
    return [path, *(file for file in files if is_file(str(file)))]


def file_of(text: str) -> Path:
    """Return the file that a path names, of which a page or a plane may be chosen."""
    return Path(text if os.path.lexists(text) else split_fragment(text).path)


def is_zarr(path: Path) -> bool:
    """Return whether a folder is a Zarr group or array of either version."""
    return is_folder(str(path)) and any(
        is_file(str(path / name)) for name in ("zarr.json", ".zgroup", ".zattrs", ".zarray")
    )

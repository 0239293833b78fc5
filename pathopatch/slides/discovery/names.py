"""What the names of files say: channel, slide, patient, and whether a file is a mask."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from pathopatch.slides.manifest import split_fragment

CHANNELS = (
    "CARS", "TPEF", "SHG", "THG", "SRS", "FLIM", "TPL", "DAPI", "Hoechst", "FITC", "TRITC", "Cy3", "Cy5", "Cy7", "GFP",
    "RFP", "YFP", "CFP", "mCherry",
)  # fmt: skip
"""Channels that are known by name, as manifests write them."""
_SEPARATOR = r"[\s_.-]+"
_MASK_WORDS = {
    "tumor_mask": {"tumor", "tumour", "cancer", "mask", "masks", "gt", "groundtruth", "annotation", "annotations"},
    "labelled_mask": {"labelled", "labeled"},
    "tissue_mask": {"tissue"},
}
_PICTURE_WORDS = {"label", "macro", "thumbnail", "thumb", "preview", "overview", "overlay", "info"}
_DOUBLE_SUFFIXES = (".ome", ".geojson", ".json", ".companion")
_PATIENT = re.compile(r"TCGA-[A-Z0-9]{2}-[A-Z0-9]{4}(?=-|$)|patient[\s_-]?\d+(?!\d)", re.IGNORECASE)
_PLACEHOLDERS = ("slide", "channel", "patient")


def stem_of(path: Path | str) -> str:
    """Return a file's name without its ending, and without the first of two, as in ``a.ome.tif``."""
    name = Path(path).name
    stem = Path(name).stem
    inner = Path(stem).suffix.lower()
    return Path(stem).stem if inner in _DOUBLE_SUFFIXES else stem


def channel_of(stem: str) -> tuple[str, str] | None:
    """Return the known channel that stands in a stem, and the stem without it; None if there is not exactly one."""
    found = [(name, rest) for name in CHANNELS if (rest := without_channel(stem, name)) is not None]
    return found[0] if len(found) == 1 else None


def without_channel(stem: str, channel: str) -> str | None:
    """Return a stem without a channel's name, in any case, and its separators; None if it does not stand there alone.

    Examples
    --------
    >>> without_channel("s01-cars_20x", "CARS")
    's01_20x'
    """
    pattern = rf"(?:^|{_SEPARATOR}){re.escape(channel)}(?=$|{_SEPARATOR})"
    rest, count = re.subn(pattern, "", stem, flags=re.IGNORECASE)
    return _trimmed(rest) if count == 1 else None


def set_name(files: Mapping[str, Path | str]) -> str:
    """Return the name of a slide with one file per channel: what is left of their stems without the channels.

    Where nothing is left it is the name of their folder, and where stems have nothing in common the first stem.
    """
    paths = [Path(split_fragment(str(path)).path) for path in files.values()]
    rests = {
        stem if (rest := without_channel(stem, name)) is None else rest
        for name, stem in zip(files, map(stem_of, paths), strict=True)
    }
    folders = {path.absolute().parent.name for path in paths}
    if rests == {""} and len(folders) == 1:
        return folders.pop()
    return rests.pop() if len(rests) == 1 and rests != {""} else stem_of(paths[0])


def mask_role(stem: str) -> tuple[str, str] | None:
    """Return the manifest's column for a mask, by the words at the end of its stem, and the stem without them."""
    words, rest = _last_words(stem, set().union(*_MASK_WORDS.values()))
    for column in ("labelled_mask", "tissue_mask", "tumor_mask"):
        if words & _MASK_WORDS[column]:
            return column, rest
    return None


def picture_of(stem: str) -> str | None:
    """Return the stem of the slide that a thumbnail or a picture of the label is of, by its last word; else None."""
    words, rest = _last_words(stem, _PICTURE_WORDS)
    return rest if words else None


def _last_words(stem: str, known: set[str]) -> tuple[set[str], str]:
    """Return which known words stand at the end of a stem, and what stands before them."""
    parts = re.split(f"({_SEPARATOR})", stem)  # words at even places, separators between them
    words: set[str] = set()
    while parts and parts[-1].casefold() in known:
        words.add(parts.pop().casefold())
        parts = parts[:-1]
    return words, _trimmed("".join(parts))


def patient_in(stem: str) -> str | None:
    """Return the patient that a stem names in a known way: a TCGA barcode, or ``patient_017``."""
    match = _PATIENT.match(stem)
    return match[0] if match else None


def pattern_regex(pattern: str) -> re.Pattern[str]:
    """Return the expression of a pattern such as ``{slide}_{channel}.tif``, whatever the case; ``*`` is any text.

    A pattern with a slash is of the path below the folder, another one of the file's name.

    Raises
    ------
    ValueError
        It has no ``{slide}``, a word in braces that is not known, or one twice.
    """
    words = re.findall(r"\{([^{}]*)\}", pattern)
    if "slide" not in words or not set(words) <= set(_PLACEHOLDERS) or len(set(words)) < len(words):
        raise ValueError(pattern)
    pieces = re.split(r"(\{[^{}]*\}|\*)", pattern)
    return re.compile("".join(_piece(piece) for piece in pieces), re.IGNORECASE)


def _piece(text: str) -> str:
    """Return the expression of a part of a pattern."""
    if text.startswith("{"):
        return f"(?P<{text[1:-1]}>[^/]+)"
    return "[^/]*" if text == "*" else re.escape(text)


def _trimmed(text: str) -> str:
    return re.sub(rf"^{_SEPARATOR}|{_SEPARATOR}$", "", text)

"""Divide a cohort among folders that share no locks: ``predict --part 3/20``.

A slide is of the part that the hash of its id names. Each part leaves ``parts/<number>-of-<parts>.json`` with the ids
of its slides, so that a folder into which the files of all parts were copied knows what is missing.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pathopatch.core.artefacts import fingerprint
from pathopatch.core.errors import InputMissingError, InputUnsupportedError
from pathopatch.core.files import read_json, write_json
from pathopatch.core.task import HasSlideId
from pathopatch.core.work_folder import WorkFolder
from pathopatch.slides.manifest import is_manifest

S = TypeVar("S", bound=HasSlideId)


def part_of_manifest(
    sources: Sequence[str],
    out: Path,
    rows: Sequence[S],
    part: str,
    named: Callable[[list[S]], Sequence[HasSlideId]] | None,
) -> list[S]:
    """Return the slides of one part of a manifest, such as ``3/20``, and write into a folder which these are.

    `named` returns them under the names that outputs have; without it nothing is written.

    Raises
    ------
    InputUnsupportedError
        `part` is no such text, or the sources are no manifest.
    """
    match = re.fullmatch(r"([1-9]\d{0,5})/([1-9]\d{0,5})", part, re.ASCII)
    if match is None or int(match[1]) > int(match[2]):
        raise InputUnsupportedError(f"no part {part!r}", place="--part", remedy="write 3/20 for the third of 20")
    if len(sources) > 1 or not is_manifest(sources[0]):
        remedy = "write a manifest, in which ids are fixed: pathopatch manifest"
        raise InputUnsupportedError("a part of slides without a manifest", place=", ".join(sources[:3]), remedy=remedy)
    number, parts = int(match[1]), int(match[2])
    taken = [row for row in rows if zlib.crc32(row.slide_id.encode()) % parts == number - 1]
    if named is not None:
        cohort = fingerprint(sorted(row.slide_id for row in rows))
        values = {"cohort": cohort, "slides": [row.slide_id for row in named(taken)]}
        write_json(WorkFolder(out).parts / f"{number}-of-{parts}.json", values)
    return taken


@dataclass(frozen=True)
class Parts:
    """The parts of a cohort that a folder holds."""

    slide_ids: frozenset[str] = frozenset()  # of the parts that are there
    text: str = ""  # "part 3 of 20", "all 20 parts"; "" where the cohort was not divided


def read_parts(out: Path, *, is_whole: bool = False) -> Parts:
    """Return what parts a folder holds; a folder of several, and with `is_whole` any, must hold them all.

    Raises
    ------
    InputMissingError
        A part is missing.
    InputUnsupportedError
        The parts are of different cohorts, or of different numbers of parts.
    InputCorruptError
        A file of ``parts`` cannot be read.
    """
    folder = WorkFolder(out).parts
    paths = [path for path in sorted(folder.glob("*.json")) if re.fullmatch(r"\d+-of-\d+", path.stem, re.ASCII)]
    if not paths:
        return Parts()
    marks = [read_json(path) for path in paths]
    numbers, totals = zip(*([int(number) for number in path.stem.split("-of-")] for path in paths), strict=True)
    if len({*totals}) > 1 or len({mark["cohort"] for mark in marks}) > 1:
        raise InputUnsupportedError(
            f"the parts {', '.join(path.stem for path in paths)} are not of one cohort",
            place=str(folder),
            remedy="put the parts of one manifest into one folder, all by the same number of parts",
        )
    missing = sorted({*range(1, totals[0] + 1)} - {*numbers})
    if missing and (is_whole or len(paths) > 1):
        raise InputMissingError(
            f"of {totals[0]} parts these are missing: {', '.join(map(str, missing))}",
            place=str(folder),
            remedy="copy the files of these parts here, too; predict --part makes them",
        )
    text = f"part {numbers[0]} of {totals[0]}" if missing else f"all {totals[0]} parts"
    return Parts(frozenset(str(slide_id) for mark in marks for slide_id in mark["slides"]), text)

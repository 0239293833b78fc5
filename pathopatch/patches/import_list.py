"""Read a set of existing patches: its list (CSV file or folder), and the images that it names.

A list is checked in full, and every problem is reported at once.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.core.artefacts import fingerprint_file
from pathopatch.core.config import MOST_PX, ReadyConfig, mpp_agrees
from pathopatch.core.csv_table import read_csv_table
from pathopatch.core.errors import (
    ChannelMismatchError,
    InputMissingError,
    InputUnsupportedError,
    NonFiniteError,
    Problem,
    TableError,
)
from pathopatch.core.input_files import log_left_out, walk_files
from pathopatch.core.mask_bits import resize_masks
from pathopatch.core.patients import SPLITS, Listed, copy_problems, patient_problems
from pathopatch.patches.annotations.masks import read_mask, require_fit
from pathopatch.slides import open_slide
from pathopatch.slides.image_file import SUFFIXES, raster
from pathopatch.slides.resample import resized
from pathopatch.slides.resolution import ALPHA_NOTE
from pathopatch.slides.slide_paths import ID_REMEDY, expand_variables, valid_slide_id

LIST_NAME = "patches.csv"
"""A folder that holds this file is described by it."""
_CLASS_LABELS = {
    "tumor": "1", "tumour": "1", "1": "1",
    "non_tumor": "0", "non-tumor": "0", "non_tumour": "0", "non-tumour": "0", "0": "0",
}  # fmt: skip
_REQUIRED = ("path", "label", "patient_id")
_OPTIONAL = ("slide_id", "block", "split", "tissue_fraction", "attribute", "label_name", "tumor_mask")
_LABELS = {"1": 1, "0": 0, "-1": -1, "": -1}
_LAYOUT = "FOLDER/[train|val|test/]tumor|non_tumor/PATIENT/*.png"
_RGB = ("R", "G", "B")
_MOST_LISTED = 10  # images named in a message
_SIDE_PX = (8, MOST_PX)  # smallest and largest patch, as in TileConfig


def read_list(source: Path, distinct_patients: Collection[tuple[str, str]] = ()) -> pd.DataFrame:
    """Return the patches that a CSV file or a folder names, one row per patch.

    A `source` is a CSV file (UTF-8); or a folder with such a file ``patches.csv``; or a folder laid out as
    ``[split/]class/patient/image``, class being tumor or non_tumor (or 1, 0). Columns: path, label (1, 0; -1 or empty:
    not labelled), patient_id. Optional, in all rows or none: slide_id (the slide that the patch was cut from), block
    (its tissue array, day, site or scanner), tissue_fraction, tumor_mask (path of the patch's tumour as a mask, see
    `read_mask`). Optional: split, attribute (any values; empty: unknown), label_name (one name per label). Paths
    are relative to the file; ``${NAME}`` is replaced from the environment.
    `distinct_patients` are pairs of ids that are two patients.

    Returns
    -------
    DataFrame
        file (absolute), path (as written), label (1, 0, -1), patient_id, split ("" where open), tissue_fraction (NaN
        where not given), and source_slide, block, attribute, label_name and tumor_mask (str; its path absolute) if the
        list has them; in the order of the list.
    A TableError lists all problems, each with row, column, value and remedy.
    """
    if source.is_dir() and not (source / LIST_NAME).is_file():
        place, cells = source, _read_folder(source)
    else:
        place = source / LIST_NAME if source.is_dir() else source
        cells = _read_csv(place)
    split = cells["split"].str.casefold()
    problems = list(_find_problems(cells, place))
    for name, distinct in (("patient_id", distinct_patients), ("block", ())):
        problems += patient_problems(zip(cells[name], split, cells["row"], strict=True), distinct, column=name)
    # Images are hashed only if all of them exist.
    if not problems:
        problems = list(find_copies(cells, [fingerprint_file(Path(file)) for file in cells["file"]]))
    if problems:
        raise TableError(sorted(problems, key=lambda problem: problem.row or 0), place=str(place))
    table = pd.DataFrame(
        {
            "file": cells["file"],
            "path": cells["path"],
            "label": cells["label"].map(_LABELS).astype("int64"),
            "patient_id": cells["patient_id"],
            "split": split,
            "tissue_fraction": pd.to_numeric(cells["tissue_fraction"]).astype("float64"),
        }
    )
    # The table's own slide_id is the set's: its patches are stored together.
    names = {"slide_id": "source_slide"}
    for name in ("slide_id", "block", "attribute", "label_name", "tumor_mask"):
        if (cells[name] != "").any():
            table[names.get(name, name)] = cells[name]
    return table.reset_index(drop=True)


def _read_csv(path: Path) -> pd.DataFrame:
    """Return a file's cells as text with all columns, and each line's absolute path and row number."""
    table = read_csv_table(
        path, kind="list of patches", item="patch", required=_REQUIRED, optional=_OPTIONAL, numbers=("tissue_fraction",)
    )
    rows = [
        dict.fromkeys(_OPTIONAL, "") | {name: text.strip() for name, text in cells.items()} | {"row": number}
        for number, cells in table.rows
        if any(cells.get(name, "").strip() for name in _REQUIRED)
    ]
    if not rows and not table.problems:
        table.add_problem("INPUT_MISSING", None, "path", "", "no patch in the list", "write one row per patch")
    # Single rows can only be checked where all columns are there and every row was read in full.
    table.raise_problems()
    cells = pd.DataFrame(rows)
    cells["file"] = [_absolute(text, path) for text in cells["path"]]
    cells["tumor_mask"] = [text and _absolute(text, path) for text in cells["tumor_mask"]]
    return cells


def _absolute(text: str, place: Path) -> str:
    """Return a path of a list that lies at `place`."""
    return str((place.parent / expand_variables(text)[0]).absolute())


def _read_folder(folder: Path) -> pd.DataFrame:
    """Return the same table for a folder in the known layout."""
    rows, misplaced = [], []
    # Hidden files are none: macOS leaves twins (._name) of files on other systems' disks.
    images = (parent / name for parent, _, names in walk_files(folder, log_left_out) for name in names)
    for path in sorted(path for path in images if path.suffix.lower() in SUFFIXES):
        parts = path.relative_to(folder).parts
        split = parts[0].casefold() if len(parts) > 1 and parts[0].casefold() in SPLITS else ""
        folders, name = parts[1:-1] if split else parts[:-1], "/".join(parts)
        # Without a level of patients, patches of one patient could be in two splits: such a layout is refused.
        label = _CLASS_LABELS.get(folders[0].casefold()) if len(folders) == 2 else None
        if label is None:
            misplaced.append(name)
            continue
        file = str(path.absolute())
        rows.append({"path": name, "label": label, "patient_id": folders[1], "split": split, "file": file})
    if misplaced or not rows:
        kind = InputUnsupportedError if misplaced else InputMissingError
        raise kind(
            f"the class or patient of {len(misplaced)} images is unknown, the first is {misplaced[0]!r}"
            if misplaced
            else "no image",
            place=str(folder),
            remedy=f"lay them out as {_LAYOUT}, or write {LIST_NAME} with {', '.join(_REQUIRED)}",
        )
    return pd.DataFrame(rows).assign(**{name: "" for name in _OPTIONAL if name != "split"}, row=None)


def _find_problems(cells: pd.DataFrame, place: Path) -> Iterator[Problem]:
    """Yield the problems of single rows, and of rows that contradict each other."""
    for name in ("slide_id", "block"):
        is_missing = cells[name] == ""
        for row in cells["row"][is_missing] if not is_missing.all() else ():
            yield Problem(code="INPUT_MISSING", row=row, column=name, value="", message=f"no {name}",
                          remedy=f"give a {name} in every row, or in none")  # fmt: skip
    for name, row in cells.drop_duplicates("slide_id")[["slide_id", "row"]].itertuples(index=False):
        if name and not valid_slide_id(name):
            yield Problem(code="INPUT_UNSUPPORTED", row=row, column="slide_id", value=name,
                          message="not an allowed id", remedy=ID_REMEDY)  # fmt: skip
    has_fractions, has_masks = ((cells[name] != "").any() for name in ("tissue_fraction", "tumor_mask"))
    listed: set[str] = set()
    names: dict[str, str] = {}
    fractions = pd.to_numeric(cells["tissue_fraction"], errors="coerce")
    for row, fraction in zip(cells.to_dict("records"), fractions, strict=True):
        checks = (
            ("label", row["label"] in _LABELS, "INPUT_UNSUPPORTED", "not a label", "write 1, 0, or nothing"),
            ("patient_id", valid_slide_id(row["patient_id"]), "INPUT_UNSUPPORTED", "not an allowed id",
             ID_REMEDY),
            ("split", row["split"].casefold() in ("", *SPLITS), "INPUT_UNSUPPORTED", "not a split",
             "write train, val, test or nothing"),
            ("path", Path(row["file"]).is_file(), "INPUT_MISSING", "no such file",
             f"correct the path (relative to {place.parent})"),
            ("path", row["file"] not in listed, "DUPLICATE_ID", "the file is listed twice", "list each patch once"),
            ("tissue_fraction", not has_fractions or 0 <= fraction <= 1, "INPUT_UNSUPPORTED",
             "not in [0, 1]", "give a number from 0 to 1 in every row, or in none"),
            ("label_name", names.setdefault(row["label"], row["label_name"]) == row["label_name"], "INPUT_UNSUPPORTED",
             f"label {row['label']} was {names[row['label']]!r} before", "give each label one name, in every row"),
            ("tumor_mask", not has_masks or Path(row["tumor_mask"]).is_file(), "INPUT_MISSING", "no such file",
             f"name a file (relative to {place.parent}) in every row, or in none"),
        )  # fmt: skip
        listed.add(row["file"])
        for column, is_right, code, message, remedy in checks:
            if not is_right:
                yield Problem(
                    code=code, row=row["row"], column=column, value=row[column], message=message, remedy=remedy
                )


def find_copies(listed: pd.DataFrame, marks: Sequence[str]) -> Iterator[Problem]:
    """Yield the problems of images that are listed twice, see `copy_problems`.

    `listed` has path, label, patient_id and split, `marks` what equal images share.
    """
    numbers = listed["row"] if "row" in listed else [None] * len(listed)
    columns = (listed["path"], listed["patient_id"], listed["split"], listed["label"], numbers)
    by_mark: dict[str, dict[tuple[str, str, int], Listed]] = defaultdict(dict)
    for mark, path, patient, split, label, row in zip(marks, *columns, strict=True):
        number = None if row is None else int(row)
        image = Listed(path, patient, split.casefold(), _LABELS.get(label, label), number)
        by_mark[mark].setdefault(image[1:4], image)  # many images of one patient, split and label are one case
    yield from copy_problems(pair for same in by_mark.values() for pair in combinations(same.values(), 2))


@dataclass(frozen=True)
class ImageSpec:
    """The format of an image or of a set of them."""

    channels: tuple[str, ...]  # R, G, B for colour, C0 for grey, a TIFF's own
    dtype: str  # as numpy names it
    width: int  # px
    height: int
    # Original px per px of this size; None where images differ by over 2 %.
    shrinkage: float | None = field(default=1.0, compare=False)

    def __str__(self) -> str:
        return f"{self.width} x {self.height} px, {', '.join(self.channels)}, {self.dtype}"

    @property
    def is_colour(self) -> bool:
        """Whether the channels are red, green and blue."""
        return self.channels == _RGB

    @property
    def is_rgb(self) -> bool:
        """Whether the channels are uint8 red, green and blue."""
        return self.is_colour and self.dtype == "uint8"


def common_spec(paths: Sequence[Path], ready: ReadyConfig | None = None) -> ImageSpec:
    """Return the format that all images of a set have, or are brought to if `ready` states a size; nothing is decoded.

    Images that differ are a ChannelMismatchError, which lists those that differ from most.
    """
    specs = [_image_spec(path) for path in paths]
    if ready is not None and ready.px is not None:
        sides = [min(spec.width, spec.height) for spec in specs]
        low, high = min(sides), max(sides)
        shrinkage = math.sqrt(low * high) / ready.px if mpp_agrees(low, high) else None
        # After that, images differ only in what resizing cannot change: dtype and channels.
        specs = [replace(spec, width=ready.px, height=ready.px, shrinkage=shrinkage) for spec in specs]
    counts = Counter(specs)
    usual, n = counts.most_common(1)[0]
    if len(counts) > 1:
        others = [f"{path.name} ({spec})" for path, spec in zip(paths, specs, strict=True) if spec != usual]
        more = f" and {len(others) - _MOST_LISTED} more" if len(others) > _MOST_LISTED else ""
        raise ChannelMismatchError(
            f"{n} patches are {usual}; {len(others)} differ: {'; '.join(others[:_MOST_LISTED])}{more}",
            place=str(paths[0].parent),
            remedy="bring all patches to one size ([ready] px, --resize-px), type and set of channels, or leave "
            "those out",
        )
    if usual.width != usual.height or not _SIDE_PX[0] <= usual.width <= _SIDE_PX[1]:
        raise InputUnsupportedError(
            f"patches of {usual.width} x {usual.height} px",
            place=str(paths[0].parent),
            remedy=f"give square patches of {_SIDE_PX[0]} to {_SIDE_PX[1]} px, or a size to bring them to ([ready] px, "
            "--resize-px)",
        )
    return usual


def read_tumor_mask(path: Path, image: Path, spec: ImageSpec) -> NDArray[np.bool_]:
    """Return the tumour pixels of a patch, bool of shape (P, P): its mask, cropped and resized as `read_image` does.

    The mask at `path` covers the whole `image`, at any scale. Raises as `read_mask` and `require_fit`.
    """
    mask, whole = read_mask(path), _image_spec(image)
    require_fit((mask.shape[1], mask.shape[0]), (whole.width, whole.height), place=str(path), covered="patch")
    return np.asarray(resize_masks(_centre_square(mask[None]), spec.width)[0], np.bool_)


def _centre_square(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return the central square of pixels (C, h, w)."""
    side = min(pixels.shape[1:])
    top, left = ((length - side) // 2 for length in pixels.shape[1:])
    return pixels[:, top : top + side, left : left + side]


def _image_spec(path: Path) -> ImageSpec:
    """Return the format of an image file."""
    image = raster(path)
    if image.is_palette or image.bits not in (8, 16, 32, 64):
        raise InputUnsupportedError(
            "a table of colours" if image.is_palette else f"{image.bits} bits a value",
            place=str(path),
            remedy="save it as grey values or RGB of 8 or 16 bits",
        )
    if image.kind == "tiff":
        with open_slide(path) as slide:
            if ALPHA_NOTE in slide.notes:
                raise InputUnsupportedError(
                    "alpha", place=str(path), remedy="save it as grey values or RGB without alpha"
                )
            return ImageSpec(slide.channels, str(slide.dtype), *slide.size)
    if image.samples not in (1, 3):
        raise InputUnsupportedError(
            f"{image.samples} values a pixel (alpha or CMYK)", place=str(path), remedy="save it as grey values or RGB"
        )
    return ImageSpec(("C0",) if image.samples == 1 else _RGB, f"uint{image.bits}", image.width, image.height)


def read_image(path: Path, spec: ImageSpec) -> NDArray[np.generic]:
    """Return a patch's pixels, shape (C, P, P), source units; resized to the set's size if need be.

    Raises as `read_pixels`.
    """
    return fitted(read_pixels(path), spec)


def read_pixels(path: Path) -> NDArray[np.generic]:
    """Return an image's pixels, shape (C, h, w), source units.

    Raises InputCorruptError if they cannot be decoded in full, and NonFiniteError if some are NaN or infinite.
    """
    image = raster(path)
    if image.kind == "tiff":
        with open_slide(path) as slide:
            pixels = slide.read_region(0, 0, *slide.size)
    else:
        values = image.pixels()
        pixels = np.ascontiguousarray(values[None] if values.ndim == 2 else values.transpose(2, 0, 1))
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise NonFiniteError(
            f"{int(np.count_nonzero(~np.isfinite(pixels)))} pixels are NaN or infinite",
            place=str(path),
            remedy="leave the patch out, or correct the pixels; they are not guessed",
        )
    return pixels


def fitted(pixels: NDArray[np.generic], spec: ImageSpec) -> NDArray[np.generic]:
    """Return pixels (C, h, w) at the set's size: the middle square, resized."""
    if pixels.shape[1:] == (spec.height, spec.width):
        return pixels
    pixels = _centre_square(pixels)
    shrinks = pixels.shape[1] >= spec.height and pixels.shape[2] >= spec.width
    # Area means avoid aliasing where the image shrinks; where it grows they would repeat pixels.
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    planes = map(np.ascontiguousarray, pixels)
    return resized(planes, (spec.width, spec.height), interpolation=interpolation).astype(spec.dtype)

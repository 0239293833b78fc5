"""Compare the contents of two recorded output trees.

``python pipelines/golden/compare.py BEFORE AFTER`` reads every output that ``record.py`` wrote into both folders and
prints each difference. Values must be equal, not close. Stamps, times, hosts and run names change between versions and
are left out; so are logs, locks, pictures and the bundles that record.py was given. Deliberate differences stand in
``differences.toml`` with their reason: they are listed and do not fail.

Exit status: 0 where all else is equal, 1 where something differs.
"""

from __future__ import annotations

import argparse
import csv
import fnmatch
import gzip
import json
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tifffile
import zarr

HERE = Path(__file__).resolve().parent
IGNORED_FOLDERS = {"logs", "locks", "report", "status", "bundles"}
CHANGING_KEYS = {
    "stamp", "stamps", "seconds", "ended", "started", "host", "hosts", "version", "pathopatch", "created", "files",
    "hash", "sha256", "fingerprint", "path", "source", "schema_version", "schema", "uuid", "outputs", "manifest",
    "work",
}  # fmt: skip
CHANGING_COLUMNS = {"seconds", "ended", "fingerprint", "path", "source", "message"}

Content = dict[str, Any]
"""Named parts of a file, each an array, a table's column, or plain data."""


def parquet_content(path: Path) -> Content:
    """Return the columns of a table."""
    table = pd.read_parquet(path)
    return {column: table[column].to_numpy() for column in table.columns if column not in CHANGING_COLUMNS}


def csv_content(path: Path) -> Content:
    """Return the columns of a CSV file, as text."""
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.reader(stream))
    header = rows[0] if rows else []
    return {
        name: np.array([row[number] if number < len(row) else "" for row in rows[1:]], dtype=object)
        for number, name in enumerate(header)
        if name not in CHANGING_COLUMNS
    }


def tiff_content(path: Path) -> Content:
    """Return the pixels of every page and level."""
    content: Content = {}
    with tifffile.TiffFile(path) as tiff:
        for number, series in enumerate(tiff.series):
            for level, image in enumerate(series.levels):
                content[f"series {number} level {level}"] = image.asarray()
                content[f"series {number} level {level} axes"] = image.axes
    return content


def zarr_content(path: Path) -> Content:
    """Return the arrays and attributes of a Zarr group and of the groups below it."""
    content: Content = {}

    def visit(group: zarr.Group, name: str) -> None:
        content[f"{name or '.'} attributes"] = without_changing(dict(group.attrs))
        for key, array in sorted(group.arrays()):
            content[f"{name}/{key}"] = array[:]
        for key, child in sorted(group.groups()):
            visit(child, f"{name}/{key}")

    visit(zarr.open_group(path, mode="r"), "")
    return content


def json_content(path: Path) -> Content:
    """Return a JSON file without what changes."""
    raw = path.read_bytes()
    text = gzip.decompress(raw) if path.suffix == ".gz" else raw
    return {"content": without_changing(json.loads(text))}


def weights_content(path: Path) -> Content:
    """Return the tensors of a safetensors file."""
    from safetensors.numpy import load_file

    return dict(load_file(path))


def without_changing(value: Any) -> Any:
    """Return plain data without the keys of `CHANGING_KEYS`, at any depth."""
    if isinstance(value, dict):
        return {key: without_changing(item) for key, item in value.items() if key not in CHANGING_KEYS}
    if isinstance(value, list):
        return [without_changing(item) for item in value]
    return value


READERS: dict[str, Callable[[Path], Content]] = {
    ".parquet": parquet_content,
    ".csv": csv_content,
    ".tif": tiff_content,
    ".json": json_content,
    ".geojson": json_content,
    ".geojson.gz": json_content,
    ".safetensors": weights_content,
}


def outputs(folder: Path) -> dict[str, Path]:
    """Return every output below a folder that is compared, by its path relative to it; a Zarr group is one output."""
    paths: dict[str, Path] = {}
    pending = [folder]
    while pending:
        for path in sorted(pending.pop().iterdir()):
            if path.is_dir() and path.suffix == ".zarr":
                paths[path.relative_to(folder).as_posix()] = path
            elif path.is_dir() and path.name not in IGNORED_FOLDERS:
                pending.append(path)
            elif path.is_file() and reader_of(path) is not None:
                paths[path.relative_to(folder).as_posix()] = path
    return paths


def reader_of(path: Path) -> Callable[[Path], Content] | None:
    """Return how an output is read; None for what is not compared."""
    if path.is_dir():
        return zarr_content
    return next((read for suffix, read in READERS.items() if path.name.endswith(suffix)), None)


def differences(before: Path, after: Path) -> Iterator[tuple[str, str]]:
    """Yield (output and part, what differs) for each part that is not equal."""
    one, other = outputs(before), outputs(after)
    for name in sorted(one.keys() | other.keys()):
        if name not in one or name not in other:
            yield name, "is new" if name not in one else "is missing"
            continue
        read = reader_of(one[name])
        assert read is not None
        first, second = read(one[name]), read(other[name])
        for part in sorted(first.keys() | second.keys()):
            if part not in first or part not in second:
                yield f"{name}: {part}", "is new" if part not in first else "is missing"
            elif change := difference(first[part], second[part]):
                yield f"{name}: {part}", change


def difference(one: Any, other: Any) -> str:
    """Return in words how two parts differ; nothing where they are equal, NaN being equal to NaN."""
    if not isinstance(one, np.ndarray):
        return "" if one == other else _changed_keys(one, other)
    if one.shape != other.shape or one.dtype != other.dtype:
        return f"{one.dtype}{one.shape} became {other.dtype}{other.shape}"
    if one.dtype.kind == "O":
        unequal = np.array([not _same(a, b) for a, b in zip(one.ravel(), other.ravel(), strict=True)])
    else:
        unequal = ~((one == other) | ((one != one) & (other != other))).ravel()
    if not unequal.any():
        return ""
    first = int(np.flatnonzero(unequal)[0])
    text = f"{int(unequal.sum())} of {unequal.size} values, the first at {first}: "
    text += f"{one.ravel()[first]!r} became {other.ravel()[first]!r}"
    if one.dtype.kind in "fiu":
        widest = np.nanmax(np.abs(one.astype(np.float64) - other.astype(np.float64)))
        text += f", at most {widest:.3g} apart"
    return text


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and np.array_equal(one, other)
    return bool(one == other or (one != one and other != other))


def _changed_keys(one: Any, other: Any) -> str:
    """Return the paths at which two plain values differ, at most five."""
    changes: list[str] = []

    def visit(a: Any, b: Any, place: str) -> None:
        if a == b or len(changes) > 5:
            return
        if isinstance(a, dict) and isinstance(b, dict):
            for key in sorted(a.keys() | b.keys()):
                visit(a.get(key, "absent"), b.get(key, "absent"), f"{place}.{key}")
        elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
            for number, pair in enumerate(zip(a, b, strict=True)):
                visit(*pair, f"{place}[{number}]")
        else:
            changes.append(f"{place or '.'}: {str(a)[:80]} became {str(b)[:80]}")

    visit(one, other, "")
    return "; ".join(changes[:5])


def main() -> int:
    """Print the differences of two recorded trees."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--deliberate", type=Path, default=HERE / "differences.toml")
    options = parser.parse_args()
    reasons = tomllib.loads(options.deliberate.read_text(encoding="utf-8"))["deliberate"]
    unexpected = 0
    for place, change in differences(options.before, options.after):
        reason = next((rule["reason"] for rule in reasons if fnmatch.fnmatch(place, rule["place"])), None)
        print(f"{'deliberate' if reason else 'DIFFERS'}  {place}: {change}{f'  ({reason})' if reason else ''}")
        unexpected += reason is None
    print(f"{len(outputs(options.after))} outputs compared, {unexpected} unexpected differences")
    return 1 if unexpected else 0


if __name__ == "__main__":
    sys.exit(main())

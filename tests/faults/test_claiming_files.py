"""Tables and features that claim more than anybody has end in a plain error, and take little memory."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import openpyxl
import pytest
from malformed_slides import bounded

from pathopatch.core.csv_table import CsvTable, read_csv_table
from pathopatch.core.errors import InputCorruptError
from pathopatch.features.readers import open_features

pytestmark = pytest.mark.fault("claiming-files")

ROWS, MILLION = 10**12, 10**6


def read_table(path: Path) -> CsvTable:
    return read_csv_table(path, kind="table", item="row", required=("a",), optional=("b",))


def codes(table: CsvTable) -> list[str]:
    return [problem.code for problem in table.problems]


@pytest.mark.parametrize(
    "text",
    ["a," + ",".join(map(str, range(MILLION))), "a,b\n1,2\n" + "," * MILLION, "a," * MILLION],
    ids=["columns", "cells of a row", "one name"],
)
def test_a_csv_file_of_a_million_columns_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text)
    with bounded():
        table = read_table(tmp_path / "t.csv")
    assert (codes(table), table.rows) == (["INPUT_TOO_LARGE"], [])


def test_a_table_as_wide_as_excel_allows_is_read(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a" + ",b" * (2**14 - 1) + "\n")
    with bounded():
        assert set(codes(read_table(tmp_path / "t.csv"))) == {"INPUT_UNSUPPORTED"}


def write_sheet(path: Path, parts: Iterable[bytes], *, prefix: str = "") -> Path:
    """Write a workbook whose only sheet holds this XML between the tags of its data."""
    book, empty = openpyxl.Workbook(), io.BytesIO()
    book.save(empty)
    space = f"xmlns{':' + prefix if prefix else ''}='http://schemas.openxmlformats.org/spreadsheetml/2006/main'"
    name = f"{prefix}:" if prefix else ""
    with zipfile.ZipFile(empty) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as target:
        for entry in source.infolist():
            if entry.filename != "xl/worksheets/sheet1.xml":
                target.writestr(entry.filename, source.read(entry))
        with target.open("xl/worksheets/sheet1.xml", "w", force_zip64=True) as sheet:
            sheet.write(f"<{name}worksheet {space}><{name}sheetData>".encode())
            for part in parts:
                sheet.write(part)
            sheet.write(f"</{name}sheetData></{name}worksheet>".encode())
    return path


SHEETS: dict[str, list[bytes]] = {
    "a row far below": [b'<row r="2000000000"><c><v>1</v></c></row>'],
    "cells far to the right": [b'<row><c r="ZZZ1"><v>1</v></c></row>'],
    "many cells far to the right": [
        f'<row r="{row}"><c r="XFD{row}"><v>1</v></c></row>'.encode() for row in range(1, 1000)
    ],
}


@pytest.mark.parametrize("claim", SHEETS)
def test_a_workbook_of_more_rows_or_cells_than_are_read_is_refused(claim: str, tmp_path: Path) -> None:
    path = write_sheet(tmp_path / "t.xlsx", SHEETS[claim])
    with bounded(6):  # the million rows that Excel has are counted first: 1.5 s on an idle core
        table = read_table(path)
    assert (codes(table), table.rows) == (["INPUT_TOO_LARGE"], [])


def test_a_workbook_with_a_prefix_before_its_tags_is_read(tmp_path: Path) -> None:
    cells = [f"<x:row><x:c t='inlineStr'><x:is><x:t>{text}</x:t></x:is></x:c></x:row>".encode() for text in "az"]
    assert read_table(write_sheet(tmp_path / "t.xlsx", cells, prefix="x")).rows == [(2, {"a": "z"})]


def h5(folder: Path, *, features: Any = None, coords: Any = None) -> None:
    with h5py.File(folder / "A.h5", "w") as file:
        for name, width, claimed in (("features", 8, features), ("coords", 2, coords)):
            if claimed is None:
                file[name] = np.zeros((4, width), np.float32)
            else:
                file.create_dataset(name, (claimed, width), "f4", chunks=(1024, width), compression="gzip")
        file["coords"].attrs.update({"patch_size_level0": 64})


def npy(shape: tuple[int, ...], stored: bytes = bytes(64), dtype: str = "<f4") -> bytes:
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": dtype, "fortran_order": False, "shape": shape})
    return head.getvalue() + stored


def npz(folder: Path, **arrays: bytes) -> None:
    with zipfile.ZipFile(folder / "A.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        for name, content in arrays.items():
            file.writestr(f"{name}.npy", content)


CLAIMS: dict[str, Callable[[Path], None]] = {
    "HDF5 features": lambda folder: h5(folder, features=ROWS, coords=ROWS),
    "HDF5 features without coordinates": lambda folder: h5(folder, features=ROWS),
    "HDF5 coordinates": lambda folder: h5(folder, coords=ROWS),
    "npz features": lambda folder: npz(folder, features=npy((ROWS, 8))),
    "npz coordinates": lambda folder: npz(folder, features=npy((4, 8), bytes(128)), coords=npy((ROWS, 2))),
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_features_that_claim_10_12_rows_take_no_memory(claim: str, tmp_path: Path) -> None:
    """NumPy's own limit: memory that the machine has not is not promised to a process."""
    CLAIMS[claim](tmp_path)
    with bounded(), pytest.raises((MemoryError, InputCorruptError)):
        open_features(tmp_path).read("A")

"""Files that hypothesis makes up, or spoils: whatever is in them, they are read or refused with a code.

No answer takes over 5 s, and none takes over 1 GiB more memory than the process had.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import made_slides as made
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from made_model import write_model
from made_omezarr import write_omezarr

from pathopatch.core.errors import PathopatchError, TableError
from pathopatch.core.files import inside
from pathopatch.models.loading import load_model
from pathopatch.patches.annotations.masks import read_mask
from pathopatch.patches.annotations.outlines import read_asap, read_qupath
from pathopatch.slides import open_slide
from pathopatch.slides.manifest import read_manifest

pytestmark = pytest.mark.fault("any-bytes")

CODES = {kind.code for kind in PathopatchError.__subclasses__()} - {"INTERNAL"}
EXAMPLES = int(os.environ.get("PATHOPATCH_FUZZ_EXAMPLES", "60"))
_MOST_BYTES = 2**30
made_up = settings(
    max_examples=EXAMPLES,
    deadline=5000,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)

Change = tuple[str, float, bytes]
changes = st.lists(
    st.tuples(
        st.sampled_from(["replace", "insert", "remove", "end"]),
        st.floats(0, 1, exclude_max=True),
        st.one_of(
            st.binary(min_size=1, max_size=16),
            st.sampled_from([bytes(8), b"\xff" * 8, b"\x00\x00\x00\x80", b"\xff\xff\xff\x7f", b"-1", b"1e999", b"NaN"]),
        ),
    ),
    min_size=1,
    max_size=6,
)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**65), 2**65),
        st.floats(),
        st.text(max_size=20),
        st.sampled_from([0, -1, 2**31, 2**63, 10**6, 1e308, "", "nan", "..", "../..", "/", "\x00", "c", "uint8"]),
    ),  # fmt: skip
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=6,
)


def changed(data: bytes, how: list[Change]) -> bytes:
    """Return bytes with some replaced, put in or taken out, or cut off."""
    for kind, share, new in how:
        place = int(share * max(1, len(data)))
        if kind == "replace":
            data = data[:place] + new + data[place + len(new) :]
        elif kind == "insert":
            data = data[:place] + new + data[place:]
        elif kind == "remove":
            data = data[:place] + data[place + len(new) :]
        else:
            data = data[:place]
    return data


def with_leaf(value: Any, where: list[float], new: Any) -> Any:
    """Return a JSON value in which one part is another; each number chooses a way further down."""
    if not where or not isinstance(value, dict | list) or not value:
        return new
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = keys[int(where[0] * len(keys))]
    copy = value.copy()
    if new is ... and len(where) == 1:
        del copy[key]
    else:
        copy[key] = with_leaf(value[key], where[1:], None if new is ... else new)
    return copy


leaves = st.tuples(st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=7), st.just(...) | json_values)


@contextmanager
def bounded() -> Iterator[None]:
    """Let this process take at most so much memory more than it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + _MOST_BYTES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def read_or_refused(read: Callable[[], object]) -> None:
    """Read; an error of ours, whose every part has a code, is an answer too."""
    codes: list[str] = []
    with bounded():
        try:
            read()
        except TableError as error:
            codes = [problem.code for problem in error.problems if problem.message and problem.remedy]
        except PathopatchError as error:
            codes = [error.code]
    assert set(codes) <= CODES
    event(codes[0] if codes else "read")


def read_slide(path: Path) -> None:
    with open_slide(path, mpp=0.5) as slide:
        width, height = slide.size
        for x, y in ((0, 0), (width - 8, height - 8), (width // 2, height // 2)):
            assert slide.read_region(x, y, 16, 16).shape == (len(slide.channels), 16, 16)
        slide.read_overview(64)
        _ = slide.background, slide.source


IMAGE = made.disc_image(96, 80, (40, 40), 24, tissue=(180, 90, 150), glass=(245, 245, 245))


def scn(path: Path) -> None:
    made.write_scn(path, IMAGE, (5, 5), (120, 120))


FILES: dict[str, tuple[str, Callable[[Path], object], Callable[[Path], object]]] = {
    "an Aperio slide": ("a.svs", lambda path: made.write_aperio(path, IMAGE, levels=2, tile_px=32), read_slide),
    "a Leica slide, which OpenSlide reads": ("a.scn", scn, read_slide),
    "a pyramid": ("a.tif", lambda path: made.write_rgb_pyramid(path, IMAGE, levels=2, tile_px=32), read_slide),
    "a mask": ("a.png", lambda path: path.write_bytes(cv2.imencode(".png", IMAGE[0])[1].tobytes()), read_mask),
    "ASAP's outlines": (
        "a.xml",
        lambda path: path.write_text(
            '<ASAP_Annotations><Annotations><Annotation Name="A" Type="Polygon" PartOfGroup="Tumor" Color="#F4FA58">'
            '<Coordinates><Coordinate Order="0" X="1.5" Y="2" /><Coordinate Order="1" X="9" Y="2" />'
            '<Coordinate Order="2" X="9" Y="8.25" /></Coordinates></Annotation></Annotations></ASAP_Annotations>'
        ),
        read_asap,
    ),
    "QuPath's outlines": (
        "a.geojson",
        lambda path: path.write_text(
            '{"type":"FeatureCollection","features":[{"type":"Feature","geometry":{"type":"Polygon","coordinates":'
            '[[[0,0],[9,0],[9,9],[0,0]]]},"properties":{"objectType":"annotation","classification":{"name":"Tumor"}}}]}'
        ),
        read_qupath,
    ),
    "a manifest": (
        "a.csv",
        lambda path: path.write_text(
            "slide_id,patient_id,split,path,mpp,tumor_mask\ns1,p1,train,a.tif,0.5,none\ns2,p2,test,b.tif,,\n"
        ),
        read_manifest,
    ),
}


@pytest.mark.parametrize("kind", FILES)
@made_up
@given(how=changes)
def test_a_spoilt_file_is_read_or_refused(kind: str, how: list[Change], tmp_path: Path) -> None:
    name, write, read = FILES[kind]
    base, path = tmp_path / f"base-{name}", tmp_path / name
    if not base.exists():
        write(base)
        read_or_refused(lambda: read(base))  # what is loaded at the first reading is not the file's
    path.write_bytes(changed(base.read_bytes(), how))
    read_or_refused(lambda: read(path))


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@made_up
@given(leaf=leaves, of_array=st.booleans(), data=st.none() | changes)
def test_a_folder_with_spoilt_metadata_or_chunks_is_read_or_refused(
    version: str, leaf: tuple[list[float], Any], of_array: bool, data: list[Change] | None, tmp_path: Path
) -> None:
    base, path = tmp_path / "base.zarr", tmp_path / "a.zarr"
    if not base.exists():
        write_omezarr(base, [IMAGE, IMAGE[:, ::2, ::2]], version=version, labels=("R", "G", "B"), chunk_px=32)
        read_slide(base)
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(base, path)
    names = (".zarray", ".zattrs") if version == "0.4" else ("zarr.json", "zarr.json")
    metadata = path / "0" / names[0] if of_array else path / names[1]
    metadata.write_text(json.dumps(with_leaf(json.loads(metadata.read_text()), *leaf)))
    if data is not None:
        chunk = max((path / "0").rglob("*"), key=lambda file: file.stat().st_size if file.is_file() else 0)
        chunk.write_bytes(changed(chunk.read_bytes(), data))
    read_or_refused(lambda: read_slide(path))


@made_up
@given(leaf=leaves, data=st.none() | changes)
def test_a_model_with_a_spoilt_description_or_weights_is_loaded_or_refused(
    leaf: tuple[list[float], Any], data: list[Change] | None, tmp_path: Path
) -> None:
    base, path = tmp_path / "base", tmp_path / "model"
    if not base.exists():
        write_model(base)
        load_model(base, device="cpu")
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(base, path)
    if data is None:
        text = json.dumps(with_leaf(json.loads((base / "config.json").read_text()), *leaf))
        (path / "config.json").write_text(text)
    else:
        weights = path / "model.safetensors"
        weights.write_bytes(changed(weights.read_bytes(), data))
    read_or_refused(lambda: load_model(path, device="cpu"))


_CELLS = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        ["s1", "S1", "p1", "train", "val", "test", "a.tif", "b.tif#page=1", "#", "a.tif#page=x", "none", "0.5", "-1",
         "nan", "1e999", "yes", "1", "dark", "../x", "/etc/passwd", "${HOME}", "${", "CON", "=cmd()", "\u202e", "\x00",
         "x" * 300]
    ),
)  # fmt: skip
_COLUMNS = st.sampled_from(
    ["slide_id", "patient_id", "split", "path", "path:CARS", "path:SHG", "path:", "channels", "mpp", "tumor_mask",
     "labelled_mask", "annotations", "tissue_mask", "background", "slide_label", "exclude",
     "Slide_ID", ""]
)  # fmt: skip


@made_up
@given(
    header=st.lists(_COLUMNS, max_size=8), rows=st.lists(st.lists(_CELLS, max_size=8), max_size=5), bom=st.booleans()
)
def test_a_made_up_manifest_is_read_or_refused_and_no_id_leads_elsewhere(
    header: list[str], rows: list[list[str]], bom: bool, tmp_path: Path
) -> None:
    for name in ("a.tif", "b.tif"):
        (tmp_path / name).write_text(name)
    path = tmp_path / "manifest.csv"
    head = ["slide_id", "patient_id", "path", *header]
    lines = [head, *([*row[: len(head)], *["x"] * (len(head) - len(row))] for row in rows)]
    text = "\n".join(",".join('"' + cell.replace('"', '""') + '"' for cell in line) for line in lines)
    path.write_text(text, encoding="utf-8-sig" if bom else "utf-8", errors="replace")
    before = sorted(tmp_path.iterdir())

    def read() -> None:
        for row in read_manifest(path):
            work = tmp_path / "work"
            assert inside(work, "patches", f"{row.slide_id}.parquet").parent == work / "patches"
            assert inside(work, f"{row.patient_id}.txt").parent == work

    read_or_refused(read)
    assert sorted(tmp_path.iterdir()) == before

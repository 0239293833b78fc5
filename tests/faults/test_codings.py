"""Texts of two or four bytes a letter: read where their coding is certain, else refused with its name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from made_model import write_model

from pathopatch.core.config.study import load_settings
from pathopatch.core.csv_table import read_csv_table
from pathopatch.core.errors import PathopatchError
from pathopatch.core.input_files import wide_coding
from pathopatch.features.labels import read_labels
from pathopatch.models.bundle import checked_bundle
from pathopatch.patches.annotations.outlines import read_annotations
from pathopatch.patches.import_list import read_list
from pathopatch.slides.manifest import read_manifest

pytestmark = pytest.mark.fault("codings")


def read_settings(path: Path) -> None:
    load_settings(path, reads=["tile"])


TEXTS = [
    ("m.csv", "slide_id,patient_id,path\na,a,a.tif\n", read_manifest),
    ("l.csv", "slide_id,x,y,label\na,0,0,1\n", read_labels),
    ("p.csv", "path,label,patient_id\na.png,1,a\n", read_list),
    ("s.toml", "[tile]\npatch_px = 64\n", read_settings),
]
CODINGS = ["UTF-16LE", "UTF-16BE", "UTF-32LE", "UTF-32BE", "UTF-32"]


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize(("name", "text", "read"), TEXTS)
def test_a_text_without_a_mark_or_in_utf32_is_refused_by_its_coding(
    name: str, text: str, read: Callable[[Path], object], coding: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(text.encode(coding))
    mark = "with" if coding == "UTF-32" else "without"
    with pytest.raises(PathopatchError) as raised:
        read(tmp_path / name)
    assert f"the text seems to be {coding} {mark} a byte order mark" in str(raised.value)
    assert f"iconv -f {coding} -t UTF-8" in str(raised.value)
    assert str(tmp_path / name) in str(raised.value)


@pytest.mark.parametrize("coding", CODINGS)
def test_outlines_are_read_or_refused_by_their_coding(coding: str, tmp_path: Path) -> None:
    (tmp_path / "a.geojson").write_bytes('{"type": "FeatureCollection", "features": []}'.encode(coding))
    (tmp_path / "a.xml").write_bytes("<ASAP_Annotations><Annotations/></ASAP_Annotations>".encode(coding))
    assert read_annotations(tmp_path / "a.geojson").names == ()
    if coding.startswith("UTF-16"):
        assert read_annotations(tmp_path / "a.xml").names == ()
    else:
        with pytest.raises(PathopatchError, match=f"seems to be {coding} "):
            read_annotations(tmp_path / "a.xml")


@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_a_marked_text_and_one_of_one_byte_a_letter_are_read(coding: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("a,b\r\né,ü\r\n".encode(coding))
    table = read_csv_table(tmp_path / "t.csv", kind="table", item="row", required=("a", "b"), optional=())
    assert table.rows == [(2, {"a": "é", "b": "ü"})]


def test_a_byte_order_mark_before_toml_and_json_is_no_part_of_them(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text("[tile]\npatch_px = 64\n", encoding="utf-8-sig")
    assert load_settings(tmp_path / "s.toml", reads=["tile"]).tile.patch_px == 64
    bundle = write_model(tmp_path / "model")
    text = (bundle / "config.json").read_text(encoding="utf-8")
    (bundle / "config.json").write_text(text, encoding="utf-8-sig")
    assert checked_bundle(bundle)[0].patch_px == 16


@pytest.mark.parametrize(
    "content", [b"", b"a", b"abc\0", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "日本語,語".encode("utf-16-le")]
)
def test_a_coding_that_zero_bytes_do_not_show_is_none(content: bytes) -> None:
    assert wide_coding(content) is None

"""A manifest in parts names the same slides as the whole one, from wherever it is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pathopatch.slides.manifest import read_manifest, write_parts


@pytest.fixture
def manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cohort, with a comma"
    folder.mkdir()
    for number in range(7):
        (folder / f"s{number}.tif").write_bytes(bytes(number + 1))
        (folder / f"m{number}.png").write_bytes(bytes(20 + number))
    (folder / "two.geojson").write_text("{}")
    monkeypatch.setenv("MASKS", str(folder))
    lines = [
        "slide_id,patient_id,split,path,path:CARS,path:SHG,channels,mpp,tumor_mask,annotations,background,exclude",
        "a,p1,train,s0.tif,,,,0.2500000000000001,${MASKS}/m0.png,,bright,",
        "b,p2,val,,s1.tif,s2.tif#page=2,,,none,,dark,",
        'c,p3,,s3.tif,,,"R,G",,,,,yes',
        'd,p3,,s4.tif,,,"R, G",1.5,,two.geojson,,no',
        "e,p4,test,s5.tif,,,,,,,,",
    ]
    path = folder / "cohort.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("slides", [1, 2, 3, 100])
def test_the_parts_hold_all_included_rows_in_order_and_each_once(manifest: Path, tmp_path: Path, slides: int) -> None:
    whole = read_manifest(manifest)
    parts = write_parts(whole, tmp_path / "elsewhere", slides)
    assert [path.name for path in parts] == [f"{number:06d}.csv" for number in range(1, -(-4 // slides) + 1)]
    found = [row for path in parts for row in read_manifest(path)]
    assert [replace(row, row=0) for row in found] == [replace(row, row=0) for row in whole.included]


def test_the_command_writes_parts_without_opening_a_slide(
    manifest: Path, tmp_path: Path, typed: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert typed("check", manifest, "-o", tmp_path / "out", "--slides-per-part", 3) == 0
    names = [Path(line).name for line in capsys.readouterr().out.split()]
    assert names == ["000001.csv", "000002.csv"]
    assert typed("check", manifest, "--slides-per-part", 3) == 2
    (manifest.parent / "s5.tif").unlink()
    assert typed("check", manifest, "-o", tmp_path / "none", "--slides-per-part", 3) == 1
    assert not (tmp_path / "none").exists()

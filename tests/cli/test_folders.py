"""The command line around work folders and viewers: dry runs, exports, cleaning; exit codes and messages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from made_slides import disc_image, write_channel, write_modalities

from pathopatch.slides import open_slide

Type = Callable[..., int]


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_an_export_is_a_slide_with_the_same_pixels(tmp_path: Path, typed: Type, version: str) -> None:
    image = disc_image(130, 100, (60, 50), 40, tissue=[800, 700], glass=[20, 30], dtype=np.uint16)
    paths = write_modalities(tmp_path, image, ("CARS", "SHG"))
    source = ",".join(f"{name}={path}" for name, path in paths.items())
    assert typed("export", "ome-zarr", source, "--version", version, "-o", tmp_path / "o.zarr", "--quiet") == 0
    slide = open_slide(tmp_path / "o.zarr")
    assert (slide.channels, slide.mpp) == (("CARS", "SHG"), 0.5)
    np.testing.assert_array_equal(slide.read_region(0, 0, 130, 100), image)


def test_an_export_without_a_name_bears_the_slides(
    tmp_path: Path, typed: Type, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_channel(tmp_path / "a b.tif", np.full((60, 60), 9, np.uint8), mpp=None)
    assert typed("export", "ome-zarr", "a b.tif", "--quiet") == 1
    assert "MPP_MISSING" in capsys.readouterr().err
    assert typed("export", "ome-zarr", "a b.tif", "--slide-mpp", "0.5", "--quiet") == 0
    assert capsys.readouterr().out.split() == ["a_b.ome.zarr"]
    assert open_slide("a_b.ome.zarr").mpp == 0.5
    assert typed("export", "ome-zarr", "a b.tif", "--version", "0.3") == 2


def test_a_dry_run_lists_good_and_bad_slides_and_ends_as_the_stage_would(
    tmp_path: Path, typed: Type, capsys: pytest.CaptureFixture[str]
) -> None:
    disc = disc_image(130, 100, (60, 50), 40, tissue=[800], glass=[20], dtype=np.uint16)
    write_channel(tmp_path / "a.tif", disc[0])
    (tmp_path / "cut.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:9000])
    (tmp_path / "m.csv").write_text("slide_id,patient_id,path\ncut,p,cut.tif\na,q,a.tif\n")
    assert typed("tile", tmp_path / "m.csv", "-o", tmp_path / "out", "--patch-px", 32, "--dry-run") == 3
    printed = capsys.readouterr()
    assert "1 slide, 20 patches" in printed.out
    assert "failed: cut: INPUT_CORRUPT" in printed.err
    for limit in ("--timeout", "--memory-gb"):
        assert typed("tile", tmp_path / "m.csv", "-o", tmp_path / "out", "--dry-run", limit, 5) == 2
        assert "--dry-run obeys no" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_cleaning_prints_what_it_removed_and_what_it_kept(
    tmp_path: Path, typed: Type, capsys: pytest.CaptureFixture[str]
) -> None:
    left = tmp_path / "a.json.tmp-00000000-1-0123abcd"  # of an earlier version, which did not write its process down
    left.write_bytes(b"12345")
    assert typed("clean", tmp_path) == 0
    printed = capsys.readouterr()
    assert printed.out == "0 removed, 0.000 GB\n"
    assert f"kept: {left}: its process cannot be asked" in printed.err
    assert typed("clean", tmp_path, "--force", "--dry-run") == 0
    assert capsys.readouterr().out.startswith(f"would remove: {left}")
    assert left.exists()
    assert typed("clean", tmp_path, "--force", "--quiet") == 0
    assert capsys.readouterr().out == "1 removed, 0.000 GB\n"
    assert not left.exists()
    assert typed("clean", tmp_path / "none") == 1

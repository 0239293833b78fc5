"""The command line around work folders: dry runs and cleaning; exit codes and messages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from made_slides import disc_image, write_channel

Type = Callable[..., int]


def test_a_dry_run_lists_good_and_bad_slides_and_ends_as_the_stage_would(tmp_path: Path, said: Callable) -> None:
    disc = disc_image(130, 100, (60, 50), 40, tissue=[800], glass=[20], dtype=np.uint16)
    write_channel(tmp_path / "a.tif", disc[0])
    (tmp_path / "cut.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:9000])
    (tmp_path / "m.csv").write_text("slide_id,patient_id,path\ncut,p,cut.tif\na,q,a.tif\n")
    printed = said("tile", tmp_path / "m.csv", "-o", tmp_path / "out", "--patch-px", 32, "--dry-run", code=3)
    assert "1 slide, 20 patches" in printed.out
    assert "failed: cut: INPUT_CORRUPT" in printed.err
    for limit in ("--timeout", "--memory-gb"):
        told = said("tile", tmp_path / "m.csv", "-o", tmp_path / "out", "--dry-run", limit, 5, code=2).err
        assert f"{limit}: a dry run" in told
    assert not (tmp_path / "out").exists()


def test_cleaning_prints_what_it_removed_and_what_it_kept(tmp_path: Path, typed: Type, said: Callable) -> None:
    left = tmp_path / "a.json.tmp-00000000-1-0123abcd"  # of an earlier version, which did not write its process down
    left.write_bytes(b"12345")
    printed = said("clean", tmp_path)
    assert printed.out == "0 removed, 0.000 GB\n"
    assert f"kept: {left}: its process cannot be asked" in printed.err
    assert said("clean", tmp_path, "--force", "--dry-run").out.startswith(f"would remove: {left}")
    assert left.exists()
    assert said("clean", tmp_path, "--force", "--quiet").out == "1 removed, 0.000 GB\n"
    assert not left.exists()
    assert typed("clean", tmp_path / "none") == 1

"""Cleaning takes what dead processes left and, if asked, pixels that can be read again; never what is being written."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from made_slides import disc_image, write_channel

from pathopatch.core import files
from pathopatch.core.config import TileConfig
from pathopatch.core.errors import InputMissingError, InputUnsupportedError
from pathopatch.core.files import Owner, owner, temporary_path
from pathopatch.patches.store import PatchStore
from pathopatch.patches.tile import tile_slide
from pathopatch.slides import open_slide
from pathopatch.stages.clean import clean, find

CONFIG = TileConfig(patch_px=32)


def dead_pid() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


def left_by(folder: Path, pid: int, name: str = "a.parquet", *, machine: str | None = None) -> Path:
    """A temporary folder with one file, as a process of this number would name it."""
    path = folder / f"{name}.tmp-{machine or files._machine()}-{pid}-0123abcd"
    path.mkdir(parents=True)
    (path / "part").write_bytes(b"12345")
    return path


def test_what_a_dead_process_left_goes_and_what_a_running_one_writes_stays(tmp_path: Path) -> None:
    dead = left_by(tmp_path / "patches", dead_pid())
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as running:
        ours = left_by(tmp_path / "slides", running.pid)
        (tmp_path / "patches" / "a.parquet").touch()
        findings = {finding.path: finding for finding in clean(tmp_path)}
        assert (findings[dead].goes, findings[dead].bytes, findings[ours].goes) == (True, 5, False)
        assert f"process {running.pid} is writing it" in findings[ours].reason
        assert (dead.exists(), ours.exists()) == (False, True)
        assert running.stdin is not None
        running.stdin.close()
    assert (tmp_path / "patches" / "a.parquet").exists()


def test_a_process_that_has_ended_and_that_nobody_asks_after_is_dead(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and is not buried
        os.kill(process.pid, 0)
        name = temporary_path(tmp_path / "a").name.replace(f"-{os.getpid()}-", f"-{process.pid}-")
        assert owner(tmp_path / name) == Owner("dead", process.pid)


def test_a_file_being_written_here_bears_this_process(tmp_path: Path) -> None:
    with files.atomic_path(tmp_path / "a.json") as unfinished:
        unfinished.touch()
        (finding,) = clean(tmp_path)
        assert (finding.goes, unfinished.exists()) == (False, True)


def test_files_of_an_unknown_process_stay_unless_forced(tmp_path: Path) -> None:
    far = left_by(tmp_path, dead_pid(), machine="00000000")
    assert [finding.goes for finding in clean(tmp_path)] == [False]
    assert far.exists()
    assert [finding.goes for finding in clean(tmp_path, force=True)] == [True]
    assert not far.exists()


def test_a_dry_run_touches_nothing_and_a_link_is_not_followed(tmp_path: Path) -> None:
    work, elsewhere = tmp_path / "work", tmp_path / "elsewhere"
    dead = left_by(work, dead_pid())
    precious = left_by(elsewhere, dead_pid())
    (work / "link").symlink_to(elsewhere)
    assert [finding.path for finding in find(work)] == [dead]
    assert dead.exists()
    clean(work)
    assert precious.exists()
    (work / dead.name).symlink_to(precious)
    with pytest.raises(InputUnsupportedError, match="leads outside"):
        clean(work)


@pytest.mark.parametrize("name", ["none", "foreign"])
def test_a_folder_that_is_no_work_folder_is_not_called_clean(tmp_path: Path, name: str) -> None:
    (tmp_path / "foreign" / "slides").mkdir(parents=True)
    with pytest.raises(InputMissingError):
        clean(tmp_path / name)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A work folder of one tiled slide."""
    disc = disc_image(130, 100, (60, 50), 40, tissue=[800], glass=[20], dtype=np.uint16)
    write_channel(tmp_path / "s.tif", disc[0] + np.arange(130, dtype=np.uint16) % 7)
    retile(tmp_path / "work")
    return tmp_path / "work"


def retile(work: Path, *, force: bool = False) -> str:
    with open_slide(work.parent / "s.tif") as slide:
        return tile_slide(slide, CONFIG, work, force=force).state


def test_patches_are_read_from_the_slide_once_stored_pixels_are_removed(work: Path) -> None:
    store = work / "slides" / "s.zarr"
    due = PatchStore(store).read([3, 19, 0])
    shutil.rmtree(store / "patches")
    assert not PatchStore(store).has_patches
    assert PatchStore(store).overview().shape == (1, 100, 130)
    np.testing.assert_array_equal(PatchStore(store).read([3, 19, 0]), due)
    assert retile(work) == "current"
    assert not PatchStore(store).has_patches
    assert retile(work, force=True) == "done"
    assert PatchStore(store).has_patches
    np.testing.assert_array_equal(PatchStore(store).read([3, 19, 0]), due)

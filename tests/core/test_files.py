"""Files that a stage writes: whole or not at all, inside the work folder, with a clear word when it cannot."""

import errno
import time
from pathlib import Path
from threading import Thread

import pytest

from pathopatch.core import files
from pathopatch.core.errors import DiskFullError, InputUnsupportedError


def test_a_failed_write_leaves_the_earlier_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "table"
    files.write_bytes(path, b"old")

    def write_half_of_it() -> None:
        with files.atomic_path(path) as temporary:
            temporary.write_bytes(b"ne")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        write_half_of_it()
    assert path.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir()] == ["table"]


def test_a_folder_replaces_a_folder(tmp_path: Path) -> None:
    for text in ("one", "two"):
        with files.atomic_path(tmp_path / "out") as temporary:
            temporary.mkdir()
            (temporary / text).touch()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["two"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_full_disk_is_named_so(tmp_path: Path) -> None:
    with pytest.raises(DiskFullError, match="DISK_FULL"), files.atomic_path(tmp_path / "out"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert not list(tmp_path.iterdir())


def test_json_holds_null_for_nan(tmp_path: Path) -> None:
    files.write_json(tmp_path / "x.json", {"wga": float("nan"), "list": [1.5, float("inf")]})
    assert files.read_json(tmp_path / "x.json") == {"wga": None, "list": [1.5, None]}


def test_a_symbolic_link_out_of_the_work_folder_is_refused(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / "slides").symlink_to(tmp_path)
    with pytest.raises(InputUnsupportedError, match="outside the work folder"):
        files.inside(work, "slides", "a.zarr")
    assert files.inside(work, "patches", "a.parquet") == work / "patches" / "a.parquet"


def test_what_a_thread_writes_after_another_failed_is_removed_too(tmp_path: Path) -> None:
    def write_late(folder: Path) -> None:
        time.sleep(0.03)
        (folder / "below").mkdir(parents=True)
        (folder / "below" / "late").touch()

    def fail() -> None:
        with files.atomic_path(tmp_path / "folder") as temporary:
            temporary.mkdir()
            late.append(Thread(target=write_late, args=(temporary,)))
            late[0].start()
            raise ZeroDivisionError

    late: list[Thread] = []
    with pytest.raises(ZeroDivisionError):
        fail()
    late[0].join()
    assert list(tmp_path.iterdir()) == []

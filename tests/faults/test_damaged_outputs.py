"""Outputs that a power cut or a damaged disk spoils: on the disk before their rename, and made again."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import made_slides as made
import pytest
from made_model import write_model
from made_prediction import predict_to
from written_files import TIMES, contents

from pathopatch.core import files
from pathopatch.core.config import PredictConfig
from pathopatch.core.errors import InputUnsupportedError
from pathopatch.core.task import Outcome
from pathopatch.heatmaps.facts import EXPORTS
from pathopatch.models.loading import load_model
from pathopatch.slides import open_slide

pytestmark = pytest.mark.fault("damaged-outputs")
CONFIG = PredictConfig(
    device="cpu", precision="float32", threads=1, outputs=("patches.geojson.gz", "patches.csv", "heatmap.ome.zarr")
)


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is written through to the disk, by its path, and the fault points that are passed."""
    events: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda number: events.append(str(Path(f"/proc/self/fd/{number}").readlink())))
    monkeypatch.setattr(files, "fault_point", events.append)
    return events


def test_a_file_is_on_the_disk_before_it_is_renamed_and_its_name_after(tmp_path: Path, events: list[str]) -> None:
    with files.atomic_path(tmp_path / "a") as temporary:
        temporary.write_bytes(b"new")
    assert events == [str(temporary), "rename", str(tmp_path), "renamed"]


def test_all_of_a_folder_is_on_the_disk_before_it_is_renamed(tmp_path: Path, events: list[str]) -> None:
    with files.atomic_path(tmp_path / "a") as temporary:
        (temporary / "below").mkdir(parents=True)
        (temporary / "below" / "one").touch()
        files.write_bytes(temporary / "two", b"2")
    events = events[events.index("renamed") + 1 :]  # what becomes part of the folder waits for the folder
    below = {"", "/below", "/below/one", "/two"}
    assert set(events[: events.index("rename")]) == {f"{temporary}{place}" for place in below}
    assert events[events.index("rename") :] == ["rename", str(tmp_path), "renamed"]


def fail_to_sync(number: int) -> Callable[[int], None]:
    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def test_a_disk_that_fails_to_write_through_leaves_the_earlier_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.write_bytes(tmp_path / "a", b"old")
    monkeypatch.setattr(os, "fsync", fail_to_sync(errno.EIO))
    with pytest.raises(InputUnsupportedError, match="cannot write here: Input/output error"):
        files.write_bytes(tmp_path / "a", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"old")]


def test_a_drive_that_knows_no_writing_through_is_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", fail_to_sync(errno.EINVAL))
    files.write_bytes(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide, a model, and the slide's outputs in ``out``."""
    folder = tmp_path_factory.mktemp("damaged")
    image = made.disc_image(96, 80, (40, 40), 25, tissue=(180, 90, 150), glass=(245, 245, 245))
    made.write_rgb_pyramid(folder / "s.tif", image, levels=1)
    write_model(folder / "model")
    predict(folder, folder / "out")
    return folder


def predict(folder: Path, out: Path, *, dry: bool = False) -> Outcome:
    with open_slide(folder / "s.tif") as slide:
        return predict_to(slide, load_model(folder / "model"), out, slide_id="s", config=CONFIG, dry=dry)


def is_current(folder: Path, out: Path) -> bool:
    return predict(folder, out, dry=True).state == "current"


def chosen(out: Path, name: str) -> Path:
    """The file of an output, the largest one of a folder."""
    path = out / ("predictions/s.parquet" if name == "predictions" else f"heatmaps/s/{name}")
    below = [file for file in path.rglob("*") if file.is_file()]
    return max(below, key=lambda file: file.stat().st_size) if below else path


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def unreadable(path: Path) -> None:
    path.unlink()
    path.symlink_to(300 * "x")  # a longer name than any file has


def other_digit(path: Path) -> None:
    path.write_text(path.read_text().replace('"cell_px": 16', '"cell_px": 17'))


@pytest.mark.parametrize(
    ("name", "spoil"),
    [(name, empty) for name in (*EXPORTS, *CONFIG.outputs, "heatmap.json", "predictions")]
    + [(name, flip) for name in ("heatmap.ome.zarr", "patches.csv", "predictions")]
    + [("heatmap.json", other_digit), ("overlay.png", Path.unlink), ("heatmap.ome.zarr", unreadable)],
)
def test_damaged_outputs_are_not_current_and_made_again_with_a_warning(
    name: str, spoil: Callable[[Path], None], folder: Path, tmp_path: Path
) -> None:
    before = contents(folder / "out", without=TIMES)
    shutil.copytree(folder / "out", tmp_path / "out")
    assert is_current(folder, tmp_path / "out")
    spoil(chosen(tmp_path / "out", name))
    assert not is_current(folder, tmp_path / "out")
    result = predict(folder, tmp_path / "out")
    assert result.state == "done"
    (warning,) = result.warnings
    assert "damaged" in warning
    assert name in warning or "s.parquet" in warning
    assert contents(tmp_path / "out", without=TIMES) == before
    assert predict(folder, tmp_path / "out") == replace(result, state="current", warnings=())

"""A slide that changes while it is read fails, whatever the moment: no output holds two contents."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import made_slides as made
import numpy as np
import pytest
from made_model import write_model
from made_omezarr import chunk_files, write_omezarr

from pathopatch.core.artefacts import fingerprint_file
from pathopatch.core.config import PredictConfig, TileConfig
from pathopatch.core.errors import InputChangedError, InputCorruptError
from pathopatch.patches import tile_slide
from pathopatch.slides import Slide, open_slide
from pathopatch.slides.manifest import SlideRow
from pathopatch.stages.predict import predict_cohort

pytestmark = pytest.mark.fault("changed")

CONFIG = PredictConfig(device="cpu", threads=1, all_patches=True)
MOMENTS = 10


def image(seed: int = 0) -> np.ndarray:
    disc = made.disc_image(256, 192, (120, 90), 70, tissue=(180, 90, 150), glass=(245, 245, 245))
    return disc - made.noise(3, 192, 256, np.uint8, seed=seed) // 16


def overwritten(path: Path) -> None:
    """In place, by as many bytes, and with the time of modification set back."""
    before, content = path.stat(), bytearray(path.read_bytes())
    content[-4096:] = bytes(4096)
    with path.open("r+b") as stream:
        stream.write(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replaced(path: Path) -> None:
    other = path.with_name("other")
    shutil.copy2(path, other)
    other.replace(path)


def appended(path: Path) -> None:
    with path.open("ab") as stream:
        stream.write(b"more")


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


CHANGES = {"overwritten": overwritten, "replaced": replaced, "appended": appended, "cut": cut}


class AtRead:
    """Do something at the n-th read of any slide."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reads, self.due, self.act = 0, -1, (lambda: None)
        read = Slide._blended

        def counted(slide: Slide, *place: Any, **options: Any) -> Any:
            self.reads += 1
            if self.reads == self.due:
                self.act()
            return read(slide, *place, **options)

        monkeypatch.setattr(Slide, "_blended", counted)

    def arm(self, moment: int, act: Callable[[], None]) -> None:
        self.reads, self.due, self.act = 0, moment, act


def row(path: Path) -> SlideRow:
    return SlideRow(row=2, slide_id=path.stem, patient_id="p", source=str(path), mpp=0.5, background="bright")


@pytest.mark.slow
@pytest.mark.parametrize("how", CHANGES)
def test_predicting_fails_by_the_change_at_each_of_ten_moments(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(tmp_path / "model")
    for seed, name in enumerate("ab"):
        made.write_rgb_pyramid(tmp_path / f"{name}.tif", image(seed), levels=1, tile_px=64, compression=None)
    whole, rows = (tmp_path / "a.tif").read_bytes(), [row(tmp_path / "a.tif"), row(tmp_path / "b.tif")]
    at_read = AtRead(monkeypatch)
    predict_cohort(rows[:1], [tmp_path / "model"], tmp_path / "whole", CONFIG)
    total = at_read.reads
    assert total > 2 * MOMENTS
    for moment in np.linspace(1, total, MOMENTS).astype(int).tolist():
        (tmp_path / "a.tif").write_bytes(whole)
        out = tmp_path / str(moment)
        at_read.arm(moment, lambda: CHANGES[how](tmp_path / "a.tif"))
        first, second = predict_cohort(rows, [tmp_path / "model"], out, CONFIG)
        assert first.code in ("INPUT_CHANGED", *(["INPUT_CORRUPT"] if how == "cut" else []))
        assert second.state == "done"
        assert not (out / "heatmaps" / "a").exists()
        assert not (out / "predictions" / "a.parquet").exists()


@pytest.mark.slow
@pytest.mark.parametrize("how", CHANGES)
def test_tiling_fails_by_the_change_at_each_of_ten_moments(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.tif"
    made.write_rgb_pyramid(path, image(), levels=1, tile_px=64, compression=None)
    whole = path.read_bytes()
    at_read = AtRead(monkeypatch)

    def tile(out: Path) -> None:
        with open_slide(path, mpp=0.5, background="bright") as slide:
            tile_slide(slide, TileConfig(patch_px=32), out, slide_id="a")

    tile(tmp_path / "whole")
    total = at_read.reads
    for moment in np.linspace(1, total, MOMENTS).astype(int).tolist():
        path.write_bytes(whole)
        at_read.arm(moment, lambda: CHANGES[how](path))
        with pytest.raises((InputChangedError, InputCorruptError) if how == "cut" else InputChangedError):
            tile(tmp_path / str(moment))
        assert not list((tmp_path / str(moment) / "slides").glob("*"))


@pytest.mark.parametrize("change", ["removed", "added", "overwritten"])
def test_an_omezarr_slide_whose_chunks_change_is_noticed(change: str, tmp_path: Path) -> None:
    path = write_omezarr(tmp_path / "a.zarr", [image()], labels=("R", "G", "B"))
    with open_slide(path) as slide:
        slide.read_overview()
        slide.require_unchanged()
        chunk = chunk_files(path)[0]
        if change == "removed":
            chunk.unlink()
        elif change == "added":
            shutil.copy2(chunk, chunk.with_name("9"))
        else:
            chunk.write_bytes(bytes(chunk.stat().st_size))
        with pytest.raises(InputChangedError):
            slide.require_unchanged()


@pytest.mark.parametrize("kind", ["a.tif", "a.svs", "a.scn", "a.png", "a.czi"])
def test_a_file_replaced_between_two_reads_is_not_read_on(kind: str, tmp_path: Path) -> None:
    path = tmp_path / kind
    if kind == "a.czi":
        pytest.importorskip("pylibCZIrw")
        made.write_czi(path, {(0, 0): image()})
    elif kind == "a.tif":
        made.write_rgb_pyramid(path, image(), levels=1, tile_px=64, compression=None)
    elif kind == "a.svs":
        made.write_aperio(path, image(), levels=1, tile_px=64)
    elif kind == "a.scn":
        made.write_scn(path, image(), (9, 9), (300, 300))
    else:
        made.write_png(path, image())
    with open_slide(path, background="bright") as slide:
        slide.read_region(0, 0, 8, 8)
        slide.close()
        replaced(path)
        with pytest.raises(InputChangedError):
            slide.read_region(0, 0, 8, 8)


def test_a_slide_that_another_process_opens_again_must_be_the_same(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    made.write_rgb_pyramid(path, image(), levels=1, tile_px=64, compression=None)
    with open_slide(path, background="bright") as slide:
        sent = pickle.dumps(slide)
        pickle.loads(sent).close()
        replaced(path)
        with pytest.raises(InputChangedError):
            pickle.loads(sent)


def test_a_link_that_leads_elsewhere_for_a_while_is_noticed(tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("two", 1)):
        (tmp_path / name).mkdir()
        made.write_rgb_pyramid(tmp_path / name / "a.tif", image(seed), levels=1, tile_px=64, compression=None)
    (tmp_path / "link").symlink_to("one")
    with open_slide(tmp_path / "link" / "a.tif", background="bright") as slide:
        (tmp_path / "link").unlink()
        (tmp_path / "link").symlink_to("two")
        with pytest.raises(InputChangedError):
            slide.read_region(0, 0, 8, 8)


def test_a_file_overwritten_with_its_times_set_back_has_another_fingerprint(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(bytes(10_000))
    before = fingerprint_file(path)
    status = path.stat()
    path.write_bytes(b"1" * 10_000)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert fingerprint_file(path) != before

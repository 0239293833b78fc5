"""The review page never shows a new file under an old map: the map stays, the slide goes, and the reason is said."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import made_slides as made
import numpy as np
import pytest
from changing_slides import appended, cut
from made_omezarr import chunk_files, write_omezarr
from made_review import write_facts
from review_page import answering, predicted

from pathopatch.core.errors import InputChangedError, InputUnsupportedError, PathopatchError
from pathopatch.review import reviewed_slide as slides
from pathopatch.review.reviewed_cohort import open_cohort
from pathopatch.review.reviewed_slide import ReviewedSlide
from pathopatch.review.security import Access
from pathopatch.review.tiles import patch_image
from pathopatch.slides import open_slide

pytestmark = pytest.mark.fault("changed-review")


def write_other(path: Path) -> None:
    """Another slide of the same size."""
    image = made.disc_image(96, 80, (50, 30), 20, tissue=(180, 90, 150), glass=(245, 245, 245))
    made.write_aperio(path, image, levels=2)


def overwritten(path: Path) -> None:
    """In place, by the bytes of another slide, with the time of modification set back."""
    before, other = path.stat(), path.with_name("other.svs")
    write_other(other)
    with path.open("r+b") as stream:
        stream.truncate(stream.write(other.read_bytes()))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replaced(path: Path) -> None:
    other = path.with_name("other.svs")
    write_other(other)
    other.replace(path)


CHANGES: dict[str, Callable[[Path], None]] = {
    "overwritten": overwritten,
    "replaced": replaced,
    "appended": appended,
    "cut": cut,
    "gone": Path.unlink,
}


@pytest.mark.parametrize("how", CHANGES)
def test_a_slide_that_changes_while_the_page_is_open_goes_from_its_map(how: str, tmp_path: Path) -> None:
    out = predicted(tmp_path)
    with answering(out, Access()) as page:
        tile, slide = "/api/slides/a/tiles/0/0/0.jpg", "/api/slides/a"
        facts, values = page.ask(slide).json, page.ask(f"{slide}/values").body
        assert facts["has_slide"] is True
        assert page.ask(tile).status == page.ask(f"{slide}/patches/32/32.png").status == 200
        CHANGES[how](tmp_path / "a.svs")
        assert page.ask(f"{tile}?channels=R").status != 200
        assert page.ask(f"{slide}/patches/32/32.png").status != 200
        now = page.ask(slide).json
        assert now["has_slide"] is False
        assert now["why_no_slide"]
        assert now | {"has_slide": True, "why_no_slide": None} == facts
        assert page.ask(f"{slide}/values").body == values
        assert page.decide().status == 201


def test_a_slide_copied_anew_is_shown_as_before(tmp_path: Path) -> None:
    slide = open_cohort(predicted(tmp_path)).open("a")
    before = patch_image(slide, 32, 32)
    shutil.copy(tmp_path / "a.svs", tmp_path / "copy")
    (tmp_path / "copy").replace(tmp_path / "a.svs")
    assert patch_image(slide, 32, 32) == before
    replaced(tmp_path / "a.svs")
    with pytest.raises(InputUnsupportedError, match="the content of its files differs"):
        patch_image(slide, 32, 32)


@pytest.mark.parametrize("how", CHANGES)
def test_what_is_read_while_the_slide_changes_is_not_shown(how: str, tmp_path: Path) -> None:
    slide = open_cohort(predicted(tmp_path)).open("a")

    def change_while_reading() -> None:
        with slide.reading() as pixels:
            pixels.read_region(0, 0, 8, 8)
            CHANGES[how](tmp_path / "a.svs")

    with pytest.raises(InputChangedError):
        change_while_reading()
    with pytest.raises(PathopatchError), slide.reading():
        pass


def test_an_omezarr_slide_whose_chunk_changes_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slides, "_REST", 0)
    path = tmp_path / "a.zarr"
    write_omezarr(path, [np.arange(3 * 64 * 64, dtype=np.uint16).reshape(3, 64, 64)])
    with open_slide(path, mpp=0.5) as opened:
        write_facts(tmp_path, "a", opened, [[0, 9]] * 3)
    slide = ReviewedSlide(tmp_path, "a", source=str(path))
    with slide.reading() as pixels:
        pixels.read_region(0, 0, 8, 8)
    chunk = chunk_files(path)[0]
    chunk.write_bytes(chunk.read_bytes()[::-1])
    with pytest.raises(InputUnsupportedError, match="the content of its files differs"), slide.reading():
        pass

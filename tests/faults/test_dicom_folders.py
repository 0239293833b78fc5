"""DICOM slides that end or hang OpenSlide, and what lies beside good ones: one slide fails, the others go on."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pydicom
import pytest
from made_dicom import write_dicom

from pathopatch.core.errors import InputCorruptError, WorkerCrashError
from pathopatch.slides import open_slide
from pathopatch.slides.discovery import discover
from pathopatch.slides.trial import require_harmless

pytestmark = pytest.mark.fault("native-crash", "special-files")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Good slides beside pipes, a slide at which OpenSlide crashes, and one whose header is spoilt."""
    for name in ("full", "stated", "one", "nowhere", "unlisted"):
        write_dicom(tmp_path / f"{name}.dcm", frames=name)
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "pipe.dcm")
    content = (tmp_path / "full.dcm").read_bytes()
    at = content.index(b"\x08\0\x08\0CS") + 4
    (tmp_path / "spoilt.dcm").write_bytes(content[:at] + b"\x55\xfe" + content[at + 2 :])
    return tmp_path


def test_good_slides_are_read_whatever_lies_beside_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As another library in this process may have asked.
    monkeypatch.setattr(pydicom.config.settings, "reading_validation_mode", pydicom.config.RAISE)
    found = discover([folder])
    codes = {slide.row.slide_id: slide.files[0].error and slide.files[0].error.code for slide in found.slides}
    assert codes == {"full": None, "stated": None} | dict.fromkeys(("one", "nowhere", "unlisted"), "INPUT_CORRUPT")
    assert {item.path.name for item in found.left_out} == {"pipe", "pipe.dcm", "spoilt.dcm"}
    with open_slide(folder / "full.dcm") as full, open_slide(folder / "stated.dcm") as stated:
        np.testing.assert_array_equal(full.read_region(0, 0, 192, 128), stated.read_region(0, 0, 192, 128))
        assert full.read_region(60, 60, 1, 1).ravel().tolist() == pytest.approx((170, 80, 140), abs=4)


def test_frames_without_places_are_refused_not_shown_as_glass(folder: Path) -> None:
    for name in ("one", "nowhere", "unlisted"):
        with pytest.raises(InputCorruptError, match="where its frames lie"):
            open_slide(folder / f"{name}.dcm")


def test_a_file_that_ends_its_library_ends_another_process(folder: Path) -> None:
    alone = write_dicom(folder / "alone" / "a.dcm", frames="unlisted")
    for _ in range(2):
        with pytest.raises(WorkerCrashError, match="exit code -11"):
            require_harmless(alone)
    require_harmless(write_dicom(folder / "good" / "a.dcm"))

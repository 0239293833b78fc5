"""One contract over all readers: the same slides in give the same features out."""

import hashlib
from pathlib import Path

import made_features
import numpy as np
import pytest

from pathopatch.core.errors import PathopatchError
from pathopatch.features.readers import open_features


@pytest.fixture(params=sorted(made_features.WRITERS))
def layout_and_folder(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    layout, write = made_features.WRITERS[request.param]
    return layout, write(tmp_path)


@pytest.fixture
def layout(layout_and_folder: tuple[str, Path]) -> str:
    return layout_and_folder[0]


@pytest.fixture
def folder(layout_and_folder: tuple[str, Path]) -> Path:
    return layout_and_folder[1]


def test_the_layout_is_recognised_by_its_content(layout: str, folder: Path) -> None:
    opened = open_features(folder)
    assert (opened.layout, opened.slide_ids) == (layout, ("A", "B"))


@pytest.mark.parametrize("slide_id", ["A", "B"])
def test_features_and_corners_are_those_that_were_written(layout: str, folder: Path, slide_id: str) -> None:
    slide = open_features(folder, layout=layout).read(slide_id).in_level0_px(made_features.MPP)
    np.testing.assert_array_equal(slide.features, made_features.vectors(slide_id))
    np.testing.assert_array_equal(np.column_stack([slide.x, slide.y]), made_features.XY[slide_id])
    assert (slide.slide_id, slide.side, slide.encoder.dim) == (slide_id, made_features.SIDE, made_features.DIM)
    assert slide.features.dtype in (np.float16, np.float32)
    assert slide.unit == "px"


def test_without_features_all_else_is_as_it_is(folder: Path) -> None:
    opened = open_features(folder)
    whole, rest = opened.read("A"), opened.read("A", with_features=False)
    assert rest.features.shape == (len(whole), 0)
    np.testing.assert_array_equal(rest.x, whole.x)
    assert (rest.encoder, rest.side, rest.notes) == (whole.encoder, whole.side, whole.notes)


def test_files_of_others_are_not_changed(folder: Path, tmp_path: Path) -> None:
    before = _hashes(tmp_path)
    opened = open_features(folder)
    for slide_id in opened.slide_ids:
        opened.read(slide_id)
    assert _hashes(tmp_path) == before


def _hashes(folder: Path) -> dict[Path, str]:
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def test_files_cut_short_end_in_an_error_with_a_code(folder: Path, tmp_path: Path) -> None:
    wrong = []
    of_both = (path for path in tmp_path.rglob("*") if path.is_file())
    for path in sorted(path for path in of_both if not any(part.startswith("B.") for part in path.parts)):
        whole = path.read_bytes()
        for share in (0.0, 0.3, 0.9):
            path.write_bytes(whole[: int(share * len(whole))])
            if (error := _fault(folder)) is not None:
                wrong.append(f"{path.name} to {share:.0%}: {error!r}")
        path.write_bytes(whole)
    assert wrong == []


def _fault(folder: Path) -> Exception | None:
    """Return an error without a code; files that happen to be whole without their end give none."""
    try:
        opened = open_features(folder)
        for slide_id in opened.slide_ids:
            opened.read(slide_id)
    except PathopatchError:
        return None
    except Exception as error:  # noqa: BLE001  # any other is what is looked for
        return error
    return None

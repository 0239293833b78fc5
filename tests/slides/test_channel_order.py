"""Channels are taken by name: another order or case is no other slide, other names are."""

from __future__ import annotations

from pathlib import Path

import made_slides as made
import numpy as np
import pytest
import tifffile

from pathopatch.slides import Slide, in_order, open_slide

IMAGE = made.noise(3, 50, 60, np.uint16)


def one_file(folder: Path) -> Slide:
    path = folder / "a.ome.tif"
    tifffile.imwrite(path, IMAGE, photometric="minisblack",
                     metadata={"axes": "CYX", "Channel": {"Name": ["CARS", "TPEF", "shg"]}})  # fmt: skip
    return open_slide(path, mpp=0.3, background="dark")


def three_files(folder: Path) -> Slide:
    paths = made.write_modalities(folder, IMAGE, ("CARS", "TPEF", "shg"))
    return open_slide(paths, mpp=0.3, background="dark")


def one_position(folder: Path) -> Slide:
    tifffile.imwrite(folder / "a.tif", np.stack([IMAGE // 2, IMAGE]), imagej=True, metadata={"axes": "ZCYX"})
    return open_slide(f"{folder / 'a.tif'}#z=1", channels=("CARS", "TPEF", "shg"), mpp=0.3, background="dark")


@pytest.mark.parametrize("write", [one_file, three_files, one_position])
@pytest.mark.parametrize(
    ("names", "order"), [(("SHG", "Cars", "TPEF"), [2, 0, 1]), (("CARS", "TPEF", "SHG"), [0, 1, 2])]
)
def test_the_same_names_in_another_order_or_case_are_the_same_planes(
    write: object, names: tuple[str, ...], order: list[int], tmp_path: Path
) -> None:
    slide = write(tmp_path)  # type: ignore[operator]
    ordered = in_order(slide, names)
    assert (ordered.channels, ordered.mpp, ordered._background) == (names, 0.3, "dark")
    np.testing.assert_array_equal(ordered.read_region(0, 0, 60, 50), IMAGE[order])
    of_file = isinstance(ordered.source, str)
    again = open_slide(ordered.source, channels=ordered.channels if of_file else None)
    assert again.channels == names
    np.testing.assert_array_equal(again.read_region(0, 0, 60, 50), IMAGE[order])


@pytest.mark.parametrize(
    "names", [None, ("CARS", "TPEF", "shg"), ("CARS", "TPEF"), ("CARS", "TPEF", "DAPI"), ("CARS", "CARS", "SHG")]
)
def test_a_slide_of_these_names_or_of_others_stays_as_it_is(names: tuple[str, ...] | None, tmp_path: Path) -> None:
    slide = one_file(tmp_path)
    assert in_order(slide, names) is slide


def test_names_that_differ_in_case_alone_are_not_told_apart(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", IMAGE[:2], imagej=True, metadata={"axes": "CYX"})
    slide = open_slide(tmp_path / "a.tif", channels=("SHG", "shg"))
    assert in_order(slide, ("shg", "SHG")) is slide

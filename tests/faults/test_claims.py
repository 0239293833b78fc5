"""Files that claim more than they hold, or than anyone reads, are refused by a code before work or memory is spent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from malformed_slides import (
    DESCRIPTIONS,
    LARGE_TILES,
    bounded,
    write_chunk_shape,
    write_description,
    write_large_tile,
)

from pathopatch.core.errors import InputCorruptError, InputTooLargeError
from pathopatch.slides import open_slide

pytestmark = pytest.mark.fault("claims")


@pytest.mark.parametrize("claim", DESCRIPTIONS)
def test_a_description_that_counts_too_many_planes_is_refused(claim: str, tmp_path: Path) -> None:
    path = write_description(tmp_path / "a.tif", claim)
    with bounded(), pytest.raises(InputTooLargeError, match="its description counts"):
        open_slide(path)


def test_a_description_that_counts_the_planes_that_are_there_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, np.zeros((3, 64, 64), np.uint16), metadata={"axes": "CYX"}, photometric="minisblack")
    with open_slide(path) as slide:
        assert len(slide.channels) == 3


@pytest.mark.parametrize("compression", LARGE_TILES)
def test_a_tile_larger_than_announced_is_refused_before_it_is_decoded(compression: str, tmp_path: Path) -> None:
    path = write_large_tile(tmp_path / "a.tif", compression)
    said = "cannot be decoded" if compression == "deflate" else "it announces"
    with open_slide(path, background="dark") as slide, bounded(), pytest.raises(InputCorruptError, match=said):
        slide.read_region(0, 0, 64, 64)


@pytest.mark.parametrize(("shape", "chunks"), [((3, 64, 64), (64, 64)), ((), ()), ((3, 0, 64), (3, 64, 64)),
                                               ((3, 64, 64), (3, 0, 64))])  # fmt: skip
def test_an_omezarr_whose_chunks_do_not_fit_its_shape_is_corrupt(
    shape: tuple[int, ...], chunks: tuple[int, ...], tmp_path: Path
) -> None:
    path = write_chunk_shape(tmp_path / "a.zarr", shape, chunks)
    with pytest.raises(InputCorruptError):
        open_slide(path)

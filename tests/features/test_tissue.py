"""Tissue of patches behind features, measured on their slides."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from array_slides import h_and_e
from numpy.typing import NDArray

from pathopatch.core.config import TileConfig
from pathopatch.core.errors import InputMissingError, InputUnsupportedError
from pathopatch.features.tissue import find_slides, measure_tissue
from pathopatch.patches.tile import tile_slide

Make = Callable[..., Any]
Discs = NDArray[np.bool_]


def test_measured_tissue_equals_that_of_tiling(make_slide: Make, two_discs: Discs, tmp_path: Path) -> None:
    slide = make_slide(h_and_e(two_discs))
    tile_slide(slide, TileConfig(patch_px=32), tmp_path)
    table = pd.read_parquet(tmp_path / "patches" / "slide.parquet")
    x, y = (table[name].to_numpy() for name in ("x", "y"))
    assert measure_tissue(slide, x, y, 32.0)[0].tolist() == table["tissue_fraction"].tolist()


def test_tissue_is_measured_at_the_positions_and_side_of_the_features(make_slide: Make, two_discs: Discs) -> None:
    slide = make_slide(h_and_e(two_discs))
    x, y = np.array([17, 60]), np.array([9, 40])
    truth = [two_discs[top : top + 50, left : left + 50].mean() for left, top in zip(x, y, strict=True)]
    assert measure_tissue(slide, x, y, 50.0)[0] == pytest.approx(truth)


def test_patches_outside_the_slide_are_refused(make_slide: Make, two_discs: Discs) -> None:
    slide = make_slide(h_and_e(two_discs))
    with pytest.raises(InputUnsupportedError, match="1 of 2 patches lie outside the slide"):
        measure_tissue(slide, np.array([0, slide.size[0]]), np.array([0, 0]), 32.0)


def test_slides_are_found_by_the_stem_of_their_files(tmp_path: Path) -> None:
    for name in ("a/S1.svs", "b/S2.ome.tif", "S3.ome.zarr/0/0.tif", "S1.csv", "other.svs", "._S2.ome.tif"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found = find_slides(tmp_path, ["S1", "S2", "S3"])
    assert {name: path.name for name, path in found.items()} == {
        "S1": "S1.svs", "S2": "S2.ome.tif", "S3": "S3.ome.zarr",
    }  # fmt: skip


def test_a_missing_slide_and_two_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "S1.svs").touch()
    with pytest.raises(InputMissingError, match="no slide for 1 of 2 feature files, such as S2"):
        find_slides(tmp_path, ["S1", "S2"])
    (tmp_path / "S1.tif").touch()
    with pytest.raises(InputUnsupportedError, match="two files are named as slide S1"):
        find_slides(tmp_path, ["S1"])

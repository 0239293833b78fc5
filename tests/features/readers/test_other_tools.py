"""Files of tools that are not read: the page's lines write a table from them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import zarr
from made_features import MPP, SIDE, SIZE_PX, TISSUE, XY, vectors
from pyarrow import Table, parquet
from shapely import box, to_wkb

from pathopatch.core.errors import InputMissingError
from pathopatch.features.readers import open_features

PAGE = (Path(__file__).parents[3] / "docs" / "how-to" / "other-features.md").read_text(encoding="utf-8")


def slide2vec(folder: Path) -> None:
    for name in ("tile_embeddings", "tiles"):
        (folder / "slide2vec" / name).mkdir(parents=True)
    torch.save(torch.from_numpy(vectors("A", dtype=np.float16)), folder / "slide2vec" / "tile_embeddings" / "A.pt")
    tiles = folder / "slide2vec" / "tiles" / "A.coordinates.npz"
    x, y = XY["A"].T
    np.savez_compressed(tiles, tile_index=np.arange(4, dtype=np.int32), x=x, y=y, tissue_fractions=TISSUE["A"])
    sections = {
        "provenance": {"sample_id": "A"},
        "slide": {"dimensions": list(SIZE_PX), "base_spacing_um": MPP, "level_downsamples": [1.0]},
        "tiling": {"requested_tile_size_px": 256, "requested_spacing_um": 1.0, "tile_size_lv0": SIDE},
        "artifact": {"coordinate_space": "level0_px", "tile_order": "x_then_y"},
    }
    tiles.with_suffix(".meta.json").write_text(json.dumps(sections))


def lazyslide(folder: Path) -> None:
    root = zarr.open_group(folder / "lazyslide" / "A.zarr", mode="w")
    root.attrs["tile_spec"] = {"tiles": {"width": 256, "base_downsample": 2.0}}
    root.create_array("tables/uni_tiles/X", data=vectors("A"))
    root.create_array("tables/uni_tiles/obs/tile_id", data=np.arange(4))
    shapes = folder / "lazyslide" / "A.zarr" / "shapes" / "tiles"
    shapes.mkdir(parents=True)
    boxes = [to_wkb(box(x, y, x + SIDE, y + SIDE)) for x, y in XY["A"].tolist()]
    reversed_rows = {"tile_id": np.arange(4)[::-1], "geometry": boxes[::-1]}
    parquet.write_table(Table.from_pydict(reversed_rows), shapes / "shapes.parquet")


def slideflow(folder: Path) -> None:
    (folder / "bags").mkdir()
    torch.save(torch.from_numpy(vectors("A")), folder / "bags" / "A.pt")
    np.savez(folder / "bags" / "A.index.npz", XY["A"] + SIDE // 2)
    (folder / "bags" / "bags_config.json").write_text(json.dumps({"tile_um": SIDE * MPP}))


def atlaspatch(folder: Path) -> None:
    (folder / "atlaspatch" / "patches").mkdir(parents=True)
    with h5py.File(folder / "atlaspatch" / "patches" / "A.h5", "w") as file:
        file["coords"] = np.column_stack([XY["A"], np.tile([256, 256, 1], (4, 1))]).astype(np.int32)
        file["features/uni_v2"] = vectors("A")
        file.attrs["patch_size_level0"] = SIDE


def mussel(folder: Path) -> None:
    (folder / "mussel").mkdir()
    with h5py.File(folder / "mussel" / "A.features.h5", "w") as file:
        file["features"], file["coords"] = vectors("A"), XY["A"]
        known = {"patch_size": SIDE, "patch_size_to_resize_to_for_desired_mpp": 256, "level_dim": np.array(SIZE_PX)}
        file["coords"].attrs.update(known)


WRITERS: dict[str, Callable[[Path], None]] = {
    "slide2vec": slide2vec, "lazyslide": lazyslide, "slideflow": slideflow, "atlaspatch": atlaspatch, "mussel": mussel,
}  # fmt: skip


@pytest.mark.parametrize("tool", WRITERS)
def test_files_that_are_not_read_end_in_the_page_that_helps(tool: str, tmp_path: Path) -> None:
    WRITERS[tool](tmp_path)
    with pytest.raises(InputMissingError, match="no features of patches") as refused:
        open_features(tmp_path)
    assert "docs/how-to/other-features.md" in (refused.value.remedy or "")


@pytest.mark.parametrize("tool", WRITERS)
def test_the_lines_of_the_page_write_a_table_of_the_same_patches(
    tool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    WRITERS[tool](tmp_path)
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(rf"^## {tool}$.*?```python\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE | re.IGNORECASE)
    assert len(code.splitlines()) <= 14
    exec(compile(code, "docs/how-to/other-features.md", "exec"), {})  # the page's own example
    slide = open_features(tmp_path / "table").read("A")
    np.testing.assert_array_equal(slide.features, vectors("A"))
    np.testing.assert_array_equal(np.column_stack([slide.x, slide.y]), XY["A"])
    assert slide.side == SIDE
    if tool == "slide2vec":
        np.testing.assert_array_equal(slide.tissue_fraction, TISSUE["A"])
        assert slide.mpp == MPP


def test_a_slide_in_ome_zarr_with_tables_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "A.zarr" / "tables").mkdir(parents=True)
    np.savez(tmp_path / "A.npz", features=vectors("A"))
    assert open_features(tmp_path).layout == "table"

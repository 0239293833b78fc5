"""Patches that are not stored: read from the slide, as long as it is unchanged."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import made_slides as made
import numpy as np
import pytest
from made_omezarr import write_omezarr

from pathopatch.core.artefacts import read_table
from pathopatch.core.config import RegistrationConfig, TileConfig, TissueConfig
from pathopatch.core.errors import InputMissingError, StaleArtefactError
from pathopatch.patches.store import PatchStore
from pathopatch.patches.tile import tile_slide
from pathopatch.slides import Slide, open_slide

pytestmark = pytest.mark.slow

CONFIG = TileConfig(patch_px=32, stride_px=24, mpp=0.7)


def discs(dtype: Any, channels: int, background: int) -> np.ndarray:
    tissue = [120 + 20 * channel for channel in range(channels)]
    disc = made.disc_image(203, 150, (90, 70), 50, tissue=tissue, glass=[background] * channels)
    return (disc + np.random.default_rng(0).integers(0, 9, disc.shape)).astype(dtype)


def modalities(folder: Path) -> Slide:
    return open_slide(made.write_modalities(folder, discs(np.uint16, 3, 10)))


def brightfield(folder: Path) -> Slide:
    made.write_rgb_pyramid(folder / "a.tif", discs(np.uint8, 3, 240), levels=2)
    return open_slide(folder / "a.tif")


def float64(folder: Path) -> Slide:
    made.write_channel(folder / "a.tif", discs(np.float64, 1, 10)[0] / 7)
    return open_slide(folder / "a.tif")


def plane_without_mpp(folder: Path) -> Slide:
    made.write_rgb_pyramid(folder / "a.tif", discs(np.uint8, 3, 10), mpp=None)
    return open_slide(f"{folder / 'a.tif'}#plane=1", mpp=0.5, channels=("SHG",), background="dark")


def ome_zarr(folder: Path) -> Slide:
    return open_slide(write_omezarr(folder / "a.zarr", [discs(np.uint16, 2, 10)], labels=("CARS", "SHG")))


SLIDES = {make.__name__: make for make in (modalities, brightfield, float64, plane_without_mpp, ome_zarr)}
OTHER_POLARITY = CONFIG.model_copy(update={"tissue": TissueConfig(background="dark")})  # of a bright slide


def tiled(slide: Slide, out: Path, config: TileConfig, store: str) -> PatchStore:
    tile_slide(slide, config.model_copy(update={"store": store}), out, slide_id="s")
    return PatchStore(out / "slides" / "s.zarr")


@pytest.mark.parametrize("config", [CONFIG, OTHER_POLARITY], ids=["own polarity", "given polarity"])
@pytest.mark.parametrize("name", SLIDES)
def test_patches_from_the_slide_are_those_of_the_store(tmp_path: Path, name: str, config: TileConfig) -> None:
    slide = SLIDES[name](tmp_path)
    stored = tiled(slide, tmp_path / "kept", config, "zarr")
    without = tiled(slide, tmp_path / "without", config, "none")
    assert (stored.has_patches, without.has_patches) == (True, False)
    rows = np.random.default_rng(1).permutation(len(stored))
    patches = without.read(rows)
    assert patches.dtype == stored.read(rows).dtype
    np.testing.assert_array_equal(patches, stored.read(rows))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(without)).read(rows[:3]), patches[:3])
    tables = [read_table(tmp_path / folder / "patches" / "s.parquet") for folder in ("kept", "without")]
    assert tables[0].equals(tables[1])


def test_aligned_channels_stay_aligned_when_read_again(tmp_path: Path) -> None:
    pixels = np.pad(discs(np.uint16, 2, 10), ((0, 0), (40, 40), (40, 40)), constant_values=10)
    pixels[1] = np.roll(pixels[1], (7, -12), axis=(0, 1))
    slide = open_slide(made.write_modalities(tmp_path, pixels, ("CARS", "SHG")))
    config = CONFIG.model_copy(update={"registration": RegistrationConfig(align=True)})
    stored = tiled(slide, tmp_path / "kept", config, "zarr")
    assert stored.attributes["registration"]["offsets_px"] == [[0, 0], [-12, 7]]
    rows = np.arange(len(stored))
    patches = tiled(slide, tmp_path / "without", config, "none").read(rows)
    np.testing.assert_array_equal(patches, stored.read(rows))


def test_threads_share_a_slide_that_may_be_closed_between_reads(tmp_path: Path) -> None:
    store = tiled(modalities(tmp_path), tmp_path / "out", CONFIG, "none")
    due = store.read(np.arange(len(store)))

    def read(seed: int) -> bool:
        rows = np.random.default_rng(seed).integers(0, len(store), 5)
        same = bool((store.read(rows) == due[rows]).all())
        store.close()
        return same

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(40)))


def _other_pixels(folder: Path) -> None:
    write_omezarr(folder / "b.zarr", [discs(np.uint16, 2, 11)], labels=("CARS", "SHG"))
    shutil.rmtree(folder / "a.zarr")
    (folder / "b.zarr").rename(folder / "a.zarr")


def _moved(folder: Path) -> None:
    (folder / "a.zarr").rename(folder / "moved.zarr")


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [(_other_pixels, StaleArtefactError, "a.zarr is not what was tiled.*--force"),
     (_moved, InputMissingError, "a.zarr")],
)  # fmt: skip
def test_a_changed_or_missing_slide_is_an_error(
    tmp_path: Path, change: Callable[[Path], None], kind: type[Exception], words: str
) -> None:
    tiled(ome_zarr(tmp_path), tmp_path / "out", CONFIG, "none")
    change(tmp_path)
    with pytest.raises(kind, match=words):
        PatchStore(tmp_path / "out" / "slides" / "s.zarr").read([0])

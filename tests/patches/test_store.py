from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import ome_zarr_models
import pytest
import tensorstore
import zarr
from numpy.typing import NDArray
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader

from pathopatch.core.artefacts import Stamp, read_stamp
from pathopatch.core.errors import InputCorruptError, InputMissingError, StaleArtefactError
from pathopatch.core.mask_bits import MaskKind, pack_masks
from pathopatch.patches.store import PatchStore
from pathopatch.patches.store_writer import StoreWriter, shard_patches

ORIGINS = np.stack([np.arange(600) * 8, np.zeros(600)], axis=1).astype(np.int64)
STAMP = Stamp(stage="tile", settings={"is": "c"}, inputs={})
ATTRIBUTES = {"slide_id": "s", "windows": [[0, 9]], "stamp": STAMP.to_dict()}
Masks = dict[MaskKind, NDArray[np.bool_]]


def write(
    path: Path, patches: NDArray[Any], masks: Masks | None = None, *, finish: bool = True, **options: Any
) -> Path:
    masks = masks or {}
    writer = StoreWriter(
        path,
        origins=ORIGINS[: len(patches)],
        channels=patches.shape[1],
        patch_px=patches.shape[2],
        dtype=patches.dtype,
        masks=tuple(masks),
        **options,
    )
    for start in range(0, len(patches), 100):  # batches that do not fit the shards
        part = slice(start, start + 100)
        writer.append(patches[part], {kind: pack_masks(mask[part]) for kind, mask in masks.items()})
    if finish:
        writer.finish(ATTRIBUTES)
    return path


def drawn(n: int, dtype: str, channels: int = 2) -> NDArray[Any]:
    return np.random.default_rng(0).integers(0, 120, (n, channels, 8, 8)).astype(dtype)


@pytest.mark.parametrize(
    ("dtype", "codec"),
    [("uint8", "zstd"), ("uint16", "blosc"), ("int16", "blosc"), ("float32", "blosc"), ("float64", "blosc")],
)
def test_patches_come_back_in_any_order(tmp_path: Path, dtype: str, codec: str) -> None:
    patches = drawn(600, dtype)
    patches[7] = 0
    store = PatchStore(write(tmp_path / "s.zarr", patches))
    rows = np.random.default_rng(1).permutation(600)
    restored = store.read(rows)
    assert restored.dtype == ("float32" if dtype == "float64" else dtype)
    assert (restored == patches[rows]).all()
    array: Any = zarr.open_group(store.path, mode="r")["patches"]
    assert (array.shards, array.chunks) == ((256, 2, 8, 8), (1, 2, 8, 8))
    inner = array.metadata.to_dict()["codecs"][0]["configuration"]["codecs"]
    assert [step["name"] for step in inner[-2:]] == [codec, "crc32c"]


def test_a_shard_holds_256_patches_100_megabytes_or_all_patches() -> None:
    assert shard_patches(3 * 256 * 256, 10_000) == 256
    assert shard_patches(3 * 1024 * 1024, 10_000) == 31
    assert shard_patches(200_000_000, 10_000) == 1
    assert shard_patches(100, 5) == 5


def test_rows_are_found_by_patch_id_and_an_unknown_one_is_named(tmp_path: Path) -> None:
    store = PatchStore(write(tmp_path / "s.zarr", drawn(20, "uint8")))
    assert store.rows(["s@24,0", "s@0,0"]).tolist() == [3, 0]
    assert store.rows(["s@0,0", "s@8,0"]).tolist() == [0, 1]
    with pytest.raises(InputMissingError, match="s@1,0"):
        store.rows(["s@1,0"])
    with pytest.raises(InputMissingError, match="rows 20"):
        store.read([20])


def test_a_store_pickles_by_opening_again(tmp_path: Path) -> None:
    patches = drawn(5, "uint16")
    store = PatchStore(write(tmp_path / "s.zarr", patches))
    store.read([0])
    again = pickle.loads(pickle.dumps(store))
    assert (again.read([4, 1]) == patches[[4, 1]]).all()
    assert again.windows.tolist() == [[0, 9]]


def test_a_finished_store_has_its_stamp_and_an_unfinished_one_is_refused(tmp_path: Path) -> None:
    assert read_stamp(write(tmp_path / "finished.zarr", drawn(5, "uint8"))) == STAMP
    assert read_stamp(tmp_path / "none.zarr") is None
    path = write(tmp_path / "s.zarr", drawn(5, "uint8"), finish=False)
    assert read_stamp(path) is None
    with pytest.raises(InputCorruptError, match="not complete"):
        PatchStore(path)
    with pytest.raises(InputMissingError):
        PatchStore(tmp_path / "none.zarr")


def test_a_store_that_lacks_patches_or_masks_does_not_finish(tmp_path: Path) -> None:
    shape: dict[str, Any] = {"origins": ORIGINS[:3], "channels": 1, "patch_px": 8, "dtype": np.dtype(np.uint8)}
    writer = StoreWriter(tmp_path / "patches.zarr", **shape)
    writer.append(drawn(2, "uint8", 1))
    with pytest.raises(AssertionError, match="patches: 1 are missing"):
        writer.finish(ATTRIBUTES)
    writer = StoreWriter(tmp_path / "masks.zarr", **shape, masks=("tissue",))
    writer.append(drawn(3, "uint8", 1))
    with pytest.raises(AssertionError, match="tissue_masks: 3 are missing"):
        writer.finish(ATTRIBUTES)


def test_a_store_without_pixels_has_everything_else(tmp_path: Path) -> None:
    store = PatchStore(write(tmp_path / "s.zarr", drawn(5, "uint8"), with_patches=False))
    assert len(store) == 5
    assert not store.has_patches
    with pytest.raises(InputMissingError, match="the store records neither pixels nor their source"):
        store.read([0])


def masks_of(n: int, side: int, *kinds: MaskKind) -> Masks:
    rng = np.random.default_rng(2)
    return {kind: rng.random((n, side, side)) < 0.5 for kind in kinds}


@pytest.mark.parametrize("with_patches", [True, False])
@pytest.mark.parametrize(("n", "side"), [(600, 8), (5, 9), (3, 13)])
def test_masks_come_back_in_any_order_also_of_a_store_without_pixels(
    tmp_path: Path, n: int, side: int, with_patches: bool
) -> None:
    masks = masks_of(n, side, "tissue", "tumor")
    patches = np.zeros((n, 1, side, side), np.uint8)
    store = PatchStore(write(tmp_path / "s.zarr", patches, masks, with_patches=with_patches))
    assert store.has_patches == with_patches
    rows = np.random.default_rng(1).permutation(n)
    for kind in ("tissue", "tumor"):
        restored = store.masks(rows, kind)
        assert restored.dtype == np.bool_
        np.testing.assert_array_equal(restored, masks[kind][rows])
    assert store.masks([], "tissue").shape == (0, side, side)
    with pytest.raises(InputMissingError, match=f"rows {n} to {n} of {n}"):
        store.masks([n], "tissue")
    array: Any = zarr.open_group(store.path, mode="r")["tissue_masks"]
    assert (array.shards[0], array.chunks) == (min(n, 256), (1, side, -(-side // 8)))


def test_masks_that_nobody_stated_are_missing(tmp_path: Path) -> None:
    store = PatchStore(write(tmp_path / "s.zarr", drawn(3, "uint8"), masks_of(3, 8, "tissue")))
    assert (store.has_masks("tissue"), store.has_masks("tumor")) == (True, False)
    with pytest.raises(InputMissingError, match="slide s: no tumor masks"):
        store.masks([0], "tumor")


def test_another_mask_makes_another_store_and_both_are_in_the_checksums(tmp_path: Path) -> None:
    def checksum(name: str, change: tuple[int, int, int] | None, kinds: tuple[MaskKind, ...]) -> str:
        changed = masks_of(4, 9, *kinds)
        if change is not None:
            changed["tissue"][change] ^= True
        store = PatchStore(write(tmp_path / name, np.zeros((4, 1, 9, 9), np.uint8), changed))
        assert {f"{kind}_masks/c/0/0/0" for kind in kinds} <= set(store.attributes["checksums"])
        return store.pixels_checksum

    one = checksum("a.zarr", None, ("tissue",))
    assert checksum("b.zarr", None, ("tissue",)) == one
    assert checksum("c.zarr", (3, 8, 8), ("tissue",)) != one
    assert checksum("d.zarr", None, ("tissue", "tumor")) != one


def with_overview(path: Path) -> tuple[Path, NDArray[np.uint16], NDArray[np.uint8]]:
    """Return a store with an overview of 700 x 1100 px, its pixels and its tissue."""
    writer = StoreWriter(path, origins=ORIGINS[:1], channels=2, patch_px=8, dtype=np.dtype(np.uint16))
    writer.append(drawn(1, "uint16"))
    overview = np.arange(2 * 700 * 1100).reshape(2, 700, 1100).astype(np.uint16)
    tissue = (overview[0] % 3 == 0).astype(np.uint8)
    windows = np.array([[1.0, 50.0], [2.0, 60.0]])
    writer.write_overview(overview, {"tissue": tissue}, channels=("CARS", "SHG"), um_per_px=(2.0, 3.0), windows=windows)
    writer.finish(ATTRIBUTES)
    return path, overview, tissue


def test_the_overview_is_an_ome_zarr_image_with_a_label_image(tmp_path: Path) -> None:
    path, overview, tissue = with_overview(tmp_path / "s.zarr")
    store = PatchStore(path)
    assert (store.overview() == overview).all()
    assert (store.tissue() == tissue).all()
    # Level 1 halves 700 x 1100 to 350 x 550, level 2 to 175 x 275, which is small enough.
    assert (store.overview(2).shape, store.tissue(2).shape) == ((2, 175, 275), (175, 275))
    assert abs(store.overview(1)[0, 0, 0] - overview[0, :2, :2].mean()) <= 0.5
    image: Any = zarr.open_group(store.path / "overview", mode="r").attrs.asdict()["ome"]
    assert image["version"] == "0.5"
    assert [axis["name"] for axis in image["multiscales"][0]["axes"]] == ["c", "y", "x"]
    scales = [level["coordinateTransformations"] for level in image["multiscales"][0]["datasets"]]
    assert [scale[0]["scale"] for scale in scales] == [[1, 3, 2], [1, 6, 4], [1, 12, 8]]
    # The centre of the first pixel of level 1 lies between the centres of the first two of level 0.
    assert scales[1][1]["translation"] == [0, 1.5, 1.0]
    assert [channel["label"] for channel in image["omero"]["channels"]] == ["CARS", "SHG"]
    labels: Any = zarr.open_group(store.path / "overview/labels", mode="r").attrs.asdict()["ome"]
    assert labels["labels"] == ["tissue"]


@pytest.mark.parametrize(("group", "kind"), [("overview", "Image"), ("overview/labels/tissue", "ImageLabel")])
def test_the_overview_and_its_label_are_valid_and_a_broken_copy_is_not(tmp_path: Path, group: str, kind: str) -> None:
    path, *_ = with_overview(tmp_path / "s.zarr")
    restored = ome_zarr_models.open_ome_zarr(zarr.open_group(path / group, mode="r"))
    assert (type(restored).__name__, restored.ome_zarr_version) == (kind, "0.5")
    metadata = path / group / "zarr.json"
    metadata.write_text(metadata.read_text().replace('"scale"', '"size"'))
    with pytest.raises((ValueError, RuntimeError)):
        ome_zarr_models.open_ome_zarr(zarr.open_group(path / group, mode="r"))


def test_other_libraries_read_the_store_without_this_package(tmp_path: Path) -> None:
    path, overview, tissue = with_overview(tmp_path / "s.zarr")
    group: Any = zarr.open_group(path, mode="r")
    assert (group["patches"][...] == drawn(1, "uint16")).all()
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{path}/patches/"}}
    assert (tensorstore.open(spec).result().read().result() == drawn(1, "uint16")).all()
    image, _, label = Reader(parse_url(str(path / "overview")))()
    assert (np.asarray(image.data[0]) == overview).all()
    assert (np.asarray(label.data[0]) == tissue).all()
    assert image.metadata["channel_names"] == ["CARS", "SHG"]
    for array in ("overview/0", "patches"):
        chunk = next(file for file in (path / array / "c").rglob("*") if file.is_file())
        chunk.write_bytes(chunk.read_bytes()[:-9])
    for read in (
        lambda: np.asarray(image.data[0]),
        lambda: group["patches"][...],
        lambda: tensorstore.open(spec).result().read().result(),
    ):
        with pytest.raises((ValueError, RuntimeError)):
            read()


def test_a_store_of_an_older_schema_is_refused_with_the_command_to_run(tmp_path: Path) -> None:
    path = write(tmp_path / "s.zarr", drawn(5, "uint8"))
    group: Any = zarr.open_group(path)
    group.attrs["stamp"] = {**STAMP.to_dict(), "schema_version": 0}
    with pytest.raises(StaleArtefactError, match="schema 0.*pathopatch tile MANIFEST -o WORK --force"):
        PatchStore(path)


@pytest.mark.fault("damaged-store")
def test_a_store_without_checksums_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "s.zarr", drawn(5, "uint8"))
    del zarr.open_group(path).attrs["checksums"]
    with pytest.raises(InputCorruptError):
        PatchStore(path)

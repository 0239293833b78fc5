"""Damaged and exchanged stores: no patch, overview or mask is read as other pixels than were written."""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import made_slides as made
import numpy as np
import pytest
import torch
from array_slides import write_mask
from made_patches import write_work
from written_files import TIMES, contents

from pathopatch.core.config import EvaluateConfig, TileConfig, TrainConfig
from pathopatch.core.errors import InputCorruptError, StaleArtefactError
from pathopatch.core.files import read_json
from pathopatch.core.status import is_recorded_done
from pathopatch.evaluation.evaluate import evaluate_run
from pathopatch.patches.labels import LabelSource
from pathopatch.patches.patch_import import tile_patches
from pathopatch.patches.store import PatchStore
from pathopatch.patches.store_writer import StoreWriter
from pathopatch.patches.tile import tile_slide
from pathopatch.report.page import write_contact_sheet
from pathopatch.slides import open_slide
from pathopatch.training.run import fit

CONFIG = TileConfig(patch_px=16)
FLIPS = 300
SHARD = "patches/c/0/0/0/0"
ARRAYS = {
    "overview": ("overview/0/c/0/0/0", PatchStore.overview),
    "tissue": ("overview/labels/tissue/0/c/0/0", PatchStore.tissue),
    "origins": ("origins/c/0/0", lambda store: store.origins),
    "tissue_masks": ("tissue_masks/c/0/0/0", lambda store: store.masks(range(256), "tissue")),
    "tumor_masks": ("tumor_masks/c/0/0/0", lambda store: store.masks(range(256), "tumor")),
    "patches": (SHARD, lambda store: store.read(np.arange(len(store)))),
}


@pytest.fixture(scope="module")
def tiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder of the slide ``../a.tif``, 256 patches."""
    folder = tmp_path_factory.mktemp("stores")
    image = made.disc_image(256, 256, (100, 100), 90, tissue=(180, 90, 150), glass=(245, 245, 245))
    image[:, ::3, ::5] -= 5
    made.write_rgb_pyramid(folder / "a.tif", image, levels=1)
    write_mask(folder / "tumor.png", np.hypot(*(np.mgrid[:256, :256] - 120)) < 60)
    tile(folder / "a.tif", folder / "work")
    return folder / "work"


@pytest.fixture
def work(tiled: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(tiled, tmp_path / "work")


@pytest.fixture
def retile(tiled: Path, work: Path) -> Callable[..., str]:
    return partial(tile, tiled.parent / "a.tif", work)


def tile(path: Path, work: Path, *, force: bool = False) -> str:
    with open_slide(path, mpp=0.5) as slide:
        labels = LabelSource(tumor_mask=path.with_name("tumor.png"))
        return tile_slide(slide, CONFIG, work, labels=labels, force=force).state


def store_of(work: Path) -> Path:
    return work / "slides" / "a.zarr"


def flipped_bits(path: Path) -> Any:
    """Yield `FLIPS` times with another bit of a file flipped."""
    whole = path.read_bytes()
    for bit in np.random.default_rng(0).choice(8 * len(whole), FLIPS, replace=False).tolist():
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        yield bit


def refused(read: Callable[[], object], chunk: str, slide: str = "a") -> None:
    with pytest.raises(InputCorruptError, match=f"slide {slide}: chunk {chunk}"):
        read()


@pytest.mark.fault("damaged-store")
@pytest.mark.parametrize("array", ARRAYS)
def test_each_of_300_flipped_bits_is_refused(array: str, work: Path) -> None:
    chunk, read = ARRAYS[array]
    for _ in flipped_bits(store_of(work) / chunk):
        refused(lambda: read(PatchStore(store_of(work))), chunk)


@pytest.mark.fault("damaged-store")
@pytest.mark.parametrize("array", ARRAYS)
def test_a_missing_chunk_is_refused_and_not_read_as_zeros(array: str, work: Path) -> None:
    chunk, read = ARRAYS[array]
    (store_of(work) / chunk).unlink()
    refused(lambda: read(PatchStore(store_of(work))), chunk)


@pytest.mark.fault("damaged-store")
def test_a_missing_array_of_the_overview_is_refused_and_not_left_out(work: Path) -> None:
    shutil.rmtree(store_of(work) / "overview")
    assert PatchStore(store_of(work)).has_overview
    refused(PatchStore(store_of(work)).overview, "overview/0/c/0/0/0")
    with pytest.raises(InputCorruptError, match="slide a: chunk overview"):
        write_contact_sheet(work)


@pytest.mark.fault("damaged-store")
def test_missing_masks_are_refused_and_not_taken_as_those_of_an_earlier_version(work: Path) -> None:
    for kind in ("tissue", "tumor"):
        shutil.rmtree(store_of(work) / f"{kind}_masks")
        store = PatchStore(store_of(work))
        assert store.has_masks(kind)
        refused(partial(store.masks, [0], kind), f"{kind}_masks/c/0/0/0")


@pytest.mark.fault("damaged-store")
@pytest.mark.parametrize("damage", ["missing", "flipped"])
def test_a_forked_process_refuses_a_damaged_chunk_too(damage: str, work: Path) -> None:
    shard = store_of(work) / SHARD
    if damage == "missing":
        shard.unlink()
    else:
        next(flipped_bits(shard))
    pipe, theirs = multiprocessing.Pipe()

    def read() -> None:
        try:
            theirs.send(str(PatchStore(store_of(work)).read(np.arange(256)).shape))
        except InputCorruptError as error:
            theirs.send(error.message)

    process = multiprocessing.get_context("fork").Process(target=read)
    process.start()
    assert pipe.recv().startswith(f"slide a: chunk {SHARD} is ")
    process.join()


@pytest.mark.fault("damaged-store")
@pytest.mark.parametrize(
    "chunk",
    [
        SHARD,
        "overview/0/c/1/0/0",
        "overview/labels/tissue/0/c/0/0",
        "patches/zarr.json",
        "tissue_masks/c/0/0/0",
        "tumor_masks/zarr.json",
    ],
)
@pytest.mark.parametrize("damage", ["missing", "flipped"])
def test_tile_refuses_a_damaged_store_and_force_makes_it_again(
    damage: str, chunk: str, work: Path, retile: Callable[..., str]
) -> None:
    whole = contents(work, without=TIMES)
    if damage == "flipped":
        next(flipped_bits(store_of(work) / chunk))
    else:
        (store_of(work) / chunk).unlink()
    refused(retile, chunk)
    assert not is_recorded_done(work, "a", "tile")
    assert retile(force=True) == "done"
    assert contents(work, without=TIMES) == whole
    assert retile() == "current"


@pytest.mark.fault("damaged-store")
def test_of_a_large_store_tile_checks_the_sizes_alone(
    work: Path, retile: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pathopatch.patches.store._WHOLE_STORE_BYTES", 100)
    next(flipped_bits(store_of(work) / SHARD))
    assert retile() == "current"
    shard = store_of(work) / SHARD
    shard.write_bytes(shard.read_bytes()[:-1])
    refused(retile, SHARD)


@pytest.mark.fault("exchanged-store")
def test_tile_makes_a_store_again_that_is_not_of_its_table(work: Path, retile: Callable[..., str]) -> None:
    import zarr

    whole = contents(work, without=TIMES)
    zarr.open_group(store_of(work), mode="a").attrs["pixels_checksum"] = "0" * 16
    assert retile() == "done"
    assert contents(work, without=TIMES) == whole


@pytest.mark.fault("damaged-store")
def test_a_set_of_patches_is_refused_where_its_store_is_damaged(tmp_path: Path) -> None:
    import cv2

    rng = np.random.default_rng(0)
    for number in range(4):
        place = tmp_path / "set" / "train" / ("tumor", "non_tumor")[number % 2] / "p" / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(place), rng.integers(0, 255, (16, 16, 3)).astype(np.uint8))
    assert tile_patches(tmp_path / "set", TileConfig(), tmp_path / "work")[0].state == "done"
    (tmp_path / "work" / "slides" / "set.zarr" / SHARD).unlink()
    refused(lambda: tile_patches(tmp_path / "set", TileConfig(), tmp_path / "work"), SHARD, "set")
    assert tile_patches(tmp_path / "set", TileConfig(), tmp_path / "work", force=True)[0].state == "done"


def test_the_pixels_checksum_does_not_depend_on_the_compression(
    tiled: Path, work: Path, retile: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from zarr.codecs import ZstdCodec

    shutil.rmtree(store_of(work))
    monkeypatch.setattr("pathopatch.patches.store_writer.compressor", lambda _dtype: ZstdCodec(level=5))
    retile()
    first, second = PatchStore(store_of(tiled)), PatchStore(store_of(work))
    assert first.attributes["checksums"] != second.attributes["checksums"]
    assert first.pixels_checksum == second.pixels_checksum


@pytest.mark.fault("exchanged-store")
@pytest.mark.parametrize("other", ["patches", "origins", "overview", "tissue", "unscanned"])
def test_the_pixels_checksum_is_of_all_that_is_stored(other: str, tmp_path: Path) -> None:
    first = checksum_of(tmp_path / "first.zarr")
    assert checksum_of(tmp_path / "same.zarr") == first
    assert checksum_of(tmp_path / "other.zarr", other) != first


def checksum_of(path: Path, other: str = "") -> str:
    """Write a store of black pixels, of which one array may hold something else, and return its pixels' checksum."""
    shapes = {"patches": (4, 1, 8, 8), "origins": (4, 2), "overview": (1, 9, 9), "tissue": (9, 9), "unscanned": (9, 9)}
    arrays = {name: np.full(shape, name == other, np.uint8) for name, shape in shapes.items()}
    origins = arrays["origins"].astype(np.int64)
    writer = StoreWriter(path, origins=origins, channels=1, patch_px=8, dtype=np.dtype(np.uint8))
    writer.append(arrays["patches"])
    writer.write_overview(
        arrays["overview"],
        {name: arrays[name] for name in ("tissue", "unscanned")},
        channels=("CARS",),
        um_per_px=(1, 1),
        windows=np.array([[0.0, 1.0]]),
    )
    writer.finish({"slide_id": "a", "windows": []})
    return PatchStore(path).pixels_checksum


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder ``work`` with a trained and evaluated run, and ``other``, alike but for the pixels."""
    folder = tmp_path_factory.mktemp("trained")
    write_work(folder / "work", seed=0)
    write_work(folder / "other", seed=5)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    fit(folder / "work", RUN)
    torch.set_num_threads(threads)
    evaluate_run(folder / "work", RUN.run_name, config=QUICK, device="cpu")
    return folder


QUICK = EvaluateConfig(bootstrap=5)
RUN = TrainConfig(method="erm", input_px=16, steps=2, batch_per_class=4, evaluations=1, augment=False)


@pytest.mark.fault("exchanged-store", "damaged-store")
@pytest.mark.parametrize("cache_gib", [1.5, 1e-9], ids=["in memory", "read when needed"])
@pytest.mark.parametrize("damage", ["exchanged", "missing", "flipped"])
def test_train_and_evaluate_refuse_a_damaged_or_exchanged_store(
    damage: str, cache_gib: float, trained: Path, tmp_path: Path
) -> None:
    work = shutil.copytree(trained / "work", tmp_path / "work")
    for slide in ("slide-train", "slide-test"):
        store = work / "slides" / f"{slide}.zarr"
        if damage == "exchanged":
            shutil.rmtree(store)
            shutil.copytree(trained / "other" / "slides" / store.name, store)
        elif damage == "missing":
            (store / SHARD).unlink()
        else:
            next(flipped_bits(store / SHARD))
    error: type[Exception] = StaleArtefactError if damage == "exchanged" else InputCorruptError
    text = "the store holds other pixels" if damage == "exchanged" else f"chunk {SHARD}"
    with pytest.raises(error, match=f"slide slide-train: {text}"):
        fit(work, RUN.model_copy(update={"seed": 1, "cache_gib": cache_gib}))
    with pytest.raises(error, match=f"slide slide-test: {text}"):
        evaluate_run(work, RUN.run_name, config=QUICK, device="cpu", force=True)


@pytest.mark.fault("exchanged-store")
def test_groups_without_a_checksum_of_the_pixels_are_refused(trained: Path, tmp_path: Path) -> None:
    from pathopatch.core.artefacts import read_table
    from pathopatch.training.dataset import load_patches

    groups = read_table(trained / "work" / "groups.parquet").drop(columns="pixels_checksum")
    with pytest.raises(StaleArtefactError, match="pathopatch tile MANIFEST -o WORK --force"):
        load_patches(trained / "work", groups, input_px=16, splits=("train",))


@pytest.mark.fault("exchanged-store")
def test_evaluate_with_force_does_the_same_evaluation_again(trained: Path, tmp_path: Path) -> None:
    work = shutil.copytree(trained / "work", tmp_path / "work")
    numbers = work / "runs" / RUN.run_name / "evaluation" / "metrics.json"
    due = read_json(numbers)
    numbers.write_text(numbers.read_text().replace('"n": ', '"n": 9'))
    evaluate_run(work, RUN.run_name, config=QUICK, device="cpu")
    assert read_json(numbers) != due
    evaluate_run(work, RUN.run_name, config=QUICK, device="cpu", force=True)
    assert read_json(numbers) == due


@pytest.mark.fault("exchanged-store")
def test_a_shard_of_another_store_is_refused_though_its_size_is_the_same(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (256, 3, 16, 16)).astype(np.uint8)  # which is not compressed
    origins = np.stack([np.arange(256), np.zeros(256, int)], axis=1)
    for name, pixels in (("a", noise), ("b", noise[::-1])):
        writer = StoreWriter(tmp_path / f"{name}.zarr", origins=origins, channels=3, patch_px=16, dtype=noise.dtype)
        writer.append(pixels)
        writer.finish({"slide_id": name, "windows": []})
    ours, theirs = (tmp_path / f"{name}.zarr" / SHARD for name in "ab")
    assert ours.stat().st_size == theirs.stat().st_size
    shutil.copy(theirs, ours)
    refused(PatchStore(tmp_path / "a.zarr").check_files, SHARD)


@pytest.mark.fault("damaged-store")
def test_black_patches_are_stored_and_read_as_any_others(tmp_path: Path) -> None:
    origins = np.stack([np.arange(300), np.zeros(300, int)], axis=1)
    writer = StoreWriter(tmp_path / "a.zarr", origins=origins, channels=1, patch_px=8, dtype=np.dtype(np.uint8))
    writer.append(np.zeros((300, 1, 8, 8), np.uint8))
    black = np.zeros((20, 20), np.uint8)
    writer.write_overview(
        black[None], {"tissue": black}, channels=("CARS",), um_per_px=(1, 1), windows=np.array([[0.0, 1.0]])
    )
    writer.finish({"slide_id": "a", "windows": []})
    store = PatchStore(tmp_path / "a.zarr")
    assert not store.read([0, 280]).any()
    assert not store.overview().any()
    assert not store.tissue().any()

"""The contract of every patch source: a slide and a feature file give the same patches.

Stages that read them leave nothing behind that a kill at any batch could spoil.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import made_slides as made
import numpy as np
import pytest
import torch
from fresh_process import FRESH
from made_features import with_tissue
from made_model import write_model
from written_files import finished

from pathopatch.core.artefacts import read_table
from pathopatch.core.config import PredictConfig, TileConfig
from pathopatch.core.mask_bits import pack_masks
from pathopatch.core.status import read_status
from pathopatch.core.work_folder import WorkFolder
from pathopatch.features.readers import open_features
from pathopatch.features.slide_features import Encoder, SlideFeatures
from pathopatch.features.source import FromFeatures
from pathopatch.heatmaps.predict import DrawnSource
from pathopatch.models.bundle import save_bundle
from pathopatch.models.networks import build_network
from pathopatch.models.spec import BundleSpec
from pathopatch.patches.analysis import PatchBatch
from pathopatch.patches.source import FromSlide, FromStore
from pathopatch.slides import open_slide
from pathopatch.slides.manifest import SlideRow
from pathopatch.stages.find_slides import features_to_predict
from pathopatch.stages.predict import predict_cohort
from pathopatch.stages.tile import tile_cohort

PX = 16
KINDS = ("slide", "features")
TILING = TileConfig(patch_px=PX, mpp=0.5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide of 30 patches, tiled in ``tiled``; their mean colours are the features in ``features``."""
    folder = tmp_path_factory.mktemp("sources")
    image = made.disc_image(96, 80, (40, 40), 25, tissue=(180, 90, 150), glass=(245, 245, 245))
    image[:, :, ::7] -= 5
    made.write_rgb_pyramid(folder / "slide.tif", image, levels=1)
    (folder / "cohort.csv").write_text("slide_id,patient_id,path\nslide,p,slide.tif\n")
    tile_cohort(folder / "cohort.csv", folder / "tiled", TILING)
    table, store = read_table(WorkFolder(folder / "tiled").patches("slide")), FromStore(folder / "tiled", "slide").store
    features = store.read(store.rows(table["patch_id"].tolist())).mean(axis=(2, 3)) / 255
    x, y = (table[name].to_numpy(np.float64) for name in ("x", "y"))
    slide = SlideFeatures(
        slide_id="slide", features=features.astype(np.float32), encoder=Encoder(dim=3), path=folder, x=x, y=y, side=PX,
        mpp=0.5, tissue_fraction=table["tissue_fraction"].to_numpy(np.float32),
    )  # fmt: skip
    with_tissue(folder / "features" / "slide.npz", slide)
    write_model(folder / "model")
    spec = BundleSpec(
        architecture="linear", channels=(), encoder={"dim": 3}, dtype="float32", patch_px=1, stride_px=1, input_px=1,
        mean=(0.5,) * 3, std=(1.0,) * 3, method="erm",
    )  # fmt: skip
    torch.manual_seed(0)
    save_bundle(folder / "head", build_network("linear", 3, n_classes=2, input_px=1), spec)
    return folder


@pytest.fixture
def opened(folder: Path) -> Iterator[Callable[[str], DrawnSource]]:
    """Open a source of a kind."""
    with open_slide(folder / "slide.tif") as slide:
        sources: dict[str, Callable[[], DrawnSource]] = {
            "slide": lambda: FromSlide(slide, "slide", TILING),
            "features": lambda: FromFeatures(open_features(folder / "features").read("slide").in_level0_px()),
        }
        yield lambda kind: sources[kind]()


def joined(batches: Iterator[PatchBatch]) -> PatchBatch:
    return PatchBatch(*(np.concatenate(part) for part in zip(*batches, strict=True)))


@pytest.mark.parametrize("kind", KINDS)
def test_places_and_fractions_are_those_that_tiling_writes(
    kind: str, folder: Path, opened: Callable[[str], DrawnSource]
) -> None:
    table, source = read_table(WorkFolder(folder / "tiled").patches("slide")), opened(kind)
    np.testing.assert_array_equal(source.origins, table[["x", "y"]])
    assert (source.slide_id, source.mpp, source.size_px) == ("slide", 0.5, (96, 80))
    assert (source.grid.extent, source.grid.stride) == (PX, PX)
    tissue, scanned = np.full((2, len(table)), -1.0)
    batch = joined(source.batches(fractions_out=tissue, scanned_out=scanned))
    np.testing.assert_array_equal(batch.rows, np.arange(len(table)))
    for values in (tissue, batch.tissue_fraction):
        np.testing.assert_allclose(values, table["tissue_fraction"], atol=1e-7)  # a feature file has float32
    for values in (scanned, batch.scanned_fraction):
        np.testing.assert_array_equal(values, table["scanned_fraction"])


def test_a_slides_patches_are_those_of_its_store_and_features_keep_theirs(
    folder: Path, opened: Callable[[str], DrawnSource]
) -> None:
    (slide, features), store = (joined(opened(kind).batches()) for kind in KINDS), FromStore(folder / "tiled", "slide")
    rows = store.store.rows(store.table(min_scanned=0)["patch_id"].tolist())
    np.testing.assert_array_equal(slide.patches, store.store.read(rows))
    np.testing.assert_array_equal(slide.tissue_mask, pack_masks(store.store.masks(rows, "tissue")))
    np.testing.assert_allclose(features.patches[:, :, 0, 0], slide.patches.mean(axis=(2, 3)) / 255, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_size_of_batches_changes_no_patch(kind: str, opened: Callable[[str], DrawnSource]) -> None:
    whole = joined(opened(kind).batches())
    for size in (1, 7, 1000):
        batches = list(opened(kind).batches(size))
        assert [len(batch.rows) for batch in batches[:-1]] == [size] * (len(batches) - 1)
        for one, other in zip(joined(iter(batches)), whole, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_patches_with_less_tissue_are_left_out_and_the_fractions_of_all_are_told(
    kind: str, opened: Callable[[str], DrawnSource]
) -> None:
    whole = joined(opened(kind).batches())
    tissue = np.full(len(whole.rows), -1.0)
    some = joined(opened(kind).batches(min_tissue=0.5, fractions_out=tissue))
    np.testing.assert_array_equal(some.rows, np.flatnonzero(whole.tissue_fraction >= 0.5))
    assert 0 < len(some.rows) < len(whole.rows)
    np.testing.assert_array_equal(tissue[some.rows], some.tissue_fraction)


def tile(folder: Path, out: Path) -> None:
    tile_cohort(folder / "cohort.csv", out, TILING)


def predict(folder: Path, out: Path) -> None:
    row = SlideRow(row=1, slide_id="slide", patient_id="p", source=str(folder / "slide.tif"))
    config = PredictConfig(device="cpu", precision="float32", threads=1, all_patches=True)
    predict_cohort([row], folder / "model", out, config)


def predict_features(folder: Path, out: Path) -> None:
    config = PredictConfig(device="cpu", precision="float32", threads=1, all_patches=True)
    predict_cohort(features_to_predict(folder / "features"), folder / "head", out, config)


STAGES: dict[str, tuple[Callable[[Path, Path], None], type]] = {
    "tile": (tile, FromSlide),
    "predict": (predict, FromSlide),
    "predict features": (predict_features, FromFeatures),
}


def broken_off(source: type, number: int, end: Callable[[], None]) -> Any:
    """Return the `batches` of a kind of source, two patches at a time, which end otherwise before a batch."""
    whole = source.batches  # type: ignore[attr-defined]

    def batches(self: Any, batch_size: int | None = None, **options: Any) -> Iterator[PatchBatch]:
        for count, batch in enumerate(whole(self, 2, **options)):
            if count == number:
                end()
            yield batch

    return batches


class BrokenOffError(Exception):
    """What a disk or a network raises that nobody foresaw."""


def fail() -> None:
    raise BrokenOffError


@pytest.mark.slow
@pytest.mark.fault("kill")
@pytest.mark.parametrize("name", STAGES)
def test_an_exception_in_any_batch_leaves_a_rerun_with_equal_outputs(
    name: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, source = STAGES[name]
    with monkeypatch.context() as patched:
        patched.setattr(source, "batches", broken_off(source, -1, fail))
        stage(folder, tmp_path / "undisturbed")
    expected = finished(tmp_path / "undisturbed")
    for number in (0, 1, 5, 14):
        out = tmp_path / str(number)
        with monkeypatch.context() as patched:
            patched.setattr(source, "batches", broken_off(source, number, fail))
            stage(folder, out)
        stage_name = name.split()[0]
        assert read_status(out, "slide")[stage_name]["state"] == "failed"
        assert not any(WorkFolder(out).slides.parent.glob("**/.tmp-*")), "temporary files are left"
        with monkeypatch.context() as patched:
            patched.setattr(source, "batches", broken_off(source, -1, fail))
            stage(folder, out)
        assert read_status(out, "slide")[stage_name]["state"] == "done"
        assert finished(out) == expected


def _killed(name: str, folder: Path, out: Path, number: int) -> None:
    stage, source = STAGES[name]
    kill = lambda: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
    source.batches = broken_off(source, number, kill)  # type: ignore[attr-defined]
    stage(folder, out)


@pytest.mark.slow
@pytest.mark.fault("kill")
@pytest.mark.parametrize("name", STAGES)
def test_a_kill_in_any_batch_leaves_a_rerun_with_equal_outputs(name: str, folder: Path, tmp_path: Path) -> None:
    def run(out: Path, number: int) -> int | None:
        process = FRESH.Process(target=_killed, args=(name, folder, out, number))
        process.start()
        process.join(120)
        return process.exitcode

    assert run(tmp_path / "undisturbed", -1) == 0
    expected = finished(tmp_path / "undisturbed")
    for number in (0, 7, 14):
        out = tmp_path / str(number)
        assert run(out, number) == -signal.SIGKILL
        assert read_status(out, "slide")[name.split()[0]]["state"] == "running"
        assert run(out, -1) == 0
        assert read_status(out, "slide")[name.split()[0]]["state"] == "done"
        assert finished(out) == expected

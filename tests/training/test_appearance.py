"""The ranges of a bundle are those of its training patches, and of no others."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from made_patches import write_work

from pathopatch.core.artefacts import Stamp, write_table
from pathopatch.core.config import TrainConfig
from pathopatch.heatmaps.flags import least_sharpness
from pathopatch.models import load_model
from pathopatch.models.spec import SeenRange
from pathopatch.patches.intensity import sharpness
from pathopatch.training import fit
from pathopatch.training.data_summary import appearance_range, least_sharpness_by_tissue
from pathopatch.training.dataset import load_patches


def with_sharpness(work: Path, groups: pd.DataFrame) -> None:
    """Patch tables in which validation and test patches are less sharp than any of training."""
    for slide, part in groups.groupby("slide_id"):
        value = np.where(part["split"] == "train", 0.5, 0.001)
        table = part[["patch_id", "slide_id"]].assign(sharpness=value)
        write_table(work / "patches" / f"{slide}.parquet", table, Stamp(stage="tile"))


def test_ranges_are_of_the_training_patches_alone(tmp_path: Path) -> None:
    groups = write_work(tmp_path)
    with_sharpness(tmp_path, groups)
    train = load_patches(tmp_path, groups, input_px=16, splits=("train",), threshold=0.25)
    found = appearance_range(tmp_path, groups, train)
    means = train.read(slice(None)).mean(axis=(2, 3))
    for (low, high), values in zip(found.mean, means.T, strict=True):
        assert (low, high) == pytest.approx(np.percentile(values, (0.1, 99.9)), abs=1e-5)
    assert found.sharpness == 0.5
    assert found.sharpness_by_tissue is not None
    assert {least for _, least in found.sharpness_by_tissue} == {0.5}


def test_a_bundle_keeps_what_was_seen(tmp_path: Path) -> None:
    groups = write_work(tmp_path)
    with_sharpness(tmp_path, groups)
    folder = fit(tmp_path, TrainConfig(method="erm", input_px=16, steps=2, batch_per_class=4, evaluations=1, threads=1))
    seen = load_model(folder / "model", device="cpu").spec.seen
    assert seen is not None
    assert len(seen.mean) == train_channels(tmp_path, groups)
    assert seen.sharpness == 0.5


def train_channels(work: Path, groups: pd.DataFrame) -> int:
    return int(load_patches(work, groups, input_px=16, splits=("train",), threshold=0.25).x.shape[1])


def test_without_measured_sharpness_it_is_not_known(tmp_path: Path) -> None:
    groups = write_work(tmp_path)
    for slide in groups["slide_id"].unique():
        (tmp_path / "patches" / f"{slide}.parquet").unlink(missing_ok=True)
    train = load_patches(tmp_path, groups, input_px=16, splits=("train",), threshold=0.25)
    assert appearance_range(tmp_path, groups, train).sharpness is None


def made_patch(share: float, seed: int, *, blur_px: float = 0.0) -> np.ndarray:
    """(1, 64, 64) float32: glass without detail, from the left a share of textured tissue."""
    rng = np.random.default_rng(seed)
    patch = np.full((64, 64), 0.95, np.float32)
    width = round(64 * share)
    patch[:, :width] = 0.5 + 0.2 * rng.standard_normal((64, width)).astype(np.float32)
    return (cv2.GaussianBlur(patch, (0, 0), blur_px) if blur_px else patch)[None]


def test_little_tissue_is_not_taken_for_blur_nor_blur_for_little_tissue() -> None:
    tissue = np.random.default_rng(0).uniform(0.05, 1, 3000)
    trained = np.array([sharpness(made_patch(share, seed)) for seed, share in enumerate(tissue)])
    bins = least_sharpness_by_tissue(tissue, trained)
    assert bins is not None
    new = SeenRange(mean=((0.0, 1.0),), sharpness=float(np.percentile(trained, 0.1)), sharpness_by_tissue=bins)
    shares = np.linspace(0.06, 1, 95)
    limit = least_sharpness(shares, new)
    old = least_sharpness(shares, SeenRange(mean=new.mean, sharpness=new.sharpness))
    in_focus = np.array([sharpness(made_patch(share, 10_000 + n)) for n, share in enumerate(shares)])
    blurred = np.array([sharpness(made_patch(share, 10_000 + n, blur_px=0.6)) for n, share in enumerate(shares)])
    assert (in_focus < limit).mean() <= 0.02
    assert (blurred < limit).mean() >= 0.98
    assert (blurred < old).mean() < 0.5  # by the least of all patches only those of little tissue are


def test_few_patches_are_compared_with_those_of_more_tissue_and_less_than_seen_is_not_known() -> None:
    tissue = np.concatenate([np.full(300, 0.03), np.full(10, 0.3), np.full(300, 0.6), np.full(5, 0.95)])
    least = np.concatenate([np.full(300, 1.0), np.full(10, 3.0), np.full(300, 6.0), np.full(5, 5.0)])
    assert least_sharpness_by_tissue(tissue, least) == ((0.02, 1.0), (0.2, 3.0))
    assert least_sharpness_by_tissue(np.append(tissue, np.nan), np.append(least, 1.0)) is None
    seen = SeenRange(mean=((0.0, 1.0),), sharpness_by_tissue=((0.02, 1.0), (0.2, 3.0)))
    assert np.array_equal(least_sharpness(np.array([0.01, 0.02, 0.2]), seen), [np.nan, 1.0, 3.0], equal_nan=True)

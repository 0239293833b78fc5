"""The ranges of a bundle are those of its training patches, and of no others."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_patches import write_work

from pathopatch.config import TrainConfig
from pathopatch.models import load_model
from pathopatch.provenance import Stamp, write_table
from pathopatch.training import fit
from pathopatch.training.appearance import seen_range
from pathopatch.training.dataset import load_patches


def with_sharpness(work: Path, groups: pd.DataFrame) -> None:
    """Patch tables in which validation and test patches are less sharp than any of training."""
    for slide, part in groups.groupby("slide_id"):
        value = np.where(part["split"] == "train", 0.5, 0.001)
        table = part[["patch_id", "slide_id"]].assign(sharpness=value)
        write_table(work / "patches" / f"{slide}.parquet", table, Stamp(stage="tile", config=""))


def test_ranges_are_of_the_training_patches_alone(tmp_path: Path) -> None:
    groups = write_work(tmp_path)
    with_sharpness(tmp_path, groups)
    train = load_patches(tmp_path, groups, input_px=16, splits=("train",), threshold=0.25)
    found = seen_range(tmp_path, groups, train)
    means = train.read(slice(None)).mean(axis=(2, 3))
    for (low, high), values in zip(found.mean, means.T, strict=True):
        assert (low, high) == pytest.approx(np.percentile(values, (0.1, 99.9)), abs=1e-5)
    assert found.sharpness == 0.5


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
    assert seen_range(tmp_path, groups, train).sharpness is None

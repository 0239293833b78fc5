"""The data summary of a bundle: counted by hand, of the splits that a run may use."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from made_model import stated
from made_patches import write_work

from pathopatch.core.artefacts import Stamp, write_table
from pathopatch.core.config import TrainConfig
from pathopatch.groups import assign_groups
from pathopatch.groups.assign import join_small_bins
from pathopatch.heatmaps.predict import least_sharpness
from pathopatch.models.spec import TrainingRange
from pathopatch.patches.intensity import sharpness
from pathopatch.training.data_summary import appearance_range, least_sharpness_by_tissue, summarize_data
from pathopatch.training.dataset import load_patches
from pathopatch.training.run import fit

# slide, patient, split, label, tissue fraction
ROWS = [
    ("a", "p", "train", 0, 0.1),
    ("a", "p", "train", 0, 0.4),
    ("b", "p", "train", 1, 0.4),
    ("b", "p", "train", 1, 0.9),
    ("b", "p", "train", 1, 0.9),
    ("b", "p", "train", -1, 0.9),  # not labelled
    ("b", "p", "train", 0, 0.001),  # blank glass
    ("c", "q", "val", 0, 0.1),
    ("d", "r", "val", 1, 0.7),
    ("e", "s", "test", 1, 0.7),
]
CUTS = (0.3, 0.6)


def _groups(rows=ROWS, **own) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["slide_id", "patient_id", "split", "label", "tissue_fraction"])
    table.insert(0, "patch_id", [f"{slide}@{16 * i},0" for i, slide in enumerate(table["slide_id"])])
    return assign_groups(table.assign(**own), [0.25, 0.5], bins=CUTS)


def _described(groups, *, n=2, **settings):
    names = ["non-tumour", "tumour", "other"][:n]
    return summarize_data(groups, TrainConfig(**settings), bins=None, class_names=names)


def _with_bins(groups, bins, **settings):
    config = TrainConfig(bins=CUTS, **settings)
    return summarize_data(groups, config, bins=bins, class_names=["non-tumour", "tumour"])


def test_slides_patients_patches_and_groups_are_counted_at_the_threshold():
    assert _described(_groups(), threshold=0.25) == {
        "trained": {
            "splits": ["train"],
            "slides": 2,
            "patients": 1,
            "patches": 5,
            "by": "at tissue threshold 0.25",
            "attributes": ["little tissue", "much tissue"],
            "counts": [[1, 1], [0, 3]],
        },
        "validated": {
            "splits": ["val"],
            "slides": 2,
            "patients": 2,
            "patches": 2,
            "by": "at tissue threshold 0.25",
            "attributes": ["little tissue", "much tissue"],
            "counts": [[1, 0], [0, 1]],
        },
    }
    assert _described(_groups(), threshold=0.5)["trained"]["counts"] == [[2, 0], [1, 2]]


def test_bins_are_counted_as_they_are_used_small_ones_joined():
    groups = _groups()
    bins = join_small_bins(groups, CUTS, splits=[("train",)], least=1)
    summary = _with_bins(groups, bins)
    assert len(bins.kept) == 1
    assert summary["trained"]["by"] == f"by tissue bins cut at {bins.kept[0]:g}"
    assert np.shape(summary["trained"]["counts"]) == (2, 2)
    assert np.sum(summary["trained"]["counts"]) == 5


def test_an_own_attribute_and_a_third_class_have_names_and_rows():
    rows = [*ROWS[:4], ("b", "p", "train", 2, 0.9), *ROWS[7:]]
    groups = _groups(rows, attribute=["red", "blue", "blue", "blue", "red", "red", "red", "red"])
    summary = _described(groups, n=3)
    assert summary["trained"]["by"] == "by the patches' own attribute"
    assert summary["trained"]["attributes"] == ["blue", "red"]
    assert summary["trained"]["counts"] == [[1, 1], [2, 0], [0, 1]]


def test_a_run_without_validation_patches_has_none():
    assert "validated" not in _described(_groups(ROWS[:7]), select="last")


def test_the_summary_has_nothing_of_the_test_split():
    assert _described(_groups()) == _described(_groups(ROWS[:9]))


def test_the_bundle_of_a_run_tells_its_groups_and_its_card_shows_them(tmp_path):
    groups = write_work(tmp_path)
    with_sharpness(tmp_path, groups)
    settings = {"input_px": 16, "steps": 4, "batch_per_class": 4, "evaluations": 2, "threads": 1}
    model = fit(tmp_path, TrainConfig(**settings)) / "model"
    train_rows = groups[(groups["split"] == "train") & (groups["group@0.25"] >= 0)]
    counts = np.bincount(train_rows["group@0.25"], minlength=4).reshape(2, 2).tolist()
    raw = stated(model)
    assert raw["data"]["trained"]["counts"] == counts
    assert raw["group_metrics"]["patients"] == 1
    assert raw["seen"]["sharpness"] == 0.5
    card = (model / "README.md").read_text()
    assert f"| trained on train | 1 | 1 | {len(train_rows)} |" in card
    assert "There is one validation patient" in card


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
    appearance = appearance_range(tmp_path, groups, train)
    means = train.read(slice(None)).mean(axis=(2, 3))
    for (low, high), values in zip(appearance.mean, means.T, strict=True):
        assert (low, high) == pytest.approx(np.percentile(values, (0.1, 99.9)), abs=1e-5)
    assert appearance.sharpness == 0.5
    assert appearance.sharpness_by_tissue is not None
    assert {least for _, least in appearance.sharpness_by_tissue} == {0.5}


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
    new = TrainingRange(mean=((0.0, 1.0),), sharpness=float(np.percentile(trained, 0.1)), sharpness_by_tissue=bins)
    shares = np.linspace(0.06, 1, 95)
    limit = least_sharpness(shares, new)
    old = least_sharpness(shares, TrainingRange(mean=new.mean, sharpness=new.sharpness))
    in_focus = np.array([sharpness(made_patch(share, 10_000 + n)) for n, share in enumerate(shares)])
    blurred = np.array([sharpness(made_patch(share, 10_000 + n, blur_px=0.6)) for n, share in enumerate(shares)])
    assert (in_focus < limit).mean() <= 0.02
    assert (blurred < limit).mean() >= 0.98
    assert (blurred < old).mean() < 0.5  # by the least of all patches only those of little tissue are


def test_tissue_bins_of_few_patches_are_joined_with_the_next() -> None:
    tissue = np.concatenate([np.full(300, 0.03), np.full(10, 0.3), np.full(300, 0.6), np.full(5, 0.95)])
    least = np.concatenate([np.full(300, 1.0), np.full(10, 3.0), np.full(300, 6.0), np.full(5, 5.0)])
    assert least_sharpness_by_tissue(tissue, least) == ((0.02, 1.0), (0.2, 3.0))
    assert least_sharpness_by_tissue(np.append(tissue, np.nan), np.append(least, 1.0)) is None
    seen = TrainingRange(mean=((0.0, 1.0),), sharpness_by_tissue=((0.02, 1.0), (0.2, 3.0)))
    assert np.array_equal(least_sharpness(np.array([0.01, 0.02, 0.2]), seen), [np.nan, 1.0, 3.0], equal_nan=True)

import csv
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from written_files import contents

from pathopatch.core.errors import InputUnsupportedError, StaleArtefactError
from pathopatch.demo.slides import CHANNELS, CohortSpec, Field, draw_slide, make_cohort, plan_split
from pathopatch.demo.texture import SlideStyle, TextureSpec, draw_field, island
from pathopatch.metrics.accuracy import auroc
from pathopatch.slides import open_slide
from pathopatch.slides.manifest import read_manifest

TINY = CohortSpec(slides=(2, 1, 1), patients=(1, 1, 1), fields=4, field_px=32, mpp=2.0, mosaic_px=50)
STYLE = SlideStyle(gain=(400.0, 300.0, 240.0), nucleus_scale=1.0, fibre_scale=1.0)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return make_cohort(tmp_path_factory.mktemp("cohort"), seed=0, spec=TINY).parent


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def counts(split: str, *, shortcut: bool) -> Counter[tuple[int, str]]:
    plan = plan_split(split, rng=np.random.default_rng(0), shortcut=shortcut, spec=CohortSpec())
    return Counter((field.label, field.size) for slide in plan for field in slide)


def field_of(label: int, share: float, rng: np.random.Generator) -> np.ndarray:
    tissue = island(96, share, rng)
    grade = rng.normal(0.86 * (2 * label - 1), 0.4)
    return draw_field(tissue, grade, style=STYLE, spec=TextureSpec(), mpp=1.0, rng=rng)


def test_minority_islands_are_4_to_6_percent_of_each_training_class():
    islands = counts("train", shortcut=True)
    for label, rare in ((0, "large"), (1, "small")):
        total = sum(islands[label, size] for size in ("small", "between", "large"))
        assert islands[label, rare] / total == pytest.approx(0.04, abs=0.001)
        assert (islands[label, rare] + islands[label, "between"]) / total == pytest.approx(0.06, abs=0.001)


@pytest.mark.parametrize(("split", "shortcut"), [("train", False), ("val", True), ("test", True)])
def test_without_the_shortcut_sizes_are_equally_frequent_in_both_classes(split, shortcut):
    islands = counts(split, shortcut=shortcut)
    for size in ("small", "between", "large"):
        assert abs(islands[0, size] - islands[1, size]) <= 1
    assert abs(islands[1, "small"] - islands[1, "large"]) <= 1


def test_the_smallest_groups_have_300_test_and_50_validation_fields():
    spec = CohortSpec()
    for split, least, patients in (("test", 300, spec.patients[2]), ("val", 50, spec.patients[1])):
        plan = plan_split(split, rng=np.random.default_rng(0), shortcut=True, spec=spec)
        for group in ((0, "small"), (0, "large"), (1, "small"), (1, "large")):
            per_slide = [sum((f.label, f.size) == group for f in fields) for fields in plan]
            assert sum(per_slide) >= least
            assert len({i % patients for i, n in enumerate(per_slide) if n}) >= 4


def test_without_the_shortcut_the_tissue_share_does_not_predict_the_label():
    plan = plan_split("test", rng=np.random.default_rng(0), shortcut=True, spec=CohortSpec())
    fields = [field for slide in plan for field in slide if field.size != "blank"]
    assert auroc(np.array([f.share for f in fields]), np.array([f.label for f in fields])) == pytest.approx(
        0.5, abs=0.002
    )


@pytest.mark.parametrize("share", [0.12, 0.5, 0.93])
def test_an_island_has_the_share_asked_for_to_a_pixel(share):
    for seed in range(5):
        assert island(96, share, np.random.default_rng(seed)).sum() == round(share * 96 * 96)


def test_the_field_mean_follows_the_gain_and_glass_has_no_signal():
    spec = TextureSpec(mean_jitter=(0, 0, 0), shg_depletion=0)
    for grade in (-1, 1):
        tissue = island(96, 0.6, np.random.default_rng(1))
        signal = draw_field(tissue, grade, style=STYLE, spec=spec, mpp=1.0, rng=np.random.default_rng(2))
        np.testing.assert_allclose(signal[:, tissue].mean(axis=1), STYLE.gain, rtol=1e-3)
        assert not signal[:, ~tissue].any()


def test_nuclear_texture_predicts_the_label_and_channel_means_hardly_do():
    rng = np.random.default_rng(0)
    label = np.arange(300) % 2
    fields = [field_of(int(y), 0.6, rng) for y in label]
    means = np.array([[plane[plane > 0].mean() for plane in field] for field in fields])
    edges = np.array([cv2.Laplacian(field[1], cv2.CV_32F).std() / field[1].mean() for field in fields])
    best = max(abs((m > np.median(m)).astype(int) - label).mean() for m in [*means.T, *-means.T])
    assert best < 0.65
    assert ((edges > np.median(edges)) == label).mean() > 0.85


def test_a_tumour_mask_covers_its_own_field_and_no_other():
    spec = replace(TINY, fields=2)
    fields = [
        Field(0, "large", 0.9, -1.0),
        Field(1, "large", 0.9, 1.0),
        Field(1, "small", 0.2, 1.0),
        Field(0, "blank", 0, 0),
    ]
    pixels, tumor = draw_slide(fields, STYLE, rng=np.random.default_rng(0), spec=spec)
    assert pixels.shape == (3, 64, 64)
    assert pixels.dtype == np.uint16
    assert tumor.shape == (16, 16)
    quarters = [tumor[:8, :8], tumor[:8, 8:], tumor[8:, :8], tumor[8:, 8:]]
    assert [bool(q.any()) for q in quarters] == [False, True, True, False]
    assert 0.9 <= (quarters[1] > 0).mean() <= 1
    assert set(np.unique(tumor)) == {0, 255}


def test_tissue_is_bright_on_dark_noise_and_dimmer_in_scan_tile_corners():
    spec = replace(TINY, fields=4, mosaic_px=128, vignetting=0.5, seam_spread=0.0)
    signal = [Field(0, "large", 1.0, -1.0)] * 12 + [Field(0, "blank", 0, 0)] * 4
    quiet = replace(spec, texture=replace(spec.texture, mean_jitter=(0, 0, 0)))
    pixels, _ = draw_slide(signal, STYLE, rng=np.random.default_rng(0), spec=quiet)
    glass = pixels[:, 100:]
    np.testing.assert_allclose(glass.mean(axis=(1, 2)), 100, atol=0.5)
    assert glass.std() == pytest.approx(2.5, rel=0.1)
    centre, corner = pixels[0, 48:80, 48:80].mean() - 100, pixels[0, :16, :16].mean() - 100
    assert corner / centre == pytest.approx(0.6, abs=0.1)  # 1 - 0.5 (7/8)^2 in its middle, 1 - 0.01 at the centre


def test_the_manifest_is_valid_and_its_slides_have_channels_and_mpp(cohort):
    manifest = read_manifest(cohort / "manifest.csv")
    assert [row.split for row in manifest] == ["train", "train", "val", "test"]
    assert len({row.patient_id for row in manifest}) == 3
    for row in manifest:
        without_mpp = {name: row.source[name] for name in CHANNELS}
        with open_slide(without_mpp) as slide:
            assert slide.channels == CHANNELS
            assert slide.size == (128, 128)
            assert slide.mpp == pytest.approx(2.0)
            assert slide.dtype == np.uint16


def test_the_truth_table_agrees_with_the_masks_field_by_field(cohort):
    truth = rows(cohort / "truth.csv")
    assert len(truth) == 4 * 16
    for row in truth:
        mask = cv2.imread(str(cohort / "masks" / f"{row['slide_id']}.png"), cv2.IMREAD_UNCHANGED)
        x, y = int(row["x"]) // 4, int(row["y"]) // 4
        assert bool(mask[y : y + 8, x : x + 8].any()) == (row["label"] == "1")


def test_equal_seeds_give_equal_bytes_and_another_seed_other_pixels(cohort, tmp_path):
    again = make_cohort(tmp_path / "again", seed=0, spec=TINY).parent
    other = make_cohort(tmp_path / "other", seed=1, spec=TINY).parent
    assert contents(again) == contents(cohort)
    name = "slides/train-01_CARS.tif"
    assert (tifffile.imread(other / name) != tifffile.imread(cohort / name)).mean() > 0.5


def test_the_shortcut_changes_the_training_slides_only(cohort, tmp_path):
    fair = contents(make_cohort(tmp_path, seed=0, shortcut=False, spec=TINY).parent)
    skewed = contents(cohort)
    assert fair["slides/test-01_SHG.tif"] == skewed["slides/test-01_SHG.tif"]
    assert fair["slides/train-01_SHG.tif"] != skewed["slides/train-01_SHG.tif"]


def test_a_finished_cohort_is_kept_and_only_force_replaces_another_seed(tmp_path):
    progress_calls = []

    def progress(what, done, total, note=""):
        progress_calls.append((what, done, total, note))

    make_cohort(tmp_path, seed=0, spec=TINY, progress=progress)
    assert progress_calls[-1] == ("make slides", 4, 4, "test-01")
    progress_calls.clear()
    make_cohort(tmp_path, seed=0, spec=TINY, progress=progress)
    assert progress_calls == []
    with pytest.raises(StaleArtefactError):
        make_cohort(tmp_path, seed=1, spec=TINY)
    make_cohort(tmp_path, seed=1, spec=TINY, force=True, progress=progress)
    assert [done for _, done, _, _ in progress_calls] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("wrong", [{"patients": (3, 1, 1)}, {"patients": (0, 1, 1)}, {"field_px": 30}])
def test_more_patients_than_slides_and_indivisible_fields_are_refused(wrong):
    with pytest.raises(InputUnsupportedError):
        replace(TINY, **wrong)

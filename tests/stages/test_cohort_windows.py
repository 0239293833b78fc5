"""Intensity windows of a cohort: from its training slides, once, for every slide."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_slides import write_channel
from numpy.typing import NDArray

from pathopatch.core.config import EvaluateConfig, GroupsConfig, IntensityConfig, PredictConfig, TileConfig, TrainConfig
from pathopatch.core.errors import (
    ChannelMismatchError,
    InputUnsupportedError,
    NoTissueError,
    PathopatchError,
    StaleArtefactError,
)
from pathopatch.core.files import read_json
from pathopatch.heatmaps.prediction import predict_slide
from pathopatch.models.forward import PatchClassifier
from pathopatch.models.loading import load_model
from pathopatch.patches import PatchStore, cohort_config
from pathopatch.patches.cohort import TissueIntensities, tissue_intensities
from pathopatch.slides import open_slide
from pathopatch.slides.manifest import SlideRow
from pathopatch.stages.evaluate import evaluate_runs
from pathopatch.stages.groups import form_groups
from pathopatch.stages.predict import predict_cohort, slides_to_predict
from pathopatch.stages.tile import tile_cohort
from pathopatch.stages.train import train_run

Make = Callable[..., Any]
COHORT = TileConfig(patch_px=32, intensity=IntensityConfig(scope="cohort", low_percentile=0, high_percentile=100))


def counts(level: int, seed: int = 0) -> NDArray[np.uint16]:
    """Return one channel: a square of tissue between a level and twice that, on a dark background."""
    generator = np.random.default_rng(seed)
    pixels = generator.poisson(3, (1, 96, 96))
    pixels[:, 16:80, 16:80] = generator.integers(level, 2 * level + 1, (1, 64, 64))
    return pixels.astype(np.uint16)


class Cohort:
    """Slides in memory, by name, and their rows."""

    def __init__(self, make: Make, out: Path) -> None:
        self.make, self.out, self.opened = make, out, list[str]()
        self.pixels: dict[str, NDArray[Any]] = {}
        self.rows: list[SlideRow] = []

    def add(self, name: str, split: str, pixels: NDArray[Any]) -> None:
        self.pixels[name] = pixels
        self.rows.append(SlideRow(slide_id=name, patient_id=name, source=name, row=len(self.rows) + 2, split=split))

    def windows(self, config: TileConfig = COHORT, *, force: bool = False) -> dict[str, tuple[float, float]]:
        def measured(rows: Sequence[SlideRow]) -> dict[str, TissueIntensities | PathopatchError]:
            return {row.slide_id: self.intensities(row.slide_id, config) for row in rows}

        fingerprints = {row.slide_id: f"{self.pixels[row.slide_id].sum()}" for row in self.rows}
        cohort_wide = cohort_config(
            self.rows, config, self.out, fingerprints=fingerprints, measured=measured, force=force
        )
        return cohort_wide.intensity.windows

    def intensities(self, name: str, config: TileConfig) -> TissueIntensities | PathopatchError:
        self.opened.append(name)
        try:
            return tissue_intensities(self.make(self.pixels[name], name=name), config)
        except PathopatchError as error:
            return error


@pytest.fixture
def cohort(make_slide: Make, tmp_path: Path) -> Cohort:
    return Cohort(make_slide, tmp_path / "work")


def test_only_training_slides_make_the_windows_of_a_cohort(cohort: Cohort) -> None:
    cohort.add("a", "train", counts(100))
    cohort.add("b", "train", counts(400))
    cohort.add("c", "val", counts(3000))
    cohort.add("d", "test", counts(4000))
    cohort.add("e", "", counts(5000))
    low, high = cohort.windows()["CARS"]
    assert (low, high) == (pytest.approx(100, abs=2), pytest.approx(800, abs=2))
    assert cohort.opened == ["a", "b"]


def test_a_cohorts_windows_are_kept_and_replaced_only_by_force(cohort: Cohort) -> None:
    cohort.add("a", "train", counts(100))
    first = cohort.windows()
    assert cohort.windows() == first
    assert cohort.opened == ["a"]
    cohort.add("b", "train", counts(400))
    with pytest.raises(StaleArtefactError, match="b"):
        cohort.windows()
    assert cohort.windows(force=True) != first


def test_a_stated_window_is_kept(cohort: Cohort) -> None:
    cohort.add("a", "train", counts(100))
    given = COHORT.intensity.model_copy(update={"windows": {"CARS": (0.0, 5.0)}})
    assert cohort.windows(COHORT.model_copy(update={"intensity": given})) == {"CARS": (0.0, 5.0)}


def test_a_slide_that_cannot_be_read_takes_no_part_and_is_named(cohort: Cohort) -> None:
    cohort.add("a", "train", counts(100))
    cohort.add("bad", "train", np.full((1, 64, 64), np.nan, np.float32))
    assert cohort.windows()["CARS"][1] == pytest.approx(200, abs=2)
    assert list(read_json(cohort.out / "windows.json")["left_out"]) == ["bad"]


def test_a_cohort_without_training_slides_or_without_tissue_is_refused(cohort: Cohort) -> None:
    cohort.add("a", "", counts(100))
    with pytest.raises(InputUnsupportedError, match="column split"):
        cohort.windows()
    cohort.add("b", "train", np.zeros((1, 64, 64), np.uint16))
    with pytest.raises(NoTissueError):
        cohort.windows()
    cohort.add("c", "train", np.concatenate([counts(100), counts(200)]))
    with pytest.raises(ChannelMismatchError, match="CARS, SHG"):
        cohort.windows()


def test_brightfield_colour_needs_no_windows(cohort: Cohort) -> None:
    cohort.add("a", "train", np.full((3, 64, 64), 255, np.uint8))
    assert cohort.windows() == {}


def test_slides_of_a_cohort_share_windows_and_keep_their_tissue_masks(tmp_path: Path) -> None:
    mask = np.zeros((96, 96), np.uint8)
    mask[:32, :32] = 1
    write_channel(tmp_path / "mask.tif", mask)
    rows = ["slide_id,patient_id,split,path:SHG,tissue_mask"]
    for name, split, level in (("a", "train", 100), ("b", "val", 400), ("c", "test", 900)):
        write_channel(tmp_path / f"{name}.tif", counts(level)[0])
        rows.append(f"{name},{name},{split},{name}.tif,{'mask.tif' if name == 'c' else ''}")
    (tmp_path / "cohort.csv").write_text("\n".join(rows))
    work = tmp_path / "work"
    assert {outcome.state for outcome in tile_cohort(tmp_path / "cohort.csv", work, COHORT)} == {"done"}
    stores = [PatchStore(work / "slides" / f"{name}.zarr") for name in "abc"]
    for store in stores:
        assert store.windows.tolist() == [[pytest.approx(100, abs=2), pytest.approx(200, abs=2)]]
        assert IntensityConfig.model_validate(store.attributes["intensity"]).windows["SHG"] == tuple(store.windows[0])
    assert (stores[2].tissue() == mask).all()
    table = pd.read_parquet(work / "patches" / "c.parquet")
    assert table["tissue_fraction"].tolist() == [1.0] + [0.0] * 8


def test_a_bundle_predicts_new_slides_with_its_cohorts_windows(tmp_path: Path) -> None:
    mask = np.zeros((96, 96), np.uint8)
    mask[:, :48] = 1
    write_channel(tmp_path / "mask.tif", mask)
    rows = ["slide_id,patient_id,split,path:SHG,tumor_mask"]
    for name, split, level in (("a", "train", 100), ("b", "train", 150), ("c", "test", 60)):
        write_channel(tmp_path / f"{name}.tif", counts(level)[0])
        rows.append(f"{name},{name},{split},{name}.tif,mask.tif")
    (tmp_path / "cohort.csv").write_text("\n".join(rows))
    work = tmp_path / "work"
    tile_cohort(tmp_path / "cohort.csv", work, COHORT)
    form_groups(work, GroupsConfig(thresholds=(0.5,)))
    train = TrainConfig(method="erm", threshold=0.5, input_px=32, steps=4, batch_per_class=4, evaluations=1,
                        select="last", tune_threshold=False, augment=False)  # fmt: skip
    run = train_run(work, train)
    evaluate_runs(work, None, EvaluateConfig(bootstrap=0))
    evaluated = pd.read_parquet(run / "evaluation" / "predictions.parquet").set_index("patch_id")["logit"]
    predict_cohort(slides_to_predict(f"SHG={tmp_path / 'c.tif'}"), run / "model", tmp_path / "new", PredictConfig())
    assert read_json(tmp_path / "new" / "heatmaps" / "c" / "heatmap.json")["intensity_windows"] == (
        PatchStore(work / "slides" / "c.zarr").windows.tolist()
    )
    predicted = pd.read_parquet(tmp_path / "new" / "predictions" / "c.parquet").set_index("patch_id")["logit"]
    model = load_model(run / "model")
    own = model.spec.model_copy(update={"intensity": IntensityConfig()})
    with open_slide({"SHG": tmp_path / "c.tif"}) as slide:
        other = predict_slide(slide, PatchClassifier(own, model.runtime)).table.set_index("patch_id")["logit"]
    assert len(evaluated) == 9
    assert np.allclose(predicted[evaluated.index], evaluated, atol=0.01)
    assert np.abs(other[evaluated.index] - evaluated).max() > 0.1  # as the slide's own windows would not

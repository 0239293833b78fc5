"""A slide full of tissue takes the background level of its cohort's other slides."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import tifffile
from numpy.typing import NDArray

from pathopatch.core.config import TileConfig
from pathopatch.core.status import read_status, update_status
from pathopatch.patches.store import store_levels
from pathopatch.stages.dry_run import tile_plan
from pathopatch.stages.tile import tile_cohort

SIDE = 256
CONFIG = TileConfig(patch_px=64)


def field(kind: str, seed: int, offset: float = 100.0) -> NDArray[np.uint16]:
    """Return photons over a camera's offset: tissue throughout, on the left half, or nowhere."""
    rng = np.random.default_rng(seed)
    texture = cv2.GaussianBlur(rng.normal(size=(SIDE, SIDE)), (0, 0), 6)
    signal = 1000 * np.exp(0.4 * texture / texture.std())
    if kind == "half":
        signal[:, SIDE // 2 :] = 0
    elif kind == "empty":
        signal[:] = 0
    return rng.poisson(offset + signal).astype(np.uint16)


def cohort(folder: Path, slides: dict[str, NDArray[np.uint16]]) -> Path:
    for name, pixels in slides.items():
        tifffile.imwrite(folder / f"{name}.tif", pixels, photometric="minisblack", metadata=None)
    lines = [f"{name},p{number},{name}.tif,1.0,dark" for number, name in enumerate(slides)]
    (folder / "cohort.csv").write_text("\n".join(["slide_id,patient_id,path,mpp,background", *lines]))
    return folder / "cohort.csv"


def shares(work: Path) -> dict[str, float]:
    tables = {path.stem: pd.read_parquet(path) for path in (work / "patches").glob("*.parquet")}
    return {name: float(table["tissue_fraction"].mean()) for name, table in tables.items()}


def cohort_levels(work: Path) -> dict[str, dict[str, float]]:
    levels = {path.stem: store_levels(path) for path in (work / "slides").glob("*.zarr")}
    return {name: by_channel for name, by_channel in levels.items() if by_channel}


def test_a_full_slide_takes_the_level_of_slides_that_agree(tmp_path: Path) -> None:
    kinds = {"a": "half", "b": "half", "full": "full", "none": "empty"}
    manifest = cohort(tmp_path, {name: field(kind, number) for number, (name, kind) in enumerate(kinds.items())})
    work = tmp_path / "work"
    outcomes = tile_cohort(manifest, work, CONFIG)
    assert [outcome.state for outcome in outcomes] == ["done", "done", "done", "done_empty"]
    assert not any(outcome.warnings for outcome in outcomes[:3])
    tissue_shares = shares(work)
    assert (tissue_shares["full"], tissue_shares["none"]) == (1.0, 0.0)
    assert read_status(work, "full")["tile"]["tissue_confidence"] >= 0.5
    assert set(cohort_levels(work)) == {"full"}
    assert abs(cohort_levels(work)["full"]["C0"] - 100) < 2
    assert {outcome.state for outcome in tile_cohort(manifest, work, CONFIG)} == {"current"}
    assert [outcome.state for outcome in tile_cohort(manifest, work, CONFIG, force=True)][2] == "done"
    assert set(cohort_levels(work)) == {"full"}


def test_where_the_levels_differ_the_slide_stays_uncertain(tmp_path: Path) -> None:
    slides = {"a": field("half", 0), "b": field("half", 1, offset=900), "full": field("full", 2)}
    outcomes = tile_cohort(cohort(tmp_path, slides), tmp_path / "work", CONFIG)
    assert [bool(outcome.warnings) for outcome in outcomes] == [False, False, True]
    assert "the tissue is uncertain" in outcomes[2].warnings[0]
    assert not cohort_levels(tmp_path / "work")


def test_a_stated_level_is_not_taken_from_the_cohort(tmp_path: Path) -> None:
    slides = {"a": field("half", 0), "b": field("half", 1), "full": field("full", 2)}
    tissue = CONFIG.tissue.model_copy(update={"background_level": {"C0": 100.0}})
    tile_cohort(cohort(tmp_path, slides), tmp_path / "work", CONFIG.model_copy(update={"tissue": tissue}))
    assert not cohort_levels(tmp_path / "work")
    assert shares(tmp_path / "work")["full"] == 1.0


def test_a_dry_run_knows_the_levels_that_were_taken(tmp_path: Path) -> None:
    slides = {"a": field("half", 0), "b": field("half", 1), "full": field("full", 2)}
    manifest, work = cohort(tmp_path, slides), tmp_path / "work"
    tile_cohort(manifest, work, CONFIG)
    plan = tile_plan(manifest, CONFIG, out=work)
    assert (len(plan.finished), len(plan.table), plan.failed) == (3, 0, ())


def test_a_forced_retry_of_failed_slides_leaves_the_levels_of_the_others(tmp_path: Path) -> None:
    slides = {"a": field("half", 0), "b": field("half", 1), "full": field("full", 2)}
    manifest, work = cohort(tmp_path, slides), tmp_path / "work"
    tile_cohort(manifest, work, CONFIG)
    assert tile_cohort(manifest, work, CONFIG, only_failed=True, force=True) == []
    assert {outcome.state for outcome in tile_cohort(manifest, work, CONFIG)} == {"current"}


def test_forcing_one_part_of_a_cohort_leaves_the_levels_of_the_other(tmp_path: Path) -> None:
    slides = {
        name: field("full" if name == "full" else "half", number) for number, name in enumerate(("a", "b", "full", "c"))
    }
    manifest, work = cohort(tmp_path, slides), tmp_path / "work"
    lines = manifest.read_text().splitlines()
    parts = [tmp_path / "one.csv", tmp_path / "two.csv"]
    for part, rows in zip(parts, (lines[1:4], lines[4:]), strict=True):
        part.write_text("\n".join([lines[0], *rows]))
        tile_cohort(part, work, CONFIG)
    tile_cohort(parts[1], work, CONFIG, force=True)
    assert {outcome.state for outcome in tile_cohort(parts[0], work, CONFIG)} == {"current"}


def test_a_slide_that_shows_the_cohorts_level_keeps_its_own_doubts(tmp_path: Path) -> None:
    y, x = np.mgrid[:SIDE, :SIDE] / (SIDE / 2) - 1
    rng = np.random.default_rng(3)
    texture = cv2.GaussianBlur(np.random.default_rng(9).normal(size=(SIDE, SIDE)), (0, 0), 6)
    signal = np.where(texture > np.quantile(texture, 0.8), rng.normal(150, 45, (SIDE, SIDE)), 0)
    uneven = rng.normal((300 + signal) * (1 - 0.25 * (x * x + y * y)), 8).astype(np.uint16)
    slides = {"a": field("half", 0, offset=250), "b": field("half", 1, offset=250), "uneven": uneven}
    outcomes = tile_cohort(cohort(tmp_path, slides), tmp_path / "work", CONFIG)
    assert [bool(outcome.warnings) for outcome in outcomes] == [False, False, True]
    assert not cohort_levels(tmp_path / "work")


def test_a_run_that_ends_before_the_second_tiling_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slides = {"a": field("half", 0), "b": field("half", 1), "full": field("full", 2)}
    manifest, work = cohort(tmp_path, slides), tmp_path / "work"
    with monkeypatch.context() as cut:
        cut.setattr("pathopatch.stages.tile._tile_again_by_cohort_levels", _cut_off)
        with pytest.raises(KeyboardInterrupt):
            tile_cohort(manifest, work, CONFIG)
    assert not cohort_levels(work)
    update_status(work, "full", "tile", {"state": "running"})  # as the second tiling begins
    assert [outcome.state for outcome in tile_cohort(manifest, work, CONFIG)] == ["current", "current", "done"]
    assert set(cohort_levels(work)) == {"full"}
    update_status(work, "full", "tile", {"state": "running"})
    assert {outcome.state for outcome in tile_cohort(manifest, work, CONFIG)} == {"current"}
    assert read_status(work, "full")["tile"]["tissue_confidence"] >= 0.5


def _cut_off(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_retried_slide_takes_the_level_of_slides_that_were_tiled_before(tmp_path: Path) -> None:
    slides = {"a": field("half", 0), "b": field("half", 1), "full": field("full", 2)}
    manifest, work = cohort(tmp_path, slides), tmp_path / "work"
    whole = (tmp_path / "full.tif").read_bytes()
    (tmp_path / "full.tif").write_bytes(whole[:1000])
    assert [outcome.state for outcome in tile_cohort(manifest, work, CONFIG)] == ["done", "done", "failed"]
    (tmp_path / "full.tif").write_bytes(whole)
    assert [outcome.state for outcome in tile_cohort(manifest, work, CONFIG, only_failed=True)] == ["done"]
    assert set(cohort_levels(work)) == {"full"}


def test_a_stated_level_takes_the_place_of_the_cohorts(tmp_path: Path) -> None:
    slides = {"a": field("half", 0), "b": field("half", 1), "full": field("full", 2)}
    manifest, work = cohort(tmp_path, slides), tmp_path / "work"
    tile_cohort(manifest, work, CONFIG)
    stated = CONFIG.tissue.model_copy(update={"background_level": {"C0": 90.0}})
    outcomes = tile_cohort(manifest, work, CONFIG.model_copy(update={"tissue": stated}))
    assert {(outcome.state, outcome.code) for outcome in outcomes} == {("failed", "STALE_ARTEFACT")}

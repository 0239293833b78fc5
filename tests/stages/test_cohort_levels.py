"""A slide full of tissue takes the background level of its cohort's other slides."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import tifffile
from made_feature_cohort import write_trident
from numpy.typing import NDArray

from pathopatch.core.config import BatchOptions, TileConfig
from pathopatch.core.status import read_status, update_status
from pathopatch.features.cohort import read_cohort
from pathopatch.patches.store import recorded_attributes
from pathopatch.stages.import_features import import_features
from pathopatch.stages.tile import tile_cohort, tile_plan

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
    folder.mkdir(exist_ok=True)
    for name, pixels in slides.items():
        tifffile.imwrite(folder / f"{name}.tif", pixels, photometric="minisblack", metadata=None)
    lines = [f"{name},p{number},{name}.tif,1.0,dark" for number, name in enumerate(slides)]
    (folder / "cohort.csv").write_text("\n".join(["slide_id,patient_id,path,mpp,background", *lines]))
    return folder / "cohort.csv"


def three(folder: Path) -> Path:
    """A cohort of two slides that show the background and one full of tissue."""
    return cohort(folder, {"a": field("half", 0), "b": field("half", 1), "full": field("full", 2)})


def shares(work: Path) -> dict[str, float]:
    tables = {path.stem: pd.read_parquet(path) for path in (work / "patches").glob("*.parquet")}
    return {name: float(table["tissue_fraction"].mean()) for name, table in tables.items()}


def cohort_levels(work: Path) -> dict[str, dict[str, float]]:
    stores = {path.stem: recorded_attributes(path) for path in (work / "slides").glob("*.zarr")}
    return {name: stored["cohort_levels"] for name, stored in stores.items() if stored["cohort_levels"]}


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
    assert [outcome.state for outcome in tile_cohort(manifest, work, CONFIG, BatchOptions(force=True))][2] == "done"
    assert set(cohort_levels(work)) == {"full"}


def test_where_the_levels_differ_the_slide_stays_uncertain(tmp_path: Path) -> None:
    slides = {"a": field("half", 0), "b": field("half", 1, offset=900), "full": field("full", 2)}
    outcomes = tile_cohort(cohort(tmp_path, slides), tmp_path / "work", CONFIG)
    assert [bool(outcome.warnings) for outcome in outcomes] == [False, False, True]
    assert "the tissue is uncertain" in outcomes[2].warnings[0]
    assert not cohort_levels(tmp_path / "work")


def test_a_stated_level_is_not_taken_from_the_cohort(tmp_path: Path) -> None:
    tissue = CONFIG.tissue.model_copy(update={"background_level": {"C0": 100.0}})
    tile_cohort(three(tmp_path), tmp_path / "work", CONFIG.model_copy(update={"tissue": tissue}))
    assert not cohort_levels(tmp_path / "work")
    assert shares(tmp_path / "work")["full"] == 1.0


def test_a_dry_run_and_a_forced_retry_leave_the_levels_that_were_taken(tmp_path: Path) -> None:
    manifest, work = three(tmp_path), tmp_path / "work"
    tile_cohort(manifest, work, CONFIG)
    plan = tile_plan(manifest, work, CONFIG)
    assert (len(plan.finished), len(plan.table), plan.failed) == (3, 0, ())
    assert tile_cohort(manifest, work, CONFIG, BatchOptions(retry_failed=True, force=True)) == []
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
    tile_cohort(parts[1], work, CONFIG, BatchOptions(force=True))
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
    manifest, work = three(tmp_path), tmp_path / "work"
    with monkeypatch.context() as cut:
        cut.setattr("pathopatch.stages.tile._background_levels", _cut_off)
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
    manifest, work = three(tmp_path), tmp_path / "work"
    whole = (tmp_path / "full.tif").read_bytes()
    (tmp_path / "full.tif").write_bytes(whole[:1000])
    assert [outcome.state for outcome in tile_cohort(manifest, work, CONFIG)] == ["done", "done", "failed"]
    (tmp_path / "full.tif").write_bytes(whole)
    assert [outcome.state for outcome in tile_cohort(manifest, work, CONFIG, BatchOptions(retry_failed=True))] == [
        "done"
    ]
    assert set(cohort_levels(work)) == {"full"}


def gap() -> NDArray[np.uint16]:
    """Return a field full of tissue but for a quarter of one patch, too little background to be seen."""
    pixels = field("full", 2)
    pixels[64:96, 64:96] = np.random.default_rng(3).poisson(100, (32, 32))
    return pixels


def features_of(folder: Path, names: list[str], *, side: int = 64) -> tuple[Path, Path]:
    """Write features at the places of the 4 x 4 patches that `tile` cuts, and labels."""
    place, rows = folder / "20x_256px_0px_overlap" / "features_uni_v2", []
    place.mkdir(parents=True)
    xy = side * np.stack([np.arange(16) % 4, np.arange(16) // 4], axis=1)
    for name in names:
        write_trident(place / f"{name}.h5", np.zeros((16, 3), np.float16), xy, side=side, columns=4, rows=4)
        rows.append(pd.DataFrame({"slide_id": name, "x": xy[:, 0], "y": xy[:, 1], "label": np.arange(16) % 2}))
    pd.concat(rows).to_csv(folder / "labels.csv", index=False)
    return place, folder / "labels.csv"


def fractions(work: Path, column: str = "tissue_fraction") -> dict[str, float]:
    table = pd.concat([pd.read_parquet(path) for path in sorted((work / "patches").glob("*.parquet"))])
    return dict(zip(table["patch_id"], table[column], strict=True))


def test_equal_patches_have_equal_tissue_in_tile_and_in_the_audit_of_features(tmp_path: Path) -> None:
    slides = {"a": field("half", 0), "b": field("half", 1), "gap": gap()}
    tile_cohort(cohort(tmp_path / "slides", slides), tmp_path / "tiled", CONFIG)
    features, labels = features_of(tmp_path, list(slides))
    import_features(tmp_path / "work", features, labels, slides=tmp_path / "slides", slide_mpp=1.0, workers=2)
    for column in ("tissue_fraction", "scanned_fraction"):
        assert fractions(tmp_path / "work", column) == fractions(tmp_path / "tiled", column)
    # By its own evidence the slide is tissue throughout; the second pass finds the gap.
    assert fractions(tmp_path / "work")["gap@64,64"] == pytest.approx(0.75, abs=0.05)
    assert cohort_levels(tmp_path / "tiled")["gap"] == read_status(tmp_path / "work", "gap")["tile"]["cohort_levels"]
    notes = read_cohort(tmp_path / "work").notes
    assert (
        "tissue fractions were measured on 3 slides, on 1 of them by the background level that the others show" in notes
    )
    assert not any("warning" in note for note in notes)


@pytest.mark.slow
def test_real_fields_have_equal_tissue_in_tile_and_in_the_audit_of_features(real_data: Path, tmp_path: Path) -> None:
    (tmp_path / "slides").mkdir()
    lines = ["slide_id,patient_id,path,mpp"]
    for image in sorted((real_data / "tumor_masks" / "camelyon" / "images").iterdir()):
        shutil.copy(image, tmp_path / "slides")
        lines.append(f"{image.stem},{image.stem},{image.name},0.5")
    (tmp_path / "slides" / "cohort.csv").write_text("\n".join(lines))
    tile_cohort(tmp_path / "slides" / "cohort.csv", tmp_path / "tiled", TileConfig(patch_px=128))
    features, labels = features_of(tmp_path, [line.split(",")[0] for line in lines[1:]], side=128)
    import_features(tmp_path / "work", features, labels, slides=tmp_path / "slides", slide_mpp=0.5)
    assert cohort_levels(tmp_path / "tiled")  # the second pass changes some of them
    assert fractions(tmp_path / "work") == fractions(tmp_path / "tiled")


def test_the_audit_of_features_warns_of_uncertain_tissue_as_tile_does(tmp_path: Path) -> None:
    slides = {"a": field("half", 0), "b": field("half", 1, offset=900), "gap": gap()}
    outcomes = tile_cohort(cohort(tmp_path / "slides", slides), tmp_path / "tiled", CONFIG)
    features, labels = features_of(tmp_path, list(slides))
    result = import_features(tmp_path / "work", features, labels, slides=tmp_path / "slides", slide_mpp=1.0)
    (warning,) = outcomes[2].warnings
    assert read_status(tmp_path / "work", "gap")["tile"]["warnings"] == [warning]
    assert f"warning: gap: {warning}" in result.notes
    assert fractions(tmp_path / "work") == fractions(tmp_path / "tiled")


def test_the_audit_of_features_warns_of_a_slide_on_another_ground(tmp_path: Path) -> None:
    slides = {"a": field("half", 0), "b": field("half", 1), "bright": 60000 - field("half", 2)}
    cohort(tmp_path / "slides", slides)
    features, labels = features_of(tmp_path, list(slides))
    result = import_features(tmp_path / "work", features, labels, slides=tmp_path / "slides", slide_mpp=1.0)
    assert "warning: slide bright looks bright where there is no tissue, 2 others look dark" in result.notes


def test_a_stated_scale_counts_only_where_the_slide_states_none(tmp_path: Path) -> None:
    slides = {"a": field("half", 0), "b": field("half", 1)}
    cohort(tmp_path / "slides", slides)
    for name, pixels in slides.items():
        for top in range(8, 248, 24):  # a piece of 6 x 6 px is dust at 1 um per px, and tissue at 16
            pixels[top : top + 6, 200:206] += 1000
        inch = {"resolution": (25400, 25400), "resolutionunit": "INCH"}  # 1 um per px
        tifffile.imwrite(tmp_path / "slides" / f"{name}.tif", pixels, photometric="minisblack", metadata=None, **inch)
    features, labels = features_of(tmp_path, list(slides))
    measured = []
    for place, mpp in (("one", 1.0), ("other", 16.0)):
        import_features(tmp_path / place, features, labels, slides=tmp_path / "slides", slide_mpp=mpp)
        measured.append(fractions(tmp_path / place))
    assert measured[0] == measured[1]

"""A dry run says what the stage would do, and goes on over slides that cannot be worked on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_model import made_spec
from made_prediction import predict_to
from made_slides import disc_image, write_channel

from pathopatch.core.artefacts import read_table
from pathopatch.core.config import BatchOptions, PredictConfig, TileConfig
from pathopatch.core.errors import InputUnsupportedError
from pathopatch.core.status import read_status, update_status
from pathopatch.models.bundle import save_bundle
from pathopatch.models.loading import load_model
from pathopatch.models.networks import build_network
from pathopatch.slides.manifest import read_manifest
from pathopatch.stages.batch.slide_table import open_row
from pathopatch.stages.predict import predict_plan
from pathopatch.stages.tile import tile_cohort, tile_plan


def cohort(folder: Path, *, mpp: tuple[float, ...] = (0.5, 0.5), broken: bool = False) -> Path:
    """A manifest of two slides of 130 x 100 and 260 x 100 px, and if asked of a third that is cut off."""
    lines = ["slide_id,patient_id,path"]
    for number, value in enumerate(mpp):
        disc = disc_image(130 * (number + 1), 100, (60, 50), 40, tissue=[800], glass=[20], dtype=np.uint16)
        write_channel(folder / f"s{number}.tif", disc[0], mpp=value)
        lines.append(f"s{number},p{number},s{number}.tif")
    if broken:
        (folder / "cut.tif").write_bytes((folder / "s0.tif").read_bytes()[:9000])
        lines.insert(1, "cut,p,cut.tif")
    (folder / "m.csv").write_text("\n".join(lines) + "\n")
    return folder / "m.csv"


@pytest.mark.parametrize("store", ["zarr", "none"])
def test_a_plan_counts_what_tiling_makes_and_writes_nothing(tmp_path: Path, store: str) -> None:
    manifest = cohort(tmp_path)
    config = TileConfig(patch_px=32, store=store)
    files = sorted(tmp_path.rglob("*"))
    planned = tile_plan(manifest, tmp_path / "out", config)
    assert sorted(tmp_path.rglob("*")) == files
    assert planned.table["patches"].tolist() == [5 * 4, 9 * 4]
    stored = 32 * 32 * 2 * np.array([20, 36]) / 1e9
    assert planned.table["gigabytes"].tolist() == pytest.approx(stored * (store == "zarr"))
    assert "about" not in planned.text()
    assert (planned.exit_code, planned.failed) == (0, ())
    tile_cohort(manifest, tmp_path / "out", config)
    for slide, count in zip(planned.table["slide_id"], planned.table["patches"], strict=True):
        assert len(read_table(tmp_path / "out" / "patches" / f"{slide}.parquet")) == count


def test_finished_slides_are_counted_apart_and_stale_ones_fail(tmp_path: Path) -> None:
    manifest, config, out = cohort(tmp_path), TileConfig(patch_px=32), tmp_path / "out"
    both = manifest.read_text()
    manifest.write_text(both[: both.index("s1")])
    tile_cohort(manifest, out, config)
    manifest.write_text(both)
    planned = tile_plan(manifest, out, config)
    assert (planned.table["slide_id"].tolist(), planned.finished["slide_id"].tolist()) == (["s1"], ["s0"])
    assert "1 slide, 36 patches" in planned.text()
    assert planned.text().endswith("slides finished already, not counted: 1")
    other = config.model_copy(update={"stride_px": 16})
    stale = tile_plan(manifest, out, other)
    assert [(outcome.slide_id, outcome.code) for outcome in stale.failed] == [("s0", "STALE_ARTEFACT")]
    assert tile_plan(manifest, out, other, BatchOptions(force=True)).table["slide_id"].tolist() == ["s0", "s1"]
    tile_cohort(manifest, out, config)
    nothing_left = tile_plan(manifest, out, config)
    assert (nothing_left.text(), nothing_left.exit_code) == ("slides finished already, not counted: 2", 0)


@pytest.mark.fault("damaged-store")
def test_a_finished_slide_whose_store_is_damaged_fails_in_the_plan(tmp_path: Path) -> None:
    manifest, config, out = cohort(tmp_path), TileConfig(patch_px=32), tmp_path / "out"
    tile_cohort(manifest, out, config)
    (out / "slides" / "s0.zarr" / "patches" / "c" / "0" / "0" / "0" / "0").unlink()
    planned = tile_plan(manifest, out, config)
    assert [(outcome.slide_id, outcome.code) for outcome in planned.failed] == [("s0", "INPUT_CORRUPT")]
    assert planned.finished["slide_id"].tolist() == ["s1"]
    assert tile_plan(manifest, out, config, BatchOptions(force=True)).table["slide_id"].tolist() == ["s0"]


def test_a_bad_slide_is_listed_with_its_code_and_the_others_planned(tmp_path: Path) -> None:
    planned = tile_plan(cohort(tmp_path, broken=True), tmp_path / "out", TileConfig(patch_px=32))
    assert planned.table["slide_id"].tolist() == ["s0", "s1"]
    assert [(outcome.slide_id, outcome.code) for outcome in planned.failed] == [("cut", "INPUT_CORRUPT")]
    assert planned.exit_code == 3
    assert "2 slides, 56 patches, 0.000115 GB of pixels" in planned.text(2)
    none = tile_plan(cohort(tmp_path), tmp_path / "out", TileConfig(patch_px=32, mpp=0.2))  # finer than both
    assert (len(none.table), none.exit_code) == (0, 1)
    assert {outcome.code for outcome in none.failed} == {"INPUT_UNSUPPORTED"}


def test_slides_of_different_scale_need_a_target(tmp_path: Path) -> None:
    with pytest.raises(InputUnsupportedError, match="s0 has 0.5, s1 has 0.6"):
        tile_plan(cohort(tmp_path, mpp=(0.5, 0.6)), tmp_path / "out", TileConfig(patch_px=32))


def test_the_time_is_estimated_from_finished_slides_alone(tmp_path: Path) -> None:
    manifest, config, out = cohort(tmp_path), TileConfig(patch_px=32), tmp_path / "out"
    assert tile_plan(manifest, out, config).seconds() is None
    whole = manifest.read_text()
    manifest.write_text(whole[: whole.index("s1")])
    tile_cohort(manifest, out, config)
    update_status(out, "s0", "tile", {**read_status(out, "s0")["tile"], "seconds": "10.00"})
    manifest.write_text(f"{whole}again,p2,s1.tif\n".replace("s1,p1,s1.tif", "s1,p1,copy.tif"))
    disc = disc_image(260, 100, (60, 50), 30, tissue=[700], glass=[20], dtype=np.uint16)
    write_channel(tmp_path / "copy.tif", disc[0], mpp=0.5)
    planned = tile_plan(manifest, out, config)
    assert planned.table["patches"].tolist() == [36, 36]
    assert planned.seconds() == pytest.approx(2 * 36 * 10 / 20)
    assert "about 36 s with 1 process" in planned.text()
    assert planned.seconds(2) == planned.seconds(4) == pytest.approx(36 * 10 / 20)  # a slide is one process's


def test_a_plan_of_predictions_has_the_models_geometry_and_lists_misfits(tmp_path: Path) -> None:
    spec = made_spec(32, ("C0",), dtype="uint16", background="dark", stride_px=16)
    save_bundle(tmp_path / "model", build_network(spec.architecture, 1), spec)
    manifest = cohort(tmp_path, mpp=(0.5,))
    write_channel(tmp_path / "s1.tif", np.zeros((100, 130), np.uint8))
    manifest.write_text(manifest.read_text() + "s1,p1,s1.tif\n")
    rows = read_manifest(manifest).included
    planned = predict_plan(rows, [tmp_path / "model"], tmp_path / "out", PredictConfig())
    assert planned.table["patches"].tolist() == [9 * 7]
    assert [(outcome.slide_id, outcome.code) for outcome in planned.failed] == [("s1", "CHANNEL_MISMATCH")]
    assert planned.exit_code == 3
    assert not (tmp_path / "out").exists()
    with open_row(rows[0]) as slide:
        predict_to(slide, load_model(tmp_path / "model"), tmp_path / "out", slide_id="s0")
    again = predict_plan(rows, [tmp_path / "model"], tmp_path / "out", PredictConfig())
    assert (len(again.table), again.finished["slide_id"].tolist(), again.exit_code) == (0, ["s0"], 3)
    update_status(tmp_path / "out", "s1", "predict", {"state": "failed"})
    retried = predict_plan(
        rows, [tmp_path / "model"], tmp_path / "out", PredictConfig(), BatchOptions(retry_failed=True)
    )
    assert ([outcome.slide_id for outcome in retried.failed], len(retried.finished)) == (["s1"], 0)
    other = predict_plan(rows[:1], [tmp_path / "model"], tmp_path / "out", PredictConfig(stride_px=32))
    assert [outcome.code for outcome in other.failed] == ["STALE_ARTEFACT"]

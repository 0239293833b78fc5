"""Work folders with something in the way: links that lead outside, another slide's results, another version's."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import made_slides as made
import numpy as np
import pandas as pd
import pytest
from made_model import write_model
from written_files import contents

from pathopatch.core.artefacts import Stamp, write_table
from pathopatch.core.config import BatchOptions, GroupsConfig, PredictConfig, TileConfig
from pathopatch.core.errors import (
    CheckpointIncompatibleError,
    DuplicateIdError,
    InputUnsupportedError,
    StaleArtefactError,
)
from pathopatch.core.files import write_json
from pathopatch.core.task import Outcome
from pathopatch.models.bundle import read_spec
from pathopatch.patches.tile import tile_slide
from pathopatch.report import write_report
from pathopatch.report.collect import Study
from pathopatch.slides import open_slide
from pathopatch.stages.find_slides import slides_to_predict
from pathopatch.stages.groups import form_groups
from pathopatch.stages.predict import predict_cohort
from pathopatch.stages.tile import tile_cohort

CONFIG = TileConfig(patch_px=16)


def image(shade: int) -> np.ndarray:
    return made.disc_image(96, 80, (40, 40), 25, tissue=(shade, 90, 150), glass=(245, 245, 245))


def manifest(folder: Path, **paths: str) -> Path:
    rows = [{"slide_id": slide_id, "patient_id": slide_id, "path": path} for slide_id, path in paths.items()]
    with (folder / "manifest.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["slide_id", "patient_id", "path"])
        writer.writeheader()
        writer.writerows(rows)
    return folder / "manifest.csv"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two slides whose files have the same stem."""
    made.write_aperio(tmp_path / "a.svs", image(180), levels=1)
    made.write_rgb_pyramid(tmp_path / "a.tif", image(120), levels=1)
    return tmp_path


@pytest.mark.fault("symlink")
@pytest.mark.parametrize("link", ["slides", "slides/a.zarr", "patches", "patches/a.parquet", "status", "status/a.json"])
def test_a_link_in_the_work_folder_that_leads_outside_is_refused(link: str, folder: Path) -> None:
    outside, out = folder / "outside", folder / "out"
    (outside / "below").mkdir(parents=True)
    (out / link).parent.mkdir(parents=True, exist_ok=True)
    (out / link).symlink_to(outside / "below")
    (outcome,) = tile_cohort(manifest(folder, a="a.tif"), out, CONFIG)
    assert (outcome.state, outcome.code) == ("failed", "INPUT_UNSUPPORTED")
    assert "leads outside the work folder" in outcome.message
    assert contents(outside) == {}


@pytest.mark.fault("output-folder")
def test_a_missing_work_folder_is_an_error_before_any_work(folder: Path) -> None:
    (folder / "out").symlink_to(folder / "unmounted")
    with pytest.raises(InputUnsupportedError, match="cannot write here.*still mounted"):
        tile_cohort(manifest(folder, a="a.tif"), folder / "out", CONFIG)


# --- two slides of one stem ----------------------------------------------------------------------------------------


def predict(folder: Path, name: str, *, force: bool = False) -> Outcome:
    """Predict one slide as `pathopatch predict NAME` does."""
    config = PredictConfig(device="cpu", precision="float32", threads=1)
    rows = slides_to_predict(str(folder / name))
    (outcome,) = predict_cohort(rows, folder / "model", folder / "out", config, BatchOptions(force=force))
    return outcome


@pytest.mark.fault("same-twice")
def test_predicting_another_slide_of_the_same_stem_is_a_duplicate_id(folder: Path) -> None:
    write_model(folder / "model")
    assert predict(folder, "a.svs").state == "done"
    before = contents(folder / "out", without=["logs"])
    outcome = predict(folder, "a.tif")
    assert (outcome.state, outcome.code) == ("failed", "DUPLICATE_ID")
    for word in ("a.svs", "a.tif", "--slide-id", "--force"):
        assert word in outcome.message
    assert contents(folder / "out", without=["logs"]) == before
    assert predict(folder, "a.svs").state == "current"
    (folder / "b").mkdir()
    (folder / "a.svs").rename(folder / "b" / "a.svs")  # the same slide elsewhere is no other slide
    assert predict(folder, "b/a.svs").state == "current"
    assert predict(folder, "a.tif", force=True).state == "done"


def test_a_slide_that_changed_under_its_own_name_is_stale_and_no_duplicate(folder: Path) -> None:
    write_model(folder / "model")
    predict(folder, "a.tif")
    with open_slide(folder / "a.tif") as slide:
        tile_slide(slide, CONFIG, folder / "out")
    made.write_rgb_pyramid(folder / "a.tif", image(100), levels=1)
    before = contents(folder / "out", without=["logs"])
    assert predict(folder, "a.tif").code == "STALE_ARTEFACT"
    with open_slide(folder / "a.tif") as slide, pytest.raises(StaleArtefactError):
        tile_slide(slide, CONFIG, folder / "out")
    assert contents(folder / "out", without=["logs"]) == before


@pytest.mark.fault("same-twice")
def test_tiling_another_slide_of_the_same_stem_or_id_is_a_duplicate_id(folder: Path) -> None:
    out = folder / "out"
    tile_cohort(manifest(folder, a="a.svs"), out, CONFIG)
    before = contents(out, without=["logs"])
    with open_slide(folder / "a.tif") as slide, pytest.raises(DuplicateIdError, match=r"a\.svs.*a\.tif.*slide_id"):
        tile_slide(slide, CONFIG, out, patient_id="a")
    with pytest.raises(DuplicateIdError, match=r"a\.svs.*a\.tif.*slide_id"):
        tile_cohort(manifest(folder, a="a.tif"), out, CONFIG)
    assert contents(out, without=["logs"]) == before
    (outcome,) = tile_cohort(manifest(folder, a="a.tif"), out, CONFIG, BatchOptions(force=True))
    assert outcome.state == "done"


# --- another version -----------------------------------------------------------------------------------------------


def old_table(work: Path, path: str, stage: str) -> None:
    write_table(work / path, pd.DataFrame({"slide_id": ["a"]}), Stamp(stage=stage, schema_version=0))


def old_json(work: Path, path: str, stage: str) -> None:
    write_json(work / path, {"stamp": Stamp(stage=stage, schema_version=0).to_dict()})


def groups(work: Path) -> object:
    return form_groups(work, GroupsConfig())


OLD: dict[str, tuple[Callable[[Path], object], Callable[[Path, str, str], None], str, str, str]] = {
    "the list of slides": (groups, old_table, "slides.parquet", "check", "check MANIFEST -o WORK --force"),
    "the list of slides, for the report": (Study, old_table, "slides.parquet", "check", "check MANIFEST -o WORK"),
    "a patch table": (write_report, old_table, "patches/a.parquet", "tile", "tile MANIFEST -o WORK --force"),
    "the groups": (Study, old_table, "groups.parquet", "groups", "groups WORK --force"),
    "a run": (Study, old_json, "runs/r/run.json", "train", "train WORK --force"),
    "predictions": (
        Study,
        old_table,
        "predictions/a.parquet",
        "predict",
        "predict MANIFEST --model BUNDLE -o OUT",
    ),  # fmt: skip
}


@pytest.mark.fault("older-version")
@pytest.mark.parametrize("what", OLD)
def test_artefacts_of_an_older_schema_are_refused_with_the_command_to_run(what: str, tmp_path: Path) -> None:
    read, write, path, stage, command = OLD[what]
    write(tmp_path, path, stage)
    with pytest.raises(StaleArtefactError, match=f"under schema 0, .*run pathopatch {command}") as caught:
        read(tmp_path)
    assert path.removesuffix("/run.json") in caught.value.place
    assert not (tmp_path / "report").exists()


@pytest.mark.fault("older-version")
def test_stores_of_an_older_schema_are_refused_with_the_command_to_run(folder: Path) -> None:
    out = folder / "out"
    tile_cohort(manifest(folder, a="a.svs"), out, CONFIG)
    metadata = out / "slides" / "a.zarr" / "zarr.json"
    content = json.loads(metadata.read_text())
    content["attributes"]["stamp"]["schema_version"] = 0
    metadata.write_text(json.dumps(content))
    old = Stamp.from_dict(content["attributes"]["stamp"])
    write_table(out / "patches" / "a.parquet", pd.read_parquet(out / "patches" / "a.parquet"), old)
    for read in (groups, Study):
        with pytest.raises(StaleArtefactError, match="under schema 0, .*run pathopatch tile MANIFEST -o WORK --force"):
            read(out)
    (outcome,) = tile_cohort(manifest(folder, a="a.svs"), out, CONFIG)
    assert "under schema 0" in outcome.message
    assert "--force" in outcome.message
    assert tile_cohort(manifest(folder, a="a.svs"), out, CONFIG, BatchOptions(force=True))[0].state == "done"
    assert Study(out).slides["tile_state"].tolist() == ["done"]


@pytest.mark.fault("older-version")
def test_tables_that_counted_slivers_as_whole_patches_are_refused(folder: Path) -> None:
    out = folder / "out"
    tile_cohort(manifest(folder, a="a.svs"), out, CONFIG)
    metadata, path = out / "slides" / "a.zarr" / "zarr.json", out / "patches" / "a.parquet"
    content = json.loads(metadata.read_text())
    content["attributes"]["stamp"]["settings"]["slide"]["whole_slide_non_tumor"] = False  # as 0.1.0 wrote it
    metadata.write_text(json.dumps(content))
    write_table(path, pd.read_parquet(path), Stamp.from_dict(content["attributes"]["stamp"]))
    with pytest.raises(StaleArtefactError, match="slivers .*run pathopatch tile MANIFEST -o WORK --force"):
        groups(out)


@pytest.mark.fault("older-version", "checkpoint")
def test_bundles_of_another_schema_are_refused_with_the_command_to_run(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {"pathopatch": {"schema_version": 0}})
    with pytest.raises(CheckpointIncompatibleError, match="version 0.*run pathopatch train WORK"):
        read_spec(tmp_path)

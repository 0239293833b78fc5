"""A person corrects the tissue of one slide: few patches are measured again, and status says what rests on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from made_model import write_model
from made_outlines import geojson, polygon, square
from made_slides import disc_image, write_rgb_pyramid

from pathopatch.core.artefacts import read_table
from pathopatch.core.config import BatchOptions, GroupsConfig, PredictConfig, TileConfig
from pathopatch.core.work_folder import WorkFolder
from pathopatch.slides.manifest import read_manifest
from pathopatch.stages.batch.summaries import status_summary
from pathopatch.stages.groups import form_groups
from pathopatch.stages.predict import predict_cohort
from pathopatch.stages.tile import tile_cohort

CONFIG, REDO, GROUPS = TileConfig(patch_px=16), BatchOptions(force=True), GroupsConfig(thresholds=(0.25,))


def write_manifest(folder: Path, correction: str = "") -> Path:
    rows = [
        {"slide_id": name, "patient_id": name, "path": f"{name}.tif", "mpp": 0.5, "tissue_mask": ""} for name in "ab"
    ]
    rows[0]["tissue_mask"] = correction
    pd.DataFrame(rows).to_csv(folder / "m.csv", index=False)
    return folder / "m.csv"


def test_a_correction_redoes_few_patches_and_status_names_what_rests_on_them(tmp_path: Path) -> None:
    work, folder = tmp_path / "work", WorkFolder(tmp_path / "work")
    for name, radius in (("a", 150), ("b", 120)):
        image = disc_image(400, 400, (200, 200), radius, tissue=(180, 90, 160), glass=(240, 240, 240))
        write_rgb_pyramid(tmp_path / f"{name}.tif", image)
    model = write_model(tmp_path / "model")
    manifest = write_manifest(tmp_path)

    def predict(batch: BatchOptions) -> None:
        predict_cohort(read_manifest(manifest).rows, model, work, PredictConfig(), batch)

    tile_cohort(manifest, work, CONFIG)
    form_groups(work, GROUPS)
    predict(BatchOptions())
    assert status_summary(work).outdated == ()
    before = read_table(folder.patches("a"))

    geojson(tmp_path, polygon(square(190, 190, 40), name="Not tissue"), name="c.geojson")
    write_manifest(tmp_path, "c.geojson")
    tile_cohort(manifest, work, CONFIG, REDO)
    after = read_table(folder.patches("a"))
    is_changed = after["tissue_fraction"] != before["tissue_fraction"]
    assert 0 < is_changed.mean() < 0.05
    corners = after.loc[is_changed, ["x", "y"]].to_numpy()
    assert (np.abs(corners - 202) <= 28).all()
    groups, predictions = status_summary(work).outdated
    assert groups.startswith("the groups, by a; run groups --force")
    assert predictions.startswith("the predictions of a; run predict --force")
    assert "out of date: the groups, by a;" in status_summary(work).text()

    form_groups(work, GROUPS, force=True)
    predict(REDO)
    assert status_summary(work).outdated == ()
    predicted = read_table(folder.predictions("a")).set_index(["x", "y"])["tissue_fraction"]
    measured = after.set_index(["x", "y"])["tissue_fraction"]
    assert (predicted == measured.loc[predicted.index]).all()

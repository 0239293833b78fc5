"""No output holds what a slide file says of the patient: neither results nor error messages."""

from __future__ import annotations

import base64
import csv
from pathlib import Path

import made_slides as made
import numpy as np
import pytest
from made_model import write_model
from marked_files import MARKER, readable
from PIL import Image

from pathopatch.core.config import PredictConfig, TileConfig
from pathopatch.patches.store import PatchStore
from pathopatch.report import write_report
from pathopatch.stages.find_slides import slides_to_predict
from pathopatch.stages.info import describe_row
from pathopatch.stages.predict import predict_cohort
from pathopatch.stages.tile import tile_cohort

pytestmark = pytest.mark.fault("patient-data")

RED = (255, 0, 0)  # of their label, macro and thumbnail images


def pixels(path: Path) -> np.ndarray:
    """The pixels of a picture (h, w, 3)."""
    return np.asarray(Image.open(path).convert("RGB"))


def test_nothing_that_a_slide_file_says_of_the_patient_is_in_any_output(tmp_path: Path) -> None:
    image = made.disc_image(96, 80, (40, 40), 25, tissue=(180, 90, 150), glass=(245, 245, 245))
    made.write_aperio(tmp_path / "a.svs", image, levels=2)
    made.write_scn(tmp_path / "b.scn", np.ascontiguousarray(image[:, ::-1]), (9, 9), (200, 200))
    made.write_truncated(tmp_path / "a.svs", 95, tmp_path / "cut.svs")
    made.write_aperio(tmp_path / "spoilt.svs", np.ascontiguousarray(image[:, :, ::-1]), levels=1)
    made.spoil_tile(tmp_path / "spoilt.svs", 0)
    for name in ("a.svs", "b.scn", "cut.svs", "spoilt.svs"):
        content = (tmp_path / name).read_bytes()
        assert MARKER.encode() in content or base64.b64encode(MARKER.encode()) in content
    with (tmp_path / "manifest.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["slide_id", "patient_id", "path"])
        writer.writerows([[name.split(".")[0], "p", name] for name in ("a.svs", "b.scn", "cut.svs", "spoilt.svs")])

    out = tmp_path / "out"
    states = [outcome.state for outcome in tile_cohort(tmp_path / "manifest.csv", out, TileConfig(patch_px=16))]
    rows = slides_to_predict(str(tmp_path / "manifest.csv"))
    config = PredictConfig(device="cpu", precision="float32", threads=1)
    predicted = [outcome.state for outcome in predict_cohort(rows, write_model(tmp_path / "model"), out, config)]
    assert states == predicted == ["done", "done", "failed", "failed"]
    for name in ("a.svs", "b.scn"):
        described = describe_row(*slides_to_predict(str(tmp_path / name)), TileConfig(),
                                      picture=out / f"{name}.png")  # fmt: skip
        (out / f"{name}.txt").write_text(str(described.lines()))
    write_report(out)

    written = [path for path in out.rglob("*") if path.is_file()]
    assert {".parquet", ".json", ".gz", ".csv", ".tif", ".png", ".html", ".txt"} <= {path.suffix for path in written}
    for path in written:
        for pattern in (MARKER.encode(), base64.b64encode(MARKER.encode())):
            assert pattern not in readable(path), path
        if path.suffix == ".png":
            assert not (pixels(path) == RED).all(axis=2).any(), path
    for slide_id in ("a", "b"):
        store = PatchStore(out / "slides" / f"{slide_id}.zarr")
        for picture in (store.overview(), *store.read(np.arange(len(store)))):
            assert not (picture.transpose(1, 2, 0) == RED).all(axis=2).any()

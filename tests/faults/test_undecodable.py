"""One tile of a slide cannot be decoded: the slide fails, or, where that is allowed, its cells alone have no value."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import made_slides as made
import numpy as np
import pandas as pd
import pytest
from made_model import write_model
from made_omezarr import chunk_files, write_omezarr

from pathopatch.core.artefacts import read_table
from pathopatch.core.config import PredictConfig
from pathopatch.core.errors import InputCorruptError
from pathopatch.core.files import read_json
from pathopatch.core.task import Outcome
from pathopatch.heatmaps.pyramids import read_ome_tiff
from pathopatch.slides import TolerantSlide, open_slide
from pathopatch.slides.manifest import SlideRow
from pathopatch.stages.dry_run import Plan
from pathopatch.stages.predict import predict_cohort, predict_plan

pytestmark = pytest.mark.fault("corrupt-tile")

Write = Callable[[Path, np.ndarray], object]
CONFIG = PredictConfig(device="cpu", threads=1, all_patches=True)


def image() -> np.ndarray:
    return (
        made.disc_image(256, 192, (120, 90), 70, tissue=(180, 90, 150), glass=(245, 245, 245))
        - made.noise(3, 192, 256, np.uint8) // 16
    )


def spoil_chunks(path: Path, index: int) -> None:
    """Overwrite a chunk of one channel of an OME-Zarr."""
    chunk = chunk_files(path)[index]
    chunk.write_bytes(bytes(chunk.stat().st_size))


KINDS: dict[str, tuple[str, Write, Callable[[Path], None]]] = {
    "a pyramid": ("a.tif", partial(made.write_rgb_pyramid, levels=1, tile_px=64), lambda p: made.spoil_tile(p, 5)),
    "an Aperio slide": ("a.svs", partial(made.write_aperio, levels=1, tile_px=64), lambda p: made.spoil_tile(p, 5)),
    "an OME-Zarr": (
        "a.zarr",
        lambda p, pixels: write_omezarr(p, [pixels], labels=("R", "G", "B")),
        lambda p: spoil_chunks(p, 5),
    ),
}
"""A slide of 4 x 3 tiles of 64 px, and what spoils the second of the second row, of the first channel at least."""


def predict(folder: Path, path: Path, **changes: object) -> Outcome:
    config = CONFIG.model_copy(update=changes)
    (outcome,) = predict_cohort([row(path)], folder / "model", folder / f"out-{path.stem}", config)
    return outcome


def row(path: Path) -> SlideRow:
    return SlideRow(row=2, slide_id="a", patient_id="p", source=str(path), mpp=0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_cells_of_an_undecodable_tile_are_nan_counted_and_the_rest_equal(kind: str, tmp_path: Path) -> None:
    name, write, spoil = KINDS[kind]
    write_model(tmp_path / "model")
    whole, bad = tmp_path / f"whole-{name}", tmp_path / f"bad-{name}"
    for path in (whole, bad):
        write(path, image())
    spoil(bad)
    assert predict(tmp_path, whole).counts["unreadable"] == 0

    refused = predict(tmp_path, bad)
    assert (refused.state, refused.code) == ("failed", "INPUT_CORRUPT")
    out = tmp_path / f"out-{bad.stem}"
    assert not (out / "heatmaps" / "a").exists()

    done = predict(tmp_path, bad, max_bad_tiles=0.1)
    assert (done.state, done.counts) == ("done", {"patches": 192, "predicted": 176, "tumour": done.counts["tumour"],
                                                  "unreadable": 16})  # fmt: skip
    assert done.warnings == ("16 of 192 patches (8.3%) cannot be decoded and have no value",)
    is_lost = np.zeros((12, 16), np.bool_)
    is_lost[4:8, 4:8] = True
    cells, expected = (
        read_ome_tiff(folder / "heatmaps" / "a" / "heatmap.ome.tif").levels[0]
        for folder in (out, tmp_path / f"out-{whole.stem}")
    )
    np.testing.assert_array_equal(np.isnan(cells[0]), is_lost)
    np.testing.assert_array_equal(np.isnan(cells[1]), is_lost)  # how much tissue there is, nobody knows either
    np.testing.assert_array_equal(cells[0][~is_lost], expected[0][~is_lost])

    facts = read_json(out / "heatmaps" / "a" / "heatmap.json")
    assert facts["counts"]["unreadable"] == 16
    assert facts["warnings"] == list(done.warnings)
    cohort = pd.read_csv(out / "cohort.csv")
    assert cohort[["unreadable", "warnings"]].to_numpy().tolist() == [[16, done.warnings[0]]]
    assert len(read_table(out / "predictions" / "a.parquet")) == 176
    assert predict(tmp_path, bad, max_bad_tiles=0.1).state == "current"
    assert predict(tmp_path, bad, max_bad_tiles=0.2).code == "STALE_ARTEFACT"  # what was made tolerated another share


def test_more_than_is_allowed_fails_the_slide(tmp_path: Path) -> None:
    name, write, spoil = KINDS["a pyramid"]
    write_model(tmp_path / "model")
    write(tmp_path / name, image())
    spoil(tmp_path / name)
    outcome = predict(tmp_path, tmp_path / name, max_bad_tiles=0.05)
    assert (outcome.state, outcome.code) == ("failed", "INPUT_CORRUPT")
    assert "more than 5.00% of level 0 cannot be decoded" in outcome.message


@pytest.mark.parametrize("kind", KINDS)
def test_a_dry_run_says_of_it_what_predicting_will(kind: str, tmp_path: Path) -> None:
    name, write, spoil = KINDS[kind]
    write_model(tmp_path / "model")
    write(tmp_path / name, image())
    spoil(tmp_path / name)

    def planned(share: float) -> Plan:
        config = CONFIG.model_copy(update={"max_bad_tiles": share})
        return predict_plan([row(tmp_path / name)], [tmp_path / "model"], tmp_path / "out-a", config)

    (refused,) = planned(0.05).failed
    assert (refused.code, len(planned(0.05).table)) == ("INPUT_CORRUPT", 0)
    allowed = planned(0.1)
    assert (allowed.failed, allowed.table["patches"].tolist()) == ((), [192])
    assert predict(tmp_path, tmp_path / name, max_bad_tiles=0.1).state == "done"
    assert planned(0.1).finished["slide_id"].tolist() == ["a"]


def test_overlapping_patches_on_an_undecodable_tile_have_no_value(tmp_path: Path) -> None:
    name, write, spoil = KINDS["a pyramid"]
    write_model(tmp_path / "model")
    write(tmp_path / name, image())
    spoil(tmp_path / name)
    assert predict(tmp_path, tmp_path / name, max_bad_tiles=0.1, stride_px=8).counts["unreadable"] == 9 * 9
    cells = read_ome_tiff(tmp_path / "out-a" / "heatmaps" / "a" / "heatmap.ome.tif").levels[0]
    rows, columns = np.nonzero(np.isnan(cells[0]))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (8, 15, 8, 15)


def test_a_slide_is_read_around_what_is_lost_and_says_where_that_is(tmp_path: Path) -> None:
    name, write, spoil = KINDS["a pyramid"]
    write(tmp_path / name, image())
    spoil(tmp_path / name)
    with open_slide(tmp_path / name) as slide:
        whole = TolerantSlide(slide=slide, share=0.1)
        read = whole.read_region(30, 30, 200, 150)
    expected = image()[:, 30:180, 30:230].copy()
    expected[:, 34:98, 34:98] = 255
    np.testing.assert_array_equal(read, expected)
    origins = np.array([[63, 63], [48, 64], [49, 64], [127, 127], [128, 64]])
    assert whole.is_lost(origins, 16).tolist() == [True, False, True, True, False]
    with pytest.raises(InputCorruptError, match="more than 1.00%"):
        TolerantSlide(slide=slide, share=0.01).read_overview()

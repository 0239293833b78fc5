"""Outputs of predict in the work folder: equal bytes, none half written, none redone without need."""

import gzip
import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import made_slides as made
import numpy as np
import pandas as pd
import pytest
import tifffile
import zarr
from made_prediction import GLASS, TISSUE, TUMOUR, grey_slide, mean_model, predict_to
from PIL import Image
from shapely.geometry import box, shape
from written_files import TIMES, contents

from pathopatch.core.artefacts import read_table
from pathopatch.core.config import PredictConfig, TissueConfig
from pathopatch.core.errors import (
    CheckpointIncompatibleError,
    DuplicateIdError,
    InputUnsupportedError,
    StaleArtefactError,
)
from pathopatch.core.files import read_json
from pathopatch.core.status import read_status
from pathopatch.heatmaps import overlay, prediction_files
from pathopatch.heatmaps.pyramids import read_ome_tiff
from pathopatch.heatmaps.qupath import write_qupath_folder
from pathopatch.heatmaps.slide_prediction import predict_slide
from pathopatch.models.forward import Ensemble
from pathopatch.models.spec import TrainingRange
from pathopatch.patches.analysis import SlideAnalysis
from pathopatch.slides import open_slide

model = partial(mean_model, gain=2.0, bias=1.0)
MORE = ("patches.geojson.gz", "patches.csv", "heatmap.ome.zarr")
ALL = PredictConfig(outputs=MORE)


@pytest.fixture
def image():
    """5 x 6 patches and a bit: glass, one tumour patch at cell (1, 2), one tissue patch at cell (3, 4)."""
    pixels = np.full((84, 100), GLASS, np.uint8)
    pixels[16:32, 32:48] = TUMOUR
    pixels[48:64, 64:80] = TISSUE
    return pixels


@pytest.fixture
def slide(tmp_path, image):
    with grey_slide(tmp_path / "s.tif", image) as opened:
        yield opened


def test_all_files_are_written_and_tell_the_same_story(tmp_path, slide):
    result = predict_to(slide, model(), tmp_path / "out", slide_id="s1", config=ALL)
    assert (result.state, result.counts) == ("done", {"patches": 42, "predicted": 2, "tumour": 1, "unreadable": 0})
    folder = tmp_path / "out/heatmaps/s1"
    assert sorted(path.name for path in folder.iterdir()) == [
        "heatmap.json", "heatmap.ome.tif", "heatmap.ome.zarr", "overlay.png", "patches.csv", "patches.geojson.gz",
        "regions.geojson.gz", "tissue.png",
    ]  # fmt: skip
    table = read_table(tmp_path / "out/predictions/s1.parquet")
    assert table["patch_id"].tolist() == ["s1@32,16", "s1@64,48"]
    np.testing.assert_allclose(table["logit"], [1, -1], atol=1e-6)
    csv = pd.read_csv(folder / "patches.csv")
    assert csv[["minx", "miny", "width", "height"]].to_numpy().tolist() == [[32, 16, 16, 16], [64, 48, 16, 16]]
    np.testing.assert_allclose(csv["prob_tumour"], table["probability"], rtol=1e-8)
    features = json.loads(gzip.decompress((folder / "patches.geojson.gz").read_bytes()))["features"]
    assert [f["properties"]["classification"]["name"] for f in features] == ["tumour", "non-tumour"]
    assert shape(features[0]["geometry"]).equals(box(32, 16, 48, 32))
    (region,) = json.loads(gzip.decompress((folder / "regions.geojson.gz").read_bytes()))["features"]
    assert shape(region["geometry"]).equals(box(32, 16, 48, 32))
    facts = json.loads((folder / "heatmap.json").read_text())
    assert (facts["cells"], facts["cell_px"], facts["cell_um"]) == ([7, 6], 16.0, 8.0)
    patch_mm2 = (16 * 0.5 / 1000) ** 2
    names = ("tissue_mm2", "positive_mm2", "largest_region_mm2", "positive_share")
    assert [facts["summary"][name] for name in names] == pytest.approx([2 * patch_mm2, patch_mm2, patch_mm2, 0.5])
    zarr_map = zarr.open_array(folder / "heatmap.ome.zarr" / "0", mode="r")[:]
    np.testing.assert_array_equal(zarr_map, read_ome_tiff(folder / "heatmap.ome.tif").levels[0])
    assert read_status(tmp_path / "out", "s1")["predict"]["summary"] == facts["summary"]


def test_further_files_are_written_on_request_and_stay_afterwards(tmp_path, slide):
    predict_to(slide, model(), tmp_path, slide_id="s1")
    folder = tmp_path / "heatmaps/s1"
    always = ["heatmap.json", "heatmap.ome.tif", "overlay.png", "regions.geojson.gz", "tissue.png"]
    assert sorted(path.name for path in folder.iterdir()) == always
    before = contents(folder)
    asked = PredictConfig(outputs=("patches.csv",))
    again = predict_to(slide, model(), tmp_path, slide_id="s1", config=asked)
    assert (again.state, "damaged" in str(again.warnings)) == ("done", False)
    after = contents(folder)
    assert {name for name in after if after[name] != before.get(name)} == {"heatmap.json", "patches.csv"}
    for config in (asked, PredictConfig()):
        assert predict_to(slide, model(), tmp_path, slide_id="s1", config=config).state == "current"
    (folder / "patches.csv").write_bytes(b"cut")
    assert "patches.csv" in str(predict_to(slide, model(), tmp_path, slide_id="s1", config=asked).warnings)


def test_the_export_for_qupath_equals_the_patches_that_predict_writes(tmp_path, slide):
    slide.facts = replace(slide.facts, bounds=(30, 10, 60, 60))
    predict_to(slide, model(decision_threshold=-1.5), tmp_path / "out", slide_id="s1", config=ALL)
    write_qupath_folder(tmp_path / "out", tmp_path / "qupath")
    name = "s1/patches.geojson.gz"
    assert (tmp_path / "qupath" / name).read_bytes() == (tmp_path / "out" / "heatmaps" / name).read_bytes()


def test_an_ensemble_adds_the_spread_to_table_and_map(tmp_path, slide):
    members = [model(), model(temperature=2.0, decision_threshold=-1.0)]
    predict_to(slide, Ensemble(members), tmp_path, slide_id="s1")
    table = read_table(tmp_path / "predictions/s1.parquet")
    np.testing.assert_allclose(table["logit"], [0.75, -0.75], atol=1e-6)  # the mean of 1 and 1 / 2
    apart = 1 / (1 + np.exp(-1)) - 1 / (1 + np.exp(-0.5))
    np.testing.assert_allclose(table["spread"], apart / np.sqrt(2), atol=1e-6)
    heatmap = read_ome_tiff(tmp_path / "heatmaps/s1/heatmap.ome.tif")
    assert heatmap.channels == ("probability", "tissue_fraction", "spread")
    assert heatmap.levels[0][2, 1, 2] == pytest.approx(apart / np.sqrt(2), abs=1e-6)
    facts = json.loads((tmp_path / "heatmaps/s1/heatmap.json").read_text())
    assert (facts["decision_threshold"], facts["temperature"]) == (-0.25, 1.0)


@pytest.mark.usefixtures("large_pictures")
def test_the_overlay_colours_the_painted_squares_and_nothing_else(tmp_path, slide, image):
    predict_to(slide, model(), tmp_path, slide_id="s1")
    picture = np.asarray(Image.open(tmp_path / "heatmaps/s1/overlay.png")).astype(int)
    row, column = overlay.ORIGIN
    view = picture[row : row + 840, column : column + 1000]  # ten times enlarged
    is_coloured = np.ptp(view, axis=2) > 0  # the slide itself is grey
    painted = np.kron(image > GLASS, np.ones((10, 10), bool))
    is_line = np.isin(view, (0, 150, 255)).all(axis=2) & painted  # around the tumour patch and the analysed area
    np.testing.assert_array_equal(is_coloured | is_line, painted)
    assert is_coloured[165:315, 325:475].all()


@pytest.mark.parametrize(("threshold", "called"), [(-1.5, 2), (0.0, 1), (1.5, 0)])
def test_every_file_calls_tumour_what_lies_above_the_models_own_threshold(
    tmp_path, slide, monkeypatch, threshold, called
):
    drawn = []
    render = prediction_files.render
    monkeypatch.setattr(
        prediction_files, "render", lambda *a, legend, **k: drawn.append(legend) or render(*a, legend=legend, **k)
    )
    chosen = model(decision_threshold=threshold, temperature=2.0)  # of the logits 1 and -1
    result = predict_to(slide, chosen, tmp_path, slide_id="s1", config=ALL)
    assert result.counts["tumour"] == called
    summary = read_json(tmp_path / "heatmaps" / "s1" / "heatmap.json")["summary"]
    assert summary["positive_mm2"] == pytest.approx(called * (16 * 0.5 / 1000) ** 2)
    assert drawn[0].threshold == pytest.approx(1 / (1 + np.exp(-threshold / 2)))
    for name, due in (
        ("patches", ["tumour"] * called + ["non-tumour"] * (2 - called)),
        ("regions", ["tumour"] * called),
    ):
        read = json.loads(gzip.decompress((tmp_path / f"heatmaps/s1/{name}.geojson.gz").read_bytes()))
        assert [feature["properties"]["classification"]["name"] for feature in read["features"]] == due


def test_a_second_import_replaces_the_first_of_the_same_model_only(tmp_path, slide):
    ids = []
    for number, threshold in enumerate((0.0, 0.0, 0.5)):
        predict_to(slide, model(decision_threshold=threshold), tmp_path / str(number), slide_id="s1", config=ALL)
        files = [tmp_path / str(number) / f"heatmaps/s1/{name}.geojson.gz" for name in ("patches", "regions")]
        ids.append(
            {feature["id"] for path in files for feature in json.loads(gzip.decompress(path.read_bytes()))["features"]}
        )
    assert len(ids[0]) == 3
    assert ids[0] == ids[1]
    assert not ids[0] & ids[2]


def test_map_overlay_and_scale_bar_keep_their_place_on_a_large_slide(tmp_path):
    pixels = np.full((100, 5000), GLASS, np.uint8)
    pixels[:, 3000:3200] = TUMOUR  # cells 30 and 31 of one row; the overview has 4096 x 82 px, the picture 1536 x 31
    with grey_slide(tmp_path / "s.tif", pixels) as slide:
        predict_to(slide, model(patch_px=100, stride_px=100, input_px=100), tmp_path, slide_id="s1", config=ALL)
    attributes = zarr.open_group(tmp_path / "heatmaps/s1/heatmap.ome.zarr", mode="r").attrs["ome"]
    scale, translation = attributes["multiscales"][0]["datasets"][0]["coordinateTransformations"]
    corner = [at - side / 2 for at, side in zip(translation["translation"][1:], scale["scale"][1:], strict=True)]
    np.testing.assert_allclose(corner, [-0.5 * 100 / 82 / 2, -0.5 * 5000 / 4096 / 2])  # as the overview's own corner
    picture = np.asarray(Image.open(tmp_path / "heatmaps/s1/overlay.png")).astype(int)
    row, column = overlay.ORIGIN
    view = picture[row : row + 31, column : column + 1536]
    coloured = np.flatnonzero((np.ptp(view, axis=2) > 0).any(axis=0))
    ends = np.array([3000, 3200]) / 5000 * 1536 + [4, -4]  # inside an outline, which is grey
    np.testing.assert_allclose([coloured.min(), coloured.max() + 1], ends, atol=1)
    is_ink = (picture[row + 31 + 17, column : column + 1536] == 25).all(axis=1)
    assert is_ink.sum() == round(500 / (0.5 * 5000 / 1536))  # 500 um


def test_slide_bounds_move_the_geojson_only(tmp_path, image):
    with grey_slide(tmp_path / "s.tif", image) as slide:
        predict_to(slide, model(), tmp_path / "a", slide_id="s1", config=ALL)
        slide.facts = replace(slide.facts, bounds=(30, 10, 60, 60))
        predict_to(slide, model(), tmp_path / "b", slide_id="s1", config=ALL)
    a, b = contents(tmp_path / "a", without=TIMES), contents(tmp_path / "b", without=TIMES)
    changed = {name for name in a if a[name] != b[name]}
    assert changed == {
        "heatmaps/s1/patches.geojson.gz", "heatmaps/s1/regions.geojson.gz", "heatmaps/s1/heatmap.json",
    }  # fmt: skip
    features = json.loads(gzip.decompress(b["heatmaps/s1/patches.geojson.gz"]))["features"]
    assert shape(features[0]["geometry"]).equals(box(2, 6, 18, 22))


def test_a_rerun_does_nothing(tmp_path, slide, monkeypatch):
    first = predict_to(slide, model(), tmp_path, slide_id="s1")
    before = contents(tmp_path)
    monkeypatch.setattr(prediction_files, "predict_patches", None)  # would fail if it were called
    again = predict_to(slide, model(), tmp_path, slide_id="s1")
    assert (again.state, again.counts) == ("current", first.counts)
    assert contents(tmp_path) == before


def test_a_supplied_tissue_mask_selects_patches_and_enters_the_stamp(tmp_path, slide):
    mask = np.zeros((84, 100), np.uint8)
    mask[:16, :32] = 255  # two patches of glass
    tifffile.imwrite(tmp_path / "mask.tif", mask)
    predict_to(slide, model(), tmp_path, slide_id="s1", tissue_mask=tmp_path / "mask.tif")
    table = read_table(tmp_path / "predictions" / "s1.parquet")
    assert table[["x", "y", "tissue_fraction"]].to_numpy().tolist() == [[0, 0, 1], [16, 0, 1]]
    with pytest.raises(StaleArtefactError, match="tissue_mask"):
        predict_to(slide, model(), tmp_path, slide_id="s1")
    tifffile.imwrite(tmp_path / "mask.tif", mask[::-1].copy())
    with pytest.raises(StaleArtefactError, match="tissue_mask"):
        predict_to(slide, model(), tmp_path, slide_id="s1", tissue_mask=tmp_path / "mask.tif")


def test_device_and_threads_do_not_make_outputs_stale(tmp_path, slide):
    predict_to(slide, model(), tmp_path, slide_id="s1")
    config = PredictConfig(device="cpu", threads=1)
    assert predict_to(slide, model(), tmp_path, slide_id="s1", config=config).state == "current"


@pytest.mark.parametrize(
    ("changed_model", "changed_config"),
    [
        ({"decision_threshold": 0.5}, {}),
        ({}, {"all_patches": True}),
        ({}, {"stride_px": 8}),
        ({}, {"min_tissue": 0.5}),
        ({}, {"deidentify": True}),
        ({"seen": TrainingRange(mean=((0.0, 1.0),))}, {}),
    ],
)
def test_other_settings_stop_unless_forced(tmp_path, slide, changed_model, changed_config):
    predict_to(slide, model(), tmp_path, slide_id="s1")
    before = contents(tmp_path)
    config = PredictConfig(**changed_config)
    with pytest.raises(StaleArtefactError):
        predict_to(slide, model(**changed_model), tmp_path, slide_id="s1", config=config)
    assert contents(tmp_path) == before
    result = predict_to(slide, model(**changed_model), tmp_path, slide_id="s1", config=config, force=True)
    assert result.state == "done"
    assert predict_to(slide, model(**changed_model), tmp_path, slide_id="s1", config=config).state == "current"


@pytest.mark.parametrize("side", [96, 960], ids=["small", "alike almost everywhere"])
def test_two_pages_of_one_file_are_two_slides(tmp_path, side):
    image = np.full((side, side), GLASS, np.uint8)
    image[48:80, 48:80] = TUMOUR
    with tifffile.TiffWriter(tmp_path / "stack.tif") as writer:
        for page in (image, image[:, ::-1].copy()):
            writer.write(page, photometric="minisblack", resolution=(2e4, 2e4), resolutionunit="CENTIMETER")
    first, second = (
        open_slide(f"{tmp_path / 'stack.tif'}#page={page}", channels=("SHG",), background="dark") for page in (0, 1)
    )
    with first, second:
        predict_to(first, model(), tmp_path, slide_id="s1")
        with pytest.raises(DuplicateIdError, match="page=0.*page=1"):
            predict_to(second, model(), tmp_path, slide_id="s1")


def test_one_model_more_stops_unless_forced_and_their_order_says_nothing(tmp_path, slide):
    first, second = model(), model(temperature=2.0)
    predict_to(slide, Ensemble([first, second]), tmp_path, slide_id="s1")
    assert predict_to(slide, Ensemble([second, first]), tmp_path, slide_id="s1").state == "current"
    for other in (first, second, Ensemble([first, second, model(temperature=3.0)])):
        with pytest.raises(StaleArtefactError, match="'model' differs"):
            predict_to(slide, other, tmp_path, slide_id="s1")


def test_other_pixels_weights_or_precision_stop_unless_forced(tmp_path, slide, image):
    predict_to(slide, model(), tmp_path / "out", slide_id="s1")
    half = model()
    half.runtime.precision = "bfloat16"
    for other, reason in (
        (mean_model(gain=3.0, bias=1.0), "the slide was predicted by another model: input 'model' differs"),
        (half, "precision was 'float32', is 'bfloat16'"),
    ):
        with pytest.raises(StaleArtefactError, match=reason):
            predict_to(slide, other, tmp_path / "out", slide_id="s1")
    slide.close()
    with (
        grey_slide(tmp_path / "s.tif", image[::-1].copy()) as turned,
        pytest.raises(StaleArtefactError, match="'slide' differs"),
    ):
        predict_to(turned, model(), tmp_path / "out", slide_id="s1")


@pytest.mark.parametrize(
    "lost", ["predictions/s1.parquet", "heatmaps/s1", "status/s1.json", "heatmaps/s1/heatmap.json"]
)
def test_what_an_interruption_left_out_is_made_up_for(tmp_path, slide, lost):
    predict_to(slide, model(), tmp_path, slide_id="s1")
    before = contents(tmp_path, without=TIMES)
    path = tmp_path / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    predict_to(slide, model(), tmp_path, slide_id="s1")
    assert contents(tmp_path, without=TIMES) == before
    assert read_status(tmp_path, "s1")["predict"]["state"] == "done"


def test_warnings_are_repeated_where_the_status_was_lost(tmp_path, slide, monkeypatch):
    monkeypatch.setattr(SlideAnalysis, "warnings", lambda *_: ["channel SHG is shifted"])
    predict_to(slide, model(), tmp_path, slide_id="s1")
    monkeypatch.undo()
    (tmp_path / "status/s1.json").unlink()
    assert predict_to(slide, model(), tmp_path, slide_id="s1").warnings == ("channel SHG is shifted",)
    assert read_status(tmp_path, "s1")["predict"]["warnings"] == ["channel SHG is shifted"]


def test_a_moved_slide_has_its_new_place_and_keeps_its_patient(tmp_path, slide):
    predict_to(slide, model(), tmp_path / "out", slide_id="s1", patient_id="p")
    shutil.copy(tmp_path / "s.tif", tmp_path / "moved.tif")
    with open_slide(tmp_path / "moved.tif", channels=("SHG",), background="dark") as moved:
        assert predict_to(moved, model(), tmp_path / "out", slide_id="s1").state == "current"
    entry = read_status(tmp_path / "out", "s1")["predict"]
    assert (Path(entry["source"]).name, entry["patient_id"]) == ("moved.tif", "p")


@pytest.mark.parametrize("writer", ["write_tiles", "write_tables"])
def test_a_failure_leaves_neither_new_nor_temporary_files(tmp_path, slide, monkeypatch, writer):
    def fail(*arguments, **settings):
        raise RuntimeError("no ink")

    predict_to(slide, model(), tmp_path, slide_id="s1")
    before = contents(tmp_path, without=TIMES)
    monkeypatch.setattr(prediction_files, writer, fail)
    with pytest.raises(RuntimeError, match="no ink"):
        predict_to(slide, model(decision_threshold=0.2), tmp_path, slide_id="s1", config=ALL, force=True)
    assert contents(tmp_path, without=TIMES) == before
    assert read_status(tmp_path, "s1")["predict"]["state"] == "running"


def test_an_empty_slide_is_done_empty_with_a_map_of_nan(tmp_path):
    with grey_slide(tmp_path / "s.tif", np.full((84, 100), GLASS, np.uint8)) as empty:
        result = predict_to(empty, model(tissue=TissueConfig(background="dark")), tmp_path, slide_id="s1", config=ALL)
    assert (result.state, result.counts["predicted"]) == ("done_empty", 0)
    assert read_status(tmp_path, "s1")["predict"]["state"] == "done_empty"
    probability, tissue = read_ome_tiff(tmp_path / "heatmaps/s1/heatmap.ome.tif").levels[0]
    assert np.isnan(probability).all()
    assert (tissue == 0).all()
    assert len(read_table(tmp_path / "predictions/s1.parquet")) == 0
    assert json.loads(gzip.decompress((tmp_path / "heatmaps/s1/patches.geojson.gz").read_bytes()))["features"] == []


def test_a_slide_that_looks_otherwise_than_the_model_states_is_warned_of(tmp_path, image):
    grey_slide(tmp_path / "s.tif", 255 - image).close()
    with open_slide(tmp_path / "s.tif", channels=("SHG",), background="bright") as slide:
        assert "looks different" in predict_to(slide, model(), tmp_path, slide_id="s1").warnings[0]


@pytest.mark.fault("checkpoint")
@pytest.mark.parametrize("share", [0.0, 0.1])
def test_a_slide_of_another_background_is_refused_unless_it_is_stated(tmp_path, image, share):
    guessed = model(tissue=TissueConfig(method="fixed", fixed_threshold=0.25, min_speck_um2=0, max_hole_um2=0))
    config = PredictConfig(max_bad_tiles=share)
    grey_slide(tmp_path / "s.tif", 255 - image).close()
    with open_slide(tmp_path / "s.tif", channels=("SHG",)) as slide:
        with pytest.raises(CheckpointIncompatibleError, match="bright where there is no tissue") as raised:
            predict_to(slide, guessed, tmp_path / "out", slide_id="s1", config=config)
        with pytest.raises(CheckpointIncompatibleError, match="bright"):
            predict_slide(slide, guessed, config=config)
    assert "column background of a manifest" in raised.value.remedy
    assert not (tmp_path / "out" / "heatmaps").exists()
    with open_slide(tmp_path / "s.tif", channels=("SHG",), background="dark") as slide:
        assert predict_to(slide, guessed, tmp_path / "out", slide_id="s1", config=config).state == "done"


@pytest.mark.parametrize("bad", ["../x", "CON", "=cmd()", "a/b", ""])
def test_a_slide_id_that_is_no_name_is_refused(tmp_path, slide, bad):
    with pytest.raises(InputUnsupportedError, match="no slide id"):
        predict_to(slide, model(), tmp_path / "out", slide_id=bad)
    assert not (tmp_path / "out").exists()


def test_a_link_that_leads_outside_is_refused(tmp_path, slide):
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out/heatmaps").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputUnsupportedError, match="leads outside"):
        predict_to(slide, model(), tmp_path / "out", slide_id="s1")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_progress_counts_grid_positions_up_to_all(tmp_path, slide):
    seen = []
    predict_to(slide, model(), tmp_path, slide_id="s1", progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (42, 42)


def test_facts_and_status_say_from_which_level_patches_were_read(tmp_path, slide):
    predict_to(slide, model(), tmp_path, slide_id="s1")
    records = read_json(tmp_path / "heatmaps/s1/heatmap.json"), read_status(tmp_path, "s1")["predict"]
    assert [(record["read_level"], record["read_level_downsample"]) for record in records] == [(0, 1.0)] * 2
    rgb = {"channels": ("R", "G", "B"), "mean": (0.0,) * 3, "std": (1.0,) * 3, "background": "bright", "mpp": 4.0}
    path, out = tmp_path / "p.tif", tmp_path / "pyramid"
    made.write_rgb_pyramid(path, made.noise(3, 300, 300, np.uint8), levels=4)
    with open_slide(path, background="bright") as pyramid:  # 8 px of level 0 to one: twice the factor
        predict_to(pyramid, model(**rgb), out, slide_id="s2")
    records = read_json(out / "heatmaps/s2/heatmap.json"), read_status(out, "s2")["predict"]
    assert [(record["read_level"], record["read_level_downsample"]) for record in records] == [(1, 2.0)] * 2

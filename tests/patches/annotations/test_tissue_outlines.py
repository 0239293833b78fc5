"""Tissue as a person outlined it: which pixels are set, what is cut out, and the way to QuPath and back."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import shapely
from array_slides import h_and_e, low_counts
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from made_outlines import geojson, polygon, square
from numpy.typing import NDArray
from PIL import Image

from pathopatch.core.config import TileConfig
from pathopatch.core.errors import InputUnsupportedError, StaleArtefactError
from pathopatch.patches.analysis import analyse_slide
from pathopatch.patches.annotations.masks import TissueCorrection, read_tissue_mask
from pathopatch.patches.annotations.polygons import rasterize, tissue_geojson
from pathopatch.patches.labels import LabelSource, label_file_errors
from pathopatch.patches.store import PatchStore
from pathopatch.patches.tile import tile_slide

Make = Callable[..., Any]
SLIDE, OVERVIEW = (200, 100), (100, 50)  # a pixel of the overview spans 2 level-0 px


def read(path: Path, **changed: Any) -> Any:
    return read_tissue_mask(path, **({"slide_size": SLIDE, "overview_px": OVERVIEW} | changed))


@pytest.mark.fault("misplaced-mask")
def test_supplied_tissue_that_lies_on_glass_or_is_turned_is_doubted(make_slide: Make, tmp_path: Path) -> None:
    truth = np.zeros((400, 400), np.bool_)
    truth[20:140, 40:360] = True
    slide, config = make_slide(h_and_e(truth), mpp=2.0), TileConfig(patch_px=32)

    def doubts_of(mask: NDArray[np.bool_]) -> list[str]:
        Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / "mask.png")
        return analyse_slide(slide, config, tissue_mask=tmp_path / "mask.png").warnings(2.0, 10.0)

    assert doubts_of(truth) == []
    part = np.zeros_like(truth)
    part[30:100, 50:100] = True
    assert doubts_of(part) == []  # a person may outline some of the tissue
    loose = np.zeros_like(truth)
    loose[20:300, 20:380] = True
    assert doubts_of(loose) == []  # or draw around it from afar
    assert doubts_of(np.ones_like(truth)) == []
    for misplaced, share in ((~truth, "0%"), (np.rot90(truth, 1), "26%")):
        (warning,) = doubts_of(misplaced.copy())
        assert f"{share} of the supplied tissue looks like tissue" in warning
        assert "turned, mirrored or shifted" in warning


def test_tissue_of_any_name_is_tissue_and_holes_are_not(tmp_path: Path) -> None:
    path = geojson(
        tmp_path,
        polygon(square(0, 0, 40), square(10, 10, 10), name="Tissue"),
        polygon(square(100, 20, 40), name=None),
        polygon(square(120, 20, 40), name="Region*"),
    )
    due = np.zeros((50, 100), bool)
    due[:20, :20] = True
    due[5:10, 5:10] = False
    due[10:30, 50:80] = True
    assert (read(path) == due).all()


def test_outlines_of_the_class_ignore_are_cut_out_whatever_lies_over_them(tmp_path: Path) -> None:
    parts = [
        polygon(square(0, 0, 20, 40), name="Ignore*"),
        polygon(square(0, 0, 40), name="Tissue"),
        polygon(square(60, 0, 20, 4), name="tissue"),
    ]
    mask = read(geojson(tmp_path, *parts))
    assert mask.sum() == 10 * 20 + 10 * 2
    assert not mask[:, :10].any()


@pytest.mark.parametrize("name", ["Tumor", "Ignore", "Background"])
def test_a_class_that_says_nothing_of_tissue_is_refused_with_a_remedy(name: str, tmp_path: Path) -> None:
    path = geojson(tmp_path, polygon(square(0, 0, 40), name="Tissue"), polygon(square(60, 0, 20), name=name))
    with pytest.raises(InputUnsupportedError, match=f"{name!r}.*Not tissue") as refused:
        read(path)
    errors = label_file_errors(LabelSource(), tissue_mask=path, slide_size=SLIDE, is_quick=True)
    assert str(errors["tissue_mask"]) == str(refused.value)


def grandqc(folder: Path, **outlines: list[list[float]]) -> Path:
    """Write a file as GrandQC does: names of classes as text, no type of object, the table of classes beside them."""
    features = [
        {
            "type": "Feature",
            "properties": {"class_id": 2, "classification": name.replace("_", " "), "area": 1.0},
            "geometry": {"type": "Polygon", "coordinates": [ring]},
        }
        for name, ring in outlines.items()
    ]
    content = {"type": "FeatureCollection", "features": features, "metadata": {"class_mapping": {"2": "Fold"}}}
    (folder / "qc.geojson").write_text(json.dumps(content), encoding="utf-8")
    return folder / "qc.geojson"


def test_artefacts_of_grandqc_are_taken_out_of_the_tissue_that_is_found(tmp_path: Path) -> None:
    parts = {"Fold": square(0, 0, 20), "Darkspot_&_Foreign_Object": square(40, 0, 20), "PenMarking": square(80, 0, 20)}
    path = grandqc(tmp_path, **parts, **{"Edge_&_Air_Bubble": square(120, 0, 20), "OOF": square(160, 0, 20)})
    found = read(path, bounds_origin=(10, 30))  # it measures from the slide, not from its bounds
    assert isinstance(found, TissueCorrection)
    due = np.zeros((50, 100), bool)
    for left in range(0, 100, 20):
        due[:10, left : left + 10] = True
    assert (found.not_tissue == due).all()
    assert not found.missed.any()
    none = read(grandqc(tmp_path))
    assert isinstance(none, TissueCorrection)  # a slide without artefacts, not one without tissue
    assert not none.not_tissue.any()
    with_tissue = read(grandqc(tmp_path, Normal_Tissue=square(0, 0, 40), Fold=square(0, 0, 20)))
    assert with_tissue.sum() == 400 - 100
    assert not with_tissue[:10, :10].any()


@pytest.mark.parametrize("scale", [0.25, 4])
def test_what_histoqc_leaves_out_is_taken_out_of_the_tissue_that_is_found(
    scale: float, make_slide: Make, tmp_path: Path
) -> None:
    truth = np.zeros((400, 400), np.bool_)
    truth[40:360, 40:360] = True
    slide, config = make_slide(h_and_e(truth), mpp=2.0), TileConfig(patch_px=32)
    before = analyse_slide(slide, config).tissue
    usable = np.ones((round(400 * scale),) * 2, np.uint8)
    usable[: len(usable) // 2] = 0
    path = tmp_path / "slide.svs_mask_use.png"
    # HistoQC writes one bit a pixel, with a table of two colours, of which white may be the first.
    Image.fromarray(usable * 255).quantize().save(path, bits=1)
    analysis = analyse_slide(slide, config, tissue_mask=path)
    after = analysis.tissue
    assert analysis.mask_warnings == ()
    assert not after.mask[:200].any()
    assert (after.mask[200:] == before.mask[200:]).all()  # its white glass is no tissue
    assert (after.threshold, after.is_supplied) == (before.threshold, False)
    for usable, share in ((np.full((40, 40), 255, np.uint8), "0%"), (before.mask == 0, "100%")):
        Image.fromarray(usable).convert("L").quantize().save(path, bits=8)
        analysis = analyse_slide(slide, config, tissue_mask=path)
        assert (analysis.tissue.mask == before.mask * (share == "0%")).all()
        assert f"leaves out {share} of the tissue" in analysis.warnings(slide.mpp, 9)[0]


def test_asap_measures_from_the_slide_and_qupath_from_its_bounds(tmp_path: Path) -> None:
    corners = "".join(f'<Coordinate Order="{i}" X="{x}" Y="{y}"/>' for i, (x, y) in enumerate(square(0, 0, 40, 20)[:4]))
    annotation = f'<Annotation Name="a" Type="Polygon"><Coordinates>{corners}</Coordinates></Annotation>'
    (tmp_path / "a.xml").write_text(f"<ASAP_Annotations><Annotations>{annotation}</Annotations></ASAP_Annotations>")
    asap = read(tmp_path / "a.xml", bounds_origin=(100, 20))
    qupath = read(geojson(tmp_path, polygon(square(0, 0, 40, 20), name="Tissue")), bounds_origin=(100, 20))
    assert (np.argwhere(asap)[0].tolist(), np.argwhere(qupath)[0].tolist()) == ([0, 0], [10, 50])
    assert asap.sum() == qupath.sum() == 20 * 10


def test_a_file_without_outlines_says_that_there_is_no_tissue(tmp_path: Path) -> None:
    assert not read(geojson(tmp_path)).any()


def test_a_pixel_is_set_where_its_middle_lies_inside() -> None:
    triangle = shapely.Polygon([(0, 0), (4, 0), (0, 4)])
    assert rasterize(triangle, (4, 3)).tolist() == [
        [True, True, True, False],  # its hypotenuse crosses the middle of the last pixel
        [True, True, False, False],
        [True, False, False, False],
    ]
    assert rasterize(shapely.box(0.6, 0.4, 2.4, 1.6), (4, 3)).tolist() == [
        [False, True, False, False],
        [False, True, False, False],
        [False, False, False, False],
    ]
    assert rasterize(shapely.box(-9, -9, 9, 9), (4, 3)).all()
    assert not rasterize(shapely.Polygon(), (4, 3)).any()


@given(arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_the_outlines_of_a_mask_cover_its_area_to_two_percent(mask: NDArray[np.bool_]) -> None:
    text = tissue_geojson(mask, slide_id="s", slide_size=(mask.shape[1] * 8, mask.shape[0] * 8), bounds_origin=(5, 3))
    features = json.loads(text)["features"]
    shapes = [shapely.geometry.shape(feature["geometry"]) for feature in features]
    assert all(shape.is_valid for shape in shapes)
    assert all(ring[0] == ring[-1] for feature in features for ring in feature["geometry"]["coordinates"])
    assert len({feature["id"] for feature in features}) == len(features)
    assert abs(sum(shape.area for shape in shapes) / 64 - mask.sum()) <= 0.02 * mask.sum()


def test_an_exported_outline_is_qupaths_annotation_with_a_lasting_id(tmp_path: Path) -> None:
    mask = np.zeros((50, 100), bool)
    mask[5:25, 10:40] = True
    text = tissue_geojson(mask, slide_id="s", slide_size=SLIDE, bounds_origin=(4, 6))
    (feature,) = json.loads(text)["features"]
    assert feature["properties"]["objectType"] == "annotation"
    assert feature["properties"]["classification"]["name"] == "Tissue"
    namespace = uuid.uuid5(uuid.NAMESPACE_URL, "pathopatch:tissue")
    assert feature["id"] == str(uuid.uuid5(namespace, "s/16,4"))
    assert shapely.geometry.shape(feature["geometry"]).equals(shapely.box(16, 4, 76, 44))
    assert text == tissue_geojson(mask, slide_id="s", slide_size=SLIDE, bounds_origin=(4, 6))
    (tmp_path / "s.geojson").write_text(text, encoding="utf-8")
    assert (read(tmp_path / "s.geojson", bounds_origin=(4, 6)) == mask).all()


def test_a_slide_tiled_by_its_exported_outline_keeps_its_shares(
    make_slide: Make, two_discs: NDArray[np.bool_], tmp_path: Path
) -> None:
    config = TileConfig(patch_px=32)
    tiled = tile_slide(make_slide(low_counts(two_discs)), config, tmp_path / "found")
    store = PatchStore(tmp_path / "found" / "slides" / "slide.zarr")
    path = tmp_path / "slide.geojson"
    path.write_text(tissue_geojson(store.tissue() != 0, slide_id="slide", slide_size=(200, 150)), encoding="utf-8")
    tile_slide(make_slide(low_counts(two_discs)), config, tmp_path / "again", tissue_mask=path)
    before, after = (
        pd.read_parquet(tmp_path / name / "patches" / "slide.parquet")["tissue_fraction"] for name in ("found", "again")
    )
    assert tiled.patches == len(after)
    assert abs(before - after).mean() < 0.01
    assert abs(before.mean() - after.mean()) < 0.01
    assert PatchStore(tmp_path / "again" / "slides" / "slide.zarr").attributes["tissue"]["is_supplied"]
    geojson(tmp_path, polygon(square(0, 0, 40), name="Tissue"), name=path.name)
    with pytest.raises(StaleArtefactError, match="tissue_mask"):
        tile_slide(make_slide(low_counts(two_discs)), config, tmp_path / "again", tissue_mask=path)


def test_outlines_not_relative_to_the_bounds_are_not_moved(
    make_slide: Make, two_discs: NDArray[np.bool_], tmp_path: Path
) -> None:
    slide = make_slide(low_counts(two_discs))
    slide.bounds = (50, 40, 100, 80)
    path = geojson(tmp_path, polygon(square(0, 0, 20), name="Tissue"))
    for is_subtracted, corner in ((True, [40, 50]), (False, [0, 0])):
        config = TileConfig.model_validate({"labels": {"annotations": {"subtracted_bounds": is_subtracted}}})
        mask = analyse_slide(slide, config, tissue_mask=path).tissue.mask
        assert np.argwhere(mask)[0].tolist() == corner
        assert mask.sum() == 400

"""What is said of a manifest's slides, and of one slide, before anything is made of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import made_slides as made
import numpy as np
import pytest
from PIL import Image

from pathopatch import provenance
from pathopatch.cohort import SLIDE_COLUMNS, check, describe, slides_to_predict
from pathopatch.config import TileConfig, TissueConfig
from pathopatch.errors import InputUnsupportedError, ManifestError

SQUARES = np.repeat(np.repeat(np.random.default_rng(0).random((30, 40)) > 0.7, 10, 0), 10, 1)
EXACT = TileConfig(tissue=TissueConfig(min_speck_um2=0, max_hole_um2=0))


def tissue(shift: int = 0) -> np.ndarray:
    """(300, 400) squares of tissue, moved to the right."""
    return (np.roll(SQUARES, shift, axis=1) * 900 + np.random.default_rng(1).normal(100, 5, (300, 400))).astype(
        np.uint16
    )


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    made.write_modalities(tmp_path, np.stack([tissue(), tissue(12)]), ("CARS", "SHG"))
    path = tmp_path / "cohort.csv"
    path.write_text("slide_id,patient_id,path:CARS,path:SHG\ns1,p1,cars.tif,shg.tif\n", encoding="utf-8")
    return path


def test_what_is_measured_is_said_and_the_table_of_slides_holds_facts_alone(manifest: Path, tmp_path: Path) -> None:
    table = check(manifest, tmp_path / "work", measure=EXACT)
    row = table.iloc[0]
    assert row["shift_um"] == pytest.approx(6, abs=0.1)
    assert row["tissue_share"] == pytest.approx((SQUARES | np.roll(SQUARES, 12, axis=1)).mean(), abs=1e-3)
    assert row["saturated"] == 0
    assert "channel SHG is shifted by 6.0 um" in row["warnings"][0]
    stored = provenance.read_table(tmp_path / "work" / "slides.parquet")
    assert tuple(stored.columns) == SLIDE_COLUMNS
    assert stored["bounds"].tolist() == ["0,0,400,300"]
    before = (tmp_path / "work" / "slides.parquet").read_bytes()
    check(manifest, tmp_path / "work")  # without looking: the same table, nothing stale
    assert (tmp_path / "work" / "slides.parquet").read_bytes() == before


def test_pixels_that_cannot_be_used_are_a_problem_of_their_row(tmp_path: Path) -> None:
    plane = np.full((40, 40), 5, np.float32)
    plane[3, 4] = np.nan
    made.write_channel(tmp_path / "a.tif", plane)
    (tmp_path / "m.csv").write_text("slide_id,patient_id,path,background\ns1,p1,a.tif,dark\n", encoding="utf-8")
    assert len(check(tmp_path / "m.csv")) == 1
    with pytest.raises(ManifestError, match=r"NONFINITE: row 2.*1 in C0"):
        check(tmp_path / "m.csv", measure=TileConfig())


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.geojson", b'{"type": "FeatureCollection"', "INPUT_CORRUPT.*not JSON"),
        ("t.xml", b"<svg/>", "INPUT_CORRUPT.*ASAP_Annotations"),
        ("t.png", b"no picture", "INPUT_CORRUPT.*cannot be read"),
        ("t.txt", b"x", "INPUT_UNSUPPORTED.*format '.txt'"),
    ],
)
@pytest.mark.parametrize("is_quick", [True, False])
def test_a_broken_tissue_mask_is_a_problem_of_its_column(
    tmp_path: Path, name: str, content: bytes, said: str, is_quick: bool
) -> None:
    made.write_channel(tmp_path / "a.tif", tissue())
    (tmp_path / name).write_bytes(content)
    (tmp_path / "m.csv").write_text(f"slide_id,patient_id,path,tissue_mask\ns1,p1,a.tif,{name}\n", encoding="utf-8")
    with pytest.raises(ManifestError, match=said) as caught:
        check(tmp_path / "m.csv", measure=None if is_quick else EXACT)
    (problem,) = caught.value.problems
    assert (problem.row, problem.column, problem.value) == (2, "tissue_mask", str(tmp_path / name))


def test_the_tissue_share_is_that_of_the_outlines_which_the_manifest_names(tmp_path: Path) -> None:
    made.write_channel(tmp_path / "a.tif", tissue())
    ring = "[[0, 0], [100, 0], [100, 300], [0, 300], [0, 0]]"
    (tmp_path / "t.geojson").write_text(
        f'{{"type": "Feature", "geometry": {{"type": "Polygon", "coordinates": [{ring}]}}}}', encoding="utf-8"
    )
    (tmp_path / "m.csv").write_text("slide_id,patient_id,path,tissue_mask\ns1,p1,a.tif,t.geojson\n", encoding="utf-8")
    row = check(tmp_path / "m.csv", measure=EXACT).iloc[0]
    assert row["tissue_share"] == 0.25
    assert np.isnan(row["tissue_threshold"])


def test_a_picture_never_replaces_the_slide(tmp_path: Path) -> None:
    slide = tmp_path / "a.png"  # a TIFF by its content
    made.write_channel(slide, tissue())
    (row,) = slides_to_predict(str(slide))
    content = slide.read_bytes()
    for picture in (slide, tmp_path / "a.tif"):
        with pytest.raises(InputUnsupportedError, match="PNG"):
            describe(row, TileConfig(), picture=picture)
    assert slide.read_bytes() == content


def test_info_prints_facts_and_leaves_a_picture_where_one_stands(manifest: Path, tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    command = [sys.executable, "-m", "pathopatch.cli", "info", f"CARS={tmp_path}/cars.tif,SHG={tmp_path}/shg.tif"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, check=True)
    assert "CARS, SHG" in done.stdout
    assert "400 x 300 px" in done.stdout
    assert done.stderr.startswith("warning: cars: channel SHG is shifted by 6.0 um")
    assert [path.name for path in here.iterdir()] == ["cars-info.png"]
    with Image.open(here / "cars-info.png") as picture:
        assert picture.info == {}
        assert picture.size[0] > 400

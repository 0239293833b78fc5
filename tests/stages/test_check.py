"""Checks of a manifest's slides, and of one slide, before any stage."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import made_slides as made
import numpy as np
import pytest
import tifffile
import typer
from array_slides import h_and_e
from PIL import Image

from pathopatch.cli.output import finish
from pathopatch.core import artefacts
from pathopatch.core.config import AnnotationConfig, BatchOptions, LabelConfig, TileConfig, TissueConfig
from pathopatch.core.errors import InputUnsupportedError, StaleArtefactError, TableError
from pathopatch.core.status import read_status
from pathopatch.core.task import Outcome
from pathopatch.slides import image_file
from pathopatch.stages.batch.slide_table import SLIDE_COLUMNS, SLIDE_LABEL, write_slides
from pathopatch.stages.check import check_manifest
from pathopatch.stages.find_slides import slides_to_predict
from pathopatch.stages.info import describe_row
from pathopatch.stages.tile import tile_cohort

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


@pytest.mark.parametrize("quick", [True, False])
def test_an_mpp_that_contradicts_the_file_is_a_warning_of_every_stage(
    quick: bool, tmp_path: Path, said: Callable
) -> None:
    made.write_channel(tmp_path / "a.tif", tissue(), mpp=0.5)
    path = tmp_path / "cohort.csv"
    path.write_text("slide_id,patient_id,path,mpp\ns1,p1,a.tif,1\n")
    warning = "s1: um/px: 1 is stated and counts, though the file says 0.5"
    assert warning in said("check", path, *(["--quick"] if quick else [])).err
    assert warning in said("tile", path, "-o", tmp_path / "work").err
    told = said("info", tmp_path / "a.tif", "--slide-mpp", 1, "-o", tmp_path / "a.png").err
    assert "a: um/px: 0.5 counts, as the file says; --slide-mpp 1 is not used" in told


@pytest.mark.parametrize(("mask", "is_said"), [("", True), ("all", False), ("none", False)])
def test_a_slide_label_without_labels_of_patches_is_said(
    mask: str, is_said: bool, manifest: Path, tmp_path: Path, said: Callable
) -> None:
    manifest.write_text(
        f"slide_id,patient_id,path:CARS,path:SHG,slide_label,tumor_mask\ns1,p1,cars.tif,shg.tif,1,{mask}\n"
    )
    for command in (("check", manifest), ("tile", manifest, "-o", tmp_path / "work", "--patch-px", 64)):
        assert ("its patches have no label and no group" in said(*command).err) == is_said
    labels = artefacts.read_table(tmp_path / "work" / "patches" / "s1.parquet")["label"]
    assert (labels == {"": -1, "all": 1, "none": 0}[mask]).all()


def test_check_returns_measurements_and_stores_only_facts_of_slides(manifest: Path, tmp_path: Path) -> None:
    table = check_manifest(manifest, tmp_path / "work", measure=EXACT)
    row = table.iloc[0]
    assert row["shift_um"] == pytest.approx(6, abs=0.1)
    assert row["tissue_share"] == pytest.approx((SQUARES | np.roll(SQUARES, 12, axis=1)).mean(), abs=1e-3)
    assert "channel SHG is shifted by 6.0 um" in row["warnings"][0]
    stored = artefacts.read_table(tmp_path / "work" / "slides.parquet")
    assert tuple(stored.columns) == (*SLIDE_COLUMNS, SLIDE_LABEL)
    assert stored["bounds"].tolist() == ["0,0,400,300"]
    before = (tmp_path / "work" / "slides.parquet").read_bytes()
    check_manifest(manifest, tmp_path / "work")  # without looking: the same table, nothing stale
    assert (tmp_path / "work" / "slides.parquet").read_bytes() == before


def test_the_label_of_a_slide_is_a_fact_and_its_absence_makes_nothing_stale(manifest: Path, tmp_path: Path) -> None:
    check_manifest(manifest, tmp_path / "work")
    stored = artefacts.read_table(tmp_path / "work" / "slides.parquet")
    assert stored["slide_label"].tolist() == [-1]
    stamp = artefacts.read_stamp(tmp_path / "work" / "slides.parquet")
    write_slides(tmp_path / "older", stored.drop(columns="slide_label"), force=False)
    assert artefacts.read_stamp(tmp_path / "older" / "slides.parquet") == stamp
    labelled = manifest.with_name("labelled.csv")
    labelled.write_text("slide_id,patient_id,path:CARS,path:SHG,slide_label\ns1,p1,cars.tif,shg.tif,1\n")
    with pytest.raises(StaleArtefactError, match=r"s1\.slide_label was -1, is 1"):
        check_manifest(labelled, tmp_path / "work")
    check_manifest(labelled, tmp_path / "work", BatchOptions(force=True))
    assert artefacts.read_table(tmp_path / "work" / "slides.parquet")["slide_label"].tolist() == [1]


def test_pixels_that_cannot_be_used_are_a_problem_of_their_row(tmp_path: Path) -> None:
    plane = np.full((40, 40), 5, np.float32)
    plane[3, 4] = np.nan
    made.write_channel(tmp_path / "a.tif", plane)
    (tmp_path / "m.csv").write_text("slide_id,patient_id,path,background\ns1,p1,a.tif,dark\n", encoding="utf-8")
    assert len(check_manifest(tmp_path / "m.csv")) == 1
    with pytest.raises(TableError, match=r"NONFINITE: row 2.*1 in C0"):
        check_manifest(tmp_path / "m.csv", measure=TileConfig())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.geojson", b'{"type": "FeatureCollection"', "INPUT_CORRUPT.*not JSON"),
        ("t.xml", b"<svg/>", "INPUT_CORRUPT.*ASAP_Annotations"),
        ("t.png", b"no picture", "INPUT_CORRUPT.*cannot be read"),
        ("t.txt", b"x", "INPUT_UNSUPPORTED.*format '.txt'"),
    ],
)
@pytest.mark.parametrize("is_quick", [True, False])
def test_a_broken_tissue_mask_is_a_problem_of_its_column(
    tmp_path: Path, name: str, content: bytes, message: str, is_quick: bool
) -> None:
    made.write_channel(tmp_path / "a.tif", tissue())
    (tmp_path / name).write_bytes(content)
    (tmp_path / "m.csv").write_text(f"slide_id,patient_id,path,tissue_mask\ns1,p1,a.tif,{name}\n", encoding="utf-8")
    with pytest.raises(TableError, match=message) as caught:
        check_manifest(tmp_path / "m.csv", measure=None if is_quick else EXACT)
    (problem,) = caught.value.problems
    assert (problem.row, problem.column, problem.value) == (2, "tissue_mask", str(tmp_path / name))


def test_the_tissue_share_is_that_of_the_outlines_which_the_manifest_names(tmp_path: Path) -> None:
    made.write_channel(tmp_path / "a.tif", tissue())
    ring = "[[0, 0], [100, 0], [100, 300], [0, 300], [0, 0]]"
    (tmp_path / "t.geojson").write_text(
        f'{{"type": "Feature", "geometry": {{"type": "Polygon", "coordinates": [{ring}]}}}}', encoding="utf-8"
    )
    (tmp_path / "m.csv").write_text("slide_id,patient_id,path,tissue_mask\ns1,p1,a.tif,t.geojson\n", encoding="utf-8")
    row = check_manifest(tmp_path / "m.csv", measure=EXACT).iloc[0]
    assert row["tissue_share"] == 0.25
    assert np.isnan(row["tissue_threshold"])


def test_a_picture_never_replaces_the_slide(tmp_path: Path) -> None:
    slide = tmp_path / "a.png"  # a TIFF by its content
    made.write_channel(slide, tissue())
    (row,) = slides_to_predict(str(slide))
    content = slide.read_bytes()
    for picture in (slide, tmp_path / "a.tif"):
        with pytest.raises(InputUnsupportedError, match="PNG"):
            describe_row(row, TileConfig(), picture=picture)
    assert slide.read_bytes() == content


def test_info_prints_facts_and_leaves_a_picture_where_one_stands(manifest: Path, tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    command = [sys.executable, "-m", "pathopatch", "info", f"CARS={tmp_path}/cars.tif,SHG={tmp_path}/shg.tif"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, check=True)
    assert "CARS, SHG" in done.stdout
    assert "400 x 300 px" in done.stdout
    assert done.stderr.startswith(f"warning: {tmp_path.name}: channel SHG is shifted by 6.0 um")
    assert [path.name for path in here.iterdir()] == [f"{tmp_path.name}-info.png"]
    with Image.open(here / f"{tmp_path.name}-info.png") as picture:
        assert picture.info == {}
        assert picture.size[0] > 400


def labelled(folder: Path, **cells: str) -> Path:
    """A manifest of one slide of 400 x 300 px with the given cells."""
    made.write_channel(folder / "a.tif", tissue())
    path = folder / "labelled.csv"
    path.write_text(f"slide_id,patient_id,path,{','.join(cells)}\ns1,p1,a.tif,{','.join(cells.values())}\n")
    return path


def write_mask(path: Path, width: int = 40, height: int = 30) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 2, (height, width), np.uint8) * 255).save(path)


def problems_of(manifest: Path, **options: object) -> list[tuple[str, int | None, str]]:
    """Code, row and column of each problem that `check` finds."""
    with pytest.raises(TableError) as caught:
        check_manifest(manifest, **options)
    return [(problem.code, problem.row, problem.column) for problem in caught.value.problems]


@pytest.mark.parametrize("column", ["tumor_mask", "labelled_mask", "tissue_mask"])
def test_a_mask_that_tile_could_not_use_is_a_problem_of_its_column(tmp_path: Path, column: str) -> None:
    mask = tmp_path / "mask.png"
    manifest = labelled(tmp_path, **{column: mask.name})
    write_mask(mask)
    assert len(check_manifest(manifest)) == len(check_manifest(manifest, measure=EXACT)) == 1
    write_mask(mask, 30, 30)
    assert problems_of(manifest) == problems_of(manifest, measure=EXACT) == [("MODALITY_MISMATCH", 2, column)]
    write_mask(mask)
    mask.write_bytes(mask.read_bytes()[:-60])
    assert problems_of(manifest, measure=EXACT) == [("INPUT_CORRUPT", 2, column)]
    assert len(check_manifest(manifest)) == 1  # the header alone is looked at, and it is whole
    mask.write_bytes(b"nothing")
    assert problems_of(manifest) == [("INPUT_CORRUPT", 2, column)]


def test_a_large_mask_is_decoded_band_by_band_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pathopatch.patches.annotations.masks.MAX_PIXELS", 1000)
    monkeypatch.setattr(image_file, "MAX_PIXELS", 2000)
    mask = tmp_path / "mask.tif"
    pixels = np.random.default_rng(0).integers(0, 2, (96, 128), np.uint8) * 255
    tifffile.imwrite(mask, pixels, tile=(32, 32), compression="zlib")
    manifest = labelled(tmp_path, tumor_mask=mask.name)
    assert len(check_manifest(manifest, measure=EXACT)) == 1
    with tifffile.TiffFile(mask) as file:
        start, size = file.pages[0].dataoffsets[-1], file.pages[0].databytecounts[-1]
    content = bytearray(mask.read_bytes())
    content[start : start + size] = bytes(size)
    mask.write_bytes(content)
    assert problems_of(manifest, measure=EXACT) == [("INPUT_CORRUPT", 2, "tumor_mask")]


def write_outline(path: Path, *, name: str = "Tumor", x: int = 0, y: int = 0, side: int = 50) -> None:
    ring = [[x, y], [x + side, y], [x + side, y + side], [x, y]]
    feature = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"classification": {"name": name}},
    }
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))


def test_annotations_are_parsed_lie_on_the_slide_and_have_known_classes(tmp_path: Path) -> None:
    outlines = tmp_path / "a.geojson"
    manifest = labelled(tmp_path, annotations=outlines.name)
    label_config = LabelConfig(annotations=AnnotationConfig(tumor=("Tumor",)))
    write_outline(outlines)
    assert check_manifest(manifest, labels=label_config)["annotation_classes"].tolist() == ["Tumor"]
    write_outline(outlines, name="Stroma")
    assert len(check_manifest(manifest)) == 1  # nobody has said yet what the names mean
    assert problems_of(manifest, labels=label_config) == [("INPUT_UNSUPPORTED", 2, "annotations")]
    write_outline(outlines, x=4000)
    assert problems_of(manifest) == [("MODALITY_MISMATCH", 2, "annotations")]
    outlines.write_text("{")
    assert problems_of(manifest) == [("INPUT_CORRUPT", 2, "annotations")]


@pytest.mark.fault("misplaced-mask")
@pytest.mark.parametrize("kind", ["mask", "outlines"])
def test_check_and_tile_say_of_which_slides_the_tumour_lies_on_glass(tmp_path: Path, kind: str, said: Callable) -> None:
    truth, shape = np.zeros((512, 512), bool), np.zeros((64, 64), np.uint8)
    truth[32:224, 32:480] = True  # the upper half
    shape[8:24, 8:56] = 255
    lines = ["slide_id,patient_id,path," + ("tumor_mask" if kind == "mask" else "annotations")]
    for name, pixels in (("right", shape), ("turned", np.rot90(shape, 2))):
        truth[:, 400:] &= name == "right"  # two slides, not one twice
        made.write_rgb_pyramid(tmp_path / f"{name}.tif", h_and_e(truth), mpp=0.5, levels=1)
        if kind == "mask":
            Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        else:
            write_outline(tmp_path / f"{name}.geojson", x=64, y=64 if name == "right" else 320, side=64)
        lines.append(f"{name},{name},{name}.tif,{name}.{'png' if kind == 'mask' else 'geojson'}")
    if kind == "mask":  # a core that is tumour has glass as well
        made.write_rgb_pyramid(tmp_path / "core.tif", h_and_e(truth & (np.arange(512) > 99)), mpp=0.5, levels=1)
        lines.append("core,core,core.tif,all")
    (tmp_path / "cohort.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "study.toml").write_text(
        '[tile]\npatch_px = 64\nmpp = 0.5\n[tile.labels.annotations]\ntumor = ["Tumor"]\n'
    )
    checked = warned(said("check", tmp_path / "cohort.csv", "--config", tmp_path / "study.toml").err)
    tiled = said("tile", tmp_path / "cohort.csv", "-o", tmp_path / "work", "--config", tmp_path / "study.toml")
    (warning,) = warned(tiled.err)
    assert checked == [warning]
    place = "12 of 12 tumour patches (100%) hold next to no tissue, at x 64 to 448, y 320 to 448 px"
    other = "1 of 1 tumour patches (100%) hold next to no tissue, at x 64 to 128, y 320 to 384 px"
    assert warning.startswith(f"warning: turned: {place if kind == 'mask' else other}")
    assert "turned, mirrored or shifted" in read_status(tmp_path / "work", "turned")["tile"]["warnings"][0]


@pytest.mark.fault("misplaced-mask")
@pytest.mark.parametrize("column", ["tumor_mask", "labelled_mask", "tissue_mask"])
def test_a_mask_of_three_pixels_a_side_is_refused_by_check_and_tile(column: str, tmp_path: Path) -> None:
    made.write_rgb_pyramid(tmp_path / "slide.tif", made.noise(3, 1024, 1024, np.uint8), mpp=0.5, levels=1)
    write_mask(tmp_path / "mask.png", 3, 3)
    manifest = tmp_path / "cohort.csv"
    manifest.write_text(f"slide_id,patient_id,path,{column}\ns,p,slide.tif,mask.png\n")
    config = TileConfig(patch_px=128)
    assert problems_of(manifest, measure=config) == [("INPUT_UNSUPPORTED", 2, column)]
    (outcome,) = tile_cohort(manifest, tmp_path / "work", config)
    assert (outcome.state, outcome.code) == ("failed", "INPUT_UNSUPPORTED")
    assert "a mask of 3 x 3 px" in outcome.message


def test_all_problems_of_the_masks_of_a_slide_are_listed_at_once(tmp_path: Path) -> None:
    manifest = labelled(tmp_path, tumor_mask="t.png", tissue_mask="s.png")
    for name in ("t.png", "s.png"):
        write_mask(tmp_path / name, 30, 30)
    assert problems_of(manifest) == [("MODALITY_MISMATCH", 2, "tumor_mask"), ("MODALITY_MISMATCH", 2, "tissue_mask")]


def warned(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("warning")]


@pytest.mark.parametrize("background", ["", "dark"])
def test_info_warns_of_a_slide_in_the_words_of_check(tmp_path: Path, background: str, said: Callable) -> None:
    """The second channel is shifted. The third is bright: taken for dark it shows tissue where the others show none."""
    planes = [tissue(), tissue(12), 1100 - tissue()]
    paths = made.write_modalities(tmp_path, np.stack(planes), ("CARS", "SHG", "TPEF"))
    columns = ",".join(f"path:{name}" for name in paths)
    manifest = tmp_path / "m.csv"
    manifest.write_text(
        f"slide_id,patient_id,background,{columns}\n"
        f"{tmp_path.name},p,{background},{','.join(map(str, paths.values()))}\n"
    )
    checked = warned(said("check", manifest, "--quiet").err)
    source = ",".join(f"{name}={path}" for name, path in paths.items())
    options = ["--background", background] if background else []
    assert warned(said("info", source, "-o", tmp_path / "a.png", *options).err) == checked
    assert len(checked) == 1 + bool(background)


def test_check_takes_the_scale_that_tile_would_take(tmp_path: Path, typed: Callable[..., int]) -> None:
    made.write_channel(tmp_path / "a.tif", tissue(), mpp=None)
    made.write_channel(tmp_path / "b.tif", tissue()[:, ::-1], mpp=(0.25, 0.25))
    (tmp_path / "m.csv").write_text("slide_id,patient_id,path\na,p,a.tif\nb,q,b.tif\n")
    assert typed("check", tmp_path / "m.csv", "--slide-mpp", "0.5", "-o", tmp_path / "work", "--quiet") == 0
    slides = artefacts.read_table(tmp_path / "work" / "slides.parquet")
    assert dict(zip(slides["slide_id"], slides["mpp"], strict=True)) == {"a": 0.5, "b": 0.25}


def test_info_warns_of_a_missing_mpp_with_the_message_of_check(tmp_path: Path, said: Callable) -> None:
    made.write_channel(tmp_path / "a.tif", tissue(), mpp=None)
    (tmp_path / "m.csv").write_text("slide_id,patient_id,path\na,p,a.tif\n")
    words = "micrometres per pixel are unknown"
    problem = f"MPP_MISSING: row 2, column 'mpp', value '': slide a: {words}"
    assert problem in said("check", tmp_path / "m.csv", "--quiet", code=1).err
    assert f"warning: a: MPP_MISSING: {words}" in said("info", tmp_path / "a.tif", "-o", tmp_path / "a.png").err


def test_a_warning_of_600_slides_is_one_line_and_counts_once_over_stages(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tiled = [Outcome(slide_id=f"s{n}", state="current", warnings=("no tissue",)) for n in range(600)]
    predicted = [Outcome(slide_id=f"s{n}", state="done") for n in range(7)]
    failed = [Outcome(slide_id="s7", state="failed", message="NO: no file [/x/s7.tif] Remedy: look")]
    with pytest.raises(typer.Exit) as ended:
        finish([*tiled, *predicted, *failed])
    printed = capsys.readouterr()
    assert printed.err.splitlines() == [
        "failed: s7: NO: no file [/x/s7.tif] Remedy: look",
        "warning: no tissue (in 600 slides: s0, s1, s2, …)",
    ]
    assert printed.out == "slides: 592 current, 7 done, 1 failed\n"
    assert ended.value.exit_code == 3


def test_mixed_backgrounds_are_an_error_unless_in_the_manifest(tmp_path: Path) -> None:
    names = ("a", "b", "odd")
    for number, name in enumerate(names):
        plane = tissue(8 * number) if name != "odd" else 1100 - tissue()
        made.write_channel(tmp_path / f"{name}.tif", plane.astype(np.uint16), mpp=(0.5, 0.5))
    header, manifest = "slide_id,patient_id,path,background\n", tmp_path / "m.csv"
    manifest.write_text(header + "".join(f"{name},{name},{name}.tif,\n" for name in names))
    for run in (
        lambda: check_manifest(manifest),
        lambda: tile_cohort(manifest, tmp_path / "work", TileConfig(patch_px=64)),
    ):
        with pytest.raises(TableError) as caught:
            run()
        (problem,) = caught.value.problems
        assert (problem.code, problem.row, problem.column) == ("MODALITY_MISMATCH", 4, "background")
        assert "slide odd looks bright where there is no tissue, 2 others look dark" in problem.message
    manifest.write_text(header + "a,a,a.tif,\nb,b,b.tif,\nodd,odd,odd.tif,bright\n")
    assert list(check_manifest(manifest)["background"]) == ["dark", "dark", "bright"]
    states = [outcome.state for outcome in tile_cohort(manifest, tmp_path / "work", TileConfig(patch_px=64))]
    assert states == ["done", "done", "done"]

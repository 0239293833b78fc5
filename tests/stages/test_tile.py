from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from made_slides import write_channel, write_rgb_pyramid

from pathopatch.core.artefacts import read_table
from pathopatch.core.config import BatchConfig, BatchOptions, GroupsConfig, StudyConfig, TileConfig, TissueConfig
from pathopatch.core.errors import InputUnsupportedError, StaleArtefactError
from pathopatch.patches.store import PatchStore
from pathopatch.slides import open_slide, tolerant
from pathopatch.slides.manifest import SlideRow
from pathopatch.stages.batch.slide_table import open_row
from pathopatch.stages.check import check_manifest
from pathopatch.stages.find_slides import find_cohort, slides_to_predict
from pathopatch.stages.groups import form_groups
from pathopatch.stages.study import run_study
from pathopatch.stages.tile import tile_cohort


def row(path: Path, mpp: float | None = None) -> SlideRow:
    return SlideRow(row=1, slide_id="a", patient_id="a", source=str(path), mpp=mpp)


@pytest.mark.parametrize(
    ("in_file", "in_manifest", "fallback", "due", "notes"),
    [
        (0.25, 0.5, None, 0.5, ["um/px: 0.5 is stated and counts, though the file says 0.25"]),
        (0.25, None, 0.5, 0.25, ["um/px: 0.25 counts, as the file says; --slide-mpp 0.5 is not used"]),
        (None, 0.25, 0.5, 0.25, ["um/px: 0.25 counts, as the manifest says; --slide-mpp 0.5 is not used"]),
        (0.25, 0.2549, 0.2549, 0.2549, []),  # within 2 %
        (None, None, 0.5, 0.5, []),
        (None, 0.5, None, 0.5, []),
    ],
)
@pytest.mark.parametrize("channels", [("C0",), ("SHG", "CARS")])
def test_a_stated_mpp_counts_and_one_that_differs_is_named(
    tmp_path: Path,
    in_file: float | None,
    in_manifest: float | None,
    fallback: float | None,
    due: float,
    notes: list[str],
    channels: tuple[str, ...],
) -> None:
    write_channel(tmp_path / "a.tif", np.zeros((32, 32), np.uint8), mpp=in_file)
    write_channel(tmp_path / "b.tif", np.zeros((32, 32), np.uint8), mpp=0.5 if in_manifest == 0.5 else in_file)
    slide_row = row(tmp_path / "a.tif", in_manifest)
    if len(channels) > 1:  # read in another order than they are listed
        files = {"CARS": str(tmp_path / "b.tif"), "SHG": str(tmp_path / "a.tif")}
        slide_row = replace(slide_row, source=files, channel_order=channels)
    with open_row(slide_row, fallback_mpp=fallback) as slide, tolerant(slide, 0.5) as reread:
        assert (slide.channels, list(slide.notes), list(reread.notes)) == (channels, notes, notes)
        assert slide.mpp == pytest.approx(due)


@pytest.mark.parametrize(
    ("source", "due"), [("batch#3/slideA.tif", "slideA"), ("S12#1.tif", "S12_1"), ("a.tif#page=2", "a")]
)
def test_the_id_of_a_single_slide_is_its_files_stem(source: str, due: str) -> None:
    (slide_row,) = slides_to_predict(source)
    assert slide_row.slide_id == due


def test_a_manifest_takes_no_id_for_all_its_slides(tmp_path: Path) -> None:
    write_channel(tmp_path / "a.tif", np.zeros((32, 32), np.uint8))
    (tmp_path / "m.csv").write_text("slide_id,patient_id,path\na,p,a.tif\n")
    assert [slide_row.slide_id for slide_row in find_cohort([str(tmp_path / "m.csv")]).rows] == ["a"]
    with pytest.raises(InputUnsupportedError, match="'x' for several slides"):
        find_cohort([str(tmp_path / "m.csv")], slide_id="x")


def test_an_empty_tile_of_one_channel_leaves_the_others_as_they_are(tmp_path: Path) -> None:
    write_channel(tmp_path / "cars.tif", np.full((64, 128), 1000, np.uint16), tile_px=64)
    write_channel(tmp_path / "shg.tif", np.full((64, 128), 500, np.uint16), tile_px=64)
    with tifffile.TiffFile(tmp_path / "shg.tif") as tiff:
        counts = tiff.pages[0].tags["TileByteCounts"]
        place, size = counts.valueoffset, counts.dtype.name
    with (tmp_path / "shg.tif").open("r+b") as stream:
        width = {"SHORT": 2, "LONG": 4, "LONG8": 8}[size]
        stream.seek(place + width)  # the second tile was never written
        stream.write(bytes(width))
    with open_slide({"CARS": tmp_path / "cars.tif", "SHG": tmp_path / "shg.tif"}, background="dark") as slide:
        pixels = slide.read_region(0, 0, 128, 64)
        overview, _, _ = slide.read_overview()
    assert (pixels[0] == 1000).all()
    assert (pixels[1, :, :64] == 500).all()
    assert (pixels[1, :, 64:] == 0).all()
    np.testing.assert_array_equal(overview, pixels)


def test_slides_of_a_cohort_are_read_in_the_first_ones_order_of_channels(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(2000, 4000, (3, 64, 96)).astype(np.uint16)
    image[:, :, 40:] //= 40  # no tissue there
    lines = ["slide_id,patient_id,split,path,mpp,path:tpef,path:cars,path:shg"]
    for name, order, case in (("a", [0, 1, 2], str.upper), ("b", [2, 0, 1], str.lower)):
        names = [case(channel) for channel in np.array(["CARS", "TPEF", "SHG"])[order].tolist()]
        tifffile.imwrite(tmp_path / f"{name}.ome.tif", image[order], photometric="minisblack",
                         metadata={"axes": "CYX", "Channel": {"Name": names}})  # fmt: skip
        lines.append(f"{name},{name},train,{name}.ome.tif,1.0,,,")
    for number, channel in enumerate(("CARS", "TPEF", "SHG")):
        write_channel(tmp_path / f"{channel}.tif", image[number], mpp=1.0)
    lines.append("c,c,train,,1.0,TPEF.tif,CARS.tif,SHG.tif")
    (tmp_path / "m.csv").write_text("\n".join(lines) + "\n")
    config = TileConfig(patch_px=32, mpp=1.0, tissue=TissueConfig(background="dark"))
    outcomes = tile_cohort(tmp_path / "m.csv", tmp_path / "work", config)
    assert [(outcome.slide_id, outcome.state) for outcome in outcomes] == [("a", "done"), ("b", "done"), ("c", "done")]
    first, *others = (PatchStore(tmp_path / "work" / "slides" / f"{name}.zarr") for name in "abc")
    pixels = first.read(np.arange(6))
    np.testing.assert_array_equal(pixels[0], image[:, :32, :32])
    for store in others:
        assert store.attributes["channels"] == first.attributes["channels"] == ["CARS", "TPEF", "SHG"]
        np.testing.assert_array_equal(store.read(np.arange(6)), pixels)
    again = tile_cohort(tmp_path / "m.csv", tmp_path / "work", config)
    assert [outcome.state for outcome in again] == ["current"] * 3


def test_a_tiled_slide_stays_in_the_cohort_while_its_file_is_gone(tmp_path: Path) -> None:
    image = np.full((3, 64, 96), 240, np.uint8)
    image[:, 10:50, 10:70] = np.array([180, 90, 150], np.uint8)[:, None, None]
    for number, name in enumerate("ab"):
        write_rgb_pyramid(tmp_path / f"{name}.tif", np.roll(image, 3 * number, axis=2), mpp=0.5, levels=1)
    (tmp_path / "m.csv").write_text("slide_id,patient_id,path\na,p1,a.tif\nb,p2,b.tif\n")
    work, config = tmp_path / "work", TileConfig(patch_px=32)
    tile_cohort(tmp_path / "m.csv", work, config)
    before = {path: path.read_bytes() for path in (work / "slides.parquet", work / "status" / "b.json")}
    (tmp_path / "b.tif").rename(tmp_path / "away.tif")
    outcomes = tile_cohort(tmp_path / "m.csv", work, config)
    assert [(outcome.state, outcome.code) for outcome in outcomes] == [("current", ""), ("failed", "INPUT_MISSING")]
    assert {path: path.read_bytes() for path in before} == before
    assert set(form_groups(work, GroupsConfig())["slide_id"]) == {"a", "b"}


def test_a_study_follows_each_setting_of_its_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[BatchOptions] = []
    monkeypatch.setattr("pathopatch.stages.study.tile_cohort", lambda *arguments, **_: given.append(arguments[3]) or [])
    batch = BatchConfig(timeout_s=5, memory_gb=2)
    run_study(StudyConfig(manifest=tmp_path / "m.csv", work=tmp_path, batch=batch), until="tile")
    assert given == [BatchOptions(timeout_s=5, memory_gb=2)]


def test_blocks_of_a_manifest_reach_every_table_and_no_fold_divides_one(tmp_path: Path) -> None:
    rng, rows = np.random.default_rng(0), []
    for number in range(6):
        write_rgb_pyramid(tmp_path / f"{number}.tif", rng.integers(90, 230, (3, 64, 64)).astype(np.uint8), levels=1)
        rows.append(f"S{number},P{number},day {number // 2},{number}.tif,{('none', 'all')[number % 2]}\n")
    head, manifest, work = "slide_id,patient_id,block,path,tumor_mask\n", tmp_path / "m.csv", tmp_path / "work"
    manifest.write_text(head + "".join(rows))
    tile_cohort(manifest, work, TileConfig(patch_px=32))
    due = [f"day {number // 2}" for number in range(6)]
    assert read_table(work / "slides.parquet")["block"].tolist() == due
    assert check_manifest(manifest)["block"].tolist() == due
    groups = form_groups(work, GroupsConfig(thresholds=(0.5,)), folds=3)
    assert groups.drop_duplicates("slide_id")["block"].tolist() == due
    assert (groups.groupby("block")["fold"].nunique() == 1).all()
    manifest.write_text(head + "".join(rows[::-1]))  # whose order decides nothing
    tile_cohort(manifest, tmp_path / "turned", TileConfig(patch_px=32))
    turned = form_groups(tmp_path / "turned", GroupsConfig(thresholds=(0.5,)), folds=3)
    pd.testing.assert_frame_equal(turned, groups)
    manifest.write_text("slide_id,patient_id,path\nS0,P0,0.tif\n")
    tile_cohort(manifest, tmp_path / "other", TileConfig(patch_px=32))
    tables = [tmp_path / "other" / name for name in ("slides.parquet", "patches/S0.parquet")]
    assert not any("block" in read_table(table) for table in tables)  # only where it is given
    manifest.write_text("slide_id,patient_id,block,path\nS0,P0,day 9,0.tif\n")
    with pytest.raises(StaleArtefactError, match="block"):
        tile_cohort(manifest, tmp_path / "other", TileConfig(patch_px=32))

"""`pathopatch tissue`: the contact sheet, what is listed first, and outlines that are never overwritten unasked."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import tifffile
import zarr
from read_page import Page
from written_files import contents

from pathopatch.core.config import BatchOptions, EvaluateConfig, TileConfig
from pathopatch.core.errors import InputMissingError
from pathopatch.patches.picture import mask_under
from pathopatch.patches.store import PatchStore
from pathopatch.patches.store_writer import write_array
from pathopatch.report import write_contact_sheet, write_report
from pathopatch.stages.tile import import_patches, tile_cohort

CONFIG = TileConfig(patch_px=32, store="none")


def tile_slides(folder: Path, *, masks: dict[str, str] | None = None, work: str = "work", force: bool = False) -> Path:
    """Three slides of 160 x 120 px: bright with a quarter of tissue, dark with a half, and blank."""
    bright = np.full((120, 160, 3), 240, np.uint8)
    bright[30:90, 40:120] = (170, 90, 150)
    dark = np.zeros((120, 160), np.uint16)
    dark[:, 80:] = 900
    tifffile.imwrite(folder / "bright.tif", bright, photometric="rgb")
    tifffile.imwrite(folder / "dark.tif", dark)
    tifffile.imwrite(folder / "blank.tif", np.full((120, 160, 3), 240, np.uint8), photometric="rgb")
    lines = [f"{name},{name},{name}.tif,2.0,{(masks or {}).get(name, '')}" for name in ("bright", "dark", "blank")]
    text = "\n".join(["slide_id,patient_id,path,mpp,tissue_mask", *lines])
    (folder / "cohort.csv").write_text(text + "\n", encoding="utf-8")
    tile_cohort(folder / "cohort.csv", folder / work, CONFIG, BatchOptions(force=force))
    return folder / work


def doubt(work: Path, slide_id: str, **attributes: Any) -> None:
    """Write what a newer version says of a slide's tissue into its store."""
    group = zarr.open_group(work / "slides" / f"{slide_id}.zarr", mode="a")
    group.attrs["tissue"] = {**group.attrs["tissue"], **attributes}


def tissue_array(work: Path) -> Any:
    """Return the slide's mask for writing; of a store every chunk must be there, also one of zeros."""
    place = work / "slides" / "bright.zarr" / "overview" / "labels" / "tissue" / "0"
    return zarr.open_array(place, mode="a").with_config({"write_empty_chunks": True})


def mark_unscanned(work: Path, slide_id: str, mask: np.ndarray) -> None:
    labels = zarr.open_group(work / "slides" / f"{slide_id}.zarr" / "overview" / "labels", mode="a")
    write_array(labels.create_group("unscanned"), "0", mask, chunks=mask.shape, names=("y", "x"))


@pytest.fixture(scope="module")
def tiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tile_slides(tmp_path_factory.mktemp("tiled"))
    doubt(work, "bright", confidence=0.9, doubts=[], unscanned_share=0.0)
    doubt(work, "dark", confidence=0.31, doubts=["two thresholds are 12 % apart."], unscanned_share=0.25)
    mark_unscanned(work, "dark", np.pad(np.ones((60, 80), np.uint8), ((0, 60), (0, 80))))
    return work


@pytest.fixture
def work(tiled: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiled, tmp_path / "work")


def test_the_worst_slides_come_first_with_their_reasons(work: Path) -> None:
    written = write_contact_sheet(work)
    assert [slide.slide_id for slide in written.first] == ["dark", "blank"]
    assert written.first[0].reasons == ("uncertain, confidence 0.31", "two thresholds are 12 % apart")
    assert written.first[1].reasons == ("no tissue was found",)
    page = Page(written.page)
    pictures = [image["src"] for image in page.images]
    assert pictures == ["pictures/dark.jpg", "pictures/blank.jpg", "pictures/bright.jpg"]
    assert "dark: uncertain, confidence 0.31; two thresholds are 12 % apart." in page.text
    assert "25.00 % not scanned (hatched); confidence 0.31; two thresholds are 12 % apart." in page.text
    assert "bright: 25.0 % of the overview is tissue" in page.text


def test_the_page_needs_no_network_and_every_file_it_names_is_there(work: Path) -> None:
    page = Page(write_contact_sheet(work).page)
    files = [str(image["src"]) for image in page.images] + [link for link in page.links if not link.startswith("#")]
    assert len(files) == 6
    for name in files:
        assert (work / "tissue" / name).is_file()
    assert all(link[1:] in page.ids for link in page.links if link.startswith("#"))
    source = (work / "tissue" / "index.html").read_text(encoding="utf-8")
    assert re.search(r"https?:|//\w|@import|url\(", source) is None


def test_outlines_are_visible_and_unscanned_parts_are_hatched(work: Path) -> None:
    write_contact_sheet(work)
    bright, dark = (cv2.imread(str(work / "tissue" / "pictures" / f"{n}.jpg")).astype(int) for n in ("bright", "dark"))
    assert (bright[30:90, [40, 119], 1] > bright[30:90, [40, 119], 2] + 100).mean() > 0.9  # green on white
    edge = dark[5:115, 80]
    assert (edge[:, 1:].min(axis=1) > edge[:, 0] + 100).mean() > 0.9  # yellow on black
    stripes = dark[5:55, 5:75]
    assert abs(stripes.mean() - 130) < 5  # half of 95, half of 165
    assert stripes.std() > 25
    assert dark[65:115, 5:75].max() < 20  # scanned ground stays black


def test_equal_stores_give_equal_bytes(work: Path) -> None:
    write_contact_sheet(work)
    first = contents(work / "tissue")
    write_contact_sheet(work)
    assert contents(work / "tissue") == first


def test_an_outline_that_somebody_changed_is_kept_unless_forced(work: Path) -> None:
    write_contact_sheet(work)
    path = work / "tissue" / "bright.geojson"
    own = path.read_bytes()
    path.write_text('{"type": "FeatureCollection", "features": []}', encoding="utf-8")
    assert write_contact_sheet(work).kept == (path,)
    assert path.read_text(encoding="utf-8").endswith('"features": []}')
    assert write_contact_sheet(work, force=True).kept == ()
    assert path.read_bytes() == own


def test_an_outline_of_its_own_is_written_anew_when_the_tissue_is_another(work: Path) -> None:
    write_contact_sheet(work)
    store = tissue_array(work)
    store[...] = np.zeros(store.shape, np.uint8)
    assert write_contact_sheet(work).kept == ()
    assert json.loads((work / "tissue" / "bright.geojson").read_text(encoding="utf-8"))["features"] == []


def test_the_outline_of_a_slide_tiled_by_a_supplied_mask_is_left_as_it_is(work: Path) -> None:
    write_contact_sheet(work)
    content = (work / "tissue" / "bright.geojson").read_bytes()  # it may be that mask: written anew, it were stale
    doubt(work, "bright", is_supplied=True)
    store = tissue_array(work)
    store[...] = np.zeros(store.shape, np.uint8)
    write_contact_sheet(work)
    assert (work / "tissue" / "bright.geojson").read_bytes() == content


def test_a_corrected_outline_in_the_manifest_becomes_the_tissue(tmp_path: Path) -> None:
    work = tile_slides(tmp_path)
    write_contact_sheet(work)
    before = pd.read_parquet(work / "patches" / "bright.parquet")["tissue_fraction"]
    named = {"bright": "work/tissue/bright.geojson"}
    tile_slides(tmp_path, masks=named, force=True)
    after = pd.read_parquet(work / "patches" / "bright.parquet")["tissue_fraction"]
    assert abs(before - after).max() < 0.01
    whole = {"type": "Polygon", "coordinates": [[[0, 0], [160, 0], [160, 120], [0, 120], [0, 0]]]}
    feature = {"type": "Feature", "geometry": whole, "properties": {"objectType": "annotation"}}
    (work / "tissue" / "bright.geojson").write_text(json.dumps(feature), encoding="utf-8")
    tile_slides(tmp_path, masks=named, force=True)
    assert PatchStore(work / "slides" / "bright.zarr").tissue().all()
    assert pd.read_parquet(work / "patches" / "bright.parquet")["tissue_fraction"].eq(1).all()


def test_a_slide_whose_bounds_nobody_wrote_down_has_no_outline_for_qupath(work: Path) -> None:
    (work / "slides.parquet").unlink()
    page = Page(write_contact_sheet(work).page)
    assert not list((work / "tissue").glob("*.geojson"))
    assert "Outline for QuPath" not in page.text


def test_ready_patches_without_an_overview_are_named(tmp_path: Path, said: Callable) -> None:
    for label in ("tumor", "normal"):
        (tmp_path / "set" / label).mkdir(parents=True)
        for number in range(2):
            grey = 90 + number + 20 * (label == "tumor")  # no two images alike
            cv2.imwrite(str(tmp_path / "set" / label / f"{number}.png"), np.full((32, 32, 3), grey, np.uint8))
    lines = [f"{label}/{n}.png,{int(label == 'tumor')},p{n},train" for label in ("tumor", "normal") for n in range(2)]
    (tmp_path / "set" / "patches.csv").write_text("\n".join(["path,label,patient_id,split", *lines]) + "\n")
    import_patches(tmp_path / "set", tmp_path / "work", TileConfig())
    with pytest.raises(InputMissingError, match="no tiled slide has an overview: set holds ready patches"):
        write_contact_sheet(tmp_path / "work")
    work = tile_slides(tmp_path, work="both")
    shutil.copytree(tmp_path / "work" / "slides" / "set.zarr", work / "slides" / "set.zarr")
    assert "set: ready patches have no overview" in said("tissue", work, "-q").err


def test_a_folder_without_a_tiled_slide_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputMissingError, match="no slide is tiled"):
        write_contact_sheet(tmp_path / "empty")


def test_the_command_says_what_to_look_at(work: Path, said: Callable) -> None:
    printed = said("tissue", work, "--quiet")
    assert printed.out.splitlines() == [str(work / "tissue" / "index.html")]
    assert printed.err.splitlines() == [
        "look at: dark: uncertain, confidence 0.31; two thresholds are 12 % apart",
        "look at: blank: no tissue was found",
    ]


def test_the_report_lists_uncertain_slides_first_and_their_confidence(work: Path) -> None:
    page = Page(write_report(work, evaluate=EvaluateConfig(bootstrap=20)))
    assert "Look at these first. dark: uncertain, confidence 0.31; two thresholds are 12 % apart." in page.text
    assert "tissue confidence" in page.text
    assert [image["src"] for image in page.images][:3] == [f"tissue/{n}.jpg" for n in ("dark", "blank", "bright")]


def test_a_picture_pixel_is_tissue_by_more_than_half_of_the_mask_below_it() -> None:
    view = np.zeros((1, 2, 3), np.uint8)
    assert mask_under(view, np.array([[1, 1, 1, 0], [1, 0, 0, 0]], np.uint8)).tolist() == [[True, False]]

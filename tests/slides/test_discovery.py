"""Folders as people have them, and the slides that are found in them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import made_slides as made
import numpy as np
import pytest
from made_dicom import write_dicom
from made_omezarr import write_omezarr

from pathopatch.slides.discovery import Discovery, discover

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Return a function that writes files of distinct content below a folder, by their names."""
    count = 0

    def write(*names: str) -> Path:
        nonlocal count
        for name in names:
            count += 1
            path = tmp_path / "in" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            plane = np.full((20, 24), count, np.uint8)
            if name.endswith((".png", ".jpg")):
                made.write_png(path, plane[None])
            elif name.endswith((".json", ".geojson", ".xml", ".txt", ".vms", ".svs")):
                path.write_text(f"{count}")
            elif "rgb" in name:
                made.write_rgb_pyramid(path, np.stack([plane] * 3), levels=1, tile_px=16)
            else:
                made.write_channel(path, plane)
        return tmp_path / "in"

    return write


def files(found: Discovery) -> dict[str, object]:
    """The names of each slide's files by its id."""
    return {
        slide.row.slide_id: Path(source).name
        if isinstance(source := slide.row.source, str)
        else {channel: Path(path).name for channel, path in source.items()}
        for slide in found.slides
    }


def reasons(found: Discovery) -> dict[str, str]:
    return {item.path.name: item.reason for item in found.left_out}


def test_files_of_channels_are_one_slide_in_one_order(make: Make) -> None:
    found = discover([make("s1_SHG.tif", "s1_cars.tif", "b/SHG s2.ome.tif", "b/Cars s2.ome.tif", "rgb.tif")])
    assert files(found) == {
        "rgb": "rgb.tif",
        "s1": {"CARS": "s1_cars.tif", "SHG": "s1_SHG.tif"},
        "s2": {"CARS": "Cars s2.ome.tif", "SHG": "SHG s2.ome.tif"},
    }
    assert [slide.row.row for slide in found.slides] == [2, 3, 4]
    assert found.left_out == ()


def test_a_folder_may_name_the_slide_or_the_channel(make: Make) -> None:
    found = discover([make("s1/cars.tif", "s1/shg.tif", "CARS/s2.tif", "shg/s2.tif")])
    assert files(found) == {
        "s1": {"CARS": "cars.tif", "SHG": "shg.tif"},
        "s2": {"CARS": "s2.tif", "SHG": "s2.tif"},
    }


def test_the_folder_that_is_searched_names_no_channel(make: Make) -> None:
    root = make("SHG/s1.tif")
    assert files(discover([root / "SHG"])) == {"s1": "s1.tif"}
    assert files(discover([root])) == {"s1": {"SHG": "s1.tif"}}


def test_a_colour_file_named_by_a_channel_is_a_slide_of_its_own(make: Make) -> None:
    assert files(discover([make("rgb_shg.tif", "rgb_cars.tif")])) == {
        "rgb_cars": "rgb_cars.tif",
        "rgb_shg": "rgb_shg.tif",
    }


def test_a_second_file_of_one_channel_is_left_out(make: Make) -> None:
    found = discover([make("s1_SHG.tif", "s1-shg.tif")])
    assert files(found) == {"s1": {"SHG": "s1-shg.tif"}}
    assert reasons(found) == {"s1_SHG.tif": "s1-shg.tif is the SHG of s1"}


def test_slides_are_known_by_content_not_by_ending(make: Make) -> None:
    root = make("a.tif", "b.tif", "notes.txt", "c.svs")
    (root / "a.tif").rename(root / "a.data")
    (root / ".hidden.tif").write_bytes((root / "b.tif").read_bytes())
    found = discover([root])
    assert files(found) == {"a": "a.data", "b": "b.tif", "c": "c.svs"}
    assert [slide.files[0].error is not None for slide in found.slides] == [False, False, True]
    assert reasons(found) == {"notes.txt": "no reader for notes.txt"}


def test_masks_and_outlines_go_to_the_slide_of_their_name(make: Make) -> None:
    found = discover(
        [
            make("s1.tif", "s1-tumor.png", "s1_labelled.png", "s1_tissue_mask.tif", "s2.tif", "s2.geojson")
            and make("s3/images/s3.tif", "s3/masks/s3.png", "s4/slide.tif", "s4/mask.tif", "out/s5.tif", "x/s5.tif.xml")
        ]
    )
    masks = {
        slide.row.slide_id: [
            path and path.name
            for path in (
                slide.row.tumor_mask, slide.row.labelled_mask, slide.row.tissue_mask, slide.row.annotations
            )
        ]
        for slide in found.slides
    }  # fmt: skip
    assert masks == {
        "s1": ["s1-tumor.png", "s1_labelled.png", "s1_tissue_mask.tif", None],
        "s2": [None, None, None, "s2.geojson"],
        "s3": ["s3.png", None, None, None],
        "slide": ["mask.tif", None, None, None],
        "s5": [None, None, None, "s5.tif.xml"],
    }
    assert found.left_out == ()


def test_a_mask_in_a_folder_of_another_kind_is_not_paired(make: Make) -> None:
    assert list(reasons(discover([make("a/s1.tif", "b/s1_mask.png")]))) == ["s1_mask.png"]


def test_what_is_beside_a_slide_and_of_no_use_is_left_out_by_reason(make: Make) -> None:
    root = make(
        "s1.tif", "s1_mask.png", "s1_tumor.tif", "s1.geojson", "s1.jpg", "s1_label.png", "s9_mask.png", "s8.xml"
    )
    found = discover([root])
    assert files(found) == {"s1": "s1.tif"}
    assert reasons(found) == {
        "s1.jpg": "a picture of a slide by its name [s1]",
        "s1_label.png": "a picture of a slide by its name [s1]",
        "s1_tumor.tif": "s1 has s1_mask.png already",
        "s9_mask.png": "a mask by its name, and no slide has the rest of it",
        "s1.geojson": "its slide has a mask too, and a row states the tumour once [s1_mask.png]",
        "s8.xml": "no slide has its name",
    }


def test_folders_of_the_operating_system_are_passed_over(make: Make) -> None:
    found = discover([make("s1.tif", "$RECYCLE.BIN/a.tif", "System Volume Information/b.tif", "lost+found/c.tif")])
    assert (files(found), found.left_out) == ({"s1": "s1.tif"}, ())


def test_slides_named_like_masks_stay_slides(make: Make) -> None:
    assert list(files(discover([make("tumor/a.tif", "normal/b.tif", "case_tumor.tif", "one.png")]))) == [
        "case_tumor", "one", "b", "a",
    ]  # fmt: skip


def test_files_that_belong_to_one_slide_are_not_slides(make: Make) -> None:
    root = make("m.mrxs/x.txt", "m/Data0000.png", "v_0.jpg", "_w_/stack1/t.tif", "w.vsi/x.txt", "z.zarr/zarr.txt")
    for name in ("m.mrxs", "w.vsi", "z.zarr"):
        for path in (root / name).iterdir():
            path.unlink()
        (root / name).rmdir()
    (root / "m.mrxs").write_text("MIRAX")
    (root / "v.vms").write_text("[Virtual Microscope Specimen]\nImageFile=v_0.jpg\n")
    (root / "w.vsi").write_bytes(b"II*\0")
    write_omezarr(root / "z.ome.zarr", [np.zeros((1, 64, 64), np.uint8)], labels=("A",))
    found = discover([root])
    assert files(found) == {"z.ome": "z.ome.zarr"}
    assert set(reasons(found)) == {"m.mrxs", "v.vms", "w.vsi"}  # which have no pixels here
    assert "OME-TIFF" in reasons(found)["w.vsi"]


def test_dicom_files_of_one_series_are_one_slide(make: Make) -> None:
    root = make("d/x.txt")
    for number in range(4):
        write_dicom(root / "d" / f"{number}.dcm", frames="unlisted", series=f"1.2.{number // 3}")
    found = discover([root])
    assert set(reasons(found)) == {"x.txt"}
    assert files(found) == {"0": "0.dcm", "3": "3.dcm"}  # one of each series was opened


def test_links_that_lead_round_and_outputs_are_not_entered(make: Make, tmp_path: Path) -> None:
    root = make("a.tif", "out/b.tif", "work/status/x.txt", "work/heatmaps/c.tif", "status/x.txt", "heatmaps/d.tif")
    (root / "round").symlink_to(root)
    (tmp_path / "elsewhere").mkdir()
    made.write_channel(tmp_path / "elsewhere" / "e.tif", np.full((20, 20), 99, np.uint8))
    (root / "link").symlink_to(tmp_path / "elsewhere")
    found = discover([root], skipped=[root / "out"])
    assert files(found) == {"a": "a.tif", "e": "e.tif"}
    assert reasons(found)["work"] == "a work folder of pathopatch"


def test_one_content_twice_is_one_slide(make: Make) -> None:
    root = make("a.tif")
    (root / "b.tif").symlink_to("a.tif")
    (root / "c.tif").write_bytes((root / "a.tif").read_bytes())
    found = discover([root])
    assert list(files(found)) == ["a"]
    assert reasons(found) == dict.fromkeys(("b.tif", "c.tif"), "its content is that of another slide [a]")


def test_a_file_comes_before_a_link_to_it(make: Make) -> None:
    root = make("b.tif")
    (root / "a.tif").symlink_to("b.tif")
    found = discover([root])
    assert files(found) == {"b": "b.tif"}
    assert reasons(found) == {"a.tif": "its content is that of another slide [b]"}


def test_equal_names_get_ids_of_their_folders_or_endings(make: Make) -> None:
    found = discover([make("x/s1.tif", "y/S1.tif", "z/s2.tif", "z/s2.ome.tif", "z/s3.tif", "z/s3.tiff", "e\u0301.tif")])
    assert list(files(found)) == ["é", "x_s1", "y_S1", "s2.ome", "s2", "s3.tif", "s3.tiff"]


def test_patients_are_proposed_by_folders_only_where_it_is_evident(make: Make, tmp_path: Path) -> None:
    found = discover([make("p1/a.tif", "p1/b.tif", "p2/c.tif")])
    assert [slide.row.patient_id for slide in found.slides] == ["p1", "p1", "p2"]
    assert found.patients == "the folders of the slides"
    found = discover([make("d.tif")])  # not every slide has a folder
    assert [slide.row.patient_id for slide in found.slides] == ["d", "a", "b", "c"]
    assert found.patients == ""


@pytest.mark.parametrize("names", [("train/a.tif", "train/b.tif", "test/c.tif"), ("s1/a.tif", "s2/b.tif")])
def test_folders_of_splits_and_of_single_slides_are_no_patients(make: Make, names: tuple[str, ...]) -> None:
    assert discover([make(*names)]).patients == ""


def test_folders_of_many_slides_are_no_patients(make: Make) -> None:
    found = discover([make(*(f"{folder}/{number}.tif" for folder in ("east", "west") for number in range(11)))])
    assert found.patients == ""


def test_barcodes_name_patients(make: Make) -> None:
    found = discover([make("TCGA-A1-A0SB-01Z.tif", "TCGA-A1-A0SB-02Z.tif", "other.tif")])
    assert [slide.row.patient_id for slide in found.slides] == ["TCGA-A1-A0SB", "TCGA-A1-A0SB", "other"]
    assert found.patients.startswith("the names of the files; a slide")


def test_a_pattern_names_channels_slides_and_patients(make: Make) -> None:
    root = make("p1/s1_red.tif", "p1/S1_Green.tif", "p2/s2_RED.tif", "p2/s2_green.tif", "p2/s2_mask.png", "odd.tif")
    found = discover([root], pattern="{patient}/{slide}_{channel}.tif")
    assert files(found) == {
        "S1": {"Green": "S1_Green.tif", "red": "s1_red.tif"},
        "s2": {"Green": "s2_green.tif", "red": "s2_RED.tif"},
    }
    assert [slide.row.patient_id for slide in found.slides] == ["p1", "p2"]
    assert found.slides[1].row.tumor_mask is not None
    assert reasons(found) == {"odd.tif": "its name does not follow the pattern"}

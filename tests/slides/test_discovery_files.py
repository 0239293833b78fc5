"""What the names of files say of channels, masks, pictures and patients."""

from __future__ import annotations

import pytest

from pathopatch.slides.discovery_files import (
    channel_of,
    mask_role,
    patient_in,
    pattern_regex,
    set_name,
    stem_of,
)


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("a.tif", "a"),
        ("a.b.ome.tif", "a.b"),
        ("a.ome.zarr", "a"),
        ("a.geojson.gz", "a"),
        ("a.svs.geojson", "a.svs"),
        ("TCGA-1.2.svs", "TCGA-1.2"),
    ],
)
def test_a_stem_is_a_name_without_its_endings(name: str, stem: str) -> None:
    assert stem_of(f"x/{name}") == stem


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("s01_CARS", ("CARS", "s01")),
        ("cars-s01", ("CARS", "s01")),
        ("s01 Shg 20x", ("SHG", "s01 20x")),
        ("s01.tpef", ("TPEF", "s01")),
        ("s01__dapi", ("DAPI", "s01")),
        ("shg", ("SHG", "")),
        ("oscars_1", None),
        ("s01_shg2", None),
        ("s01_shg_cars", None),  # which of them it is, is not guessed
        ("shg_shg", None),
    ],
)
def test_a_channel_stands_alone_in_any_case(stem: str, expected: tuple[str, str] | None) -> None:
    assert channel_of(stem) == expected


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("s01_tumor", ("tumor_mask", "s01")),
        ("s01-Tumour_mask", ("tumor_mask", "s01")),
        ("s01_labelled", ("labelled_mask", "s01")),
        ("s01_tissue mask", ("tissue_mask", "s01")),
        ("mask", ("tumor_mask", "")),
        ("tumor_001", None),
        ("unmask", None),
    ],
)
def test_words_at_the_end_tell_a_mask(stem: str, expected: tuple[str, str] | None) -> None:
    assert mask_role(stem) == expected


@pytest.mark.parametrize(
    ("stem", "patient"),
    [
        ("TCGA-A1-A0SB-01Z-00-DX1.ABC", "TCGA-A1-A0SB"),
        ("patient_017_node_2", "patient_017"),
        ("TCGA-A1-A0SBX", None),
        ("17_patient_3", None),
        ("s01", None),
    ],
)
def test_only_known_patterns_name_a_patient(stem: str, patient: str | None) -> None:
    assert patient_in(stem) == patient


def test_a_pattern_matches_names_in_any_case() -> None:
    match = pattern_regex("{patient}/{slide}_{channel}*.tif").fullmatch("p 1/s_01_Shg_20x.TIF")
    assert match is not None
    assert match.groupdict() == {"patient": "p 1", "slide": "s_01_Shg", "channel": "20x"}
    assert pattern_regex("{slide}.tif").fullmatch("a/b.tif") is None


@pytest.mark.parametrize("pattern", ["", "{channel}.tif", "{slide}_{slide}.tif", "{slide}_{stain}.tif", "{slide}{}"])
def test_a_pattern_names_the_slide_and_known_words_once(pattern: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        pattern_regex(pattern)


@pytest.mark.parametrize(
    ("files", "name"),
    [
        ({"CARS": "x/s01_CARS.tif", "SHG": "x/s01_SHG.tif"}, "s01"),
        ({"shg": "x/SHG-s01.ome.tif", "Cars": "x/cars-s01.ome.tif"}, "s01"),
        ({"CARS": "x/s01 cars 20x.tif", "SHG": "x/s01 shg 20x.tif"}, "s01 20x"),
        ({"CARS": "x/s7/cars.tif", "SHG": "x/s7/shg.tif"}, "s7"),
        ({"CARS": "x/cars/s01.tif", "SHG": "x/shg/s01.tif"}, "s01"),
        ({"CARS": "x/s01.tif#page=0", "SHG": "x/s01.tif#page=1"}, "s01"),
        ({"CARS": "x/a.tif", "SHG": "x/b.tif"}, "a"),
    ],
)
def test_a_set_of_files_is_named_by_what_their_stems_share(files: dict[str, str], name: str) -> None:
    assert set_name(files) == name

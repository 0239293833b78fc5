"""Choose the reader of a file by its content, name sources and channels; Aperio slides equal OpenSlide's pixels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import made_slides as made
import numpy as np
import openslide
import pytest
import tifffile

from pathopatch.core.errors import (
    ChannelMismatchError,
    InputMissingError,
    InputUnsupportedError,
)
from pathopatch.slides import Slide, in_order, open_slide, parse_source
from pathopatch.slides.open import OpenSlideSlide
from pathopatch.slides.tiff import TiffSlide

CHANNELS = made.noise(3, 50, 60, np.uint16)
APERIO_WIDTH, APERIO_HEIGHT = 403, 301  # odd at the level below, too


def test_a_source_is_a_path_or_one_path_a_channel() -> None:
    assert parse_source("a b/slide.svs") == Path("a b/slide.svs")
    assert parse_source("a.tif#plane=2") == Path("a.tif#plane=2")
    assert parse_source("CARS=a,1.tif,TPEF=b.tif#page=2&plane=0,SHG=c=d.tif") == {
        "CARS": "a,1.tif",
        "TPEF": "b.tif#page=2&plane=0",
        "SHG": "c=d.tif",
    }


def test_an_existing_file_is_not_taken_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x=1.tif").touch()
    assert parse_source("x=1.tif") == Path("x=1.tif")


@pytest.mark.parametrize("text", ["CARS=a.tif,SHG=b.tif", " CARS = a.tif , SHG= b.tif ", "CARS=a.tif,  SHG =b.tif"])
def test_blanks_around_commas_and_equals_signs_do_not_count(text: str) -> None:
    assert parse_source(text) == {"CARS": "a.tif", "SHG": "b.tif"}


@pytest.mark.parametrize("text", ["SHG=a.tif,SHG=b.tif", "CARS=a.tif,cars=b.tif"])
def test_a_channel_named_twice_is_refused(text: str) -> None:
    with pytest.raises(ChannelMismatchError):
        parse_source(text)


def test_a_file_may_have_a_hash_in_its_name(tmp_path: Path) -> None:
    made.write_channel(tmp_path / "a.tif#page=7", np.full((9, 9), 3, np.uint16))
    assert (open_slide(tmp_path / "a.tif#page=7").read_region(0, 0, 9, 9) == 3).all()


def test_a_scan_of_16_bits_is_not_cut_down_to_8(tmp_path: Path) -> None:
    levels = made.write_aperio(tmp_path / "a.svs", made.noise(3, 208, 304, np.uint16))
    slide = open_slide(tmp_path / "a.svs")
    assert slide.dtype == np.uint16
    np.testing.assert_array_equal(slide.read_region(0, 0, 304, 208), levels[0])


def test_another_process_does_not_use_this_ones_handle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    levels = made.write_aperio(tmp_path / "a.svs", made.noise(3, 208, 304, np.uint8))
    slide = open_slide(tmp_path / "a.svs")
    assert isinstance(slide, OpenSlideSlide)
    slide.read_region(0, 0, 9, 9)
    first = slide._handle
    slide.read_region(5, 5, 9, 9)
    assert slide._handle is first
    monkeypatch.setattr("os.getpid", lambda: -7)  # as after a fork
    np.testing.assert_array_equal(slide.read_region(0, 0, 9, 9), levels[0][:, :9, :9])
    assert slide._handle is not first


def test_an_rgb_file_behind_a_channel_name_needs_a_plane(tmp_path: Path) -> None:
    image = made.noise(3, 208, 304, np.uint8)
    made.write_aperio(tmp_path / "a.svs", image)
    with pytest.raises(ChannelMismatchError, match=r"SHG should be one channel, the file has 3: R, G, B.*#plane="):
        open_slide({"SHG": tmp_path / "a.svs"})
    with open_slide({"SHG": f"{tmp_path / 'a.svs'}#plane=2"}) as slide:
        assert slide.channels == ("SHG",)
        assert not slide.is_rgb
        np.testing.assert_array_equal(slide.read_region(0, 0, 304, 208), image[2:])


def test_label_macro_thumbnail_and_description_are_out_of_reach(tmp_path: Path) -> None:
    image = made.noise(3, 208, 304, np.uint8)
    made.write_aperio(tmp_path / "a.svs", image)
    for slide in (open_slide(tmp_path / "a.svs"), TiffSlide(tmp_path / "a.svs")):
        assert [(level.width, level.height) for level in slide.levels] == [(304, 208), (152, 104), (76, 52)]
        assert "PATIENT-MARKER" not in repr([getattr(slide, name) for name in dir(Slide) if name[0] != "_"])
    for page in (1, 2, 3):
        with pytest.raises(InputUnsupportedError, match=f"no page {page}"):
            open_slide(f"{tmp_path / 'a.svs'}#page={page}")


@pytest.mark.parametrize("fragment", ["#plane=3", "#page=1", "#page=0&plane=9"])
def test_a_page_or_plane_that_is_not_there_is_refused(fragment: str, tmp_path: Path) -> None:
    made.write_rgb_pyramid(tmp_path / "a.tif", made.noise(3, 100, 100, np.uint8))
    with pytest.raises(InputUnsupportedError, match="there is no"):
        open_slide(f"{tmp_path / 'a.tif'}{fragment}")


def test_a_stack_that_does_not_say_what_its_pages_are_must_be_chosen_from(tmp_path: Path) -> None:
    stack = made.noise(4, 50, 60, np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack")
    with pytest.raises(InputUnsupportedError, match="#page=0 to #page=3"):
        open_slide(tmp_path / "a.tif")
    named = open_slide(tmp_path / "a.tif", channels=("A", "B", "C", "D"))
    np.testing.assert_array_equal(named.read_region(0, 0, 60, 50), stack)
    one = open_slide(f"{tmp_path / 'a.tif'}#page=3")
    np.testing.assert_array_equal(one.read_region(0, 0, 60, 50), stack[3:])


def test_named_planes_are_no_colours(tmp_path: Path) -> None:
    made.write_rgb_pyramid(tmp_path / "a.tif", made.noise(3, 100, 100, np.uint8))
    assert open_slide(tmp_path / "a.tif", channels=("CARS", "TPEF", "SHG")).is_rgb is False
    assert open_slide(tmp_path / "a.tif").is_rgb is True


def test_a_missing_file_and_an_unknown_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputMissingError, match="nowhere"):
        open_slide(tmp_path / "nowhere.tif")
    for name in ("a.nd2", "a.lif"):
        (tmp_path / name).write_text("no image")
        with pytest.raises(InputUnsupportedError, match=rf"no reader.*`bfconvert {name} a.ome.tif`.*or in QuPath"):
            open_slide(tmp_path / name)


SHADES = np.arange(256, dtype=np.uint16)


@pytest.mark.parametrize("step", [256, 257])
@pytest.mark.parametrize("colour", [(1, 1, 1), (0, 1, 0), (1, 0.5, 0)])
def test_shades_of_one_colour_are_read_as_their_index(colour: tuple[float, ...], step: int, tmp_path: Path) -> None:
    table = np.stack([np.round(SHADES * part) * step for part in colour]).astype(np.uint16)
    image = made.noise(1, 50, 60, np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", image[0], photometric="palette", colormap=table, compression="lzw")
    slide = open_slide(tmp_path / "a.tif")
    assert (slide.channels, slide.dtype) == (("C0",), np.uint8)
    np.testing.assert_array_equal(slide.read_region(0, 0, 60, 50), image)


TABLES = {
    "black": np.zeros((3, 256), np.uint16),
    "inverted": np.stack([SHADES[::-1] * 257] * 3),
    "curved": np.stack([(SHADES.astype(float) ** 2 * 257 / 255).astype(np.uint16)] * 3),
    "fire": np.stack([np.minimum(SHADES * 3, 255) * 257, SHADES * 257, SHADES // 2 * 257]),
}


@pytest.mark.parametrize("table", TABLES)
def test_any_other_table_of_colours_is_refused(table: str, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((9, 9), np.uint8), photometric="palette", colormap=TABLES[table])
    with pytest.raises(InputUnsupportedError, match="table of colours.*Image > Type > RGB Color"):
        open_slide(tmp_path / "a.tif")


@pytest.mark.parametrize("options", [{"photometric": "miniswhite"}])
def test_a_colour_space_that_would_be_misread_is_refused(options: dict[str, object], tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((32, 32), np.uint8), **options)
    with pytest.raises(InputUnsupportedError, match="photometric"):
        open_slide(tmp_path / "a.tif")


@pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.complex64, np.float16])
def test_another_sample_type_is_refused_not_cast(dtype: type[np.generic], tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((32, 32), dtype))
    with pytest.raises(InputUnsupportedError, match="convert them to one of uint8"):
        open_slide(tmp_path / "a.tif")


def pair(folder: Path, other: np.ndarray, **options: object) -> dict[str, Path]:
    """Two channels, the first 50 x 60 uint16 at 0.5 um/px."""
    made.write_channel(folder / "one.tif", np.zeros((50, 60), np.uint16))
    made.write_channel(folder / "two.tif", other, **options)  # type: ignore[arg-type]
    return {"CARS": folder / "one.tif", "SHG": folder / "two.tif"}


def test_a_modality_without_mpp_takes_that_of_the_others(tmp_path: Path) -> None:
    assert open_slide(pair(tmp_path, np.zeros((50, 60), np.uint16), mpp=None)).mpp == pytest.approx(0.5)
    assert open_slide(pair(tmp_path, np.zeros((50, 60), np.uint16), mpp=0.505)).mpp == pytest.approx(0.5)


def test_an_image_that_tifffile_opens_but_nothing_decodes_is_unsupported(tmp_path: Path) -> None:
    made.write_channel(tmp_path / "a.tif", np.zeros((32, 32), np.uint16), compression="deflate")
    made.patch_tag(tmp_path / "a.tif", 259, 52479)
    with pytest.raises(InputUnsupportedError, match="52479"):
        open_slide(tmp_path / "a.tif")


def rgba(path: Path, image: np.ndarray, kind: str | int, **options: object) -> Path:
    """An image (4, h, w) whose last sample is of a kind of extra sample."""
    mixed = np.ascontiguousarray(image.transpose(1, 2, 0))
    tifffile.imwrite(path, mixed, photometric="rgb", extrasamples=[kind], metadata=None, **options)
    return path


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_an_opaque_alpha_sample_leaves_the_colours_as_they_are(dtype: type[np.generic], tmp_path: Path) -> None:
    image = made.noise(4, 50, 60, dtype)
    image[3] = np.iinfo(dtype).max
    slide = open_slide(rgba(tmp_path / "a.tif", image, "unassalpha", tile=(32, 32)))
    assert slide.channels == (("R", "G", "B") if dtype == np.uint8 else ("C0", "C1", "C2"))
    np.testing.assert_array_equal(slide.read_region(0, 0, 60, 50), image[:3])
    np.testing.assert_array_equal(slide.read_region(32, 0, 28, 32), image[:3, :32, 32:])
    assert ["alpha" in note for note in slide.notes] == [True]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_alpha_is_opacity_and_mixes_with_the_background(dtype: type[np.generic], tmp_path: Path) -> None:
    full = np.iinfo(dtype).max
    image = np.full((4, 50, 60), full // 5, dtype)  # colours of a fifth
    image[3, :, :20], image[3, :, 20:40], image[3, :, 40:] = 0, full // 5 * 2, full
    slide = open_slide(rgba(tmp_path / "a.tif", image, "unassalpha"), background="bright")
    shown = slide.read_region(0, 0, 60, 50)
    expected = [full, round(full * (0.2 * 0.4 + 0.6)), full // 5]
    assert [np.unique(shown[:, :, x : x + 20]).tolist() for x in (0, 20, 40)] == [[value] for value in expected]


def test_colours_multiplied_by_their_alpha_are_divided_by_it(tmp_path: Path) -> None:
    image = np.full((4, 50, 60), 40, np.uint8)
    image[3] = 51  # 0.2: the colour was 200
    slide = open_slide(rgba(tmp_path / "a.tif", image, "assocalpha"), background="dark")
    pixels, opacity = slide._read_level(0, 0, 60, 50, 0)
    assert (pixels == 200).all()
    assert (opacity == 51).all()
    assert (slide.read_region(0, 0, 60, 50) == 40).all()  # on black it is what it was


def test_named_samples_are_channels_even_if_one_is_called_alpha(tmp_path: Path) -> None:
    image = made.noise(4, 50, 60, np.uint8)
    path = rgba(tmp_path / "a.tif", image, "unassalpha")
    named = open_slide(path, channels=("DAPI", "FITC", "CY3", "CY5"))
    np.testing.assert_array_equal(named.read_region(0, 0, 60, 50), image)
    assert named.notes == ()
    assert open_slide(f"{path}#plane=1").channels == ("G",)


def test_a_fourth_sample_that_nothing_explains_is_refused(tmp_path: Path) -> None:
    path = rgba(tmp_path / "a.tif", made.noise(4, 50, 60, np.uint8), "unspecified")
    with pytest.raises(InputUnsupportedError, match="4 samples a pixel.*Remedy: save it as RGB without alpha; or,"):
        open_slide(path)


def test_a_chosen_page_of_aperios_ycbcr_is_not_shown_as_rgb(tmp_path: Path) -> None:
    made.write_aperio(tmp_path / "a.svs", made.noise(3, 100, 100, np.uint8), levels=1, compression="jpeg2000")
    with tifffile.TiffFile(tmp_path / "a.svs", mode="r+") as tiff:
        tiff.pages[0].tags["Compression"].overwrite(33003)
    with pytest.raises(InputUnsupportedError, match="YCbCr.*Remedy: leave #page= out"):
        open_slide(f"{tmp_path / 'a.svs'}#page=0")


def one_file(folder: Path) -> Slide:
    path = folder / "a.ome.tif"
    tifffile.imwrite(path, CHANNELS, photometric="minisblack",
                     metadata={"axes": "CYX", "Channel": {"Name": ["CARS", "TPEF", "shg"]}})  # fmt: skip
    return open_slide(path, mpp=0.3, background="dark")


def three_files(folder: Path) -> Slide:
    paths = made.write_modalities(folder, CHANNELS, ("CARS", "TPEF", "shg"))
    return open_slide(paths, mpp=0.3, background="dark")


def one_position(folder: Path) -> Slide:
    tifffile.imwrite(folder / "a.tif", np.stack([CHANNELS // 2, CHANNELS]), imagej=True, metadata={"axes": "ZCYX"})
    return open_slide(f"{folder / 'a.tif'}#z=1", channels=("CARS", "TPEF", "shg"), mpp=0.3, background="dark")


@pytest.mark.parametrize("write", [one_file, three_files, one_position])
@pytest.mark.parametrize(
    ("names", "order"), [(("SHG", "Cars", "TPEF"), [2, 0, 1]), (("CARS", "TPEF", "SHG"), [0, 1, 2])]
)
def test_the_same_names_in_another_order_or_case_are_the_same_planes(
    write: object, names: tuple[str, ...], order: list[int], tmp_path: Path
) -> None:
    slide = write(tmp_path)  # type: ignore[operator]
    ordered = in_order(slide, names)
    assert (ordered.channels, ordered.mpp, ordered._background) == (names, 0.3, "dark")
    np.testing.assert_array_equal(ordered.read_region(0, 0, 60, 50), CHANNELS[order])
    of_file = isinstance(ordered.source, str)
    again = open_slide(ordered.source, channels=ordered.channels if of_file else None)
    assert again.channels == names
    np.testing.assert_array_equal(again.read_region(0, 0, 60, 50), CHANNELS[order])


@pytest.mark.parametrize(
    "names", [None, ("CARS", "TPEF", "shg"), ("CARS", "TPEF"), ("CARS", "TPEF", "DAPI"), ("CARS", "CARS", "SHG")]
)
def test_a_slide_of_these_names_or_of_others_stays_as_it_is(names: tuple[str, ...] | None, tmp_path: Path) -> None:
    slide = one_file(tmp_path)
    assert in_order(slide, names) is slide


def test_channels_whose_names_differ_only_in_case_are_not_reordered(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", CHANNELS[:2], imagej=True, metadata={"axes": "CYX"})
    slide = open_slide(tmp_path / "a.tif", channels=("SHG", "shg"))
    assert in_order(slide, ("shg", "SHG")) is slide


def texture() -> np.ndarray:
    """(3, APERIO_HEIGHT, APERIO_WIDTH) of smooth colour, which chroma subsampling changes without destroying it."""
    blurred = [cv2.GaussianBlur(plane, (0, 0), 3) for plane in made.noise(3, APERIO_HEIGHT, APERIO_WIDTH, np.uint8)]
    return np.stack([cv2.normalize(plane, None, 0, 255, cv2.NORM_MINMAX) for plane in blurred])


def assert_equal_to_openslide(slide: Slide, path: Path) -> None:
    with openslide.OpenSlide(path) as direct:
        assert direct.level_dimensions == tuple((level.width, level.height) for level in slide.levels)
        for index, (width, height) in enumerate(direct.level_dimensions):
            expected = np.asarray(direct.read_region((0, 0), index, (width, height)))[..., :3]
            pixels = slide.read_region(0, 0, width, height, level=index)
            np.testing.assert_array_equal(pixels, expected.transpose(2, 0, 1))
        expected = np.asarray(direct.read_region((37, 61), 0, (150, 99)))[..., :3]
        np.testing.assert_array_equal(slide.read_region(37, 61, 150, 99), expected.transpose(2, 0, 1))


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "jpeg", "subsampling": (1, 1)},
        {"compression": "jpeg", "subsampling": (2, 2), "compressionargs": {"level": 70}},
        {"compression": "jpeg", "subsampling": (2, 1)},
        {"compression": "jpeg", "compressionargs": {"level": 30, "outcolorspace": "rgb"}},
        {"compression": "APERIO_JP2000_RGB", "compressionargs": {"reversible": True}},
        {"compression": "APERIO_JP2000_RGB", "compressionargs": {"level": 60}},
    ],
    ids=["4:4:4", "4:2:0", "4:2:2", "RGB", "JPEG 2000", "JPEG 2000, lossy"],
)
def test_a_slide_that_both_decode_alike_is_decoded_directly(options: dict[str, object], tmp_path: Path) -> None:
    made.write_aperio(tmp_path / "a.svs", texture(), **options)  # type: ignore[arg-type]
    with open_slide(tmp_path / "a.svs") as slide:
        assert isinstance(slide, TiffSlide)
        assert (slide.channels, slide.mpp, slide.is_rgb) == (("R", "G", "B"), 0.5, True)
        assert_equal_to_openslide(slide, tmp_path / "a.svs")


def test_jpeg_in_ycbcr_that_is_no_jfif_is_decoded_directly(tmp_path: Path) -> None:
    path = tmp_path / "a.svs"
    made.write_aperio(path, texture(), compression="jpeg")
    path.write_bytes(path.read_bytes().replace(b"JFIF", b"none"))
    with open_slide(path) as slide:
        assert isinstance(slide, TiffSlide)
        assert_equal_to_openslide(slide, path)


def test_jpeg_2000_in_ycbcr_stays_with_openslide(tmp_path: Path) -> None:
    path = tmp_path / "a.svs"
    made.write_aperio(path, texture(), compression="APERIO_JP2000_YCBC", compressionargs={"reversible": True})
    with open_slide(path) as slide:
        assert isinstance(slide, OpenSlideSlide)
        assert_equal_to_openslide(slide, path)


def overwrite(tag: int, page: int, change: Callable[[Any], object]) -> Callable[[Path], None]:
    """Return a function that changes the value of one tag of a file."""

    def write(path: Path) -> None:
        with tifffile.TiffFile(path, mode="r+b") as tiff:
            found = tiff.pages[page].tags[tag]
            found.overwrite(change(found.value))

    return write


@pytest.mark.parametrize(
    ("options", "change"),
    [
        ({}, overwrite(325, 0, lambda counts: [*counts[:-1], 0])),
        ({}, overwrite(325, 2, lambda counts: [*counts[:-1], 0])),
        ({}, overwrite(324, 2, lambda offsets: [0, *offsets[1:]])),
        ({}, overwrite(262, 2, lambda _: 2)),
        ({"compressionargs": {"outcolorspace": "rgb"}}, overwrite(262, 0, lambda _: 6)),
        ({}, overwrite(270, 0, lambda text: text.replace("AppMag = 20|", "MPP = 0.25|"))),
        ({"extratags": [(274, "H", 1, 3, True)]}, None),
        ({"compression": "deflate"}, None),
        ({}, overwrite(254, 2, lambda _: 1)),
        ({}, overwrite(257, 2, lambda height: height // 2)),
    ],
    ids=[
        "a hole",
        "a hole below",
        "no place",
        "JFIF as RGB",
        "RGB as YCbCr",
        "two mpp",
        "turned",
        "deflate",
        "a reduced page",
        "another field",
    ],
)
def test_a_slide_that_the_two_may_take_differently_stays_with_openslide(
    options: dict[str, Any], change: Callable[[Path], object] | None, tmp_path: Path
) -> None:
    made.write_aperio(tmp_path / "a.svs", texture(), **{"compression": "jpeg", **options})
    if change is not None:
        change(tmp_path / "a.svs")
    assert isinstance(open_slide(tmp_path / "a.svs"), OpenSlideSlide)


def test_an_aperio_slide_takes_no_mpp_from_its_resolution_tags(tmp_path: Path) -> None:
    path = tmp_path / "a.svs"
    made.write_aperio(path, texture(), compression="jpeg", resolution=(20000, 20000), resolutionunit="CENTIMETER")
    content = path.read_bytes()
    path.write_bytes(content.replace(b"|MPP = 0.5", b"|XXX = 0.5"))
    with open_slide(path) as slide:
        assert not slide.has_mpp


@pytest.mark.real
def test_a_real_slide_is_decoded_directly_and_equal_throughout(real_data: Path) -> None:
    path = real_data / "wsi" / "CMU-1-Small-Region.svs"
    with open_slide(path) as slide:
        assert isinstance(slide, TiffSlide)
        assert_equal_to_openslide(slide, path)

"""TIFFs as laboratories write them: every kind of sample, layout and compression shows the array that was written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import made_slides as made
import numpy as np
import pytest
import tifffile

from pathopatch.core.errors import InputCorruptError, InputUnsupportedError
from pathopatch.slides import open_slide

WIDTH, HEIGHT = 90, 61  # odd, and no multiple of any tile


def values(dtype: str, bits: int, shape: tuple[int, ...] = (HEIGHT, WIDTH)) -> np.ndarray:
    """Noise that uses all bits, smooth enough for a predictor to do something; negative where the type allows it."""
    generator = np.random.default_rng(bits)
    ramp = np.linspace(0, 1, shape[-1]) * np.ones(shape)
    noisy = np.clip(ramp + generator.normal(0, 0.1, shape), 0, 1)
    if dtype.startswith("float"):
        return (noisy * 3000 - 900).astype(dtype)
    low = -(2 ** (bits - 1)) if dtype.startswith("int") else 0
    return (low + noisy * (2**bits - 1)).astype(dtype)


SAMPLES = {
    "uint8": ("uint8", 8, {}),
    "uint16": ("uint16", 16, {}),
    "12 bits in 16": ("uint16", 12, {}),
    "14 bits in 16": ("uint16", 14, {}),
    "10 bits packed": ("uint16", 10, {"bitspersample": 10}),
    "12 bits packed": ("uint16", 12, {"bitspersample": 12}),
    "14 bits packed": ("uint16", 14, {"bitspersample": 14}),
    "int8 with negatives": ("int8", 8, {}),
    "int16 with negatives": ("int16", 16, {}),
    "float32": ("float32", 32, {}),
    "float64": ("float64", 64, {}),
}
LAYOUTS: dict[str, dict[str, Any]] = {
    "one strip": {},
    "strips": {"rowsperstrip": 7},
    "tiles": {"tile": (32, 48)},
    "BigTIFF tiles": {"tile": (32, 48), "bigtiff": True},
    "big-endian": {"rowsperstrip": 7, "byteorder": ">"},
}
COMPRESSIONS = {
    "plain": {},
    "deflate": {"compression": "deflate"},
    "deflate, predictor": {"compression": "deflate", "predictor": True},
    "zstd, predictor": {"compression": "zstd", "predictor": True},
    "lzw": {"compression": "lzw"},
    "lzw, predictor": {"compression": "lzw", "predictor": True},
    "jpeg": {"compression": "jpeg"},
    "jpeg 2000": {"compression": "jpeg2000"},
}


def is_written(sample: str, layout: str, compression: str) -> bool:
    """Return True if such a file exists: picture codecs have no floats, packed samples need plain rows."""
    dtype, _, options = SAMPLES[sample]
    if options:
        return compression == "plain" and layout in ("one strip", "strips")
    if compression == "jpeg":
        return dtype == "uint8" and layout != "big-endian"
    if compression == "jpeg 2000":
        return dtype in ("uint8", "uint16", "int16") and layout != "big-endian"
    return True


KINDS = [
    kind
    for sample in SAMPLES
    for layout in (LAYOUTS if sample in ("uint8", "uint16") else ("strips", "tiles"))
    for compression in COMPRESSIONS
    if is_written(*(kind := (sample, layout, compression)))
]


@pytest.mark.parametrize(("sample", "layout", "compression"), KINDS)
def test_every_pixel_is_the_one_written(sample: str, layout: str, compression: str, tmp_path: Path) -> None:
    dtype, bits, options = SAMPLES[sample]
    written = values(dtype, bits)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, written, photometric="minisblack", metadata=None,
                     **options, **LAYOUTS[layout], **COMPRESSIONS[compression])  # fmt: skip
    expected = tifffile.imread(path) if compression == "jpeg" else written
    with open_slide(path) as slide:
        assert (slide.size, slide.dtype, slide.channels) == ((WIDTH, HEIGHT), np.dtype(dtype), ("C0",))
        np.testing.assert_array_equal(slide.read_region(0, 0, WIDTH, HEIGHT)[0], expected)
        np.testing.assert_array_equal(slide.read_region(41, 29, 30, 20)[0], expected[29:49, 41:71])


STACK = made.noise(12, HEIGHT, WIDTH, np.uint16).reshape(4, 3, HEIGHT, WIDTH)
WRITERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ImageJ": ("a.tif", {"imagej": True}),
    "ImageJ, one directory": ("a.tif", {"imagej": True, "truncate": True}),
    "OME": ("a.ome.tif", {"photometric": "minisblack"}),
    "OME, tiles": ("a.ome.tif", {"photometric": "minisblack", "tile": (32, 32), "compression": "deflate"}),
    "axes in JSON": ("a.tif", {"photometric": "minisblack"}),
}


def written_stack(folder: Path, writer: str, stack: np.ndarray, axes: str, **metadata: object) -> Path:
    name, options = WRITERS[writer]
    tifffile.imwrite(folder / name, stack, metadata={"axes": axes, **metadata}, **options)
    return folder / name


@pytest.mark.parametrize("writer", WRITERS)
def test_channels_of_a_stack_are_those_of_the_slide(writer: str, tmp_path: Path) -> None:
    with open_slide(written_stack(tmp_path, writer, STACK[0], "CYX")) as slide:
        assert slide.channels == ("C0", "C1", "C2")
        np.testing.assert_array_equal(slide.read_region(0, 0, WIDTH, HEIGHT), STACK[0])
    with open_slide(f"{tmp_path / WRITERS[writer][0]}#page=2") as slide:
        assert slide.channels == ("C2",)
        np.testing.assert_array_equal(slide.read_region(0, 0, WIDTH, HEIGHT), STACK[0, 2:])


@pytest.mark.parametrize("axis", ["Z", "T"])
@pytest.mark.parametrize("writer", WRITERS)
def test_one_position_of_a_further_axis_is_chosen_in_words(writer: str, axis: str, tmp_path: Path) -> None:
    path = written_stack(tmp_path, writer, STACK, f"{axis}CYX")
    remedy = rf"axes {axis}CYX, shape \(4, 3, 61, 90\).*#{axis.lower()}=0 to #{axis.lower()}=3.*#page=0 to #page=11"
    with pytest.raises(InputUnsupportedError, match=remedy):
        open_slide(path)
    for position in (0, 3):
        with open_slide(f"{path}#{axis.lower()}={position}") as slide:
            assert slide.channels == ("C0", "C1", "C2")
            np.testing.assert_array_equal(slide.read_region(0, 0, WIDTH, HEIGHT), STACK[position])
    with open_slide(f"{path}#{axis.lower()}=1&plane=2") as slide:
        np.testing.assert_array_equal(slide.read_region(0, 0, WIDTH, HEIGHT), STACK[1, 2:])
    with open_slide(f"{path}#page=10") as slide:
        np.testing.assert_array_equal(slide.read_region(0, 0, WIDTH, HEIGHT), STACK[3, 1:2])


def test_two_further_axes_need_two_choices(tmp_path: Path) -> None:
    path = written_stack(tmp_path, "OME", STACK.reshape(2, 2, 3, HEIGHT, WIDTH), "TZCYX")
    for fragment, missing in (("", "#t=0 to #t=1 and #z=0 to #z=1"), ("#z=1", "#t=0 to #t=1")):
        with pytest.raises(InputUnsupportedError, match=f"choose one with {missing};"):
            open_slide(f"{path}{fragment}")
    with open_slide(f"{path}#t=1&z=0") as slide:
        np.testing.assert_array_equal(slide.read_region(0, 0, WIDTH, HEIGHT), STACK[2])


@pytest.mark.parametrize(
    ("fragment", "message"),
    [
        ("#z=4", "no z 4.*choose 0 to 3"),
        ("#t=0", "no axis T"),
        ("#page=12", "no page 12"),
        ("#page=0&z=1", "a page is"),
    ],
)
def test_a_choice_that_is_not_there_is_refused(fragment: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputUnsupportedError, match=message):
        open_slide(f"{written_stack(tmp_path, 'OME', STACK, 'ZCYX')}{fragment}")


def test_an_axis_without_a_meaning_offers_pages_and_names(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", STACK, photometric="minisblack", metadata={"axes": "QCYX"})
    with pytest.raises(InputUnsupportedError, match=r"axes QCYX.*Remedy: choose one page with #page=0 to #page=11; or"):
        open_slide(tmp_path / "a.tif")


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("name", ["a.tif", "a.ome.tif"])
def test_channels_within_each_pixel_are_channels(name: str, count: int, tmp_path: Path) -> None:
    interleaved = values("uint16", 12, (HEIGHT, WIDTH, count))
    tifffile.imwrite(tmp_path / name, interleaved, photometric="minisblack", planarconfig="contig",
                     metadata={"axes": "YXC"})  # fmt: skip
    with open_slide(tmp_path / name) as slide:
        assert slide.channels == tuple(f"C{i}" for i in range(count))
        np.testing.assert_array_equal(slide.read_region(0, 0, WIDTH, HEIGHT), np.moveaxis(interleaved, -1, 0))


def test_an_array_with_its_channels_last_written_row_by_row_is_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", values("uint16", 12, (HEIGHT, WIDTH, 2)), metadata={"axes": "YXC"})
    with pytest.raises(
        InputUnsupportedError, match=r"axes YXC, shape \(61, 90, 2\).*Remedy: write it with the axes CYX"
    ):
        open_slide(tmp_path / "a.tif")


def test_planes_that_are_turned_differently_are_refused(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for plane, orientation in zip(STACK[0, :2], (1, 3), strict=True):
            writer.write(plane, photometric="minisblack", metadata=None, extratags=[(274, "H", 1, orientation, True)])
    with pytest.raises(InputUnsupportedError, match=r"orientations \[1, 3\]"):
        open_slide(tmp_path / "a.tif", channels=("CARS", "SHG"))


def test_ome_names_go_with_their_channels_whatever_is_chosen(tmp_path: Path) -> None:
    names = ["CARS", "TPEF", "SHG"]
    path = written_stack(tmp_path, "OME", STACK, "ZCYX", Channel={"Name": names})
    assert open_slide(f"{path}#z=2").channels == tuple(names)
    assert open_slide(f"{path}#page=7").channels == ("TPEF",)
    assert open_slide(f"{path}#z=1&plane=2").channels == ("SHG",)


@pytest.mark.parametrize("options", [{"imagej": True}, {"photometric": "minisblack"}])
def test_a_stack_with_one_directory_that_ends_early_is_refused(options: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, STACK[0], metadata={"axes": "CYX"}, truncate=True, **options)
    cut = made.write_truncated(path, 60, tmp_path / "cut.tif")
    with pytest.raises(InputCorruptError, match="truncated"):
        open_slide(cut)


def ome_images(path: Path, sizes_um: tuple[float, ...], shapes: tuple[tuple[int, ...], ...]) -> list[np.ndarray]:
    """Write images into one OME-TIFF, their channels named A, B and so on from the first image on."""
    names = iter("ABCDEF")
    images = [values("uint16", 16, shape) for shape in shapes]
    with tifffile.TiffWriter(path, ome=True) as writer:
        for image, um in zip(images, sizes_um, strict=True):
            labels = [next(names) for _ in image]
            metadata = {"axes": "CYX", "PhysicalSizeX": um, "PhysicalSizeY": um, "Channel": {"Name": labels}}
            writer.write(image, photometric="minisblack", metadata=metadata)
    return images


def test_a_page_of_the_second_ome_image_has_that_images_mpp_and_name(tmp_path: Path) -> None:
    first, second = ome_images(tmp_path / "a.ome.tif", (0.5, 4.0), ((2, HEIGHT, WIDTH), (1, 20, 30)))
    with open_slide(tmp_path / "a.ome.tif") as slide:  # the second is smaller and coarser: a macro image, say
        assert (slide.mpp, slide.channels) == (0.5, ("A", "B"))
        np.testing.assert_array_equal(slide.read_region(0, 0, WIDTH, HEIGHT), first)
    with open_slide(f"{tmp_path / 'a.ome.tif'}#page=2") as slide:
        assert (slide.mpp, slide.channels) == (4.0, ("C",))
        np.testing.assert_array_equal(slide.read_region(0, 0, 30, 20), second)


def test_the_largest_image_of_an_ome_file_is_the_slide_with_a_note(tmp_path: Path) -> None:
    label, second, _ = ome_images(tmp_path / "a.ome.tif", (4.0, 0.5, 4.0), ((1, 20, 30), (2, HEIGHT, WIDTH), (1, 9, 9)))
    with open_slide(tmp_path / "a.ome.tif") as slide:
        assert (slide.mpp, slide.channels) == (0.5, ("B", "C"))
        np.testing.assert_array_equal(slide.read_region(0, 0, WIDTH, HEIGHT), second)
        assert slide.notes == (
            "3 images in one file: the largest, 90 x 61 px, is taken for the slide, not 30 x 20 px, 9 x 9 px; "
            "#page=0 to #page=3 chooses another",
        )
        assert slide.facts.notes == slide.notes
    with open_slide(f"{tmp_path / 'a.ome.tif'}#page=0") as slide:
        assert (slide.size, slide.notes) == ((30, 20), ())
        np.testing.assert_array_equal(slide.read_region(0, 0, 30, 20), label)


@pytest.mark.parametrize(
    ("sizes_um", "shapes"),
    [((4.0, 0.5), ((1, HEIGHT, WIDTH), (1, HEIGHT, WIDTH))), ((0.5, 0.5), ((1, HEIGHT, WIDTH), (1, 50, 60)))],
    ids=["of one size", "two regions of one scale"],
)
def test_of_two_images_that_may_be_the_slide_none_is_taken(
    sizes_um: tuple[float, float], shapes: tuple[tuple[int, ...], ...], tmp_path: Path
) -> None:
    ome_images(tmp_path / "a.ome.tif", sizes_um, shapes)
    with pytest.raises(
        InputUnsupportedError, match="2 images in one file .*Remedy: choose one page with #page=0 to #p"
    ):
        open_slide(tmp_path / "a.ome.tif")


def test_a_level_of_another_sample_type_is_no_level(tmp_path: Path) -> None:
    image = values("uint16", 16, (2, HEIGHT, WIDTH))
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as writer:
        writer.write(image, subifds=1, metadata={"axes": "CYX"}, photometric="minisblack")
        writer.write((image[:, ::2, ::2] >> 8).astype(np.uint8), subfiletype=1, photometric="minisblack")
    with open_slide(tmp_path / "a.ome.tif") as slide:
        assert len(slide.levels) == 1


@pytest.mark.parametrize(
    ("labels", "channels"),
    [
        (["CARS", "TPEF", "SHG"], ("CARS", "TPEF", "SHG")),
        (["c:1/3 - CARS", "c:2/3 - TPEF", "c:3/3 - SHG"], ("CARS", "TPEF", "SHG")),
        (["DAPI\n0008,0008: ORIGINAL", "FITC", "Cy5"], ("DAPI", "FITC", "Cy5")),
        (["CARS", "CARS", "SHG"], ("C0", "C1", "C2")),
        (["c:1/3 - scan", "c:2/3 - scan", "c:3/3 - scan"], ("C0", "C1", "C2")),
        (["CARS", "", "SHG"], ("C0", "C1", "C2")),
        (["case7_cars.tif", "case7_tpef.tif", "case7_shg.tif"], ("C0", "C1", "C2")),
    ],
)
def test_imagej_labels_name_channels_unless_equal_or_file_names(
    labels: list[str], channels: tuple[str, ...], tmp_path: Path
) -> None:
    path = written_stack(tmp_path, "ImageJ", STACK[0], "CYX", Labels=labels)
    with open_slide(path) as slide:
        assert slide.channels == channels
        np.testing.assert_array_equal(slide.read_region(0, 0, WIDTH, HEIGHT), STACK[0])


def test_imagej_labels_go_with_their_slices_whatever_is_chosen(tmp_path: Path) -> None:
    labels = [f"{name}{z}" for z in range(4) for name in ("CARS", "TPEF", "SHG")]
    path = written_stack(tmp_path, "ImageJ", STACK, "ZCYX", Labels=labels)
    assert open_slide(f"{path}#z=2").channels == ("CARS2", "TPEF2", "SHG2")
    assert open_slide(f"{path}#page=10").channels == ("TPEF3",)


def write_qptiff(path: Path, image: np.ndarray, plane_xml: list[str]) -> None:
    """Planes and their halves as PerkinElmer and Akoya write them: thumbnail between the levels, macro at the end."""
    options = {"software": "PerkinElmer-QPI", "photometric": "minisblack", "metadata": None}
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for level, pixels in enumerate(made.pyramid_of(image, 2)):
            for plane, words in zip(pixels, plane_xml, strict=True):
                description = f"<PerkinElmer-QPI-ImageDescription>{words}</PerkinElmer-QPI-ImageDescription>"
                per_cm = (20_000 / 2**level,) * 2
                writer.write(plane, tile=(32, 32), description=description, resolution=per_cm,
                             resolutionunit="CENTIMETER", **options)  # fmt: skip
            if level == 0:
                writer.write(np.zeros((11, 13, 3), np.uint8), software="PerkinElmer-QPI", photometric="rgb")
        writer.write(np.zeros((15, 17, 3), np.uint8), software="PerkinElmer-QPI", photometric="rgb")


@pytest.mark.parametrize(
    ("plane_xml", "channels"),
    [
        (["<Name>DAPI</Name>", "<Name>Opal 520</Name>"], ("DAPI", "Opal 520")),
        (["<Name>DAPI</Name>", "<Name>Opal 520</Name><Biomarker>CD8</Biomarker>"], ("DAPI", "CD8")),
        (["<Name>DAPI</Name><Biomarker/>", "<Name>Cy5</Name>"], ("DAPI", "Cy5")),
        (["<Name>DAPI</Name>", "<Name>DAPI</Name>"], ("C0", "C1")),
        (["<Name>DAPI</Name>", ""], ("C0", "C1")),
        (["<Name>DAPI</Name>", "<Name>"], ("C0", "C1")),
    ],
)
def test_qptiff_channels_are_named_by_biomarker_or_fluorophore(
    plane_xml: list[str], channels: tuple[str, ...], tmp_path: Path
) -> None:
    image = made.noise(2, 64, 96, np.uint16)
    write_qptiff(tmp_path / "a.qptiff", image, plane_xml)
    with open_slide(tmp_path / "a.qptiff") as slide:
        assert (slide.channels, slide.mpp, len(slide.levels)) == (channels, 0.5, 2)
        np.testing.assert_array_equal(slide.read_region(0, 0, 96, 64), image)
    if channels != ("C0", "C1"):
        assert open_slide(f"{tmp_path / 'a.qptiff'}#plane=1").channels == channels[1:]

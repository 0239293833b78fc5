"""Real files of other people's instruments."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile

from pathopatch.core.errors import InputCorruptError, InputUnsupportedError
from pathopatch.slides import aligned, open_slide
from pathopatch.slides.registration import measure_shifts

pytestmark = pytest.mark.real


def test_an_aperio_slide_shows_one_level_and_no_label(real_data: Path) -> None:
    path = real_data / "wsi" / "CMU-1-Small-Region.svs"
    with open_slide(path) as slide, openslide.OpenSlide(path) as direct:
        assert (slide.size, len(slide.levels), slide.mpp) == ((2220, 2967), 1, 0.499)
        assert (slide.is_rgb, slide.background) == (True, "bright")
        expected = np.asarray(direct.read_region((1000, 900), 0, (300, 200)))[..., :3]
        np.testing.assert_array_equal(slide.read_region(1000, 900, 300, 200), expected.transpose(2, 0, 1))


@pytest.mark.parametrize(("name", "size", "levels"), [("idc_14082", (2800, 2350), 4), ("idc_14306", (1600, 2150), 3)])
def test_a_tiled_pyramid_equals_its_pages_at_every_level(
    name: str, size: tuple[int, int], levels: int, real_data: Path
) -> None:
    path = real_data / "wsi" / f"{name}.tif"
    with open_slide(path) as slide, tifffile.TiffFile(path) as tiff:
        assert (slide.size, slide.mpp, slide.background) == (size, pytest.approx(4.0), "bright")
        assert [level.downsample for level in slide.levels] == [2.0**i for i in range(levels)]
        for index, page in enumerate(tiff.pages):
            level = slide.levels[index]
            pixels = slide.read_region(0, 0, level.width, level.height, level=index)
            np.testing.assert_array_equal(pixels, page.asarray().transpose(2, 0, 1))


def test_two_fluorescence_scans_are_two_channels_of_one_slide(real_data: Path) -> None:
    dapi, tritc = (real_data / "wsi" / f"pair-{name}.ndpi" for name in ("dapi", "tritc"))
    with open_slide({"DAPI": f"{dapi}#plane=2", "TRITC": f"{tritc}#plane=0"}) as slide:
        assert (slide.channels, slide.size, len(slide.levels)) == (("DAPI", "TRITC"), (3968, 4864), 7)
        assert slide.mpp == pytest.approx(0.2282, abs=1e-4)
        assert slide.background == "dark"
        overview, _, _ = slide.read_overview(400)
        assert overview.shape[0] == 2
        assert overview.reshape(2, -1).max(axis=1).min() > 100
    for path, signal in ((dapi, 2), (tritc, 0)):
        with open_slide(path) as rgb:
            means = rgb.read_overview(400)[0].reshape(3, -1).mean(axis=1)
        assert int(means.argmax()) == signal
        assert np.delete(means, signal).max() < 0.1 * means[signal]


@pytest.mark.slow
def test_two_scans_of_one_field_lie_two_pixels_apart(real_data: Path) -> None:
    dapi, tritc = (real_data / "wsi" / f"pair-{name}.ndpi" for name in ("dapi", "tritc"))
    with open_slide({"DAPI": f"{dapi}#plane=2", "TRITC": f"{tritc}#plane=0"}) as slide:
        for max_px in (2048, 512):
            (shift,) = measure_shifts(slide, *slide.read_overview(max_px))
            assert shift.confidence > 4
            assert (shift.x_px, shift.y_px) == pytest.approx((0.1, 2.0), abs=0.5)
        moved = aligned(slide, ((0, 0), (-12, 7)))  # by 12 px to the right and 7 up
        (shift,) = measure_shifts(moved, *moved.read_overview(2048))
        assert (shift.x_px, shift.y_px) == pytest.approx((12.1, -5.0), abs=0.3)


def two_colour_files(one: np.ndarray, other: np.ndarray, folder: Path) -> dict[str, str]:
    """The planes of two images (3, h, w), cut to one size and written, as the channels of one slide."""
    height, width = (min(sides) for sides in zip(one.shape[1:], other.shape[1:], strict=True))
    sources = {}
    for name, image in (("one", one), ("other", other)):
        file = folder / f"{name}.tif"
        tifffile.imwrite(file, np.ascontiguousarray(image[:, :height, :width].transpose(1, 2, 0)), photometric="rgb")
        sources |= {f"{name}{plane}": f"{file}#plane={plane}" for plane in range(3)}
    return sources


@pytest.mark.slow
def test_unrelated_and_mirrored_slides_have_no_measured_shift(real_data: Path, tmp_path: Path) -> None:
    names = ("CMU-1-Small-Region.svs", "idc_14082.tif", "idc_14306.tif", "pair-dapi.ndpi", "pair-tritc.ndpi")
    images = []
    for name in names:
        with open_slide(real_data / "wsi" / name) as slide:
            images.append(slide.read_overview(700)[0])
    pairs = list(itertools.combinations(images, 2))[:-1]  # the last two scans are of one field
    pairs += [(image, mirrored) for image in images for mirrored in (image[:, ::-1], image[:, :, ::-1])]
    for one, other in pairs:
        with open_slide(two_colour_files(one, other, tmp_path), background="bright") as slide:
            for max_px in (2048, 250):
                shifts = measure_shifts(slide, *slide.read_overview(max_px))
                assert not any(shift.is_measured for shift in shifts if not shift.is_same_file)


@pytest.mark.parametrize(("field", "shift"), [("ROI1", (0.3, -12.7)), ("ROI2", (3.1, -9.4))])
def test_collagen_of_two_microscopes_is_aligned(field: str, shift: tuple[float, float], real_data: Path) -> None:
    shg, stained = (real_data / "multimodal" / f"curvealign-2B_D9_{field}-{name}.tif" for name in ("shg", "he"))
    sources = {"SHG": shg} | {name: f"{stained}#plane={plane}" for plane, name in enumerate("RGB")}
    with open_slide(sources, background="SHG=dark,R=bright,G=bright,B=bright", mpp=0.5) as slide:
        measured = measure_shifts(slide, *slide.read_overview())[0]
        assert measured.is_measured
        assert (measured.x_px, measured.y_px) == pytest.approx(shift, abs=0.5)


def test_two_modalities_share_edges_and_the_transmitted_light_does_not(real_data: Path) -> None:
    path = real_data / "multimodal" / "test-pyfibre-pl-shg-Stack.tif"
    names = ("SHG", "TPEF", "TL")
    for frame in range(3):
        with open_slide({name: f"{path}#page={i}&plane={frame}" for i, name in enumerate(names)}) as slide:
            tpef, transmitted = measure_shifts(slide, *slide.read_overview())
            assert (tpef.x_px, tpef.y_px) == pytest.approx((-0.7, 0.2), abs=0.2)
            assert tpef.confidence > 4
            assert not transmitted.is_measured


def test_three_modalities_are_pages_of_one_stack(real_data: Path) -> None:
    path = real_data / "multimodal" / "test-pyfibre-pl-shg-Stack.tif"
    with pytest.raises(InputUnsupportedError, match="#page=0 to #page=2"):
        open_slide(path)
    for page, (low, high) in enumerate(((0, 157), (0, 196), (525, 1038))):
        with open_slide(f"{path}#page={page}") as frames:
            pixels = frames.read_region(0, 0, 200, 200)
            assert (pixels.shape, pixels.dtype) == ((3, 200, 200), np.uint16)
            assert (pixels.min(), pixels.max()) == (low, high)
    names = ("SHG", "TPEF", "TL")
    with open_slide({name: f"{path}#page={i}&plane=1" for i, name in enumerate(names)}) as slide:
        assert (slide.channels, slide.has_mpp) == (names, False)
        expected = tifffile.imread(path)[:, 1]
        np.testing.assert_array_equal(slide.read_region(0, 0, 200, 200), expected)


def test_float64_and_uint8_fields_keep_their_values(real_data: Path) -> None:
    folder = real_data / "multimodal"
    with open_slide(f"{folder / 'test-pyfibre-shg-Stack.tif'}#plane=2") as shg:
        expected = tifffile.imread(folder / "test-pyfibre-shg-Stack.tif")[..., 2]
        assert shg.dtype == np.float64
        np.testing.assert_array_equal(shg.read_region(0, 0, 200, 200)[0], expected)
    for field in ("curvealign-2B_D9_ROI1", "curvealign-2B_D9_ROI2"):
        with open_slide(folder / f"{field}-shg.tif") as shg, open_slide(folder / f"{field}-he.tif") as stained:
            assert (shg.background, stained.background) == ("dark", "bright")
            assert (len(shg.channels), stained.is_rgb) == (1, True)
            assert shg.size == stained.size == (512, 512)


def test_files_that_do_not_open_or_do_not_read_say_so(real_data: Path) -> None:
    folder = real_data / "faults"
    with pytest.raises(InputCorruptError):
        open_slide(folder / "broken.svs")
    with pytest.raises(InputUnsupportedError, match="52479"):
        open_slide(folder / "unopenable.tiff")
    with open_slide(folder / "unreadable.svs") as slide:
        for _ in range(2):
            with pytest.raises(InputCorruptError, match="cannot be decoded"):
                slide.read_region(0, 0, 16, 16)
    with open_slide(folder / "small.svs") as slide:
        assert slide.read_region(0, 0, 16, 16).mean() > 200


@pytest.mark.parametrize("percent", [30, 60, 95])
@pytest.mark.parametrize("name", ["CMU-1-Small-Region.svs", "pair-dapi.ndpi", "idc_14306.tif"])
def test_a_cut_slide_is_refused(name: str, percent: int, real_data: Path, tmp_path: Path) -> None:
    content = (real_data / "wsi" / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) * percent // 100])
    with pytest.raises(InputCorruptError):
        open_slide(tmp_path / name)

"""The contract of every reader: the same pixels, coordinates and resampling for every format."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import imagecodecs
import made_slides as made
import numpy as np
import pytest
import tifffile
from made_omezarr import write_omezarr

from pathopatch.slides import Slide, open_slide
from pathopatch.slides.tiff import TiffSlide

WIDTH, HEIGHT = 299, 203  # odd, and no multiple of any tile


@dataclass(frozen=True)
class Reference:
    """An open slide and the levels (C, h, w) that it should show."""

    slide: Slide
    levels: list[np.ndarray]


def rgb_deflate(folder: Path) -> Reference:
    levels = made.write_rgb_pyramid(folder / "a.tif", made.noise(3, HEIGHT, WIDTH, np.uint8))
    return Reference(open_slide(folder / "a.tif"), levels)


def rgb_jpeg(folder: Path) -> Reference:
    image = made.noise(3, HEIGHT, WIDTH, np.uint8)
    made.write_rgb_pyramid(folder / "a.tif", image, compression="jpeg")
    with tifffile.TiffFile(folder / "a.tif") as tiff:
        levels = [np.ascontiguousarray(page.asarray().transpose(2, 0, 1)) for page in tiff.pages]
    return Reference(open_slide(folder / "a.tif"), levels)


def aperio(folder: Path) -> Reference:
    image = made.noise(3, 208, 304, np.uint8)
    levels = made.write_aperio(folder / "a.svs", image)
    return Reference(open_slide(folder / "a.svs"), levels)


def aperio_without_openslide(folder: Path) -> Reference:
    levels = made.write_aperio(folder / "a.svs", made.noise(3, HEIGHT, WIDTH, np.uint8), compression="zstd")
    return Reference(TiffSlide(folder / "a.svs"), levels)


def scanned_part(folder: Path) -> Reference:
    image = made.noise(3, 150, 190, np.uint8)
    levels = []
    for level, pixels in enumerate(made.write_scn(folder / "a.scn", image, (40, 20), (WIDTH + 1, HEIGHT + 1))):
        whole = np.full((3, (HEIGHT + 1) >> level, (WIDTH + 1) >> level), 255, np.uint8)
        y, x = 20 >> level, 40 >> level
        whole[:, y : y + pixels.shape[1], x : x + pixels.shape[2]] = pixels
        levels.append(whole)
    return Reference(open_slide(folder / "a.scn", background="bright"), levels)


def modalities(folder: Path) -> Reference:
    image = made.noise(3, HEIGHT, WIDTH, np.uint16)
    return Reference(open_slide(made.write_modalities(folder, image)), [image])


def channel(dtype: type[np.generic], **options: object) -> Callable[[Path], Reference]:
    def write(folder: Path) -> Reference:
        image = made.noise(1, HEIGHT, WIDTH, dtype)
        made.write_channel(folder / "a.tif", image[0], **options)  # type: ignore[arg-type]
        return Reference(open_slide(folder / "a.tif"), [image])

    return write


def one_plane_of_rgb(folder: Path) -> Reference:
    levels = made.write_rgb_pyramid(folder / "a.tif", made.noise(3, HEIGHT, WIDTH, np.uint8))
    return Reference(open_slide(f"{folder / 'a.tif'}#plane=1"), [level[1:2] for level in levels])


def page_of_a_stack(folder: Path) -> Reference:
    image = made.noise(4, HEIGHT, WIDTH, np.uint16)
    tifffile.imwrite(folder / "a.tif", image, photometric="minisblack", metadata={"axes": "ZYX"})
    return Reference(open_slide(f"{folder / 'a.tif'}#page=2"), [image[2:3]])


def planes_stored_apart(folder: Path) -> Reference:
    image = made.noise(3, HEIGHT, WIDTH, np.uint16)
    tifffile.imwrite(
        folder / "a.tif", image, photometric="rgb", planarconfig="separate", tile=(64, 64), compression="lzw"
    )
    return Reference(open_slide(folder / "a.tif"), [image])


def imagej_channels(folder: Path) -> Reference:
    image = made.noise(3, HEIGHT, WIDTH, np.uint16)
    tifffile.imwrite(folder / "a.tif", image, imagej=True, metadata={"axes": "CYX", "unit": "um"},
                     resolution=(2, 2))  # fmt: skip
    return Reference(open_slide(folder / "a.tif"), [image])


def ome_pyramid(folder: Path) -> Reference:
    levels = made.pyramid_of(made.noise(2, HEIGHT, WIDTH, np.uint16), 3)
    metadata = {"axes": "CYX", "PhysicalSizeX": 500.0, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.5,
                "PhysicalSizeYUnit": "µm", "Channel": {"Name": ["CARS", "SHG"]}}  # fmt: skip
    with tifffile.TiffWriter(folder / "a.ome.tif", ome=True) as writer:
        options = {"photometric": "minisblack", "tile": (64, 64), "compression": "zstd"}
        writer.write(levels[0], subifds=2, metadata=metadata, **options)
        for level in levels[1:]:
            writer.write(level, subfiletype=1, **options)
    return Reference(open_slide(folder / "a.ome.tif"), levels)


def ome_zarr(version: str, *, shards: bool = False) -> Callable[[Path], Reference]:
    def write(folder: Path) -> Reference:
        levels = made.pyramid_of(made.noise(2, HEIGHT, WIDTH, np.uint16), 3)
        labels = ("CARS", "SHG")
        path = write_omezarr(folder / "a.zarr", levels, version=version, labels=labels, shards=shards)
        return Reference(open_slide(path), levels)

    return write


def turned(orientation: int, *, levels: int = 1) -> Callable[[Path], Reference]:
    def write(folder: Path) -> Reference:
        shown = made.pyramid_of(made.noise(3, HEIGHT + 1, WIDTH + 1, np.uint8), levels)  # 300 x 204: both halve
        stored = [np.transpose(level, (0, 2, 1)) if orientation > 4 else level for level in shown]
        across, down = {1: (0, 0), 2: (1, 0), 3: (1, 1), 4: (0, 1), 5: (0, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}[
            orientation
        ]  # of the stored image, by the definition of the tag
        with tifffile.TiffWriter(folder / "a.tif") as writer:
            for level, pixels in enumerate(stored):
                mirrored = pixels[:, :: -1 if down else 1, :: -1 if across else 1].transpose(1, 2, 0)
                writer.write(np.ascontiguousarray(mirrored), photometric="rgb", tile=(64, 32), compression="deflate",
                             subfiletype=int(level > 0), resolution=(20_000 / 2**level,) * 2, metadata=None,
                             resolutionunit="CENTIMETER", extratags=[(274, "H", 1, orientation, True)])  # fmt: skip
        return Reference(open_slide(folder / "a.tif"), shown)

    return write


def czi_mosaic(channels: int, dtype: type[np.generic], names: tuple[str, ...]) -> Callable[[Path], Reference]:
    def write(folder: Path) -> Reference:
        image = made.noise(channels, HEIGHT, WIDTH, dtype)
        tiles = {(x - 70, y + 30): image[:, y : y + 80, x : x + 130] for y in (0, 80, 160) for x in (0, 130, 260)}
        made.write_czi(folder / "a.czi", tiles, names=names)
        return Reference(open_slide(folder / "a.czi"), [image])

    return write


def png(channels: int, dtype: type[np.generic]) -> Callable[[Path], Reference]:
    def write(folder: Path) -> Reference:
        image = made.noise(channels, HEIGHT, WIDTH, dtype)
        made.write_png(folder / "a.png", image)
        return Reference(open_slide(folder / "a.png", mpp=0.5), [image])

    return write


def jpeg(folder: Path) -> Reference:
    image = made.noise(3, HEIGHT, WIDTH, np.uint8)
    encoded = imagecodecs.jpeg8_encode(np.ascontiguousarray(image.transpose(1, 2, 0)))
    (folder / "a.jpg").write_bytes(encoded)
    return Reference(open_slide(folder / "a.jpg", mpp=0.5), [imagecodecs.jpeg8_decode(encoded).transpose(2, 0, 1)])


READERS = {
    "RGB pyramid": rgb_deflate,
    "RGB pyramid, JPEG": rgb_jpeg,
    "Aperio": aperio,
    "Aperio, as TIFF": aperio_without_openslide,
    "SCN with bounds": scanned_part,
    "one plane of RGB": one_plane_of_rgb,
    "three files": modalities,
    "one strip, plain": channel(np.uint16),
    "big-endian strips": channel(np.uint16, byteorder=">"),
    "many strips, deflate": channel(np.uint16, compression="deflate", rows_per_strip=7, predictor=True),
    "tiles, zstd": channel(np.uint16, tile_px=64, compression="zstd"),
    "tiles, plain": channel(np.uint8, tile_px=64),
    "int8": channel(np.int8, tile_px=32, compression="lzw"),
    "int16": channel(np.int16, tile_px=32, compression="lzw"),
    "float32": channel(np.float32, tile_px=64, compression="deflate"),
    "float64": channel(np.float64),
    "page": page_of_a_stack,
    "planar": planes_stored_apart,
    "ImageJ": imagej_channels,
    "OME": ome_pyramid,
    "mirrored": turned(2),
    "upside down, pyramid": turned(3, levels=2),
    "turned left": turned(8),
    "turned right, pyramid": turned(6, levels=2),
    "CZI, colour": czi_mosaic(3, np.uint8, ()),
    "CZI, fluorescence": czi_mosaic(2, np.uint16, ("DAPI", "FITC")),
    "CZI, float": czi_mosaic(1, np.float32, ("SHG",)),
    "PNG": png(3, np.uint8),
    "PNG, grey of 16 bits": png(1, np.uint16),
    "JPEG": jpeg,
    "OME-Zarr 0.4": ome_zarr("0.4"),
    "OME-Zarr 0.5, shards": ome_zarr("0.5", shards=True),
}


@pytest.fixture(scope="module", params=READERS)
def reference(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return READERS[request.param](tmp_path_factory.mktemp("reader"))


def test_the_pixels_are_those_of_the_file_at_every_level(reference: Reference) -> None:
    assert len(reference.slide.levels) == len(reference.levels)
    for index, expected in enumerate(reference.levels):
        level = reference.slide.levels[index]
        assert (level.height, level.width) == expected.shape[1:]
        pixels = reference.slide.read_region(0, 0, level.width, level.height, level=index)
        assert pixels.dtype == expected.dtype
        np.testing.assert_array_equal(pixels, expected)


def test_a_region_is_cut_where_its_corner_says_at_every_level(reference: Reference) -> None:
    for index, expected in enumerate(reference.levels):
        x, y = 64 >> index, 24 >> index
        pixels = reference.slide.read_region(64, 24, 33, 21, level=index)
        np.testing.assert_array_equal(pixels, expected[:, y : y + 21, x : x + 33])


def test_outside_the_slide_there_is_background(reference: Reference) -> None:
    slide, expected = reference.slide, reference.levels[0]
    pixels = slide.read_region(-3, -2, 8, 6)
    assert (pixels[:, :2] == slide.background_values[:, None, None]).all()
    assert (pixels[:, :, :3] == slide.background_values[:, None, None]).all()
    np.testing.assert_array_equal(pixels[:, 2:, 3:], expected[:, :4, :5])
    corner = slide.read_region(slide.size[0] - 5, slide.size[1] - 4, 8, 6)
    np.testing.assert_array_equal(corner[:, :4, :5], expected[:, -4:, -5:])
    assert (corner[:, 4:] == slide.background_values[:, None, None]).all()
    assert (slide.read_region(10**7, -(10**7), 4, 4) == slide.background_values[:, None, None]).all()


def test_a_pickled_slide_opens_again_with_the_same_pixels_and_facts(reference: Reference) -> None:
    again = pickle.loads(pickle.dumps(reference.slide))
    for fact in ("channels", "dtype", "levels", "has_mpp", "bounds", "paths", "background"):
        assert getattr(again, fact) == getattr(reference.slide, fact)
    np.testing.assert_array_equal(again.read_region(5, 7, 90, 80), reference.slide.read_region(5, 7, 90, 80))


def test_a_closed_slide_opens_again_when_read(reference: Reference) -> None:
    before = reference.slide.read_region(5, 7, 90, 80)
    with reference.slide as slide:
        pass
    np.testing.assert_array_equal(slide.read_region(5, 7, 90, 80), before)


def test_the_mpp_is_the_one_in_the_file(reference: Reference, request: pytest.FixtureRequest) -> None:
    if request.node.callspec.params["reference"] in ("page", "planar"):
        assert not reference.slide.has_mpp
    else:
        assert reference.slide.mpp == pytest.approx(0.5)


def test_a_patch_at_a_levels_own_downsample_is_a_plain_crop(reference: Reference) -> None:
    for index, expected in enumerate(reference.levels):
        patch = reference.slide.read_patch(32, 16, 20, downsample=2.0**index, exact_factor=1)
        x, y = 32 >> index, 16 >> index
        np.testing.assert_array_equal(patch, expected[:, y : y + 20, x : x + 20])


def test_a_whole_downsample_gives_block_means(reference: Reference) -> None:
    for index, level in enumerate(reference.levels):
        patch = reference.slide.read_patch(16, 8, 4, downsample=3.0 * 2**index, exact_factor=1)
        coarsest = max(i for i in range(len(reference.levels)) if 2**i <= 3 * 2**index)
        if coarsest > index:
            continue  # a coarser level is read: the next test
        x, y = 16 >> index, 8 >> index
        blocks = level[:, y : y + 12, x : x + 12].astype(float).reshape(-1, 4, 3, 4, 3).mean(axis=(2, 4))
        assert_close(patch, blocks)


def assert_close(pixels: np.ndarray, exact: np.ndarray) -> None:
    """Equal up to the rounding of the type."""
    assert np.abs(pixels - exact).max() <= (0.51 if pixels.dtype.kind in "iu" else 1e-3)


def weights_of(edges: np.ndarray, pixels: int) -> np.ndarray:
    """(targets, pixels): how much of each target, between its two edges, each source pixel makes."""
    edges = np.clip(edges, 0, pixels)
    starts = np.arange(pixels)
    covered = np.minimum(edges[1:, None], starts + 1) - np.maximum(edges[:-1, None], starts)
    covered = np.clip(covered, 0, 1)
    return covered / covered.sum(axis=1, keepdims=True)


def area_means(level: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Exact means between real edges, px of the level."""
    down, across = weights_of(rows, level.shape[1]), weights_of(columns, level.shape[2])
    return np.einsum("ir,crs,js->cij", down, level.astype(float), across, optimize=True)


def level_read(slide: Slide, downsample: float, exact_factor: float) -> int:
    """The finest level within the factor, or where there is none the coarsest that is fine enough."""
    fitting = [i for i, level in enumerate(slide.levels) if level.downsample <= downsample]
    near = [i for i in fitting if downsample / slide.levels[i].downsample <= exact_factor]
    return min(near) if near else max(fitting)


def test_a_real_downsample_gives_exact_area_means(reference: Reference) -> None:
    for downsample, exact_factor in product((1.37, 2.9, 3.3), (1, 1.9, 4)):
        index = level_read(reference.slide, downsample, exact_factor)
        edges = np.arange(26) * downsample / 2**index
        expected = area_means(reference.levels[index], (8 >> index) + edges, (16 >> index) + edges)
        patch = reference.slide.read_patch(16, 8, 25, downsample=downsample, exact_factor=exact_factor)
        assert_close(patch, expected)


def test_a_patch_over_the_edge_holds_means_then_background(reference: Reference) -> None:
    for downsample, exact_factor in product((1.7, 2.0, 3.3, 4.0), (1, 4)):
        require_means_then_background(reference, downsample, exact_factor)


def require_means_then_background(reference: Reference, downsample: float, exact_factor: float) -> None:
    slide = reference.slide
    index = level_read(slide, downsample, exact_factor)
    x, y = ((side - 24) // 8 * 8 for side in slide.size)
    across, down = (int((side - at) / downsample + 0.5) for side, at in zip(slide.size, (x, y), strict=True))
    edges = np.arange(33) * downsample / 2**index
    rows, columns = (y >> index) + edges[: down + 1], (x >> index) + edges[: across + 1]
    inside = [
        int((at[:-1] < side).sum()) for at, side in zip((rows, columns), reference.levels[index].shape[1:], strict=True)
    ]
    means = area_means(reference.levels[index], rows[: inside[0] + 1], columns[: inside[1] + 1])
    expected = np.pad(
        means, ((0, 0), (0, down - inside[0]), (0, across - inside[1])), mode="edge"
    )  # a level rounded down
    patch = slide.read_patch(x, y, 32, downsample=downsample, exact_factor=exact_factor)
    assert_close(patch[:, :down, :across], expected)
    assert (patch[:, down:] == slide.background_values[:, None, None]).all()
    assert (patch[:, :, across:] == slide.background_values[:, None, None]).all()


def test_a_patch_that_only_touches_the_slide_keeps_a_pixel_of_it(reference: Reference) -> None:
    x, y = (side - 1 for side in reference.slide.size)
    for downsample, exact_factor in ((3.3, 1), (4.0, 1), (4.0, 4)):
        pixel = reference.slide.read_patch(x, y, 4, downsample=downsample, exact_factor=exact_factor)[:, 0, 0]
        index = level_read(reference.slide, downsample, exact_factor)
        assert_close(pixel, reference.levels[index][:, -1, -1].astype(float))


def test_a_target_finer_than_the_slide_is_refused(reference: Reference) -> None:
    with pytest.raises(ValueError, match="coarser than the target"):
        reference.slide.read_patch(0, 0, 8, downsample=0.9)


def test_the_overview_holds_the_means_of_the_whole_slide(reference: Reference) -> None:
    slide = reference.slide
    width, height = slide.size
    for max_px in (37, 100, 299, 5000):
        overview, scale_x, scale_y = slide.read_overview(max_px)
        assert max(overview.shape[1:]) == min(max_px, max(width, height))
        assert (scale_x, scale_y) == (width / overview.shape[2], height / overview.shape[1])
        index = max(i for i in range(len(reference.levels)) if 2**i <= min(scale_x, scale_y))
        rows = np.arange(overview.shape[1] + 1) * scale_y / 2**index
        columns = np.arange(overview.shape[2] + 1) * scale_x / 2**index
        assert_close(overview, area_means(reference.levels[index], rows, columns))


def test_the_size_and_level_of_a_region_are_checked(reference: Reference) -> None:
    for arguments in ({"level": 9}, {"level": -1}):
        with pytest.raises(ValueError, match="INPUT_UNSUPPORTED"):
            reference.slide.read_region(0, 0, 4, 4, **arguments)
    with pytest.raises(ValueError, match="INPUT_UNSUPPORTED"):
        reference.slide.read_region(0, 0, 0, 4)

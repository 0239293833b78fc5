"""Area means: factors of pyramids, places of edges, bounded memory."""

from __future__ import annotations

from pathlib import Path

import made_slides as made
import numpy as np
import pytest

from pathopatch.slides import open_slide, slide
from pathopatch.slides.resample import level_for, nominal_downsample, resized, shrink, shrink_in_bands


@pytest.mark.parametrize(
    ("size", "level_size", "factor"),
    [
        ((2800, 2350), (1400, 1175), 2.0),
        ((2800, 2350), (350, 293), 8.0),  # 293.75 rows, rounded down
        ((46000, 32914), (11500, 8228), 4.0),  # 8228.5 rows
        ((100, 75), (50, 38), 2.0),  # rounded up
        ((1000, 1000), (400, 400), 2.5),  # no integer explains it
        ((7, 5), (7, 5), 1.0),
    ],
)
def test_a_dropped_odd_pixel_does_not_change_the_factor_of_a_level(
    size: tuple[int, int], level_size: tuple[int, int], factor: float
) -> None:
    assert nominal_downsample(size, level_size) == factor


def test_the_coarsest_level_that_is_fine_enough_is_read() -> None:
    levels = [1.0, 4.0, 16.0]
    downsamples = [0.99, 1, 3.99, 4.0, 4 * (1 - 1e-6), 15, 16, 100]
    assert [level_for(levels, downsample) for downsample in downsamples] == [0, 0, 0, 1, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("levels", "downsamples", "due"),
    [
        ([1.0, 2.0, 4.0, 8.0], [1, 1.9, 2, 4, 4.05, 4.2, 8, 16], [0, 0, 0, 0, 0, 1, 1, 2]),
        ([1.0, 4.0, 16.0], [4, 5, 16, 17, 64], [0, 1, 1, 2, 2]),
        ([1.0, 16.0], [8, 15, 16, 100], [0, 0, 1, 1]),  # nothing within the factor: the coarsest that is fine enough
        ([1.0], [0.99, 1, 100], [0, 0, 0]),
    ],
)
def test_the_finest_level_within_the_factor_is_read(
    levels: list[float], downsamples: list[float], due: list[int]
) -> None:
    assert [level_for(levels, downsample, exact_factor=4) for downsample in downsamples] == due


def test_a_file_with_a_pyramid_gives_the_pixels_of_one_without(tmp_path: Path) -> None:
    image = made.noise(3, 300, 300, np.uint8)
    made.write_rgb_pyramid(tmp_path / "one.tif", image, levels=1)
    made.write_rgb_pyramid(tmp_path / "many.tif", image, levels=3)
    with open_slide(tmp_path / "one.tif") as one, open_slide(tmp_path / "many.tif") as many:
        for downsample in (1.0, 1.7, 2.0, 4.0):
            expected = one.read_patch(11, 23, 40, downsample=downsample)
            np.testing.assert_array_equal(many.read_patch(11, 23, 40, downsample=downsample), expected)
        through = many.read_patch(11, 23, 40, downsample=4.0, exact_factor=1)
        assert np.abs(through.astype(int) - expected).max() > 10  # what is lost through the coarsest level


def test_at_a_levels_own_scale_no_finer_pixels_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made.write_rgb_pyramid(tmp_path / "a.tif", made.noise(3, 300, 300, np.uint8), levels=3)
    reads: list[tuple[int, int, int]] = []
    with open_slide(tmp_path / "a.tif") as many:
        plain = many._read_level

        def counted(left: int, top: int, width: int, height: int, level: int) -> object:
            reads.append((width, height, level))
            return plain(left, top, width, height, level)

        monkeypatch.setattr(many, "_read_level", counted)
        many.read_patch(11, 23, 40, downsample=1.0)
        many.read_patch(11, 23, 40, downsample=4.0)
    assert reads == [(40, 40, 0), (160, 160, 0)]


@pytest.mark.parametrize("factor", [1.01, 1.5, 2, 2.37, 3, 7.9, 49])
def test_a_painted_edge_stays_where_it_is(factor: float) -> None:
    side = 40
    source = int(np.ceil(side * factor))
    for edge in (0.3 * source, 0.77 * source):
        region = np.zeros((1, source, source), np.float32)
        region[:, :, : int(edge)] = 1  # from the left up to the edge
        small = shrink(region, side, factor)
        assert small.shape == (1, side, side)
        assert small[0, 5].sum() == pytest.approx(int(edge) / factor, abs=1e-3)  # px of the target


def test_bands_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    image = made.noise(2, 211, 157, np.uint16)
    options = {"source": image.shape, "dtype": image.dtype, "target": (43, 31), "factors": (211 / 43, 157 / 31)}
    rows_read: list[int] = []

    def read(top: int, rows: int) -> np.ndarray:
        rows_read.append(rows)
        return image[:, top : top + rows]

    whole = shrink_in_bands(read, **options)
    monkeypatch.setattr("pathopatch.slides.resample._BAND_BYTES", 2 * 157 * 2 * 12)
    rows_read.clear()
    banded = shrink_in_bands(read, **options)
    np.testing.assert_array_equal(banded, whole)
    assert max(rows_read) <= 12
    assert len(rows_read) > 10


def test_a_patch_of_a_very_coarse_target_is_read_in_bands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made.write_channel(tmp_path / "a.tif", made.noise(1, 301, 299, np.uint16)[0], tile_px=64, compression="zstd")
    with open_slide(tmp_path / "a.tif") as one_level:
        whole = one_level.read_patch(3, 5, 16, downsample=20.3)
        monkeypatch.setattr(slide, "_WHOLE_PATCH_BYTES", 1000)
        banded = one_level.read_patch(3, 5, 16, downsample=20.3)
    assert np.abs(banded.astype(int) - whole.astype(int)).max() <= 1


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int32, np.float32])
@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize(("down", "across"), [(2, 2), (3, 2), (1, 4), (16, 16)])
def test_blocks_of_whole_pixels_have_the_mean_of_theirs(dtype: type, channels: int, down: int, across: int) -> None:
    image = made.noise(channels, 211, 160, np.uint16).astype(dtype)
    interleaved = np.ascontiguousarray(image.transpose(1, 2, 0)).transpose(2, 0, 1)
    target = (-(-211 // down), 160 // across)  # the last row may be a part of a block
    exact = np.empty((channels, *target))
    for row in range(target[0]):
        block = image[:, row * down : (row + 1) * down, : target[1] * across].astype(np.float64)
        exact[:, row] = block.reshape(channels, -1, target[1], across).mean(axis=(1, 3))
    for pixels in (image, interleaved):
        shrunk = shrink_in_bands(
            lambda top, rows, pixels=pixels: pixels[:, top : top + rows],
            source=image.shape,
            dtype=image.dtype,
            target=target,
            factors=(float(down), float(across)),
        )
        assert shrunk.dtype == dtype
        off = np.abs(shrunk.astype(np.float64) - exact).max()
        assert off <= (1e-6 * np.abs(exact).max() if np.dtype(dtype).kind == "f" else 0.5 + 1e-3)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize(
    ("target", "factors"), [((6, 5), (2, 2)), ((3, 3), (4, 4)), ((1, 1), (30, 24)), ((5, 4), (2.5, 2.5))]
)
def test_shrinking_a_transposed_image_gives_the_transpose(
    target: tuple[int, int], factors: tuple[float, float], dtype: type
) -> None:
    image = made.noise(2, 11, 9, np.uint8).astype(dtype)  # of 9 columns half of the fifth pair is there, and so on

    def shrunk(pixels: np.ndarray, step: int) -> np.ndarray:
        options = {"source": pixels.shape, "dtype": pixels.dtype, "target": target[::step], "factors": factors[::step]}
        return shrink_in_bands(lambda top, rows: pixels[:, top : top + rows], **options).astype(float)

    turned = shrunk(np.ascontiguousarray(image.transpose(0, 2, 1)), -1).transpose(0, 2, 1)
    # Means that lie in the middle of two integers may be rounded to either.
    np.testing.assert_allclose(shrunk(image, 1), turned, atol=1e-3 if dtype is np.float32 else 1)


@pytest.mark.parametrize(("down", "across"), [(1.0, 1.0), (1.0, 2.0), (2.0, 2.0), (2.5, 1.25), (8.0, 4.0)])
def test_means_do_not_depend_on_how_many_rows_are_summed_at_once(
    down: float, across: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = made.noise(2, 211, 160, np.uint16)
    target = (round(211 / down), round(160 / across))
    shrunk = []
    for rows, band_bytes in ((1, 10_000), (8, 2**26), (10**6, 2**26)):
        monkeypatch.setattr("pathopatch.slides.resample._ROWS_AT_ONCE", rows)
        monkeypatch.setattr("pathopatch.slides.resample._BAND_BYTES", band_bytes)
        shrunk.append(
            shrink_in_bands(
                lambda top, n: image[:, top : top + n],
                source=image.shape,
                dtype=image.dtype,
                target=target,
                factors=(down, across),
            )  # fmt: skip
        )
    np.testing.assert_array_equal(shrunk[0], shrunk[1])
    np.testing.assert_array_equal(shrunk[1], shrunk[2])
    if (down, across) == (1.0, 1.0):
        np.testing.assert_array_equal(shrunk[0], image)


def test_int8_is_resized_to_the_values_of_int16() -> None:
    image = made.noise(2, 60, 90, np.int8)
    small = resized(image, (31, 17))
    assert (small.dtype, small.shape) == (np.int8, (2, 17, 31))
    np.testing.assert_array_equal(small, resized(image.astype(np.int16), (31, 17)))

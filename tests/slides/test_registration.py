"""Shifts between channels: measured where there are some, not invented where there are none, undone by whole pixels."""

from __future__ import annotations

import pickle
from pathlib import Path

import cv2
import made_slides as made
import numpy as np
import pytest
import tifffile

from pathopatch.core.config import RegistrationConfig, TileConfig
from pathopatch.patches.analysis import analyse_slide
from pathopatch.slides import Shift, Slide, aligned, open_slide
from pathopatch.slides.registration import measure_shifts, whole_offsets

PAD = 40


def blobs(side: int, seed: int, size: float = 6) -> np.ndarray:
    """(side, side): half of it covered by blobs with soft edges."""
    smooth = cv2.GaussianBlur(np.random.default_rng(seed).normal(size=(side, side)), (0, 0), size)
    return cv2.GaussianBlur((smooth > 0).astype(np.float64), (0, 0), 1.2)


def cut(image: np.ndarray, x: float, y: float) -> np.ndarray:
    """The middle of an image, its content moved by (x, y)."""
    moved = cv2.warpAffine(image, np.array([[1.0, 0, x], [0, 1, y]]), image.shape[::-1], flags=cv2.INTER_CUBIC)
    return moved[PAD:-PAD, PAD:-PAD]


def two_modalities(shift: tuple[float, float], side: int = 400, *, same: bool = True) -> np.ndarray:
    """(2, side, side) photon counts: the second shows what the first shows dark, and twice as much of its own."""
    generator = np.random.default_rng(3)
    shared = blobs(side + 2 * PAD, 0)
    second = shared if same else blobs(side + 2 * PAD, 7)
    other = 20 * (1 - cut(second, *shift)) + 15 * cut(blobs(side + 2 * PAD, 1, 3), 0, 0)
    return np.stack([generator.poisson(60 * cut(shared, 0, 0) + 5), generator.poisson(other.clip(0))]).astype(np.uint16)


def opened(folder: Path, image: np.ndarray, **options: str) -> Slide:
    return open_slide(made.write_modalities(folder, image, ("CARS", "SHG", "TPEF")[: len(image)]), **options)  # type: ignore[arg-type]


def shift_of(slide: Slide, max_px: int = 4096) -> Shift:
    (shift,) = measure_shifts(slide, *slide.read_overview(max_px))
    return shift


@pytest.mark.parametrize("shift", [(0, 0), (12, 0), (0.5, -0.25), (3.3, -7.6), (-20, 15)])
def test_a_shift_between_modalities_is_found_to_a_fraction_of_a_pixel(
    shift: tuple[float, float], tmp_path: Path
) -> None:
    measured = shift_of(opened(tmp_path, two_modalities(shift)))
    assert measured.is_measured
    assert (measured.x_px, measured.y_px) == pytest.approx(shift, abs=0.25)
    assert measured.channel == "SHG"


def test_a_coarse_overview_is_refined_on_the_slide_itself(tmp_path: Path) -> None:
    slide = opened(tmp_path, two_modalities((12, -5), 1500))
    for max_px in (250, 100):
        measured = shift_of(slide, max_px)
        assert (measured.x_px, measured.y_px) == pytest.approx((12, -5), abs=0.25)


def test_of_two_multi_plane_files_one_pair_is_read_at_level_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = two_modalities((12, -5), 1500)
    sources = {}
    for file, plane in zip(("one", "other"), pair, strict=True):
        tifffile.imwrite(tmp_path / f"{file}.tif", np.stack([plane, plane // 2]), photometric="minisblack",
                         metadata={"axes": "CYX"}, resolution=(1e4, 1e4), resolutionunit="CENTIMETER")  # fmt: skip
        sources |= {f"{file}{number}": f"{tmp_path / file}.tif#plane={number}" for number in (0, 1)}
    slide = open_slide(sources)
    overview = slide.read_overview(250)
    reads = []
    monkeypatch.setattr(type(slide), "read_region", lambda *place: reads.append(place) or np.zeros((4, 1024, 1024)))
    shifts = measure_shifts(slide, *overview)
    assert [shift.is_same_file for shift in shifts] == [True, False, False]
    assert len(reads) == 2  # one window has room on the slide, in each file one


@pytest.mark.parametrize("kind", ["noise", "unrelated", "constant", "black"])
def test_channels_that_share_nothing_have_no_measured_shift(kind: str, tmp_path: Path) -> None:
    image = {
        "noise": np.random.default_rng(0).poisson(10, (2, 400, 400)),
        "unrelated": two_modalities((0, 0), same=False),
        "constant": np.stack([two_modalities((0, 0))[0], np.full((400, 400), 7)]),
        "black": np.zeros((2, 400, 400)),
    }[kind].astype(np.uint16)
    measured = shift_of(opened(tmp_path, image))
    assert not measured.is_measured
    assert np.isnan(measured.distance_px)
    assert whole_offsets([measured]) == ((0, 0), (0, 0))


@pytest.mark.parametrize("share", [0.5, 0.1])
@pytest.mark.parametrize("seed", range(10))
def test_unrelated_outlines_on_dark_ground_have_no_measured_shift(seed: int, share: float, tmp_path: Path) -> None:
    generator = np.random.default_rng(seed)
    smooth = [cv2.GaussianBlur(generator.normal(size=(400, 500)), (0, 0), 20 + seed) for _ in range(2)]
    counts = [np.where(one > np.quantile(one, 1 - share), 60, 0) for one in smooth]
    image = generator.poisson(np.stack(counts)).astype(np.uint16)
    slide = opened(tmp_path, image, background="dark")
    assert not shift_of(slide).is_measured
    for align in (True, False):
        config = TileConfig(patch_px=64, mpp=0.5, registration=RegistrationConfig(align=align))
        analysis = analyse_slide(slide, config)
        assert not any(x or y for x, y in analysis.offsets)
        assert not any("shifted" in warning for warning in analysis.warnings(0.5, 2.0))


@pytest.mark.parametrize("radii", [(0.3, 0.3), (0.35, 0.35), (0.4, 0.4), (0.33, 0.34)])
def test_round_cores_are_compared_by_what_lies_within(radii: tuple[float, float], tmp_path: Path) -> None:
    generator = np.random.default_rng(round(1000 * sum(radii)))
    y, x = np.mgrid[-300:300, -300:300]
    discs = [np.hypot(x, y) < 600 * radius for radius in radii]
    textures = [cv2.GaussianBlur(generator.normal(size=(600, 600)), (0, 0), 3) for _ in radii]

    def core(disc: np.ndarray, texture: np.ndarray) -> np.ndarray:
        return generator.poisson(np.where(disc, 50 + 150 * texture, 1).clip(1)).astype(np.uint16)

    unrelated = np.stack([core(disc, texture) for disc, texture in zip(discs, textures, strict=True)])
    assert not shift_of(opened(tmp_path, unrelated, background="dark")).is_measured
    related = np.stack([core(discs[0], textures[0]), core(discs[1], np.roll(textures[0], (3, -7), (0, 1)))])
    measured = shift_of(opened(tmp_path, related, background="dark"))
    assert (measured.x_px, measured.y_px) == pytest.approx((-7, 3), abs=0.3)
    assert measured.is_measured


@pytest.mark.slow
def test_a_shift_that_level_0_does_not_show_is_not_measured(tmp_path: Path) -> None:
    coarse = cut(blobs(1500 + 2 * PAD, 0, 120), 0, 0)  # both channels share it; the fine texture of each is its own
    fine = [cv2.GaussianBlur(np.random.default_rng(seed).normal(size=coarse.shape), (0, 0), 4) for seed in (1, 2)]
    image = np.stack([5000 + 300 * coarse + 3000 * texture for texture in fine]).astype(np.uint16)
    folders = [tmp_path / name for name in ("slide", "overview")]
    for folder in folders:
        folder.mkdir()
    slide = opened(folders[0], image, background="dark")
    assert shift_of(opened(folders[1], slide.read_overview(100)[0])).is_measured
    assert not shift_of(slide, 100).is_measured


def test_the_edge_of_the_scanned_part_is_no_content(tmp_path: Path) -> None:
    scan = np.stack([*two_modalities((0, 0), same=False), np.zeros((400, 400))]).astype(np.uint8)
    made.write_scn(tmp_path / "a.scn", scan, (100, 60), (600, 600))
    planes = {name: f"{tmp_path / 'a.scn'}#plane={plane}" for plane, name in enumerate(("CARS", "SHG"))}
    with open_slide(planes, background="bright") as slide:
        assert slide.bounds == (100, 60, 400, 400)
        assert not shift_of(slide).is_measured


def test_colour_single_channels_and_tiny_fields_have_no_shift(tmp_path: Path) -> None:
    made.write_rgb_pyramid(tmp_path / "rgb.tif", made.noise(3, 100, 100, np.uint8))
    made.write_channel(tmp_path / "one.tif", made.noise(1, 100, 100, np.uint16)[0])
    for name in ("rgb.tif", "one.tif"):
        with open_slide(tmp_path / name) as slide:
            assert analyse_slide(slide, TileConfig(patch_px=32, mpp=slide.mpp)).shifts == ()
    assert not shift_of(opened(tmp_path, two_modalities((0, 0), 20))).is_measured


@pytest.mark.parametrize("background", ["dark", "bright"])
def test_aligned_channels_are_moved_and_filled_with_background(background: str, tmp_path: Path) -> None:
    image = made.noise(3, 90, 120, np.uint16)
    slide = aligned(opened(tmp_path, image, background=background), ((0, 0), (12, -5), (-3, 130)))
    fill = 0 if background == "dark" else 65535
    expected = np.full(image.shape, fill, np.uint16)
    expected[0] = image[0]
    expected[1, 5:, :-12] = image[1, :-5, 12:]
    for opened_slide in (slide, pickle.loads(pickle.dumps(slide))):
        np.testing.assert_array_equal(opened_slide.read_region(0, 0, 120, 90), expected)
        np.testing.assert_array_equal(opened_slide.read_region(100, 2, 20, 9), expected[:, 2:11, 100:])
        np.testing.assert_array_equal(opened_slide.read_overview()[0], expected)
    assert (slide.channels, slide.size, slide.mpp) == (("CARS", "SHG", "TPEF"), (120, 90), 0.5)
    assert (slide.read_region(-9, -9, 8, 8) == fill).all()


def test_at_a_coarser_level_the_offset_is_that_of_the_level(tmp_path: Path) -> None:
    levels = made.pyramid_of(made.noise(2, 96, 128, np.uint16), 2)
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as writer:
        writer.write(levels[0], subifds=1, tile=(64, 64), metadata={"axes": "CYX"}, photometric="minisblack")
        writer.write(levels[1], subfiletype=1, tile=(64, 64), photometric="minisblack")
    slide = aligned(open_slide(tmp_path / "a.ome.tif", background="dark"), ((0, 0), (8, 6)))
    pixels = slide.read_region(0, 0, 64, 48, level=1)
    np.testing.assert_array_equal(pixels[0], levels[1][0])
    np.testing.assert_array_equal(pixels[1, :-3, :-4], levels[1][1, 3:, 4:])
    assert not pixels[1, -3:].any()


def test_aligning_what_was_measured_leaves_no_shift(tmp_path: Path) -> None:
    slide = opened(tmp_path, two_modalities((12, -5)))
    offsets = whole_offsets([shift_of(slide)])
    assert offsets == ((0, 0), (12, -5))
    left = shift_of(aligned(slide, offsets))
    assert left.distance_px < 0.25
    assert aligned(slide, ((0, 0), (0, 0))) is slide

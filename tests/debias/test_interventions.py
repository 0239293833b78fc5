"""Composed patches have the target area to a pixel, the label of their base, and nothing else that tells the class."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import cv2
import numpy as np
import pytest
from scipy import ndimage
from scipy.stats import ks_2samp

from pathopatch.core.errors import GroupEmptyError, InputUnsupportedError, NonFiniteError, NoTissueError
from pathopatch.debias.inpainting import inpaint
from pathopatch.debias.interventions import Composition, CompositionPlan, Patch, compose, intervention_share, plan
from pathopatch.debias.layers import Layer, cut_tissue, mirror, move_to_free, shared_tissue

GLASS, NOISE = 0.9, 0.01
TUMOR_VALUE = 0.05  # darker than all other tissue
every_growth = pytest.mark.parametrize("growth", ["many", "own"])


def made_mask(rng: np.random.Generator, side: int, area: float) -> np.ndarray:
    """Smooth blobs that cover a share of the patch."""
    noise = ndimage.gaussian_filter(rng.normal(size=(side, side)), side / 12, mode="reflect")
    return (noise >= np.quantile(noise, 1 - area)) & (area > 0)


def made_patch(
    seed: int, area: float = 0.5, *, label: int = 0, side: int = 32, channels: int = 3, tumor_area: float | None = None
) -> Patch:
    """Tissue of 0.3 to 0.6 on glass of 0.9; tumour is marked by its value where a part of the tissue is tumour."""
    rng = np.random.default_rng([seed, label])
    tissue = made_mask(rng, side, area)
    pixels = rng.normal(GLASS, NOISE, (channels, side, side))
    pixels[:, tissue] = rng.uniform(0.3, 0.6, (channels, int(tissue.sum())))
    tumor = None
    if tumor_area is not None:
        tumor = tissue & made_mask(rng, side, tumor_area)
        pixels[:, tumor] = TUMOR_VALUE
    return Patch(pixels=pixels.astype(np.float32), tissue=tissue, label=label, tumor=tumor)


def made_plan(target: float, keep: float = 0.1, *, rim_px: float = 1.2, pieces: int = 16) -> CompositionPlan:
    """A plan with pieces of 0.06 of the patch; a single one is as large as needed."""
    return CompositionPlan(target=target, keep=keep, pieces=(0.06,) * pieces, rim_px=rim_px)


def composed(
    base: Patch, donors: list[Patch], drawn: CompositionPlan, seed: int = 0, **settings: object
) -> Composition:
    return compose(base, donors, drawn, rng=np.random.default_rng(seed), **settings)


SLIDE = np.random.default_rng(1).normal([[0.8], [0.7], [0.6]], 0.01, (3, 500))  # ground of a slide
DONORS = [made_patch(100 + i, 0.6) for i in range(6)]


@every_growth
@pytest.mark.parametrize("side", [16, 33, 48])
def test_the_area_cut_then_measured_is_the_target_to_a_pixel(growth: str, side: int) -> None:
    donors = [made_patch(100 + i, 0.7, side=side) for i in range(4)]
    for seed, target in enumerate([0.05, 0.113, 0.3, 0.51, 0.77, 0.95, 1.0] * 2):
        base = made_patch(seed, 0.2 + 0.05 * seed, side=side)
        made = composed(base, donors, made_plan(target, keep=target * 0.6), seed, growth=growth)
        assert int(made.tissue.sum()) == round(target * side**2) == sum(made.piece_px)
        assert made.is_on_target
        assert (made.pixels.shape, made.pixels.dtype) == (base.pixels.shape, np.float32)


def test_a_cut_has_the_wanted_count_and_covers_exactly_its_pixels_by_half() -> None:
    for seed in range(200):
        rng = np.random.default_rng(seed)
        tissue = made_mask(rng, 24, rng.uniform(0.1, 1))
        count = int(rng.integers(1, tissue.sum() + 1))
        cut = cut_tissue(tissue, count, (12, 12), rng.uniform(0.8, 2), rng)
        assert int(cut.inside.sum()) == count
        assert not (cut.inside & ~tissue).any()
        np.testing.assert_array_equal((cut.cover > 0.5) & tissue, cut.inside)


def test_donors_without_enough_tissue_leave_the_area_short_and_say_so() -> None:
    base, empty = made_patch(0, 0.4), made_patch(1, 0.0)
    for donors in ([], [empty]):
        made = composed(base, donors, made_plan(0.8, keep=0.2))
        assert not made.is_on_target
        assert int(made.tissue.sum()) == round(0.2 * 32**2)
    made = composed(base, [empty, made_patch(2, 0.6)], made_plan(0.5))
    assert made.is_on_target  # a donor without tissue is skipped


@every_growth
@pytest.mark.parametrize(("labels", "least_px"), [("presence", 40), ("presence", 16), ("share", 40)])
def test_a_tumour_patch_keeps_its_tumour_inside(growth: str, labels: str, least_px: int) -> None:
    for seed in range(25):
        base = made_patch(seed, 0.8, label=1, tumor_area=0.15)
        assert base.tumor is not None
        made = composed(
            base, [made_patch(200, 0.7, label=1, tumor_area=0.0)], made_plan(0.5, keep=0.05), seed,
            growth=growth, labels=labels, least_tumor_px=least_px,
        )  # fmt: skip
        kept = made.tumor & base.tumor & np.isclose(made.pixels[0], TUMOR_VALUE, atol=0.15)
        assert kept.sum() >= 0.5 * min(least_px, base.tumor.sum())  # the others fade at the rim
        assert made.tumor.sum() >= min(least_px, base.tumor.sum())
        assert made.is_on_target


def test_share_keeps_all_tumour_unless_told_how_much_the_label_needs() -> None:
    base = made_patch(3, 0.8, label=1, tumor_area=0.3)
    donors = [made_patch(9, 0.8, label=1, tumor_area=0.1)]
    everything = int(base.tumor.sum())
    made = composed(base, donors, made_plan(0.6), labels="share")
    assert (made.tumor & base.tumor).sum() == everything
    made = composed(base, donors, made_plan(0.1), labels="share")  # less than the label needs
    assert int(made.tissue.sum()) == everything > round(0.1 * 32**2)
    assert not made.is_on_target


@every_growth
@pytest.mark.parametrize("labels", ["presence", "share"])
def test_a_non_tumour_patch_never_gains_tumour(growth: str, labels: str) -> None:
    base = made_patch(0, 0.3, tumor_area=0.0)
    label = 1 if labels == "presence" else 0
    donors = [made_patch(300 + i, 0.9, label=label, tumor_area=0.5) for i in range(4)]
    for seed in range(10):
        made = composed(base, donors, made_plan(0.9), seed, growth=growth, labels=labels)
        assert made.tumor is not None
        assert not made.tumor.any()
        assert made.pixels.min() > 0.29  # nor shows any at a rim
        assert made.is_on_target


def test_a_tumour_patch_may_grow_by_other_tissue_where_any_tumour_makes_the_label() -> None:
    made = composed(made_patch(0, 0.3, label=1, tumor_area=0.5), DONORS, made_plan(0.9))
    assert made.is_on_target
    assert made.tumor is None  # the donors have no tumour masks


def two_classes() -> list[np.ndarray]:
    """Tissue fractions of a class with little tissue and of one with much."""
    rng = np.random.default_rng(0)
    return [rng.uniform(0.1, 0.5, 400), rng.uniform(0.45, 1.0, 400)]


def test_target_kept_area_and_piece_sizes_have_one_law_for_all_classes() -> None:
    fractions, plans = two_classes(), []
    for label in (0, 1):
        rng = np.random.default_rng(label)
        plans.append(
            [plan(fractions, label=label, fraction=rng.choice(fractions[label]), rng=rng) for _ in range(1500)]
        )
    for measure in (lambda p: p.target, lambda p: p.keep, lambda p: p.pieces[0], lambda p: max(p.pieces)):
        statistic = ks_2samp(*([measure(p) for p in of_class] for of_class in plans)).statistic
        assert statistic < 1.63 * np.sqrt(2 / 1500)  # the 1 % point
    both = plans[0] + plans[1]
    assert min(p.keep for p in both) >= 0.05
    assert all(0.8 <= p.rim_px <= 2 and p.keep <= max(0.05, p.target, 0.45) for p in both)
    # Targets are those of the classes in equal parts.
    assert np.mean([p.target < 0.45 for p in both]) == pytest.approx(0.5 * np.mean(fractions[0] < 0.45), abs=0.03)


def test_pieces_as_composed_have_one_law_for_all_classes() -> None:
    fractions, sizes = [areas[:60] for areas in two_classes()], []
    pool = [[made_patch(i, area, label=y, side=16) for i, area in enumerate(fractions[y])] for y in (0, 1)]
    for label in (0, 1):
        rng = np.random.default_rng(label)
        for _ in range(120):
            base, *donors = (pool[label][i] for i in rng.integers(60, size=9))
            drawn = plan(fractions, label=label, fraction=float(base.tissue.mean()), rng=rng)
            made = compose(base, donors, drawn, rng=rng, labels="class", ground=SLIDE)
            sizes.append((label, made.piece_px[0], max(made.piece_px[1:], default=0), len(made.piece_px)))
    table = np.array(sizes)
    for column in (1, 2, 3):
        assert ks_2samp(table[table[:, 0] == 0, column], table[table[:, 0] == 1, column]).statistic < 0.21


def round_patch(rng: np.random.Generator, label: int) -> Patch:
    """Class 0: an island within the patch; class 1: all but a hole or a bay."""
    y, x = np.indices((24, 24))
    at = rng.uniform(9, 15, 2)
    disc = np.hypot(y - at[0], x - at[1]) < rng.uniform(4, 8)
    return Patch(pixels=rng.normal(0.5, 0.05, (1, 24, 24)), tissue=disc if label == 0 else ~disc, label=label)


@pytest.mark.parametrize("is_shared", [True, False])
def test_outlines_have_one_law_for_all_classes_only_where_tissue_is_shared(is_shared: bool) -> None:
    rng = np.random.default_rng(0)
    pool = [[round_patch(rng, label) for _ in range(60)] for label in (0, 1)]
    border: list[list[float]] = [[], []]
    for label in (0, 1):
        for _ in range(200):
            base, *donors = (pool[label][i] for i in rng.integers(60, size=5))
            others = [[pool[1 - label][rng.integers(60)].tissue] for _ in range(5)] if is_shared else []
            made = compose(base, donors, made_plan(0.3, keep=0.15), rng=rng, ground=SLIDE[:1], others=others)
            border[label].append(float(np.concatenate([made.tissue[[0, -1]], made.tissue.T[[0, -1]]]).mean()))
    assert (ks_2samp(*border).statistic < 1.63 * np.sqrt(2 / 200)) == is_shared  # the 1 % point


def test_around_composed_tissue_there_is_ground_alone() -> None:
    base, *donors = (
        dataclasses.replace(p, pixels=np.where(p.tissue, p.pixels, np.float32(GLASS))) for p in (made_patch(0), *DONORS)
    )
    for target in (0.2, 0.9):
        made = composed(base, donors, made_plan(target, rim_px=2.0))
        np.testing.assert_allclose(made.pixels[:, ~made.tissue], GLASS, atol=1e-6)


def test_shared_tissue_does_not_tell_by_its_area_whose_it_is() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        first, second = made_mask(rng, 24, 0.3), made_mask(rng, 24, 0.8)
        areas = [
            {int(shared_tissue(a, [b], np.random.default_rng(draw)).sum()) for draw in range(60)}
            for a, b in ((first, second), (second, first))
        ]
        assert areas[0] == areas[1]


def test_shared_tissue_is_covered_by_all_and_never_nothing() -> None:
    tissue, corner, full = np.zeros((3, 16, 16), np.bool_)
    tissue[4:12, 4:12], corner[:2, :2], full[:] = True, True, True
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(shared_tissue(tissue, [full, full], rng), tissue)
    np.testing.assert_array_equal(shared_tissue(tissue, [corner], rng), tissue)  # no turn shares a pixel
    np.testing.assert_array_equal(shared_tissue(full, [tissue, full], rng), tissue)


def test_tumour_that_a_base_must_keep_stays_where_others_do_not_cover_it() -> None:
    left = np.indices((32, 32))[1] < 3
    for labels, least in (("presence", 16), ("share", None)):
        base = made_patch(5, 0.8, label=1, tumor_area=0.2)
        donors = [made_patch(9, 0.8, label=1, tumor_area=0.1)]
        made = composed(base, donors, made_plan(0.6), labels=labels, others=[[left]] * 2)
        assert (made.tumor & base.tumor).sum() >= (least or base.tumor.sum())


def test_a_donor_with_too_little_tissue_for_a_piece_is_passed_over() -> None:
    drawn = dataclasses.replace(made_plan(0.8), pieces=(0.3,) * 16)
    made = composed(made_patch(0, 0.3), [made_patch(1, 0.06), made_patch(2, 0.95)], drawn)
    assert made.piece_px[:3] == tuple(round(area * 32**2) for area in (0.1, 0.3, 0.3))


@every_growth
def test_the_same_generator_gives_the_same_bytes_in_any_thread(growth: str) -> None:
    bases = [made_patch(i, 0.5) for i in range(12)]

    def one(i: int) -> bytes:
        made = composed(bases[i], DONORS, made_plan(0.7), i, growth=growth)
        return made.pixels.tobytes() + made.tissue.tobytes()

    alone = [one(i) for i in range(12)]
    assert len(set(alone)) == 12
    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(one, range(12))) == alone


@every_growth
def test_kept_tissue_and_clear_ground_are_the_base_s_own_and_arguments_stay(growth: str) -> None:
    base = made_patch(4, 0.6)
    before = [a.tobytes() for p in (base, *DONORS) for a in (p.pixels, p.tissue)]
    for target in (0.1, 0.3, 0.9):
        made = composed(base, DONORS, made_plan(target, keep=target), growth=growth)
        kept = ndimage.binary_erosion(made.tissue & base.tissue, iterations=4, border_value=1)
        if growth != "own":
            assert (kept.sum() > 0) == (target > 0.1)
        clear = ~ndimage.binary_dilation(made.tissue | base.tissue, iterations=4)
        same = (made.pixels == base.pixels).all(axis=0)
        assert target == 0.9 or same[kept].all()
        assert same[clear].all()
    assert [a.tobytes() for p in (base, *DONORS) for a in (p.pixels, p.tissue)] == before


def test_the_border_of_tissue_blends_with_tissue_below_it_but_not_with_its_own_ground() -> None:
    tissue = np.zeros((32, 32), np.bool_)
    tissue[10:20, 10:20] = True
    border = tissue & ~ndimage.binary_erosion(tissue)
    base = Patch(pixels=np.where(tissue, 0.3, 0.9)[None], tissue=tissue, label=0)
    donor = Patch(pixels=np.full((1, 32, 32), 0.5), tissue=np.ones((32, 32), np.bool_), label=0)
    alone = composed(base, [], made_plan(100 / 1024, keep=0.2)).pixels[0]
    np.testing.assert_allclose(alone[tissue], 0.3, atol=1e-6)
    covered = composed(base, [donor], made_plan(1.0, keep=0.2, pieces=1)).pixels[0]
    np.testing.assert_allclose(covered[border], 0.6 * 0.3 + 0.4 * 0.5, atol=1e-6)
    np.testing.assert_allclose(covered[tissue & ~border], 0.3, atol=1e-6)


def test_pasted_pixels_are_those_of_the_donor() -> None:
    base, donor = made_patch(0, 0.2), made_patch(1, 0.9)
    made = composed(base, [donor], made_plan(0.9, keep=0.05, pieces=1))
    inner = made.pixels[0][ndimage.binary_erosion(made.tissue & ~base.tissue, iterations=3)]
    assert np.isin(inner, donor.pixels[0][donor.tissue]).mean() > 0.9


def test_growth_by_own_tissue_takes_no_donor() -> None:
    donors = [dataclasses.replace(d, pixels=np.zeros_like(d.pixels)) for d in DONORS]
    assert composed(made_patch(0, 0.3), donors, made_plan(0.9), growth="own").pixels.min() > 0.29


def test_small_pieces_grow_where_sixteen_of_them_would_not_fill_the_patch() -> None:
    drawn = dataclasses.replace(made_plan(1.0), pieces=(0.02,) * 16)
    made = composed(made_patch(0, 0.3), [made_patch(1, 1.0)], drawn)
    assert made.is_on_target
    assert max(made.piece_px[1:]) < 0.2 * 32**2


def test_no_edge_of_a_donor_s_frame_is_seen_where_it_moved() -> None:
    ramp = np.arange(32.0) * np.ones((1, 32, 1))
    for seed in range(10):
        free = np.zeros((32, 32), np.bool_)
        free[seed, 3 * seed] = True
        tissue = np.zeros((32, 32), np.bool_)
        tissue[20:, 20:] = True
        moved = move_to_free(Layer(ramp, tissue, None), free, np.random.default_rng(seed))
        assert moved.tissue[free].all()
        assert np.abs(np.diff(moved.pixels[0], axis=1)).max() <= 1
        assert np.abs(np.diff(moved.pixels[0], axis=0)).max() == 0


def test_mirrored_tissue_continues_itself_across_the_border() -> None:
    for seed in range(30):
        patch = made_patch(seed, 0.4)
        layer = mirror(Layer(patch.pixels, patch.tissue, None), np.random.default_rng(seed))
        new = layer.tissue & ~patch.tissue
        continued = [
            (new & moved_tissue & (layer.pixels == moved).all(axis=0)).any()
            for shift in ((0, 1), (0, -1), (1, 0), (-1, 0))
            for moved, moved_tissue in [(np.roll(patch.pixels, shift, (1, 2)), np.roll(patch.tissue, shift, (0, 1)))]
        ]
        assert any(continued)


@pytest.mark.parametrize("is_dark", [False, True])
def test_filled_ground_has_the_level_slope_and_noise_of_the_clear_pixels(is_dark: bool) -> None:
    rng = np.random.default_rng(0)
    y, x = np.indices((64, 64)) / 64
    ground = (0.05 if is_dark else 0.85) + 0.06 * x + 0.03 * y + rng.normal(0, 0.008, (3, 64, 64))
    tissue = (x > 0.3) & (x < 0.8)
    pixels = np.where(tissue, 0.5, ground).astype(np.float32)
    pixels[:, :8, 56:] = 0.3  # debris, which would tilt the plane
    made = composed(Patch(pixels=pixels, tissue=tissue, label=0), [], made_plan(0.05, keep=0.05))
    freed = tissue & ~ndimage.binary_dilation(made.tissue, iterations=3)
    plane = (0.05 if is_dark else 0.85) + 0.06 * x + 0.03 * y
    residual = (made.pixels - plane)[:, freed]
    np.testing.assert_allclose(residual.mean(axis=1), 0, atol=0.002)
    np.testing.assert_allclose(residual.std(axis=1), 0.008, rtol=0.1)


def test_noise_keeps_its_correlation_and_debris_is_not_copied() -> None:
    rng = np.random.default_rng(0)
    noise = ndimage.gaussian_filter(rng.normal(0, 1, (64, 64)), 1.5)
    pixels = (0.9 + 0.01 * noise / noise.std())[None].astype(np.float32)
    pixels[0, 5:10, 50:60] = 0.2  # debris
    tissue = np.indices((64, 64))[1] < 30
    filled = inpaint(pixels, tissue, np.zeros_like(tissue), rng)[0, :, 2:26]
    assert filled.min() > 0.8
    assert filled.mean() == pytest.approx(0.9, abs=0.006)
    assert np.corrcoef(filled[:, 1:].ravel(), filled[:, :-1].ravel())[0, 1] > 0.5  # singly drawn: 0


def test_ground_of_mostly_one_value_keeps_its_other_values() -> None:
    pixels = (np.random.default_rng(0).random((1, 48, 48)) < 0.3).astype(np.float32)  # counts of a photon detector
    tissue = np.indices((48, 48))[1] < 24
    filled = inpaint(pixels, tissue, np.zeros_like(tissue), np.random.default_rng(0))[0, :, :20]
    assert filled.mean() == pytest.approx(0.3, abs=0.05)


def test_no_slope_is_extrapolated_from_a_strip_of_clear_pixels() -> None:
    x = np.indices((48, 48))[1]
    pixels = np.random.default_rng(0).normal(0.9 - 0.01 * x, 0.003, (3, 48, 48)).astype(np.float32)
    tissue = x >= 8
    filled = inpaint(pixels, tissue, np.zeros_like(tissue), np.random.default_rng(0))
    assert filled.min() > 0.81  # a plane would come down to 0.43


def test_ground_replaces_all_tissue_but_what_is_kept_and_every_halo() -> None:
    pixels = np.full((1, 32, 32), 0.9, np.float32)
    pixels[0, 9:23, 9:23] = 0.7  # halo
    pixels[0, 10:22, 10:22] = 0.3
    tissue = pixels[0] < 0.5
    kept = tissue & (np.indices((32, 32))[1] < 15)
    filled = inpaint(pixels, tissue, kept, np.random.default_rng(0))[0]
    np.testing.assert_allclose(filled, np.where(kept, 0.3, 0.9), atol=1e-6)


def test_no_outline_of_what_was_cut_away_stays_behind() -> None:
    tissue = np.zeros((48, 48), np.bool_)
    tissue[10:38, 10:38] = True
    light = np.where(tissue, 0.4, 0.9).astype(np.float32)
    pixels = cv2.GaussianBlur(light, (0, 0), 0.7)[None]
    made = composed(Patch(pixels=pixels, tissue=tissue, label=0), [], made_plan(0.05, keep=0.05))
    far = ~ndimage.binary_dilation(made.tissue, iterations=4)
    assert made.pixels[0][far].min() > 0.88


def test_ground_of_the_slide_stands_in_where_a_patch_has_hardly_any() -> None:
    base = made_patch(0, 1.0)
    dirty = np.concatenate([SLIDE, np.zeros((3, 25))], axis=1)
    made = composed(base, [], made_plan(0.2, keep=0.2), ground=dirty)
    freed = ~ndimage.binary_dilation(made.tissue, iterations=3)
    np.testing.assert_allclose(made.pixels[:, freed].mean(axis=1), [0.8, 0.7, 0.6], atol=0.005)
    np.testing.assert_allclose(made.pixels[:, freed].std(axis=1), SLIDE.std(axis=1), rtol=0.15)


def test_few_clear_pixels_that_all_stand_out_are_still_ground_and_no_plane() -> None:
    base = made_patch(0, 1.0, channels=5)
    tissue, pixels = base.tissue.copy(), base.pixels.copy()
    places = [0, 0, 31, 0, 1], [0, 31, 0, 1, 0]
    tissue[places] = False
    pixels[:, *places] = 0.7 + 0.2 * np.eye(5)  # each in another channel
    made = composed(Patch(pixels=pixels, tissue=tissue, label=0), [], made_plan(0.2, keep=0.2))
    freed = made.pixels[:, ~ndimage.binary_dilation(made.tissue, iterations=3)]
    assert freed.min() >= 0.7 - 1e-6
    assert freed.max() <= 0.9 + 1e-6


def test_the_rim_of_a_cut_fades_over_the_planned_width() -> None:
    everywhere = np.ones((64, 64), np.bool_)
    for rim_px in (0.8, 2.0):
        widths = []
        for seed in range(40):
            cut = cut_tissue(everywhere, 2000, (32, 32), rim_px, np.random.default_rng(seed))
            faces = sum((np.diff(cut.inside, axis=axis)).sum() for axis in (0, 1))
            partial = ((cut.cover > 0) & (cut.cover < 1)).sum()
            widths.append(partial / (faces * np.pi / 4))  # of a line at a random angle, pixel faces are 4 / pi as long
        assert np.mean(widths) == pytest.approx(rim_px, rel=0.25)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_any_number_of_channels_and_the_inverse_image_compose_alike(channels: int) -> None:
    base, *donors = (made_patch(i, 0.5, channels=channels) for i in range(5))
    inverse = [dataclasses.replace(p, pixels=1 - p.pixels) for p in (base, *donors)]
    for target in (0.2, 0.9):
        bright = composed(base, donors, made_plan(target))
        dark = composed(inverse[0], inverse[1:], made_plan(target))
        np.testing.assert_array_equal(bright.tissue, dark.tissue)
        np.testing.assert_allclose(1 - dark.pixels, bright.pixels, atol=1e-5)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float16", "float64"])
def test_any_type_of_pixels_composes_in_its_own_units(dtype: str) -> None:
    base, *donors = (
        dataclasses.replace(p, pixels=(p.pixels * 200).astype(dtype)) for p in (made_patch(0), *DONORS[:2])
    )
    made = composed(base, donors, made_plan(0.7))
    assert made.pixels.dtype == np.float32
    assert 55 < made.pixels.min() < 65 < 170 < made.pixels.max() < 200


def test_the_layout_of_arrays_in_memory_does_not_matter() -> None:
    base, *donors = (made_patch(0, 0.5), *DONORS[:3])
    channels_last = [
        dataclasses.replace(
            p,
            pixels=np.ascontiguousarray(p.pixels.transpose(1, 2, 0)).transpose(2, 0, 1),
            tissue=np.ascontiguousarray(p.tissue[::-1])[::-1],
        )
        for p in (base, *donors)
    ]
    for growth in ("many", "own"):
        expected = composed(base, donors, made_plan(0.7), growth=growth)
        made = composed(channels_last[0], channels_last[1:], made_plan(0.7), growth=growth)
        np.testing.assert_array_equal(made.pixels, expected.pixels)


def test_a_rectangle_is_flipped_but_not_transposed() -> None:
    base, donor = (
        Patch(pixels=p.pixels[:, :20], tissue=p.tissue[:20], label=0) for p in (made_patch(0, 0.4), made_patch(1, 0.7))
    )
    for growth in ("many", "own"):
        assert composed(base, [donor], made_plan(0.8), growth=growth).tissue.sum() == round(0.8 * 640)


def test_the_share_to_compose_grows_as_the_minority_gets_rare() -> None:
    assert [intervention_share(n) for n in (0, 10, 50, 1000)] == [1.0, 0.9, 0.5, 0.5]
    assert all(a >= b for a, b in pairwise(map(intervention_share, range(120))))
    with pytest.raises(InputUnsupportedError, match="n_min = -1"):
        intervention_share(-1)


BASE, TUMOR = made_patch(0, 0.4), made_patch(0, 0.4, label=1)


@pytest.mark.parametrize(
    ("base", "donors", "settings", "error", "message"),
    [
        (BASE, [TUMOR], {}, InputUnsupportedError, "a donor of class 1 for a patch of class 0"),
        (TUMOR, [BASE], {"labels": "class"}, InputUnsupportedError, "a donor of class 0 for a patch of class 1"),
        (BASE, DONORS, {"labels": "share"}, InputUnsupportedError, "its share of tumour is unknown"),
        (made_patch(0, label=2), [], {}, InputUnsupportedError, 'labels="class"'),
        (BASE, [made_patch(0, side=16)], {}, InputUnsupportedError, r"a donor of shape \(3, 16, 16\)"),
        (BASE, [made_patch(0, channels=1)], {}, InputUnsupportedError, "same channels and size"),
        (BASE, DONORS, {"labels": "any"}, InputUnsupportedError, "presence, share, class"),
        (BASE, DONORS, {"others": [[]]}, InputUnsupportedError, "others of 1 patches"),
        (BASE, [], {"others": [[np.ones((16, 16), np.bool_)]]}, InputUnsupportedError, r"of the shapes \[\(16, 16"),
        (BASE, DONORS, {"growth": "some"}, InputUnsupportedError, "many, own"),
        (made_patch(0, 0.0), DONORS, {}, NoTissueError, "a patch without tissue"),
        (made_patch(0, label=1, tumor_area=0.0), [], {}, NoTissueError, "without tumour in its tissue"),
        (made_patch(0, 1.0), DONORS, {}, InputUnsupportedError, "Give ground"),
        (made_patch(0, 1.0), [], {"ground": np.zeros((2, 9))}, InputUnsupportedError, "ground of shape"),
        (made_patch(0, 1.0), [], {"ground": np.zeros((3, 0))}, InputUnsupportedError, "at least one pixel"),
        (made_patch(0, 1.0), [], {"ground": np.full((3, 9), np.nan)}, NonFiniteError, "ground holds NaN"),
    ],
)
def test_what_would_change_the_label_or_cannot_be_done_is_refused(
    base: Patch, donors: list[Patch], settings: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        composed(base, donors, made_plan(0.6), **settings)


def test_patches_and_plans_that_make_no_sense_are_refused() -> None:
    pixels, tissue = np.zeros((3, 8, 8)), np.ones((8, 8), np.bool_)
    for wrong in ({"tissue": tissue[:4]}, {"tissue": np.ones((8, 8))}, {"pixels": pixels[0]}, {"tumor": tissue[0]}):
        with pytest.raises(InputUnsupportedError, match="boolean masks"):
            Patch(**{"pixels": pixels, "tissue": tissue, "label": 0, **wrong})
    with pytest.raises(InputUnsupportedError, match="label -1"):
        Patch(pixels=pixels, tissue=tissue, label=-1)
    with pytest.raises(NonFiniteError, match="NaN or infinite"):
        Patch(pixels=pixels + np.inf, tissue=tissue, label=0)
    for target, rim_px in ((1.1, 1.0), (float("nan"), 1.0), (0.5, 0.0)):
        with pytest.raises(InputUnsupportedError, match="areas in"):
            made_plan(target, rim_px=rim_px)
    rng = np.random.default_rng(0)
    with pytest.raises(GroupEmptyError, match=r"\[1, 0\]"):
        plan([[0.5], []], label=0, fraction=0.5, rng=rng)
    with pytest.raises(InputUnsupportedError, match="label 2 of 2 classes"):
        plan([[0.5], [0.5]], label=2, fraction=0.5, rng=rng)
    for fraction in (50.0, float("nan")):
        with pytest.raises(InputUnsupportedError, match="tissue fractions"):
            plan([[0.5], [0.5]], label=0, fraction=fraction, rng=rng)

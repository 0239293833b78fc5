"""Traces of composing that tell the class are found, and cohorts without them pass."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from made_patches import write_work

from pathopatch.core.mask_bits import pack_masks
from pathopatch.debias.interventions import Composition
from pathopatch.training.dataset import PatchMasks, PatchSet
from pathopatch.training.intervene import Intervention

HERE = Path(__file__).parents[2] / "pipelines" / "area-benchmark"
sys.path.insert(0, str(HERE))
leaks = import_module("leaks")
from area_benchmark.leak_controls import (  # noqa: E402
    MeasuredPatches,
    _features,
    _held_out,
    _is_leak,
    check_composition,
    composition_text,
    has_leak,
    leak_controls,
    leak_findings,
    measure_copies,
    measure_natural,
    resampling_unit,
)

SIDE = 32
ALIKE = ((0.1, 0.95), (0.1, 0.95))
Edit = Callable[[Composition], Composition]


def cohort(seed: int = 0, *, ranges: tuple[tuple[float, float], ...] = ((0.1, 0.8), (0.25, 0.95))) -> PatchSet:
    """Grey islands on bright ground; the class is the direction of faint stripes, whose mean and spread are alike."""
    rng = np.random.default_rng(seed)
    label = np.tile(np.arange(len(ranges)), 120)
    area = np.array([rng.uniform(*ranges[y]) for y in label])
    field = np.stack([cv2.GaussianBlur(rng.normal(size=(SIDE, SIDE)), (0, 0), 4) for _ in label])
    level = np.array([np.quantile(plane, 1 - share) for plane, share in zip(field, area, strict=True)])
    tissue = field > level[:, None, None]
    stripes = np.indices((SIDE, SIDE)) % 4 // 2 - 0.5
    content = 0.5 + 0.1 * stripes[label % 2] + rng.normal(0, 0.05, tissue.shape)
    # As soft as the rims of cut pieces, or a rim would tell how much of the outline is the patch's own.
    cover = np.stack([cv2.GaussianBlur(mask.astype(np.float64), (0, 0), 1) for mask in tissue])
    x = (cover * content + (1 - cover) * rng.normal(0.9, 0.02, tissue.shape)).clip(0, 1)[:, None]
    fraction = tissue.mean(axis=(1, 2))
    return PatchSet(
        x=x.astype(np.float16),
        label=label,
        attribute=(fraction >= 0.5).astype(np.int64),
        tissue_fraction=fraction,
        patient=np.array([f"p{i // 2 % 12}" for i in range(len(label))]),
        patch_id=np.array([f"s{i // 2 % 24}@{i},0" for i in range(len(label))]),
        tissue=PatchMasks(pack_masks(tissue), SIDE),
    )


class Edited(Intervention):
    """An intervention whose copies of some classes are changed after they are composed."""

    def __init__(self, data: PatchSet, *, edit: Edit, classes: tuple[int, ...]) -> None:
        super().__init__(data, share=1, seed=0)
        self.edit, self.classes = edit, classes

    def compose(self, label: int, number: int) -> Composition:
        made = super().compose(label, number)
        return self.edit(made) if label in self.classes else made


def darker_ground(made: Composition) -> Composition:
    return replace(made, pixels=np.where(made.tissue, made.pixels, made.pixels - 0.02))


def darker_rim(made: Composition) -> Composition:
    near = cv2.dilate(made.tissue.astype(np.uint8), np.ones((5, 5))) != 0
    return replace(made, pixels=np.where(near & ~made.tissue, made.pixels - 0.1, made.pixels))


def perforated(made: Composition) -> Composition:
    holes = np.indices(made.tissue.shape).sum(axis=0) % 5 == 0
    return replace(made, tissue=made.tissue & ~holes)


def less_tissue(made: Composition) -> Composition:
    half = made.tissue & (np.arange(SIDE) < SIDE // 2)
    return replace(made, tissue=half if half.any() else made.tissue)


def smaller_pieces(made: Composition) -> Composition:
    return replace(made, piece_px=tuple(px // 2 for px in made.piece_px))


def controls_of(intervention: Intervention, copies: int = 120, **others: Any) -> dict[str, Any]:
    return leak_controls(measure_copies(intervention, copies)[0], resampling_unit(intervention.data)[0], **others)


@pytest.mark.slow
def test_a_clean_cohort_passes() -> None:
    data = cohort(ranges=ALIKE)
    check = check_composition(Intervention(data, share=1, seed=0), copies=150)
    assert check["unit"] == "patient"
    assert min(check["on_target"]) > 0.9
    assert not has_leak(check)
    assert composition_text(check).startswith("No shortcut by composing is shown.")
    assert leak_findings(check) == []


@pytest.mark.slow
def test_area_tells_the_class_of_natural_patches_and_not_of_composed_ones() -> None:
    intervention = Intervention(cohort(), share=1, seed=0)
    area = controls_of(intervention, natural=measure_natural(intervention, np.arange(240)))["area"]
    assert area["natural"]["low"] > 0.55
    assert abs(area["composed"]["auroc"] - 0.5) < 0.08
    assert not area["is_leak"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "edit"),
    [
        ("area", less_tissue),
        ("shape", perforated),
        ("rim", darker_rim),
        ("background", darker_ground),
        ("pieces", smaller_pieces),
    ],
)
def test_a_trace_in_one_class_is_found_and_in_both_is_not(name: str, edit: Edit) -> None:
    data = cohort()
    assert controls_of(Edited(data, edit=edit, classes=(1,)))[name]["is_leak"]
    assert not controls_of(Edited(data, edit=edit, classes=(0, 1)))[name]["is_leak"]


@pytest.mark.slow
def test_pieces_of_own_tissue_are_larger_where_there_is_more_tissue() -> None:
    data = cohort(ranges=((0.1, 0.3), (0.7, 0.95)))
    leaks = {
        growth: controls_of(Intervention(data, share=1, seed=0, growth=growth))["pieces"]  # type: ignore[arg-type]
        for growth in ("many", "own")
    }
    assert leaks["own"]["is_leak"]
    for growth, remedy in (("own", 'Set [train.composing] growth = "many"'), ("many", "Look at composed patches")):
        check = {"growth": growth, "unit": "patient", "controls": {"pieces": leaks["own"]}}
        assert remedy in leak_findings(check)[0]
    assert leaks["own"]["composed"]["auroc"] > leaks["many"]["composed"]["auroc"] + 0.1


@pytest.mark.parametrize(
    ("low", "high", "of_area", "of_forest"),
    [(0.2, 0.4, True, False), (0.56, 0.64, True, True), (0.54, 0.66, False, False), (None, None, False, False)],
)
def test_a_forest_below_a_half_is_no_leak_but_an_area_is(
    low: float | None, high: float | None, of_area: bool, of_forest: bool
) -> None:
    result = {"auroc": 0.5, "low": low, "high": high}
    assert _is_leak(result, is_directed=False) == of_area
    assert _is_leak(result, is_directed=True) == of_forest


@pytest.mark.slow
def test_of_three_classes_the_mean_over_them_is_measured() -> None:
    data = cohort(ranges=((0.3, 0.7), (0.3, 0.7), (0.3, 0.7)))
    clean = controls_of(Intervention(data, share=1, seed=0), copies=80)
    assert not any(row["is_leak"] for row in clean.values())
    leaking = controls_of(Edited(data, edit=darker_ground, classes=(2,)), copies=80)
    assert leaking["background"]["is_leak"]
    area = controls_of(Edited(data, edit=less_tissue, classes=(1,)), copies=80)["area"]
    assert area["is_leak"]


def made_up(label: np.ndarray, area: np.ndarray) -> MeasuredPatches:
    empty = {name: np.zeros((len(label), 1)) for name in ("shape", "rim", "background", "pieces")}
    return MeasuredPatches(label, np.arange(len(label)), {"area": area[:, None], **empty})


def test_less_area_is_a_leak_too() -> None:
    label, rng = np.tile([0, 1], 100), np.random.default_rng(0)
    for sign in (1, -1):
        area = sign * label + rng.normal(0, 1, 200)
        found = leak_controls(made_up(label, area=area), np.arange(200) // 4)
        assert found["area"]["is_leak"]
        assert not found["shape"]["is_leak"]
    apart = np.where(label == 1, 0.45, 0.5) + rng.normal(0, 1, 200)
    assert not leak_controls(made_up(label, area=apart), np.arange(200) // 4)["area"]["is_leak"]


def test_a_unit_is_never_on_both_sides_of_a_fold() -> None:
    rng = np.random.default_rng(0)
    unit = np.repeat(np.arange(30), 8)
    label = rng.permutation(np.arange(30) % 2)[unit]
    # Each unit has a look of its own: who has seen it knows its label.
    values = rng.normal(size=(30, 2))[unit] + rng.normal(0, 0.01, (240, 2))
    score = _held_out(values, label, unit, 0)
    assert abs(score[label == 1, 1].mean() - score[label == 0, 1].mean()) < 0.25
    seen = _held_out(values, label, np.arange(240), 0)
    assert seen[label == 1, 1].mean() - seen[label == 0, 1].mean() > 0.7


def test_units_are_patients_or_slides_or_patches() -> None:
    data = cohort()
    assert resampling_unit(data)[1] == "patient"
    few = replace(data, patient=np.full(len(data), "p"))
    assert resampling_unit(few)[1] == "slide"
    one = replace(few, patch_id=np.array([f"s@{i},0" for i in range(len(data))]))
    assert resampling_unit(one)[1] == "patch"
    # Nine patients, but class 1 is of two of them.
    apart = np.where(data.label == 1, np.arange(len(data)) % 4 // 2, 2 + np.arange(len(data)) % 14 // 2).astype(str)
    assert resampling_unit(replace(one, patient=apart))[1] == "patch"


def test_features_are_of_the_patch_as_it_is() -> None:
    data = cohort()
    measured = measure_natural(Intervention(data, share=1, seed=0), np.array([3, 0]))
    assert data.tissue is not None
    np.testing.assert_allclose(measured.numbers["area"][:, 0], data.tissue.read([3, 0]).mean(axis=(1, 2)))
    np.testing.assert_array_equal(measured.label, data.label[[3, 0]])
    assert measured.numbers["background"][0, 0] == pytest.approx(0.9, abs=0.02)


def square(side: int = 4, size: int = 12) -> np.ndarray:
    mask = np.zeros((size, size), np.bool_)
    mask[4 : 4 + side, 4 : 4 + side] = True
    return mask


def test_a_square_has_four_sides_one_piece_and_its_own_hull() -> None:
    np.testing.assert_allclose(_features(np.zeros((1, 12, 12)), square())["shape"], [16 / 4, 1, 1, 0, 1])


def test_two_pieces_at_the_border() -> None:
    mask = np.zeros((5, 5), np.bool_)
    mask[:, 0] = mask[:2, 4] = True
    outline, pieces, largest, border, solidity = _features(np.zeros((1, 5, 5)), mask)["shape"]
    assert outline == 8 / np.sqrt(7)
    assert (pieces, largest, border) == (2, 5 / 7, 7 / 16)
    assert 7 / 25 < solidity < 0.6


def test_rim_and_background_are_apart() -> None:
    mask = square()
    distance = np.maximum(*(np.maximum(4 - axis, axis - 7) for axis in np.indices(mask.shape)))
    pixels = np.where(distance <= 0, 0.5, np.where(distance <= 2, 0.7, 0.9))[None]
    measured = _features(pixels, mask)
    np.testing.assert_allclose(measured["rim"], [0.7, 0], atol=1e-12)
    np.testing.assert_allclose(measured["background"], [0.9, 0], atol=1e-12)


def test_a_full_and_an_empty_patch_have_unknown_numbers() -> None:
    pixels, full = np.zeros((3, 6, 6)), np.ones((6, 6), np.bool_)
    measured = _features(pixels, full)
    assert np.isnan(measured["rim"]).all()
    assert np.isnan(measured["background"]).all()
    np.testing.assert_allclose(measured["shape"], [0, 1, 1, 1, 1])
    assert np.isnan(_features(pixels, ~full)["shape"]).all()


def test_the_program_prints_the_check_of_a_work_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_work(tmp_path)
    monkeypatch.setattr(sys, "argv", ["leaks.py", str(tmp_path), "--input-px", "16"])
    monkeypatch.setattr(leaks, "check_composition", lambda intervention: check_composition(intervention, copies=40))
    leaks.main()
    assert "40 composed patches of each" in capsys.readouterr().out

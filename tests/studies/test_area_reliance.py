"""The study of the audit of models: which patches it asks about, and what it counts as corrected."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from pathopatch.core.mask_bits import pack_masks
from pathopatch.debias.interventions import AREAS, N_EDITS
from pathopatch.training.dataset import PatchMasks, PatchSet

HERE = Path(__file__).parents[2] / "pipelines" / "area-reliance"


@pytest.fixture(scope="module")
def study() -> Iterator[ModuleType]:
    before = list(sys.path)
    sys.path.insert(0, str(HERE))
    yield importlib.import_module("reliance")
    sys.path[:] = before


def patch_set(n: int = 40) -> PatchSet:
    """Return patches of 16 px, of all four groups alike."""
    rng = np.random.default_rng(0)
    label, attribute = np.arange(n) % 2, np.arange(n) // 2 % 2
    side = np.where(attribute == 1, 14, 8)
    tissue = np.zeros((n, 16, 16), np.bool_)
    for mask, px in zip(tissue, side, strict=True):
        mask[:px, :px] = True
    return PatchSet(
        x=rng.random((n, 3, 16, 16)).astype(np.float32),
        label=label,
        attribute=attribute,
        tissue_fraction=tissue.mean(axis=(1, 2)),
        patient=np.array([f"P{number % 8}" for number in range(n)]),
        patch_id=np.array([f"s@{number},0" for number in range(n)]),
        tissue=PatchMasks(pack_masks(tissue), 16),
    )


def test_skewed_patches_have_areas_that_follow_the_class(study: ModuleType) -> None:
    patches = patch_set()
    rows = study.subsets(patches, seed=0)
    assert len(rows["balanced"]) == 40
    assert (patches.label[rows["follows"]] == patches.attribute[rows["follows"]]).all()
    assert set(rows["skewed"]) < set(rows["follows"])
    assert patches.label[rows["skewed"]].mean() == pytest.approx(0.1, abs=0.1)


def test_edits_stand_patch_by_patch_and_the_first_is_the_patch(study: ModuleType) -> None:
    made = study.edited(patch_set(4), N_EDITS, seed=0)
    assert len(made.patches) == 4 * N_EDITS
    np.testing.assert_allclose(made.patches.x[::N_EDITS], patch_set(4).x, atol=1e-3)
    areas = made.patches.tissue.read(slice(1, 1 + len(AREAS))).mean(axis=(1, 2))
    np.testing.assert_allclose(areas, AREAS, atol=0.03)


def test_a_response_to_the_area_alone_is_subtracted_wholly(study: ModuleType) -> None:
    area, result = np.array([0.1, 0.5, 0.9]), {"curve": [], "correction": {"subtract": {"shift": 0.25}}}
    result["curve"] = [{"area": t, "margin": {"value": 10 * t}} for t in AREAS]
    z = np.concatenate([(10 * area + [1.0, -1.0, 0.0])[:, None], np.zeros((3, len(AREAS)))], axis=1)
    np.testing.assert_allclose(study.corrected(z, area, result, "subtract"), [6.25, 4.25, 5.25])


def test_an_average_is_of_the_areas_with_an_answer(study: ModuleType) -> None:
    curve = [{"area": t, "margin": {"value": 0.0}} for t in AREAS[1:]]
    result = {"curve": curve, "correction": {"average": {"shift": 0.0}}}
    z = np.array([[9.0, 7.0, 1.0, 2.0, np.nan, 3.0], [4.0, 7.0, np.nan, np.nan, np.nan, np.nan]])
    np.testing.assert_allclose(study.corrected(z, np.array([0.5, 0.5]), result, "average"), [2.0, 4.0])


def test_no_answer_counts_as_wrong(study: ModuleType) -> None:
    patches = patch_set()
    z = np.where(patches.label == 1, 1.0, -1.0)
    z[(patches.label == 0) & (patches.attribute == 1)] = np.nan
    assert study.judged(z, patches) == {"wga": 0, "gba": 75, "auroc": 100, "biased": 100}


def test_equal_groups_are_as_large_as_the_smallest(study: ModuleType) -> None:
    group = np.repeat([0, 1, 2, 3], [30, 4, 6, 30])
    picked = study.reliance_heads.linear_heads.equal_groups(group, seed=0)
    assert np.bincount(group[picked]).tolist() == [4, 4, 4, 4]

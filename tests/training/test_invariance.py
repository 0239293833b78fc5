"""A head that pays where its answer moves with the tissue area that was set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from made_patches import toy, write_work
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors.torch import save_file

from pathopatch.core.artefacts import read_table
from pathopatch.core.config import TrainConfig
from pathopatch.core.mask_bits import pack_masks
from pathopatch.training import feature_cache, frozen
from pathopatch.training.dataset import PatchMasks, PatchSet
from pathopatch.training.fit import fit_arrays
from pathopatch.training.frozen import Backbone, FeatureReader
from pathopatch.training.invariance import EDITS, draw_pool, second_moment, versions


def of_areas(fractions: NDArray[np.float64], patients: NDArray[np.str_]) -> PatchSet:
    """Patches with upper rows of tissue, brighter than the ground."""
    n, side = len(fractions), 20
    mask = np.arange(side)[:, None] < np.rint(side * fractions)[:, None, None] * np.ones((1, 1, side))
    label, names = np.arange(n) % 2, np.array([f"s@{row},0" for row in range(n)])
    x = np.where(mask[:, None], 0.8, 0.2).repeat(3, axis=1).astype(np.float32)
    return PatchSet(x, label, label, fractions, patients, names, tissue=PatchMasks(pack_masks(mask), side))


def test_the_pool_takes_patients_and_areas_in_turn_and_no_blank_patch() -> None:
    rng = np.random.default_rng(0)
    fraction = np.concatenate([np.full(20, 0.05), np.full(300, 0.95), np.full(30, 0.35)])
    patient = np.where(rng.random(350) < 0.9, "a", "b")
    patches = of_areas(fraction, patient)
    pool = draw_pool(patches, 40)
    cell = [f"{patient[row]} {fraction[row]}" for row in pool]
    sizes = {name: cell.count(name) for name in set(cell)}
    assert len(sizes) == 4
    rare = sum(patient[320:] == "b")  # fewer than ten
    assert sorted(sizes.values())[0] == min(rare, 10)
    order = rng.permutation(350)
    moved = patches.rows(order)
    assert set(moved.patch_id[draw_pool(moved, 40)]) == set(patches.patch_id[pool])


def test_versions_have_the_areas_that_are_set_whatever_else_is_asked_for() -> None:
    patches = of_areas(np.array([0.3, 0.5, 1.0, 0.0]), np.array(list("aabb")))
    first, second, full, blank = versions(patches, np.arange(4), EDITS)
    for made in (first, second, full):  # the full one gets the ground of the blank one, which is of its slide
        assert [each.tissue.mean() for each in made] == pytest.approx([area for area, _ in EDITS], abs=1 / 400)
    assert blank == []
    (alone,) = versions(patches, [1], EDITS)
    assert all(np.array_equal(one.pixels, other.pixels) for one, other in zip(alone, second, strict=True))
    own_slides = replace(patches, patch_id=np.array(list("wxyz")))
    assert list(versions(own_slides, [2], EDITS)) == [[]]


def test_the_second_moment_is_about_each_patch_and_without_versions_that_are_not_there() -> None:
    features = np.array([[0.0, 4.0], [5.0, 5.0]])
    made = np.array([[[2.0, 0.0]], [[np.nan, np.nan]]])
    # Of the first patch (-1, 1) and (1, -1) in units of the spread, of the second nothing but itself.
    np.testing.assert_allclose(second_moment(features, made, np.array([1.0, 2.0])), np.array([[2, -2], [-2, 2]]) / 3)


class Bright(FeatureReader):
    """Features that are means of the pixels: two of the tissue, and one of the patch, which the area moves."""

    def __call__(self, patches: PatchSet, backbone: Backbone) -> NDArray[np.float32]:
        """Return features of patches."""
        return self.of(patches.read(slice(None)), patches.patch_id, backbone)

    def of_versions(self, patches: PatchSet, index: Any, backbone: Backbone, edits: Any) -> NDArray[np.float32]:
        """Return features of versions."""
        made = versions(patches, index, edits)
        of_each = [
            self.of(np.stack([each.pixels for each in of_patch]), [name] * len(edits), backbone)
            for of_patch, name in zip(made, patches.patch_id[index], strict=True)
        ]
        return np.stack(of_each)

    def of(self, x: NDArray[Any], names: Any, backbone: Backbone) -> NDArray[np.float32]:
        """Return features: the area, and what tells the label weakly."""
        features = np.zeros((len(x), backbone.network.classifier.in_features), np.float32)
        features[:, 0] = x.mean(axis=(1, 2, 3))
        number = np.array([int(name[2:-2]) for name in names])
        features[:, 1] = number % 2 + np.random.default_rng(1).normal(0, 1.5, 400)[number]
        return features


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of weights for a small network of timm's."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_file(timm.create_model("test_efficientnet", num_classes=2).state_dict(), path)
    return path


def test_a_head_that_pays_goes_by_the_tissue_and_no_longer_by_its_area(weights: Path) -> None:
    rng = np.random.default_rng(0)
    tells = rng.random(200) < 0.9  # the shortcut
    fraction = np.where((np.arange(200) % 2 == 1) == tells, 0.8, 0.3)
    patches = of_areas(fraction, np.array([f"p{row % 9}" for row in range(200)]))
    settings: dict[str, Any] = {"frozen": True, "architecture": "test_efficientnet", "pretrained": weights}
    settings |= {"method": "erm", "threshold": 0.5, "input_px": 20, "threads": 1, "select": "last"}
    moved = {}
    for rho in (0, 1000):
        config = TrainConfig(**settings, weight_decay=0.01, invariance=rho)
        found = fit_arrays(patches, None, config, read_features=Bright())
        weight = (found.network.classifier.weight[1] - found.network.classifier.weight[0]).numpy()
        features = Bright()(patches, SimpleNamespace(network=found.network))
        moved[rho] = weight[:2] * features.std(axis=0)[:2]
    assert abs(moved[0][0]) > 2 * abs(moved[0][1])
    assert abs(moved[1000][0]) < abs(moved[1000][1]) / 5


def test_versions_of_a_slide_are_computed_once(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_work(tmp_path, is_solid=True)
    groups = read_table(tmp_path / "groups.parquet").query("label >= 0")
    config = TrainConfig(
        frozen=True, architecture="test_efficientnet", pretrained=weights, method="erm", threads=1, input_px=16,
        mask="normalise",
    )  # fmt: skip
    backbone = frozen.open_backbone(config, 2)
    computed: list[int] = []
    of_versions = Backbone.of_versions
    monkeypatch.setattr(
        Backbone, "of_versions",
        lambda self, patches, index, edits, **how: computed.append(len(index))
        or of_versions(self, patches, index, edits, **how),
    )  # fmt: skip
    rows = groups[groups["slide_id"] == "slide-train"].iloc[:12]
    patches = toy([[3, 3], [3, 3]], seed=0)
    patches = replace(patches, patch_id=rows["patch_id"].to_numpy(dtype=str))
    for _ in range(2):
        cache = feature_cache.FeatureCache(tmp_path, groups, input_px=16)
        some = cache.of_versions(patches, np.arange(4), backbone, EDITS)
        more = cache.of_versions(patches, np.arange(2, 8), backbone, EDITS)
    assert computed == [4, 4]  # of the second six two were there
    np.testing.assert_array_equal(some[2:], more[:2])
    assert cache.of_versions(patches, np.arange(0), backbone, EDITS).shape == (0, 6, some.shape[2])


def test_invariance_needs_a_frozen_network() -> None:
    with pytest.raises(ValidationError, match="invariance is of the head of a frozen network"):
        TrainConfig(invariance=10)

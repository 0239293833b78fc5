"""The benchmark of tissue under dirt: what the dirt does to the pixels and to the truth, and how finders are scored."""

import sys
from functools import partial
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "pipelines" / "tissue-gallery"))
dirt, dirt_table = import_module("dirt"), import_module("dirt_table")


@pytest.fixture
def base() -> Any:
    """Return a square of tissue, 60 of 255, on glass of 240."""
    tissue = np.pad(np.ones((120, 120), bool), ((0, 120), (0, 120)))
    pixels = np.where(tissue, 60, 240).astype(np.uint8)[None].repeat(3, axis=0)
    return dirt.Base(
        name="square", pixels=pixels, tissue=tissue, ignored=~tissue & False, level=np.full(3, 240.0), mpp=4.0
    )


def _ink(base: Any, density: str, over: str) -> Any:
    return dirt.ink(np.random.default_rng(0), base, colour="blue", density=density, width="fine", over=over)


def test_the_same_seed_gives_the_same_dirt(base: Any) -> None:
    first, again, other = (list(islice(dirt.dirty_slides(base, seed), 4)) for seed in (0, 0, 1))
    assert all((a[2].pixels == b[2].pixels).all() for a, b in zip(first, again, strict=True))
    assert all((a[2].pixels != b[2].pixels).any() for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("density", ["translucent", "opaque"])
def test_a_stroke_darkens_what_it_covers_and_nothing_else(base: Any, density: str) -> None:
    drawn = _ink(base, density, "glass")
    change = base.pixels - drawn.pixels
    assert change.min() >= 0
    assert change[0, drawn.area].mean() > 50
    assert change[0, ~drawn.area].max() < 240 * 2.6 * 0.03  # below the faintest visible density


@pytest.mark.parametrize(("density", "is_left_out"), [("translucent", False), ("opaque", True)])
def test_only_opaque_ink_hides_the_truth_and_only_of_tissue(base: Any, density: str, is_left_out: bool) -> None:
    drawn = _ink(base, density, "tissue")
    assert (drawn.ignored == (drawn.area & base.tissue & is_left_out)).all()
    perfect = dirt_table.score(base.tissue, base, drawn)
    assert (perfect["tissue_found"], perfect["false_tissue"]) == (1.0, 0.0)
    assert np.isnan(perfect["under_dirt"]) == is_left_out
    taken_in = dirt_table.score(drawn.area, base, drawn)
    assert (taken_in["tissue_found"], taken_in["dirt_as_tissue"]) == (0.0, 1.0)


def test_pale_stain_has_a_share_of_the_optical_density(base: Any) -> None:
    make = partial(dirt.stain, np.random.default_rng(0), base)
    assert make(factor=0.5).pixels[0, 0, 0] == pytest.approx(240 * (60 / 240) ** 0.5)  # 120
    assert make(factor=0.5).pixels[0, -1, -1] == pytest.approx(240)

"""A bag holds a slide's patches row by row, and features beyond the limit of memory are read each time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import made_features
import numpy as np
import pytest
from made_bags import DIM, made_bag

from pathopatch.features.bags import Bag, cached, open_bags


def test_the_patches_of_a_bag_are_row_by_row_with_their_own_features(tmp_path: Path) -> None:
    xy = np.array([[512, 512], [0, 512], [512, 0]])
    features = np.arange(9, dtype=np.float32).reshape(3, 3)
    made_features.trident_file(tmp_path / "features_x" / "s.h5", features, xy, name="s")
    bag = open_bags(tmp_path, str(tmp_path / "features_x")).bag("s", patient_id="p", label=1)
    assert list(zip(bag.x, bag.y, strict=True)) == [(512, 0), (0, 512), (512, 512)]
    assert bag.feature_row.tolist() == [2, 1, 0]
    assert bag.read(np.array([0, 2])).tolist() == features[[2, 0]].tolist()
    assert np.isnan(bag.tissue_fraction).all()


def test_places_that_need_a_scale_which_nothing_states_are_left_open(tmp_path: Path) -> None:
    bag = open_bags(tmp_path, str(made_features.stamp(tmp_path / "stamp"))).bag("B", patient_id="p", label=0)
    assert np.isnan(bag.x).all()
    assert np.isnan(bag.y).all()
    # STAMP's rows are written in the order of its threads, and read row by row.
    assert bag.read(np.arange(2)).tolist() == made_features.vectors("B").tolist()


@pytest.mark.parametrize(("bags_in_memory", "reads"), [(0, [2, 2, 2]), (1.5, [1, 3, 2]), (3, [1, 1, 1])])
def test_as_many_bags_as_fit_are_read_once(bags_in_memory: float, reads: list[int]) -> None:
    counts = [0, 0, 0]

    def counted(number: int) -> Bag:
        bag = made_bag(number, label=0, patches=10)

        def read(places: np.ndarray) -> np.ndarray:
            counts[number] += 1
            return bag.read(places)

        return replace(bag, read=read)

    in_memory = cached([counted(number) for number in range(3)], gib=bags_in_memory * 10 * DIM * 4 / 2**30)
    for bag in in_memory * 2:
        bag.read(np.arange(3))
    assert counts == reads

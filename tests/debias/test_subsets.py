"""Subsets in which class and tissue area are not correlated."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathopatch.core.errors import GroupEmptyError, InputUnsupportedError
from pathopatch.debias.phases import equal_areas, equal_groups

LABEL = np.repeat([0, 0, 1, 1], [50, 5, 8, 40])
ATTRIBUTE = np.repeat([0, 1, 0, 1], [50, 5, 8, 40])


def test_each_group_is_as_large_as_the_smallest_and_the_seed_chooses():
    kept = equal_groups(LABEL, ATTRIBUTE, np.zeros(103), 0)
    assert np.bincount(2 * LABEL[kept] + ATTRIBUTE[kept]).tolist() == [5] * 4
    assert (kept == equal_groups(LABEL, ATTRIBUTE, np.zeros(103), 0)).all()
    assert (kept != equal_groups(LABEL, ATTRIBUTE, np.zeros(103), 1)).any()
    with pytest.raises(GroupEmptyError):
        equal_groups(LABEL, np.where(LABEL == 1, 1, ATTRIBUTE), np.zeros(103), 0)


@given(
    st.lists(st.tuples(st.integers(0, 1), st.floats(0, 1)), min_size=2, max_size=12),
    st.floats(0.01, 0.3),
    st.integers(0, 3),
)
def test_pairs_have_equal_areas_and_no_more_could_be_made(samples, caliper, seed):
    label, area = (np.array(column) for column in zip(*samples, strict=True))

    def most(first, second):
        """Size of the largest matching, by trying everything."""
        if not first or not second:
            return 0
        rest = most(first[1:], second)
        fits = [k for k, value in enumerate(second) if abs(value - first[0]) <= caliper]
        return max([rest, *(1 + most(first[1:], second[:k] + second[k + 1 :]) for k in fits)])

    lists = [area[label == y].tolist() for y in (0, 1)]
    if max(map(len, lists)) > 6:
        return
    due = most(*lists)
    if due == 0:
        with pytest.raises(GroupEmptyError):
            equal_areas(label, label, area, seed, caliper=caliper)
        return
    kept = equal_areas(label, label, area, seed, caliper=caliper)
    chosen = [np.sort(area[kept & (label == y)]) for y in (0, 1)]
    assert len(chosen[0]) == len(chosen[1]) == due
    assert np.abs(chosen[0] - chosen[1]).max() <= caliper + 1e-12


def test_three_classes_and_unknown_areas_are_refused():
    with pytest.raises(InputUnsupportedError):
        equal_areas(np.array([0, 1, 2]), np.zeros(3, int), np.full(3, 0.5), 0, caliper=0.1)
    with pytest.raises(InputUnsupportedError):
        equal_areas(np.array([0, 1]), np.zeros(2, int), np.array([0.5, np.nan]), 0, caliper=0.1)

from __future__ import annotations

import numpy as np

from pathopatch.slides.separation import otsu


def test_values_that_differ_by_rounding_are_one_value() -> None:
    one = np.float32(0.7)
    assert otsu(np.array([one, np.nextafter(one, np.float32(1))], np.float32)) is None


def test_two_values_are_split_in_the_middle() -> None:
    threshold = otsu(np.array([0.2] * 10 + [0.8] * 10, np.float32))
    assert threshold is not None
    assert abs(threshold - 0.5) < 0.002

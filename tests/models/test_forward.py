"""What networks take: an area mean of any number of channels."""

import numpy as np

from pathopatch.models.forward import resize_area


def test_resizing_takes_area_means_for_more_than_four_channels():
    patches = np.arange(2 * 5 * 4 * 4, dtype=np.float32).reshape(2, 5, 4, 4)
    expected = patches.reshape(2, 5, 2, 2, 2, 2).mean(axis=(3, 5))
    np.testing.assert_allclose(resize_area(patches, 2), expected)
    assert resize_area(patches, 4) is patches

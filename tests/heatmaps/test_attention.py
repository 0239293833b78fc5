"""Maps of attention show the rank of each patch's weight at its place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pathopatch.features.slide_features import Encoder, SlideFeatures
from pathopatch.heatmaps.attention import attention_ranks, draw_attention
from pathopatch.heatmaps.overlay import ORIGIN


def placed(x: list[float], y: list[float], *, mpp: float | None = None) -> SlideFeatures:
    return SlideFeatures(
        slide_id="A", features=np.empty((len(x), 0)), encoder=Encoder(dim=0), path=Path("A.h5"), x=np.array(x),
        y=np.array(y), side=100.0, mpp=mpp, size_px=(1000, 1000),
    )  # fmt: skip


def test_ranks_go_from_0_to_1_and_equal_weights_share_one() -> None:
    assert attention_ranks(np.array([0.7, 0.1, 0.1, 0.1])).tolist() == pytest.approx([1, 1 / 3, 1 / 3, 1 / 3])
    assert attention_ranks(np.array([1.0])).tolist() == [0.5]


@pytest.mark.parametrize("mpp", [None, 0.5])
def test_the_highest_weight_has_the_strongest_colour_at_its_place(mpp: float | None) -> None:
    features = placed([0, 100, 200, 900], [0, 0, 0, 900], mpp=mpp)
    picture = draw_attention(features, np.array([0.1, 0.2, 0.6, 0.1])).astype(int)
    top, left = ORIGIN
    first, third, bare = (picture[top + y, left + x] for x, y in ((50, 50), (250, 50), (450, 450)))
    assert bare.tolist() == [255, 255, 255]
    assert third.sum() < first.sum() < bare.sum()
    assert third[1] > max(third[0], third[2])  # green

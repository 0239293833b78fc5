"""The colours of maps: their steps stay apart on tissue, for readers with any colour vision."""

import numpy as np
import pytest

from pathopatch.heatmaps.colors import LEGEND_TISSUE, MAP_OPACITY, blended

# Machado, Oliveira and Fernandes, "A physiologically-based model for simulation of color vision deficiency",
# IEEE Trans. Vis. Comput. Graph. 15 (2009), severity 1.0; on linear RGB.
VISION = {
    "normal": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
TISSUE = {
    "bright": {"pale": (228, 196, 214), "eosin": (200, 140, 180), "deep": (110, 60, 130)},
    "dark": {"black": (8, 8, 8), "dim": (40, 25, 15), "red": (120, 70, 40)},
}
CASES = [(ground, tissue) for ground in TISSUE for tissue in TISSUE[ground]]
XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
JUST_VISIBLE = 2.3  # distance in CIELAB; Mahy et al., Color Res. Appl. 19 (1994)


def seen(rgb, vision):
    """CIELAB (D65) of colours (..., 3), 0 to 255, as a reader sees them."""
    share = np.asarray(rgb) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    xyz = np.clip(linear @ np.transpose(VISION[vision]), 0, 1) @ XYZ.T / XYZ.sum(axis=1)
    x, y, z = np.moveaxis(np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116), -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def over(tissue, ground):
    """The map's quarters, 0 to 1, on a tissue."""
    return blended(np.array(tissue), np.linspace(0, 1, 5), ground, MAP_OPACITY)


def test_white_is_white_and_the_eye_without_red_cones_takes_red_for_dark():
    np.testing.assert_allclose(seen((255, 255, 255), "normal"), (100, 0, 0), atol=0.01)
    assert seen((255, 0, 0), "protan")[0] < seen((255, 0, 0), "normal")[0] - 10


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize(("ground", "tissue"), CASES)
def test_quarters_of_each_map_stay_a_visible_step_apart(ground, tissue, vision):
    steps = np.diff(seen(over(TISSUE[ground][tissue], ground), vision), axis=0)
    assert np.linalg.norm(steps, axis=1).min() > 1.5 * JUST_VISIBLE


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize(("ground", "tissue"), CASES)
def test_a_finding_stands_out_from_pale_deep_and_dark_tissue(ground, tissue, vision):
    none, *_, full = seen(over(TISSUE[ground][tissue], ground), vision)
    assert np.linalg.norm(full - none) > 15


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("ground", TISSUE)
def test_the_legend_shows_each_quarter_apart(ground, vision):
    steps = np.diff(seen(over(LEGEND_TISSUE[ground], ground), vision), axis=0)
    assert np.linalg.norm(steps, axis=1).min() > JUST_VISIBLE

from pathlib import Path

import made_features
import numpy as np
import pytest

from pathopatch.core.errors import InputUnsupportedError, MppMissingError
from pathopatch.features.readers import open_features, slideflow


def test_centres_become_corners_once_um_per_px_is_known(tmp_path: Path) -> None:
    slide = open_features(made_features.slideflow(tmp_path)).read("A")
    assert (slide.is_centre, slide.side, slide.side_um) == (True, None, 256.0)
    with pytest.raises(MppMissingError, match="centres of patches"):
        slide.in_level0_px()
    np.testing.assert_array_equal(slide.in_level0_px(0.5).x, made_features.XY["A"][:, 0])


def test_a_magnification_is_no_side(tmp_path: Path) -> None:
    slide = open_features(made_features.slideflow(tmp_path, tile_um="20x")).read("A")
    assert slide.side_um is None
    assert slideflow.NO_SIDE in slide.notes
    with pytest.raises(InputUnsupportedError, match="the side of a patch is not known"):
        slide.in_level0_px(0.5)


def test_without_the_index_there_are_no_coordinates(tmp_path: Path) -> None:
    folder = made_features.slideflow(tmp_path)
    (folder / "A.index.npz").unlink()
    slide = open_features(folder).read("A")
    assert (slide.x, slide.is_centre) == (None, False)
    assert slideflow.NO_INDEX in slide.notes


def test_the_extractor_is_the_last_part_of_its_class(tmp_path: Path) -> None:
    assert open_features(made_features.slideflow(tmp_path)).read("A").encoder.name == "RetCCLFeatures"

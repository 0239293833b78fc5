from pathlib import Path

import made_features
import numpy as np
import pytest

from pathopatch.core.errors import InputUnsupportedError
from pathopatch.features.readers import open_features


def test_the_first_two_of_five_columns_are_the_corner(tmp_path: Path) -> None:
    slide = open_features(made_features.atlaspatch(tmp_path)).read("A")
    np.testing.assert_array_equal(np.column_stack([slide.x, slide.y]), made_features.XY["A"])


def test_side_and_size_are_attributes_of_the_file(tmp_path: Path) -> None:
    slide = open_features(made_features.atlaspatch(tmp_path)).read("A")
    assert (slide.side, slide.size_px, slide.mpp) == (512.0, made_features.SIZE_PX, None)


def test_one_of_several_encoders_is_chosen_by_its_name(tmp_path: Path) -> None:
    folder = made_features.atlaspatch(tmp_path, encoders=("conch_v15", "uni_v2"))
    with pytest.raises(InputUnsupportedError, match=r"2 sets of features: .*conch_v15, .*uni_v2"):
        open_features(folder)
    assert open_features(folder / "uni_v2").read("A").encoder.name == "uni_v2"


def test_coordinates_before_any_encoder_are_no_features(tmp_path: Path) -> None:
    folder = made_features.atlaspatch(tmp_path, slides=("A",))
    made_features.atlaspatch(tmp_path, slides=("B",), encoders=())
    assert open_features(folder).slide_ids == ("A",)

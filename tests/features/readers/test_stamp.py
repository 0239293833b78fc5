from pathlib import Path

import h5py
import made_features
import numpy as np
import pytest

from pathopatch.core.errors import InputUnsupportedError, MppMissingError
from pathopatch.features.readers import open_features


def test_coordinates_are_micrometres_until_um_per_px_is_known(tmp_path: Path) -> None:
    slide = open_features(made_features.stamp(tmp_path)).read("A")
    assert (slide.unit, slide.side, slide.x.max()) == ("um", 256.0, 512.0)
    with pytest.raises(MppMissingError, match="micrometres"):
        slide.in_level0_px()
    at_quarter = slide.in_level0_px(0.25)
    assert (at_quarter.unit, at_quarter.side, at_quarter.x.max()) == ("px", 1024.0, 2048.0)


@pytest.mark.parametrize("order", [-1, 1])
def test_rows_come_in_one_order_however_threads_ended(tmp_path: Path, order: int) -> None:
    slide = open_features(made_features.stamp(tmp_path, order=order)).read("A")
    np.testing.assert_array_equal(slide.features, made_features.vectors("A"))


def test_version_2_0_names_the_size_without_its_unit(tmp_path: Path) -> None:
    folder = made_features.stamp(tmp_path, slides=("A",))
    _forget(folder, "tile_size_um")
    with h5py.File(next(folder.rglob("A.h5")), "r+") as file:
        file.attrs["tile_size"] = 300.0
    assert open_features(folder).read("A").side == 300.0


def test_coordinates_without_a_unit_are_not_guessed(tmp_path: Path) -> None:
    folder = made_features.stamp(tmp_path, slides=("A",))
    _forget(folder, "tile_size_um", "unit")
    with pytest.raises(InputUnsupportedError, match="no unit"):
        open_features(folder).read("A")


def test_a_newer_version_is_read(tmp_path: Path) -> None:
    assert len(open_features(made_features.stamp(tmp_path, stamp_version="9.0.0")).read("A")) == 4


@pytest.mark.parametrize("kind", ["slide", "patient"])
def test_features_of_slides_and_patients_are_no_patches(tmp_path: Path, kind: str) -> None:
    folder = made_features.stamp(tmp_path)
    path = folder / "titan-slide" / "A.h5"
    path.parent.mkdir()
    with h5py.File(path, "w") as file:
        file["feats"] = np.ones((1, 768), np.float16)
        file["coords"] = np.zeros((1, 2), np.float32)
        file.attrs.update({"feat_type": kind, "encoder": "titan"})
    assert open_features(folder).file("A").parent.name == "cohort"


def _forget(folder: Path, *names: str) -> None:
    for path in folder.rglob("*.h5"):
        with h5py.File(path, "r+") as file:
            for name in names:
                del file.attrs[name]

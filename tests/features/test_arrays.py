import subprocess
import sys
from pathlib import Path

import made_features
import numpy as np
import pytest

import pathopatch
from pathopatch.features.arrays import read


def test_slides_follow_each_other_row_by_row(tmp_path: Path) -> None:
    patches = read(made_features.slide2vec(tmp_path))
    expected = np.concatenate([made_features.vectors("A"), made_features.vectors("B")])
    np.testing.assert_array_equal(patches.features, expected)
    assert patches.slide_id.tolist() == ["A"] * 4 + ["B"] * 2
    np.testing.assert_array_equal(patches.x, [0, 512, 0, 1024, 512, 1024])
    np.testing.assert_array_equal(patches.y, [0, 0, 512, 1536, 512, 512])
    np.testing.assert_array_equal(patches.side, [512] * 6)
    assert patches.tissue_fraction.tolist() == pytest.approx([0.1, 0.5, 0.9, 1.0, 0.25, 0.75])
    assert patches.encoder.name == "uni2"


def test_one_file_gives_its_slide_alone(tmp_path: Path) -> None:
    assert set(read(made_features.trident(tmp_path) / "B.h5").slide_id) == {"B"}


def test_what_some_slides_lack_is_not_there(tmp_path: Path) -> None:
    folder = made_features.slide2vec(tmp_path)
    path = folder / "tiles" / "B.coordinates.npz"
    xy = made_features.XY["B"]
    np.savez(path, x=xy[:, 0], y=xy[:, 1])
    assert read(folder).tissue_fraction is None


def test_micrometres_stay_until_um_per_px_is_stated(tmp_path: Path) -> None:
    folder = made_features.stamp(tmp_path)
    assert (read(folder).unit, read(folder).side[0]) == ("um", 256.0)
    assert (read(folder, mpp=0.25).unit, read(folder, mpp=0.25).side[0]) == ("px", 1024.0)


def test_read_is_reached_from_the_package() -> None:
    assert pathopatch.features.read is read


@pytest.mark.slow
def test_importing_features_loads_neither_torch_nor_h5py() -> None:
    code = (
        "import sys, pathopatch; pathopatch.features.read; pathopatch.features.readers.LAYOUTS; "
        "print(sorted({'torch', 'h5py', 'pandas', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

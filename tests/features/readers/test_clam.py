from pathlib import Path

import made_features
import numpy as np
import pytest

from pathopatch.core.errors import CheckpointUnsafeError, InputUnsupportedError
from pathopatch.features.readers import open_features, tools


def test_without_the_patches_the_side_is_unknown_and_said_so(tmp_path: Path) -> None:
    slide = open_features(made_features.clam(tmp_path, patches=False)).read("A")
    assert slide.side is None
    assert slide.x.dtype == np.float64  # int32 in the file
    assert tools.CLAM_NO_PATCHES in slide.notes


def test_of_several_sizes_the_patches_with_these_corners_count(tmp_path: Path) -> None:
    folder = made_features.clam(tmp_path)
    other = made_features.XY["A"] // 2
    made_features.clam_patches(folder.parent / "patches" / "A.h5", other, patch_px=128)
    made_features.clam_patches(tmp_path / "run2" / "patches" / "A.h5", made_features.XY["A"], patch_px=64)
    assert open_features(folder).read("A").side == 64 * 2


def test_of_two_sizes_with_the_same_corners_none_is_chosen(tmp_path: Path) -> None:
    folder = made_features.clam(tmp_path)
    made_features.clam_patches(tmp_path / "run2" / "patches" / "A.h5", made_features.XY["A"], patch_px=64)
    slide = open_features(folder).read("A")
    assert slide.side is None
    assert tools.CLAM_NO_PATCHES in slide.notes


def test_the_side_counts_pixels_of_its_level(tmp_path: Path) -> None:
    folder = made_features.clam(tmp_path)
    made_features.clam_patches(tmp_path / "patches" / "A.h5", made_features.XY["A"], patch_px=100, custom_downsample=2)
    assert open_features(folder).read("A").side == 100 * 2 * 2


def test_the_id_ends_before_the_ending_of_the_slide(tmp_path: Path) -> None:
    folder = made_features.clam(tmp_path, slides=("A",))
    path = folder / "h5_files" / "A.h5"
    path.rename(path.with_name("A.svs.h5"))
    slide = open_features(folder).read("A")
    assert slide.side == made_features.SIDE  # found as patches/A.h5


def test_dots_in_the_name_of_a_slide_stay(tmp_path: Path) -> None:
    folder = made_features.clam(tmp_path, slides=("A",))
    path = folder / "h5_files" / "A.h5"
    path.rename(path.with_name("TCGA-02-0001-01Z.5f2e-11.h5"))
    assert open_features(folder).slide_ids == ("TCGA-02-0001-01Z.5f2e-11",)


def test_both_halves_are_one_slide_and_no_torch_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_features.clam_tensors(tmp_path)
    folder = made_features.clam(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    assert len(open_features(folder).read("A")) == 4


def test_tensors_without_patches_have_no_coordinates(tmp_path: Path) -> None:
    folder = made_features.clam_tensors(tmp_path)
    (tmp_path / "patches" / "A.h5").unlink()
    slide = open_features(folder).read("A")
    assert slide.x is None
    assert tools.CLAM_NO_COORDINATES in slide.notes


def test_without_torch_tensors_are_refused_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made_features.clam_tensors(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(InputUnsupportedError, match="pip install torch"):
        open_features(folder).read("A")


def test_a_pickle_in_place_of_a_tensor_is_not_run(tmp_path: Path) -> None:
    import torch

    folder = made_features.clam_tensors(tmp_path)
    path = folder / "pt_files" / "A.pt"
    torch.save(_Touch(tmp_path / "ran"), path)
    with pytest.raises(CheckpointUnsafeError, match=r"nothing was run.*A\.pt"):
        open_features(folder).read("A")
    assert not (tmp_path / "ran").exists()


class _Touch:
    """What runs when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)

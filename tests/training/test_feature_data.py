"""Features as patches of one pixel: what is loaded, and which settings they allow."""

import shutil

import h5py
import numpy as np
import pytest
from feature_work import DIM, write_features
from made_patches import write_work

from pathopatch.core import artefacts
from pathopatch.core.config import GroupsConfig, TrainConfig, head_settings
from pathopatch.core.errors import InputChangedError, InputUnsupportedError, StaleArtefactError
from pathopatch.core.work_folder import WorkFolder
from pathopatch.stages.groups import form_groups
from pathopatch.stages.import_features import import_features
from pathopatch.stages.train import recommended
from pathopatch.training.dataset import load_features
from pathopatch.training.run import cohort_settings, load_sets


def _imported(place):
    folder, labels = write_features(place, slides=6, patches=20, dtype=np.float16)
    import_features(place / "work", folder, labels)
    form_groups(place / "work", GroupsConfig())
    return place / "work"


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    return _imported(tmp_path_factory.mktemp("features"))


@pytest.fixture
def work(imported, tmp_path):
    """A copy of it; the features stay where they are."""
    return shutil.copytree(imported, tmp_path / "work")


def _groups(work):
    return artefacts.read_table(WorkFolder(work).groups)


def test_each_patch_gets_the_row_of_its_own_file_in_any_order(work, imported):
    groups = _groups(work).sample(frac=1, random_state=0)
    patches = load_features(work, groups, splits=("train", "test"))
    assert patches.x.shape == (100, DIM, 1, 1)
    assert patches.x.dtype == np.float16
    for place in (0, 57):
        slide, _, position = str(patches.patch_id[place]).partition("@")
        with h5py.File(next(imported.parent.rglob(f"{slide}.h5"))) as file:
            xy = [f"{x},{y}" for x, y in file["coords"][:]]
            np.testing.assert_array_equal(patches.x[place, :, 0, 0], file["features"][xy.index(position)])


def test_labels_and_attributes_are_those_of_the_groups(work):
    groups = _groups(work)
    _, patches = load_sets(work, groups, cohort_settings(work, TrainConfig(threshold=0.25)))
    rows = groups.set_index("patch_id").loc[patches.patch_id]
    assert set(rows["split"]) == {"val"}
    np.testing.assert_array_equal(patches.label, rows["label"])
    np.testing.assert_array_equal(patches.attribute, rows["tissue_fraction"] >= 0.25)


def test_one_file_of_float32_makes_all_float32(tmp_path):
    folder, labels = write_features(tmp_path, slides=6, patches=20, dtype=np.float16)
    with h5py.File(folder / "s03.h5", "r+") as file:
        values = file["features"][:].astype(np.float32) * 1e5  # beyond float16
        attributes = dict(file["features"].attrs)
        del file["features"]
        file["features"] = values
        file["features"].attrs.update(attributes)
    import_features(tmp_path / "work", folder, labels)
    form_groups(tmp_path / "work", GroupsConfig())
    patches = load_features(tmp_path / "work", _groups(tmp_path / "work"), splits=("train",))
    assert patches.x.dtype == np.float32
    np.testing.assert_array_equal(patches.x[patches.slide == "s03", :, 0, 0], values)


def test_a_changed_file_of_features_is_refused(tmp_path):
    work = _imported(tmp_path)
    with h5py.File(next(work.parent.rglob("s00.h5")), "r+") as file:
        file["features"][0, 0] = 1
    with pytest.raises(InputChangedError, match="s00"):
        load_features(work, _groups(work), splits=("train",))


def test_a_patch_that_the_patch_tables_lack_is_refused(work):
    groups = _groups(work)
    groups.loc[groups["split"] == "train", "patch_id"] += "0"
    with pytest.raises(StaleArtefactError, match="not in the patch table"):
        load_features(work, groups, splits=("train",))


def test_no_row_gives_an_empty_set_of_the_right_width(work):
    patches = load_features(work, _groups(work).iloc[:0], splits=("train",))
    assert patches.x.shape == (0, DIM, 1, 1)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"architecture": "resnet18"}, "takes patches"),
        ({"method": "auto"}, "cannot be composed"),
        ({"composing": {"share": 0.5}}, "cannot be composed"),
        ({"mask": "normalise"}, "cannot be masked"),
        ({"pretrained": "efficientnet-lite0"}, "no pretrained weights"),
    ],
)
def test_settings_of_patches_are_refused_on_features(work, changes, reason):
    with pytest.raises(InputUnsupportedError, match=reason):
        cohort_settings(work, TrainConfig(**changes))


def test_a_head_is_refused_on_patches(tmp_path):
    write_work(tmp_path)
    with pytest.raises(InputUnsupportedError, match="the work folder holds patches"):
        cohort_settings(tmp_path, recommended(tmp_path, TrainConfig(architecture="linear"))[0])
    assert cohort_settings(tmp_path, TrainConfig()) == TrainConfig()


def test_features_are_trained_by_a_linear_head_in_one_step(work):
    settings = cohort_settings(work, TrainConfig(steps=50))
    assert (settings.architecture, settings.input_px, settings.steps) == ("linear", 1, 1)
    assert (settings.augment, settings.average_weights) == (False, False)


def test_settled_settings_stay_as_they_are():
    once = head_settings(TrainConfig())
    assert head_settings(once) == once
    assert TrainConfig.model_validate(once.model_dump(mode="json")) == once

"""Heads on a cohort of features: every method, the search, the bundle, the evaluation."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from feature_work import DIM, planted, write_features
from made_model import edit_spec

from pathopatch import metrics
from pathopatch.core.artefacts import read_table
from pathopatch.core.config import GroupsConfig, TrainConfig, TuneConfig
from pathopatch.core.errors import ChannelMismatchError, CheckpointIncompatibleError, InputUnsupportedError
from pathopatch.core.method_names import COMPOSING_METHODS, METHOD_NAMES
from pathopatch.core.work_folder import WorkFolder
from pathopatch.evaluation.evaluate import evaluate_run
from pathopatch.evaluation.external_validation import evaluate_bundle
from pathopatch.models.loading import load_model
from pathopatch.stages.groups import form_groups
from pathopatch.stages.import_features import import_features
from pathopatch.training.dataset import load_features
from pathopatch.training.run import fit
from pathopatch.training.tune import tune

METHODS = [name for name in METHOD_NAMES if name not in COMPOSING_METHODS]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("features")
    place, labels = write_features(folder)
    import_features(folder / "work", place, labels)
    form_groups(folder / "work", GroupsConfig(bins=(0.2, 0.6)))
    return folder / "work"


@pytest.fixture
def model(work):
    folder = fit(work, TrainConfig(method="gerne", threads=1)) / "model"
    return folder, load_model(folder)


def _weights(folder):
    from safetensors.numpy import load_file

    return load_file(folder / "model" / "model.safetensors")["classifier.weight"]


def _test_wga(work, run):
    model = load_model(work / "runs" / run.name / "model")
    patches = load_features(work, read_table(WorkFolder(work).groups), splits=("test",))
    logits = model.predict_logits(patches.x[:, :, 0, 0])
    return metrics.worst_group_accuracy(logits.argmax(axis=1), patches.label, patches.tissue_fraction >= 0.25)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_a_head(work, method):
    history = pd.read_csv(fit(work, TrainConfig(method=method, threads=1)) / "history.csv")
    assert np.isfinite(history["val_wga"]).all()
    assert set(history["step"]) == {1}


def test_gerne_undoes_the_shortcut_that_erm_learns(work):
    worst = {name: _test_wga(work, fit(work, TrainConfig(method=name, threads=1))) for name in ("erm", "gerne")}
    assert worst["erm"] < 0.55
    assert worst["gerne"] > 0.7


def test_a_linear_head_depends_neither_on_seed_nor_on_rate(work):
    first = _weights(fit(work, TrainConfig(method="gerne", threads=1)))
    other = _weights(fit(work, TrainConfig(method="gerne", threads=1, seed=3, learning_rate=1.0, name="other")))
    np.testing.assert_array_equal(first, other)


def test_more_weight_decay_makes_a_smaller_linear_head(work):
    runs = [fit(work, TrainConfig(threads=1, weight_decay=value, name=f"wd{value:g}")) for value in (1e-3, 1.0)]
    assert np.linalg.norm(_weights(runs[1])) < 0.5 * np.linalg.norm(_weights(runs[0]))


def test_the_search_of_a_linear_head_tries_each_s_once_and_no_rate(work):
    run = tune(work, TrainConfig(method="gerne", threads=1, name="tuned"), TuneConfig(trials=6))
    table = pd.read_csv(run / "trials.csv")
    assert table["learning_rate"].nunique() == 1
    assert table["weight_decay"].nunique() == 6
    assert table["weight_decay"].max() > 0.1  # where weights act on features that separate the patches
    assert table["s"].nunique() == 6  # s >= c, of which there are seven
    assert (table["steps"] == 1).all()


def test_a_bundle_states_its_encoder_and_refuses_another(work, model, tmp_path):
    folder, loaded = model
    assert loaded.spec.encoder == {"dim": DIM, "name": "uni_v1"}
    assert "| encoder | uni_v1 |" in (folder / "README.md").read_text()
    forged = tmp_path / "forged"
    shutil.copytree(folder, forged)
    edit_spec(forged, encoder={"dim": DIM, "name": "uni_v2"})
    with pytest.raises(CheckpointIncompatibleError, match="encoder"):
        load_model(forged)


def test_numpy_and_torch_give_the_same_logits(model):
    folder = model[0]
    x = planted(50, seed=99)[0]
    by_numpy, by_torch = load_model(folder), load_model(folder, runtime="torch", device="cpu")
    assert (by_numpy.runtime.name, by_torch.runtime.name) == ("numpy", "torch")
    np.testing.assert_allclose(by_numpy.predict_logits(x), by_torch.predict_logits(x), atol=1e-4)
    assert by_numpy.runtime.weights == by_torch.runtime.weights


def test_features_of_another_length_are_refused(model):
    with pytest.raises(ChannelMismatchError, match=rf"takes \(N, {DIM}\)"):
        model[1].predict_logits(np.zeros((3, DIM + 1), np.float32))


def test_no_features_give_no_logits(model):
    assert model[1].predict_logits(np.zeros((0, DIM), np.float16)).shape == (0, 2)


def test_a_head_is_not_exported_as_a_network_of_patches(model, tmp_path):
    from pathopatch.models.export import export_model

    with pytest.raises(InputUnsupportedError, match="takes features"):
        export_model(model[0], tmp_path / "out", kind="onnx")


def test_an_evaluation_holds_the_logits_of_the_head(work, model):
    folder, loaded = model
    out = evaluate_run(work, folder.parent.name)
    table = read_table(out / "predictions.parquet").set_index("patch_id")
    patches = load_features(work, read_table(WorkFolder(work).groups), splits=("test",))
    logits = loaded.predict_logits(patches.x[:, :, 0, 0])
    np.testing.assert_allclose(table.loc[patches.patch_id, "logit"], logits[:, 1] - logits[:, 0], atol=1e-5)


def test_a_head_is_evaluated_on_features_of_its_own_encoder_alone(work, model, tmp_path):
    place, labels = write_features(tmp_path, slides=6)
    import_features(tmp_path / "own", place, labels)
    form_groups(tmp_path / "own", GroupsConfig())
    out = evaluate_bundle(tmp_path / "own", model[0])
    warnings = json.loads((out / "metrics.json").read_text())["warnings"]
    assert any(re.search("The encoder's .*pooling could not be compared", text) for text in warnings)
    place, labels = write_features(tmp_path, slides=6, encoder="conch_v1")
    import_features(tmp_path / "other", place, labels)
    form_groups(tmp_path / "other", GroupsConfig())
    with pytest.raises(CheckpointIncompatibleError, match="name is .conch_v1., the model.s .uni_v1."):
        evaluate_bundle(tmp_path / "other", model[0])

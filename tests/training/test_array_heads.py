"""Heads on plain arrays."""

import numpy as np
import pytest
from feature_work import planted

from pathopatch import features
from pathopatch.core.errors import InputUnsupportedError, SplitLeakageError


@pytest.fixture(scope="module")
def arrays():
    parts = [planted(400, seed=0), planted(200, seed=1, conflict=0.5)]
    x, label, tissue = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    is_val = np.arange(600) >= 400
    return {"features": x, "label": label, "attribute": tissue >= 0.25, "val": is_val}


def test_the_readme_s_use_of_arrays(arrays):
    x, label, is_val = arrays["features"], arrays["label"], arrays["val"]
    has_much_tissue = arrays["attribute"]
    patient = np.where(is_val, 100, 0) + np.arange(600) % 10
    x_test, label_test, tissue_test = planted(300, seed=2, conflict=0.5)

    head = features.fit_head(x, label, has_much_tissue, val=is_val, patient=patient, method="gerne", threads=1)
    assert 0 < head.validation["wga"] <= 1
    assert np.isfinite(head.threshold)
    scores = head.accuracies(x_test, label_test, tissue_test >= 0.25)

    erm = features.fit_head(x, label, has_much_tissue, val=is_val, method="erm", trials=1, threads=1)
    assert scores["wga"] > erm.accuracies(x_test, label_test, tissue_test >= 0.25)["wga"] + 0.1
    predicted = head.predict(x_test)
    cells = [(label_test == y) & ((tissue_test >= 0.25) == a) for y in (0, 1) for a in (0, 1)]
    assert scores["wga"] == pytest.approx(min((predicted == label_test)[cell].mean() for cell in cells))
    assert np.isnan(scores["wga_low"])


def test_logits_are_those_of_the_rows_given(arrays):
    head = features.fit_head(**arrays, trials=1, threads=1)
    x = arrays["features"]
    np.testing.assert_allclose(head.logits(x[::3]), head.logits(x)[::3], atol=1e-5)


def test_float16_features_are_not_changed(arrays):
    x = arrays["features"].astype(np.float16)
    before = x.copy()
    features.fit_head(**{**arrays, "features": x}, trials=1, threads=1)
    np.testing.assert_array_equal(x, before)


def test_a_patient_on_both_sides_is_refused(arrays):
    with pytest.raises(SplitLeakageError, match="10 patients"):
        features.fit_head(**arrays, patient=np.arange(600) % 10)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"attribute": np.linspace(0, 1, 600)}, "attribute of shape"),
        ({"label": np.zeros(3, int)}, "label of shape"),
        ({"features": np.zeros((600, 4))}, "float64"),
        ({"val": np.arange(600)}, "val of shape"),
        ({"method": "auto"}, "cannot be composed"),
        ({"architecture": "resnet18"}, "takes patches"),
    ],
)
def test_arrays_and_settings_that_do_not_fit_are_refused(arrays, changes, reason):
    with pytest.raises(InputUnsupportedError, match=reason):
        features.fit_head(**{**arrays, **changes})

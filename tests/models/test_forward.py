"""What networks take: an area mean of any number of channels."""

from types import SimpleNamespace

import numpy as np
from made_model import made_spec

from pathopatch.models.forward import Ensemble, PatchClassifier, resize_area

MULTIMODAL = {"patch_px": 96, "channels": ("CARS", "SHG"), "method": "gerne"}
RUNTIME = SimpleNamespace(name="openvino", version="1", precision="float32")


def test_resizing_takes_area_means_for_more_than_four_channels():
    patches = np.arange(2 * 5 * 4 * 4, dtype=np.float32).reshape(2, 5, 4, 4)
    expected = patches.reshape(2, 5, 2, 2, 2, 2).mean(axis=(3, 5))
    np.testing.assert_allclose(resize_area(patches, 2), expected)
    assert resize_area(patches, 4) is patches


def test_a_model_says_what_it_takes_and_what_runs_it():
    model = PatchClassifier(made_spec(**MULTIMODAL), RUNTIME)
    line = "<PatchClassifier gerne: tumour or non-tumour by CARS, SHG, 96 px at 0.5 um/px, openvino, float32>"
    assert repr(model) == line
    assert repr(Ensemble([model])) == f"<Ensemble of 1 model: {line}>"
    encoder = {"name": "uni", "dim": 2}
    head = made_spec(1, (), encoder=encoder, architecture="linear", dtype="float32", mean=(0.5, 0.5), std=(0.2, 0.2))
    assert "tumour or non-tumour by 2 features of uni" in repr(PatchClassifier(head, RUNTIME))


def test_the_card_of_a_model_has_its_groups_and_escaped_text():
    validated = {"by": "threshold 0.25", "attributes": ["little", "much"]}
    metrics = {"wga": 0.5, "n of label 1, attribute 0": 40, "accuracy of label 1, attribute 0": 0.5}
    spec = made_spec(**MULTIMODAL, class_names=("<b>", "tumour"), group_metrics=metrics, data={"validated": validated})
    html = PatchClassifier(spec, RUNTIME)._repr_html_()
    assert "tumour or &lt;b&gt; by CARS, SHG" in html
    assert "<b>" not in html
    assert 'worst-group accuracy</th><td style="text-align:left">0.5</td>' in html
    assert 'validation, tumour, little</th><td style="text-align:left">0.5 of 40 patches</td>' in html
    assert (
        Ensemble([PatchClassifier(made_spec(**MULTIMODAL), RUNTIME)])._repr_html_().count("Model trained by gerne") == 1
    )

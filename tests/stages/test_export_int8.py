"""Models in int8: calibrated on every group, written with the table of both, refused where a group loses."""

import json

import numpy as np
import openvino
import pytest
from made_patches import write_work

from pathopatch.core.artefacts import read_table
from pathopatch.core.config import TrainConfig
from pathopatch.core.errors import InputUnsupportedError
from pathopatch.core.work_folder import WorkFolder
from pathopatch.models.bundle import read_spec
from pathopatch.models.export.openvino_ir import convert
from pathopatch.models.export.write import onnx_bytes
from pathopatch.models.loading import load_model, load_network
from pathopatch.models.spec import BundleSpec
from pathopatch.stages import export_int8
from pathopatch.training.run import fit

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A work folder and a model that tells its classes."""
    work = tmp_path_factory.mktemp("work")
    write_work(work, contrast=0.5)
    config = TrainConfig(method="resample", input_px=16, steps=40, evaluations=1, batch_per_class=8, device="cpu")
    return work, fit(work, config) / "model"


def test_a_model_in_int8_is_written_with_the_accuracy_of_every_group(trained, tmp_path):
    work, bundle = trained
    out = export_int8.export_int8(bundle, work, tmp_path / "out")
    facts = json.loads((out / "export.json").read_text())
    assert facts["stamp"]["settings"]["int8"]["calibrated"] > 20
    card = (out / "README.md").read_text()
    for group in ("non-tumour, little", "non-tumour, much", "tumour, little", "tumour, much"):
        assert f"| {group} tissue |" in card
    model = openvino.Core().read_model(out / "model.xml")
    assert any(operation.get_type_name() == "FakeQuantize" for operation in model.get_ops())
    groups = read_table(WorkFolder(work).groups)
    of_test = export_int8._patches(work, groups, read_spec(bundle), ("test",), place="")
    patches = of_test.read(np.arange(len(of_test)))
    by_int8 = openvino.compile_model(model, "CPU")(patches)[0]
    logits = load_model(bundle, precision="float32").predict_logits(patches)
    exact = 1 / (1 + np.exp((logits[:, 0] - logits[:, 1]) / read_spec(bundle).temperature))
    np.testing.assert_allclose(by_int8[:, 1], exact, atol=0.1)
    assert export_int8.export_int8(bundle, work, tmp_path / "out") == out  # the same export is left alone


def test_int8_is_refused_where_a_group_loses_more_than_a_point(trained, tmp_path, monkeypatch):
    work, bundle = trained

    def reversed_classes(model, patches):
        spec = read_spec(bundle)
        network = load_network(bundle)
        network.classifier.weight.data *= -1
        network.classifier.bias.data *= -1
        monkeypatch.setattr("pathopatch.models.export.write.load_network", lambda _: network)
        return convert(onnx_bytes(bundle, spec))

    monkeypatch.setattr(export_int8, "quantized", reversed_classes)
    with pytest.raises(InputUnsupportedError, match=r"a group loses \d.*\n.*float32 \| int8(.*\n)+"):
        export_int8.export_int8(bundle, work, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_same_number_of_every_group_calibrates(trained):
    work, bundle = trained
    spec: BundleSpec = read_spec(bundle)
    groups = read_table(WorkFolder(work).groups)
    patches = export_int8._patches(work, groups, spec, ("train",), place="")
    chosen = export_int8._some_of_each_group(patches)
    counts = np.bincount(2 * patches.label[chosen] + patches.attribute[chosen])
    assert counts.tolist() == np.bincount(2 * patches.label + patches.attribute).clip(max=75).tolist()
    assert set(patches.attribute) == {0, 1}

"""A bundle that was changed fails `verify`, also where both its sides were edited alike; timm opens it as its own."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from made_model import as_old_bundle, edit_both, edit_spec, made_spec, stated, write_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from pathopatch.cli.program import app
from pathopatch.core.errors import (
    CheckpointIncompatibleError,
    InputCorruptError,
    InputMissingError,
    InputUnsupportedError,
)
from pathopatch.models import verify
from pathopatch.models.bundle import checked_bundle, record_reliance, rewrite_graph, save_bundle
from pathopatch.models.forward import sample_patches
from pathopatch.models.loading import load_model, load_network
from pathopatch.models.networks import build_network
from pathopatch.models.spec import AreaReliance, BundleSpec
from pathopatch.models.verify import Verified, verify_bundle

PATCH_PROGRAMS = ["torch", "openvino"]
HEAD = {
    "architecture": "linear", "channels": (), "dtype": "float16", "patch_px": 1, "stride_px": 1, "input_px": 1,
    "mean": (0.5,) * 3, "std": (2.0,) * 3, "method": "erm", "encoder": {"dim": 3, "name": "uni_v1"},
}  # fmt: skip


@pytest.fixture
def bundle(tmp_path):
    return write_model(tmp_path / "model")


def _verify(*arguments):
    return CliRunner().invoke(app, ["verify", *map(str, arguments)])


def _programs(verified: list[Verified]) -> list[str]:
    return [one.runtime.split()[0] for one in verified]


def _restore(bundle, weights):
    with safe_open(bundle / "model.safetensors", framework="pt") as stream:
        metadata = stream.metadata()
    save_file(weights, bundle / "model.safetensors", metadata=metadata)


@pytest.mark.parametrize("mask", ["none", "normalise", "interior"])
def test_every_program_gives_the_answers_that_were_kept(tmp_path, mask):
    crop = {"crop_px": 12} if mask == "interior" else {}
    torch.manual_seed(0)
    network = build_network("small-groupnorm", 3, is_masked=mask == "normalise")
    spec = made_spec(40, input_px=20, mask=mask, **crop)
    save_bundle(tmp_path / "model", network, spec)
    logits = json.loads((tmp_path / "model" / "check.json").read_text())["logits"]
    model = load_model(tmp_path / "model", device="cpu", runtime="torch", precision="float32")
    np.testing.assert_array_equal(np.float32(logits), model.predict_logits(*sample_patches(spec)))
    verified = verify_bundle(tmp_path / "model")
    assert _programs(verified) == PATCH_PROGRAMS
    assert [one.problem for one in verified] == [""] * 2
    assert verified[0].difference == 0
    assert 0 < max(one.difference for one in verified) < 1e-5


def test_a_head_on_features_is_verified_by_numpy_and_torch(tmp_path):
    network = build_network("linear", 3)
    save_bundle(tmp_path / "head", network, BundleSpec(**HEAD))
    features = (sample_patches(BundleSpec(**HEAD))[0] - 0.5) / 2
    by_hand = network(torch.from_numpy(features)[:, :, None, None]).detach().numpy()
    np.testing.assert_allclose(json.loads((tmp_path / "head" / "check.json").read_text())["logits"], by_hand, atol=1e-6)
    assert _programs(verify_bundle(tmp_path / "head")) == ["torch", "numpy"]


def test_one_flipped_weight_is_found_whoever_keeps_its_digest(bundle):
    weights = load_file(bundle / "model.safetensors")
    weights["classifier.bias"][0] *= -1
    _restore(bundle, weights)
    with pytest.raises(InputCorruptError, match="the weights of the model are not those"):
        verify_bundle(bundle)
    check = json.loads((bundle / "check.json").read_text())
    check["weights_sha256"] = verify.file_fingerprint(bundle / "model.safetensors")
    (bundle / "check.json").write_text(json.dumps(check))
    with pytest.raises(InputCorruptError, match="is not the file that"):  # of the graph
        verify_bundle(bundle)
    edit_spec(bundle, onnx=None)
    (torch_alone,) = verify_bundle(bundle)
    assert "a logit differs by" in torch_alone.problem
    assert torch_alone.difference > 1e-4


@pytest.mark.parametrize(
    "changes",
    [
        {"mean": [0.4] * 3},
        {"std": [0.3] * 3},
        {"class_names": ["tumour", "non-tumour"]},
        {"mask": "interior", "crop_px": 12, "onnx": None},
        {"tissue": {"background": "dark"}},
        {"temperature": 2.0},
        {"decision_threshold": 0.5},
        {"min_tissue": 0.5},
        {"min_scanned": 0.25},
        {"mpp": 1.0},
    ],
    ids=str,
)
def test_a_setting_that_is_edited_on_both_sides_is_found(bundle, changes):
    edit_both(bundle, **changes)
    with pytest.raises(InputCorruptError, match="the settings of the model are not those"):
        verify_bundle(bundle)


def test_a_bundle_without_answers_is_told_how_to_store_them(bundle):
    (bundle / "check.json").unlink()
    with pytest.raises(InputMissingError) as raised:
        verify_bundle(bundle)
    assert "pathopatch verify" in raised.value.remedy
    assert "--write" in raised.value.remedy
    verify.rewrite_check(bundle)
    assert verify_bundle(bundle)[0].problem == ""


def test_what_describes_a_model_is_not_among_its_settings(bundle):
    edit_spec(bundle, parameters={"seed": 3}, package_version="9")
    assert verify_bundle(bundle)[0].problem == ""


@pytest.mark.parametrize("changes", [{"logits": [[0.0, 1.0]]}, {"logits": "x"}, {"schema_version": 2}, {"logits": []}])
def test_a_damaged_check_is_corrupt(bundle, changes):
    check = json.loads((bundle / "check.json").read_text())
    (bundle / "check.json").write_text(json.dumps(check | changes))
    with pytest.raises(InputCorruptError, match=r"check\.json is not one of 16 patches and 2 classes"):
        verify_bundle(bundle)


def test_answers_that_are_nan_are_a_problem(bundle):
    check = json.loads((bundle / "check.json").read_text())
    check["logits"][3][0] = None
    (bundle / "check.json").write_text(json.dumps(check))
    assert "differs by nan" in verify_bundle(bundle)[0].problem


def test_a_new_graph_and_a_record_leave_a_bundle_valid_and_a_changed_one_changed(bundle, monkeypatch):
    rewrite_graph(bundle, load_network(bundle))
    verify_bundle(bundle)
    found = AreaReliance(
        verdict="not shown", direction=0, slides=9, patients=9, patches=90, date="2026-11-30", model="a",
        backgrounds=("bright",), mpp=None,
    )  # fmt: skip
    record_reliance(bundle, found)
    assert stated(bundle)["area_reliance"]["verdict"] == "not shown"
    verify_bundle(bundle)
    monkeypatch.setattr("pathopatch.models.bundle.model_card", lambda spec: 1 / 0)  # as a disk that fills then
    with pytest.raises(ZeroDivisionError):
        record_reliance(bundle, found.model_copy(update={"slides": 8}))
    checked_bundle(bundle)
    assert stated(bundle)["area_reliance"]["slides"] == 9
    monkeypatch.undo()
    edit_spec(bundle, temperature=3.0)
    with pytest.raises(InputCorruptError, match="settings"):
        record_reliance(bundle, found)


def test_the_command_prints_each_program_and_fails_with_code_1(bundle):
    done = _verify(bundle)
    assert done.exit_code == 0
    assert [line.split()[:2] for line in done.output.splitlines()] == [["ok", name] for name in PATCH_PROGRAMS]
    check = json.loads((bundle / "check.json").read_text())
    check["logits"][0][0] += 0.01
    (bundle / "check.json").write_text(json.dumps(check))
    done = _verify(bundle)
    assert (done.exit_code, done.output[:9]) == (1, "--  torch")
    assert isinstance(done.exception, InputCorruptError)
    assert "largest difference 0.01" in done.output


def test_a_bundle_of_0_1_0_is_refused_and_predicts_by_the_page_s_command(tmp_path):
    model = load_model(write_model(tmp_path / "new"))
    old = as_old_bundle(shutil.copytree(tmp_path / "new", tmp_path / "old"))
    with pytest.raises(CheckpointIncompatibleError, match=r"of pathopatch 0\.1\.0.*reference/artefacts\.md"):
        load_model(old)
    page = (Path(__file__).parents[2] / "docs" / "reference" / "artefacts.md").read_text()
    (code,) = re.findall(r'python -c "(.*model\.json.*)"\n', page)
    exec(code.replace("BUNDLE", str(old)))
    with pytest.raises(InputMissingError, match=r"no check\.json"):
        load_model(old)
    assert _verify(old, "--write").exit_code == 0
    np.testing.assert_array_equal(
        load_model(old).predict_logits(*sample_patches(model.spec)), model.predict_logits(*sample_patches(model.spec))
    )


def test_an_export_is_verified_by_its_own_rule(tmp_path, monkeypatch):
    (tmp_path / "export.json").write_text("{}")
    result = [Verified(runtime="onnxruntime 1", difference=0.5, problem="differs")]
    monkeypatch.setattr(verify, "verify_export", lambda folder: result)
    assert verify_bundle(tmp_path) == result
    assert isinstance(_verify(tmp_path).exception, InputCorruptError)
    assert isinstance(_verify(tmp_path, "--write").exception, InputUnsupportedError)

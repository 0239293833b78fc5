"""Bundles: what is stored comes back, equal models give equal bytes, and each fault is refused by its own code."""

import json
import pickle
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from made_model import edit_spec, made_spec, redigest
from payload import Touch
from safetensors import safe_open
from safetensors.torch import save_file

from pathopatch.core.config import TissueConfig
from pathopatch.core.errors import (
    ChannelMismatchError,
    CheckpointIncompatibleError,
    CheckpointUnsafeError,
    InputCorruptError,
    InputMissingError,
    InputUnsupportedError,
)
from pathopatch.heatmaps.model_record import read_model_record, write_model_record
from pathopatch.models.bundle import bundle_fingerprint, record_reliance, rewrite_graph, save_bundle
from pathopatch.models.export import export_model
from pathopatch.models.loading import Model, load_ensemble, load_model, load_network
from pathopatch.models.networks import build_network
from pathopatch.models.spec import AreaReliance, check_slide, class_names
from pathopatch.models.verify import rewrite_check

CHANNELS = ("CARS", "TPEF", "SHG")


def _spec(**changes):
    values = {
        "channels": CHANNELS, "dtype": "uint16", "background": "dark", "patch_px": 32, "input_px": 16,
        "mean": (0.1, 0.2, 0.3), "std": (0.5, 0.25, 0.125), "method": "gerne", "decision_threshold": 0.25,
        "group_metrics": {"wga": 0.75},
    }  # fmt: skip
    return made_spec(**(values | changes))


def _network():
    torch.manual_seed(3)
    return build_network("small-groupnorm", 3)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    save_bundle(folder, _network(), _spec())
    return folder


@pytest.fixture
def bundle(saved, tmp_path):
    """A copy of it."""
    return shutil.copytree(saved, tmp_path / "model")


def test_a_loaded_model_resizes_and_standardises_patches(bundle):
    model = load_model(bundle, device="cpu", precision="float32")
    patches = np.random.default_rng(0).random((5, 3, 32, 32), dtype=np.float32)
    halved = patches.reshape(5, 3, 16, 2, 16, 2).mean(axis=(3, 5))  # area means, by hand
    mean, std = np.array([0.1, 0.2, 0.3]), np.array([0.5, 0.25, 0.125])
    x = (halved - mean[:, None, None]) / std[:, None, None]
    expected = _network().eval()(torch.from_numpy(x.astype(np.float32))).detach().numpy()
    np.testing.assert_allclose(model.predict_logits(patches), expected, atol=1e-5)
    assert model.predict_logits(patches[:0]).shape == (0, 2)
    assert model.spec.model_copy(update={"onnx": None}) == _spec()


def test_a_model_of_four_classes_keeps_their_names_and_decision_rule(tmp_path):
    network = build_network("mlp-100", 3, n_classes=4, input_px=16)
    spec = _spec(architecture="mlp-100", class_names=class_names(4), decision_threshold=0.0)
    save_bundle(tmp_path / "four", network, spec)
    model = load_model(tmp_path / "four", device="cpu", precision="float32")
    patches = np.random.default_rng(0).random((2, 3, 16, 16), dtype=np.float32)
    assert model.predict_logits(patches).shape == (2, 4)
    assert model.spec.class_names == ("class 0", "class 1", "class 2", "class 3")
    card = (tmp_path / "four" / "README.md").read_text()
    assert "class 0, class 1, class 2, class 3" in card
    assert "the class of the largest logit" in card


def test_two_classes_keep_their_names_and_their_rule_on_the_card(bundle):
    assert class_names(2) == load_model(bundle).spec.class_names
    card = (bundle / "README.md").read_text()
    assert "each patch of a slide as tumour or non-tumour." in card
    assert "tumour if the logit exceeds 0.25 (chosen for: none)" in card


def test_predicting_changes_neither_the_patches_nor_the_spec(bundle):
    patches = np.random.default_rng(1).random((2, 3, 16, 16), dtype=np.float32)
    before = patches.copy()
    load_model(bundle).predict_logits(patches)
    np.testing.assert_array_equal(patches, before)


def test_equal_models_give_equal_bytes(bundle, tmp_path):
    save_bundle(tmp_path / "again", _network(), _spec())
    for name in ("model.safetensors", "config.json", "check.json", "README.md"):
        assert (bundle / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


@pytest.mark.fault("checkpoint")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": ["CARS", "SHG", "TPEF"]}, "channels is"),
        ({"channels": ["CARS", "TPEF", "THG"]}, "THG"),
        ({"class_names": ["tumour", "non-tumour"]}, "class_names is"),
        ({"intensity": {"low_percentile": 0.0, "high_percentile": 100.0}}, "intensity is"),
        ({"align": True}, "align is True"),
        ({"mean": [0.0, 0.0, 0.0]}, "mean is"),
        ({"mpp": 1.0}, "mpp is"),
        ({"architecture": "resnet10t"}, "architecture is"),
        ({"schema_version": 2}, "version 2"),
        ({"channels": ["CARS"]}, "1 channels, 3 means"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_an_edited_spec_is_refused_with_the_difference(bundle, changes, message):
    edit_spec(bundle, **changes)
    with pytest.raises(CheckpointIncompatibleError, match=message):
        load_model(bundle)


def test_a_bundle_made_before_a_setting_existed_is_read_with_its_default(bundle):
    old = {"low_percentile": 1.0, "high_percentile": 99.5}
    edit_spec(bundle, intensity=old, onnx=None)  # such a bundle has no graph
    with safe_open(bundle / "model.safetensors", framework="pt") as stream:
        tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
        header = json.loads(stream.metadata()["pathopatch"])
    save_file(tensors, bundle / "model.safetensors", metadata={"pathopatch": json.dumps(header | {"intensity": old})})
    redigest(bundle)
    assert load_model(bundle).spec.intensity.scope == "slide"


@pytest.mark.parametrize("changes", [{"decision_threshold": 1.5}, {"temperature": 2.0}, {"min_tissue": 0.5}], ids=str)
def test_an_edited_setting_predicts_only_once_it_is_confirmed(bundle, changes):
    edit_spec(bundle, **changes)
    with pytest.raises(InputUnsupportedError, match="no model is named"):
        load_ensemble([])
    for opened in (load_model, Model.of, lambda folder: load_ensemble([folder])):
        with pytest.raises(InputCorruptError, match=r"settings of the model .*verify .* --write"):
            opened(bundle)
    rewrite_check(bundle)
    assert load_model(bundle).spec.model_dump().items() >= changes.items()
    edit_spec(bundle, min_tissue=0.25)
    (bundle / "check.json").unlink()  # without its digest no setting could be told from an edited one
    with pytest.raises(InputMissingError, match=r"no check\.json"):
        load_model(bundle)


@pytest.mark.slow
def test_another_models_verdict_is_shown_nowhere(bundle, tmp_path):
    other = tmp_path / "other"
    save_bundle(other, _network(), _spec(decision_threshold=0.5))
    found = AreaReliance(
        verdict="not shown", direction=0, slides=9, patients=9, patches=90, date="2026-11-30", backgrounds=("bright",),
        mpp=None, model=bundle_fingerprint([other]),
    )  # fmt: skip
    record_reliance(other, found)
    shown = {}
    for folder in (other, bundle):
        edit_spec(folder, area_reliance=found.model_dump(mode="json"))
        if folder == bundle:
            with pytest.raises(InputCorruptError, match="settings of the model"):
                load_model(folder)
        rewrite_check(folder)
        rewrite_graph(folder, load_network(folder))
        model = Model.of(folder)
        write_model_record(tmp_path / "out", model)
        record = read_model_record(tmp_path / "out", model.fingerprint)
        export_model(folder, tmp_path / f"{folder.name}-onnx", kind="onnx")
        cards = [(where / "README.md").read_text() for where in (folder, tmp_path / f"{folder.name}-onnx")]
        texts = [*cards, repr(record)]
        shown[folder] = [found.date in text for text in texts]
    assert shown == {other: [True] * 3, bundle: [False] * 3}


@pytest.mark.fault("cut-weights")
@pytest.mark.parametrize("end", [-3, 20, 4, 0])
def test_cut_weights_are_refused_as_corrupt(bundle, end):
    path = bundle / "model.safetensors"
    path.write_bytes(path.read_bytes()[:end])
    with pytest.raises(InputCorruptError, match=r"model\.safetensors"):
        load_model(bundle)


@pytest.mark.fault("pickle")
@pytest.mark.parametrize("name", ["model.pt", "model.safetensors", "model.pkl"])
def test_a_pickle_with_a_payload_is_refused_and_its_code_does_not_run(bundle, name):
    (bundle / name).write_bytes(pickle.dumps(Touch(bundle / "ran")))
    for path in (bundle, bundle / name):
        with pytest.raises(CheckpointUnsafeError):
            load_model(path)
    assert not (bundle / "ran").exists()


def test_a_missing_bundle_or_part_is_named(bundle, tmp_path):
    with pytest.raises(InputMissingError, match=r"config\.json"):
        load_model(tmp_path / "nowhere")
    (bundle / "model.safetensors").unlink()
    with pytest.raises(InputMissingError, match=r"model\.safetensors"):
        load_model(bundle)


def test_a_failed_save_leaves_the_earlier_bundle_as_it_was(bundle, monkeypatch):
    before = (bundle / "model.safetensors").read_bytes()

    def fails(spec):
        raise OSError(28, "no space left on device")

    monkeypatch.setattr("pathopatch.models.bundle.model_card", fails)
    with pytest.raises(OSError, match="no space left"):
        save_bundle(bundle, _network(), _spec(method="erm"))
    assert (bundle / "model.safetensors").read_bytes() == before
    assert [path.name for path in bundle.parent.iterdir()] == ["model"]


def test_patches_of_other_channels_are_refused_with_both_numbers(bundle):
    with pytest.raises(ChannelMismatchError, match=r"\(2, 2, 16, 16\).*\(N, 3, p, p\)"):
        load_model(bundle).predict_logits(np.zeros((2, 2, 16, 16), dtype=np.float32))


def _slide(**changes):
    values = {
        "channels": CHANNELS, "dtype": np.dtype("uint16"), "mpp": 0.5, "paths": (Path("a.tif"),), "background": "dark",
    }  # fmt: skip
    return SimpleNamespace(**{**values, **changes})


DARK = {"tissue": TissueConfig(background="dark")}


@pytest.mark.parametrize(
    ("spec", "slide", "warnings"),
    [
        (_spec(), _slide(), []),
        (_spec(), _slide(mpp=0.25), []),
        (_spec(background="auto"), _slide(background="bright"), []),
        (_spec(**DARK), _slide(), []),
        (_spec(**DARK), _slide(background="bright"), ["looks different"]),
        (_spec(mpp=None), _slide(mpp=3.5), ["scale is unknown.*3.5 um/px"]),
        (_spec(mpp=None, **DARK), _slide(background="bright"), ["scale is unknown", "looks different"]),
    ],
)
def test_a_slide_that_fits_passes_with_what_a_reader_must_know(spec, slide, warnings):
    for text, expected in zip(check_slide(spec, slide), warnings, strict=True):
        assert re.search(expected, text)


@pytest.mark.fault("checkpoint", "channels")
@pytest.mark.parametrize(
    ("slide", "error", "message"),
    [
        (_slide(channels=("CARS", "TPEF")), ChannelMismatchError, "2 channels.*3 channels"),
        (_slide(dtype=np.dtype("uint8")), ChannelMismatchError, "uint8.*uint16"),
        (_slide(channels=("TPEF", "CARS", "SHG")), CheckpointIncompatibleError, "TPEF, CARS, SHG"),
        (_slide(mpp=1.0), CheckpointIncompatibleError, "1 um/px.*0.5"),
        (_slide(background="bright"), CheckpointIncompatibleError, "slide is bright .* model's slides are dark"),
    ],
)
def test_a_slide_that_does_not_fit_is_refused_with_both_sides(slide, error, message):
    with pytest.raises(error, match=message):
        check_slide(_spec(), slide)


def test_a_bundle_keeps_the_arguments_that_timm_built_it_with(tmp_path):
    args = {"depth": 1, "embed_dim": 32, "num_heads": 2, "mlp_layer": "SwiGLUPacked", "act_layer": "SiLU"}
    spec = _spec(architecture="vit_tiny_patch16_224", input_px=32, timm_args=args)
    torch.manual_seed(0)
    network = build_network(spec.architecture, 3, input_px=32, timm_args=args).eval()
    save_bundle(tmp_path / "model", network, spec)
    x = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(load_network(tmp_path / "model").eval()(x), network(x))

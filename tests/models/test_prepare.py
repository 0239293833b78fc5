"""Folded batch norms: the same logits for every kind of network, and nothing folded where that would be wrong."""

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.parametrizations import weight_norm

from pathopatch.models import prepare
from pathopatch.models.networks import build_network
from pathopatch.models.prepare import fold_batch_norms

X = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def _trained(network: nn.Module) -> nn.Module:
    """A network whose norms have statistics, scales and shifts as after training, in evaluation mode."""
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            for values, low in ((module.running_mean, -0.5), (module.running_var, 0.5)):
                values.copy_(torch.rand(values.shape, generator=generator) + low)
            if module.affine:
                module.weight.data = torch.rand(module.weight.shape, generator=generator) + 0.5
                module.bias.data = torch.rand(module.bias.shape, generator=generator) - 0.5
    return network.eval()


def _norms(network: nn.Module) -> int:
    return sum(isinstance(module, _BatchNorm) for module in network.modules())


def _apart(one: nn.Module, other: nn.Module, x: torch.Tensor) -> float:
    """Largest difference of logits, by the largest logit."""
    with torch.inference_mode():
        due, logits = one(x), other(x)
    return float((due - logits).abs().max() / due.abs().max())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "left"),
    [
        ("tf_efficientnet_lite0", 0),
        ("resnet10t", 0),
        ("resnet50", 0),
        ("mobilenetv3_small_050", 0),
        ("regnety_002", 0),
        ("hrnet_w18_small", 0),
        ("vgg11_bn", 0),
    ],
)
def test_folding_leaves_the_logits_of_every_kind_of_network_as_they_are(monkeypatch, architecture, left):
    monkeypatch.setattr(prepare, "_FOLD_TOLERANCE", float("inf"))  # what is not right is not put right
    torch.manual_seed(0)
    network = _trained(build_network(architecture, 4, input_px=64))
    x = torch.randn(3, 4, 64, 64)
    ready = fold_batch_norms(network, x[:1])
    assert _norms(network) > 0
    assert _norms(ready) == left
    assert _apart(network, ready, x) <= 1e-4


@pytest.mark.parametrize("architecture", ["small-groupnorm", "mlp-100"])
def test_networks_without_batch_norms_are_copied(architecture):
    network = build_network(architecture, 3, input_px=16)
    ready = fold_batch_norms(network, X)
    assert ready is not network
    assert str(ready) == str(network)
    assert _apart(network, ready, X) == 0


class _Residual(nn.Module):
    """A block whose convolution output also bypasses the norm."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x):
        given = self.conv(x)
        return (self.norm(given) + given[:, :, ::2, ::2].repeat(1, 1, 2, 2)).mean(dim=(2, 3))


class _Between(_Residual):
    """Something changes what the convolution gives before the norm reads it."""

    def forward(self, x):
        return self.norm(self.conv(x).relu_()).mean(dim=(2, 3))


class _Twice(_Residual):
    """One norm for two outputs of one convolution."""

    def forward(self, x):
        return (self.norm(self.conv(x)) - self.norm(self.conv(x.flip(3) ** 2))).mean(dim=(2, 3))


class _NormFirst(_Residual):
    """At its edge, a convolution after a norm sees zeros, not shifts."""

    def forward(self, x):
        return self.conv(self.norm(x)).mean(dim=(2, 3))


class _Parametrised(_Residual):
    """The weights are made in each pass, and a scale of them would be undone."""

    def __init__(self):
        super().__init__()
        self.conv = weight_norm(self.conv)

    def forward(self, x):
        return self.norm(self.conv(x)).mean(dim=(2, 3))


@pytest.mark.parametrize("kind", [_Residual, _Between, _Twice, _NormFirst, _Parametrised])
def test_a_norm_is_left_where_folding_it_would_be_wrong(monkeypatch, kind):
    monkeypatch.setattr(prepare, "_FOLD_TOLERANCE", float("inf"))
    torch.manual_seed(0)
    network = _trained(kind())
    ready = fold_batch_norms(network, X)
    assert _norms(ready) == 1
    assert _apart(network, ready, X) == 0


def test_nothing_is_folded_if_the_logits_would_differ(monkeypatch):
    network = _trained(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Flatten()))
    assert _norms(fold_batch_norms(network, X)) == 0
    monkeypatch.setattr(prepare, "fuse_conv_bn_eval", lambda convolution, norm: convolution)
    assert _norms(fold_batch_norms(network, X)) == 1


def test_a_network_with_nan_logits_is_not_fold_batch_norms():
    network = _trained(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Flatten()))
    network[0].weight.data.fill_(float("nan"))
    assert _norms(fold_batch_norms(network, X)) == 1

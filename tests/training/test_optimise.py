"""A step's precision, rate and length: by device, by hand-made numbers, and with the scaled loss of float16."""

import copy
import math
import sys

import pytest
import torch
from made_patches import toy
from safetensors.torch import save_file
from torch import nn
from torch.amp import GradScaler

from pathopatch.core.config import TrainConfig
from pathopatch.core.errors import InputUnsupportedError, NonFiniteError
from pathopatch.debias.methods import Method
from pathopatch.debias.samplers import UniformBatchSampler
from pathopatch.models.networks import build_network
from pathopatch.training import optimise
from pathopatch.training.distributed import ProcessGroup
from pathopatch.training.fit import fit_arrays
from pathopatch.training.optimise import (
    evaluation_steps,
    loss_scaler,
    rate_factor,
    take_step,
    training_dtype,
    update_average,
)

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def _step(weight, total, *, scaler=None, rate=1.0):
    optimizer = torch.optim.SGD([weight], lr=123.0)
    take_step(total, optimizer, rate=rate, scaler=scaler, processes=ProcessGroup())
    return weight.detach().tolist()


def test_precision_is_picked_by_device(monkeypatch):
    assert training_dtype("auto", CPU) == torch.float32
    assert training_dtype("bfloat16", CPU) == torch.bfloat16
    for is_native, expected in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(optimise, "is_bfloat16_native", lambda device, is_native=is_native: is_native)
        assert training_dtype("auto", CUDA) == expected
    assert training_dtype("float32", CUDA) == torch.float32


def test_float16_is_refused_without_cuda():
    with pytest.raises(InputUnsupportedError, match="no training in float16 on cpu"):
        training_dtype("float16", CPU)


def test_only_float16_scales_its_loss():
    assert loss_scaler(torch.float32, CPU) is None
    assert loss_scaler(torch.bfloat16, CPU) is None
    assert loss_scaler(torch.float16, CPU).get_scale() == 65536


def test_the_rate_rises_over_the_warm_up_then_falls_along_half_a_cosine():
    config = TrainConfig(schedule="cosine", warmup_steps=2, steps=6)
    half = 0.5 * math.sqrt(0.5)
    expected = [0.5, 1.0, 1.0, 0.5 + half, 0.5, 0.5 - half]
    assert [rate_factor(step, config) for step in range(6)] == pytest.approx(expected)
    assert {rate_factor(step, TrainConfig(steps=6)) for step in range(6)} == {1.0}


def test_a_step_takes_its_rate():
    weight = nn.Parameter(torch.zeros(2))
    assert _step(weight, (torch.tensor([3.0, 4.0]) * weight).sum(), rate=0.5) == pytest.approx([-1.5, -2.0])


def test_a_step_that_overflows_is_left_out_and_the_scale_is_halved():
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    weight = nn.Parameter(torch.ones(1))
    assert _step(weight, (weight * 1e30).sum(), scaler=scaler) == [1.0]
    assert scaler.get_scale() == 2.0**39


def test_a_run_in_which_every_scaled_step_is_left_out_is_stopped(monkeypatch):
    class Broken(torch.nn.Module):
        def forward(self, loss, group):
            return loss.mean() + (0 * loss.mean()).sqrt()  # a number, with a gradient that is none

    monkeypatch.setattr(sys.modules[fit_arrays.__module__], "loss_scaler", lambda dtype, device: GradScaler("cpu"))
    small = {"input_px": 8, "steps": 32, "batch_per_class": 2, "threads": 1, "select": "last", "evaluations": 1}
    method = Method(sampler=UniformBatchSampler, objective=lambda counts: Broken())
    with pytest.raises(NonFiniteError, match="no gradient is finite in float16"):
        fit_arrays(toy([[8, 8], [8, 8]], seed=0, side=8), None, TrainConfig(**small), method=method)


def test_schedule_warm_up_and_precision_each_change_training():
    patches = toy([[12, 12], [12, 12]], seed=0)
    small = {"input_px": 16, "steps": 4, "batch_per_class": 4, "evaluations": 1, "threads": 1, "learning_rate": 1e-3}

    def loss(**changes):
        return fit_arrays(patches, patches, TrainConfig(**small, **changes)).history[0]["loss"]

    losses = [loss(), loss(schedule="cosine"), loss(warmup_steps=4), loss(precision="bfloat16")]
    assert len(set(losses)) == 4
    assert losses[3] == pytest.approx(losses[0], rel=0.02)


@pytest.mark.parametrize("is_pretrained", [False, True])
def test_batchnorm_keeps_its_statistics_and_learns_its_scale_where_weights_are_pretrained(tmp_path, is_pretrained):
    pretrained = "none"
    if is_pretrained:
        network, pretrained = build_network("resnet10t", 2), tmp_path / "weights.safetensors"
        with torch.no_grad():
            for name, buffer in network.named_buffers():
                buffer.fill_(1 if name.endswith("var") else 0)
        save_file(network.state_dict(), pretrained)
    patches = toy([[12, 12], [12, 12]], seed=0)
    small = {"input_px": 32, "steps": 3, "batch_per_class": 4, "evaluations": 1, "threads": 1}
    config = TrainConfig(architecture="resnet10t", pretrained=pretrained, **small)
    state = fit_arrays(patches, patches, config).network.state_dict()
    first = next(name.removesuffix("running_mean") for name in state if name.endswith("running_mean"))
    assert bool(state[f"{first}running_mean"].any()) != is_pretrained
    assert bool((state[f"{first}weight"] != 1).any())


def test_the_moving_average_follows_its_formula():
    average, network = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    nn.init.constant_(average.weight, 2.0)
    nn.init.constant_(network.weight, 4.0)
    at_start, late = copy.deepcopy(average), copy.deepcopy(average)
    update_average(at_start, network, 0)  # d = 1/10: 2 + 9/10 (4 - 2)
    update_average(late, network, 10**6)  # d = .99: 2 + 1/100 (4 - 2)
    assert at_start.weight.item() == pytest.approx(3.8)
    assert late.weight.item() == pytest.approx(2.02)


def test_statistics_of_batchnorm_are_copied_not_averaged():
    average, network = nn.BatchNorm1d(1), nn.BatchNorm1d(1)
    network.running_mean.fill_(5.0)
    update_average(average, network, 50)
    assert average.running_mean.item() == 5.0


def test_evaluations_are_evenly_spread_and_include_the_last_step():
    assert evaluation_steps(100, 4) == {25, 50, 75, 100}
    assert evaluation_steps(3, 12) == {1, 2, 3}

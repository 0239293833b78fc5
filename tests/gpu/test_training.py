"""Training on a device gives what one processor thread gives: gradients, accuracy, resumed runs, precisions."""

import os
import subprocess
import sys

import pytest
import rank_of_several
import torch
from gpu_device import ON_GPU
from made_patches import toy, write_work

from pathopatch.core.artefacts import Stamp
from pathopatch.core.config import TrainConfig
from pathopatch.debias.methods import NAMES
from pathopatch.training.checkpoint import CheckpointFolder
from pathopatch.training.fit import fit_arrays
from pathopatch.training.loop import train_network

SMALL = {"input_px": 16, "batch_per_class": 8, "evaluations": 1, "precision": "float32", "threads": 2}
PLAIN = {**SMALL, "optimizer": "sgd", "weight_decay": 0.0, "average_weights": False}
REFERENCE = {"device": "cpu", "threads": 1}
IN_STEPS = 'method = "gerne"\ninput_px = 16\nsteps = 4\nbatch_per_class = 4\nevaluations = 2\n'
FROZEN = 'method = "resample"\nfrozen = true\n'


def _train(patches, val=None, **settings):
    return fit_arrays(patches, patches if val is None else val, TrainConfig(**settings))


def _distance(one, other):
    """Largest difference of a weight."""
    a, b = one.network.state_dict(), other.network.state_dict()
    return max((value - b[name]).abs().max().item() for name, value in a.items())


@pytest.mark.parametrize("method", NAMES)
def test_the_first_gradient_of_each_method_is_that_of_one_thread(device, method):
    # With rate 1, no momentum yet and no decay, the weights move by the gradient.
    patches = toy([[12, 12], [12, 12]], seed=0)
    settings = {**PLAIN, "method": method, "steps": 1, "learning_rate": 1.0}
    there, here = (_train(patches, **{**settings, **where}) for where in ({"device": device}, REFERENCE))
    assert _distance(there, here) <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("device", "method"),
    [("cpu", "gerne"), *(pytest.param("cuda", name, marks=ON_GPU) for name in ("erm", "gerne", "groupdro"))],
)
def test_after_200_steps_wga_is_that_of_one_thread_within_noise(device, method):
    patches = toy([[90, 10], [10, 90]], seed=0, side=8)
    val = toy([[150, 150], [150, 150]], seed=1, side=8)
    settings = {**SMALL, "input_px": 8, "method": method, "steps": 200, "learning_rate": 3e-3}
    there, here = (_train(patches, val, **{**settings, **where}) for where in ({"device": device}, REFERENCE))
    # Of 150 patches in a group, two standard errors of a difference are 11 points where half are right.
    assert there.validation["wga"] == pytest.approx(here.validation["wga"], abs=0.11)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_takes_nearly_the_steps_of_float32(device, precision):
    if precision == "float16" and device == "cpu":
        pytest.skip("float16 trains on CUDA devices alone")
    patches = toy([[12, 12], [12, 12]], seed=0)
    settings = {**SMALL, "steps": 4, "learning_rate": 1e-3, "device": device}
    short, full = _train(patches, **{**settings, "precision": precision}), _train(patches, **settings)
    assert short.history[0]["loss"] == pytest.approx(full.history[0]["loss"], rel=0.02)
    assert _distance(short, full) > 0


def test_a_killed_and_resumed_run_ends_with_the_undisturbed_weights(device, tmp_path):
    class Killed(Exception):
        pass

    def kill(step, total, measures):
        if step == 5:
            raise Killed

    patches = toy([[40, 8], [8, 40]], seed=0)
    settings = {**SMALL, "steps": 8, "evaluations": 4, "learning_rate": 3e-3, "device": device, "threads": 1}
    config, checkpoints = TrainConfig(**settings), CheckpointFolder(tmp_path, Stamp(stage="f"))
    with pytest.raises(Killed):
        fit_arrays(patches, patches, config, checkpoints=checkpoints, progress=kill)
    resumed, undisturbed = fit_arrays(patches, patches, config, checkpoints=checkpoints), _train(patches, **settings)
    # Kernels of a GPU may sum in another order each time.
    assert _distance(resumed, undisturbed) <= (0.0 if device == "cpu" else 1e-4)


def test_patches_and_weights_lie_channels_last(device, monkeypatch):
    layouts = []

    def watched(run, state):
        state.network.register_forward_pre_hook(lambda network, inputs: layouts.append(inputs[0]))
        layouts.extend(weight for weight in state.network.parameters() if weight.ndim == 4)
        train_network(run, state)

    monkeypatch.setattr(sys.modules[fit_arrays.__module__], "train_network", watched)
    _train(toy([[12, 12], [12, 12]], seed=0), **SMALL, steps=2, device=device)
    assert len(layouts) > 2
    assert all(tensor.is_contiguous(memory_format=torch.channels_last) for tensor in layouts)
    assert {tensor.device.type for tensor in layouts} == {device}


@pytest.mark.slow
def test_two_processes_by_gloo_share_one_device_and_equal_one(device, tmp_path):
    # Five steps: with AVX-512, rounding flips the sign of an activation, or a maximum, at the seventh.
    settings = {**PLAIN, "steps": 5, "learning_rate": 0.01, "threads": 1, "cell_unit": 2, "device": device}
    torch.multiprocessing.spawn(rank_of_several.train, (2, tmp_path, {"gerne": settings}), nprocs=2)
    alone = _train(toy([[30, 8], [8, 30]], seed=0), toy([[150, 150], [150, 150]], seed=1), **settings)
    for rank in (0, 1):
        weights = torch.load(tmp_path / f"gerne-{rank}.pt", weights_only=True)
        for name, value in alone.network.state_dict().items():
            assert (weights[name] - value).abs().max() <= (1e-6 if device == "cpu" else 1e-4), name


@pytest.mark.parametrize(
    ("device", "settings", "run"),
    [
        pytest.param("cuda", IN_STEPS, "gerne-t0.25-s0", marks=ON_GPU),
        pytest.param("cuda", FROZEN, "resample-t0.25-s0", marks=ON_GPU),
        pytest.param("cpu", FROZEN, "resample-t0.25-s0", marks=pytest.mark.slow),
    ],
)
def test_torchrun_gives_two_processes_a_gpu_each_or_lets_them_share(device, settings, run, tmp_path):
    write_work(tmp_path)
    study = tmp_path / "study.toml"
    study.write_text(f'manifest = "m.csv"\nwork = "."\n[train]\nthreads = 1\n{settings}')
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    ours = ["-m", "pathopatch", "train", str(tmp_path), "--device", device, "--config", str(study)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, *torchrun, "--nproc-per-node", "2", *ours]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'runs' / run}\n"
    assert (tmp_path / "runs" / run / "run.json").is_file()


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="torch finds no second CUDA device")
def test_a_run_takes_the_gpu_that_is_named():
    result = _train(toy([[12, 12], [12, 12]], seed=0), **SMALL, steps=2, device="cuda:1")
    assert len(result.history) == 1
    assert torch.cuda.max_memory_allocated("cuda:1") > 0

"""A batch that does not fit a device's memory: the error names one that does, and forward passes halve themselves."""

import numpy as np
import pytest
import torch
from made_patches import toy
from torch import nn

from pathopatch.core.config import TrainConfig
from pathopatch.core.errors import OutOfMemoryError, with_code
from pathopatch.models.frozen import torch_features
from pathopatch.models.networks import build_network
from pathopatch.models.runtime.torch_runtime import TorchRuntime, largest_fitting, predict_logits
from pathopatch.training import fit
from pathopatch.training.fit import fit_arrays

SIDE = {"cpu": 8, "cuda": 64}  # px
_CUDA_BYTES = 2**30  # that torch may take of a GPU in these tests


@pytest.fixture
def short_memory(device, monkeypatch):
    """A function that lets a device hold so many patches at once: a GPU by its memory, a processor by pretence."""
    if device == "cuda":
        torch.cuda.empty_cache()
        share = _CUDA_BYTES / torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(share)
        yield lambda network, most: network
        torch.cuda.set_per_process_memory_fraction(1.0)
        return

    def limited(network: nn.Module, most: int) -> nn.Module:
        def check(_, inputs):
            if len(inputs[0]) > most:
                raise torch.OutOfMemoryError(f"{len(inputs[0])} patches")

        network.register_forward_pre_hook(check)
        return network

    yield limited


def _config(device, batch_per_class, **more):
    small = {"input_px": SIDE[device], "steps": 2, "evaluations": 1, "precision": "float32", "select": "last"}
    return TrainConfig(**small, tune_threshold=False, device=device, batch_per_class=batch_per_class, threads=1, **more)


@pytest.mark.slow
@pytest.mark.parametrize(("limit", "most"), [(0, 1), (0, 8), (1, 8), (7, 8), (37, 100)])
def test_bisection_finds_the_largest_count_that_fits(limit, most):
    def run(count):
        if count > limit:
            raise torch.OutOfMemoryError

    assert largest_fitting(run, most) == limit


@pytest.mark.slow
@pytest.mark.parametrize("method", ["erm", "gerne"])
def test_a_step_that_does_not_fit_names_the_largest_batch_that_does(device, short_memory, monkeypatch, method):
    plain_network = fit.build_network
    # 43 samples fit: 21 of each class, and an even number of them.
    monkeypatch.setattr(fit, "build_network", lambda *args, **form: short_memory(plain_network(*args, **form), 43))
    patches = toy([[12, 12], [12, 12]], seed=0, side=SIDE[device])
    many = 32 if device == "cpu" else 8192
    with pytest.raises(OutOfMemoryError, match=f"a step of {2 * many} samples does not fit") as refused:
        fit_arrays(patches, None, _config(device, many, method=method))
    assert refused.value.place == "[train] batch_per_class"
    named = int(refused.value.remedy.split(" = ")[1].split(",")[0])
    assert named == 20 if device == "cpu" else 2 <= named < many
    fit_arrays(patches, None, _config(device, named, method=method))


@pytest.mark.slow
def test_a_network_of_which_no_batch_fits_says_what_else_to_do(monkeypatch):
    def full(*args, **form):
        network = plain_network(*args, **form)
        network.register_forward_pre_hook(lambda network, inputs: (_ for _ in ()).throw(torch.OutOfMemoryError()))
        return network

    plain_network = fit.build_network
    monkeypatch.setattr(fit, "build_network", full)
    with pytest.raises(OutOfMemoryError, match="Remedy: use a smaller network or input_px"):
        fit_arrays(toy([[12, 12], [12, 12]], seed=0, side=SIDE["cpu"]), None, _config("cpu", 8))


@pytest.mark.slow
def test_forward_passes_halve_until_they_fit_and_keep_the_order(device, short_memory):
    torch.manual_seed(0)
    network = build_network("small-groupnorm", 2).to(device)
    x = torch.randn(40, 2, SIDE[device], SIDE[device])
    expected = predict_logits(network, x, batch=1)
    sizes = []
    network.register_forward_pre_hook(lambda network, inputs: sizes.append(len(inputs[0])))
    short_memory(network, 7)
    np.testing.assert_allclose(predict_logits(network, x, batch=256), expected, atol=1e-4)
    if device == "cpu":
        assert sizes == [40, 20, 10, *[5] * 8]


@pytest.mark.slow
def test_a_patch_that_does_not_fit_alone_is_refused(device):
    class Full(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, x):
            raise torch.OutOfMemoryError

    runtime = TorchRuntime(Full(), device=torch.device(device))
    with pytest.raises(OutOfMemoryError, match=f"one patch of 8 px does not fit the memory of {device}"):
        runtime.logits(np.zeros((3, 3, 8, 8), np.float32))


@pytest.mark.slow
def test_features_halve_the_batch_until_it_fits(device, short_memory):
    network = short_memory(build_network("small-groupnorm", 2), 5)
    features = torch_features(network.requires_grad_(False), torch.device(device), 1)
    count = 12 if device == "cpu" else 4096
    assert len(features(np.zeros((count, 2, 4 * SIDE[device], 4 * SIDE[device]), np.float32))) == count


def test_any_other_want_of_gpu_memory_has_the_code_too():
    known = with_code(torch.OutOfMemoryError("CUDA out of memory."))
    assert (known.code, known.message) == ("OUT_OF_MEMORY", "CUDA out of memory.")
    assert "smaller batch" in known.remedy

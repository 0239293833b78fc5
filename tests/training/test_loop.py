"""Batches made ahead: while the network computes, and the same as those made when they are due."""

import threading

import pytest
import torch
from made_patches import toy
from torch import nn

from pathopatch.core.config import TrainConfig
from pathopatch.debias.methods import Method
from pathopatch.debias.samplers import UniformBatchSampler
from pathopatch.training.dataset import PatchSet
from pathopatch.training.fit import fit_arrays

SMALL = {"input_px": 16, "steps": 6, "batch_per_class": 4, "evaluations": 2, "threads": 1, "learning_rate": 3e-3}


class _Waits(nn.Module):
    """The mean loss, once the batch after this one has been read."""

    def __init__(self, was_read):
        super().__init__()
        self.was_read, self.calls, self.in_time = was_read, 0, []

    def forward(self, loss, group):
        self.calls += 1
        if self.calls < SMALL["steps"]:
            self.in_time.append(self.was_read[self.calls].wait(20))
        return loss.mean()


class _Watched(PatchSet):
    """Patches that note which batches of 8 were read."""

    def stored(self, index):
        if isinstance(index, list):
            self.events[self.count[0]].set()
            self.count[0] += 1
        return super().stored(index)


def test_the_next_batch_is_read_while_a_step_computes():
    plain = toy([[20, 6], [6, 20]], seed=0)
    patches = _Watched(**{name: getattr(plain, name) for name in PatchSet.__dataclass_fields__})
    events = [threading.Event() for _ in range(SMALL["steps"])]
    object.__setattr__(patches, "events", events)
    object.__setattr__(patches, "count", [0])
    objective = _Waits(events)
    method = Method(sampler=UniformBatchSampler, objective=lambda n: objective)
    fit_arrays(patches, None, TrainConfig(**SMALL, select="last", tune_threshold=False), method=method)
    assert objective.in_time == [True] * 5


@pytest.mark.parametrize("changes", [{}, {"method": "resample", "composing": {"share": 0.5}}])
def test_batches_of_several_loaders_are_those_of_one(changes):
    patches = toy([[20, 6], [6, 20]], seed=0)
    settings = {**SMALL, "steps": 30, "augment": {"rotate_degrees": 20}, **changes}
    one, other = (fit_arrays(patches, patches, TrainConfig(**settings, loaders=loaders)) for loaders in (1, 4))
    assert one.history == other.history
    for a, b in zip(one.network.parameters(), other.network.parameters(), strict=True):
        assert torch.equal(a, b)

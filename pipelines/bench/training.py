"""Measure the training cost of debiasing, and of the loop around the bare step.

Both by CPU seconds: reading and varying the next batches in a thread of its own takes no time on the clock where a core
is free, but it is work all the same, and on a machine with all cores busy it is time.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from inputs import Inputs
from measure import Row, Work, ratio, speedup

from pathopatch.core.config import TrainConfig
from pathopatch.debias.gerne import cell_counts
from pathopatch.debias.methods import method
from pathopatch.models.networks import build_network
from pathopatch.training.dataset import PatchSet
from pathopatch.training.fit import fit_arrays


def rows(_inputs: Inputs) -> Iterator[Row]:
    """All rows about training."""
    gerne, erm = training_step("gerne"), training_step("erm")
    spent = ratio(lambda: [gerne], lambda: [erm])
    yield Row("a GERNE step by an ERM step of as many samples", spent, 1.05, "at most")
    loop, bare = speedup(lambda: [training_loop()], lambda: [bare_steps()]), 0.95
    yield Row("the training loop, by the bare step on tensors in memory", loop, bare)


def training_step(name: str, steps: int = 10) -> Work:
    """Steps of a method on tensors in memory, 64 samples of 64 px a step whatever the method."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 1000)
    attribute = np.where(rng.random(1000) < 0.9, label, 1 - label)
    x = torch.from_numpy(rng.random((1000, 3, 64, 64), dtype=np.float32))
    y, group = torch.from_numpy(label), torch.from_numpy(2 * label + attribute)
    chosen, counts = method(name), cell_counts(label, attribute)
    network, objective = build_network("small-groupnorm", 3), chosen.objective(counts)
    optimizer = torch.optim.AdamW(network.parameters())
    batches = list(chosen.sampler(label, attribute, batch_per_class=32, steps=steps, seed=0))

    def run() -> None:
        for batch in batches:
            loss = torch.nn.functional.cross_entropy(network(x[batch]), y[batch], reduction="none")
            optimizer.zero_grad()
            objective(loss, group[batch]).backward()
            optimizer.step()

    return run


def training_loop(steps: int = 200) -> Work:
    """A whole run without validation: patches in memory, drawn, varied, averaged weights, on one thread."""
    patches = _patches(np.random.default_rng(0))
    config = TrainConfig(method="resample", steps=steps, select="last", tune_threshold=False, threads=1, device="cpu")
    return lambda: fit_arrays(patches, None, config)


def bare_steps(steps: int = 200) -> Work:
    """Forward, backward and AdamW on batches of the same size that lie ready, standardised and channels last."""
    x = torch.randn(steps, 64, 3, 64, 64).flatten(0, 1).contiguous(memory_format=torch.channels_last)
    batches, label = x.split(64), torch.arange(64) % 2

    def run() -> None:
        network = build_network("small-groupnorm", 3).to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(network.parameters(), fused=True)  # as the loop has it
        for batch in batches:
            loss = torch.nn.functional.cross_entropy(network(batch), label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return run


def _patches(rng: np.random.Generator) -> PatchSet:
    """Noise of three channels, 64 px, of 256 patches in four equal groups."""
    number = np.arange(256)
    return PatchSet(
        x=rng.random((256, 3, 64, 64), dtype=np.float32).astype(np.float16),
        label=number % 2,
        attribute=number // 2 % 2,
        tissue_fraction=np.full(256, 0.5),
        patient=number.astype(str),
        patch_id=number.astype(str),
    )

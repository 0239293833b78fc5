"""Augmentation: all eight symmetries, the same draws for the same step, nothing but symmetries for RGB."""

import numpy as np
import torch

from pathopatch.training.augment import augment, mixed_seed


def _symmetries(patch):
    """The eight images of a patch (C, H, W) under flips and quarter turns, written out with numpy."""
    turned = [np.rot90(patch, k, axes=(1, 2)) for k in range(4)]
    return [image.copy() for t in turned for image in (t, t[:, :, ::-1])]


def test_without_jitter_each_patch_becomes_one_of_its_eight_symmetries_and_all_occur_alike():
    x = torch.arange(2 * 3 * 3, dtype=torch.float32).reshape(1, 2, 3, 3).repeat(1600, 1, 1, 1)
    varied = augment(x, seed=0, step=0, jitter=False).numpy()
    counts = [int((varied == image).all(axis=(1, 2, 3)).sum()) for image in _symmetries(x[0].numpy())]
    assert sum(counts) == 1600
    assert min(counts) > 140  # 200 expected, sd 13


def test_a_step_draws_the_same_again_and_another_step_something_else():
    x = torch.rand(8, 2, 4, 4)
    before = x.clone()
    first = augment(x, seed=1, step=5, jitter=True)
    assert torch.equal(first, augment(x, seed=1, step=5, jitter=True))
    assert not torch.equal(first, augment(x, seed=1, step=6, jitter=True))
    assert not torch.equal(first, augment(x, seed=2, step=5, jitter=True))
    assert torch.equal(x, before)


def test_it_neither_uses_nor_moves_the_global_random_state():
    state = torch.get_rng_state()
    augment(torch.rand(2, 1, 4, 4, generator=torch.Generator()), seed=0, step=0, jitter=True)
    assert torch.equal(torch.get_rng_state(), state)


def test_jitter_is_one_mild_gain_and_offset_per_patch_and_channel():
    x = torch.tensor([0.2, 0.6]).repeat(50, 2, 2, 1)  # (50, 2, 2, 2)
    varied = augment(x, seed=0, step=0, jitter=True)
    low, high = varied.amin(dim=(2, 3)), varied.amax(dim=(2, 3))
    gain = (high - low) / 0.4
    offset = low - 0.2 * gain
    assert 0.9 <= gain.min() < 0.93
    assert 1.07 < gain.max() <= 1.1
    assert offset.abs().max() <= 0.0501
    assert len(gain.unique()) > 90


def test_seeds_of_neighbouring_parts_differ():
    assert len({mixed_seed(seed, step) for seed in range(10) for step in range(10)}) == 100

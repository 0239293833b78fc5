"""Augmentation: each kind by its own law, the same draws for the same step, and nothing that a channel cannot have."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from made_patches import toy

from pathopatch.core.config import AugmentConfig, TrainConfig
from pathopatch.core.errors import ChannelMismatchError
from pathopatch.training.augment import Augmentation
from pathopatch.training.dataset import mixed_seed
from pathopatch.training.fit import fit_arrays

ALL = AugmentConfig(rotate_degrees=15, zoom=0.1, shift=0.1)
RGB = AugmentConfig(rotate_degrees=15, zoom=0.1, shift=0.1, stain=0.2, color=0.2)
NOTHING = {"flips": False, "gain": 0, "offset": 0}


def augment(x, rules, *, seed, step, is_rgb, places=None, batch=None):
    places = np.arange(len(x)) if places is None else places
    return Augmentation(rules, seed=seed, is_rgb=is_rgb)(x, places, batch or len(x), step)


def _varied(x, *, seed=0, step=0, is_rgb=False, places=None, batch=None, **rules):
    rules = AugmentConfig(**{**NOTHING, **rules})
    return augment(x, rules, seed=seed, step=step, is_rgb=is_rgb, places=places, batch=batch)


def _symmetries(patch):
    """The eight images of a patch (C, H, W) under flips and quarter turns, written out with numpy."""
    turned = [np.rot90(patch, k, axes=(1, 2)) for k in range(4)]
    return [image.copy() for t in turned for image in (t, t[:, :, ::-1])]


def test_flips_give_each_of_the_eight_symmetries_equally_often():
    x = torch.arange(2 * 3 * 3, dtype=torch.float32).reshape(1, 2, 3, 3).repeat(1600, 1, 1, 1)
    varied = _varied(x, flips=True).numpy()
    counts = [int((varied == image).all(axis=(1, 2, 3)).sum()) for image in _symmetries(x[0].numpy())]
    assert sum(counts) == 1600
    assert min(counts) > 140  # 200 expected, sd 13


@pytest.mark.parametrize(("rules", "is_rgb"), [(ALL, False), (RGB, True)], ids=["channels", "rgb"])
def test_a_step_draws_the_same_again_and_another_step_something_else(rules, is_rgb):
    x = torch.rand(8, 3, 8, 8)
    before = x.clone()
    first = augment(x, rules, seed=1, step=5, is_rgb=is_rgb)
    assert torch.equal(first, augment(x, rules, seed=1, step=5, is_rgb=is_rgb))
    assert not torch.equal(first, augment(x, rules, seed=1, step=6, is_rgb=is_rgb))
    assert not torch.equal(first, augment(x, rules, seed=2, step=5, is_rgb=is_rgb))
    assert torch.equal(x, before)


@pytest.mark.parametrize(("rules", "is_rgb"), [(ALL, False), (RGB, True)], ids=["channels", "rgb"])
def test_a_patch_is_varied_alike_whichever_process_holds_it(rules, is_rgb):
    x = torch.rand(6, 3, 8, 8)
    whole = augment(x, rules, seed=1, step=5, is_rgb=is_rgb)
    places = np.array([1, 4])
    some = augment(x[[1, 4]], rules, seed=1, step=5, is_rgb=is_rgb, places=places, batch=6)
    torch.testing.assert_close(some, whole[[1, 4]], rtol=0, atol=1e-6)


def test_it_neither_uses_nor_moves_the_global_random_state():
    state = torch.get_rng_state()
    augment(torch.rand(2, 1, 4, 4, generator=torch.Generator()), ALL, seed=0, step=0, is_rgb=False)
    assert torch.equal(torch.get_rng_state(), state)


def test_gain_and_offset_are_one_mild_draw_per_patch_and_channel():
    x = torch.tensor([0.2, 0.6]).repeat(50, 2, 2, 1)  # (50, 2, 2, 2)
    varied = _varied(x, gain=0.1, offset=0.05)
    low, high = varied.amin(dim=(2, 3)), varied.amax(dim=(2, 3))
    gain = (high - low) / 0.4
    offset = low - 0.2 * gain
    assert 0.9 <= gain.min() < 0.93
    assert 1.07 < gain.max() <= 1.1
    assert offset.abs().max() <= 0.0501
    assert len(gain.unique()) > 90


def test_by_default_rgb_is_turned_and_flipped_alone():
    x = torch.rand(20, 3, 4, 4)
    varied = augment(x, AugmentConfig(), seed=0, step=0, is_rgb=True)
    assert torch.equal(varied.flatten(2).sort().values, x.flatten(2).sort().values)


def _centre(x):
    """Centre of mass of each patch (n, 1, H, W), (x, y) in px from its middle."""
    axis = torch.arange(x.shape[-1]) - (x.shape[-1] - 1) / 2
    mass = x.sum(dim=(1, 2, 3))
    return (x.sum(dim=(1, 2)) @ axis) / mass, (x.sum(dim=(1, 3)) @ axis) / mass


def _spot(x_px, y_px, side=64, sd=2.0):
    """A Gaussian spot that many px from the middle of a patch."""
    axis = torch.arange(side) - (side - 1) / 2
    return torch.exp(-((axis[None] - x_px) ** 2 + (axis[:, None] - y_px) ** 2) / (2 * sd**2))[None, None]


def test_a_shift_moves_by_up_to_its_share_of_the_side():
    right, down = _centre(_varied(_spot(0, 0).repeat(200, 1, 1, 1), shift=0.1))
    for moved in (right, down):
        assert moved.abs().max() <= 6.41  # 0.1 of 64 px
        assert moved.min() < -5.5
        assert moved.max() > 5.5
    assert abs(torch.corrcoef(torch.stack([right, down]))[0, 1]) < 0.2  # each by itself


def test_rotation_keeps_distances_from_the_middle_and_zoom_directions():
    right, down = _centre(_varied(_spot(20, 0).repeat(200, 1, 1, 1), rotate_degrees=10))
    angle = torch.rad2deg(torch.atan2(down, right))
    torch.testing.assert_close(right.hypot(down), torch.full((200,), 20.0), rtol=0, atol=0.05)
    assert 9 < angle.abs().max() <= 10.05
    right, down = _centre(_varied(_spot(20, 0).repeat(200, 1, 1, 1), zoom=0.1))
    torch.testing.assert_close(down, torch.zeros(200), rtol=0, atol=0.01)
    assert right.min() == pytest.approx(20 / 1.1, abs=0.1)
    assert right.max() == pytest.approx(20 / 0.9, abs=0.1)


def test_what_comes_in_at_the_edges_is_tissue_not_black():
    varied = _varied(torch.full((50, 2, 16, 16), 0.7), rotate_degrees=45, zoom=0.3, shift=0.3)
    torch.testing.assert_close(varied, torch.full_like(varied, 0.7))


def test_stain_keeps_glass_white_and_scales_each_stain_by_itself():
    eosin = torch.exp(-0.5 * torch.tensor([0.07, 0.99, 0.11]))  # Ruifrok's eosin alone
    x = torch.stack([torch.ones(3), eosin]).view(1, 2, 3, 1).permute(0, 2, 1, 3).repeat(300, 1, 1, 1)  # (300, 3, 2, 1)
    varied = _varied(x, is_rgb=True, stain=0.2)
    torch.testing.assert_close(varied[:, :, 0], torch.ones(300, 3, 1))
    scale = varied[:, :, 1, 0].log() / eosin.log()  # (300, 3)
    torch.testing.assert_close(scale, scale[:, 1:2].expand(-1, 3), rtol=2e-3, atol=0)  # one stain, one factor
    assert 0.8 - 1e-3 <= scale.min() < 0.82
    assert 1.18 < scale.max() <= 1.2 + 1e-3


def test_color_keeps_grey_grey_and_stays_in_range():
    grey = torch.rand(20, 1, 4, 4).expand(-1, 3, -1, -1)
    varied = _varied(grey, is_rgb=True, color=0.5)
    torch.testing.assert_close(varied, varied[:, :1].expand(-1, 3, -1, -1))
    assert not torch.allclose(varied, grey, atol=0.05)
    assert varied.min() >= 0
    assert varied.max() <= 1


@pytest.mark.parametrize("name", ["stain", "color"])
def test_colour_is_refused_for_channels_that_have_none(name):
    patches = toy([[4, 4], [4, 4]], seed=0)
    with pytest.raises(ChannelMismatchError, match=f"{name} vary brightfield RGB, and the channels are others"):
        fit_arrays(patches, patches, TrainConfig(augment={name: 0.1}, input_px=16, steps=1))


@pytest.mark.parametrize("channels", [1, 2, 3, 5, 9])
def test_patches_of_any_number_of_channels_keep_their_shape(channels):
    x = torch.rand(6, channels, 12, 12)
    varied = augment(x, ALL, seed=0, step=0, is_rgb=False)
    assert varied.shape == x.shape
    flipped = _varied(x, flips=True).numpy()
    assert all(
        any(np.array_equal(image, one) for one in _symmetries(patch))
        for image, patch in zip(flipped, x.numpy(), strict=True)
    )


def test_albumentations_is_imported_by_training_alone():
    code = "import sys, pathopatch.training; sys.exit('albumentations' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_true_false_and_a_table_are_all_settings():
    assert TrainConfig().augmentation == AugmentConfig() == TrainConfig(augment=True).augmentation
    assert TrainConfig(augment=False).augmentation is None
    assert TrainConfig(augment={"zoom": 0.1}).augmentation == AugmentConfig(zoom=0.1)


def test_seeds_of_neighbouring_parts_differ():
    assert len({mixed_seed(seed, step) for seed in range(10) for step in range(10)}) == 100

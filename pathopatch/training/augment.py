"""How training patches are varied: a pure function of (seed, step), so that a resumed run sees the same ones.

What makes sense depends on the kind of channel. Geometry suits all. Gain, offset and shot noise are what a laser
scanning microscope does to each channel by itself; on brightfield RGB independent channels would be other stains. Stain
and colour suit brightfield RGB alone: on CARS, TPEF or SHG they have no meaning, and are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.color import hed_from_rgb, rgb_from_hed
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from pathopatch.core.config import AugmentConfig
from pathopatch.core.errors import ChannelMismatchError
from pathopatch.training.reproducible import mixed_seed

_LUMA = (0.299, 0.587, 0.114)  # what the eye takes for brightness
_DARKEST = 1e-6  # of a stain's absorbance: the logarithm of black is finite


Augmentation = Callable[[Tensor, NDArray[np.int64], int, int], Tensor]
"""Patches (n, C, H, W) in [0, 1], their positions in the batch, its size, and the step, to augmented patches."""


def augmentation(rules: AugmentConfig | None, *, seed: int, is_rgb: bool) -> Augmentation | None:
    """Return the augmentation of a phase; None for none.

    Parameters
    ----------
    rules : AugmentConfig or None
        What is varied.
    seed : int
        Of the phase.
    is_rgb : bool
        Whether the patches are brightfield RGB.
    """
    if rules is None:
        return None

    def vary(x: Tensor, places: NDArray[np.int64], batch: int, step: int) -> Tensor:
        return augment(x, rules, seed=seed, step=step, is_rgb=is_rgb, places=places, batch=batch)

    return vary


def check_channels(rules: AugmentConfig | None, *, is_rgb: bool, channels: tuple[str, ...] = ()) -> None:
    """Refuse rules that mean nothing for the kind of channel.

    Parameters
    ----------
    rules : AugmentConfig or None
        What is asked for.
    is_rgb : bool
        Whether the patches are brightfield RGB.
    channels : tuple of str
        Their names, for the message.

    Raises
    ------
    ChannelMismatchError
        Stain or colour for other channels than RGB, or shot noise for RGB.
    """
    if rules is None:
        return
    colour = [name for name in ("stain", "color") if getattr(rules, name) > 0]
    if colour and not is_rgb:
        raise ChannelMismatchError(
            f"{' and '.join(colour)} vary brightfield RGB, and the channels are {', '.join(channels) or 'others'}",
            place="[train.augment]",
            remedy="leave them at 0; gain, offset and photons are for such channels",
        )
    if rules.photons is not None and is_rgb:
        raise ChannelMismatchError(
            "photons describes detectors that count them, and the channels are brightfield RGB",
            place="[train.augment]",
            remedy="leave it out; stain and color are for such channels",
        )


def augment(
    x: Tensor,
    rules: AugmentConfig,
    *,
    seed: int,
    step: int,
    is_rgb: bool,
    places: NDArray[np.int64] | None = None,
    batch: int | None = None,
) -> Tensor:
    """Return varied patches: symmetries, affine, then photons, gain and offset, or stain and colour.

    The draws are made for the whole batch and each patch takes its own, so that it does not matter which process holds
    it. The result is clipped only where colour was varied.

    Parameters
    ----------
    x : Tensor of float32, shape (n, C, H, W), H = W
        Patches scaled to [0, 1], on the processor; not changed.
    rules : AugmentConfig
        What is varied, and by how much.
    seed, step : int
        Together they fix the draws.
    is_rgb : bool
        Whether the patches are brightfield RGB.
    places : ndarray of int64, shape (n,), optional
        Position of each patch in the batch; None: they are the batch.
    batch : int, optional
        Patches in the batch.

    Returns
    -------
    Tensor of float32, shape (n, C, H, W)
    """
    base = mixed_seed(seed, step)
    draws = _Draws(base, len(x) if batch is None else batch, places)
    varied = _turned(x, draws) if rules.flips else x.clone()
    has_gain = not is_rgb and (rules.gain > 0 or rules.offset > 0)
    gain_offset = draws.uniform(2, x.shape[1]) if has_gain else None  # (2, n, C)
    if rules.rotate_degrees or rules.zoom or rules.shift:
        varied = _moved(varied, rules, draws)
    if rules.photons is not None and not is_rgb:
        varied = _with_shot_noise(varied, rules.photons, base, draws)
    if gain_offset is not None:
        gain, offset = gain_offset[..., None, None]  # (n, C, 1, 1) each
        varied.mul_(1 + rules.gain * gain).add_(rules.offset * offset)  # in place: new memory costs more than the sums
    if is_rgb and rules.stain:
        varied = _restained(varied, rules.stain, draws)
    if is_rgb and rules.color:
        varied = _recoloured(varied, rules.color, draws)
    return varied


class _Draws:
    """Numbers for each patch of a batch, of which those of some patches are given out."""

    def __init__(self, seed: int, batch: int, places: NDArray[np.int64] | None) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._batch = batch
        self.places = np.arange(batch, dtype=np.int64) if places is None else places

    def integers(self, end: int) -> Tensor:
        """Return one of 0 to end - 1 for each patch, shape (n,)."""
        return torch.randint(end, (self._batch,), generator=self._generator)[self.places]

    def uniform(self, count: int, *shape: int) -> Tensor:
        """Return `count` sets of numbers in [-1, 1) for each patch, shape (count, n, *shape)."""
        return torch.rand(count, self._batch, *shape, generator=self._generator)[:, self.places] * 2 - 1


def _turned(x: Tensor, draws: _Draws) -> Tensor:
    """Return each patch under one of the eight symmetries of the square, all equally likely."""
    turned = torch.empty_like(x, memory_format=torch.contiguous_format)
    targets, sources = turned.numpy(), x.numpy()  # whose views can run backwards: one copy in place of three
    for target, source, code in zip(targets, sources, draws.integers(8).tolist(), strict=True):
        part = source.transpose(0, 2, 1) if code & 4 else source
        target[:] = part[:, :: -1 if code & 2 else 1, :: -1 if code & 1 else 1]
    return turned


def _moved(x: Tensor, rules: AugmentConfig, draws: _Draws) -> Tensor:
    """Return each patch turned by a small angle, zoomed and shifted; what comes in at the edges is a reflection."""
    turn, zoom, right, down = draws.uniform(4)  # (n,) each
    angle = torch.deg2rad(turn * rules.rotate_degrees)
    scale = 1 + zoom * rules.zoom
    cos, sin = angle.cos() * scale, angle.sin() * scale
    rows = [cos, -sin, 2 * rules.shift * right, sin, cos, 2 * rules.shift * down]  # grid_sample's frame is 2 wide
    grid = affine_grid(torch.stack(rows, dim=1).view(-1, 2, 3), list(x.shape), align_corners=False)
    return grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _with_shot_noise(x: Tensor, photons: float, base: int, draws: _Draws) -> Tensor:
    """Return each patch as a detector would count it that sees at least `photons` at intensity 1.

    The variance added at intensity x is x / count, with 1 / count uniform in [0, 1 / photons] for each patch.
    """
    count = 2 * photons / (draws.uniform(1)[0] + 1).clamp(min=1e-3)  # (n,)
    noisy = torch.empty_like(x)
    for row, place in enumerate(draws.places.tolist()):
        generator = torch.Generator().manual_seed(mixed_seed(base, place))  # a patch's noise is its own
        noisy[row] = torch.poisson(x[row].clamp(min=0) * count[row], generator=generator) / count[row]
    return noisy


def _restained(x: Tensor, strength: float, draws: _Draws) -> Tensor:
    """Return each patch with the amounts of haematoxylin, eosin and DAB scaled by 1 +- strength; glass stays white."""
    to_stain, to_rgb = (torch.tensor(m, dtype=x.dtype) for m in _stain_matrices())
    amount = -torch.log(x.clamp(min=_DARKEST)).permute(0, 2, 3, 1) @ to_stain  # (n, H, W, 3)
    amount = amount * (1 + strength * draws.uniform(1, 3)[0][:, None, None])
    return torch.exp(-(amount @ to_rgb)).permute(0, 3, 1, 2).clamp(0, 1)


def _recoloured(x: Tensor, strength: float, draws: _Draws) -> Tensor:
    """Return each patch with brightness, contrast and saturation scaled by 1 +- strength."""
    brightness, contrast, saturation = 1 + strength * draws.uniform(3)[..., None, None, None]  # (n, 1, 1, 1) each
    weights = torch.tensor(_LUMA, dtype=x.dtype)[:, None, None]
    x = x * brightness
    mean = (x * weights).sum(dim=1, keepdim=True).mean(dim=(2, 3), keepdim=True)
    x = mean + (x - mean) * contrast
    grey = (x * weights).sum(dim=1, keepdim=True)
    return torch.clamp(grey + (x - grey) * saturation, 0, 1)


@cache
def _stain_matrices() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return absorbance of R, G, B to stains, and back."""
    return np.asarray(hed_from_rgb), np.asarray(rgb_from_hed)

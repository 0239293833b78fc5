"""How training patches are varied: a pure function of (seed, step), so that a resumed run sees the same ones."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_GAIN = 0.1  # detectors and laser power differ by about this much from slide to slide
_OFFSET = 0.05


def augment(x: Tensor, *, seed: int, step: int, jitter: bool) -> Tensor:
    """Return patches flipped and turned, each on its own, and with their channels' gain and offset jittered.

    All eight symmetries of the square are equally likely. Gain is uniform in 1 +- 0.1 and offset in +- 0.05, drawn
    for each patch and channel; the result is not clipped.

    Parameters
    ----------
    x : Tensor of float32, shape (N, C, H, W), H = W
        Patches scaled to [0, 1]; not changed.
    seed, step : int
        Together they fix the draws.
    jitter : bool
        Whether to vary gain and offset. Off for RGB, where independent channels would be other stains.

    Returns
    -------
    Tensor of float32, shape (N, C, H, W)
    """
    generator = torch.Generator().manual_seed(mixed_seed(seed, step))
    symmetry = torch.randint(8, (len(x),), generator=generator)  # bits: transpose, flip y, flip x
    varied = torch.empty_like(x, memory_format=torch.contiguous_format)
    for code in range(8):
        chosen = torch.nonzero(symmetry == code).flatten().to(x.device)
        part = x[chosen]
        part = part.transpose(-1, -2) if code & 4 else part
        flips = [axis for bit, axis in ((2, -2), (1, -1)) if code & bit]
        varied[chosen] = part.flip(flips) if flips else part
    if jitter:
        draws = torch.rand(2, *x.shape[:2], 1, 1, generator=generator).to(x.device) * 2 - 1  # (2, N, C, 1, 1)
        varied = varied * (1 + _GAIN * draws[0]) + _OFFSET * draws[1]
    return varied


def mixed_seed(*parts: int) -> int:
    """Return one seed of 63 bits that depends on all parts; neighbouring parts give unrelated ones."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))

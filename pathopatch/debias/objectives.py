"""Objectives: one loss from the per-sample losses of a step.

Normalisation layers. A batch of `GradientExtrapolation` holds two halves. Send it through the network in **one
concatenated forward**. Without BatchNorm this equals two forwards. Train-mode BatchNorm makes them differ, and two
forwards were the worse choice where it was measured, because each half's statistics then miss the running ones. So
freeze BatchNorm when weights are pretrained, and prefer GroupNorm or LayerNorm when training from scratch.

Every ``forward(loss, group)`` takes the loss of each sample, a float tensor of shape (B,), and its group A y + a, an
int tensor of shape (B,). It returns a differentiable scalar of the type of ``loss``, and raises `InputUnsupportedError`
unless both are one-dimensional, non-empty and of one length.

Every ``expected_weights(shares, group)`` takes the long-run share of each sample in each part of a batch, an ndarray of
float64 of shape (parts, N) as of `BatchSampler.expected_shares`, and its group, an ndarray of int64 of shape (N,). It
returns the weights (N,) with which the objective of a step is sum_i w_i loss_i in expectation.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pathopatch.core.errors import InputUnsupportedError

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


class Mean(nn.Module):
    """The mean loss: the objective of ERM and of resampling."""

    def forward(self, loss: Tensor, group: Tensor) -> Tensor:
        """Return the mean of the losses; groups are not used."""
        _check(loss, group)
        return loss.mean()

    def expected_weights(self, shares: Floats, group: Indices) -> Floats:
        """Return the shares; groups are not used."""
        return np.asarray(shares.mean(axis=0))


class GradientExtrapolation(nn.Module):
    """The loss of GERNE, L_lb + beta (L_lb - L_b), whose gradient is the extrapolated one, eq. 5 to 7 of [1]_.

    The first half of a batch is the biased one, the second the less biased one, as `GerneBatchSampler` builds it. A
    sample of the less biased half weighs (1 + beta) / (B/2), one of the biased half -beta / (B/2). For beta > 0 the
    loss is unbounded below: watch its two parts in the log, not their sum. beta is part of the state dict; check it
    against the data with `gerne.check_beta`.

    Parameters
    ----------
    beta : float
        Extrapolation; -1 is the biased half alone, 0 the less biased half alone. One that is not finite raises
        `InputUnsupportedError`.

    Attributes
    ----------
    loss_biased, loss_less_biased : Tensor of float, shape ()
        L_b and L_lb of the last call: detached, NaN before the first; not in the state dict.

    References
    ----------
    .. [1] Asaad, Shadaydeh, Denzler, ICCV 2025, arXiv:2503.13236.
    """

    beta: Tensor
    loss_biased: Tensor
    loss_less_biased: Tensor

    def __init__(self, beta: float) -> None:
        super().__init__()
        if not math.isfinite(beta):
            raise InputUnsupportedError(f"beta = {beta}", remedy="Use a number inside gerne.beta_bounds.")
        self.register_buffer("beta", torch.tensor(beta, dtype=torch.float64))
        self.register_buffer("loss_biased", torch.tensor(math.nan), persistent=False)
        self.register_buffer("loss_less_biased", torch.tensor(math.nan), persistent=False)

    def forward(self, loss: Tensor, group: Tensor) -> Tensor:
        """Return the extrapolated loss of an even batch whose first half is biased; groups are not used."""
        _check(loss, group)
        if len(loss) % 2:
            raise InputUnsupportedError(
                f"a batch of {len(loss)} does not split into two halves", remedy="Use batches of GerneBatchSampler."
            )
        biased, less_biased = (half.mean() for half in loss.chunk(2))
        # Detached, or the log would keep the graph of the last step in memory.
        self.loss_biased, self.loss_less_biased = biased.detach(), less_biased.detach()
        return less_biased + self.beta.to(loss.dtype) * (less_biased - biased)

    def expected_weights(self, shares: Floats, group: Indices) -> Floats:
        """Return (1 + beta) times the shares of the less biased half, less beta times those of the biased one.

        None is negative for a beta inside its bounds: in expectation GERNE is weighted ERM.
        """
        beta = float(self.beta)
        return np.asarray((1 + beta) * shares[1] - beta * shares[0])


class GroupDRO(nn.Module):
    """The group-weighted loss sum_g q_g L_g of online Group DRO, algorithm 1 of [1]_.

    Each training step multiplies q_g by exp(eta L_g) for the groups present in the batch and normalises all q. An
    absent group adds nothing to the loss; its weight changes by the normalisation alone. Draw batches with
    `GroupBalancedBatchSampler`, as the algorithm does.

    Parameters
    ----------
    n_groups : int
        Number of groups, K * A; one below 1 raises `InputUnsupportedError`.
    eta : float
        Step of the exponentiated gradient; one that is not finite and above 0 raises `InputUnsupportedError`.

    Attributes
    ----------
    q : Tensor of float64, shape (G,)
        Weights of the groups, non-negative, of sum 1; uniform at the start.

    References
    ----------
    .. [1] Sagawa, Koh, Hashimoto, Liang, "Distributionally Robust Neural Networks for Group Shifts", ICLR 2020,
       arXiv:1911.08731.
    """

    q: Tensor

    def __init__(self, n_groups: int, eta: float) -> None:
        super().__init__()
        if n_groups < 1 or not (math.isfinite(eta) and eta > 0):
            raise InputUnsupportedError(
                f"n_groups = {n_groups}, eta = {eta}", remedy="Use at least one group and a finite eta above 0."
            )
        self.eta = eta
        self.register_buffer("q", torch.full((n_groups,), 1 / n_groups, dtype=torch.float64))

    def forward(self, loss: Tensor, group: Tensor) -> Tensor:
        """Return sum_g q_g L_g; in training mode q is updated first. A group outside [0, G) is refused."""
        _check(loss, group)
        n_groups = len(self.q)
        _check_range(group, n_groups)
        is_member = group[:, None] == torch.arange(n_groups, device=group.device)  # (B, G)
        size = is_member.sum(dim=0)  # (G,)
        group_loss = (is_member * loss[:, None]).sum(dim=0) / size.clamp(min=1)  # (G,)
        if self.training:
            # In log space, since exp(eta L) of a large loss is infinite. A new tensor replaces q: an update in place
            # would change tensors that callers still hold, such as an earlier state dict.
            self.q = torch.softmax(self.q.log() + self.eta * group_loss.detach().to(self.q.dtype), dim=0)
        return (self.q.to(loss.dtype) * group_loss).sum()

    def expected_weights(self, shares: Floats, group: Indices) -> Floats:
        """Return the shares within each group, times q of the group as it is now."""
        share = shares.mean(axis=0)
        of_group = np.bincount(group, weights=share, minlength=len(self.q))
        return np.asarray(share * self.q.numpy(force=True)[group] / of_group[group])


def _check_range(group: Tensor, n_groups: int) -> None:
    """Refuse a group outside [0, G)."""
    if bool(((group < 0) | (group >= n_groups)).any()):
        raise InputUnsupportedError(
            f"groups {sorted(set(group.tolist()))} with n_groups = {n_groups}", remedy="Number groups A y + a."
        )


def _check(loss: Tensor, group: Tensor) -> None:
    """Refuse anything but one loss and one group per sample."""
    if loss.ndim != 1 or len(loss) == 0 or group.shape != loss.shape:
        raise InputUnsupportedError(
            f"losses of shape {tuple(loss.shape)} and groups of shape {tuple(group.shape)}",
            remedy="Give one loss and one group per sample, for instance with reduction='none'.",
        )

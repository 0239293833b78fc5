"""Pool the features of a slide's patches into one logit: by gated attention, or by their mean.

References
----------
Ilse, Tomczak, Welling, "Attention-based Deep Multiple Instance Learning", ICML 2018, arXiv:1802.04712, equations 7 and
9.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from pathopatch.core.errors import NoTissueError


class SlideClassifier(nn.Module):
    """Classify a slide by the weighted mean of its patch features (N, dim), projected to `hidden` values each.

    The weights are gated attention where `is_gated`, else all equal. `dropout` is the share of the projected values
    that are left out in training.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, dim: int, hidden: int, *, is_gated: bool = True, dropout: float = 0.25) -> None:
        super().__init__()
        # Encoders differ in the scale of their features by orders of magnitude: they are standardised by these.
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))
        self.projection = nn.Linear(dim, hidden)
        self.dropout = nn.Dropout(dropout)
        self.content = nn.Linear(hidden, hidden // 2) if is_gated else None  # V of equation 9
        self.gate = nn.Linear(hidden, hidden // 2) if is_gated else None  # U
        self.score = nn.Linear(hidden // 2, 1) if is_gated else None  # w
        self.classifier = nn.Linear(hidden, 1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the slide's logit, a scalar, and the weight of each patch, (N,), which sum to 1.

        `features` are those of a slide, float32 (N, D). Neither result depends on the order of the patches, other than
        by rounding.

        Raises
        ------
        NoTissueError
            The slide has no patch: there is nothing to judge it by.
        """
        if len(features) == 0:
            raise NoTissueError("a slide without patches", remedy="leave it out")
        # The projection of standardised features, without a pass over all of them to standardise: a third less time.
        scaled = self.projection.weight / self.std  # (hidden, D)
        shifted = self.projection.bias - scaled @ self.mean
        projected = self.dropout(torch.relu(linear(features, scaled, shifted)))  # (N, hidden)
        weight = self._weights(projected)
        return self.classifier(weight @ projected).squeeze(), weight

    def _weights(self, projected: Tensor) -> Tensor:
        if self.content is None or self.gate is None or self.score is None:
            return projected.new_full((len(projected),), 1 / len(projected))
        gated = torch.tanh(self.content(projected)) * torch.sigmoid(self.gate(projected))
        return torch.softmax(self.score(gated).squeeze(1), dim=0)

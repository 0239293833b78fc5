"""Name the weights of heads on features, without torch."""

from __future__ import annotations

from pathopatch.core.config import HEAD_NETWORKS

HIDDEN = 256
"""Units of the hidden layer of the head ``mlp``."""


def head_shapes(architecture: str, dim: int, n_classes: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a head's weights by name; ValueError for what is no head."""
    if architecture not in HEAD_NETWORKS.values():
        raise ValueError(f"a head on features is {' or '.join(HEAD_NETWORKS.values())}")
    hidden, width = {}, dim
    if architecture == HEAD_NETWORKS["mlp"]:
        hidden, width = {"hidden.weight": (HIDDEN, dim), "hidden.bias": (HIDDEN,)}, HIDDEN
    return {"classifier.weight": (n_classes, width), "classifier.bias": (n_classes,), **hidden}

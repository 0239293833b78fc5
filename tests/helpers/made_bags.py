"""Made slides of which a few patches show the label, or all of them a little, or none."""

from __future__ import annotations

import numpy as np

from pathopatch.features.bags import Bag

DIM = 16


def made_bag(
    number: int, *, label: int, witnesses: int = 0, patches: int = 120, height: float = 6.0, seed: int = 0
) -> Bag:
    """A slide of noise; in a positive one `witnesses` patches lie `height` away along the first axis.

    As many patches of every slide, positive or not, lie that far away along the second axis, to either side: only the
    direction tells.
    """
    rng = np.random.default_rng((seed, number))
    features = rng.normal(0, 1, (patches, DIM)).astype(np.float32)
    features[:witnesses, 0] += height * label
    features[witnesses : 2 * witnesses, 1] += height * rng.choice([-1, 1], witnesses)
    order = rng.permutation(patches)
    return Bag(
        slide_id=f"slide{number:03d}",
        patient_id=f"patient{number:03d}",
        label=label,
        x=np.arange(patches) * 10.0,
        y=np.zeros(patches),
        feature_row=np.arange(patches),
        tissue_fraction=np.full(patches, 0.5),
        read=features[order].__getitem__,
    )


def made_bags(count: int, *, first: int = 0, **settings: float) -> list[Bag]:
    """Slides of one patient each, every second one positive."""
    return [made_bag(first + number, label=number % 2, **settings) for number in range(count)]  # type: ignore[arg-type]

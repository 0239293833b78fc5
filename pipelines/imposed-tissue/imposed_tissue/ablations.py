"""Compose with one part of the intervention changed, to see what each part is for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
from numpy.typing import NDArray

from pathopatch.debias import interventions, layers
from pathopatch.debias.interventions import CompositionPlan
from pathopatch.training import intervene

_ALL = 1.0


def _without_growth(drawn: CompositionPlan, own: float) -> CompositionPlan:
    """Cut only: the target is at most the base's own area."""
    area = min(drawn.target, own)
    return replace(drawn, target=area, keep=area, pieces=())


def _without_cut(drawn: CompositionPlan, own: float) -> CompositionPlan:
    """Grow only: all tissue of the base stays."""
    return replace(drawn, target=max(drawn.target, own), keep=own)


def _unequal_pieces(drawn: CompositionPlan, own: float) -> CompositionPlan:
    """Keep as much as base and target allow, and grow by pieces as large as there are: other sizes in each class."""
    return replace(drawn, keep=min(drawn.target, own), pieces=(_ALL,) * len(drawn.pieces))


def _island_field(seed: tuple[int, int], shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
    """Return smooth noise with one hill at the seed, (H, W): the family of the generator's islands, see `render`."""
    coarse = cv2.GaussianBlur(rng.normal(0, 1, (24, 24)), (0, 0), rng.uniform(2.5, 4.0))
    y, x = (2 * (np.arange(n) - at) / n for n, at in zip(shape, seed, strict=True))
    noise = cv2.resize(coarse / coarse.std(), shape[::-1], interpolation=cv2.INTER_CUBIC)
    hill = -(x[None, :] ** 2 + y[:, None] ** 2)
    # A cut fades over pixels, so that its field rises by about one a pixel.
    return np.asarray((noise + rng.uniform(3.0, 6.0) * hill) * max(shape) / 8, dtype=np.float64)


PLANS: Mapping[str, Callable[[CompositionPlan, float], CompositionPlan]] = {
    "no growth": _without_growth,
    "no cut": _without_cut,
    "unequal pieces": _unequal_pieces,
}
OWN_OUTLINES = "outlines of the own class"
NAMES = (*PLANS, OWN_OUTLINES, "islands of the generator's family")


@contextmanager
def changed(name: str | None) -> Iterator[None]:
    """Compose with one part changed, one of `NAMES`; None changes nothing."""
    # Plans that keep all tissue of the base need outlines that are not shared.
    own_outlines = patch.object(intervene.Intervention, "_others", lambda *_: [])
    if name is None:
        yield
    elif name in PLANS:

        def plan(fractions: Sequence[Any], *, label: int, fraction: float, rng: np.random.Generator) -> CompositionPlan:
            drawn = interventions.plan(fractions, label=label, fraction=fraction, rng=rng)
            return PLANS[name](drawn, fraction)

        with patch.object(intervene, "plan", plan), own_outlines:
            yield
    elif name == OWN_OUTLINES:
        with own_outlines:
            yield
    elif name == NAMES[-1]:
        with patch.object(layers, "_polygon_field", _island_field):
            yield
    else:
        raise ValueError(f"no ablation {name!r}; there are {', '.join(NAMES)}")

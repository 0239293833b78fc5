"""Area interventions: training patches composed to another tissue area, with the label of their base.

Of a base patch a part of the tissue is kept, what is freed is filled with the patch's own background, and pieces of
donors are laid under what is there until the tissue has the target area. Targets, sizes and outlines of pieces follow
one law for all classes, so that neither the area nor the edit tells the label. It is a targeted augmentation [1]_: it
varies what must not matter, the area, and keeps what predicts.

Arrays in, arrays out, no state: all draws come from the generator that the caller gives, and the same state of it gives
the same bytes. Areas are in pixels, or shares of the patch. OpenCV is needed; `pathopatch.debias` does not load it::

    rng = np.random.default_rng([seed, step, sample])
    drawn = plan(fractions_by_class, label=base.label, fraction=base.tissue.mean(), rng=rng)
    made = compose(base, donors, drawn, rng=rng, others=others)  # made.pixels has the label of the base

`set_area` needs neither label nor donors: it asks a trained model whether its answer follows the area.

References
----------
.. [1] Gao et al., "Out-of-Domain Robustness via Targeted Augmentations", ICML 2023, arXiv:2302.11861.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from pathopatch.core.errors import GroupEmptyError, InputUnsupportedError, NonFiniteError, NoTissueError
from pathopatch.debias.inpainting import inpaint
from pathopatch.debias.layers import (
    Layer,
    LayerCanvas,
    Mask,
    Pixels,
    cut_tissue,
    mirror,
    move_to_free,
    random_pixel,
    shared_tissue,
    turn_at_random,
)

Labels = Literal["presence", "share", "class"]
Growth = Literal["many", "own"]

MOST_PIECES = 16
_LEAST_AREA = 0.05  # share of the patch: smaller targets and pieces show too little to classify
_LEAST_TUMOR_PX = 16
_TRIES = 4  # donors looked at for a piece
_MIRRORED = 4  # tissue that fills little of the patch is not brought into all of it by mirrors


AREAS = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Shares of the patch that are set."""
LEAST_AREA = 0.1
"""Share of tissue that a patch must have: less cannot be grown to all areas."""
SEEDS = 2
"""Edits of each patch to each area, with other cuts and other pieces."""
PLACEBOS = ("shuffled", "ground", "flipped")
"""Edits at equal area: half of the tissue cut and grown again, the ground around it filled anew, left and right."""
KEPT = 0.08  # of the second edit: all but this share is grown, whatever the area
_RIM_PX = 1.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Patch:
    """A patch, as base or donor; its arrays are neither copied nor changed.

    Parameters
    ----------
    pixels : ndarray, shape (C, H, W)
        Finite real numbers of any type and scale, usually in [0, 1].
    tissue : ndarray of bool, shape (H, W)
        Which pixels are tissue.
    label : int
        Class, from 0.
    tumor : ndarray of bool, shape (H, W), optional
        Which pixels were annotated as tumour; None if unknown.

    Raises
    ------
    InputUnsupportedError, NonFiniteError
        Shapes or types that do not fit, a negative label; NaN or infinite pixels.
    """

    pixels: npt.NDArray[Any]
    tissue: Mask
    label: int
    tumor: Mask | None = None

    def __post_init__(self) -> None:
        masks = [self.tissue] if self.tumor is None else [self.tissue, self.tumor]
        if self.pixels.ndim != 3 or any(m.shape != self.pixels.shape[1:] or m.dtype != np.bool_ for m in masks):
            raise InputUnsupportedError(
                f"pixels {self.pixels.shape}, masks {', '.join(f'{m.shape} of {m.dtype}' for m in masks)}",
                remedy="Give pixels (C, H, W) and boolean masks (H, W).",
            )
        if self.label < 0:
            raise InputUnsupportedError(f"label {self.label}", remedy="Leave out unlabelled patches.")
        if not np.isfinite(self.pixels).all():
            raise NonFiniteError("a patch holds NaN or infinite pixels", remedy="Leave it out.")


@dataclass(frozen=True, kw_only=True)
class CompositionPlan:
    """What is drawn of a sample before it is composed; areas are shares of the patch."""

    target: float  # area of the composed tissue
    keep: float  # area that the base keeps
    pieces: tuple[float, ...]  # largest area of each piece
    rim_px: float  # width over which a cut fades, above 0

    def __post_init__(self) -> None:
        if not (all(0 <= area <= 1 for area in (self.target, self.keep, *self.pieces)) and self.rim_px > 0):
            raise InputUnsupportedError(f"{self}", remedy="Give areas in [0, 1] and a rim above 0 px.")


@dataclass(frozen=True, kw_only=True, eq=False)
class Composition:
    """A composed patch; its label is that of its base."""

    pixels: Pixels  # (C, H, W), in the base's units
    tissue: Mask  # (H, W), exact at cuts: a pixel belongs to it if more than half covered
    tumor: Mask | None  # (H, W); None if unknown
    piece_px: tuple[int, ...]  # pixels of tissue that the base kept, then of each piece that was added
    is_on_target: bool  # False: the donors did not suffice, or the label needs more tumour than the target


def intervention_share(n_min: int) -> float:
    """Return the share of each class's draws to compose: max(0.5, 1 - n_min / 100), 1 without a minority.

    `n_min`, from 0, is the number of distinct patches of the scarcest group. Where it is small, natural patches are
    nearly all of the majority, and tell the label by their area.
    """
    if n_min < 0:
        raise InputUnsupportedError(f"n_min = {n_min}", remedy="Give the number of patches of the smallest group.")
    return max(0.5, 1.0 - n_min / 100)


def plan(
    fractions: Sequence[npt.ArrayLike], *, label: int, fraction: float, rng: np.random.Generator
) -> CompositionPlan:
    """Draw target, kept area and sizes of pieces of one sample, by the same law for all classes.

    The target is the tissue fraction of a random patch of a random class. Sizes are bounded by L, the least fraction
    among the base and one random patch of each other class: for a random base, the least among one patch of each
    class. So kept parts and pieces are as small in a class with much tissue as in one with little.

    Parameters
    ----------
    fractions : sequence of K array_like of float
        Tissue fraction of each training patch, by class.
    label, fraction : int, float
        Class and tissue fraction of the base.
    rng : numpy.random.Generator
        Seeded by the caller by (seed, step, sample).

    Raises
    ------
    GroupEmptyError, InputUnsupportedError
        A class without patches; a label outside [0, K), or fractions outside [0, 1].
    """
    by_class = [np.asarray(values, dtype=np.float64).ravel() for values in fractions]
    if any(not values.size for values in by_class):
        raise GroupEmptyError(
            f"patches by class: {[values.size for values in by_class]}", remedy="Add samples of the empty class."
        )
    if not 0 <= label < len(by_class):
        raise InputUnsupportedError(f"label {label} of {len(by_class)} classes", remedy="Number the classes from 0.")
    target = float(rng.choice(by_class[rng.integers(len(by_class))]))
    others = [float(rng.choice(values)) for y, values in enumerate(by_class) if y != label]
    if not all(0 <= value <= 1 for value in (target, fraction, *others)):
        raise InputUnsupportedError(
            f"tissue fractions {[target, fraction, *others]}", remedy="Give shares of the patch, in [0, 1]."
        )
    target, least = max(target, _LEAST_AREA), max(min(fraction, *others, 1.0), _LEAST_AREA)
    keep = min(target * rng.uniform(0.4, 1), least * rng.uniform(0.5, 1), rng.uniform(0.10, 0.45))
    pieces = least * rng.uniform(0.4, 1, MOST_PIECES)
    return CompositionPlan(
        target=target,
        keep=max(keep, _LEAST_AREA),
        pieces=tuple(pieces.tolist()),
        rim_px=rng.uniform(0.8, 2.0),
    )


def compose(
    base: Patch,
    donors: Sequence[Patch],
    drawn: CompositionPlan,
    *,
    rng: np.random.Generator,
    labels: Labels = "presence",
    growth: Growth = "many",
    least_tumor_px: int | None = None,
    ground: npt.NDArray[Any] | None = None,
    others: Sequence[Sequence[Mask]] = (),
) -> Composition:
    """Return the base with the tissue area of a plan, exact where `is_on_target`: cut, filled with its ground, grown.

    Parameters
    ----------
    base : Patch
        A patch with tissue.
    donors : sequence of Patch
        Of the base's size and channels, taken in this order and again from the first: place those of the base's slide
        first. One with too little tissue for a piece is passed over. Not used with growth "own".
    drawn : CompositionPlan
        From `plan`.
    rng : numpy.random.Generator
        Draws shapes, turns, places and noise; continue with that of `plan`.
    labels : {"presence", "share", "class"}
        What the label means. "presence": class 1 holds tumour, anywhere in its tissue unless a mask tells where; it may
        be grown with tissue of both classes, class 0 never with tumour. "share": class 1 holds a least share of tumour;
        needs tumour masks. "class": K classes. In the last two, donors are of the base's class.
    growth : {"many", "own"}
        "many": up to 16 small pieces of different donors. "own": the patch's own tissue, mirrored at its border. Only
        "many" obeys the plan's sizes of pieces; with "own" they are larger in classes with more tissue.
    least_tumor_px : int, optional
        Pixels of tumour that a base of class 1 with a tumour mask keeps, or all if it has fewer. Default: 16 for
        "presence", all for "share".
    ground : ndarray, shape (C, n), optional
        Pixels of the slide away from tissue, for bases with few clear pixels.
    others : sequence of 1 + n sequences of K - 1 ndarray of bool, shape (H, W), optional
        Of the base and of each of the n donors: the tissue of a random patch of each other class. Only the tissue that
        is shared with them, turned at random, is used (of donors, if growth is "many"), and tumour that the base must
        keep. So the tissue to cut from has shapes of one law for all classes. Without it, outlines may tell the class:
        large tissue is cut off at the border of the patch, a small island is not.

    Raises
    ------
    NoTissueError
        The base has no tissue, or as class 1 no tumour in its tissue.
    InputUnsupportedError
        Donors or `others` that do not fit, no tumour mask where it is needed, or neither clear pixels nor ground.
    """
    _check((base, *donors), others, labels, growth)
    size = base.tissue.size
    own_tumor, must_px = _tumor_to_keep(base, labels, least_tumor_px)
    target_px = round(drawn.target * size)
    goal_px = max(target_px, must_px)
    keep_px = min(max(round(drawn.keep * size), must_px, 1), goal_px)

    available = shared_tissue(base.tissue, others[0], rng) if others else base.tissue
    if own_tumor is not None:
        if np.count_nonzero(own_tumor & available) < must_px:
            available = available | own_tumor
        own_tumor = own_tumor & available

    canvas = LayerCanvas(base.pixels.shape)
    seed = random_pixel(available if own_tumor is None else own_tumor, rng)
    cut = cut_tissue(available, keep_px, seed, drawn.rim_px, rng, must=own_tumor, must_px=must_px)
    background = inpaint(base.pixels.astype(np.float32), base.tissue, available & (cut.cover == 1), rng, ground=ground)
    canvas.lay(Layer(base.pixels, available, base.tumor), cut)

    sources = (base,) if growth == "own" else donors
    shared = others[1:] if growth == "many" and others else ((),) * len(sources)
    layers = [_tissue_to_take(source, base, labels, masks, rng) for source, masks in zip(sources, shared, strict=True)]
    supply = itertools.cycle(layers)
    for number, planned in enumerate(drawn.pieces if layers else ()):
        missing_px = goal_px - canvas.area_px
        if not missing_px:
            break
        limit_px = missing_px
        if growth == "many":
            # At least an even share of what is missing, or the smallest pieces could not fill a patch.
            even_px = math.ceil(missing_px / (len(drawn.pieces) - number))
            limit_px = min(missing_px, max(round(planned * size), even_px))
        layer, free = _layer_with(limit_px, supply, number, ~canvas.tissue, growth, rng)
        if free.any():
            canvas.lay(layer, cut_tissue(free, limit_px, random_pixel(free, rng), drawn.rim_px, rng))
    return Composition(
        pixels=canvas.over(background),
        tissue=canvas.tissue,
        tumor=canvas.tumor,
        piece_px=tuple(canvas.piece_px),
        is_on_target=canvas.area_px == target_px,
    )


def _tissue_to_take(
    donor: Patch, base: Patch, labels: Labels, others: Sequence[Mask], rng: np.random.Generator
) -> Layer:
    """Return a donor with the tissue, shared with `others`, that may be added: none of its tumour to non-tumour."""
    tissue = donor.tissue
    if donor.tumor is not None and labels != "class" and base.label != 1:
        tissue = tissue & ~donor.tumor
    return Layer(donor.pixels, shared_tissue(tissue, others, rng), donor.tumor)


def _layer_with(
    count: int, supply: Iterator[Layer], number: int, uncovered: Mask, growth: Growth, rng: np.random.Generator
) -> tuple[Layer, Mask]:
    """Return a layer for piece `number` and its tissue on `uncovered` pixels, (H, W) both.

    Of a few tries it is the first with `count` such pixels, else the one with most: pieces would otherwise be smaller
    in a class with less tissue.
    """
    tries: list[tuple[int, Layer, Mask]] = []
    while len(tries) < _TRIES and (not tries or tries[-1][0] < count):
        layer = next(supply)
        if growth == "own" and number < _MIRRORED:
            layer = mirror(layer, rng)
        else:
            layer = move_to_free(turn_at_random(layer, rng), uncovered, rng)
        free = layer.tissue & uncovered
        tries.append((int(np.count_nonzero(free)), layer, free))
    return max(tries, key=lambda tried: tried[0])[1:]


def _tumor_to_keep(base: Patch, labels: Labels, least_px: int | None) -> tuple[Mask | None, int]:
    """Return the tumour in a base's tissue (H, W), and how many pixels of it must stay; None and 0 without a rule."""
    if labels == "class" or base.label == 0 or base.tumor is None:
        return None, 0
    own_tumor = base.tissue & base.tumor
    available_px = int(np.count_nonzero(own_tumor))
    if not available_px:
        raise NoTissueError("a patch of class 1 without tumour in its tissue", remedy="Leave this patch as it is.")
    if least_px is None:
        least_px = _LEAST_TUMOR_PX if labels == "presence" else available_px
    return own_tumor, min(available_px, least_px)


def _check(patches: Sequence[Patch], others: Sequence[Sequence[Mask]], labels: Labels, growth: Growth) -> None:
    """Refuse what does not fit, or cannot be composed without changing the label; the base is the first patch."""
    base = patches[0]
    if labels not in get_args(Labels) or growth not in get_args(Growth):
        raise InputUnsupportedError(
            f"labels = {labels!r}, growth = {growth!r}",
            remedy=f"Use one of {', '.join(get_args(Labels))}, and one of {', '.join(get_args(Growth))}.",
        )
    if not base.tissue.any():
        raise NoTissueError("a patch without tissue", remedy="Leave it as it is: there is nothing to cut or to grow.")
    if labels != "class" and any(patch.label > 1 for patch in patches):
        raise InputUnsupportedError("a label above 1 is not tumour or non-tumour", remedy='Use labels="class".')
    for patch in patches:
        if patch.pixels.shape != base.pixels.shape:
            raise InputUnsupportedError(
                f"a donor of shape {patch.pixels.shape} for a patch of {base.pixels.shape}",
                remedy="Give donors of the same channels and size.",
            )
        if labels == "share" and patch.tumor is None:
            raise InputUnsupportedError(
                "a patch without a tumour mask: which cuts keep its share of tumour is unknown",
                remedy='Give tumour masks; use labels="presence" if any tumour makes the label.',
            )
        # With tumour masks, the other tissue of tumour patches is non-tumour tissue.
        is_allowed = labels == "presence" and (base.label == 1 or patch.tumor is not None)
        if patch.label != base.label and not is_allowed:
            raise InputUnsupportedError(
                f"a donor of class {patch.label} for a patch of class {base.label} would change what the label says",
                remedy="Give donors of the same class.",
            )
    shapes = {mask.shape for masks in others for mask in masks}
    if others and (len(others) != len(patches) or shapes - {base.tissue.shape}):
        raise InputUnsupportedError(
            f"others of {len(others)} patches, of the shapes {sorted(shapes)}",
            remedy="Give masks of the base's size: those of the base, then those of each donor.",
        )


class EditedPatch(NamedTuple):
    """A patch after an edit: pixels (C, H, W) in the units of the patch, and its tissue (H, W)."""

    pixels: Pixels
    tissue: Mask


def set_area(
    pixels: Pixels,
    tissue: Mask,
    area: float,
    rng: np.random.Generator,
    *,
    kept: float = 1.0,
    ground: Pixels | None = None,
) -> EditedPatch:
    """Return a patch with another tissue area.

    Parameters
    ----------
    pixels : ndarray of float32, shape (C, H, W)
        Any scale; not changed.
    tissue : ndarray of bool, shape (H, W)
        Which pixels are tissue.
    area : float
        Share of the patch that is tissue afterwards.
    rng : numpy.random.Generator
        Draws cuts, turns, places and noise.
    kept : float
        Share of the patch that stays of its tissue, at most.
    ground : ndarray of float32, shape (C, n), optional
        Pixels of the slide away from tissue, for patches with few clear pixels.

    Raises
    ------
    NoTissueError, InputUnsupportedError, NonFiniteError
        As `compose`; without tissue, or with tissue all over and no ground.
    """
    own = float(tissue.mean())
    plan = CompositionPlan(target=area, keep=min(own, area, kept), pieces=(1.0,) * MOST_PIECES, rim_px=_RIM_PX)
    base = Patch(pixels=pixels, tissue=tissue, label=0)
    made = compose(base, (), plan, rng=rng, growth="own", ground=ground)
    return EditedPatch(made.pixels, made.tissue)


def edits(pixels: Pixels, tissue: Mask, *, seed: Any, ground: Any = None) -> Iterator[EditedPatch]:
    """Yield the patch as it is, then each area by each seed, each area by the second edit, and the placebos.

    Arguments and errors as `set_area`; `seed` is a tuple of numbers.
    """
    own = float(tissue.mean())
    yield EditedPatch(pixels, tissue)
    rounds = [1.0] * SEEDS + [KEPT]
    for number, kept in enumerate(rounds):
        for area in AREAS:
            yield set_area(pixels, tissue, area, np.random.default_rng((*seed, number)), kept=kept, ground=ground)
    rng = np.random.default_rng((*seed, len(rounds)))
    yield set_area(pixels, tissue, own, rng, kept=own / 2, ground=ground)
    yield set_area(pixels, tissue, own, rng, ground=ground)
    yield EditedPatch(np.ascontiguousarray(pixels[:, :, ::-1]), np.ascontiguousarray(tissue[:, ::-1]))


N_EDITS = 1 + (SEEDS + 1) * len(AREAS) + len(PLACEBOS)
"""Patches that `edits` yields."""

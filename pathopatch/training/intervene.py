"""Area interventions in training: compose a share of each batch from patches and masks, see `debias.interventions`.

What is composed, and what of it a step draws, is a pure function of the seed, the step and the place in the batch: a
resumed run and several processes meet the same patches. Copies are made when they are first drawn, by the thread that
prepares batches, and kept in memory.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pathopatch.core.config import TrainConfig
from pathopatch.core.errors import InputUnsupportedError, NoTissueError
from pathopatch.core.mask_bits import pack_masks
from pathopatch.debias import gerne
from pathopatch.debias.interventions import Composition, Growth, Labels, Patch, compose, intervention_share, plan
from pathopatch.debias.methods import Method
from pathopatch.training.dataset import PatchMasks, PatchSet, mixed_seed

COPIES_PER_CLASS = 3000
"""Composed copies of each class that a run draws from."""
_DONORS = 6  # read for each copy; pieces are turned and moved, so that few donors make many
_KEPT_BYTES = 2**30
_LITTLE_GROUND = 0.5  # share of tissue above which the pixels outside of it may be pale tissue: the slide is read
_LEAST_CLEAR = 0.1  # share of clear pixels that one patch of a slide must have to give its ground
_GROUNDS = 20  # of a slide's emptiest patches, one gives its ground
_CHUNK = 1024
_TRAINING = 0
_COPY, _DRAW, _BASES, _VALIDATION, _GROUND, _OTHERS = 0, 1, 2, 3, 4, 5  # what a generator is for is part of its seed
_VALIDATION_COPIES = 600  # of each class, in place of validation patches


class Intervention:
    """Composed copies of a run's patches with tissue masks, and which of them each step draws.

    `share` in (0, 1] of each class's draws is composed. Where the `threshold` of the tissue fraction gives the patches'
    attribute, composed patches have that of their new area; else that of the patch whose place they take. `area` (N,)
    is the tissue area of each patch by its mask, a share. `usable` are the patches of each class that can be composed,
    `bases` the base of each copy of a class.

    InputUnsupportedError for patches without masks, NoTissueError for a class of which no patch can be composed.
    """

    def __init__(
        self,
        data: PatchSet,
        *,
        share: float,
        seed: int,
        threshold: float | None = None,
        growth: Growth = "many",
    ) -> None:
        if data.tissue is None:
            raise InputUnsupportedError(
                "an intervention needs the tissue mask of every patch",
                place="[train.composing] share",
                remedy="load the patches with masks",
            )
        self.data, self._share, self._seed, self.growth = data, share, seed, growth
        self.is_by_area = threshold is not None and np.array_equal(data.attribute, data.tissue_fraction >= threshold)
        self._threshold = threshold if self.is_by_area else None
        self.n_classes = int(data.label.max()) + 1
        self._labels, self._least_tumor_px = _label_rule(data, self.n_classes)
        self._slide = data.slide
        self.area, can_compose = _area_and_use(data)
        self.usable = [np.flatnonzero((data.label == y) & can_compose) for y in range(self.n_classes)]
        if missing := [y for y, usable in enumerate(self.usable) if not usable.size]:
            raise NoTissueError(
                f"class {missing[0]} has no training patch with tissue",
                place="[train.composing] share",
                remedy="train without an intervention",
            )
        self.bases = [
            _balanced_bases(usable, data.attribute[usable], np.random.default_rng([seed, _BASES, y]))
            for y, usable in enumerate(self.usable)
        ]
        # Of the bases, which are balanced: natural fractions would make sizes of parts and pieces tell the class.
        self._fractions = [self.area[bases] for bases in self.bases]
        self._kept: dict[tuple[int, int], tuple[NDArray[np.float16], NDArray[np.bool_]]] = {}
        self._lock = threading.Lock()

    def draw(self, indices: Sequence[int], step: int) -> dict[int, int]:
        """Return what of a whole batch, samples `indices`, is composed at a step: by position the copy of its class."""
        rng = np.random.default_rng([self._seed, _DRAW, step])
        label = self.data.label[np.asarray(indices)]
        places: list[int] = []
        for y in range(len(self.bases)):
            members = np.flatnonzero(label == y)
            count = int(self._share * len(members) + rng.uniform())  # the share is met in the mean
            places += rng.permutation(members)[:count].tolist()
        return dict(zip(sorted(places), rng.integers(COPIES_PER_CLASS, size=len(places)).tolist(), strict=True))

    def apply(
        self, x: NDArray[np.float32], own: NDArray[np.int64], indices: Sequence[int], drawn: Mapping[int, int]
    ) -> None:
        """Put the composed patches among those of this process, `x` (n, C, H, W), at the positions `own` (n,).

        With a further channel `x` has the masks of the patches last, which are put there too.
        """
        row = {place: number for number, place in enumerate(own.tolist())}
        for place, copy in drawn.items():
            if place in row:
                pixels, tissue = self.copy(int(self.data.label[indices[place]]), copy)
                x[row[place], : len(pixels)] = pixels
                x[row[place], len(pixels) :] = tissue

    def attributes(self, indices: Sequence[int], drawn: Mapping[int, int]) -> NDArray[np.int64]:
        """Return the attribute of each sample of a batch, (B,), composed ones by their new area."""
        attribute: NDArray[np.int64] = self.data.attribute[np.asarray(indices)].copy()
        if self._threshold is not None:
            for place, copy in drawn.items():
                tissue = self.copy(int(self.data.label[indices[place]]), copy)[1]
                attribute[place] = int(tissue.mean() >= self._threshold)
        return attribute

    def copy(self, label: int, number: int) -> tuple[NDArray[np.float16], NDArray[np.bool_]]:
        """Return the pixels (C, H, W) and the tissue (H, W) of a copy: always the same ones."""
        if (kept := self._kept.get((label, number))) is not None:
            return kept
        composed = self.compose(label, number)
        made = composed.pixels.astype(np.float16), composed.tissue
        with self._lock:
            if (len(self._kept) + 1) * (made[0].nbytes + made[1].nbytes) <= _KEPT_BYTES:
                self._kept[label, number] = made
        return made

    def compose(self, label: int, number: int) -> Composition:
        """Compose a copy, without keeping it."""
        rng = np.random.default_rng([self._seed, _COPY, label, number])
        base = int(self.bases[label][number])
        patch, *donors = self._patches([base, *self._donors(base, rng)])
        drawn = plan(self._fractions, label=label, fraction=float(patch.tissue.mean()), rng=rng)
        ground = self._ground(base, np.random.default_rng([self._seed, _GROUND, label, number]))
        return compose(
            patch,
            donors,
            drawn,
            rng=rng,
            labels=self._labels,
            growth=self.growth,
            least_tumor_px=self._least_tumor_px,
            ground=ground,
            others=self._others(label, len(donors), np.random.default_rng([self._seed, _OTHERS, label, number])),
        )

    def _others(self, label: int, n_donors: int, rng: np.random.Generator) -> list[list[NDArray[np.bool_]]]:
        """Return K - 1 masks (H, W) of random patches of the other classes for a base and for each of its donors."""
        assert self.data.tissue is not None
        other_classes = [y for y in range(self.n_classes) if y != label]
        index = np.array([
            [rng.choice(pools[y]) for y in other_classes] for pools in (self.bases, *[self.usable] * n_donors)
        ])  # fmt: skip
        masks = self.data.tissue.read(index.ravel())
        return [list(of_patch) for of_patch in masks.reshape(*index.shape, *masks.shape[1:])]

    def _donors(self, base: int, rng: np.random.Generator) -> list[int]:
        """Return patches of the base's class, those of its slide first."""
        candidates = self.usable[int(self.data.label[base])]
        candidates = candidates[candidates != base] if len(candidates) > 1 else candidates
        mixed = rng.permutation(candidates)
        is_other = self._slide[mixed] != self._slide[base]
        donors: list[int] = mixed[np.argsort(is_other, kind="stable")][:_DONORS].tolist()
        return donors

    def _ground(self, base: int, rng: np.random.Generator) -> NDArray[np.float32] | None:
        """Return pixels (C, n) of the base's slide away from tissue, for a base with few of its own."""
        if self.area[base] < _LITTLE_GROUND:
            return None
        data = self.data
        assert data.tissue is not None
        clear = 1 - self.area
        near = np.flatnonzero(self._slide == self._slide[base])
        # A slide that is full everywhere takes its ground from the others.
        near = near if clear[near].max() > _LEAST_CLEAR else np.arange(len(data))
        emptiest = near[np.argsort(clear[near], kind="stable")[::-1][:_GROUNDS]]
        index = np.array([rng.choice(emptiest)])
        pixels, tissue = data.read(index)[0], data.tissue.read(index)[0]
        return pixels[:, ~tissue] if not tissue.all() else None

    def _patches(self, indices: list[int]) -> list[Patch]:
        data = self.data
        assert data.tissue is not None
        order = np.asarray(indices)
        pixels, tissue = data.read(order), data.tissue.read(order)
        tumor = None if data.tumor is None else data.tumor.read(order)
        return [
            Patch(
                pixels=pixels[row],
                tissue=tissue[row],
                label=int(data.label[index]),
                tumor=None if tumor is None or data.has_tumor is None or not data.has_tumor[index] else tumor[row],
            )
            for row, index in enumerate(indices)
        ]


def _label_rule(data: PatchSet, n_classes: int) -> tuple[Labels, int | None]:
    """Return what the patches' labels mean, and how many pixels of tumour a tumour patch keeps; None for the default.

    Refuse labels by the share of tumour where the tumour of a patch is unknown.
    """
    if n_classes > 2:
        return "class", None
    least = None if data.source is None else data.source.least_tumor
    if least is None:
        return "presence", None
    if data.tumor is None or data.has_tumor is None or not data.has_tumor.all():
        raise InputUnsupportedError(
            f"a patch is tumour from {100 * least:g} % of tumour on, and where the tumour is, is not known of all",
            place="[train.composing] share",
            remedy="give every slide a tumor_mask or annotation, or train without an intervention",
        )
    return "share", math.ceil(least * data.tumor.input_px**2)


def _area_and_use(data: PatchSet) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the tissue area of each patch, a share, (N,), and whether it can be composed, (N,).

    A patch without tissue cannot, nor a tumour patch whose tumour does not lie in its tissue: a cut would lose it.
    """
    assert data.tissue is not None
    area, can_compose = np.empty(len(data)), np.empty(len(data), np.bool_)
    for start in range(0, len(data), _CHUNK):
        part = np.arange(start, min(start + _CHUNK, len(data)))
        tissue = data.tissue.read(part)
        area[part] = tissue.mean(axis=(1, 2))
        can_compose[part] = tissue.any(axis=(1, 2))
        if data.tumor is not None and data.has_tumor is not None:
            in_tissue = (data.tumor.read(part) & tissue).any(axis=(1, 2))
            can_compose[part] &= in_tissue | (data.label[part] != 1) | ~data.has_tumor[part]
    return area, can_compose


def _balanced_bases(
    usable: NDArray[np.int64], attribute: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return the base of each copy of a class: of every attribute value alike, each patch as often as the others."""
    values = np.unique(attribute)
    per_value = -(-COPIES_PER_CLASS // len(values))
    parts = []
    for value in values:
        members = usable[attribute == value]
        rounds = -(-per_value // len(members))
        parts.append(np.concatenate([rng.permutation(members) for _ in range(rounds)])[:per_value])
    bases: NDArray[np.int64] = np.stack(parts, axis=1).ravel()[:COPIES_PER_CLASS]
    return bases


def composed_validation(val: PatchSet, config: TrainConfig) -> PatchSet:
    """Return composed copies of validation patches, equally many of each class, to select by where a group is empty.

    Their attribute is that of their area: InputUnsupportedError where that of the patches is another. What is measured
    on them is too good: donors are of the base's own class, and training knows such copies.
    """
    seed = mixed_seed(config.seed, _VALIDATION)
    intervention = Intervention(val, share=1, seed=seed, threshold=config.threshold, growth=config.composing.growth)
    if not intervention.is_by_area:
        raise InputUnsupportedError(
            "the groups of validation are not by tissue area, so that no copy has the group that is missing",
            place="split 'val'",
            remedy="set [train] select = 'last', or move patients between the splits",
        )
    numbers = range(_VALIDATION_COPIES)
    label = np.repeat(np.arange(intervention.n_classes), _VALIDATION_COPIES)
    copies = [intervention.copy(y, number) for y in range(intervention.n_classes) for number in numbers]
    base = np.concatenate([bases[:_VALIDATION_COPIES] for bases in intervention.bases])
    tissue = np.stack([mask for _, mask in copies])
    area = tissue.mean(axis=(1, 2))
    return replace(
        val.rows(base),
        x=np.stack([pixels for pixels, _ in copies]),
        label=label,
        attribute=(area >= config.threshold).astype(np.int64),
        tissue_fraction=area,
        patch_id=np.array([f"{name}#{number}" for number, name in enumerate(val.patch_id[base].tolist())]),
        tissue=PatchMasks(pack_masks(tissue), tissue.shape[2]),
        tumor=None,
        has_tumor=None,
    )


def intervenes(method: Method, config: TrainConfig) -> bool:
    """Return whether a run composes patches, for which masks are loaded."""
    return config.composing.share is not None or method.composes


def intervention_of(method: Method, data: PatchSet, config: TrainConfig) -> Intervention | None:
    """Return what composes the patches of a run; None if nothing does."""
    if not intervenes(method, config):
        return None
    share: float | str = config.composing.share or "auto"  # what the user sets comes first
    if share == "auto":
        share = intervention_share(int(gerne.cell_counts(data.label, data.attribute, at_least=(2, 2)).min()))
    return Intervention(
        data,
        share=float(share),
        seed=mixed_seed(config.seed, _TRAINING),
        threshold=config.threshold,
        growth=config.composing.growth,
    )

"""Cut tissue out of patches, turn and move it, and stack it to a new patch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

Mask: TypeAlias = npt.NDArray[np.bool_]
Pixels: TypeAlias = npt.NDArray[np.float32]
Place: TypeAlias = tuple[int, int]  # (y, x) or (down, right), px

_BORDER_OPACITY = 0.6  # above one half: border pixels are tissue
_ROUGHNESS_PX, _ROUGHNESS_PERIOD_PX = (0.5, 2.0), 8  # of the sides of a cut: range of its standard deviation, period
_TRIES = 4
_LEAST_SHARED = 0.05  # share of the patch


class Layer(NamedTuple):
    """Pixels (C, H, W) of any type, the tissue that may be taken, and the tumour (None: unknown), (H, W) both."""

    pixels: npt.NDArray[Any]
    tissue: Mask
    tumor: Mask | None


class Cut(NamedTuple):
    """Pixels inside a cut, and how far the cut covers each, in [0, 1]: above one half inside; (H, W) both."""

    inside: Mask
    cover: Pixels


class LayerCanvas:
    """A patch of `shape` (C, H, W) in the making, from the top layer down."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.tissue: Mask = np.zeros(shape[1:], np.bool_)
        self.tumor: Mask | None = np.zeros(shape[1:], np.bool_)
        self.piece_px: list[int] = []  # tissue pixels of each layer
        self._sum, self._cover = np.zeros(shape, np.float32), np.zeros(shape[1:], np.float32)

    @property
    def area_px(self) -> int:
        """Number of tissue pixels."""
        return sum(self.piece_px)

    def lay(self, layer: Layer, cut: Cut) -> None:
        """Lay the tissue of a layer, as far as a cut covers it, under what is there."""
        # A pixel at the border of tissue is half glass: if it were opaque, it would be a pale seam on other tissue.
        inner = cv2.erode(layer.tissue.view(np.uint8), np.ones((3, 3), np.uint8))
        opacity = _BORDER_OPACITY * layer.tissue + (1 - _BORDER_OPACITY) * inner
        self.tissue = self.tissue | cut.inside
        # Around the tissue there is ground alone: a rim in its colours would tell the class.
        weight = ((1 - self._cover) * cut.cover * opacity * self.tissue).astype(np.float32)
        self._sum += weight * layer.pixels
        self._cover += weight
        self.tumor = None if self.tumor is None or layer.tumor is None else self.tumor | (layer.tumor & cut.inside)
        self.piece_px.append(int(np.count_nonzero(cut.inside)))

    def over(self, background: Pixels) -> Pixels:
        """Return the pixels, (C, H, W), on a background of that shape."""
        return self._sum + (1 - self._cover) * background


def cut_tissue(
    tissue: Mask,
    count: int,
    seed: Place,
    rim_px: float,
    rng: np.random.Generator,
    *,
    must: Mask | None = None,
    must_px: int = 0,
) -> Cut:
    """Cut `count` pixels of tissue (H, W) by a random polygon at a seed; all tissue, if it has no more.

    The polygon is a super-level set of a field. Its level is an order statistic of the field over the tissue: the count
    is exact. `must_px` of the pixels are among `must` (H, W), which lies in the tissue.
    """
    places = np.flatnonzero(tissue)
    if count >= len(places):
        return Cut(tissue, np.ones(tissue.shape, np.float32))
    field = _polygon_field(seed, tissue.shape, rng)
    rank = field.ravel()[places]
    if must is not None:
        first = np.flatnonzero(must.ravel()[places])
        rank[first[np.argsort(-rank[first], kind="stable")[:must_px]]] = np.inf
    order = np.argpartition(-rank, (count - 1, count))
    inside = np.zeros(tissue.shape, np.bool_)
    inside.ravel()[places[order[:count]]] = True
    last, following = rank[order[count - 1]], rank[order[count]]
    level = following if np.isinf(last) else (last + following) / 2
    cover = np.clip(0.5 + (field - level) / rim_px, 0, 1)
    if must is not None:
        cover[inside & must & (cover <= 0.5)] = 1  # beyond the polygon
    return Cut(inside, cover.astype(np.float32))


def _polygon_field(seed: Place, shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return the distance (H, W), px, to the rough sides of a convex polygon of 1 to 4 sides, positive inside."""
    sides = int(rng.integers(1, 5))
    angle = rng.uniform(0, 2 * np.pi) + 2 * np.pi / sides * (np.arange(sides) + rng.uniform(0, 0.4, sides))
    offset = rng.uniform(0, max(shape) / 4, sides)
    y, x = np.arange(shape[0]) - seed[0], np.arange(shape[1]) - seed[1]
    by_row = offset[:, None] - np.sin(angle)[:, None] * y  # (sides, H)
    by_column = np.cos(angle)[:, None] * x  # (sides, W)
    distance = (by_row[:, :, None] - by_column[:, None, :]).min(axis=0)
    # No knife leaves tissue as straight as a polygon.
    coarse = rng.normal(0, rng.uniform(*_ROUGHNESS_PX), [n // _ROUGHNESS_PERIOD_PX + 2 for n in shape])
    return np.asarray(distance + cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC), dtype=np.float64)


def random_pixel(mask: Mask, rng: np.random.Generator, *, near: Place | None = None) -> Place:
    """Return a random pixel of a mask (H, W) that has one; the nearest of four to `near`, if given."""
    places = np.flatnonzero(mask)
    drawn = places[rng.integers(len(places), size=1 if near is None else _TRIES)].tolist()
    pixels: list[Place] = [divmod(place, mask.shape[1]) for place in drawn]
    return pixels[0] if near is None else min(pixels, key=lambda p: abs(p[0] - near[0]) + abs(p[1] - near[1]))


def shared_tissue(tissue: Mask, others: Sequence[Mask], rng: np.random.Generator) -> Mask:
    """Return the tissue (H, W) that all `others` (H, W) cover too, each turned at random.

    Its shape does not tell which of the patches it is of: the intersection is the same but for a turn. Of a few turns
    the first that leaves 5 % of the patch is taken, else the one that leaves most. A mask that shares nothing is
    ignored.
    """
    for other in others:
        tries: list[Mask] = []
        while len(tries) < _TRIES and (not tries or tries[-1].mean() < _LEAST_SHARED):
            tries.append(tissue & _turned(other, _random_turn(tissue.shape, rng)))
        most = max(tries, key=np.count_nonzero)
        tissue = most if most.any() else tissue
    return tissue


def turn_at_random(layer: Layer, rng: np.random.Generator) -> Layer:
    """Return a layer under a random symmetry of the square, or of the rectangle; views."""
    return _turn(layer, _random_turn(layer.tissue.shape, rng))


def _random_turn(shape: tuple[int, ...], rng: np.random.Generator) -> int:
    # Turns by other angles would interpolate: smoother than the pixels of the base, they would tell pieces from it.
    return int(rng.integers(8 if shape[0] == shape[1] else 4))


def move_to_free(layer: Layer, free: Mask, rng: np.random.Generator) -> Layer:
    """Return a layer with some of its tissue on a random one of the `free` pixels (H, W)."""
    if not layer.tissue.any():
        return layer
    to = random_pixel(free, rng)
    # The less it moves, the less of it is a reflection.
    start = random_pixel(layer.tissue, rng, near=to)
    return _move(layer, (to[0] - start[0], to[1] - start[1]))


def mirror(layer: Layer, rng: np.random.Generator) -> Layer:
    """Return a layer mirrored at a random place of its tissue's border, where the tissue then continues itself."""
    tissue = layer.tissue
    across = np.argwhere(tissue[:, 1:] != tissue[:, :-1])  # between columns x and x + 1
    down = np.argwhere(tissue[1:] != tissue[:-1])
    if not len(across) + len(down):  # tissue all over
        return _turn(layer, int(rng.integers(1, 4)))
    number = int(rng.integers(len(across) + len(down)))
    if number < len(across):
        return _move(_turn(layer, 1), (0, 2 * int(across[number, 1]) + 2 - tissue.shape[1]))
    return _move(_turn(layer, 2), (2 * int(down[number - len(across), 0]) + 2 - tissue.shape[0], 0))


def _turn(layer: Layer, code: int) -> Layer:
    """Return views of a layer under symmetry `code`, 0 to 7: transposed by 4, flipped by 2 and 1."""
    return _with_all(layer, lambda array: _turned(array, code))


def _turned(array: npt.NDArray[Any], code: int) -> npt.NDArray[Any]:
    array = array.swapaxes(-1, -2) if code & 4 else array
    return array[..., :: -1 if code & 2 else 1, :: -1 if code & 1 else 1]


def _move(layer: Layer, by: Place) -> Layer:
    """Return a layer moved by (down, right) px."""
    # Reflections come in at the edges: the straight edge of a patch is not one of tissue.
    rows, columns = (_reflect(np.arange(n) - px, n) for px, n in zip(by, layer.tissue.shape, strict=True))
    return _with_all(layer, lambda array: array[..., rows[:, None], columns])


def _with_all(layer: Layer, change: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> Layer:
    """Return a layer whose arrays are all changed alike."""
    return Layer(change(layer.pixels), change(layer.tissue), None if layer.tumor is None else change(layer.tumor))


def _reflect(places: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.int64]:
    """Return places on an endless line as those in [0, size) whose reflections they are, edges repeated."""
    places = places % (2 * size)
    return np.minimum(places, 2 * size - 1 - places)

"""Collect what the slides behind a set of patches have in common, for the model bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pathopatch.core.config import TissueConfig
from pathopatch.core.errors import ChannelMismatchError
from pathopatch.patches.store import PatchStore
from pathopatch.slides.resolution import mpp_agrees


@dataclass(frozen=True)
class Source:
    """What all slides behind a set of patches have in common, for the model bundle.

    Parameters
    ----------
    channels : tuple of str
        In order.
    dtype : str
        As numpy names it.
    patch_px, stride_px : int
        Target-mpp px.
    mpp : float or None
        Target scale, um/px.
    background : str
        ``dark``, ``bright``, or ``auto`` where the slides differ, or where nobody said it of ready patches: crops show
        too little of it.
    intensity, tissue : mapping
        The rules, as the configuration of `tile` has them.
    align : bool
        Whether the channels were moved onto each other.
    """

    channels: tuple[str, ...]
    dtype: str
    patch_px: int
    stride_px: int
    mpp: float | None
    background: str = "auto"
    intensity: Mapping[str, Any] = field(default_factory=dict)
    tissue: Mapping[str, Any] = field(default_factory=dict)
    align: bool = False

    @property
    def is_rgb(self) -> bool:
        """Whether the channels are brightfield colour."""
        return self.channels == ("R", "G", "B") and self.dtype == "uint8"


def common_source(stores: Sequence[PatchStore]) -> Source | None:
    """Return what the slides have in common; refuse slides that cannot be trained on together."""
    sources = [_source_of(store) for store in stores]
    if not sources:
        return None
    first = sources[0]
    mpps = [source.mpp for source in sources if source.mpp is not None]
    if mpps and not mpp_agrees(*mpps):
        raise ChannelMismatchError(
            f"the slides were tiled at {min(mpps):g} to {max(mpps):g} um/px",
            place="slides",
            remedy="tile them at one scale with --mpp",
        )
    for source, store in zip(sources, stores, strict=True):
        for name in ("channels", "dtype", "patch_px", "intensity", "align"):
            if getattr(source, name) != getattr(first, name):
                raise ChannelMismatchError(
                    f"{name} is {getattr(source, name)} in {store.path.stem!r}, "
                    f"{getattr(first, name)} in {stores[0].path.stem!r}",
                    place=str(store.path),
                    remedy="train on slides of the same channels, types, patch size, intensity rule and alignment",
                )
    same = all(source.background == first.background for source in sources)
    return replace(first, background=first.background if same else "auto", tissue=_common_tissue(sources))


def _common_tissue(sources: Sequence[Source]) -> Mapping[str, Any]:
    """Return the first slide's tissue rules, with the background levels that all slides share.

    Others were taken from the cohort for a slide that shows no background; slides that do have their own.
    """
    levels = [source.tissue.get("background_level", {}) for source in sources]
    shared = {name: level for name, level in levels[0].items() if all(own.get(name) == level for own in levels)}
    return {**sources[0].tissue, "background_level": shared} if levels[0] else sources[0].tissue


def _source_of(store: PatchStore) -> Source:
    """Return what a store says of its slide."""
    known = store.attributes
    is_guess = known.get("is_ready_set", False) and known["tissue"]["background"] == "auto"
    return Source(
        channels=tuple(known["channels"]),
        dtype=known["dtype"],
        patch_px=known["patch_px"],
        stride_px=known["stride_px"],
        mpp=known["target_mpp"],
        background="auto" if is_guess else known["background"],
        intensity=known["intensity"],
        tissue={name: value for name, value in known["tissue"].items() if name in TissueConfig.model_fields},
        align=known.get("registration", {}).get("align", False),
    )

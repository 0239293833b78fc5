"""Facts that all slides behind a set of patches share, for the model bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pathopatch.core.config import AugmentConfig, TissueConfig
from pathopatch.core.errors import ChannelMismatchError
from pathopatch.patches.store import PatchStore
from pathopatch.slides.resolution import mpp_agrees


@dataclass(frozen=True)
class Source:
    """Facts that all slides behind a set of patches share.

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
        ``dark``, ``bright``, or ``auto`` where the slides differ or nobody stated it.
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
    """Return what the slides have in common; None without slides.

    Raises
    ------
    ChannelMismatchError
        The slides cannot be trained on together; both sides are named.
    """
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
    # Slides that show no background took their level from the cohort: such a level is no rule of the model.
    levels = [source.tissue.get("background_level", {}) for source in sources]
    shared = {name: level for name, level in levels[0].items() if all(own.get(name) == level for own in levels)}
    tissue = {**first.tissue, "background_level": shared} if levels[0] else first.tissue
    same = all(source.background == first.background for source in sources)
    return replace(first, background=first.background if same else "auto", tissue=tissue)


def _source_of(store: PatchStore) -> Source:
    """Return the facts that a store holds about its slide."""
    stored = store.attributes
    # Ready patches show too little background to tell whether it is dark: a guess there binds no other slide.
    is_guess = stored.get("is_ready_set", False) and stored["tissue"]["background"] == "auto"
    return Source(
        channels=tuple(stored["channels"]),
        dtype=stored["dtype"],
        patch_px=stored["patch_px"],
        stride_px=stored["stride_px"],
        mpp=stored["target_mpp"],
        background="auto" if is_guess else stored["background"],
        intensity=stored["intensity"],
        tissue={name: value for name, value in stored["tissue"].items() if name in TissueConfig.model_fields},
        align=stored.get("registration", {}).get("align", False),
    )


def check_channels(rules: AugmentConfig | None, *, is_rgb: bool, channels: tuple[str, ...] = ()) -> None:
    """Raise ChannelMismatchError for stain or colour of other channels than RGB, or shot noise of RGB."""
    if rules is None:
        return
    colour = [name for name in ("stain", "color") if getattr(rules, name) > 0]
    if colour and not is_rgb:
        raise ChannelMismatchError(
            f"{' and '.join(colour)} vary brightfield RGB, and the channels are {', '.join(channels) or 'others'}",
            place="[train.augment]",
            remedy="leave them at 0; gain, offset and photons are for such channels",
        )
    if rules.photons is not None and is_rgb:
        raise ChannelMismatchError(
            "photons describes detectors that count them, and the channels are brightfield RGB",
            place="[train.augment]",
            remedy="leave it out; stain and color are for such channels",
        )

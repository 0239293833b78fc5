"""Take a slide's channels by name where a model or a cohort has them in another order or case."""

from __future__ import annotations

from collections.abc import Sequence

from pathopatch.slides.open import open_slide
from pathopatch.slides.slide import Slide


def in_order(slide: Slide, names: Sequence[str] | None) -> Slide:
    """Return a slide with its channels under these names, in this order.

    Parameters
    ----------
    slide : Slide
        An open slide. It is returned as it is if its channels are these already, or if they are others: two names are
        the same if they differ in upper and lower case alone, and no two of one slide may.
    names : sequence of str or None
        What is due; None: whatever it has.

    Returns
    -------
    Slide
        The same files opened again, a plane for each channel where their order differs.
    """
    if names is None or tuple(names) == slide.channels:
        return slide
    place = {name.casefold(): number for number, name in enumerate(slide.channels)}
    order = [place[name.casefold()] for name in names if name.casefold() in place]
    if not len(place) == len(slide.channels) == len(names) == len(set(order)):
        return slide
    source = slide.source
    if isinstance(source, dict):
        paths = list(source.values())
        return _opened({name: paths[number] for name, number in zip(names, order, strict=True)}, slide)
    if order == sorted(order):
        return _opened(source, slide, tuple(names))
    joint = "#" if source == str(slide.paths[0].absolute()) else "&"
    planes = {name: f"{source}{joint}plane={number}" for name, number in zip(names, order, strict=True)}
    return _opened(planes, slide)


def _opened(source: str | dict[str, str], slide: Slide, channels: tuple[str, ...] | None = None) -> Slide:
    """Return what is there, of the scale and background of a slide."""
    mpp = slide.mpp if slide.has_mpp else None
    return open_slide(source, mpp=mpp, channels=channels, background=slide._background)

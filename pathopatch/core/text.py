"""Read numbers, format them with their nouns and as durations, begin sentences, and show values in notebooks."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

WITHIN_SLIDE = "patches"
"""What progress counts within one slide; all other things that it counts are whole ones."""
THUMBNAIL_PX = 240
"""Longest side of a picture in a card: a notebook keeps a copy of each, about 100 kB at most."""


def parse_number(text: str) -> float:
    """Return the number that a text writes; ValueError for none, such as ``1_0``, which Python takes for 10."""
    if "_" in text:
        raise ValueError(f"not a number: {text!r}")
    return float(text)


def pluralize(number: int, noun: str) -> str:
    """Return a number with its noun, such as ``1 patch`` or ``2000 patches``; plurals end in s or es."""
    ending = "" if number == 1 else "es" if noun.endswith(("ch", "s", "x")) else "s"
    return f"{number} {noun}{ending}"


def patches_and_units(patches: int, units: int, noun: str = "patient") -> str:
    """Return how many patches of how many patients, or blocks, there are, in words."""
    return f"{pluralize(patches, 'patch')} of {pluralize(units, noun)}"


def units_text(units: int, effective: float | None = None, noun: str = "patient") -> str:
    """Return a number of patients, or blocks, in words, with the effective number where unequal shares make it less.

    For instance ``8 patients, effectively 1.1``.
    """
    is_less = effective is not None and round(effective) < units
    return pluralize(units, noun) + (f", effectively {effective:.1f}" if is_less else "")


def capitalize_first(text: str) -> str:
    """Return a text that can begin a sentence; `str.capitalize` would also lower the other letters."""
    return text[0].upper() + text[1:]


def duration(seconds: float) -> str:
    """Return a duration in words, such as ``3 min 12 s``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def card(title: str, facts: Iterable[tuple[str, str]], *, picture: Image | None = None) -> str:
    """Return HTML of a title, rows of names and values, and a picture to their left; all text is escaped."""
    rows = "".join(
        f'<tr><th style="text-align:left">{escape(name)}</th><td style="text-align:left">{escape(value)}</td></tr>'
        for name, value in facts
    )
    image = ""
    if picture is not None:
        png = io.BytesIO()
        picture.save(png, format="PNG", optimize=True)
        uri = f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"
        image = f'<img alt="{escape(title)}" src="{uri}" style="margin:0">'
    return (
        f'<div style="display:flex;flex-wrap:wrap;gap:1em;align-items:flex-start">{image}'
        f'<div style="max-width:50em"><strong>{escape(title)}</strong><table>{rows}</table></div></div>'
    )

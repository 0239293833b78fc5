"""Show a value in a notebook: a title, facts, and a small picture, as HTML without scripts or links."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

THUMBNAIL_PX = 240
"""Longest side of a picture in a card: a notebook keeps a copy of each, about 100 kB at most."""


def card(title: str, facts: Iterable[tuple[str, str]], *, picture: Image | None = None) -> str:
    """Return HTML of a title, rows of names and values, and a picture to their left; all text is escaped."""
    rows = "".join(
        f'<tr><th style="text-align:left">{escape(name)}</th><td style="text-align:left">{escape(value)}</td></tr>'
        for name, value in facts
    )
    image = "" if picture is None else f'<img alt="{escape(title)}" src="{png_uri(picture)}" style="margin:0">'
    return (
        f'<div style="display:flex;flex-wrap:wrap;gap:1em;align-items:flex-start">{image}'
        f'<div style="max-width:50em"><strong>{escape(title)}</strong><table>{rows}</table></div></div>'
    )


def png_uri(picture: Image) -> str:
    """Return a picture as the data URI of a PNG."""
    stream = io.BytesIO()
    picture.save(stream, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"

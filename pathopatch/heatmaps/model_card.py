"""Turn the Markdown of a model card into HTML."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import groupby

from markupsafe import Markup, escape

_EMPHASIS = ((r"\*\*(.+?)\*\*", r"<strong>\1</strong>"), (r"`(.+?)`", r"<code>\1</code>"))


def card_html(text: str) -> Markup:
    """Return a card as HTML, all of its text escaped.

    Headings, tables, rules, bold and code are what cards of this package have; other Markdown stays text.
    """
    return Markup("\n").join(_block(kind, lines) for kind, lines in groupby(text.splitlines(), key=_kind) if kind)


def _kind(line: str) -> str:
    """Return the HTML tag of the block that a line belongs to; "" for an empty line."""
    if heading := re.match("#{1,4} ", line):
        return f"h{len(heading[0])}"  # one lower: the page has a title of its own
    kinds = {"": "", "---": "hr"}
    return kinds.get(line.strip(), "table" if line.startswith("|") else "p")


def _block(kind: str, lines: Iterable[str]) -> Markup:
    """Return the lines of one block; a table's first row is its header."""
    if kind == "hr":
        return Markup("<hr>")
    if kind != "table":
        return Markup("<{0}>{1}</{0}>").format(Markup(kind), _inline(" ".join(lines).lstrip("# ")))
    rows = [re.split(r"(?<!\\)\|", line.strip()[1:-1]) for line in lines if line.strip("|- ")]
    return Markup("<table>{}</table>").format(Markup("").join(_row(row) for row in rows))


def _row(cells: Sequence[str]) -> Markup:
    """Return a row of a table, whose first cell names it."""
    first, *others = (_inline(cell.strip()) for cell in cells)
    cells_after = Markup("").join(map(Markup('<td class="text">{}</td>').format, others))
    return Markup('<tr><th scope="row">{}</th>{}</tr>').format(first, cells_after)


def _inline(text: str) -> Markup:
    """Return a line's text escaped, with what is bold and what is code."""
    html = str(escape(text))
    for pattern, replacement in _EMPHASIS:
        html = re.sub(pattern, replacement, html)
    return Markup(html)

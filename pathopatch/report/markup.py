"""Answers how text becomes HTML: everything is escaped unless it is markup already."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from importlib.resources import files

BANNER = "Research use only. Not for diagnosis, nor for any decision about a patient."


class Html(str):
    """Markup that is complete and safe; any other string is text and gets escaped."""

    __slots__ = ()


def safe(content: object) -> Html:
    """Return markup as it is, and anything else as escaped text."""
    return content if isinstance(content, Html) else Html(html.escape(str(content)))


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """Return an element; children and attribute values are escaped unless they are markup.

    Parameters
    ----------
    name : str
        Name of the element.
    *children : object
        Its content.
    **attributes : object
        A trailing underscore is dropped (``class_``), others become dashes; None leaves the attribute out.
    """
    told = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in ("img", "meta", "br", "col"):
        return Html(f"<{name}{told}>")
    return Html(f"<{name}{told}>{''.join(safe(child) for child in children)}</{name}>")


def document(title: str, *body: Html) -> str:
    """Return a whole page with its style in it, so that it opens without a network."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Html(files("pathopatch.report").joinpath("style.css").read_text(encoding="utf-8"))),
    )
    page = tag("html", head, tag("body", *body), lang="en")
    return f"<!doctype html>\n{page}\n"


def table(
    caption: object, header: Sequence[object], rows: Iterable[Sequence[object]], *, text_columns: int = 1
) -> Html:
    """Return a table whose first column names the row; columns after the text columns are numbers.

    Parameters
    ----------
    caption : object
        Said above the table.
    header : sequence
        Column names.
    rows : iterable of sequences
        Cells.
    text_columns : int
        How many columns from the left are text and stand flush left.
    """
    head = tag("tr", *(tag("th", name, scope="col", class_=_kind(i, text_columns)) for i, name in enumerate(header)))
    body = [
        tag(
            "tr",
            *(
                tag("th", cell, scope="row", class_="text")
                if i == 0
                else tag("td", cell, class_=_kind(i, text_columns))
                for i, cell in enumerate(row)
            ),
        )
        for row in rows
    ]
    inner = tag("table", tag("caption", caption), tag("thead", head), tag("tbody", *body))
    return tag("div", inner, class_="table")


def picture(file: str, alt: str, caption: object) -> Html:
    """Return a figure with its alternative text and caption."""
    return tag("figure", tag("img", src=file, alt=alt), tag("figcaption", caption))


def paragraph(*children: object, kind: str | None = None) -> Html:
    """Return a paragraph."""
    return tag("p", *children, class_=kind)


def warning(*children: object) -> Html:
    """Return a warning that is told by a word and not by colour alone."""
    return tag("p", tag("strong", "Warning. "), *children, class_="warning")


def capital(text: str) -> str:
    """Return a text that may begin a sentence."""
    return text[0].upper() + text[1:]


def percent(value: float | None, digits: int = 1) -> str:
    """Return a share in percent, and a dash for what is not known."""
    return f"{100 * value:.{digits}f}" if value is not None and math.isfinite(value) else "–"


def number(value: float | None, digits: int = 3) -> str:
    """Return a number, and a dash for what is not known."""
    return f"{value:.{digits}f}" if value is not None and math.isfinite(value) else "–"


def signed(value: float | None, digits: int) -> str:
    """Return a number with its sign, a true minus, and no sign on zero."""
    if value is None or not math.isfinite(value):
        return "–"
    told = f"{value:+.{digits}f}"
    return told[1:] if float(told) == 0 else told.replace("-", "\N{MINUS SIGN}")


def points(value: float | None) -> str:
    """Return a difference of shares in percentage points, with its sign."""
    return signed(None if value is None else 100 * value, 1)


def between(value: str, low: str, high: str) -> Html:
    """Return a number with its interval beneath it."""
    if value == "–":
        return safe(value)
    interval = f"[{low}, {high}]" if low != "–" else "no interval"
    return Html(safe(value) + tag("span", interval, class_="interval"))


def _kind(column: int, text_columns: int) -> str:
    return "text" if column < text_columns else "number"

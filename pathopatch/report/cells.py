"""Format the numbers and the table cells of the report's pages. Unknown numbers are a dash."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from markupsafe import Markup, escape

from pathopatch.evaluation.group_scores import too_few

DASH = "–"
MINUS = "\N{MINUS SIGN}"
_SIZES = {"own": ("n", "patients"), "smallest": ("n_smallest", "patients_smallest")}


class Column(NamedTuple):
    """A column of a table: its numbers, and how many patches and patients they rest on."""

    title: str  # text, or markup
    key: str  # of the row
    form: str = "text"  # see `_formatted`; or "text", which is left-aligned, or "plain", text among numbers
    has_interval: bool = False
    # "own": the row's patches and patients; "smallest": those of the smallest group; a number: those of this group;
    # "" for numbers that are never grey.
    sizes: str = ""

    @property
    def is_text(self) -> bool:
        """Whether the cells are aligned to the left."""
        return self.form == "text"


def columns(
    names: Iterable[str], key: str, form: str, has_interval: bool = False, *, title: str = "{name}"
) -> list[Column]:
    """Return a column per group or label, with the keys ``<key>_0``, ``<key>_1`` and so on, and their sizes."""
    return [
        Column(Markup(title).format(number=number, name=name), f"{key}_{number}", form, has_interval, str(number))
        for number, name in enumerate(names)
    ]


def cell(row: Mapping[Any, Any], column: Column, *, unit: str = "patient") -> Markup:
    """Return a table's cell; one that rests on too few patches, or units, is grey, with the reason beneath."""
    value = row[column.key]
    if column.form in ("text", "plain"):
        text = escape(DASH if value is None or value == "" else value)
    elif column.has_interval:
        text = interval_cell(row, column.key, column.form)
    else:
        text = escape(_formatted(value, column.form))
    n, patients = _SIZES.get(column.sizes) or (f"n_{column.sizes}", f"patients_{column.sizes}")
    # A number that is not there needs no reason, unless it is that there are no patches.
    has_reason = column.sizes and (text != DASH or not row[n])
    effective = row.get(f"effective_{patients}")
    reason = too_few(row[n], row[patients], effective=effective, of=unit) if has_reason else ""
    if reason and column.sizes == "smallest":
        reason = f"smallest group: {reason}"
    classes = " ".join(["few"] * bool(reason) + ["text"] * column.is_text)
    start = Markup('<td class="{}">').format(classes) if classes else Markup("<td>")
    return start + text + (Markup('<span class="reason">{}</span>').format(reason) if reason else "") + Markup("</td>")


def percent(value: float | None, digits: int = 1) -> str:
    """Return a share in [0, 1] in percent."""
    return number(None if value is None else 100 * value, digits)


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with a fixed number of decimals."""
    return DASH if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def count(value: float | None) -> str:
    """Return a whole number, which pandas may hold as a float."""
    return number(value, 0)


def signed(value: float | None, digits: int = 2) -> str:
    """Return a number with its sign, a true minus, and no sign on zero."""
    if value is None or not math.isfinite(value):
        return DASH
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", MINUS)


def points(value: float | None) -> str:
    """Return a difference of shares in percentage points, with its sign."""
    return signed(None if value is None else 100 * value, 1)


def interval_cell(row: Mapping[Any, Any], name: str, form: str = "percent") -> Markup:
    """Return a row's number with its confidence interval beneath it.

    The row has ``<name>``, ``<name>_low`` and ``<name>_high``, or in ``<name>`` a mapping of value, low and high.
    """
    value = row[name]
    ends = (value["value"], value["low"], value["high"]) if isinstance(value, Mapping) else ()
    texts = [_formatted(end, form) for end in ends or (value, row[f"{name}_low"], row[f"{name}_high"])]
    if texts[0] == DASH:
        return escape(DASH)
    between = "no interval" if texts[1] == DASH else f"[{texts[1]}, {texts[2]}]"
    return Markup('{}<span class="interval">{}</span>').format(texts[0], between)


def _formatted(value: float | None, form: str) -> str:
    """Return a number in a form such as ``percent``, or ``number:4`` with its decimals."""
    name, _, digits = form.partition(":")
    return _FORMS[name](value, int(digits)) if digits else _FORMS[name](value)


_FORMS: dict[str, Callable[..., str]] = {
    function.__name__: function for function in (percent, number, count, signed, points)
}

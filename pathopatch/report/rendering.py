"""Render the report's templates: all text is escaped, and unknown numbers become a dash."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from pathopatch.core.text import pluralize

DASH = "–"
MINUS = "\N{MINUS SIGN}"


def render(template: str, **context: Any) -> str:
    """Return a page made from a template in ``pathopatch/report/templates``."""
    return _environment().get_template(template).render(**context)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("pathopatch.report"),
        autoescape=True,
        # A misspelt name in a template stops the report; it must not leave a number out silently.
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (percent, number, signed, points, count, significant, interval, capitalize_first, pluralize)
    environment.filters |= {function.__name__: function for function in filters}
    return environment


def percent(value: float | None, digits: int = 1) -> str:
    """Return a share in [0, 1] in percent."""
    return number(None if value is None else 100 * value, digits)


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with a fixed number of decimals."""
    return DASH if _is_unknown(value) else f"{value:.{digits}f}"


def count(value: float | None) -> str:
    """Return a whole number, which pandas may hold as a float."""
    return number(value, 0)


def significant(value: float | None) -> str:
    """Return a number with three significant digits."""
    return DASH if _is_unknown(value) else f"{value:.3g}"


def signed(value: float | None, digits: int = 2) -> str:
    """Return a number with its sign, a true minus, and no sign on zero."""
    if _is_unknown(value):
        return DASH
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", MINUS)


def points(value: float | None) -> str:
    """Return a difference of shares in percentage points, with its sign."""
    return signed(None if value is None else 100 * value, 1)


def interval(row: Mapping[str, Any], name: str = "value", unit: str = "percent") -> Markup:
    """Return a number with its confidence interval beneath it.

    Parameters
    ----------
    row : mapping
        Holds ``<name>`` with ``<name>_low`` and ``<name>_high``, or with ``low`` and ``high``.
    name : str
        Key of the number.
    unit : str
        Name of the function above that formats it.
    """
    text_of = {"percent": percent, "number": number, "points": points, "signed": signed}[unit]
    prefix = f"{name}_" if f"{name}_low" in row else ""
    value, low, high = (text_of(row[key]) for key in (name, f"{prefix}low", f"{prefix}high"))
    if value == DASH:
        return escape(value)
    ends = "no interval" if low == DASH else f"[{low}, {high}]"
    return Markup('{}<span class="interval">{}</span>').format(value, ends)


def capitalize_first(text: str) -> str:
    """Return a text that can begin a sentence; `str.capitalize` would also lower the other letters."""
    return text[0].upper() + text[1:]


def _is_unknown(value: float | None) -> bool:
    return value is None or not math.isfinite(value)

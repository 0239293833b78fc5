"""Read numbers, format them with their nouns and as durations, and begin sentences."""

from __future__ import annotations

WITHIN_SLIDE = "patches"
"""What progress counts within one slide; all other things that it counts are whole ones."""


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
    """Return how many patches of how many patients, or blocks, there are, as text."""
    return f"{pluralize(patches, 'patch')} of {pluralize(units, noun)}"


def units_text(units: int, effective: float | None = None, noun: str = "patient") -> str:
    """Return a number of patients, or blocks, as text, with the effective number where unequal shares make it less.

    For instance ``8 patients, effectively 1.1``.
    """
    is_less = effective is not None and round(effective) < units
    return pluralize(units, noun) + (f", effectively {effective:.1f}" if is_less else "")


def capitalize_first(text: str) -> str:
    """Return a text that can begin a sentence; `str.capitalize` would also lower the other letters."""
    return text[0].upper() + text[1:]


def duration(seconds: float) -> str:
    """Return a duration as text, such as ``3 min 12 s``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"

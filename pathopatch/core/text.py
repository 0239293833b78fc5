"""How is a number of things said? One patient, two patients."""

from __future__ import annotations


def counted(number: int, thing: str) -> str:
    """Return a number with its noun, such as ``1 patch`` or ``2000 patches``.

    Parameters
    ----------
    number : int
        How many.
    thing : str
        One of them; its plural ends in s, or in es after ch, s or x.
    """
    ending = "" if number == 1 else "es" if thing.endswith(("ch", "s", "x")) else "s"
    return f"{number} {thing}{ending}"


def patches_of(patches: int, patients: int) -> str:
    """Return how many patches of how many patients there are, in words."""
    return f"{counted(patches, 'patch')} of {counted(patients, 'patient')}"

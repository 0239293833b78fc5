"""What are the groups called? By label and amount of tissue, or by label and the patches' own attribute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from pathopatch.groups.assign import LABEL_NAME, attribute_values

TISSUE = ("little tissue", "much tissue")
LABELS = ("non-tumour", "tumour")
BINS = "bins"
"""What stands before the cuts where an attribute of several bins is named, ``bins 0.3,0.5``."""


@dataclass(frozen=True)
class Naming:
    """What the values of the attribute mean.

    Parameters
    ----------
    values : tuple of str
        Of each of the A values, in order; at least two.
    labels : tuple of str
        Of label 0 and label 1.
    cuts : tuple of float
        Of an attribute of several bins of the tissue fraction.
    """

    values: tuple[str, ...] = TISSUE
    labels: tuple[str, ...] = LABELS
    cuts: tuple[float, ...] = ()

    @property
    def is_own(self) -> bool:
        """Whether the patches brought the attribute with them; then all thresholds give the same groups."""
        return self.values != TISSUE and not self.cuts

    @property
    def names(self) -> tuple[str, ...]:
        """Of the 2 A groups, in order: label and attribute."""
        return tuple(f"{label}, {value}" for label in self.labels for value in self.values)

    def by(self, threshold: float | str) -> str:
        """Return what the groups are formed by, as a noun."""
        if self.cuts:
            return f"tissue bins cut at {' and '.join(f'{cut:g}' for cut in self.cuts)}"
        return "the patches' own attribute" if self.is_own else f"tissue threshold {float(threshold):g}"

    def at(self, threshold: float | str) -> str:
        """Return the same with its preposition."""
        return f"{'by' if self.is_own or self.cuts else 'at'} {self.by(threshold)}"


def bins_text(cuts: Sequence[float]) -> str:
    """Return the cuts of bins as one text, ``0.3,0.5``."""
    return ",".join(f"{cut:g}" for cut in cuts)


def naming_of_bins(cuts: Sequence[float], labels: tuple[str, ...] = LABELS) -> Naming:
    """Return what groups by bins of the tissue fraction are called, from ``tissue below 0.3`` upwards."""
    between = [f"tissue {low:g} to {high:g}" for low, high in zip(cuts, cuts[1:], strict=False)]
    return Naming((f"tissue below {cuts[0]:g}", *between, f"tissue from {cuts[-1]:g}"), labels, tuple(cuts))


def naming_of(groups: pd.DataFrame) -> Naming:
    """Return what the groups of a table are called.

    Parameters
    ----------
    groups : DataFrame
        As `assign_groups` returns it.

    Raises
    ------
    InputUnsupportedError
        Only some patches have an attribute of their own.
    """
    own = attribute_values(groups)
    return Naming(own if len(own) > 1 else (*own, "(no other)") if own else TISSUE, label_names(groups))


def label_names(groups: pd.DataFrame) -> tuple[str, ...]:
    """Return what label 0 and label 1 are called: what the patches say, else non-tumour and tumour."""
    if LABEL_NAME not in groups:
        return LABELS
    named = groups.loc[groups[LABEL_NAME].notna() & (groups[LABEL_NAME] != "")]
    said = dict(zip(named["label"], named[LABEL_NAME], strict=True))
    return tuple(str(said.get(label, LABELS[label])) for label in (0, 1))

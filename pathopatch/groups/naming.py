"""What are the groups called? By label and amount of tissue, or by label and the patches' own attribute."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from pathopatch.groups.assign import LABEL_NAME, attribute_values

TISSUE = ("little tissue", "much tissue")
LABELS = ("non-tumour", "tumour")


@dataclass(frozen=True)
class Naming:
    """What the values of the attribute mean.

    Parameters
    ----------
    values : tuple of str
        Of each of the A values, in order; at least two.
    labels : tuple of str
        Of label 0 and label 1.
    """

    values: tuple[str, ...] = TISSUE
    labels: tuple[str, ...] = LABELS

    @property
    def is_own(self) -> bool:
        """Whether the patches brought the attribute with them; then all thresholds give the same groups."""
        return self.values != TISSUE

    @property
    def names(self) -> tuple[str, ...]:
        """Of the 2 A groups, in order: label and attribute."""
        return tuple(f"{label}, {value}" for label in self.labels for value in self.values)

    def by(self, threshold: float | str) -> str:
        """Return what the groups are formed by, as a noun."""
        return "the patches' own attribute" if self.is_own else f"tissue threshold {float(threshold):g}"

    def at(self, threshold: float | str) -> str:
        """Return the same with its preposition."""
        return f"{'by' if self.is_own else 'at'} {self.by(threshold)}"


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

"""The attribute that forms the groups together with the label, and the columns that hold both.

Tables, folder names and JSON keys write an attribute as text; only this module knows how.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.core.errors import InputMissingError, InputUnsupportedError

TISSUE_NAMES = ("little tissue", "much tissue")
LABEL_NAMES = ("non-tumour", "tumour")
PATCH_ATTRIBUTE = "attribute"
"""Column of a patch table: the attribute that the patches brought along, as text; "" where it is unknown."""
LABEL_NAME_COLUMN = "label_name"
"""Column that holds what the patches' labels are called, where that is not tumour and non-tumour."""
_GROUP, _ATTRIBUTE, _BIN, _BINS, _RANK = "group@", "attribute@", "bin@", "bins ", "rank"


@dataclass(frozen=True)
class Attribute(ABC):
    """What a run draws its patches by.

    `label` names it in tables: ``0.25``, ``bins 0.3,0.5``, ``rank``. `edges` are its cuts of the tissue fraction.
    """

    @property
    @abstractmethod
    def label(self) -> str:
        """Name in the columns ``attribute`` and ``trained_attribute`` of a comparison."""

    @property
    def edges(self) -> tuple[float, ...]:
        """Cuts of the tissue fraction, rising; none where there are no cuts."""
        return ()

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Return it as the settings of a training run state it."""

    @staticmethod
    def from_dict(settings: Mapping[str, Any]) -> Attribute | None:
        """Return what the settings of a training run draw by; None where they do not say."""
        if settings.get("attribute", "groups") == _RANK:
            return TissueRank()
        if bins := settings.get("bins", ()):
            return TissueBins(tuple(bins))
        return TissueThreshold(settings["threshold"]) if "threshold" in settings else None

    @staticmethod
    def from_label(text: str) -> Attribute | None:
        """Return the attribute of a label, of which ``, selected at …`` is ignored; None of another text."""
        edges = text.removeprefix(_BINS).split(", ")[0]
        try:
            values = tuple(float(edge) for edge in edges.split(","))
        except ValueError:
            return TissueRank() if edges == _RANK else None
        return TissueBins(values) if text.startswith(_BINS) else TissueThreshold(values[0])


@dataclass(frozen=True)
class TissueRank(Attribute):
    """The rank of the tissue fraction among the patches of one label; it forms no groups."""

    @property
    def label(self) -> str:
        """``rank``."""
        return _RANK

    def to_dict(self) -> dict[str, Any]:
        """Return ``{"attribute": "rank"}``."""
        return {"attribute": _RANK}


@dataclass(frozen=True)
class GroupingAttribute(Attribute):
    """An attribute of A values, which forms the 2 A groups g = A label + value.

    Parameters
    ----------
    label_names : tuple of str
        What label 0 and label 1 are called.
    """

    label_names: tuple[str, ...] = field(default=LABEL_NAMES, kw_only=True)
    is_patch_attribute = False

    @property
    @abstractmethod
    def key(self) -> str:
        """Suffix of its columns, and its key in JSON: ``0.25``, ``0.3,0.5``."""

    @property
    def label(self) -> str:
        """The key, where no other kind of attribute has the same."""
        return self.key

    @property
    @abstractmethod
    def value_names(self) -> tuple[str, ...]:
        """Names of the A values, in their order; at least two."""

    @property
    @abstractmethod
    def description(self) -> str:
        """A noun phrase: ``tissue threshold 0.25``."""

    @property
    def phrase(self) -> str:
        """The description with its preposition: ``at tissue threshold 0.25``."""
        return f"by {self.description}"

    @property
    def n_values(self) -> int:
        """A."""
        return len(self.value_names)

    @property
    def group_names(self) -> tuple[str, ...]:
        """Names of the 2 A groups, in their order: label and value."""
        return tuple(f"{label}, {value}" for label in self.label_names for value in self.value_names)

    @property
    def column(self) -> str:
        """Column of a groups table that holds its values."""
        return f"{_ATTRIBUTE}{self.key}"

    @property
    def group_column(self) -> str:
        """Column that tells the groups: theirs of a threshold, the values of bins."""
        return f"{_GROUP}{self.key}"

    def values(self, patches: pd.DataFrame, *, min_tissue: float) -> NDArray[np.int64]:
        """Return the value of each row of a patch table, shape (N,): 0 to A - 1, or -1 for blank and unknown."""
        return tissue_bin(patches["tissue_fraction"].to_numpy(np.float64), self.edges, min_tissue=min_tissue)

    def groups_in(self, table: pd.DataFrame) -> NDArray[np.int64]:
        """Return the group of each row of a groups or predictions table, shape (N,); -1 for none."""
        return table[self.group_column].to_numpy(np.int64)


@dataclass(frozen=True)
class TissueThreshold(GroupingAttribute):
    """Little tissue below `tau`, much tissue from `tau` on.

    References
    ----------
    Asaad, Shadaydeh, Denzler, arXiv 2511.13527: a = 1[tissue_fraction >= tau].
    """

    tau: float

    @property
    def key(self) -> str:
        """``0.25``."""
        return f"{self.tau:g}"

    @property
    def edges(self) -> tuple[float, ...]:
        """The threshold alone."""
        return (self.tau,)

    @property
    def value_names(self) -> tuple[str, ...]:
        """Little and much tissue."""
        return TISSUE_NAMES

    @property
    def description(self) -> str:
        """``tissue threshold 0.25``."""
        return f"tissue threshold {self.key}"

    @property
    def phrase(self) -> str:
        """``at tissue threshold 0.25``."""
        return f"at {self.description}"

    def to_dict(self) -> dict[str, Any]:
        """Return ``{"threshold": 0.25}``."""
        return {"threshold": self.tau}


@dataclass(frozen=True)
class TissueBins(GroupingAttribute):
    """Bins of the tissue fraction between several cuts.

    Parameters
    ----------
    cuts : tuple of float
        Rising, in (0, 1).
    """

    cuts: tuple[float, ...]

    @classmethod
    def from_key(cls, key: str, *, label_names: tuple[str, ...] = LABEL_NAMES) -> TissueBins:
        """Return the bins of a column's or a JSON key's suffix, ``0.3,0.5``."""
        return cls(tuple(float(cut) for cut in key.split(",")), label_names=label_names)

    @property
    def label(self) -> str:
        """``bins 0.3,0.5``."""
        return f"{_BINS}{self.key}"

    @property
    def key(self) -> str:
        """``0.3,0.5``."""
        return ",".join(f"{cut:g}" for cut in self.cuts)

    @property
    def edges(self) -> tuple[float, ...]:
        """All cuts."""
        return self.cuts

    @property
    def value_names(self) -> tuple[str, ...]:
        """``tissue below 0.3``, ``tissue 0.3 to 0.5``, ``tissue from 0.5``."""
        between = [f"tissue {low:g} to {high:g}" for low, high in zip(self.cuts, self.cuts[1:], strict=False)]
        return (f"tissue below {self.cuts[0]:g}", *between, f"tissue from {self.cuts[-1]:g}")

    @property
    def description(self) -> str:
        """``tissue bins cut at 0.3 and 0.5``."""
        return f"tissue bins cut at {' and '.join(f'{cut:g}' for cut in self.cuts)}"

    @property
    def column(self) -> str:
        """``bin@0.3,0.5``."""
        return f"{_BIN}{self.key}"

    @property
    def group_column(self) -> str:
        """The column of the values: the label makes groups of them."""
        return self.column

    def groups_in(self, table: pd.DataFrame) -> NDArray[np.int64]:
        """Return the group of each row by its label and bin, shape (N,); -1 for none."""
        value, label = table[self.column].to_numpy(np.int64), table["label"].to_numpy(np.int64)
        return group_of(label, value, n_values=self.n_values)

    def to_dict(self) -> dict[str, Any]:
        """Return ``{"bins": [0.3, 0.5]}``."""
        return {"bins": list(self.cuts)}


@dataclass(frozen=True)
class PatchAttribute(GroupingAttribute):
    """An attribute that the patches brought along, in place of the tissue.

    Parameters
    ----------
    names : tuple of str
        Its values, at least one, in the order of their numbers.
    tau : float
        Tissue threshold whose columns hold it: a groups table repeats it for every threshold.
    """

    names: tuple[str, ...]
    tau: float
    is_patch_attribute = True

    @property
    def key(self) -> str:
        """The threshold whose columns hold it, ``0.25``."""
        return f"{self.tau:g}"

    @property
    def value_names(self) -> tuple[str, ...]:
        """Its values; of a single value a second one without patches."""
        return self.names if len(self.names) > 1 else (*self.names, "(no other)")

    @property
    def description(self) -> str:
        """``the patches' own attribute``."""
        return "the patches' own attribute"

    def values(self, patches: pd.DataFrame, *, min_tissue: float) -> NDArray[np.int64]:
        """Return the number of the value that each patch brought along; see the base class."""
        # Blank patches keep their value: it does not depend on the tissue.
        number = {name: index for index, name in enumerate(self.names)}
        return np.asarray(patches[PATCH_ATTRIBUTE].astype(str).map(number).fillna(-1), dtype=np.int64)

    def to_dict(self) -> dict[str, Any]:
        """Return ``{"threshold": 0.25}``: every threshold gives the same groups."""
        return {"threshold": self.tau}


def tissue_bin(tissue_fraction: NDArray[np.float64], edges: Sequence[float], *, min_tissue: float) -> NDArray[np.int64]:
    """Return how many cuts each tissue fraction reaches: of one cut 1 is much tissue, 0 is little.

    Parameters
    ----------
    tissue_fraction : ndarray of float64, shape (N,)
        In [0, 1], NaN where unknown.
    edges : sequence of float
        Cuts, rising; a cut is reached by equality.
    min_tissue : float
        Below it a patch is blank.

    Returns
    -------
    ndarray of int64, shape (N,)
        0 to the number of cuts; -1 for blank patches and unknown fractions.
    """
    reached = np.searchsorted(np.asarray(edges, np.float64), tissue_fraction, side="right")
    is_known = tissue_fraction >= min_tissue  # False for NaN
    return np.where(is_known, reached, -1).astype(np.int64)


def group_of(label: NDArray[np.int64], value: NDArray[np.int64], *, n_values: int) -> NDArray[np.int64]:
    """Return the group A label + value of each patch, shape (N,); -1 without a label or a value."""
    return np.where((value < 0) | (label < 0), -1, n_values * label + value).astype(np.int64)


def patch_attribute_names(patches: pd.DataFrame) -> tuple[str, ...]:
    """Return the values of the patches' own attribute, numbers by size and text by letters; none if they have none.

    Raises
    ------
    InputUnsupportedError
        Some patches have one and others do not: the groups would mean two things.
    """
    if PATCH_ATTRIBUTE not in patches:
        return ()
    own = patches[PATCH_ATTRIBUTE]
    if own.isna().any():
        raise InputUnsupportedError(
            f"{int(own.notna().sum())} patches have an attribute of their own, {int(own.isna().sum())} do not",
            place="patches",
            remedy="keep slides and ready patches with an attribute in two work folders",
        )
    values = set(own.astype(str)) - {""}
    try:  # as text 10 would come before 9
        return tuple(sorted(values, key=float))
    except ValueError:
        return tuple(sorted(values))


def label_names(groups: pd.DataFrame) -> tuple[str, ...]:
    """Return what label 0 and label 1 are called: what the patches say, else non-tumour and tumour."""
    if LABEL_NAME_COLUMN not in groups:
        return LABEL_NAMES
    named = groups.loc[groups[LABEL_NAME_COLUMN].notna() & (groups[LABEL_NAME_COLUMN] != "")]
    name_of = dict(zip(named["label"], named[LABEL_NAME_COLUMN], strict=True))
    return tuple(str(name_of.get(label, LABEL_NAMES[label])) for label in (0, 1))


def stored_thresholds(groups: pd.DataFrame) -> tuple[float, ...]:
    """Return the tissue thresholds of a groups or predictions table, in the order of its columns."""
    # A predictions table has the columns of groups alone, a groups table those of values too.
    names = map(str, groups.columns)
    return tuple(float(name.removeprefix(_GROUP)) for name in names if name.startswith(_GROUP))


def threshold_attributes(groups: pd.DataFrame) -> tuple[TissueThreshold | PatchAttribute, ...]:
    """Return the attribute at each tissue threshold of a groups table, rising.

    Raises
    ------
    InputUnsupportedError
        There is no column ``group@<threshold>``; or see `patch_attribute_names`.
    """
    if not (thresholds := stored_thresholds(groups)):
        raise InputUnsupportedError(
            f"the groups table has no column '{_GROUP}<threshold>'",
            place="groups.parquet",
            remedy="run `pathopatch groups` with at least one --threshold",
        )
    names, labels = patch_attribute_names(groups), label_names(groups)
    if names:
        return tuple(PatchAttribute(names, tau, label_names=labels) for tau in sorted(thresholds))
    return tuple(TissueThreshold(tau, label_names=labels) for tau in sorted(thresholds))


def bins_attributes(groups: pd.DataFrame) -> tuple[TissueBins, ...]:
    """Return the bins that a groups table has columns for; none, or one set of them."""
    names = [str(name).removeprefix(_BIN) for name in groups.columns if str(name).startswith(_BIN)]
    labels = label_names(groups)
    return tuple(TissueBins.from_key(name, label_names=labels) for name in names)


def attribute_in(
    groups: pd.DataFrame, threshold: float, *, bins: Sequence[float] = ()
) -> TissueThreshold | TissueBins | PatchAttribute:
    """Return the attribute of some bins if any are named, else that at a threshold, as a groups table holds it.

    Raises
    ------
    InputMissingError
        The table has no such column; those that it has are listed.
    """
    if bins:
        wanted = TissueBins(tuple(bins), label_names=label_names(groups))
        if wanted.column not in groups:
            present = [each.key for each in bins_attributes(groups)]
            raise InputMissingError(
                f"no bins cut at {wanted.key}; there are some at {' and '.join(present) or 'none'}",
                place="groups.parquet",
                remedy=f"run pathopatch groups with --bins {wanted.key}",
            )
        return wanted
    at = TissueThreshold(threshold, label_names=label_names(groups))
    if at.column not in groups:
        names = [str(name).removeprefix(_ATTRIBUTE) for name in groups.columns if str(name).startswith(_ATTRIBUTE)]
        raise InputMissingError(
            f"no groups at threshold {at.key}; there are some at {', '.join(names) or 'none'}",
            place="groups.parquet",
            remedy=f"run pathopatch groups with --threshold {at.key}",
        )
    names_of_own = patch_attribute_names(groups)
    return PatchAttribute(names_of_own, threshold, label_names=at.label_names) if names_of_own else at


def training_label(settings: Mapping[str, Any]) -> str:
    """Return what a run draws by, and what it is selected at where that differs; empty where that is not known.

    Parameters
    ----------
    settings : mapping
        As ``config.json`` of a run has them.

    Returns
    -------
    str
        ``0.25``, ``bins 0.3,0.5``, ``rank, selected at 0.25``.
    """
    attribute, selected = Attribute.from_dict(settings), settings.get("select_at")
    if isinstance(attribute, TissueRank):  # a rank forms no groups, so a threshold always selects
        selected = selected or settings["threshold"]
    label = "" if attribute is None else attribute.label
    return label if selected is None else f"{label}, selected at {selected:g}"

"""The attribute that forms the groups together with the label, and the columns that hold both.

Tables, folder names and JSON keys write an attribute as text; only this module knows how.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.core.errors import InputMissingError, InputUnsupportedError
from pathopatch.core.patients import BLOCK

TISSUE_NAMES = ("little tissue", "much tissue")
LABEL_NAMES = ("non-tumour", "tumour")
PATCH_ATTRIBUTE = "attribute"
"""Column of a patch table: the attribute that the patches brought along, as text; "" where it is unknown."""
SCANNED = "scanned_fraction"
"""Column of a patch table: the share of the patch's part on the slide that was scanned."""
LABEL_NAME_COLUMN = "label_name"
"""Column that holds what the patches' labels are called, where that is not tumour and non-tumour."""
SOURCE_SLIDE = "source_slide"
"""Column of a patch table: the slide that a ready patch was cut from, where the list names it."""
_GROUP, _ATTRIBUTE, _BIN, _BINS, _HARD = "group@", "attribute@", "bin@", "bins ", "hard@"


@dataclass(frozen=True)
class GroupingAttribute(ABC):
    """An attribute of A values, which forms the 2 A groups g = A label + value.

    Parameters
    ----------
    label_names : tuple of str
        What label 0 and label 1 are called.
    """

    label_names: tuple[str, ...] = field(default=LABEL_NAMES, kw_only=True)
    # Its name in the tables of a comparison: 0.25, or bins 0.3,0.5.
    label: str = field(init=False, repr=False, compare=False)
    # Its cuts of the tissue fraction, rising; none where there are no cuts.
    edges: tuple[float, ...] = field(init=False, repr=False, compare=False)
    # Suffix of its columns, and its key in JSON: 0.25, or 0.3,0.5.
    key: str = field(init=False, repr=False, compare=False)
    # Names of the A values, in their order; at least two.
    value_names: tuple[str, ...] = field(init=False, repr=False, compare=False)
    n_values: int = field(init=False, repr=False, compare=False)  # A
    # Names of the 2 A groups, in their order: label and value.
    group_names: tuple[str, ...] = field(init=False, repr=False, compare=False)
    # A noun phrase, and the same with its preposition: "at tissue threshold 0.25".
    description: str = field(init=False, repr=False, compare=False)
    phrase: str = field(init=False, repr=False, compare=False)
    # Columns of a groups table that hold its values, and that tell the groups: of some it is the same column.
    column: str = field(init=False, repr=False, compare=False)
    group_column: str = field(init=False, repr=False, compare=False)
    is_patch_attribute: ClassVar[bool] = False

    def _derive(self, key: str, value_names: tuple[str, ...], description: str, **others: Any) -> None:
        """Set the derived fields; `others` are those that differ from the usual ones."""
        derived = {
            "key": key,
            "label": key,
            "edges": (),
            "value_names": value_names,
            "n_values": len(value_names),
            "group_names": tuple(f"{label}, {value}" for label in self.label_names for value in value_names),
            "description": description,
            "phrase": f"by {description}",
            "column": f"{_ATTRIBUTE}{key}",
            "group_column": f"{_GROUP}{key}",
        }
        # A frozen class refuses assignments, so the fields are set through its dictionary.
        vars(self).update(derived | others)

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Return it as the settings of a training run state it."""

    @staticmethod
    def from_dict(settings: Mapping[str, Any]) -> GroupingAttribute | None:
        """Return what the settings of a training run draw by; None where they do not say."""
        if bins := settings.get("bins", ()):
            return TissueBins(tuple(bins))
        return TissueThreshold(settings["threshold"]) if "threshold" in settings else None

    def values(self, patches: pd.DataFrame, *, min_tissue: float) -> NDArray[np.int64]:
        """Return the value of each row of a patch table, shape (N,): 0 to A - 1, or -1 for blank and unknown."""
        return tissue_bin(patches["tissue_fraction"].to_numpy(np.float64), self.edges, min_tissue=min_tissue)

    def groups_in(self, table: pd.DataFrame) -> NDArray[np.int64]:
        """Return the group of each row of a groups or predictions table, shape (N,); -1 for none."""
        numbers = table[self.group_column].to_numpy(np.int64)
        if self.group_column != self.column:
            return numbers
        return group_of(table["label"].to_numpy(np.int64), numbers, n_values=self.n_values)


@dataclass(frozen=True)
class TissueThreshold(GroupingAttribute):
    """Little tissue below `tau`, much tissue from `tau` on.

    References
    ----------
    Asaad, Shadaydeh, Denzler, arXiv 2511.13527: a = 1[tissue_fraction >= tau].
    """

    tau: float

    def __post_init__(self) -> None:
        description = f"tissue threshold {self.tau:g}"
        self._derive(f"{self.tau:g}", TISSUE_NAMES, description, edges=(self.tau,), phrase=f"at {description}")

    def to_dict(self) -> dict[str, Any]:
        """Return ``{"threshold": 0.25}``."""
        return {"threshold": self.tau}


@dataclass(frozen=True)
class TissueBins(GroupingAttribute):
    """Bins of the tissue fraction between several `cuts`, rising, in (0, 1)."""

    cuts: tuple[float, ...]

    def __post_init__(self) -> None:
        cuts = [f"{cut:g}" for cut in self.cuts]
        key = ",".join(cuts)
        between = [f"tissue {low} to {high}" for low, high in pairwise(cuts)]
        self._derive(
            key,
            (f"tissue below {cuts[0]}", *between, f"tissue from {cuts[-1]}"),
            f"tissue bins cut at {' and '.join(cuts)}",
            label=f"{_BINS}{key}",
            edges=self.cuts,
            column=f"{_BIN}{key}",
            group_column=f"{_BIN}{key}",
        )

    @classmethod
    def from_key(cls, key: str, *, label_names: tuple[str, ...] = LABEL_NAMES) -> TissueBins:
        """Return the bins of a column's or a JSON key's suffix, ``0.3,0.5``."""
        return cls(tuple(float(cut) for cut in key.split(",")), label_names=label_names)

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

    def __post_init__(self) -> None:
        # A single value gets a second one without patches.
        value_names = self.names if len(self.names) > 1 else (*self.names, "(no other)")
        self._derive(f"{self.tau:g}", value_names, "the patches' own attribute")

    def values(self, patches: pd.DataFrame, *, min_tissue: float) -> NDArray[np.int64]:
        """Return the number of the value that each patch brought along; see the base class."""
        # Blank patches keep their value: it does not depend on the tissue.
        number = {name: index for index, name in enumerate(self.names)}
        return np.asarray(patches[PATCH_ATTRIBUTE].astype(str).map(number).fillna(-1), dtype=np.int64)

    def to_dict(self) -> dict[str, Any]:
        """Return ``{"threshold": 0.25}``: every threshold gives the same groups."""
        return {"threshold": self.tau}


@dataclass(frozen=True)
class HardShare(GroupingAttribute):
    """The `share` of each class that the model of a `run` finds hardest: a pseudo-attribute, to train by alone."""

    share: float
    run: str

    def __post_init__(self) -> None:
        key = f"{self.share:g}@{self.run}"
        column, description = f"{_HARD}{key}", f"the hardest {100 * self.share:g} % of each class for {self.run}"
        self._derive(key, ("easy", "hard"), description, column=column, group_column=column)

    def to_dict(self) -> dict[str, Any]:
        """Return ``{"groups_from": "erm-t0.25-s0", "hard_share": 0.1}``."""
        return {"groups_from": self.run, "hard_share": self.share}


def units_of(patches: pd.DataFrame) -> pd.Series[str]:
    """Return the unit of each row of a patch table, which no split divides and intervals resample, with its index.

    It is the block where the table has blocks, else the patient. Blocks that share a patient are one unit, named by
    the first of them in alphabetical order.

    Raises
    ------
    InputUnsupportedError
        Some patches have a block and others do not.
    """
    patient = patches["patient_id"].astype(str)
    if BLOCK not in patches:
        return patient.rename("unit")
    block = patches[BLOCK]
    if block.isna().any():
        raise InputUnsupportedError(
            f"{int(block.notna().sum())} patches have a block, {int(block.isna().sum())} do not",
            place="patches",
            remedy="name the block of every slide, or of none, and tile again",
        )
    pairs = pd.DataFrame({"patient": patient, "block": block.astype(str)}).drop_duplicates()
    unit, is_joined = pairs["block"], False
    while not is_joined:
        lowest = unit.groupby(pairs["patient"]).transform("min").groupby(pairs["block"]).transform("min")
        is_joined, unit = lowest.equals(unit), lowest
    return block.astype(str).map(dict(zip(pairs["block"], unit, strict=True))).rename("unit")


def unit_noun(patches: pd.DataFrame) -> str:
    """Return what `units_of` returns the names of: block or patient."""
    return "block" if BLOCK in patches else "patient"


def slides_of(patches: pd.DataFrame) -> pd.Series[str]:
    """Return the slide of each row of a patch table: that which a ready patch was cut from, where it is known."""
    # A set of ready patches is stored as one slide, whose id its patches have.
    slide = patches["slide_id"].astype(str)
    return patches[SOURCE_SLIDE].where(patches[SOURCE_SLIDE].notna(), slide) if SOURCE_SLIDE in patches else slide


def scanned_enough(patches: pd.DataFrame, min_scanned: float) -> NDArray[np.bool_]:
    """Return which rows of a patch or predictions table, (N,), are scanned enough to have a group.

    Of ready patches and of other tools' features the scanned share is not known; they count as scanned.
    """
    if SCANNED not in patches:
        return np.ones(len(patches), np.bool_)
    return ~(patches[SCANNED].to_numpy(np.float64) < min_scanned)


def tissue_bin(tissue_fraction: NDArray[np.float64], edges: Sequence[float], *, min_tissue: float) -> NDArray[np.int64]:
    """Return how many cuts each tissue fraction, (N,), reaches: of one cut 1 is much tissue, 0 is little.

    The `edges` rise, and a cut is reached by equality. Blank patches, below `min_tissue`, and unknown fractions (NaN)
    have -1.
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
    return tuple(
        PatchAttribute(names, tau, label_names=labels) if names else TissueThreshold(tau, label_names=labels)
        for tau in sorted(thresholds)
    )


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
        The table has no such column; those that it has are listed, and the nearest threshold is proposed.
    InputUnsupportedError
        As of `threshold_attributes`.
    """
    wanted = TissueBins(tuple(bins)) if bins else TissueThreshold(threshold)
    present = bins_attributes(groups) if bins else threshold_attributes(groups)
    for attribute in present:
        if attribute.key == wanted.key:
            return attribute
    keys = [attribute.key for attribute in present]
    nearest = "".join(keys[:1]) if bins else min(keys, key=lambda key: abs(float(key) - threshold))
    kind, option = ("bins cut at", "--bins") if bins else ("groups at threshold", "--threshold")
    kept = "".join(f"--threshold {tau:g} " for tau in stored_thresholds(groups))
    command = f"pathopatch groups WORK {kept}{option} {wanted.key} --force"
    use = f"use {'train ' if bins else ''}{option} {nearest}, or form these too: {command}"
    raise InputMissingError(
        f"no {kind} {wanted.key}; there are some at {', '.join(keys) or 'none'}",
        place="groups.parquet",
        remedy=use if nearest else f"run {command}",
    )


def training_label(settings: Mapping[str, Any]) -> str:
    """Return what a run draws by, such as ``bins 0.3,0.5``, from its ``config.json``; empty where that does not say."""
    attribute = GroupingAttribute.from_dict(settings)
    return "" if attribute is None else attribute.label

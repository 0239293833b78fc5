"""Audit a cohort before any model: group sizes, how well the tissue alone tells the label; numbers, text, tables.

What `audit` returns is written as JSON; the functions that format it take it back from there too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pathopatch.core.patients import SPLITS
from pathopatch.core.text import patches_and_units, pluralize, units_text
from pathopatch.groups.attribute import (
    LABEL_NAMES,
    GroupingAttribute,
    PatchAttribute,
    TissueThreshold,
    attribute_in,
    unit_noun,
    units_of,
)
from pathopatch.groups.group_sizes import expected_intervals
from pathopatch.groups.shortcut import (
    FLAGGED,
    LEAST_OF_BOTH,
    NEGLIGIBLE,
    NOT_SHOWN,
    alpha_of,
    attribute_score,
    cohort_verdict,
    fraction_only,
)
from pathopatch.metrics.bootstrap import LEAST_UNITS, LEAST_UNITS_OF_A_GROUP
from pathopatch.metrics.equal_area import auroc_at_equal_area, tells_area

_FRACTION_COLUMNS = (
    "n", "tumor", "patients", "patients_with_tumor", "patients_with_non_tumor", "auroc", "auroc_low", "auroc_high",
    "equal_area", "equal_area_pairs", "equal_area_partnered", "accuracy", "threshold", "larger_is_tumor",
    "accuracy_elsewhere", "accuracy_elsewhere_low", "accuracy_elsewhere_high", "majority", "verdict", "is_flagged",
)  # fmt: skip
VERSION = 7
"""Of what an audit holds; one of another version is made anew."""


def audit(groups: pd.DataFrame, thresholds: Sequence[float], *, resamples: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Return how strong the tissue shortcut is in the data, and what its cells can measure, as plain values for JSON.

    Parameters
    ----------
    groups : DataFrame
        As `assign_groups` returns it. Without a split column all patches are of the split "all".
    thresholds : sequence of float
        Of its thresholds.
    resamples, seed : int
        Resamples of patients behind each interval, and their seed; with 0 there are no intervals and no verdict.

    Returns
    -------
    dict
        ``attribute_values``: what the A values of the attribute mean, in order; ``label_names``, where labels are not
        called non-tumour and tumour; ``unit``: what is counted as patients and resampled, patient or block.
        ``thresholds``: per threshold (as ``f"{t:g}"``) and split the 2 x A ``counts`` and ``patients`` (rows label,
        columns attribute), ``alpha``, the share of each attribute value within a label (None for a label without
        patches), and ``expected``: what `expected_intervals` returns of the cells.
        ``without_group``: per label the patches that are blank or hardly scanned, and all.
        ``fraction_only``: per split, and ``whole``: of all splits together, what `fraction_only` returns of the tissue
        fraction alone, with its AUROC at equal area, ``equal_area`` (a floor: what a model that knows the area alone
        reaches), and its ``equal_area_pairs`` and ``equal_area_partnered``; where the patches have an attribute of
        their own, ``attribute_only`` and ``attribute_whole`` are what `fraction_only` returns of it. ``verdict``: what
        `cohort_verdict` makes of the latter where it is there, else of the former. Only labelled patches that are not
        blank count.

    Raises
    ------
    InputMissingError
        There is no such threshold.

    References
    ----------
    Asaad, Shadaydeh, Denzler, ICCV 2025, arXiv 2503.13236, eq. 2: alpha.
    """
    attributes = [attribute_in(groups, threshold) for threshold in thresholds]
    first = attributes[0]
    content: dict[str, Any] = {"version": VERSION, "unit": unit_noun(groups)}
    content["attribute_values"] = list(first.value_names)
    if first.label_names != LABEL_NAMES:
        content["label_names"] = list(first.label_names)
    groups = groups.assign(unit=units_of(groups))
    content["thresholds"] = {
        attribute.key: {split: _cells(part, attribute) for split, part in _by_split(groups)} for attribute in attributes
    }
    settings: dict[str, Any] = {"resamples": resamples, "seed": seed}
    # The same patches have a group at every threshold: those with a label that are not blank.
    has_group = first.groups_in(groups) >= 0
    grouped = groups[has_group]
    by_label = (groups["label"] == 0, groups["label"] == 1)
    content["without_group"] = [[int((of & ~has_group).sum()), int(of.sum())] for of in by_label]
    by_split = {split: _fraction_only(part, **settings) for split, part in _by_split(grouped)}
    whole = _fraction_only(grouped, **settings)
    content |= {"fraction_only": by_split, "whole": whole}
    if first.is_patch_attribute:
        # Such a cohort was collected for this attribute: the verdict is of it, not of the tissue.
        by_split = {split: _attribute_only(part, first.column, **settings) for split, part in _by_split(grouped)}
        whole = _attribute_only(grouped, first.column, **settings)
        content |= {"attribute_only": by_split, "attribute_whole": whole}
    content["verdict"] = cohort_verdict(by_split, whole)
    return content


def _cells(part: pd.DataFrame, attribute: GroupingAttribute) -> dict[str, Any]:
    """Return counts, patients, alpha and the expected intervals of one split at one threshold."""
    group, n_values = attribute.groups_in(part), attribute.n_values
    counts = np.bincount(group[group >= 0], minlength=2 * n_values).reshape(2, n_values).astype(np.int64)
    patients = part.groupby(attribute.group_column)["unit"].nunique()
    return {
        "counts": counts.tolist(),
        "patients": [[int(patients.get(n_values * y + a, 0)) for a in range(n_values)] for y in (0, 1)],
        "alpha": alpha_of(counts),
        "expected": expected_intervals(group, part["unit"].to_numpy(dtype=str), 2 * n_values, unit=unit_noun(part)),
    }


def _attribute_only(part: pd.DataFrame, column: str, **settings: Any) -> dict[str, Any]:
    """Return how well the patches' own attribute alone tells the label."""
    label, patient = part["label"].to_numpy(np.int64), part["unit"].to_numpy(dtype=str)
    score = attribute_score(label, part[column].to_numpy(np.int64), patient)
    return fraction_only(label, score, patient, is_directed=True, **settings)


def _fraction_only(part: pd.DataFrame, **settings: Any) -> dict[str, Any]:
    """Return how well the tissue fraction alone tells the label, and its AUROC at equal area."""
    # Patches with an attribute of their own may come without a tissue fraction.
    part = part[part["tissue_fraction"].notna()]
    label, fraction = part["label"].to_numpy(np.int64), part["tissue_fraction"].to_numpy(np.float64)
    floor = auroc_at_equal_area(fraction, label, fraction, stratum=part.get("fold"))
    return {
        **fraction_only(label, fraction, part["unit"].to_numpy(dtype=str), **settings),
        "equal_area": floor.value if floor.pairs else None,
        "equal_area_pairs": floor.pairs,
        "equal_area_partnered": floor.partnered if label.any() else None,
    }


def _by_split(groups: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Return the table's parts, train, val and test first."""
    if "split" not in groups:
        return [("all", groups)]
    present = set(groups["split"])
    names = [name for name in SPLITS if name in present] + sorted(present.difference(SPLITS))
    return [(name, groups[groups["split"] == name]) for name in names]


def audited_attributes(audit: Mapping[str, Any]) -> dict[str, TissueThreshold | PatchAttribute]:
    """Return the attribute at each threshold of an audit, by its key."""
    labels = tuple(audit.get("label_names", LABEL_NAMES))
    if "attribute_only" not in audit:
        return {key: TissueThreshold(float(key), label_names=labels) for key in audit["thresholds"]}
    names = tuple(audit["attribute_values"])
    return {key: PatchAttribute(names, float(key), label_names=labels) for key in audit["thresholds"]}


def shortcut_results(audit: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return what the verdict rests on: by split, and ``all`` together; of the patches' own attribute if any."""
    if "attribute_only" in audit:
        return {**audit["attribute_only"], "all": audit["attribute_whole"]}
    return {**audit["fraction_only"], "all": audit["whole"]}


def verdict_text(audit: Mapping[str, Any]) -> str:
    """Return the verdict in one or two sentences, with the numbers that it rests on."""
    verdict = audit["verdict"]
    result = shortcut_results(audit)[verdict["by"]]
    is_own, (other, tumor) = "attribute_only" in audit, audit.get("label_names", LABEL_NAMES)
    where = "all labelled patches with a group" if verdict["by"] == "all" else "the training patches"
    effect = verdict["least_effect"]
    if result["auroc"] is None:
        return "NOT KNOWN. There is one label only, so that nothing can give it away."
    predictor = "the patches' own attribute" if is_own else "the tissue fraction"
    finding = f"in {where} {predictor} alone tells the label with AUROC {_interval(result, 'auroc')}"
    patients, with_tumor, with_other = (
        units_text(result[name], result.get(f"effective_{name}"), audit["unit"])
        for name in ("patients", "patients_with_tumor", "patients_with_non_tumor")
    )
    if verdict["verdict"] == FLAGGED:
        side = f"above {0.5 + effect:g}" if result["auroc"] > 0.5 else f"below {0.5 - effect:g}"
        by = "that attribute" if is_own else "tissue area"
        return f"SHORTCUT. {finding[0].upper()}{finding[1:]} ({patients}), wholly {side}: a model can score by {by}."
    if verdict["verdict"] == NEGLIGIBLE:
        return f"No shortcut of any size: {finding} ({patients}), within {effect:g} of 0.5."
    if verdict["verdict"] == NOT_SHOWN:
        # An attribute's score is directed: below 0.5 it gives no label away.
        ends = (0.5 if is_own else result["auroc_low"], result["auroc_high"])
        farthest = max(ends, key=lambda end: end - 0.5 if is_own else abs(end - 0.5))
        return f"No shortcut is shown: {finding} ({patients}). One as strong as {farthest:.2f} is not excluded."
    verb = "is" if result["patients"] == 1 else "are"
    return (
        f"NOT KNOWN. {finding[0].upper()}{finding[1:]}, but {patients} ({with_tumor} with {tumor}, "
        f"{with_other} with {other}) {verb} too few for a verdict, which takes {LEAST_UNITS} and "
        f"{LEAST_UNITS_OF_A_GROUP} of each label, or {LEAST_OF_BOTH} with both labels."
    )


def format_audit(audit: Mapping[str, Any]) -> str:
    """Return an audit as text and tables, for a terminal."""
    lines, unit = [verdict_text(audit), ""], audit["unit"]
    labels = audit.get("label_names", LABEL_NAMES)
    if audit["whole"]["n"]:  # patches that brought an attribute may have no tissue fraction
        lines.append("How well the tissue fraction alone tells the label (labelled patches that are not blank):")
        lines += [_fraction_line(split, result, labels[1], unit) for split, result in audit["fraction_only"].items()]
    counts = zip(audit["without_group"], labels, strict=True)
    left_out = [f"{count} of {total} {name} ({count / total:.0%})" for (count, total), name in counts if count]
    if left_out:
        lines += ["", f"Without a group, as blank or hardly scanned: {' and '.join(left_out)}."]
    return "\n".join([*lines, *_group_lines(audit, with_expected=True)])


def format_counts(audit: Mapping[str, Any]) -> str:
    """Return the number of patches and patients of each group, by threshold and split, as tables."""
    return "\n".join(_group_lines(audit, with_expected=False)[1:])


def _group_lines(audit: Mapping[str, Any], *, with_expected: bool) -> list[str]:
    lines, unit, labels = [], audit["unit"], audit.get("label_names", LABEL_NAMES)
    for key, attribute in audited_attributes(audit).items():
        by_split = audit["thresholds"][key]
        phrase = attribute.phrase if attribute.is_patch_attribute else f"at threshold {key}"
        lines += ["", f"Groups {phrase} (patches / {unit}s; share within the label):"]
        lines.append(f"  {'split':<6} {'label':<10} " + " ".join(f"{value:>24}" for value in attribute.value_names))
        for split, cells in by_split.items():
            lines += [_group_line(split, label, cells, labels[label]) for label in (0, 1)]
        if with_expected:
            lines += [
                text for split, cells in by_split.items() for text in _expected_lines(split, cells, attribute, unit)
            ]
        if attribute.is_patch_attribute:
            break  # it is the same at every threshold
    return lines


def audit_tables(audit: Mapping[str, Any]) -> dict[str, pd.DataFrame]:
    """Return an audit as tables by name: ``fraction_only`` and ``cells``."""
    fractions = [
        {"split": split, **{name: result[name] for name in _FRACTION_COLUMNS}}
        for split, result in (*audit["fraction_only"].items(), ("whole cohort", audit["whole"]))
    ]
    n_values = len(audit["attribute_values"])
    cells = [
        {"threshold": float(threshold), "split": split, **_cell_row(cell, part["alpha"], n_values)}
        for threshold, by_split in audit["thresholds"].items()
        for split, part in by_split.items()
        for cell in part["expected"]["cells"]
    ]
    return {"fraction_only": pd.DataFrame(fractions), "cells": pd.DataFrame(cells)}


def _cell_row(cell: Mapping[str, Any], alpha: list[list[float] | None], n_values: int) -> dict[str, Any]:
    """Return one cell's columns, from its expected interval and the shares within both labels."""
    label, attribute = divmod(cell["group"], n_values)
    shares = alpha[label]
    return {
        "group": cell["group"],
        "label": label,
        "attribute": attribute,
        "n": cell["n"],
        "patients": cell["patients"],
        "alpha": None if shares is None else shares[attribute],
        "expected_half_width": cell["half_width"],
        "effective_n": cell["effective_n"],
        "patients_for_5_points": cell["patients_for_5_points"],
        "too_small": "; ".join(cell["reasons"]),
    }


def _fraction_line(split: str, result: Mapping[str, Any], tumor: str, unit: str) -> str:
    """Return one split's line about the fraction alone."""
    patients = pluralize(result["patients"], unit)
    line = f"  {split:<6} {result['n']:>7} patches of {patients}, {result['tumor']} {tumor}"
    if result["auroc"] is None:
        return f"{line}: one label only"
    side = ">=" if result["larger_is_tumor"] else "<"
    elsewhere = result["accuracy_elsewhere"]
    elsewhere_text = "" if elsewhere is None else f"; {elsewhere:.3f} on {unit}s it was not chosen on"
    floor = result["equal_area"]
    floor_text = "no pair of patches" if floor is None else f"{floor:.3f}"
    floor_text += " (no value there can be told apart from area)" * (floor is not None and tells_area(floor))
    return (
        f"{line}: AUROC {_interval(result, 'auroc')}, at equal area {floor_text}, accuracy {result['accuracy']:.3f} "
        f"with {tumor} where the fraction is {side} {result['threshold']:.3g}{elsewhere_text}; always the commoner "
        f"label {result['majority']:.3f}"
    )


def _interval(result: Mapping[str, Any], name: str) -> str:
    """Return a number, with its interval where there is one."""
    low, high = result[f"{name}_low"], result[f"{name}_high"]
    return f"{result[name]:.3f}" + ("" if low is None else f" [{low:.3f}, {high:.3f}]")


def _group_line(split: str, label: int, cells: Mapping[str, Any], label_name: str) -> str:
    """Return one label's line of the group table; an empty group is marked."""
    alpha = cells["alpha"][label]
    texts = []
    for attribute, (n, patients) in enumerate(zip(cells["counts"][label], cells["patients"][label], strict=True)):
        share = "" if alpha is None else f" {alpha[attribute]:6.1%}"
        texts.append(f"{n} / {patients}{share}" if n else "EMPTY")
    return f"  {split:<6} {label_name:<10} " + " ".join(f"{text:>24}" for text in texts)


def _expected_lines(split: str, cells: Mapping[str, Any], attribute: GroupingAttribute, unit: str) -> list[str]:
    """Return what a split's cells can measure, and which are too small."""
    if split == "train":  # models are not evaluated on training patches
        return []
    expected = cells["expected"]
    wga = expected["wga"]
    lines = []
    if wga["mean"] is not None:
        lines.append(
            f"  {split}: were every group truly right at {expected['accuracy']:.0%}, WGA would be measured as "
            f"{wga['low']:.0%} to {wga['high']:.0%}, {-100 * wga['bias']:.0f} points too low on average"
        )
    small = []
    for cell in (cell for cell in expected["cells"] if cell["reasons"]):
        size = "no patches"
        if cell["n"]:
            size = patches_and_units(cell["n"], cell["patients"], unit)
            size += f": known to {100 * cell['half_width']:.0f} points"
        small.append(f"{attribute.group_names[cell['group']]} ({size})")
    return lines + ([f"  {split}: too small to measure well: {'; '.join(small)}"] if small else [])

"""How an audit is told: in words for a terminal, and as tables for a spreadsheet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from pathopatch.core.text import patches_and_patients, pluralize
from pathopatch.groups.attribute import LABEL_NAMES, GroupingAttribute, PatchAttribute, TissueThreshold
from pathopatch.groups.shortcut import FLAGGED, LEAST_PATIENTS, LEAST_PATIENTS_OF_A_LABEL, NEGLIGIBLE, NOT_SHOWN

_FRACTION = (
    "n", "tumor", "patients", "patients_with_tumor", "patients_with_non_tumor", "auroc", "auroc_low", "auroc_high",
    "accuracy", "threshold", "larger_is_tumor", "accuracy_elsewhere", "accuracy_elsewhere_low",
    "accuracy_elsewhere_high", "majority", "verdict", "is_flagged",
)  # fmt: skip


def audited_attributes(found: Mapping[str, Any]) -> dict[str, TissueThreshold | PatchAttribute]:
    """Return the attribute at each threshold of an audit, by its key.

    Parameters
    ----------
    found : mapping
        As `audit` returns it, or read back from JSON.
    """
    labels = tuple(found.get("label_names", LABEL_NAMES))
    if "attribute_only" in found:
        names = tuple(found["attribute_values"])
        return {key: PatchAttribute(names, float(key), label_names=labels) for key in found["thresholds"]}
    return {key: TissueThreshold(float(key), label_names=labels) for key in found["thresholds"]}


def verdict_text(found: Mapping[str, Any]) -> str:
    """Return the verdict in one or two sentences that say what was seen and what it allows to be said.

    Parameters
    ----------
    found : mapping
        As `audit` returns it, or read back from JSON.
    """
    verdict = found["verdict"]
    told = judged_in(found)[verdict["by"]]
    is_own, (other, tumor) = "attribute_only" in found, found.get("label_names", LABEL_NAMES)
    where = "all labelled patches" if verdict["by"] == "all" else "the training patches"
    effect = verdict["least_effect"]
    if told["auroc"] is None:
        return "NOT KNOWN. There is one label only, so that nothing can give it away."
    alone = "the patches' own attribute" if is_own else "the tissue fraction"
    seen = f"in {where} {alone} alone tells the label with AUROC {_interval(told, 'auroc')}"
    people = pluralize(told["patients"], "patient")
    if verdict["verdict"] == FLAGGED:
        side = f"above {0.5 + effect:g}" if told["auroc"] > 0.5 else f"below {0.5 - effect:g}"
        by = "that attribute" if is_own else "tissue area"
        return f"SHORTCUT. {seen[0].upper()}{seen[1:]} ({people}), wholly {side}: a model can score by {by}."
    if verdict["verdict"] == NEGLIGIBLE:
        return f"No shortcut of any size: {seen} ({people}), within {effect:g} of 0.5."
    if verdict["verdict"] == NOT_SHOWN:
        ends = (0.5 if is_own else told["auroc_low"], told["auroc_high"])
        far = max(ends) if is_own else max(ends, key=lambda end: abs(end - 0.5))
        return f"No shortcut is shown: {seen} ({people}). One as strong as {far:.2f} is not excluded."
    are = "is" if told["patients"] == 1 else "are"
    return (
        f"NOT KNOWN. {seen[0].upper()}{seen[1:]}, but {people} ({told['patients_with_tumor']} with {tumor}, "
        f"{told['patients_with_non_tumor']} with {other}) {are} too few for a verdict, which takes "
        f"{LEAST_PATIENTS} and {LEAST_PATIENTS_OF_A_LABEL} of each label."
    )


def judged_in(found: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return what was judged: by split, and ``all`` together; of the patches' own attribute where they have one.

    Parameters
    ----------
    found : mapping
        As `audit` returns it, or read back from JSON.
    """
    if "attribute_only" in found:
        return {**found["attribute_only"], "all": found["attribute_whole"]}
    return {**found["fraction_only"], "all": found["whole"]}


def describe(found: Mapping[str, Any]) -> str:
    """Return an audit in words and tables, for a terminal.

    Parameters
    ----------
    found : mapping
        As `audit` returns it, or read back from JSON.
    """
    lines = [verdict_text(found), ""]
    lines.append("How well the tissue fraction alone tells the label (labelled patches that are not blank):")
    labels = found.get("label_names", LABEL_NAMES)
    lines += [_fraction_line(split, told, labels[1]) for split, told in found["fraction_only"].items()]
    for key, attribute in audited_attributes(found).items():
        by_split = found["thresholds"][key]
        phrase = attribute.phrase if attribute.is_patch_attribute else f"at threshold {key}"
        lines += ["", f"Groups {phrase} (patches / patients; share within the label):"]
        lines.append(f"  {'split':<6} {'label':<10} " + " ".join(f"{value:>24}" for value in attribute.value_names))
        for split, cells in by_split.items():
            lines += [_group_line(split, label, cells, labels[label]) for label in (0, 1)]
        lines += [line for split, cells in by_split.items() for line in _expected_lines(split, cells, attribute)]
        if attribute.is_patch_attribute:
            break  # it is the same at every threshold
    return "\n".join(lines)


def tables(found: Mapping[str, Any]) -> dict[str, pd.DataFrame]:
    """Return an audit as tables by name: ``fraction_only``, ``cells`` and ``sweep``.

    Parameters
    ----------
    found : mapping
        As `audit` returns it, or read back from JSON.
    """
    fractions = [
        {"split": split, **{name: told[name] for name in _FRACTION}}
        for split, told in (*found["fraction_only"].items(), ("whole cohort", found["whole"]))
    ]
    n_values = len(found["attribute_values"])
    cells = [
        {
            "threshold": float(threshold),
            "split": split,
            "group": cell["group"],
            "label": cell["group"] // n_values,
            "attribute": cell["group"] % n_values,
            "n": cell["n"],
            "patients": cell["patients"],
            "alpha": (each["alpha"][cell["group"] // n_values] or [None] * n_values)[cell["group"] % n_values],
            "expected_half_width": cell["half_width"],
            "effective_n": cell["effective_n"],
            "patients_for_5_points": cell["patients_for_5_points"],
            "too_small": "; ".join(cell["reasons"]),
        }
        for threshold, by_split in found["thresholds"].items()
        for split, each in by_split.items()
        for cell in each["expected"]["cells"]
    ]
    swept = [
        {
            "split": split,
            "threshold": step["threshold"],
            **{f"n_{2 * y + a}": step["counts"][y][a] for y in (0, 1) for a in (0, 1)},
            **{f"patients_{2 * y + a}": step["patients"][y][a] for y in (0, 1) for a in (0, 1)},
            **{f"alpha_{name}": (step["alpha"][y] or [None, None])[1] for y, name in enumerate(("non_tumor", "tumor"))},
            **{name: step[name] for name in ("gap", "gap_low", "gap_high", "smallest_n")},
        }
        for split, steps in found["sweep"].items()
        for step in steps
    ]
    return {
        "fraction_only": pd.DataFrame(fractions),
        "cells": pd.DataFrame(cells),
        "sweep": pd.DataFrame(swept),
    }


def _fraction_line(split: str, told: Mapping[str, Any], tumor: str) -> str:
    """Return one split's line about the fraction alone."""
    line = f"  {split:<6} {told['n']:>7} patches of {pluralize(told['patients'], 'patient')}, {told['tumor']} {tumor}"
    if told["auroc"] is None:
        return f"{line}: one label only"
    side = ">=" if told["larger_is_tumor"] else "<"
    elsewhere = told["accuracy_elsewhere"]
    away = "" if elsewhere is None else f"; {elsewhere:.3f} on patients it was not chosen on"
    return (
        f"{line}: AUROC {_interval(told, 'auroc')}, accuracy {told['accuracy']:.3f} "
        f"with {tumor} where the fraction is {side} {told['threshold']:.3g}{away}; always the commoner label "
        f"{told['majority']:.3f}"
    )


def _interval(told: Mapping[str, Any], name: str) -> str:
    """Return a number with its interval, as far as there is one."""
    low, high = told[f"{name}_low"], told[f"{name}_high"]
    return f"{told[name]:.3f}" + ("" if low is None else f" [{low:.3f}, {high:.3f}]")


def _group_line(split: str, label: int, cells: Mapping[str, Any], name: str) -> str:
    """Return one label's line of the group table; an empty group is marked."""
    shown = []
    for attribute in range(len(cells["counts"][label])):
        n, patients = cells["counts"][label][attribute], cells["patients"][label][attribute]
        alpha = cells["alpha"][label]
        share = "" if alpha is None else f" {alpha[attribute]:6.1%}"
        shown.append(f"{n} / {patients}{share}" if n else "EMPTY")
    return f"  {split:<6} {name:<10} " + " ".join(f"{cell:>24}" for cell in shown)


def _expected_lines(split: str, cells: Mapping[str, Any], attribute: GroupingAttribute) -> list[str]:
    """Return what a split's cells can measure, and which are too small; nothing of training patches, never judged."""
    if split == "train":
        return []
    expected = cells["expected"]
    wga = expected["wga"]
    lines = []
    if wga["mean"] is not None:
        lines.append(
            f"  {split}: were every group truly right at {expected['accuracy']:.0%}, WGA would be measured as "
            f"{wga['low']:.0%} to {wga['high']:.0%}, {-100 * wga['bias']:.0f} points too low on average"
        )
    small = [each for each in expected["cells"] if each["reasons"]]
    if small:
        lines.append(f"  {split}: too small to measure well: " + "; ".join(_small(each, attribute) for each in small))
    return lines


def _small(cell: Mapping[str, Any], attribute: GroupingAttribute) -> str:
    """Return a cell that is too small, with its size and how well it can be known."""
    name = attribute.group_names[cell["group"]]
    if not cell["n"]:
        return f"{name} (no patches)"
    return (
        f"{name} ({patches_and_patients(cell['n'], cell['patients'])}: known to {100 * cell['half_width']:.0f} points)"
    )

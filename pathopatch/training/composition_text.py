"""Format a check of composed patches as text and tables, for a terminal, the report and a warning of `train`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pathopatch.core.text import capitalize_first, pluralize
from pathopatch.training.composition import DETECTORS, LEAST_DETECTION, LEAST_EFFECT, LEAST_PATCHES, PASSES, WARNS

CONTROL_NAMES = {
    "area": "tissue area",
    "shape": "shape of the mask",
    "rim": "rim of 2 px around the tissue",
    "background": "background",
    "pieces": "size of the pieces",
}
_NAME_WIDTH = max(map(len, CONTROL_NAMES.values()))
_REMEDIES = {
    "area": "Donors of a class hold too little tissue for the target area: add patches with more tissue of that class.",
    "shape": "Look at the contact sheet, and try another [train] intervene_growth.",
    "rim": "Look whether the masks follow the tissue equally well in both classes.",
    "background": "Look whether slides or stains differ between the classes, and augment the colours.",
    "pieces": "Look at the contact sheet: tissue of a class may lie in smaller parts, or bases must keep more of it.",
}
_REMEDY_OF_PIECES = 'Set [train] intervene_growth = "many", which alone has one law of sizes for all classes.'
_SIDES = ("little tissue", "much tissue")


def verdict_text(check: Mapping[str, Any]) -> str:
    """Return the verdict in one sentence."""
    if check["verdict"] == WARNS:
        return "WARNING. Composed patches can tell the class by more than their tissue; see below."
    if check["verdict"] == PASSES:
        return "No shortcut by composing is shown. A network may still see what these simple numbers do not."
    return "CANNOT BE TOLD. Natural patches to compare with are missing; see below. No other shortcut is shown."


def findings(check: Mapping[str, Any], labels: Sequence[str]) -> list[str]:
    """Return what is wrong or not known, how sure that is, and what to do; a paragraph each."""
    return [*leak_findings(check), *(text for side in check["check"] for text in _side_findings(side, check, labels))]


def leak_findings(check: Mapping[str, Any]) -> list[str]:
    """Return a paragraph for each control that leaks."""
    texts = []
    for name, row in check["controls"].items():
        if not row["is_leak"]:
            continue
        text = f"The {CONTROL_NAMES[name]} of composed patches tells the class: AUROC {interval_text(row['composed'])}"
        text += f", 95 % interval by {check['unit']}. "
        natural = row["natural"]
        if natural is not None and natural["high"] is not None:
            text += f"In natural patches, whose areas differ as well, it is {interval_text(natural)}"
            is_added = natural["high"] < row["composed"]["low"]
            text += ": the edit adds to it. " if is_added else ", so it need not come from the edit. "
        is_by_growth = name == "pieces" and check["growth"] != "many"
        texts.append(text + (_REMEDY_OF_PIECES if is_by_growth else _REMEDIES[name]))
    return texts


def _side_findings(side: Mapping[str, Any], check: Mapping[str, Any], labels: Sequence[str]) -> list[str]:
    """Return what the comparison with natural patches shows on one side of the threshold."""
    amount, texts = _SIDES[side["is_much"]], []
    for name, told in side["detected_by"].items():
        if not told["is_warning"]:
            continue
        gap, classes = told["difference"], told["classes"]
        low, high = gap["classes"]
        texts.append(
            f"With {amount}, the {name} tells composed patches from natural ones better for {labels[high]} (AUROC "
            f"{interval_text(classes[high])}) than for {labels[low]} ({interval_text(classes[low])}), a difference of "
            f"{interval_text(gap)} by {check['unit']}. A model can learn that the look of composed patches, or of "
            f"natural ones, means one class. Compare both on the contact sheet, try another [train] intervene_growth, "
            f"and evaluate on natural patches of every group."
        )
    unknown = [y for y, row in enumerate(side["classes"]) if not row["n"]]
    if not unknown and any(told["difference"] is None for told in side["detected_by"].values()):
        texts.append(
            f"With {amount} the classes share too few areas, so that it cannot be told whether composed patches of one "
            f"differ more from natural ones. That takes {LEAST_PATCHES} natural patches of similar areas in each class."
        )
    if not unknown:
        return texts
    counts = (pluralize(side["classes"][y]["natural"], "natural patch") for y in unknown)
    missing = " and ".join(f"{labels[y]} ({count})" for y, count in zip(unknown, counts, strict=True))
    text = f"With {amount} it cannot be told how composed patches compare with natural ones of {missing}."
    text += f" That takes {LEAST_PATCHES} of a similar area."
    # Where they look alike, natural patches of one class alone do no harm.
    is_detected = [
        y
        for y in range(len(labels))
        if any((told["classes"][y]["low"] or 0) > LEAST_DETECTION for told in side["detected_by"].values())
    ]
    if is_detected:
        names = " or ".join(labels[y] for y in is_detected)
        text += (
            f" Natural patches of {names} differ from composed ones, so that natural look with {amount} can come to "
            f"mean {names}. Compose all patches ([train] intervene = 1), and evaluate on natural ones of every group."
        )
    return [*texts, text]


def composition_text(check: Mapping[str, Any], labels: Sequence[str]) -> str:
    """Return the verdict, what it rests on and what to do, as text and tables."""
    unit = check["unit"]
    lines = [verdict_text(check), ""]
    lines.append(
        f"How well the edit tells the class, {pluralize(check['copies'], 'composed patch')} of each "
        f"(AUROC with 95 % interval by {unit}, {check['units']} of them; 0.5 is chance):"
    )
    lines.append(_row("", ["composed", "natural"]))
    for name, row in check["controls"].items():
        mark = "  LEAK" if row["is_leak"] else ""
        natural = "" if row["natural"] is None else interval_text(row["natural"])
        lines.append(_row(CONTROL_NAMES[name], [interval_text(row["composed"]), natural], mark))
    lines += ["", "How well composed patches are told from natural ones of the same class and area:"]
    lines.append(_row("", ["by the outline", "by the texture"]))
    for side in check["check"]:
        lines.append(f"  {capitalize_first(side_text(side['is_much'], check['threshold']))}")
        for y, row in enumerate(side["classes"]):
            told = [interval_text(side["detected_by"][name]["classes"][y]) for name in DETECTORS]
            compared = f"{row['n']} of each" if row["n"] else pluralize(row["natural"], "natural patch")
            lines.append(_row(f"  {labels[y]}", told, f" {compared}"))
        gaps = [side["detected_by"][name]["difference"] for name in DETECTORS]
        if None not in gaps:
            mark = "  DIFFERENT" if side["is_warning"] else ""
            lines.append(_row("  difference", map(interval_text, gaps), mark))
    texts = findings(check, labels)
    return "\n".join([*lines, *(["", *texts] if texts else [])])


def _row(name: str, cells: Iterable[str], mark: str = "") -> str:
    """Return a line of a table."""
    return f"  {name:<{_NAME_WIDTH}} {' '.join(f'{cell:<20}' for cell in cells)}{mark}".rstrip()


def side_text(is_much: bool, threshold: float) -> str:
    """Return the text of an amount of tissue, such as: much tissue, from 0.25 on."""
    return f"{_SIDES[is_much]}, {f'from {threshold:g} on' if is_much else f'below {threshold:g}'}"


def interval_text(result: Mapping[str, Any]) -> str:
    """Return an AUROC, or a difference of two, with its interval where there is one."""
    if result["auroc"] is None:
        return "cannot be told"
    ends = "" if result["low"] is None else f" [{result['low']:.2f}, {result['high']:.2f}]"
    return f"{result['auroc']:.2f}{ends}"


def leak_rule() -> str:
    """Return the rule by which a control counts as a leak."""
    return f"interval wholly above {0.5 + LEAST_EFFECT:g}, of the area also wholly below {0.5 - LEAST_EFFECT:g}"

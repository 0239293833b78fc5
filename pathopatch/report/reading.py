"""Answers what the words and numbers of the report mean."""

from __future__ import annotations

from pathopatch.report.markup import Html, paragraph, tag
from pathopatch.report.plots import GROUP_COLORS, GROUP_NAMES

_TERMS = (
    ("Tissue fraction", "Share of a patch's area that is tissue, measured and not annotated."),
    (
        "Group",
        "Label and amount of tissue together; 'much tissue' means a tissue fraction of at least the threshold. "
        "Groups 1 and 2 run against the shortcut.",
    ),
    (
        "WGA",
        "Worst-group accuracy: the lowest of the four group accuracies. It is not known when a group has no patch.",
    ),
    ("GBA", "Group-balanced accuracy: the mean of the four group accuracies."),
    ("Average", "Share of right patches at the split's own mixture of groups."),
    (
        "Biased average",
        "The group accuracies weighted by the training data's group shares: what one would see on data as biased as "
        "the training data.",
    ),
    ("AUROC", "How often a tumour patch scores above a non-tumour patch; it needs no decision threshold."),
    (
        "Interval",
        "95 %, by bootstrap over patients, since patches of one patient resemble each other. With few patients it is "
        "too narrow, and where all patches of a group are right (or wrong) it has no width, which is not certainty. It "
        "does not include the chance of training: for that, compare the seeds.",
    ),
    (
        "Gain",
        "Difference to ERM on the same patches, in percentage points; its interval resamples the patients of both "
        "models together. ERM is the better of plain and class-balanced ERM by validation WGA, of the same seed.",
    ),
    (
        "Alpha",
        "Share of patches with much tissue within a label. If it differs between the labels, the amount of tissue "
        "gives the label away.",
    ),
)


def reading_section() -> Html:
    """Return the glossary."""
    return tag(
        "div",
        group_key(),
        tag("dl", *(part for term, said in _TERMS for part in (tag("dt", term), tag("dd", said)))),
        paragraph(
            "Checkpoints, settings and decision thresholds were chosen on the validation split. The test split chose "
            "nothing."
        ),
    )


def group_key() -> Html:
    """Return the four groups with number, name and colour."""
    items = [
        tag("li", tag("span", class_="swatch", style=f"background:{color}", aria_hidden="true"), f"{n} {name}")
        for n, (name, color) in enumerate(zip(GROUP_NAMES, GROUP_COLORS, strict=True))
    ]
    return tag("ul", *items, class_="key", aria_label="The four groups")

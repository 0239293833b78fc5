"""Answers what the words and numbers of the report mean."""

from __future__ import annotations

from pathopatch.groups import GroupingAttribute
from pathopatch.report.markup import Html, paragraph, tag
from pathopatch.report.plots import group_colors

_TERMS = (
    ("Tissue fraction", "Share of a patch's area that is tissue, measured and not annotated."),
    (
        "WGA",
        "Worst-group accuracy: the lowest of the group accuracies. It is not known when a group has no patch.",
    ),
    ("GBA", "Group-balanced accuracy: the mean of the group accuracies."),
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
        "models together. ERM is the better of plain and class-balanced ERM by validation WGA, of the same seed, "
        "trained by the same attribute or by the one that is judged.",
    ),
)
_BY_TISSUE = (
    (
        "Group",
        "Label and amount of tissue together; 'much tissue' means a tissue fraction of at least the threshold. "
        "Groups 1 and 2 run against the shortcut.",
    ),
    (
        "Alpha",
        "Share of patches with much tissue within a label. If it differs between the labels, the amount of tissue "
        "gives the label away.",
    ),
)
_BY_OWN = (
    ("Group", "Label and attribute together; the patches brought the attribute with them, tissue plays no part in it."),
    (
        "Alpha",
        "Share of each value of the attribute within a label. If it differs between the labels, the attribute gives "
        "the label away.",
    ),
)


def reading_section(attribute: GroupingAttribute) -> Html:
    """Return the glossary."""
    group, alpha = _BY_OWN if attribute.is_patch_attribute else _BY_TISSUE
    terms = (_TERMS[0], group, *_TERMS[1:], alpha)
    return tag(
        "div",
        group_key(attribute),
        tag("dl", *(part for term, said in terms for part in (tag("dt", term), tag("dd", said)))),
        paragraph(
            "Checkpoints, settings and decision thresholds were chosen on the validation split. The test split chose "
            "nothing."
        ),
    )


def group_key(attribute: GroupingAttribute) -> Html:
    """Return the groups with number, name and colour."""
    names = attribute.group_names
    items = [
        tag("li", tag("span", class_="swatch", style=f"background:{color}", aria_hidden="true"), f"{n} {name}")
        for n, (name, color) in enumerate(zip(names, group_colors(len(names)), strict=True))
    ]
    return tag("ul", *items, class_="key", aria_label="The groups")

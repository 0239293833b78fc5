"""Answers what came out at a glance: the shortcut in the data, the run to prefer, and what to beware of."""

from __future__ import annotations

from typing import Any

import pandas as pd

from pathopatch.core.text import pluralize
from pathopatch.evaluation.compare import ERM_METHODS
from pathopatch.evaluation.group_scores import SMALL_GROUP
from pathopatch.groups import GroupingAttribute, TissueBins
from pathopatch.report.cohort import slide_warnings, splits_of
from pathopatch.report.collect import Study
from pathopatch.report.markup import (
    Html,
    between,
    capital,
    number,
    paragraph,
    percent,
    picture,
    points,
    table,
    tag,
    warning,
)
from pathopatch.report.plots import alpha_sweep, group_counts
from pathopatch.report.reading import group_key

_ORDER = (
    "erm",
    "erm-balanced",
    "reweight",
    "resample",
    "oversample",
    "groupdro",
    "jtt",
    "dfr",
    "gerne-unknown",
    "gerne",
    "gerne-auto",
)
_FEW_PATIENTS = 10  # below it a bootstrap over patients is visibly too narrow
_FEW_SEEDS = 3


def rows_at(study: Study, threshold: float) -> pd.DataFrame:
    """Return the comparison at a threshold, of the runs trained at it (all, if none was), in the order of methods."""
    if study.comparison is None:
        return pd.DataFrame()
    rows = study.comparison[study.comparison["threshold"] == threshold]
    own = rows[rows["trained_threshold"].isna() | (rows["trained_threshold"] == threshold)]
    # An attribute of the patches gives the same groups at every threshold.
    rows = rows if own.empty or study.attribute.is_patch_attribute else own
    return in_order(rows)


def rows_by_bins(study: Study, bins: TissueBins) -> pd.DataFrame:
    """Return the comparison by bins of the tissue fraction, of the runs trained on them (all, if none was)."""
    if study.comparison is None:
        return pd.DataFrame()
    rows = study.comparison[study.comparison["attribute"] == bins.label]
    own = rows[rows["trained_attribute"].str.split(", ", regex=False).str[0] == bins.label]
    return in_order(rows if own.empty else own)


def in_order(rows: pd.DataFrame, *first: str) -> pd.DataFrame:
    """Return rows sorted by some columns, then ERM first and GERNE last, then by what else tells runs apart."""
    place = rows["method"].map(lambda name: _ORDER.index(name) if name in _ORDER else len(_ORDER))
    keys = [*first, "place", *(name for name in ("method", "seed", "run") if name in rows)]
    return rows.assign(place=place).sort_values(keys).drop(columns="place")


def preferred(rows: pd.DataFrame) -> pd.Series[Any] | None:
    """Return the row that validation prefers: highest validation WGA, then GBA, then name."""
    known = rows[rows["wga_val"].notna()] if len(rows) else rows
    if known.empty:
        return None
    return known.sort_values(["wga_val", "gba_val", "run"], ascending=[False, False, True]).iloc[0]


def glance_section(study: Study) -> Html:
    """Return the warnings and, per threshold, ERM beside the run that validation prefers."""
    cards = [card for at in study.attributes if (card := _card(rows_at(study, at.tau), at.description))]
    shown = tag("div", *cards, class_="cards")
    if not cards:
        shown = paragraph("No run has been evaluated yet, so there is no result.", kind="absent")
    return tag("div", *slide_warnings(study), shown, *number_warnings(study))


def number_warnings(study: Study) -> list[Html]:
    """Return what limits the numbers: small or empty groups, few patients, few seeds, unequal budgets, no ERM."""
    table = study.comparison
    if table is None:
        return []
    found = []
    for attribute in study.attributes:
        found += group_warnings(rows_at(study, attribute.tau), attribute)
    found += _validation_warnings(study)
    seeds = table.groupby(["method", "trained_threshold"], dropna=False)["seed"].nunique()
    if seeds.min() < _FEW_SEEDS:
        found.append(
            warning(
                f"Some methods were trained with {pluralize(int(seeds.min()), 'seed')}; a claim "
                f"about a method needs at least {_FEW_SEEDS}. Differences between runs include the chance of training."
            )
        )
    budgets = (table["steps"] * table["batch_per_class"]).dropna().unique()
    if len(budgets) > 1:
        found.append(warning("Runs saw unequal numbers of samples, so methods are not compared at one budget."))
    if not table["method"].isin(ERM_METHODS).any():
        found.append(warning("There is no ERM run, so no gain can be stated. Train method erm and erm-balanced."))
    if study.folds is not None:
        found.append(
            warning(
                "In this cross-validation every patient is tested in one fold and validates in another. What pooled "
                "validation prefers was chosen by the labels of the very patients that it is tested on: compare the "
                "methods, and do not take the preferred run's number for that of a method chosen beforehand."
            )
        )
    if (table["split"] != "test").any():
        found.append(
            warning("No run was judged on a test split: these are validation numbers, which flatter the chosen runs.")
        )
    return found


def group_warnings(rows: pd.DataFrame, attribute: GroupingAttribute) -> list[Html]:
    """Return warnings about the groups by one attribute."""
    if rows.empty:
        return []
    row = rows.iloc[0]
    every = range(len(attribute.group_names))
    sizes = [int(row[f"n_{group}"]) for group in every]
    people = [int(row[f"patients_{group}"]) for group in every]
    where = capital(attribute.phrase)
    if min(sizes) == 0:
        names = ", ".join(f"{group} ({attribute.group_names[group]})" for group in every if sizes[group] == 0)
        return [warning(f"{where} the {row['split']} split has no patch in group {names}: WGA and GBA are not known.")]
    said = []
    if min(sizes) < SMALL_GROUP:
        group = sizes.index(min(sizes))
        said.append(
            f"the smallest group of the {row['split']} split is group {group} ({attribute.group_names[group]}) with "
            f"n = {pluralize(sizes[group], 'patch')}, fewer than {SMALL_GROUP}, so that WGA may rest on chance"
        )
    if min(people) < _FEW_PATIENTS:
        said.append(
            f"a group of the {row['split']} split comes from {pluralize(min(people), 'patient')}; "
            f"with fewer than {_FEW_PATIENTS} the intervals are too narrow"
        )
    return [warning(f"{where} ", "; and ".join(said), ".")] if said else []


def _validation_warnings(study: Study) -> list[Html]:
    """Return a warning per threshold at which validation, which picks everything, has a small group."""
    found = []
    for attribute in study.attributes:
        cells = (study.audit or {}).get("thresholds", {}).get(attribute.key, {}).get("val")
        smallest = min(n for row in cells["counts"] for n in row) if cells else SMALL_GROUP
        if smallest < SMALL_GROUP:
            found.append(
                warning(
                    f"{capital(attribute.phrase)} the smallest group of the validation split has n = "
                    f"{pluralize(smallest, 'patch')}, fewer than {SMALL_GROUP}: what was chosen on it (checkpoints, "
                    "decision thresholds, the preferred run) may rest on chance."
                )
            )
    return found


def _card(rows: pd.DataFrame, by: str) -> Html | None:
    """Return the headline of one threshold, which is named in words; None where no run was evaluated."""
    title = tag("h3", f"Worst-group accuracy, {by}")
    best = preferred(rows)
    if best is None:
        return None if rows.empty else tag("div", title, _without_preference(rows), class_="card")
    sides = []
    reference = rows[rows["run"] == best["reference"]]
    if len(reference) and best["run"] != best["reference"]:
        sides.append(("ERM", reference.iloc[0]))
    sides.append(("Preferred by validation", best))
    small = f", smallest group n = {int(best['smallest_group_n'])}"
    if best["smallest_group_n"] < SMALL_GROUP:
        small += " (small)"
    boxes = [
        tag(
            "div",
            tag("div", tag("strong", name), tag("br"), row["run"], class_="who"),
            tag("div", percent(row["wga"]), tag("span", " %"), class_="what"),
            tag("span", f"95 % interval {percent(row['wga_low'])} to {percent(row['wga_high'])}", class_="interval"),
        )
        for name, row in sides
    ]
    return tag(
        "div",
        title,
        tag("div", *boxes, class_="duel"),
        paragraph(_verdict(best), f" Split {best['split']}{small}."),
        class_="card",
    )


def _without_preference(rows: pd.DataFrame) -> Html:
    """Return the range of runs none of which is preferred, since validation says nothing of them."""
    wga = rows["wga"].dropna()
    ends = f", from {percent(wga.min())} to {percent(wga.max())} % on split {rows['split'].iloc[0]}" if len(wga) else ""
    return paragraph(
        f"{pluralize(rows['run'].nunique(), 'run')}{ends}. Validation says nothing of them, so that none can be "
        "preferred: the best of them would be chosen by the patches that it is judged on."
    )


def _verdict(best: pd.Series[Any]) -> str:
    """Return in words what the paired interval of the gain allows to be said."""
    if best["reference"] == "":
        return "There is no ERM run to compare with."
    if best["run"] == best["reference"]:
        return "Validation prefers ERM itself: no debiased run did better there."
    gain, low, high = best["gain_wga"], best["gain_wga_low"], best["gain_wga_high"]
    said = f"Gain over ERM {points(gain)} points"
    if not pd.notna(low):
        return f"{said}; no interval."
    if low > 0 or high < 0:
        said = f"{said} [{points(low)}, {points(high)}]: the paired interval excludes 0"
        if best["smallest_group_n"] < SMALL_GROUP:
            return f"{said}, yet the smallest group is too small for a firm claim."
        return f"{said}."
    return f"{said} [{points(low)}, {points(high)}]: the paired interval includes 0, so no difference is shown."


def audit_section(study: Study, pictures: dict[str, bytes]) -> Html:
    """Return how much the tissue fraction alone gives away, and how large the groups are."""
    if study.audit is None:
        return paragraph("Groups have not been formed yet, so there is no audit.", kind="absent")
    attribute = study.attribute
    tumor, is_own = attribute.label_names[1], attribute.is_patch_attribute
    alone = [
        (
            split,
            told["n"],
            told["tumor"],
            between(*(number(told.get(f"auroc{end}")) for end in ("", "_low", "_high"))),
            percent(told["accuracy"]),
            between(*(percent(told.get(f"accuracy_elsewhere{end}")) for end in ("", "_low", "_high"))),
            percent(told.get("majority")),
            "–" if told["threshold"] is None
            else f"{tumor} if {'at least' if told['larger_is_tumor'] else 'below'} {told['threshold']:.3g}",
        )
        for split, told in study.audit["fraction_only"].items()
    ]  # fmt: skip
    thresholds = study.audit["thresholds"]
    if attribute.is_patch_attribute:  # they are all alike
        thresholds = dict(list(thresholds.items())[:1])
    splits = splits_of(study) or list(next(iter(thresholds.values()), {}))
    pictures["group_counts.png"] = group_counts(thresholds, splits, attribute=attribute)
    pictures["alpha_sweep.png"] = alpha_sweep(study.audit["sweep"], labels=study.attribute.label_names)
    return tag(
        "div",
        table(
            "How well the tissue fraction alone tells the label, with no look at the image. AUROC 0.5 is no "
            "information, 1 gives the label away. Accuracy is that of the best single cut; elsewhere: of cuts chosen "
            "on other patients than they are judged on; commoner label: of always saying that one. With 95 % intervals "
            "by patient.",
            (
                "split",
                "patches",
                tumor,
                "AUROC",
                "accuracy, %",
                "elsewhere, %",
                "commoner label, %",
                "best cut on the tissue fraction",
            ),
            alone,
        ),
        tag("h3", "Group sizes"),
        group_key(attribute),
        picture(
            "group_counts.png",
            f"Bars of the number of patches in each of the {len(attribute.group_names)} groups in {', '.join(splits)}, "
            f"{'by the attribute' if attribute.is_patch_attribute else 'for each threshold'}.",
            "Patches in each group. "
            + (
                "The patches brought their attribute with them."
                if attribute.is_patch_attribute
                else "Groups 1 and 2 run against the shortcut and mostly decide WGA."
            ),
        ),
        _counts_table(thresholds, attribute),
        tag("h3", "Alpha over all thresholds"),
        picture(
            "alpha_sweep.png",
            "Share of patches with much tissue within each label, against the tissue threshold, per split.",
            "Share of a label's patches with at least so much tissue. The gap between the lines is the shortcut's "
            "strength at that threshold." + (" The groups are not formed by tissue here." if is_own else ""),
        ),
    )


def _counts_table(thresholds: dict[str, Any], attribute: GroupingAttribute) -> Html:
    """Return patches, patients and alpha of each group."""
    rows = []
    for threshold, by_split in thresholds.items():
        for split, cells in by_split.items():
            counts = [
                tag(
                    "span",
                    str(cells["counts"][y][a]),
                    tag("span", pluralize(cells["patients"][y][a], "patient"), class_="interval"),
                )
                for y in (0, 1)
                for a in range(len(attribute.value_names))
            ]
            first = 0 if attribute.is_patch_attribute else 1  # of tissue, the share with little says the same once more
            shares = [" / ".join(map(percent, (cells["alpha"][y] or [None])[first:])) or "–" for y in (0, 1)]
            rows.append((split if attribute.is_patch_attribute else f"{threshold}, {split}", *counts, *shares))
    names = [f"{g} {name}" for g, name in enumerate(attribute.group_names)]
    header = (
        "split" if attribute.is_patch_attribute else "threshold, split",
        *names,
        *(f"alpha {label}, %" for label in attribute.label_names),
    )
    values = f"of {' / '.join(attribute.value_names)}" if attribute.is_patch_attribute else "with much tissue"
    return table(f"Patches and patients in each group; alpha is the share {values} within the label.", header, rows)

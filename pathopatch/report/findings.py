"""Answers what came out: the shortcut in the data, and how each method does on every group."""

from __future__ import annotations

from typing import Any

import pandas as pd

from pathopatch.evaluation.compare import ERM_METHODS, summarise
from pathopatch.evaluation.judge import SMALL_GROUP
from pathopatch.groups import Naming
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
    signed,
    table,
    tag,
    warning,
)
from pathopatch.report.plots import alpha_sweep, group_accuracies, group_counts
from pathopatch.report.reading import group_key

_ORDER = ("erm", "erm-balanced", "resample", "groupdro", "gerne")
_FEW_PATIENTS = 10  # below it a bootstrap over patients is visibly too narrow
_FEW_SEEDS = 3


def rows_at(study: Study, threshold: float) -> pd.DataFrame:
    """Return the comparison at a threshold, of the runs trained at it (all, if none was), in the order of methods."""
    if study.comparison is None:
        return pd.DataFrame()
    rows = study.comparison[study.comparison["threshold"] == threshold]
    own = rows[rows["trained_threshold"].isna() | (rows["trained_threshold"] == threshold)]
    rows = rows if own.empty or study.naming.is_own else own  # of an own attribute all thresholds are alike
    return in_order(rows)


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
    by = study.naming.by
    cards = [card for cut in study.thresholds if (card := _card(rows_at(study, cut), by(cut)))]
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
    for threshold in study.thresholds:
        found += _group_warnings(rows_at(study, threshold), threshold, study.naming)
    found += _validation_warnings(study)
    seeds = table.groupby(["method", "trained_threshold"], dropna=False)["seed"].nunique()
    if seeds.min() < _FEW_SEEDS:
        found.append(
            warning(
                f"Some methods were trained with {int(seeds.min())} seed{'s' if seeds.min() > 1 else ''}; a claim "
                f"about a method needs at least {_FEW_SEEDS}. Differences between runs include the chance of training."
            )
        )
    budgets = (table["steps"] * table["batch_per_class"]).dropna().unique()
    if len(budgets) > 1:
        found.append(warning("Runs saw unequal numbers of samples, so methods are not compared at one budget."))
    if not table["method"].isin(ERM_METHODS).any():
        found.append(warning("There is no ERM run, so no gain can be stated. Train method erm and erm-balanced."))
    if (table["split"] != "test").any():
        found.append(
            warning("No run was judged on a test split: these are validation numbers, which flatter the chosen runs.")
        )
    return found


def _group_warnings(rows: pd.DataFrame, threshold: float, naming: Naming) -> list[Html]:
    """Return warnings about the groups of one threshold."""
    if rows.empty:
        return []
    row = rows.iloc[0]
    sizes = [int(row[f"n_{group}"]) for group in range(4)]
    people = [int(row[f"patients_{group}"]) for group in range(4)]
    where = capital(naming.at(threshold))
    if min(sizes) == 0:
        names = ", ".join(f"{group} ({naming.names[group]})" for group in range(4) if sizes[group] == 0)
        return [warning(f"{where} the {row['split']} split has no patch in group {names}: WGA and GBA are not known.")]
    said = []
    if min(sizes) < SMALL_GROUP:
        group = sizes.index(min(sizes))
        said.append(
            f"the smallest group of the {row['split']} split is group {group} ({naming.names[group]}) with "
            f"n = {sizes[group]} patches, fewer than {SMALL_GROUP}, so that WGA may rest on chance"
        )
    if min(people) < _FEW_PATIENTS:
        said.append(
            f"a group of the {row['split']} split comes from {min(people)} patient{'s' if min(people) > 1 else ''}; "
            f"with fewer than {_FEW_PATIENTS} the intervals are too narrow"
        )
    return [warning(f"{where} ", "; and ".join(said), ".")] if said else []


def _validation_warnings(study: Study) -> list[Html]:
    """Return a warning per threshold at which validation, which picks everything, has a small group."""
    found = []
    for threshold in study.thresholds:
        cells = (study.audit or {}).get("thresholds", {}).get(f"{threshold:g}", {}).get("val")
        smallest = min(n for row in cells["counts"] for n in row) if cells else SMALL_GROUP
        if smallest < SMALL_GROUP:
            found.append(
                warning(
                    f"{capital(study.naming.at(threshold))} the smallest group of the validation split has n = "
                    f"{smallest} patches, fewer than {SMALL_GROUP}: what was chosen on it (checkpoints, decision "
                    "thresholds, the preferred run) may rest on chance."
                )
            )
    return found


def _card(rows: pd.DataFrame, by: str) -> Html | None:
    """Return the headline of one threshold, which is named in words."""
    best = preferred(rows)
    if best is None:
        return None
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
    title = f"Worst-group accuracy, {by}"
    return tag(
        "div",
        tag("h3", title),
        tag("div", *boxes, class_="duel"),
        paragraph(_verdict(best), f" Split {best['split']}{small}."),
        class_="card",
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
    alone = [
        (
            split,
            told["n"],
            told["tumor"],
            number(told["auroc"]),
            percent(told["accuracy"]),
            "–" if told["threshold"] is None
            else f"tumour if {'at least' if told['larger_is_tumor'] else 'below'} {told['threshold']:.3g}",
        )
        for split, told in study.audit["fraction_only"].items()
    ]  # fmt: skip
    naming = study.naming
    thresholds = study.audit["thresholds"]
    if naming.is_own:  # they are all alike
        thresholds = dict(list(thresholds.items())[:1])
    splits = splits_of(study) or list(next(iter(thresholds.values()), {}))
    pictures["group_counts.png"] = group_counts(thresholds, splits, naming=naming)
    pictures["alpha_sweep.png"] = alpha_sweep(study.audit["sweep"])
    return tag(
        "div",
        table(
            "How well the tissue fraction alone tells the label, with no look at the image. AUROC 0.5 is no "
            "information, 1 gives the label away. Accuracy is that of the best single cut.",
            ("split", "patches", "tumour", "AUROC", "accuracy, %", "best cut on the tissue fraction"),
            alone,
        ),
        tag("h3", "Group sizes"),
        group_key(naming),
        picture(
            "group_counts.png",
            f"Bars of the number of patches in each of the {len(naming.names)} groups in {', '.join(splits)}, "
            f"{'by the attribute' if naming.is_own else 'for each threshold'}.",
            "Patches in each group. "
            + (
                "The patches brought their attribute with them."
                if naming.is_own
                else "Groups 1 and 2 run against the shortcut and mostly decide WGA."
            ),
        ),
        _counts_table(thresholds, naming),
        tag("h3", "Alpha over all thresholds"),
        picture(
            "alpha_sweep.png",
            "Share of patches with much tissue within each label, against the tissue threshold, per split.",
            "Share of a label's patches with at least so much tissue. The gap between the lines is the shortcut's "
            "strength at that threshold." + (" The groups are not formed by tissue here." if naming.is_own else ""),
        ),
    )


def _counts_table(thresholds: dict[str, Any], naming: Naming) -> Html:
    """Return patches, patients and alpha of each group."""
    rows = []
    for threshold, by_split in thresholds.items():
        for split, cells in by_split.items():
            counts = [
                tag(
                    "span",
                    str(cells["counts"][y][a]),
                    tag("span", f"{cells['patients'][y][a]} patients", class_="interval"),
                )
                for y in (0, 1)
                for a in range(len(naming.values))
            ]
            first = 0 if naming.is_own else 1  # of tissue, the share with little says the same once more
            shares = [" / ".join(map(percent, (cells["alpha"][y] or [None])[first:])) or "–" for y in (0, 1)]
            rows.append((split if naming.is_own else f"{threshold}, {split}", *counts, *shares))
    names = [f"{g} {name}" for g, name in enumerate(naming.names)]
    header = ("split" if naming.is_own else "threshold, split", *names, "alpha non-tumour, %", "alpha tumour, %")
    share = f"share of {' / '.join(naming.values)}" if naming.is_own else "share with much tissue"
    return table(f"Patches and patients in each group; alpha is the {share} within the label.", header, rows)


def results_section(study: Study, pictures: dict[str, bytes]) -> Html:
    """Return, for every threshold, the group accuracies, the comparison and the gains against ERM."""
    if study.comparison is None:
        return paragraph("No run has been evaluated yet, so there are no results.", kind="absent")
    naming = study.naming
    parts: list[Html] = [group_key(naming)]
    for threshold in study.thresholds:
        rows = rows_at(study, threshold)
        if rows.empty:
            continue
        name = f"accuracies_{threshold:g}.png"
        pictures[name] = group_accuracies(rows, naming=naming)
        parts += [
            tag("h3", capital(naming.by(threshold))),
            *_group_warnings(rows, threshold, naming),
            picture(
                name,
                f"Accuracy of each run on each of the four groups and its worst-group accuracy, "
                f"{naming.by(threshold)}; the same numbers are in the table below.",
                "Dots: accuracy in percent, also written at the right. Lines: 95 % interval by bootstrap over "
                "patients. Run names give method, tissue threshold (t) and seed (s).",
            ),
            _comparison_table(rows, naming.by(threshold)),
            _further_table(rows),
            _gain_table(rows, naming, threshold),
        ]
        further = int((study.comparison["threshold"] == threshold).sum()) - len(rows)
        if further:
            parts.append(
                paragraph(f"{further} runs trained at another threshold are judged at this one in the CSV file.")
            )
    parts.append(_seed_table(study))
    parts.append(paragraph("All numbers: ", tag("a", "comparison.csv", href="comparison.csv"), "."))
    return tag("div", *parts)


def _comparison_table(rows: pd.DataFrame, by: str) -> Html:
    """Return the absolute numbers of each run."""
    first = rows.iloc[0]
    small = " – SMALL" if first["smallest_group_n"] < SMALL_GROUP else ""
    groups = [
        tag("span", f"group {g}", tag("span", f"n = {int(first[f'n_{g}'])}", class_="interval"),
            tag("span", f"{int(first[f'patients_{g}'])} patients", class_="interval"))
        for g in range(4)
    ]  # fmt: skip
    worst = tag("span", "WGA", tag("span", f"smallest n = {int(first['smallest_group_n'])}{small}", class_="interval"))
    body = [
        (row["run"], _share(row, "wga"), _share(row, "gba"), *(_share(row, f"accuracy_{g}") for g in range(4)))
        for row in rows.to_dict("records")
    ]
    caption = (
        f"Accuracy, {first['split']} split, {by}: {int(first['n'])} patches of "
        f"{int(first['patients'])} patients; percent, with 95 % intervals."
    )
    return table(caption, ("run", worst, "GBA", *groups), body)


def _further_table(rows: pd.DataFrame) -> Html:
    """Return the numbers of each run that do not treat the groups alike."""
    body = [
        (
            row["run"],
            _share(row, "average"),
            percent(row["biased_average"]),
            between(number(row["auroc"]), number(row["auroc_low"]), number(row["auroc_high"])),
            signed(row["decision_threshold"], 2),
            percent(row["wga_at_zero"]),
            percent(row["wga_val"]),
        )
        for row in rows.to_dict("records")
    ]
    header = ("run", "average", "biased average", "AUROC", "decision threshold", "WGA at threshold 0", "validation WGA")
    caption = (
        "Beside it: averages, ranking, and what the decision threshold tuned on validation does. A high average with a "
        "low WGA is what the shortcut looks like."
    )
    return table(caption, header, body)


def _gain_table(rows: pd.DataFrame, naming: Naming, threshold: float) -> Html:
    """Return what each run gained or lost on each group against ERM."""
    others = rows[(rows["reference"] != "") & (rows["reference"] != rows["run"])]
    if others.empty:
        return paragraph("There is no ERM run beside another one here, so no gains are shown.", kind="absent")

    def gain(row: dict[Any, Any], name: str) -> Html:
        return between(*(points(row[f"gain_{name}{end}"]) for end in ("", "_low", "_high")))

    body = [
        (row["run"], row["reference"], gain(row, "wga"), *(gain(row, str(g)) for g in range(4)))
        for row in others.to_dict("records")
    ]
    header = ("run", "held against", "WGA", *(f"group {g}: {name}" for g, name in enumerate(naming.names)))
    caption = (
        f"Gain (+) or loss (\N{MINUS SIGN}) against ERM {naming.at(threshold)}, percentage points on the same "
        "patches, with paired 95 % intervals. ERM is the better of plain and class-balanced by validation WGA, of the "
        "same seed."
    )
    return table(caption, header, body, text_columns=2)


def _seed_table(study: Study) -> Html:
    """Return mean and standard deviation over seeds; nothing to say with one seed each."""
    assert study.comparison is not None
    means = summarise(study.comparison[study.comparison["threshold"].isin(study.thresholds)])
    if study.naming.is_own:  # every run is judged alike, whatever threshold it names
        means["threshold"] = means["trained_threshold"].fillna(means["threshold"])
    means = means[means["trained_threshold"].isna() | (means["trained_threshold"] == means["threshold"])]
    if means.empty or means["runs"].max() < 2:
        return paragraph("Each method has one seed, so no mean over seeds is shown.", kind="absent")

    def told(row: dict[Any, Any], name: str) -> str:
        return f"{percent(row[f'{name}_mean'])} ± {percent(row[f'{name}_sd'])}"

    body = [
        (
            f"{row['threshold']:g}, {row['method']}",
            int(row["runs"]),
            *(told(row, name) for name in ("wga", "gba", "average")),
            f"{number(row['auroc_mean'])} ± {number(row['auroc_sd'])}",
            f"{points(row['gain_wga_mean'])} ± {percent(row['gain_wga_sd'])}",
        )
        for row in in_order(means, "threshold").to_dict("records")
    ]
    header = ("threshold, method", "seeds", "WGA", "GBA", "average", "AUROC", "WGA gain over ERM")
    caption = "Mean ± standard deviation over seeds (of the sample); percent, gains in percentage points."
    return tag("div", tag("h3", "Over seeds"), table(caption, header, body))


def _share(row: dict[Any, Any], name: str) -> Html:
    """Return a share in percent with its interval."""
    return between(percent(row[name]), percent(row[f"{name}_low"]), percent(row[f"{name}_high"]))

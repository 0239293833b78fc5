"""Summarise runs for a paper: each row over its seeds, and every two rows compared, as CSV, Markdown and LaTeX.

Intervals are over seeds and patients: both are drawn anew, the same draws for all rows, so that the differences of two
rows are paired by patient and, where both have the same seeds, by seed.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.core.artefacts import fingerprint, read_table
from pathopatch.core.config import EvaluateConfig
from pathopatch.core.files import write_bytes
from pathopatch.core.text import pluralize
from pathopatch.core.version import __version__
from pathopatch.core.work_folder import WorkFolder
from pathopatch.evaluation.group_scores import answers, is_right, patient_counts
from pathopatch.evaluation.predicting import stored_predictions
from pathopatch.evaluation.run_settings import read_config, row_name, run_settings
from pathopatch.groups import GroupingAttribute, bins_attributes, threshold_attributes
from pathopatch.groups.attribute import label_names
from pathopatch.metrics.accuracy import auroc
from pathopatch.metrics.bootstrap import interval, ratio
from pathopatch.slides.manifest import SPLITS

SUMMARY, PAIRS = "summary", "summary_pairs"
_SETTING = ["trained_attribute", "attribute", "name", "settings_key"]
_DRAWN = 10_000_000  # seeds x patients x draws at a time would be too many; so many counts are

_RANGES = {
    "learning_rates": "learning rate", "weight_decays": "weight decay", "penalties": "penalty of linear heads",
    "t_range": "hard share t", "biased_lr_scale_range": "scale of the biased phase's learning rate",
}  # fmt: skip
_VALUES = {"c_values": "c", "s_values": "c (beta + 1)"}
_SELECTED = {"wga": "worst-group accuracy", "gba": "group-balanced accuracy", "last": "being the last"}
_PACKAGES = ("numpy", "torch", "timm", "scikit-image", "openslide-python")


@dataclass(frozen=True, eq=False)
class _Row:
    """The runs of one setting: accuracies of each seed in draws of patients, and plain measures of each seed."""

    seeds: tuple[int, ...]
    wga: NDArray[np.float64]  # (S,), of all patients
    drawn: NDArray[np.float64]  # (R, S), in draws of patients
    measures: pd.DataFrame  # a row a seed


@dataclass(frozen=True, eq=False)
class Summary:
    """Runs of one setting, over seeds: accuracies in [0, 1].

    `rows` has attribute, name, seeds, patients, smallest_n and fewest_patients of a group; wga, wga_sd, wga_lowest,
    wga_low, wga_high, wga_at_zero; gba, sensitivity, specificity, answered and the AUROC at each value of the attribute
    (``auroc_0``, ...): means over seeds. `pairs` has every two rows: attribute, name, less (the other row), seeds that
    both have, wga (the difference), wga_low, wga_high, and is_shown: whether the interval excludes 0. `methods` is a
    paragraph on what was run.
    """

    rows: pd.DataFrame
    pairs: pd.DataFrame
    methods: str

    def write(self, folder: Path) -> None:
        """Write ``summary.csv``, ``summary.md``, ``summary.tex`` and ``summary_pairs.csv``."""
        text = f"{_markdown(self.rows, self.pairs)}\n## Methods\n\n{self.methods}\n"
        texts = {f"{SUMMARY}.csv": _csv(self.rows), f"{PAIRS}.csv": _csv(self.pairs), f"{SUMMARY}.md": text}
        for name, text in (texts | {f"{SUMMARY}.tex": _latex(self.rows)}).items():
            write_bytes(folder / name, text.encode())


def summarise_runs(work: Path, table: pd.DataFrame, *, config: EvaluateConfig) -> Summary:
    """Return a row for each setting at the attribute that it was trained by, and a row for every two of them.

    `table` is what `comparison` returned.
    """
    groups = read_table(WorkFolder(work).groups)
    patient = groups.set_index("patch_id")["patient_id"]
    attributes: dict[str, GroupingAttribute] = {
        by.label: by for by in (*threshold_attributes(groups), *bins_attributes(groups))
    }
    kept = table[(table["rerun_of"] == "") & (table["attribute"].isin(attributes))]
    own = kept[(kept["attribute"] == kept["trained_attribute"]) | (kept["trained_attribute"] == "")]
    rows: list[dict[str, Any]] = []
    pairs: list[dict[str, Any]] = []
    for label, of_attribute in own.assign(name=_names(work, own)).groupby("attribute", sort=False):
        by = attributes[str(label)]
        settings: dict[str, _Row] = {}
        for (_, _, name, _), runs in of_attribute.groupby(_SETTING, sort=False):
            settings[str(name)] = row = _drawn_row(work, runs, patient, by, config)
            rows.append({"attribute": label, "name": name, **_numbers(row, config)})
        for number, (name, row) in enumerate(settings.items()):
            for other in list(settings)[:number]:
                difference = _difference(row, settings[other], config)
                pairs.append({"attribute": label, "name": name, "less": other, **difference})
    return Summary(pd.DataFrame(rows), pd.DataFrame(pairs), methods_text(work, table, config=config))


def _names(work: Path, table: pd.DataFrame) -> list[str]:
    rows = table[["run", "method", "variant"]].itertuples(index=False)
    return [row_name(read_config(WorkFolder(work).run(run)), method, variant) for run, method, variant in rows]


def _drawn_row(
    work: Path, runs: pd.DataFrame, patient: pd.Series[Any], by: GroupingAttribute, config: EvaluateConfig
) -> _Row:
    values, draws, measures = [], [], []
    for run in runs.sort_values("seed").to_dict("records"):
        predictions = stored_predictions(work, run["run"], run["split"])
        group = by.groups_in(predictions)
        predictions, group = predictions[group >= 0], group[group >= 0]
        right = is_right(predictions, run["decision_threshold"])
        who = patient.loc[predictions.index].to_numpy(dtype=str)
        hits, n = patient_counts(right, group, who, n_groups=2 * by.n_values)
        values.append(float(ratio(hits.sum(axis=0), n.sum(axis=0)).min()))
        draws.append(_wga_in_draws(hits, n, config))
        label, logit = predictions["label"].to_numpy(), predictions["logit"].to_numpy(np.float64)
        judged, value = answers(predictions), group % by.n_values
        of_value = {
            f"auroc_{a}": auroc(logit[judged & (value == a)], label[judged & (value == a)]) for a in range(by.n_values)
        }
        sides = {"sensitivity": right[label == 1].mean(), "specificity": right[label == 0].mean()}
        measures.append({**{k: run[k] for k in ("wga_at_zero", "gba")}, **sides, "answered": judged.mean(), **of_value})
        sizes = {"smallest_n": n.sum(axis=0).min(), "fewest_patients": (n > 0).sum(axis=0).min()}
        measures[-1] |= {"patients": len(n), **sizes}
    seeds = tuple(runs.sort_values("seed")["seed"].astype(int))
    return _Row(seeds, np.array(values), np.stack(draws, axis=1), pd.DataFrame(measures))


def _wga_in_draws(hits: NDArray[np.int64], n: NDArray[np.int64], config: EvaluateConfig) -> NDArray[np.float64]:
    """Return WGA (R,) in draws of patients, the same for every run on the same patients."""
    patients = len(n)
    if patients < 2:
        return np.full(config.bootstrap, np.nan)
    rng = np.random.default_rng((config.seed, patients))
    chunk = max(1, _DRAWN // patients)
    sizes = [min(chunk, config.bootstrap - start) for start in range(0, config.bootstrap, chunk)]
    drawn = (rng.multinomial(patients, np.full(patients, 1 / patients), size=size) for size in sizes)
    parts = [ratio(times @ hits, times @ n).min(axis=1) for times in drawn]
    return np.concatenate([np.empty(0), *parts])


def _over_seeds(drawn: NDArray[np.float64], config: EvaluateConfig) -> tuple[float, float]:
    """Return the 95 % interval of the mean over seeds of values (R, S), by drawing seeds besides."""
    count = drawn.shape[1]
    times = np.random.default_rng((config.seed, 1)).multinomial(count, np.full(count, 1 / count), size=len(drawn))
    return interval((drawn * times).sum(axis=1) / count)


def _numbers(row: _Row, config: EvaluateConfig) -> dict[str, Any]:
    low, high = _over_seeds(row.drawn, config)
    means: dict[str, Any] = {str(name): value for name, value in row.measures.mean().items()}
    return {
        "seeds": len(row.seeds),
        **{name: int(means.pop(name)) for name in ("patients", "smallest_n", "fewest_patients")},
        "wga": float(row.wga.mean()),
        "wga_sd": float(row.wga.std(ddof=1)) if len(row.wga) > 1 else float("nan"),
        "wga_lowest": float(row.wga.min()),
        "wga_low": low,
        "wga_high": high,
        **means,
    }


def _difference(row: _Row, other: _Row, config: EvaluateConfig) -> dict[str, Any]:
    shared = sorted(set(row.seeds) & set(other.seeds))
    if not shared:
        return {"seeds": 0, "wga": float("nan"), "wga_low": float("nan"), "wga_high": float("nan"), "is_shown": False}
    own, others = ([each.seeds.index(seed) for seed in shared] for each in (row, other))
    low, high = _over_seeds(row.drawn[:, own] - other.drawn[:, others], config)
    difference = float((row.wga[own] - other.wga[others]).mean())
    return {"seeds": len(shared), "wga": difference, "wga_low": low, "wga_high": high, "is_shown": low > 0 or high < 0}


def _csv(table: pd.DataFrame) -> str:
    return str(table.to_csv(index=False, lineterminator="\n"))


def _markdown(rows: pd.DataFrame, pairs: pd.DataFrame) -> str:
    lines = [
        "Accuracies in percent. WGA: worst-group accuracy at the threshold that validation chose, mean ± sd over "
        "seeds, with its 95 % interval over seeds and patients.",
        "",
        "| groups by | row | seeds | WGA | 95 % interval | lowest | WGA at threshold 0 | GBA "
        "| sensitivity, specificity | AUROC within each area | answered |",
        "|---" * 11 + "|",
    ]
    for row in rows.to_dict("records"):
        sides = f"{_percent(row['sensitivity'])}, {_percent(row['specificity'])}"
        low, high = _percent(row["wga_low"]), _percent(row["wga_high"])
        lines.append(
            f"| {row['attribute']} | {row['name']} | {row['seeds']} | {_wga(row, ' ± ')} | {low} to {high} "
            f"| {_percent(row['wga_lowest'])} | {_percent(row['wga_at_zero'])} | {_percent(row['gba'])} | {sides} "
            f"| {_areas(row)} | {_percent(row['answered'])} |"
        )
    if len(pairs):
        lines += ["", "| groups by | row | less | seeds | WGA | 95 % interval |", "|---" * 6 + "|"]
    for pair in pairs.to_dict("records"):
        value, low, high = (100 * pair[name] for name in ("wga", "wga_low", "wga_high"))
        shown = "" if pair["is_shown"] else " (no difference is shown)"
        lines.append(
            f"| {pair['attribute']} | {pair['name']} | {pair['less']} | {pair['seeds']} | {value:+.1f} "
            f"| {low:+.1f} to {high:+.1f}{shown} |"
        )
    return "\n".join([*lines, ""])


def _latex(rows: pd.DataFrame) -> str:
    """Return a table for LaTeX with the package booktabs."""
    lines = [r"\begin{tabular}{lrrrrr}", r"\toprule", r"Method & WGA & 95\,\% interval & WGA at 0 & GBA & AUROC \\"]
    for label, part in rows.groupby("attribute", sort=False) if len(rows) else ():
        lines += [r"\midrule", rf"\multicolumn{{6}}{{l}}{{Groups by {_escaped(str(label))}}} \\"]
        for row in part.to_dict("records"):
            cells = [
                _escaped(row["name"]),
                _wga(row, r" $\pm$ "),
                f"{_percent(row['wga_low'])}--{_percent(row['wga_high'])}",
                *(_percent(row[name]) for name in ("wga_at_zero", "gba")),
                _areas(row),
            ]
            lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _escaped(text: str) -> str:
    return "".join(f"\\{sign}" if sign in "&%$#_{}" else sign for sign in text)


def _wga(row: dict[Any, Any], between: str) -> str:
    return _percent(row["wga"]) + (f"{between}{100 * row['wga_sd']:.1f}" if np.isfinite(row["wga_sd"]) else "")


def _areas(row: dict[Any, Any]) -> str:
    names = sorted(name for name in row if str(name).startswith("auroc_") and np.isfinite(row[name]))
    return ", ".join(f"{row[name]:.3f}" for name in names)


def _percent(value: float) -> str:
    return f"{100 * value:.1f}" if np.isfinite(value) else "-"


def methods_text(work: Path, table: pd.DataFrame, *, config: EvaluateConfig) -> str:
    """Return a paragraph on the runs of a comparison; what is not known, as of foreign bundles, is left out.

    `table` is what `comparison` returned.
    """
    settings = [found for run in table["run"].unique() if "select" in (found := run_settings(work, run))]
    groups = read_table(WorkFolder(work).groups)
    sentences = [_data(groups), _grouping(groups, table), *_training(settings), *_search(settings)]
    if settings:
        sentences.append(_rule(settings, str(table["split"].iloc[0])))
    sentences.append(f"Intervals are 95 %, by {config.bootstrap:,} draws of patients.")
    return " ".join([*sentences, software_text()])


def _data(groups: pd.DataFrame) -> str:
    labelled = groups[groups["label"] >= 0]
    parts = [
        f"{split} {len(rows):,} of {pluralize(rows['patient_id'].nunique(), 'patient')}"
        for split in SPLITS
        if len(rows := labelled[labelled["split"] == split])
    ]
    split_of = sorted(set(zip(groups["patient_id"].astype(str), groups["split"].astype(str), strict=True)))
    names = " or ".join(label_names(groups))
    mark = fingerprint(split_of)[:12]
    return f"{len(labelled):,} patches labelled {names} were split by patient (hash {mark}): {', '.join(parts)}."


def _grouping(groups: pd.DataFrame, table: pd.DataFrame) -> str:
    first = threshold_attributes(groups)[0]
    if first.is_patch_attribute:
        return f"Groups are label and {first.description}: {', '.join(first.group_names)}."
    return f"Groups are label and tissue fraction, at {' and '.join(dict.fromkeys(table['attribute'].astype(str)))}."


def _training(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    if not settings:
        return []

    def values(name: str) -> str:
        return " or ".join(dict.fromkeys(f"{each[name]}" for each in settings if name in each))

    searched = any(each.get("search") for each in settings)
    rates = "" if searched else f", learning rate {values('learning_rate')}, weight decay {values('weight_decay')}"
    text = (
        f"Trained were {values('method').replace(' or ', ', ')}: network {values('architecture')} on patches of "
        f"{values('input_px')} px, mask {values('mask')}, {values('steps')} steps of {values('batch_per_class')} "
        f"patches a class by {values('optimizer')}{rates}; seeds {values('seed').replace(' or ', ', ')}."
    )
    return [text]


def _search(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    searched = [each for each in settings if each.get("search")]
    if not searched:
        return []
    of_run = searched[0]
    trials = " or ".join(dict.fromkeys(str(each["tune.trials"]) for each in searched))
    ranges = [f"{words} {' to '.join(f'{end:g}' for end in of_run[f'tune.{name}'])}" for name, words in _RANGES.items()]
    values = [
        f"{words} of {', '.join(f'{value:g}' for value in of_run[f'tune.{name}'])}" for name, words in _VALUES.items()
    ]
    share = "Each run" if len(searched) == len(settings) else f"{len(searched)} of {len(settings)} runs"
    return [f"{share} was searched by {trials} trials, over what its method has of: {'; '.join(ranges + values)}."]


def _rule(settings: Sequence[Mapping[str, Any]], split: str) -> str:
    select = list(
        dict.fromkeys(str(each["tune.objective"] if each.get("search") else each["select"]) for each in settings)
    )
    by = " or ".join(_SELECTED[name] for name in select)
    tuned = {bool(each["tune_threshold"]) for each in settings}
    at = "at a decision threshold of 0" if tuned == {False} else "at the decision threshold that is best there"
    if select == ["last"]:
        return f"The last step is judged {at}."
    return f"Trials and checkpoints were chosen by {by} on validation, {at}; {split} accuracies are at that threshold."


def software_text() -> str:
    """Return the package with its commit where it is a clone's, and what it rests on, with versions."""
    names = [f"{name} {version(name)}" for name in _PACKAGES if _has(name)]
    python = ".".join(map(str, sys.version_info[:3]))
    return f"Software: pathopatch {__version__}{_commit()}, {', '.join(names)}, Python {python}."


def _has(name: str) -> bool:
    try:
        version(name)
    except ImportError:  # PackageNotFoundError is one
        return False
    return True


def _commit() -> str:
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return ""
    try:
        asked = ["git", "-C", str(root), "rev-parse", "HEAD"]
        found = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=10)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return ""
    return f" (commit {found.stdout.strip()[:12]})"

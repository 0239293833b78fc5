"""Make the tables of the README from the results: measured, published and required figures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

Rows = list[dict[str, Any]]

PROTOCOL = "published"
"""The protocol of the tables; results.csv has rows of others, measured with an earlier version."""

BEGIN, END = "<!-- results: written by study.py -->", "<!-- end of results -->"

PUBLISHED: dict[str, dict[float, str]] = {
    "erm": {0.5: "35.2 ± 3.5", 1: "52.1 ± 2.9", 2: "65.9 ± 3.6", 5: "82.2 ± 0.7"},
    "groupdro": {0.5: "63.1", 1: "68.8", 2: "76.3", 5: "84.2"},
    "resample": {0.5: "77.7 ± 0.9", 1: "84.4 ± 0.2", 2: "88.2 ± 0.1", 5: "92.0 ± 0.1"},
    "gerne": {0.5: "77.8 ± 0.9", 1: "84.5 ± 0.4", 2: "88.3 ± 0.2", 5: "92.2 ± 0.1"},
    "gerne-unknown": {0.5: "77.3 ± 0.2", 1: "84.0 ± 0.3", 2: "87.4 ± 0.3", 5: "91.0 ± 0.1"},
}
"""Group-balanced accuracy on the unbiased test set, three seeds: table 1 of arXiv:2503.13236."""

# (requirement, percent, method, method to subtract, measure, minimum)
REQUIREMENTS = (
    ("resample", 0.5, "resample", None, "gba", 77.0),
    ("gerne", 0.5, "gerne", None, "gba", 75.0),
    ("gerne-unknown", 0.5, "gerne-unknown", None, "gba", 72.0),
    ("precision of the pseudo-minority", 0.5, "gerne-unknown", None, "precision", 0.9),
    ("gerne less erm", 0.5, "gerne", "erm", "gba", 35.0),
    ("resample", 1.0, "resample", None, "gba", 80.0),
    ("gerne", 1.0, "gerne", None, "gba", 80.0),
    ("resample", 5.0, "resample", None, "gba", 85.0),
    ("gerne", 5.0, "gerne", None, "gba", 85.0),
)


def write_tables(readme: Path, rows: Rows, study: dict[str, Any]) -> None:
    """Write the tables of some results between the markers of a README.

    Parameters
    ----------
    readme : Path
        Has the two markers.
    rows : list of dict
        As `study.read_results` returns them.
    study : dict
        Its percents and methods give the order of columns and rows.
    """
    before, _, rest = readme.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    text = "\n".join(main_tables(rows, study["main"]))
    readme.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


def main_tables(rows: Rows, part: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of the tables over all methods, of the first colour table, with averaged weights."""
    percents, methods = part["percents"], part["methods"]
    shown = {"protocol": PROTOCOL, "table": part["tables"][0], "average": True}
    seeded = [row for row in rows if shown.items() <= row.items() and row["seed"] in part["seeds"]]
    head = ["conflicting", *(f"{p:g} %" for p in percents)]
    yield "Group-balanced accuracy on the unbiased test set, mean ± sd over the seeds, *as published* beneath:\n"
    yield from _table(head, _by_percent(seeded, percents, methods))
    yield "\nWorst of the 100 groups, of about 100 test images each:\n"
    yield from _table(head, ([name, *(_cell(_of(seeded, p, name), "wga") for p in percents)] for name in methods))
    yield f"\nAt {percents[0]:g} %, digits of their own and of other colours, and how well the minority was found:\n"
    head = ["method", "own colour", "other colours", "precision", "recall"]
    measures = ("aligned", "conflicting", "precision", "recall")
    yield from _table(head, ([name, *(_cell(_of(seeded, percents[0], name), m) for m in measures)] for name in methods))
    yield "\nRequirements:\n"
    head = ["", "conflicting", "at least", "reached", ""]
    yield from _table(head, (_requirement(seeded, *requirement) for requirement in REQUIREMENTS))


def _by_percent(rows: Rows, percents: Sequence[float], methods: Sequence[str]) -> Iterator[list[str]]:
    """Yield a line per method, and a second one for published figures."""
    for name in methods:
        yield [name, *(_cell(_of(rows, percent, name), "gba") for percent in percents)]
        if name in PUBLISHED:
            yield ["*published*", *(f"*{PUBLISHED[name][percent]}*" for percent in percents)]


def _requirement(
    seeded: Rows, name_in_table: str, percent: float, name: str, less: str | None, measure: str, at_least: float
) -> list[str]:
    """Return the line of one requirement."""
    measured = {row["seed"]: row[measure] for row in _of(seeded, percent, name) if row[measure] is not None}
    subtracted = (
        {row["seed"]: row[measure] for row in _of(seeded, percent, less)} if less else dict.fromkeys(measured, 0.0)
    )
    values = [measured[seed] - subtracted[seed] for seed in measured.keys() & subtracted.keys()]
    cells = [name_in_table, f"{percent:g} %", f"{at_least:g}"]
    if not values:
        return [*cells, "", "not measured"]
    verdict = "met" if mean(values) >= at_least else "**missed**"
    verdict = verdict if len(values) >= 3 else "too few seeds"
    return [*cells, f"{mean(values):.3g} ({len(values)} seeds)", verdict]


def _of(rows: Rows, percent: float, name: str) -> Rows:
    """Return the rows of one method at one share, one per seed."""
    return [row for row in rows if (row["percent"], row["method"]) == (percent, name)]


def _measured_values(rows: Rows, measure: str) -> list[float]:
    """Return the known values of a measure."""
    return [float(row[measure]) for row in rows if row[measure] is not None]


def _cell(rows: Rows, measure: str) -> str:
    """Return mean ± sd, with the number of seeds unless it is three."""
    values = _measured_values(rows, measure)
    if not values:
        return ""
    form = "{:.2f}" if measure in ("precision", "recall") else "{:.1f}"
    spread = f" ± {form.format(stdev(values))}" if len(values) > 1 else ""
    return f"{form.format(mean(values))}{spread}" + (f" ({len(values)})" if len(values) != 3 else "")


def _table(head: Sequence[str], body: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a Markdown table."""
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for line in body:
        yield f"| {' | '.join(line)} |"

"""The tables of the README, made of the results alone: what was measured, beside what was published and demanded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

Rows = list[dict[str, Any]]

BEGIN, END = "<!-- results: written by study.py -->", "<!-- end of results -->"

PUBLISHED: dict[str, dict[float, str]] = {
    "erm": {0.5: "35.2 ± 3.5", 1: "52.1 ± 2.9", 2: "65.9 ± 3.6", 5: "82.2 ± 0.7"},
    "groupdro": {0.5: "63.1", 1: "68.8", 2: "76.3", 5: "84.2"},
    "resample": {0.5: "77.7 ± 0.9", 1: "84.4 ± 0.2", 2: "88.2 ± 0.1", 5: "92.0 ± 0.1"},
    "gerne": {0.5: "77.8 ± 0.9", 1: "84.5 ± 0.4", 2: "88.3 ± 0.2", 5: "92.2 ± 0.1"},
    "gerne-unknown": {0.5: "77.3 ± 0.2", 1: "84.0 ± 0.3", 2: "87.4 ± 0.3", 5: "91.0 ± 0.1"},
}
"""Group-balanced accuracy on the unbiased test set, three seeds: table 1 of arXiv:2503.13236."""

# (what is demanded, percent, method, minuend's subtrahend or None, measure, at least)
DEMANDS = (
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
    """Put the tables of some results between the marks of a README.

    Parameters
    ----------
    readme : Path
        Holds the two marks.
    rows : list of dict
        As `study.read_results` returns them.
    study : dict
        Names the percents and methods, and so the order of columns and rows.
    """
    before, _, rest = readme.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    text = "\n".join(tables(rows, percents=study["percents"], methods=study["methods"]))
    readme.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


def tables(rows: Rows, *, percents: Sequence[float], methods: Sequence[str]) -> Iterator[str]:
    """Yield the lines of all tables."""
    yield (
        "Group-balanced accuracy on the unbiased test set, mean ± sd over the seeds, averaged weights; "
        "*as published* beneath:\n"
    )
    yield from _table(["conflicting", *(f"{p:g} %" for p in percents)], _by_percent(rows, percents, methods))
    yield "\nWorst of the 100 groups (about 100 test images each), likewise:\n"
    body = [[name, *(_cell(_values(rows, p, name, True), "wga") for p in percents)] for name in methods]
    yield from _table(["conflicting", *(f"{p:g} %" for p in percents)], body)
    first = percents[0]
    yield f"\nAt {first:g} % with and without the average, and on which images (own colour, other colours):\n"
    head = ["method", "averaged", "last weights", "own colour", "other colours", "precision, recall", "seconds a run"]
    yield from _table(head, [_detail(rows, first, name) for name in methods])
    yield "\nWhat was demanded:\n"
    yield from _table(["", "conflicting", "at least", "reached", ""], [_demand(rows, *demand) for demand in DEMANDS])


def _by_percent(rows: Rows, percents: Sequence[float], methods: Sequence[str]) -> Iterator[list[str]]:
    """Yield a line a method, and a second one where figures are published."""
    for name in methods:
        yield [name, *(_cell(_values(rows, percent, name, True), "gba") for percent in percents)]
        if name in PUBLISHED:
            yield [f"*{name}*", *(f"*{PUBLISHED[name].get(percent, '')}*" for percent in percents)]


def _detail(rows: Rows, percent: float, name: str) -> list[str]:
    """Return a method's line of the table with and without the average."""
    averaged, last = (_values(rows, percent, name, average) for average in (True, False))
    pseudo = ", ".join(f"{mean(found):.2f}" for key in ("precision", "recall") if (found := _known(averaged, key)))
    own = [_cell(averaged, "gba"), _cell(last, "gba"), _cell(averaged, "aligned"), _cell(averaged, "conflicting")]
    return [name, *own, pseudo, _cell(averaged, "seconds", "{:.0f}")]


def _demand(
    rows: Rows, what: str, percent: float, name: str, less: str | None, measure: str, at_least: float
) -> list[str]:
    """Return the line of one demand."""
    found = _known(_values(rows, percent, name, True), measure)
    taken = _known(_values(rows, percent, less, True), measure) if less else [0.0]
    if not found or not taken:
        return [what, f"{percent:g} %", f"{at_least:g}", "", "not measured"]
    value = mean(found) - mean(taken)
    return [what, f"{percent:g} %", f"{at_least:g}", f"{value:.3g}", "met" if value >= at_least else "**missed**"]


def _values(rows: Rows, percent: float, name: str, average: bool) -> Rows:
    """Return the rows of one method at one share, a row a seed."""
    wanted = (percent, name, average)
    return [row for row in rows if (row["percent"], row["method"], row["average"]) == wanted]


def _known(rows: Rows, measure: str) -> list[float]:
    """Return the values of a measure that are there."""
    return [float(row[measure]) for row in rows if row[measure] is not None]


def _cell(rows: Rows, measure: str, form: str = "{:.1f}") -> str:
    """Return mean ± sd, with the number of seeds where it is not three."""
    values = _known(rows, measure)
    if not values:
        return ""
    spread = f" ± {form.format(stdev(values))}" if len(values) > 1 and measure != "seconds" else ""
    count = f" ({len(values)})" if len(values) != 3 else ""
    return f"{form.format(mean(values))}{spread}{count}"


def _table(head: Sequence[str], body: Any) -> Iterator[str]:
    """Yield the lines of a Markdown table."""
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for line in body:
        yield f"| {' | '.join(line)} |"

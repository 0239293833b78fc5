"""Keep beside predictions what is known of their model: its name, training data, audit and card.

A heatmap names its model by a fingerprint alone. ``models/<fingerprint>.json`` tells a reader which model that is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape
from pydantic import ValidationError

from pathopatch.core.config import AreaCorrection
from pathopatch.core.files import inside, read_json, write_json
from pathopatch.models.card import beware, model_card
from pathopatch.models.forward import CORRECTED
from pathopatch.models.loading import Model
from pathopatch.models.spec import BundleSpec

_EMPHASIS = ((r"\*\*(.+?)\*\*", r"<strong>\1</strong>"), (r"`(.+?)`", r"<code>\1</code>"))
_FOLDER, _DIGITS = "models", 16
_MODEL, _RUNS = "model", "runs"  # where a run keeps its bundle: runs/<run>/model


def write_model_record(out: Path, model: Model) -> Path:
    """Write what is known of the models behind predictions in the folder `out`; return the file.

    Equal models give equal bytes. Each member is its name and its spec, of which the reader makes the rest.
    """
    path = _place(out, model.fingerprint)
    members = [
        {"name": _shown_name(folder, spec, model.area_correct), "spec": spec.model_dump(mode="json")}
        for folder, spec in zip(model.folders, model.specs, strict=True)
    ]
    write_json(path, {"fingerprint": model.fingerprint, "members": members})
    return path


def read_model_record(out: Path, fingerprint: str) -> dict[str, Any]:
    """Return what is known of the models with a fingerprint; empty if nothing is.

    ``members`` has for each model: ``name`` (see `bundle_name`), ``method``, ``seed`` (None: unknown),
    ``trained`` (splits, slides, patients, patches; empty: unknown), ``audit`` (the verdict on the training data; empty:
    unknown), ``beware`` (sentences for a reviewer) and ``card`` (Markdown).
    """
    path = _place(out, fingerprint)
    record = read_json(path) if path.is_file() else {}
    return record | {"members": [_member(member) for member in record.get("members", ())]}


def _place(out: Path, fingerprint: str) -> Path:
    return inside(out, _FOLDER, f"{fingerprint[:_DIGITS]}.json")


def _shown_name(folder: Path, spec: BundleSpec, correct: AreaCorrection) -> str:
    name = bundle_name(folder)
    return name if correct == "none" else f"{name or spec.method}, {CORRECTED} ({correct})"


def _member(written: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is known of a model by its name and spec; folders of 0.1.0 hold it as it is read."""
    if "spec" not in written:
        return dict(written)
    try:
        spec = BundleSpec.model_validate(written["spec"])
    except ValidationError:
        told = "Another version of pathopatch wrote what is known of this model, and this one cannot read it."
        method = str(written["spec"].get("method", ""))
        facts: dict[str, Any] = {
            "method": method,
            "seed": None,
            "trained": {},
            "audit": "",
            "beware": [told],
            "card": "",
        }
        return {"name": written["name"], **facts}
    trained = spec.data.get("trained", {})
    return {
        "name": written["name"],
        "method": spec.method,
        "seed": spec.parameters.get("seed"),
        "trained": {name: trained[name] for name in ("splits", "slides", "patients", "patches") if name in trained},
        "audit": spec.data.get("audit", ""),
        "beware": beware(spec),
        "card": model_card(spec),
    }


def bundle_name(folder: Path) -> str:
    """Return what a reader calls a bundle: its folder, or the run that it lies in; empty where it is just a "model"."""
    folder = folder.resolve()
    if folder.name != _MODEL:
        return folder.name
    return folder.parent.name if folder.parent.parent.name == _RUNS else ""


def card_html(text: str) -> Markup:
    """Return a card as HTML, all of its text escaped.

    Headings, tables, rules, bold and code are what cards of this package have; other Markdown stays text.
    """
    return Markup("\n").join(_block(kind, lines) for kind, lines in groupby(text.splitlines(), key=_kind) if kind)


def _kind(line: str) -> str:
    """Return the HTML tag of the block that a line belongs to; "" for an empty line."""
    if heading := re.match("#{1,4} ", line):
        return f"h{len(heading[0])}"  # one lower: the page has a title of its own
    kinds = {"": "", "---": "hr"}
    return kinds.get(line.strip(), "table" if line.startswith("|") else "p")


def _block(kind: str, lines: Iterable[str]) -> Markup:
    """Return the lines of one block; a table's first row is its header."""
    if kind == "hr":
        return Markup("<hr>")
    if kind != "table":
        return Markup("<{0}>{1}</{0}>").format(Markup(kind), _inline(" ".join(lines).lstrip("# ")))
    rows = [re.split(r"(?<!\\)\|", line.strip()[1:-1]) for line in lines if line.strip("|- ")]
    return Markup("<table>{}</table>").format(Markup("").join(_row(row) for row in rows))


def _row(cells: Sequence[str]) -> Markup:
    """Return a row of a table, whose first cell names it."""
    first, *others = (_inline(cell.strip()) for cell in cells)
    cells_after = Markup("").join(map(Markup('<td class="text">{}</td>').format, others))
    return Markup('<tr><th scope="row">{}</th>{}</tr>').format(first, cells_after)


def _inline(text: str) -> Markup:
    """Return a line's text escaped, with what is bold and what is code."""
    html = str(escape(text))
    for pattern, replacement in _EMPHASIS:
        html = re.sub(pattern, replacement, html)
    return Markup(html)

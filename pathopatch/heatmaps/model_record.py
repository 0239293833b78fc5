"""Keep beside predictions what is known of their model: its name, training data, audit and card.

A heatmap names its model by a fingerprint alone. ``models/<fingerprint>.json`` tells a reader which model that is.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode
from markupsafe import Markup
from pydantic import ValidationError

from pathopatch.core.config import AreaCorrection
from pathopatch.core.files import inside, read_json, write_json
from pathopatch.models.card import beware, model_card
from pathopatch.models.forward import CORRECTED
from pathopatch.models.loading import Model
from pathopatch.models.spec import BundleSpec

# Of "zero", without links, images and HTML: a card holds text of others, such as names of classes.
_MARKDOWN = MarkdownIt("zero").enable(["heading", "hr", "table", "emphasis", "backticks"])
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
        facts = {"name": written["name"], "method": str(written["spec"].get("method", ""))}
        return {**facts, "seed": None, "trained": {}, "audit": "", "beware": [told], "card": ""}
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
    """Return a card as HTML, all of its text escaped, without the empty header rows that Markdown asks for.

    Headings, tables, rules, bold and code are what cards of this package have; other Markdown stays text.
    """
    tokens = _MARKDOWN.parse(text)
    for node in SyntaxTreeNode(tokens).walk():
        if node.nester_tokens is None:
            continue
        opening, closing = node.nester_tokens
        if node.type == "heading":  # one lower: the page has a title of its own
            opening.tag = closing.tag = f"h{min(int(node.tag[1]) + 1, 6)}"
        elif node.type in ("th", "td"):  # the first cell names its row
            is_first = node.previous_sibling is None
            opening.tag = closing.tag = "th" if is_first else "td"
            opening.attrs = {"scope": "row"} if is_first else {"class": "text"}
        elif node.type in ("thead", "tbody"):
            opening.hidden = closing.hidden = True
        elif node.type == "tr" and not any(cell.children[0].content for cell in node.children):
            for token in node.to_tokens():
                token.hidden = True
    return Markup(_MARKDOWN.renderer.render(tokens, _MARKDOWN.options, {}))

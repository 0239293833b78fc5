"""Name the models of predictions by run and method, and find their cards."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pathopatch.heatmaps.model_record import read_model_record

FINGERPRINT_DIGITS = 16
_SHOWN_DIGITS = 8
_MOST_NAMES = 2  # of an ensemble; more would fill the page


def describe_model(out: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return name, method and fingerprint of the model that made a heatmap, and whether it has a card.

    `facts` is the content of ``heatmap.json`` in the folder of predictions `out`. Without a record the name has the
    first digits of the fingerprint.
    """
    fingerprint = str(facts["stamp"]["inputs"]["model"])[:FINGERPRINT_DIGITS]
    method = str(facts.get("method", ""))
    members = read_model_record(out, fingerprint).get("members", [])
    names = [str(member["name"]) for member in members]
    name = f"model {fingerprint[:_SHOWN_DIGITS]}"
    if all(names) and names:  # a bundle in a folder "model" of no run has none
        name = " + ".join(names) if len(names) <= _MOST_NAMES else f"ensemble of {len(names)}"
    return {
        "name": f"{name} ({method})" if method else name,
        "method": method,
        "fingerprint": fingerprint,
        "has_card": any(member.get("card") for member in members),
    }


def with_distinct_names(first: dict[str, Any], second: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return two descriptions, with digits of the fingerprints where the names are equal."""
    if first["name"] != second["name"]:
        return first, second
    one, other = (each | {"name": f"{each['name']}, {each['fingerprint'][:_SHOWN_DIGITS]}"} for each in (first, second))
    return one, other


def model_card(out: Path, fingerprint: str) -> str:
    """Return the cards of the models with a fingerprint, as Markdown; empty if there is none."""
    members = read_model_record(out, fingerprint).get("members", [])
    return "\n\n---\n\n".join(str(member["card"]) for member in members if member.get("card"))

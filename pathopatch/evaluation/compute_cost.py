"""Report what was spent on a run: trials, training steps in all, and the search that it won.

Runs are compared only at one budget: the same steps, the same samples per step, the same search.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pathopatch.core.config import TrainConfig
from pathopatch.core.files import read_json
from pathopatch.core.work_folder import WorkFolder
from pathopatch.debias.methods import NAMES, steps_in_all
from pathopatch.training.phase_data import phases_of

SEARCH_FILE = "search.json"
BUDGET = ("steps", "batch_per_class", "search")
"""Columns in which runs must agree to be compared with each other, or averaged."""
_NO_SEARCH = "none"


def budget_of(work: Path, name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the budget of a run, from its configuration (empty for a bundle from elsewhere) and ``search.json``.

    Returns
    -------
    dict
        ``steps`` and ``batch_per_class`` of the training that is kept; ``trials`` of the search that it won (1 without
        a search); ``search_steps``, of all trials in all phases of the method, pruned ones included; ``search``, the
        offer, such as "8 trials" or "4800 steps", "none" without a search. NaN and "" where unknown.
    """
    unknown = float("nan")
    budget: dict[str, Any] = {
        "steps": config.get("steps", unknown),
        "batch_per_class": config.get("batch_per_class", unknown),
        "trials": 1 if config else unknown,
        "search_steps": _steps_of_all_phases(config),
        "search": _NO_SEARCH if config else "",
    }
    path = WorkFolder(work).run(name) / SEARCH_FILE
    if path.is_file():
        search = read_json(path)
        budget |= {"trials": search["trials"], "search_steps": search["steps"], "search": search["offered"]}
    return budget


def total_budget(budgets: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what was spent on a run in all folds, in the words of one run's ``search.json``."""
    offers = dict.fromkeys(budget["search"] for budget in budgets)
    return {
        "offered": ", ".join(offer if offer == _NO_SEARCH else f"{offer} a fold" for offer in offers),
        "trials": sum(budget["trials"] for budget in budgets),
        "steps": sum(budget["search_steps"] for budget in budgets),
        "folds": len(budgets),
    }


def unequal_budgets_text(searches: Sequence[str], references: Sequence[str]) -> str:
    """Return in words that searches differ, or that some runs have no ERM of the same budget; "" if all is equal.

    `references` are the ERM runs that each run is compared with; empty where there is none.
    """
    notes = []
    if len(set(searches)) > 1:
        notes.append(f"searches differ ({', '.join(sorted(set(searches)))})")
    if "" in references:
        notes.append("no gain is given where no ERM run had the same steps, samples a step and search")
    text = "; ".join(notes)
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _steps_of_all_phases(config: Mapping[str, Any]) -> float:
    """Return the steps of one training, all phases of its method together; NaN where unknown."""
    # A bundle from elsewhere may name a method that is unknown here, so its phases are unknown too.
    if config.get("method") not in NAMES:
        return config.get("steps", float("nan"))  # type: ignore[no-any-return]
    train = TrainConfig.model_validate({key: config[key] for key in config if key in TrainConfig.model_fields})
    return steps_in_all(phases_of(train), train.steps)

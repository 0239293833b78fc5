"""Answers what was spent on a run: how many trials, how many training steps in all, and what search it has won.

Runs are comparable that were given the same: the same steps, the same samples a step, the same search.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pathopatch.core.config import TrainConfig
from pathopatch.core.files import read_json
from pathopatch.core.work_folder import WorkFolder
from pathopatch.debias.methods import NAMES, steps_in_all
from pathopatch.training.phase_data import phases_of

SEARCH_FILE = "search.json"
BUDGET = ("steps", "batch_per_class", "search")
"""Columns in which runs must agree to be held against each other, or averaged."""
NO_SEARCH = "none"


def budget_of(work: Path, name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the budget of a run.

    Parameters
    ----------
    work : Path
        Work folder.
    name : str
        Of the run.
    config : mapping
        Its configuration; empty for a bundle from elsewhere.

    Returns
    -------
    dict
        ``steps`` and ``batch_per_class`` of the training that is kept; ``trials``, of which it won (1 where it was
        trained once; those of all folds together); ``search_steps``, which all trials took in all phases of the method,
        pruned ones included; ``search``, what the search was
        offered, such as "8 trials" or "4800 steps", "none" without a search. NaN and "" where that is not known.
    """
    nothing = float("nan")
    found: dict[str, Any] = {
        "steps": config.get("steps", nothing),
        "batch_per_class": config.get("batch_per_class", nothing),
        "trials": 1 if config else nothing,
        "search_steps": _taken(config),
        "search": NO_SEARCH if config else "",
    }
    path = WorkFolder(work).run(name) / SEARCH_FILE
    if path.is_file():
        facts = read_json(path)
        found |= {"trials": facts["trials"], "search_steps": facts["steps"], "search": facts["offered"]}
    return found


def _taken(config: Mapping[str, Any]) -> float:
    """Return the steps of one training, all phases of its method together; NaN where that is not known."""
    if config.get("method") not in NAMES:
        return config.get("steps", float("nan"))  # type: ignore[no-any-return]
    known = TrainConfig.model_validate({key: config[key] for key in config if key in TrainConfig.model_fields})
    return steps_in_all(phases_of(known), known.steps)


def unequal(searches: list[str], references: list[str]) -> str:
    """Return in words that some runs have no ERM of the same budget, or that searches differ; "" if all is equal.

    Parameters
    ----------
    searches : list of str
        Of the runs.
    references : list of str
        The ERM run that each is held against; empty where there is none.
    """
    said = []
    if len(set(searches)) > 1:
        said.append(f"searches differ ({', '.join(sorted(set(searches)))})")
    if "" in references:
        said.append("no gain is given where no ERM run had the same steps, samples a step and search")
    text = "; ".join(said)
    return f"{text[0].upper()}{text[1:]}." if text else ""

"""Find runs of equal settings: the key by which seeds are averaged, and words for what differs between runs.

Runs are seeds of one another only where every setting that decides their weights is equal, and the data too. Settings
of a searched run are those that the search was given: what it chose differs from seed to seed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from pathopatch.core.artefacts import Stamp, fingerprint
from pathopatch.core.config import LINEAR_HEAD, NO_EFFECT, EvaluateConfig, parse
from pathopatch.core.files import read_json
from pathopatch.core.work_folder import FOLDS, REPETITIONS, WorkFolder
from pathopatch.groups.attribute import training_label

_DIGITS = 12  # of a key, and of a fingerprint of data in a text
_SEARCH = "tune."
ASSIGNMENT = "assignment"  # the setting of an exact head that tells its repetitions apart, in place of the seed
_REPEATS = ("seed", ASSIGNMENT)


def read_config(run: Path) -> dict[str, Any]:
    """Return ``config.json`` in the folder of a run; empty for a bundle from elsewhere, which has none."""
    path = run / "config.json"
    return read_json(path) if path.is_file() else {}


def study_settings(work: Path) -> EvaluateConfig:
    """Return how the study of a work folder evaluates its runs; the defaults where there was none."""
    path = WorkFolder(work).tiled.root / "study.json"
    stored = read_json(path).get("evaluate", {}) if path.is_file() else {}
    # A study of an earlier version may hold settings that are gone.
    settings = {name: value for name, value in stored.items() if name in EvaluateConfig.model_fields}
    return parse(EvaluateConfig, settings, place=str(path))


def run_settings(work: Path, name: str) -> dict[str, Any]:
    """Return the settings that decide a run's weights, nested ones by dotted names; empty where they are unknown.

    Among them are ``seed``, ``search`` (is it searched?), and fingerprints of the groups and patches of the training.
    """
    run, whole = WorkFolder(work).run(name), WorkFolder(work).assignment_of(name)
    stamps = [Stamp.from_dict(record["stamp"]) for record in run_records(work, name) if "stamp" in record]
    if not stamps:  # of a bundle from elsewhere
        return {key: value for key, value in _flat(read_config(run)) if key not in NO_EFFECT}
    settings = _joined([dict(_flat(stamp.settings)) for stamp in stamps])
    settings = {key.removeprefix("train."): value for key, value in settings.items()}
    settings["search"] = any(key.startswith(_SEARCH) for key in settings)
    data = _joined([{f"training {role}": mark[:_DIGITS] for role, mark in stamp.inputs.items()} for stamp in stamps])
    if not settings["search"] and (settings.get("frozen") or settings.get("architecture") == LINEAR_HEAD):
        settings[ASSIGNMENT] = "" if whole == work else whole.name  # no seed moves an exact head
        # Each fold of another assignment learns from others, whereas all folds together have the same patches.
        data = {} if (work / REPETITIONS).is_dir() else data
    return settings | data


def run_records(work: Path, name: str) -> list[dict[str, Any]]:
    """Return ``run.json`` of a run, or of it in each fold, where it was trained here, each with its `folder`."""
    whole = WorkFolder(work).assignment_of(name)
    # A run that was pooled from the folds of a cross-validation has none of its own.
    paths = [WorkFolder(work).run(name) / "run.json", *sorted(whole.glob(f"{FOLDS}/*/runs/{name}/run.json"))]
    return [{**read_json(path), "folder": path.parent} for path in paths if path.is_file()]


def chosen_heads(work: Path, name: str) -> list[str]:
    """Return the heads that validation chose for a run, sorted: ``["normalise erm, invariance 10"]``."""
    return sorted({head_text(each["chosen"]) for each in run_records(work, name) if "chosen" in each})


def head_text(chosen: Mapping[str, Any]) -> str:
    """Return a chosen head as text: ``normalise erm, invariance 10``."""
    paid = f", invariance {chosen['invariance']:g}" if chosen.get("invariance") else ""
    return f"{chosen['mask']} {chosen['method']}{paid}"


def _joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what the folds of a run share, and a value for each fold where they differ."""
    values = {name: [part.get(name) for part in parts] for part in parts for name in part}
    return {
        name: of_folds[0] if len(set(map(_plain, of_folds))) == 1 else of_folds for name, of_folds in values.items()
    }


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield nested settings by dotted names; an empty table has none."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def describe_runs(settings_of: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Return which runs differ in nothing but the seed, from the `run_settings` of each, indexed by run.

    settings_key: equal in runs that may be averaged over seeds. variant: what differs from other runs of the same
    method and training attribute, as text; empty if nothing. rerun_of: the run of equal settings and seed (of exact
    heads, of equal folds) that it repeats, the first by name; else empty.
    """
    # Nothing is known of a run without settings, so it is like no other.
    known = {
        run: {name: value for name, value in settings.items() if name not in _REPEATS} or {"run": run}
        for run, settings in settings_of.items()
    }
    keys = {run: fingerprint(settings)[:_DIGITS] for run, settings in known.items()}
    repeats = {run: (keys[run], each.get(ASSIGNMENT, each.get("seed"))) for run, each in settings_of.items()}
    first: dict[tuple[str, Any], str] = {}
    for run in sorted(settings_of):
        first.setdefault(repeats[run], run)
    # What tables show of a run's settings: method and training attribute.
    labels = {
        run: (each.get("method"), each.get("choose"), training_label(each) if each else "")
        for run, each in settings_of.items()
    }
    rows = []
    for run, settings in settings_of.items():
        alike = [settings_of[other] for other in settings_of if settings and labels[other] == labels[run]]
        rerun_of = "" if first[repeats[run]] == run else first[repeats[run]]
        rows.append((run, keys[run], _variant(settings, alike), rerun_of))
    return pd.DataFrame(rows, columns=["run", "settings_key", "variant", "rerun_of"]).set_index("run")


def row_name(config: Mapping[str, Any], method: str, variant: str) -> str:
    """Return what tables call a run: its own name, else its method and in what it differs from others of that."""
    called = called_method(config, method)
    return str(config.get("row_name") or (f"{called}, {variant}" if variant else called))


def called_method(config: Mapping[str, Any], method: str = "") -> str:
    """Return what tables call a run's method; `method` is that of a bundle from elsewhere, which has no settings."""
    return "chosen head" if config.get("choose") else str(config.get("method", method))


def _variant(settings: Mapping[str, Any], alike: list[Mapping[str, Any]]) -> str:
    """Return the settings that differ among runs of one label, as those of one of them: ``mask normalise, c 1``."""
    words = []
    for name, value in settings.items():
        # A run without a search has no ranges of a search; that it has none is told by ``search``.
        others = [each for each in alike if name in each or not name.startswith(_SEARCH)]
        if name not in _REPEATS and any(name not in each or _plain(each[name]) != _plain(value) for each in others):
            words.append(f"{name.replace('_', ' ')} {_text(value)}")
    return ", ".join(words)


def _plain(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "none" if value is None else str(value)

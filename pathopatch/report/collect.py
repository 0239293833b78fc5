"""Answers what a work folder holds for the report: every artefact that is there, as tables; nothing is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import zarr

from pathopatch.config import EvaluateConfig
from pathopatch.evaluation.compare import comparison, evaluated_runs
from pathopatch.files import inside, read_json
from pathopatch.patches.store import store_stamp
from pathopatch.provenance import Stamp, json_stamp, read_status, read_table, require_schema, table_stamp

SPLITS = ("train", "val", "test")
_TALLIES = ("patches", "with_tissue", "labelled", "tumor", "tissue_share")
_REDO = {
    "check": "check MANIFEST -o WORK",
    "tile": "tile MANIFEST -o WORK",
    "groups": "groups WORK",
    "train": "train WORK",
    "tune": "tune WORK",
    "evaluate": "evaluate WORK",
    "predict": "predict MANIFEST --model BUNDLE -o WORK",
}


@dataclass(frozen=True, eq=False)
class Study:
    """What is there to be drawn; None or empty where a stage has not run.

    Parameters
    ----------
    name : str
        Name of the work folder.
    slides : DataFrame
        A row per slide: slide_id, patient_id, split, channels, mpp, background, windows, state and message of `tile`
        and `predict`, and the tallies of its patches.
    groups : DataFrame or None
        ``groups.parquet``.
    audit : mapping or None
        ``groups/audit.json``.
    evaluations, configs : mapping of str to mapping
        ``metrics.json`` and ``config.json`` of each run.
    comparison : DataFrame or None
        A row per evaluated run and threshold.
    predictions, histories : mapping of str to DataFrame
        Patch predictions of the evaluated runs, and the training history of each run.
    overlays : mapping of str to Path
        The overlay picture of each slide.
    stores : mapping of str to Path
        The finished store of each slide.
    stamps : mapping of str to Stamp
        What each artefact was made of.
    """

    name: str
    slides: pd.DataFrame
    groups: pd.DataFrame | None
    audit: Mapping[str, Any] | None
    evaluations: Mapping[str, Mapping[str, Any]]
    configs: Mapping[str, Mapping[str, Any]]
    comparison: pd.DataFrame | None
    predictions: Mapping[str, pd.DataFrame]
    histories: Mapping[str, pd.DataFrame]
    overlays: Mapping[str, Path]
    stores: Mapping[str, Path]
    stamps: Mapping[str, Stamp]

    @property
    def thresholds(self) -> tuple[float, ...]:
        """Tissue thresholds of the groups, rising."""
        if self.groups is None:
            return ()
        return tuple(sorted(float(name[6:]) for name in map(str, self.groups.columns) if name.startswith("group@")))


def read_study(work: Path, *, evaluate: EvaluateConfig | None = None) -> Study:
    """Return everything in a work folder that a report can show.

    Parameters
    ----------
    work : Path
        Work folder.
    evaluate : EvaluateConfig, optional
        For the intervals of the gains; by default what the study was judged with.

    Raises
    ------
    InputCorruptError
        An artefact is there but cannot be read.
    """
    groups = read_table(work / "groups.parquet") if (work / "groups.parquet").is_file() else None
    audit_path = work / "groups" / "audit.json"
    configs = {path.parent.name: read_json(path) for path in sorted(work.glob("runs/*/config.json"))}
    return Study(
        name=work.resolve().name,
    StaleArtefactError
        An artefact is of another schema, so that its numbers may mean something else; the earliest stage is named.
        slides=_slides(work, groups),
    runs = evaluated_runs(work)
    stamps = _stamps(work, runs)
    for place, stamp in stamps.items():
        remedy = f"run pathopatch {_REDO.get(stamp.stage, stamp.stage)} --force, then the stages after it"
        require_schema(stamp, place=work / place, remedy=remedy)
        groups=groups,
        audit=read_json(audit_path) if audit_path.is_file() else None,
        evaluations={run: read_json(inside(work, "runs", run, "evaluation", "metrics.json")) for run in runs},
        configs={run: raw.get("config", raw) for run, raw in configs.items()},
        comparison=comparison(work, config=evaluate) if runs and groups is not None else None,
        predictions={run: read_table(inside(work, "runs", run, "evaluation", "predictions.parquet")) for run in runs},
        histories={
            path.parent.name: pd.read_csv(path)
            for path in sorted(work.glob("runs/*/history.csv"))
            if path.stat().st_size > 1
        },
        overlays={path.parent.name: path for path in sorted(work.glob("heatmaps/*/overlay.png"))},
        stores={path.stem: path for path in sorted(work.glob("slides/*.zarr")) if store_stamp(path) is not None},
        stamps=stamps,
    )


def _slides(work: Path, groups: pd.DataFrame | None) -> pd.DataFrame:
    """Return one row per slide that any artefact knows of."""
    checked = read_table(work / "slides.parquet") if (work / "slides.parquet").is_file() else pd.DataFrame()
    known = {
        str(row["slide_id"]): {str(key): value for key, value in row.items()} for row in checked.to_dict("records")
    }
    names = {*known, *(path.stem for path in work.glob("patches/*.parquet"))}
    names |= {path.stem for path in work.glob("status/*.json")}
    split_of = {}
    if groups is not None and "split" in groups:
        split_of = dict(zip(groups["slide_id"], groups["split"], strict=True))
    rows = [_slide(work, name, known.get(name, {}), split_of.get(name)) for name in sorted(map(str, names))]
    return pd.DataFrame(rows)


def _slide(work: Path, name: str, checked: Mapping[str, Any], split: str | None) -> dict[str, Any]:
    """Return what is known of one slide."""
    status = read_status(work, name)
    tiled, predicted = status.get("tile", {}), status.get("predict", {})
    store = _store_attributes(inside(work, "slides", f"{name}.zarr"))
    counts = _patch_counts(inside(work, "patches", f"{name}.parquet"))
    channels = store.get("channels") or [part for part in str(checked.get("channels", "")).split(",") if part]
    return {
        "slide_id": name,
        "patient_id": counts.pop("patient_id") or str(checked.get("patient_id", "")),
        "split": split or str(checked.get("split", "")),
        "channels": list(channels),
        "mpp": store.get("mpp", checked.get("mpp")),
        "background": str(store.get("background", checked.get("background", ""))),
        "windows": store.get("windows", []),
        "tissue_threshold": store.get("tissue", {}).get("threshold"),
        "tile_state": str(tiled.get("state", "")),
        "tile_message": _said(tiled),
        "predict_state": str(predicted.get("state", "")),
        "predict_message": _said(predicted),
        "predict_counts": predicted.get("counts", {}),
        "warnings": list(dict.fromkeys([*tiled.get("warnings", []), *predicted.get("warnings", [])])),
        **counts,
    }


def _said(entry: Mapping[str, Any]) -> str:
    """Return a failure's code and message once each."""
    code, message = str(entry.get("code", "")), str(entry.get("message", ""))
    return message if message.startswith(code) else f"{code}: {message}"


def _store_attributes(path: Path) -> dict[str, Any]:
    """Return a finished store's attributes; none if there is no such store."""
    if not (path / "zarr.json").is_file():
        return {}
    attributes: dict[str, Any] = zarr.open_group(path, mode="r").attrs.asdict()
    return attributes


def _patch_counts(path: Path) -> dict[str, Any]:
    """Return the tallies of one slide's patches; None where it has no table."""
    if not path.is_file():
        return {"patient_id": "", **dict.fromkeys(_TALLIES)}
    table = read_table(path)
    return {
        "patient_id": str(table["patient_id"].iloc[0]) if len(table) else "",
        "patches": len(table),
        "with_tissue": int((table["tissue_fraction"] > 0).sum()),
        "labelled": int((table["label"] >= 0).sum()),
        "tumor": int((table["label"] == 1).sum()),
        "tissue_share": float(table["tissue_fraction"].mean()) if len(table) else float("nan"),
    }


def _stamps(work: Path, runs: list[str]) -> dict[str, Stamp]:
    """Return the stamps of the study's artefacts, by their place in the work folder, in the order of the stages."""
    found = {
        "slides.parquet": table_stamp(work / "slides.parquet"),
        **{f"patches/{path.name}": table_stamp(path) for path in sorted(work.glob("patches/*.parquet"))},
        **{f"runs/{path.parent.name}": json_stamp(path) for path in sorted(work.glob("runs/*/run.json"))},
        **{f"runs/{run}/evaluation": json_stamp(work / "runs" / run / "evaluation" / "metrics.json") for run in runs},
        **{f"predictions/{path.name}": table_stamp(path) for path in sorted(work.glob("predictions/*.parquet"))},
    }
    return {place: stamp for place, stamp in found.items() if stamp is not None}
        "groups.parquet": table_stamp(work / "groups.parquet"),

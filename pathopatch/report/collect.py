"""Answers what a work folder holds for the report: every artefact that is there, as tables; nothing is written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import zarr

from pathopatch.core.artefacts import (
    Stamp,
    fingerprint,
    fingerprint_file,
    read_stamp,
    read_table,
    require_schema,
)
from pathopatch.core.config import EvaluateConfig, GroupsConfig, parse
from pathopatch.core.files import read_json
from pathopatch.core.status import read_status, slide_ids
from pathopatch.core.work_folder import WorkFolder
from pathopatch.evaluation.compare import comparison, evaluated_runs, sweep_of
from pathopatch.evaluation.dependence import dependence_comparison
from pathopatch.evaluation.pooled import FOLDS_FILE
from pathopatch.groups import PatchAttribute, TissueBins, TissueThreshold, bins_attributes, threshold_attributes
from pathopatch.groups.decisions.decision import RecordedDecision
from pathopatch.groups.decisions.log import LOG_NAME, read_log

_TALLIES = ("patches", "with_tissue", "labelled", "tumor", "tissue_share")


@dataclass(frozen=True, eq=False)
class Study:
    """What is there to be drawn; None or empty where a stage has not run.

    Parameters
    ----------
    name : str
        Name of the work folder.
    slides : DataFrame
        A row per slide, or per split of a set of ready patches: slide_id, patient_id, patients (1, or how many), split,
        channels, mpp, background, windows, state and message of `tile` and `predict`, counts and summary of `predict`,
        and the tallies of its patches.
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
    trials : mapping of str to DataFrame
        ``trials.csv`` of each run that was searched.
    overlays : mapping of str to Path
        The overlay picture of each slide.
    stores : mapping of str to Path
        The finished store of each slide.
    stamps : mapping of str to Stamp
        What each artefact was made of.
    sweeps : mapping of str to DataFrame
        Each evaluated run over all tissue thresholds, on the split that the comparison is of.
    folds : DataFrame or None
        ``folds.csv`` of a cross-validation.
    dependence : DataFrame or None
        A row per evaluated run and label, see `pathopatch.evaluation.dependence`.
    outside : mapping of str to mapping
        ``metrics.json`` of each model from elsewhere that was judged here.
    decisions : sequence of RecordedDecision
        Everything that reviewers wrote down.
    fingerprints : mapping of str to str
        Of the heatmap of each slide that was decided of, as decisions name it.
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
    trials: Mapping[str, pd.DataFrame]
    overlays: Mapping[str, Path]
    stores: Mapping[str, Path]
    stamps: Mapping[str, Stamp]
    sweeps: Mapping[str, pd.DataFrame]
    folds: pd.DataFrame | None
    dependence: pd.DataFrame | None = None
    outside: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    decisions: Sequence[RecordedDecision] = ()
    fingerprints: Mapping[str, str] = field(default_factory=dict)

    @property
    def attributes(self) -> tuple[TissueThreshold | PatchAttribute, ...]:
        """By which the groups are formed, at rising thresholds; one where the patches brought theirs: all are alike."""
        if self.groups is None:
            return ()
        attributes = threshold_attributes(self.groups)
        return attributes[:1] if attributes[0].is_patch_attribute else attributes

    @property
    def attribute(self) -> TissueThreshold | PatchAttribute:
        """The first of them; by default of tissue."""
        return next(iter(self.attributes), TissueThreshold(GroupsConfig().thresholds[0]))

    @property
    def thresholds(self) -> tuple[float, ...]:
        """Tissue thresholds of `attributes`."""
        return tuple(attribute.tau for attribute in self.attributes)

    @property
    def bins(self) -> tuple[TissueBins, ...]:
        """Bins beside the thresholds; none where the attribute is the patches' own."""
        return () if self.groups is None or self.attribute.is_patch_attribute else bins_attributes(self.groups)


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
    StaleArtefactError
        An artefact is of another schema, so that its numbers may mean something else; the earliest stage is named.
    """
    evaluate = evaluate or _judged_with(WorkFolder(work).tiled.root)
    runs = evaluated_runs(work)
    stamps = _stamps(work, runs)
    groups = read_table(WorkFolder(work).groups) if WorkFolder(work).groups.is_file() else None
    audit_path = WorkFolder(work).audit
    configs = {path.parent.name: read_json(path) for path in sorted(work.glob("runs/*/config.json"))}
    table = comparison(work, config=evaluate) if runs and groups is not None else None
    split = "" if table is None else str(table["split"].iloc[0])
    decisions = read_log(work / LOG_NAME)
    return Study(
        name=work.resolve().name,
        slides=_slides(WorkFolder(work).tiled.root, groups),
        groups=groups,
        audit=read_json(audit_path) if audit_path.is_file() else None,
        evaluations={run: read_json(WorkFolder(work).evaluation(run) / "metrics.json") for run in runs},
        configs={run: raw.get("config", raw) for run, raw in configs.items()},
        comparison=table,
        predictions={run: read_table(WorkFolder(work).evaluation(run) / "predictions.parquet") for run in runs},
        histories={
            path.parent.name: pd.read_csv(path)
            for path in sorted(work.glob("runs/*/history.csv"))
            if path.stat().st_size > 1
        },
        trials={path.parent.name: pd.read_csv(path) for path in sorted(work.glob("runs/*/trials.csv"))},
        overlays={path.parent.name: path for path in sorted(work.glob("heatmaps/*/overlay.png"))},
        stores={
            path.stem: path
            for path in sorted(WorkFolder(work).tiled.root.glob("slides/*.zarr"))
            if read_stamp(path) is not None
        },
        stamps=stamps,
        folds=_folds(work, groups),
        sweeps={run: found for run in runs if len(found := sweep_of(work, run, split))},
        dependence=None if table is None else dependence_comparison(work, table, config=evaluate),
        outside=_outside(work),
        decisions=decisions,
        fingerprints=_fingerprints(work, {row.slide_id for row in decisions}),
    )


def _fingerprints(work: Path, slides: Iterable[str]) -> dict[str, str]:
    """Return the fingerprint of the heatmap of each of some slides that has one."""
    stamps = {name: read_stamp(WorkFolder(work).heatmap(name) / "heatmap.json") for name in slides}
    return {name: fingerprint(stamp.to_dict())[:16] for name, stamp in stamps.items() if stamp is not None}


def _judged_with(work: Path) -> EvaluateConfig:
    """Return how the study of a work folder says that its runs are judged; the defaults where there is no study."""
    path = work / "study.json"
    return parse(EvaluateConfig, read_json(path).get("evaluate", {}) if path.is_file() else {}, place=str(path))


def _outside(work: Path) -> dict[str, dict[str, Any]]:
    """Return what models from elsewhere were judged to be; with a warning where the groups were formed anew since."""
    found = {path.parent.name: read_json(path) for path in sorted(work.glob("evaluations/*/metrics.json"))}
    groups = WorkFolder(work).groups
    now = fingerprint_file(groups) if groups.is_file() else ""
    for numbers in found.values():
        if Stamp.from_dict(numbers["stamp"]).inputs.get("groups") != now:
            again = "It was judged by groups that were formed anew since: run `pathopatch evaluate --model` again."
            numbers["warnings"] = [again, *numbers["warnings"]]
    return found


def _folds(work: Path, groups: pd.DataFrame | None) -> pd.DataFrame | None:
    """Return what the folds of a cross-validation say; nothing where the groups are divided once by now."""
    path = work / FOLDS_FILE
    is_there = groups is not None and "fold" in groups and path.is_file()
    return pd.read_csv(path, dtype={"attribute": str}) if is_there else None


def _slides(work: Path, groups: pd.DataFrame | None) -> pd.DataFrame:
    """Return the rows of all slides that any artefact knows of."""
    checked = read_table(WorkFolder(work).slides) if WorkFolder(work).slides.is_file() else pd.DataFrame()
    known = {
        str(row["slide_id"]): {str(key): value for key, value in row.items()} for row in checked.to_dict("records")
    }
    names = {*known, *(path.stem for path in work.glob("patches/*.parquet"))}
    names |= set(slide_ids(work))
    return pd.DataFrame(
        [row for name in sorted(map(str, names)) for row in _slide(work, name, known.get(name, {}), groups)]
    )


def _slide(work: Path, name: str, checked: Mapping[str, Any], groups: pd.DataFrame | None) -> list[dict[str, Any]]:
    """Return what is known of one slide; of a set of ready patches, which has many patients, a row a split."""
    status = read_status(work, name)
    tiled, predicted = status.get("tile", {}), status.get("predict", {})
    store = _store_attributes(WorkFolder(work).store(name))
    channels = store.get("channels") or [part for part in str(checked.get("channels", "")).split(",") if part]
    common = {
        "slide_id": name,
        "channels": list(channels),
        "mpp": store.get("mpp", checked.get("mpp")),
        "background": str(store.get("background", checked.get("background", ""))),
        "windows": store.get("windows", []),
        "tissue_threshold": store.get("tissue", {}).get("threshold"),
        "tissue_confidence": store.get("tissue", {}).get("confidence"),
        "tile_state": str(tiled.get("state", "")),
        "tile_message": _said(tiled),
        "predict_state": str(predicted.get("state", "")),
        "predict_message": _said(predicted),
        "predict_counts": predicted.get("counts", {}),
        "predict_summary": predicted.get("summary", {}),
        "warnings": list(dict.fromkeys([*tiled.get("warnings", []), *predicted.get("warnings", [])])),
    }
    path = WorkFolder(work).patches(name)
    table = read_table(path) if path.is_file() else None
    split_of = _splits(groups, name)
    if table is not None and store.get("is_ready_set"):
        parts = table.groupby(table["patch_id"].map(split_of).fillna(""), sort=True)
        return [
            common | {"split": each, "patient_id": f"{n} in {each or 'all'}", "patients": n} | _tallies(part)
            for each, part in parts
            if (n := part["patient_id"].nunique())
        ]
    found = {} if table is None else _tallies(table)
    patient = str(table["patient_id"].iloc[0]) if table is not None and len(table) else ""
    split = next(iter(split_of.values()), "") or str(checked.get("split", ""))
    patient = patient or str(checked.get("patient_id", "")) or str(predicted.get("patient_id", ""))
    known = {"split": split, "patient_id": patient, "patients": 1}
    return [common | known | dict.fromkeys(_TALLIES) | found]


def _splits(groups: pd.DataFrame | None, name: str) -> dict[str, str]:
    """Return the split of each patch of a slide; none where there are no groups."""
    if groups is None or "split" not in groups:
        return {}
    mine = groups[groups["slide_id"] == name]
    return dict(zip(mine["patch_id"], mine["split"], strict=True))


def _said(entry: Mapping[str, Any]) -> str:
    """Return a failure's code and message once each."""
    code, message = str(entry.get("code", "")), str(entry.get("message", ""))
    return message if message.startswith(code) else f"{code}: {message}"


def _store_attributes(path: Path) -> dict[str, Any]:
    """Return a finished store's attributes; none if there is no such store."""
    if not (path / "zarr.json").is_file():
        return {}
    attributes: dict[str, Any] = zarr.open_group(path, mode="r").attrs.asdict()
    if "stamp" in attributes:
        require_schema(Stamp.from_dict(attributes["stamp"]), place=path)
    return attributes


def _tallies(table: pd.DataFrame) -> dict[str, Any]:
    """Return the tallies of a patch table."""
    return {
        "patches": len(table),
        "with_tissue": int((table["tissue_fraction"] > 0).sum()),
        "labelled": int((table["label"] >= 0).sum()),
        "tumor": int((table["label"] == 1).sum()),
        "tissue_share": float(table["tissue_fraction"].mean()) if len(table) else float("nan"),
    }


def patients_in(slides: pd.DataFrame) -> int:
    """Return how many patients some rows of `Study.slides` are of."""
    is_set = slides["patients"] > 1
    return int(slides.loc[is_set, "patients"].sum()) + slides.loc[~is_set, "patient_id"].nunique()


def _stamps(work: Path, runs: list[str]) -> dict[str, Stamp]:
    """Return the stamps of the study's artefacts, by their place in the work folder, in the order of the stages.

    The first that is of another schema is refused.
    """
    found = {
        "slides.parquet": read_stamp(WorkFolder(work).slides),
        **{f"patches/{path.name}": read_stamp(path) for path in sorted(work.glob("patches/*.parquet"))},
        "groups.parquet": read_stamp(WorkFolder(work).groups),
        **{f"runs/{path.parent.name}": read_stamp(path) for path in sorted(work.glob("runs/*/run.json"))},
        **{f"runs/{run}/evaluation": read_stamp(WorkFolder(work).evaluation(run) / "metrics.json") for run in runs},
        **{f"evaluations/{p.parent.name}": read_stamp(p) for p in sorted(work.glob("evaluations/*/metrics.json"))},
        **{f"predictions/{path.name}": read_stamp(path) for path in sorted(work.glob("predictions/*.parquet"))},
    }
    stamps = {place: stamp for place, stamp in found.items() if stamp is not None}
    for place, stamp in stamps.items():
        require_schema(stamp, place=work / place)
    return stamps

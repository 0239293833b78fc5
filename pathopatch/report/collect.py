"""Read every artefact of a work folder that the report shows. Nothing is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import zarr

from pathopatch.core.artefacts import Stamp, fingerprint, fingerprint_file, read_stamp, read_table, require_schema
from pathopatch.core.config import EvaluateConfig, GroupsConfig
from pathopatch.core.errors import StaleArtefactError
from pathopatch.core.files import inside, read_json
from pathopatch.core.patients import patient_key
from pathopatch.core.status import listed_status, slide_ids
from pathopatch.core.work_folder import WorkFolder
from pathopatch.evaluation.compare import comparison, evaluated_runs
from pathopatch.evaluation.evaluate import require_current
from pathopatch.evaluation.run_settings import study_settings
from pathopatch.evaluation.summary import summarise_runs
from pathopatch.groups import (
    PatchAttribute,
    TissueBins,
    TissueThreshold,
    bins_attributes,
    slides_of,
    threshold_attributes,
)
from pathopatch.groups.audit import VERSION
from pathopatch.groups.decisions.decision import RecordedDecision
from pathopatch.groups.decisions.log import LOG_NAME, read_log
from pathopatch.heatmaps import FACTS
from pathopatch.heatmaps.model_record import read_model_record

_TALLIES = ("patches", "with_tissue", "labelled", "tumor", "scanned", "tissue_share")


class Study:
    """The artefacts of a work folder; None or empty where a stage has not run. Mappings are by run or by slide.

    `evaluate` is for the intervals of the gains; by default it has the study's own settings. Raises InputCorruptError
    for an unreadable artefact, StaleArtefactError for one of another schema; its message names the earliest stage.
    """

    def __init__(self, work: Path, *, evaluate: EvaluateConfig | None = None) -> None:
        folder = WorkFolder(work)
        tiled = folder.tiled.root
        evaluate = evaluate or study_settings(work)
        self.name = work.resolve().name
        runs = evaluated_runs(work)
        self.stamps = _stamps(work, runs)  # by place in the work folder
        self.groups = read_table(folder.groups) if folder.groups.is_file() else None
        # A row per slide, or per split where a slide or a set of ready patches has several patients: what
        # slides.parquet, the stores and the states of `tile` and `predict` say, and the tallies of its patches.
        self.slides = _slides(tiled, self.groups)
        self.audit = read_json(folder.audit) if folder.audit.is_file() else None
        if self.audit is not None and self.audit["version"] != VERSION:
            raise StaleArtefactError(
                "the audit is of an earlier version", place=str(folder.audit), remedy="run `pathopatch audit`"
            )
        self.features = read_json(folder.tiled.features) if folder.tiled.features.is_file() else None
        # Of a study's runs; one that was trained since has an evaluation.
        untrained = read_json(folder.untrained) if folder.untrained.is_file() else {}
        self.untrained = {run: reason for run, reason in untrained.items() if run not in runs}
        self.evaluations = {run: read_json(folder.evaluation(run) / "metrics.json") for run in runs}
        self.configs = {path.parent.name: read_json(path) for path in sorted(work.glob("runs/*/config.json"))}
        # A row per evaluated run and threshold.
        self.comparison = comparison(work, config=evaluate) if runs and self.groups is not None else None
        # Each setting over its seeds, and every two of them.
        table = self.comparison
        self.summary = None if table is None else summarise_runs(work, table, config=evaluate)
        self.predictions = {run: read_table(folder.evaluation(run) / "predictions.parquet") for run in runs}
        self.overlays = {path.parent.name: path for path in sorted(work.glob("heatmaps/*/overlay.png"))}
        stores = sorted(tiled.glob("slides/*.zarr"))
        self.stores = {path.stem: path for path in stores if read_stamp(path) is not None}  # finished ones
        self.has_folds = self.groups is not None and "fold" in self.groups
        self.external_validations = _external_validations(work)  # metrics.json of models of other studies
        # Answers of `audit-model` that were written into ``area-reliance/<name>/``.
        asked = [path.parent for path in sorted(work.glob("area-reliance/*/area-reliance.json"))]
        self.asked = {
            place: read_json(inside(place, "area-reliance.json"))
            for place in asked
            if inside(work, "area-reliance", place.name, "area-reliance.html").is_file()
        }
        self.decisions: Sequence[RecordedDecision] = read_log(work / LOG_NAME)  # of reviewers, also withdrawn ones
        self.heatmaps = _heatmaps(work)
        # By the fingerprint in `heatmaps`.
        self.models = {
            name: read_model_record(work, name) for name in sorted({facts["model"] for facts in self.heatmaps.values()})
        }

    @property
    def attributes(self) -> tuple[TissueThreshold | PatchAttribute, ...]:
        """Attributes of the groups at rising thresholds; a single one if the patches brought it along."""
        if self.groups is None:
            return ()
        attributes = threshold_attributes(self.groups)
        # An attribute of the patches gives the same groups at every threshold.
        return attributes[:1] if attributes[0].is_patch_attribute else attributes

    @property
    def attribute(self) -> TissueThreshold | PatchAttribute:
        """The first of `attributes`; before groups are formed, the default threshold."""
        return next(iter(self.attributes), TissueThreshold(GroupsConfig().thresholds[0]))

    @property
    def thresholds(self) -> tuple[float, ...]:
        """Tissue thresholds of `attributes`."""
        return tuple(attribute.tau for attribute in self.attributes)

    @property
    def split(self) -> str:
        """Split of `comparison`: ``test``, or ``val`` where no run has test predictions."""
        return "" if self.comparison is None or self.comparison.empty else str(self.comparison["split"].iloc[0])

    @property
    def bins(self) -> tuple[TissueBins, ...]:
        """Bins beside the thresholds; none where the attribute is the patches' own."""
        return () if self.groups is None or self.attribute.is_patch_attribute else bins_attributes(self.groups)


def _heatmaps(work: Path) -> dict[str, dict[str, Any]]:
    """Return by slide its heatmap's fingerprint, that of the model, its method, classes and decision thresholds."""
    names = ("method", "class_names", "decision_threshold", "decision_probability")
    heatmaps = {}
    for path in sorted(work.glob(f"heatmaps/*/{FACTS}")):
        stamp = read_stamp(path)
        if stamp is not None:
            facts = read_json(path)
            own = {"model": stamp.inputs["model"], "fingerprint": fingerprint(stamp.to_dict())[:16]}
            heatmaps[path.parent.name] = {name: facts.get(name) for name in names} | own
    return heatmaps


def _external_validations(work: Path) -> dict[str, dict[str, Any]]:
    """Return ``metrics.json`` of each external model, with a warning where the groups were formed anew since."""
    paths = {path.parent.name: path for path in sorted(work.glob("evaluations/*/metrics.json"))}
    validations = {name: read_json(path) for name, path in paths.items()}
    groups = WorkFolder(work).groups
    groups_now = fingerprint_file(groups) if groups.is_file() else ""
    for name, numbers in validations.items():
        require_current(numbers, paths[name].parent)
        if Stamp.from_dict(numbers["stamp"]).inputs.get("groups") != groups_now:
            outdated = "The groups were formed anew after this evaluation: run `pathopatch evaluate --model` again."
            numbers["warnings"] = [outdated, *numbers["warnings"]]
    return validations


def _slides(work: Path, groups: pd.DataFrame | None) -> pd.DataFrame:
    """Return the rows of all slides that are named in any artefact."""
    path = WorkFolder(work).slides
    checked = read_table(path) if path.is_file() else pd.DataFrame()
    by_id = {str(row["slide_id"]): row for row in checked.to_dict("records")}
    names = {*by_id, *(path.stem for path in work.glob("patches/*.parquet")), *map(str, slide_ids(work))}
    return pd.DataFrame([row for name in sorted(names) for row in _slide_rows(work, name, by_id.get(name, {}), groups)])


def _slide_rows(work: Path, name: str, checked: Mapping[Any, Any], groups: pd.DataFrame | None) -> list[dict[str, Any]]:
    """Return the row of one slide; of a set of ready patches or a slide of several patients, a row per split."""
    status = listed_status(work, name)
    tiled, predicted = status.get("tile", {}), status.get("predict", {})
    store = _store_attributes(WorkFolder(work).store(name))
    channels = store.get("channels") or [part for part in str(checked.get("channels", "")).split(",") if part]
    common = {
        "slide_id": name,
        "channels": list(channels),
        "mpp": store.get("mpp", checked.get("mpp")),
        "background": str(store.get("background", checked.get("background", ""))),
        "icc": store.get("icc", ""),
        "tissue_confidence": store.get("tissue", {}).get("confidence"),
        "tile_state": str(tiled.get("state", "")),
        "tile_message": _failure_text(tiled),
        "predict_state": str(predicted.get("state", "")),
        "predict_message": _failure_text(predicted),
        "predict_counts": predicted.get("counts", {}),
        "predict_summary": predicted.get("summary", {}),
        "predict_leakage": str(predicted.get("leakage", "")),
        # Both stages warn of the same pixels, such as a shifted channel: say it once.
        "warnings": list(dict.fromkeys([*tiled.get("warnings", []), *predicted.get("warnings", [])])),
    }
    path = WorkFolder(work).patches(name)
    table = read_table(path) if path.is_file() else None
    split_of: dict[str, str] = {}
    if groups is not None and "split" in groups:
        in_slide = groups[groups["slide_id"] == name]
        split_of = dict(zip(in_slide["patch_id"], in_slide["split"], strict=True))
    # Patients of one set or slide may be in several splits, so one row would count them in the wrong split.
    if table is not None and (store.get("is_ready_set") or table["patient_id"].nunique() > 1):
        parts = table.groupby(table["patch_id"].map(split_of).fillna(""), sort=True)
        return [
            common
            | {"split": split, "patient_id": f"{n} in {split or 'all'}", "patients": n}
            | {"slides": slides_of(part).nunique(), **_tallies(part)}
            for split, part in parts
            if (n := part["patient_id"].nunique())
        ]
    patient = str(table["patient_id"].iloc[0]) if table is not None and len(table) else ""
    identity = {
        "split": next(iter(split_of.values()), "") or str(checked.get("split", "")),
        "patient_id": patient or str(checked.get("patient_id", "")) or str(predicted.get("patient_id", "")),
        "patients": 1,
        "slides": 1,
    }
    return [common | identity | (dict.fromkeys(_TALLIES) if table is None else _tallies(table))]


def _failure_text(entry: Mapping[str, Any]) -> str:
    """Return code and message of a status entry; the message of an error of ours begins with its code."""
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
    """Return the tallies of a patch table; ``scanned`` is in patches, and the tissue a share of that."""
    fraction = table["tissue_fraction"]
    # Of ready patches and of features the scanned share is not known: all counts.
    scanned = table["scanned_fraction"].fillna(1.0) if "scanned_fraction" in table else fraction.notna().astype(float)
    scanned_known = scanned[fraction.notna()].sum()
    return {
        "patches": len(table),
        "with_tissue": int((fraction > 0).sum()),
        "labelled": int((table["label"] >= 0).sum()),
        "tumor": int((table["label"] == 1).sum()),
        "scanned": float(scanned.sum()),
        "tissue_share": float((fraction * scanned).sum() / scanned_known) if scanned_known else float("nan"),
    }


def patients_in(slides: pd.DataFrame) -> int:
    """Return the number of patients in some rows of `Study.slides`."""
    if slides.empty:
        return 0
    # Several slides may be of one patient, whereas several patients of one slide are only counted.
    is_set = slides["patients"] > 1
    return int(slides.loc[is_set, "patients"].sum()) + slides.loc[~is_set, "patient_id"].map(patient_key).nunique()


def _stamps(work: Path, runs: list[str]) -> dict[str, Stamp]:
    """Return the stamps of all artefacts by place, in the order of the stages; refuse stamps of another schema."""
    by_place = {
        "features.json": read_stamp(WorkFolder(work).features),
        "slides.parquet": read_stamp(WorkFolder(work).slides),
        **{f"patches/{path.name}": read_stamp(path) for path in sorted(work.glob("patches/*.parquet"))},
        "groups.parquet": read_stamp(WorkFolder(work).groups),
        **{f"runs/{path.parent.name}": read_stamp(path) for path in sorted(work.glob("runs/*/run.json"))},
        **{f"runs/{run}/evaluation": read_stamp(WorkFolder(work).evaluation(run) / "metrics.json") for run in runs},
        **{f"evaluations/{p.parent.name}": read_stamp(p) for p in sorted(work.glob("evaluations/*/metrics.json"))},
        **{f"predictions/{path.name}": read_stamp(path) for path in sorted(work.glob("predictions/*.parquet"))},
    }
    stamps = {place: stamp for place, stamp in by_place.items() if stamp is not None}
    # In the order of the stages: the command of the earliest one also renews the artefacts after it.
    for place, stamp in stamps.items():
        require_schema(stamp, place=work / place)
    return stamps

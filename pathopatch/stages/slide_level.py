"""Classify slides by the features of their patches (multiple-instance learning): the command `mil`.

``slide_level/<name>/`` holds ``results.json`` (every number, with its stamp), ``predictions.csv`` (a row per method and
tested slide), ``attention.parquet`` (a row per patch of a tested slide), ``attention/<slide>.png`` (their map),
``models/<pooling>`` (of several folds ``models/<pooling>-<fold>``, for `mil --model`) and ``log.json`` (seconds, which
differ between equal runs). A probability of 0.5 is the threshold that validation chose; that of ``area`` is a share.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pathopatch.core import artefacts
from pathopatch.core.artefacts import Stamp, artefact, fingerprint, fingerprint_file
from pathopatch.core.config import SlideLevelConfig
from pathopatch.core.errors import GroupEmptyError, InputMissingError, InputUnsupportedError
from pathopatch.core.files import atomic_path, write_csv, write_json
from pathopatch.core.patients import Listed, copy_problems, raise_first
from pathopatch.core.progress import Progress
from pathopatch.core.text import pluralize
from pathopatch.core.work_folder import WorkFolder
from pathopatch.features.bags import Bag, BagSource, cached, open_bags
from pathopatch.features.slide_features import row_sketch, same_rows
from pathopatch.features.slide_labels import read_slide_labels
from pathopatch.groups.slide_splits import Division, divide_slides
from pathopatch.stages.slide_level_train import TRAINED, bags_of, prediction_table, train_and_test, write_attention

_NO_EFFECT = {"threads", "cache_gib"}  # settings without effect on the results, up to rounding


def classify_slides(
    work: Path,
    config: SlideLevelConfig | None = None,
    *,
    features: str | None = None,
    labels: Path | None = None,
    run: str | None = None,
    name: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Train and test slide classifiers, test poolings of patch predictions beside them; return the folder of results.

    `features` as `open_bags` takes it; `labels` as `read_slide_labels`, default: the column slide_label of
    ``slides.parquet``. Splits that the labels name are used in place of the work folder's. `run` is the one whose patch
    predictions are pooled, default: the only evaluated one; `name` of the results' folder, default: the encoder and the
    seed.

    Raises
    ------
    InputMissingError
        Slides, labels, features or the run are missing.
    GroupEmptyError, InputUnsupportedError
        There is one label only, too few patients show a label, or the splits lack one.
    SplitLeakageError, LabelConflictError
        A patient is in two splits, or a slide under two ids is, or has two labels.
    StaleArtefactError
        Results of other settings or inputs stand there, and `force` is off.
    """
    config = config or SlideLevelConfig()
    source = open_bags(work, features)
    groups = artefacts.read_table(WorkFolder(work).groups) if WorkFolder(work).groups.is_file() else None
    table, notes = slide_table(work, labels)
    if groups is not None and labels is not None and config.folds == 1 and (table["split"] != "").any():
        groups = None
        notes.append("Splits are those of the labels, not of the work folder.")
    slides, left_out = _labelled_slides(table, source, groups, place=str(labels or WorkFolder(work).slides))
    divisions = divide_slides(
        slides, groups, folds=config.folds, seed=config.split_seed, is_fold=WorkFolder(work).is_fold
    )
    out = WorkFolder(work).slide_level(name or f"{source.key}-s{config.seed}")
    run, note = _run_to_pool(work, run, config)
    notes += note
    stamp = _stamp(work, slides, divisions, source, config, run)
    with artefact(out / "results.json", stamp=stamp, force=force) as made:
        if made.is_current:
            return out
        began = time.perf_counter()
        columns = (slides[name].tolist() for name in ("slide_id", "patient_id", "label"))
        bags = [
            source.bag(slide, patient_id=patient, label=label) for slide, patient, label in zip(*columns, strict=True)
        ]
        left_out |= {bag.slide_id: "it has no patches" for bag in bags if len(bag) == 0}
        bags = [bag for bag in bags if len(bag)]
        _require_both_labels(bags, divisions)
        bags = cached(bags, gib=config.cache_gib)
        _refuse_copies(bags, divisions, place=str(labels or WorkFolder(work).slides))
        pooled = [] if run is None else _pool_patch_predictions(work, run, bags, divisions, config)
        trained = train_and_test(bags, divisions, source, config, stamp, progress=progress)
        predictions = pd.concat([*trained.tables, *pooled], ignore_index=True)
        results = _results(predictions, bags, trained.summaries, divisions, source, config, left_out, notes)
        with atomic_path(out) as temporary:
            temporary.mkdir(parents=True)
            write_csv(temporary / "predictions.csv", predictions)
            write_attention(temporary, trained.attention, source, stamp)
            trained.write_models(temporary / "models")
            write_json(temporary / "log.json", {"seconds": round(time.perf_counter() - began, 3)})
            made.write_json(temporary / "results.json", results)
    return out


def slide_table(work: Path, labels: Path | None) -> tuple[pd.DataFrame, list[str]]:
    """Return slide_id, patient_id, split and slide_label of all slides, and what was assumed of them, in words.

    Errors as of `read_slide_labels`.
    """
    path = WorkFolder(work).tiled.slides
    if labels is None:
        return artefacts.read_table(path), []
    table = read_slide_labels(labels)
    if (table["patient_id"] != "").all():
        return table, []
    patient_of: dict[Any, Any] = {}
    if path.is_file():
        patient_of = artefacts.read_table(path).set_index("slide_id")["patient_id"].to_dict()
    unknown = sum(slide not in patient_of for slide in table["slide_id"])
    note = f"{pluralize(unknown, 'slide')} without a known patient: each counts as a patient of its own."
    patients = [patient_of.get(slide, slide) for slide in table["slide_id"]]
    return table.assign(patient_id=patients), [note] if unknown else []


def _labelled_slides(
    table: pd.DataFrame, source: BagSource, groups: pd.DataFrame | None, *, place: str
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Return the slides with a label and features (slide_id, patient_id, split, label), and why others are left out.

    Slides without a label are not among the latter.
    """
    remedy = "write 1 or 0 into the column slide_label of manifest or labels, and read them again; or give --labels"
    if "slide_label" not in table or not table["slide_label"].isin([0, 1]).any():
        raise InputMissingError("no slide has a slide_label", place=place, remedy=remedy)
    labelled = table.loc[table["slide_label"].isin([0, 1]), ["slide_id", "patient_id", "split", "slide_label"]]
    labelled = labelled.rename(columns={"slide_label": "label"})
    reasons = {slide: "it has no features" for slide in labelled["slide_id"] if slide not in source.slide_ids}
    if groups is not None:
        patient_of = dict(zip(groups["slide_id"], groups["patient_id"].astype(str), strict=True))
        reasons |= {slide: "it is not in groups.parquet" for slide in labelled["slide_id"] if slide not in patient_of}
    labelled = labelled[~labelled["slide_id"].isin(reasons)].astype({"slide_id": str, "patient_id": str})
    if labelled.empty:
        raise InputMissingError(
            f"none of {pluralize(len(reasons), 'labelled slide')} has features",
            place=place,
            remedy=f"check that the slide ids are those of the feature files, such as {min(source.slide_ids)}",
        )
    for slide, patient in zip(labelled["slide_id"], labelled["patient_id"], strict=True):
        if not patient or (groups is not None and patient != patient_of[slide]):
            known = "no patient" if not patient else f"the patient {patient}, and {patient_of[slide]} in groups.parquet"
            raise InputUnsupportedError(f"slide {slide} has {known}", place=place, remedy="correct its patient_id")
    labels = sorted(set(labelled["label"]))
    if len(labels) < 2:
        raise GroupEmptyError(
            f"all {len(labelled)} labelled slides with features have slide_label {labels[0]}",
            place=place,
            remedy=f"add slides with slide_label {1 - labels[0]}, of at least 3 patients",
        )
    return labelled.astype({"label": np.int64}).sort_values("slide_id").reset_index(drop=True), reasons


def _refuse_copies(bags: Sequence[Bag], divisions: Sequence[Division], *, place: str) -> None:
    """Refuse slides with the same features that are of two patients or splits, or have contradictory labels."""
    split = {} if len(divisions) > 1 else divisions[0].split.to_dict()
    listed = [Listed(bag.slide_id, bag.patient_id, str(split.get(bag.patient_id, "")), bag.label, None) for bag in bags]
    sketches = [row_sketch(bag.read(np.arange(len(bag)))) for bag in bags]
    pairs = ((listed[first], listed[second]) for first, second in same_rows(sketches))
    raise_first(copy_problems(pairs, column="slide_id"), place=place)


def _require_both_labels(bags: Sequence[Bag], divisions: Sequence[Division]) -> None:
    """Refuse splits of which one shows a single label; of folds, the test slides are judged together."""
    for division in divisions:
        for split in ("train", "val") if division.fold else ("train", "val", "test"):
            labels = {bag.label for bag in bags_of(bags, division, split)}
            if len(labels) < 2:
                what = f"all slides have slide_label {min(labels)}" if labels else "no labelled slide with features"
                raise GroupEmptyError(
                    what,
                    place=f"{division.place}split {split}",
                    remedy="use --folds 3 or more: these are drawn by slide_label",
                )


def _run_to_pool(work: Path, run: str | None, config: SlideLevelConfig) -> tuple[str | None, list[str]]:
    """Return the run whose patch predictions are pooled, if any, and a note if it could not be chosen."""
    from pathopatch.evaluation.slide_level import evaluated_runs

    if not {"top-k", "area"} & set(config.pooling):
        return None, []
    runs = evaluated_runs(work)
    if run is not None or len(runs) == 1:
        return run or runs[0], []
    why = f"{len(runs)} runs are evaluated, choose one by --run" if runs else "no run is evaluated"
    if not set(TRAINED) & set(config.pooling):
        raise InputMissingError(
            f"no patch predictions to pool: {why}",
            place=str(work / "runs"),
            remedy="see pathopatch evaluate, and --run",
        )
    return None, [f"No patch predictions are pooled: {why}."]


def _stamp(
    work: Path,
    slides: pd.DataFrame,
    divisions: Sequence[Division],
    source: BagSource,
    config: SlideLevelConfig,
    run: str | None,
) -> Stamp:
    """Return the stamp of the results: settings, labels, splits, features, and the run's predictions."""
    patients = sorted(set(slides["patient_id"]))
    inputs = {
        "labels": fingerprint(slides[["slide_id", "patient_id", "label"]].to_dict("records")),
        "splits": fingerprint(
            [[division.fold, *(division.split.get(patient) for patient in patients)] for division in divisions]
        ),
        "features": fingerprint({slide: source.fingerprint(slide) for slide in slides["slide_id"]}),
    }
    if run is not None:
        predictions = WorkFolder(work).evaluation(run) / "predictions.parquet"
        if not predictions.is_file():
            raise InputMissingError(
                f"run {run!r} is not evaluated", place=str(predictions), remedy="run pathopatch evaluate WORK"
            )
        inputs["predictions"] = fingerprint_file(predictions)
    settings = config.model_dump(mode="json", exclude=_NO_EFFECT)
    return Stamp(stage="mil", settings={**settings, "run": run, "features": source.key}, inputs=inputs)


def _pool_patch_predictions(
    work: Path, run: str, bags: Sequence[Bag], divisions: Sequence[Division], config: SlideLevelConfig
) -> list[pd.DataFrame]:
    """Return the predictions of the poolings that need no training, on the test slides that the run has predicted."""
    from pathopatch.evaluation.slide_level import pooled_patch_predictions

    scores = pooled_patch_predictions(work, run, top_k=config.top_k)
    if not any(bag.slide_id in scores.index for division in divisions for bag in bags_of(bags, division, "test")):
        raise InputMissingError(
            f"run {run!r} has predicted none of the test slides",
            place=str(WorkFolder(work).evaluation(run)),
            remedy="choose another --run, or leave out top-k and area by --pooling attention",
        )
    tables = []
    for pooling in (name for name in config.pooling if name not in TRAINED):
        known = scores[pooling].dropna()
        for division in divisions:
            test = [bag for bag in bags_of(bags, division, "test") if bag.slide_id in known.index]
            values = known.loc[[bag.slide_id for bag in test]].to_numpy(np.float64)
            tables.append(prediction_table(pooling, run, test, values, fold=division.fold))
    return tables


def _results(
    predictions: pd.DataFrame,
    bags: Sequence[Bag],
    trained: list[dict[str, Any]],
    divisions: Sequence[Division],
    source: BagSource,
    config: SlideLevelConfig,
    left_out: Mapping[str, str],
    notes: Sequence[str],
) -> dict[str, Any]:
    """Return the content of ``results.json``."""
    from pathopatch.evaluation.slide_level import score_slides, tissue_alone

    methods = [
        {"pooling": pooling, "run": run, **score_slides(table, resamples=config.bootstrap)}
        for (pooling, run), table in predictions.groupby(["pooling", "run"], sort=False)
    ]
    reasons = Counter(left_out.values())
    notes = [*notes, *(f"Left out: {pluralize(count, 'slide')}: {reason}." for reason, count in reasons.items())]
    patients, positive = len({bag.patient_id for bag in bags}), sum(bag.label for bag in bags)
    encoder = f"{source.encoder.get('name', source.key)} ({source.encoder['dim']} values a patch)"
    division = f"{len(divisions)} folds by patient" if divisions[0].fold else "one split by patient"
    summary = (
        f"{pluralize(len(bags), 'labelled slide')} of {pluralize(patients, 'patient')}, {positive} positive; "
        f"features {encoder}; {division}"
    )
    return {
        "summary": summary,
        "notes": notes,
        "encoder": dict(source.encoder),
        "methods": methods,
        "trainings": trained,
        "tissue_alone": tissue_alone(bags, resamples=config.bootstrap),
        "left_out": dict(left_out),
    }

"""Predict slides by a stored slide classifier: the command `mil --model`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pathopatch.core.artefacts import Stamp, artefact, fingerprint
from pathopatch.core.errors import InputMissingError
from pathopatch.core.files import atomic_path, write_csv
from pathopatch.core.progress import Progress
from pathopatch.core.text import pluralize
from pathopatch.core.work_folder import WorkFolder
from pathopatch.features.bags import Bag, BagSource, open_bags
from pathopatch.stages.slide_level import slide_table
from pathopatch.stages.slide_level_train import attention_table, margin_probability, prediction_table, write_attention


def predict_slides(
    work: Path,
    model: Path,
    *,
    features: str | None = None,
    labels: Path | None = None,
    name: str | None = None,
    bootstrap: int = 1000,
    force: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Predict every slide that has features; return the folder of results, ``slide_level/<name>``.

    `model` is a folder ``slide_level/<name>/models/<pooling>`` of `mil`, of this work folder or another. `features` and
    `labels` are those of `classify_slides`; where slides have labels, the AUROC is measured. `name` is by default that
    of the model's results and its own.

    Raises
    ------
    CheckpointIncompatibleError
        The features are of another encoder than the model was trained on.
    InputMissingError, InputUnsupportedError, InputCorruptError
        Features, labels or the model are missing or unusable.
    StaleArtefactError
        Results of another model or of other features stand there, and `force` is off.
    """
    from pathopatch.models.slide_bundle import load_slide_model
    from pathopatch.models.spec import check_encoder
    from pathopatch.training.slide_level import predict_slide

    network, spec = load_slide_model(model)
    source = open_bags(work, features)
    notes = check_encoder(spec.encoder, source.encoder, place=str(model))
    bags, further = _bags(work, source, labels)
    own = model.resolve()
    out = WorkFolder(work).slide_level(name or f"{own.parent.parent.name}-{own.name}")
    stamp = Stamp(
        stage="mil",
        settings={"model": spec.model_dump(mode="json"), "bootstrap": bootstrap},
        inputs={
            "features": fingerprint({bag.slide_id: source.fingerprint(bag.slide_id) for bag in bags}),
            "labels": fingerprint([[bag.slide_id, bag.patient_id, bag.label] for bag in bags]),
        },
    )
    with artefact(out / "results.json", stamp=stamp, force=force) as made:
        if made.is_current:
            return out
        left_out = {bag.slide_id: "it has no patches" for bag in bags if len(bag) == 0}
        bags = [bag for bag in bags if len(bag)]
        outputs = []
        for number, bag in enumerate(bags, 1):
            outputs.append(predict_slide(network, bag))
            if progress:
                progress("mil", number, len(bags), bag.slide_id)
        margin = np.array([logit for logit, _ in outputs], np.float64) - spec.decision_threshold
        predictions = prediction_table(spec.pooling, "", bags, margin_probability(margin), split="")
        weights = [weight for _, weight in outputs]
        attention = [*map(attention_table, bags, weights)] if spec.is_gated else []
        with atomic_path(out) as temporary:
            temporary.mkdir(parents=True)
            write_csv(temporary / "predictions.csv", predictions)
            write_attention(temporary, attention, source, stamp)
            results = _results(predictions, bags, source, [*notes, *further], left_out, bootstrap)
            made.write_json(temporary / "results.json", results)
    return out


def _bags(work: Path, source: BagSource, labels: Path | None) -> tuple[list[Bag], list[str]]:
    """Return the bags of all slides that have features, with label -1 where there is none, and notes."""
    notes: list[str] = []
    of_slide: dict[str, dict[Any, Any]] = {}
    if labels is not None or WorkFolder(work).tiled.slides.is_file():
        table, notes = slide_table(work, labels)
        of_slide = {str(row["slide_id"]): row for row in table.to_dict("records")}
    if labels is not None and not of_slide.keys() & source.slide_ids:
        raise InputMissingError(
            "no label is of a slide with features",
            place=str(labels),
            remedy=f"check that the slide ids are those of the feature files, such as {min(source.slide_ids)}",
        )
    bags = []
    for slide_id in sorted(source.slide_ids):
        row = of_slide.get(slide_id, {})
        patient, label = str(row.get("patient_id") or slide_id), int(row.get("slide_label", -1))
        bags.append(source.bag(slide_id, patient_id=patient, label=label))
    return bags, notes


def _results(
    predictions: pd.DataFrame,
    bags: list[Bag],
    source: BagSource,
    notes: list[str],
    left_out: dict[str, str],
    bootstrap: int,
) -> dict[str, Any]:
    """Return the content of ``results.json``, with the keys that `classify_slides` writes."""
    from pathopatch.evaluation.slide_level import score_slides, tissue_alone

    labelled = [bag for bag in bags if bag.label >= 0]
    known = predictions[predictions["label"] >= 0]
    if labelled:
        notes = [*notes, "The AUROC is one of unseen slides only if none of these trained the model."]
    if left_out:
        notes = [*notes, f"Left out: {pluralize(len(left_out), 'slide')}: it has no patches."]
    positive = int((predictions["probability"] > 0.5).sum())
    return {
        "summary": f"{pluralize(len(bags), 'slide')} predicted, {positive} called positive; {len(labelled)} labelled",
        "notes": notes,
        "encoder": dict(source.encoder),
        "methods": [
            {"pooling": pooling, "run": "", **score_slides(part, resamples=bootstrap)}
            for pooling, part in known.groupby("pooling")
        ],
        "trainings": [],
        "tissue_alone": tissue_alone(labelled, resamples=bootstrap) if labelled else {},
        "left_out": left_out,
    }

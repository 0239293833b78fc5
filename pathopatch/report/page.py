"""Write the report: one folder that opens in a browser without a network, ``report/index.html``.

It is made from artefacts alone. Missing artefacts are named in a sentence; problems come first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2

from pathopatch.core.config import EvaluateConfig
from pathopatch.core.files import atomic_path, write_bytes
from pathopatch.core.version import __version__
from pathopatch.evaluation.group_scores import SMALL_GROUP
from pathopatch.groups.decisions.table import decisions_csv
from pathopatch.report import cohort, models, predictions, results
from pathopatch.report.collect import Study, read_study
from pathopatch.report.rendering import render
from pathopatch.report.tissue import TissueFacts, read_tissue_facts, write_tissue_pictures

_THUMBNAIL_PX = 900
_LIBRARIES = ("numpy", "pandas", "torch", "matplotlib")


def write_report(work: Path, *, evaluate: EvaluateConfig | None = None) -> Path:
    """Write the report of a work folder and return the path of its page.

    Parameters
    ----------
    work : Path
        Work folder; any of its artefacts may be missing.
    evaluate : EvaluateConfig, optional
        Number of resamplings behind the intervals of the gains, and their seed.

    Returns
    -------
    Path
        ``report/index.html``. An earlier report is replaced as a whole; equal artefacts give equal bytes.

    Raises
    ------
    InputCorruptError
        An artefact is there but cannot be read.
    StaleArtefactError
        An artefact is of another schema.
    DiskFullError
        No space was left; the earlier report is untouched.
    """
    study = read_study(work, evaluate=evaluate)
    tissue = read_tissue_facts(study.stores)
    out = work / "report"
    # An earlier report stays whole until this one is complete.
    with atomic_path(out) as folder:
        folder.mkdir(parents=True)
        thumbnails = _write_thumbnails(study, folder)
        write_tissue_pictures(study.stores, tissue, folder / "tissue")
        content = _sections(study, thumbnails, tissue)
        for section in content.values():
            for name, picture in section.get("pictures", {}).items():
                write_bytes(folder / name, picture)
        if study.comparison is not None:
            study.comparison.to_csv(folder / "comparison.csv", index=False, lineterminator="\n")
        table = predictions.predictions_table(study)
        if len(table):
            table.to_csv(folder / "predictions.csv", index=False, lineterminator="\n", float_format="%.9g")
        if study.decisions:
            write_bytes(folder / "decisions.csv", decisions_csv(study.decisions).encode())
        write_bytes(folder / "index.html", _page(study, content).encode())
    return out / "index.html"


def _sections(study: Study, thumbnails: Mapping[str, str], tissue: Sequence[TissueFacts]) -> dict[str, dict[str, Any]]:
    """Return the data of each template in ``templates/sections``; empty where there is none to show."""
    shared = {
        "predicted": predictions.predicted(study),
        "gallery": predictions.gallery(study, thumbnails),
        "review": predictions.review(study),
        "provenance": models.provenance(study),
    }
    if predictions.has_predictions_only(study):
        return {"predictions_glance": predictions.predictions_glance(study), **shared}
    return {
        "glance": results.glance(study),
        "cohort": cohort.cohort(study),
        "tissue": {"slides": tissue},
        "audit": cohort.audit(study),
        "results": results.results(study),
        "folds": results.folds(study),
        "sweep": results.sweep(study),
        "dependence": models.dependence(study),
        "calibration": models.calibration(study),
        "ablation": models.ablation(study),
        "external_validation": models.external_validation(study),
        "training": models.training(study),
        "searches": models.searches(study),
        "slides": cohort.slides(study),
        "glossary": {"group_key": cohort.group_key(study.attribute)},
        **shared,
    }


def _page(study: Study, content: Mapping[str, Any]) -> str:
    """Return the page. It bears no date, so that equal artefacts give equal bytes."""
    predictions_only = predictions.has_predictions_only(study)
    return render(
        "report.html.j2",
        title=f"{'Predictions' if predictions_only else 'Study report'}: {study.name}",
        has_predictions_only=predictions_only,
        summary=models.summary(study),
        content=content,
        is_own=study.attribute.is_patch_attribute,
        labels=study.attribute.label_names,
        is_cross_validation=study.folds is not None,
        split=study.split,
        small_group=SMALL_GROUP,
        version=__version__,
        libraries=[(name, version(name)) for name in _LIBRARIES],
    )


def _write_thumbnails(study: Study, folder: Path) -> dict[str, str]:
    """Write a small copy of each overlay and return its place by slide; unreadable overlays are left out."""
    places = {}
    for slide_id, path in study.overlays.items():
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is None:
            continue
        factor = min(1.0, _THUMBNAIL_PX / max(image.shape[:2]))
        if factor < 1:
            size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        places[slide_id] = f"overlays/{slide_id}.png"
        write_bytes(folder / places[slide_id], cv2.imencode(".png", image)[1].tobytes())
    return places

"""Answers what a study found, as one folder that opens in a browser without a network: ``report/index.html``.

Read from artefacts alone. What is not there is left out with a sentence; what went wrong stands first.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import cv2

from pathopatch.core.config import EvaluateConfig
from pathopatch.core.files import atomic_path, write_bytes
from pathopatch.core.version import __version__
from pathopatch.groups.attribute import LABEL_NAMES
from pathopatch.groups.decisions.table import decisions_csv
from pathopatch.report.audit import before_training, verdict_box
from pathopatch.report.cohort import cohort_section, gallery_section, slides_section
from pathopatch.report.collect import Study, read_study
from pathopatch.report.external_validation import outside_section
from pathopatch.report.findings import audit_section, glance_section
from pathopatch.report.folds import folds_section
from pathopatch.report.markup import BANNER, Html, document, paragraph, safe, tag
from pathopatch.report.models import dependence_section, provenance_section, runs_to_show, summary, training_section
from pathopatch.report.predicted import (
    is_only_predicted,
    predicted_section,
    predictions_glance,
    predictions_table,
    review_section,
)
from pathopatch.report.reading import reading_section
from pathopatch.report.results import results_section
from pathopatch.report.searches import searches_section
from pathopatch.report.sweep import sweep_section
from pathopatch.report.tissue import tissue_section, write_outlines
from pathopatch.report.tissue_facts import read_tissue_facts
from pathopatch.report.trained import ablation_section, calibration_section, dependence_changes

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
    out = work / "report"
    with atomic_path(out) as temporary:
        temporary.mkdir(parents=True)
        thumbnails = _write_thumbnails(study, temporary)
        pictures: dict[str, bytes] = {}
        facts = read_tissue_facts(study.stores)
        tissue = tissue_section(write_outlines(study.stores, facts, temporary / "tissue", href="tissue"), facts)
        page = render(study, pictures, thumbnails, tissue)
        for name, content in pictures.items():
            write_bytes(temporary / name, content)
        if study.comparison is not None:
            study.comparison.to_csv(temporary / "comparison.csv", index=False, lineterminator="\n")
        predictions = predictions_table(study)
        if len(predictions):
            predictions.to_csv(temporary / "predictions.csv", index=False, lineterminator="\n", float_format="%.9g")
        if study.decisions:
            write_bytes(temporary / "decisions.csv", decisions_csv(study.decisions).encode())
        write_bytes(temporary / "index.html", page.encode())
    return out / "index.html"


def render(study: Study, pictures: dict[str, bytes], thumbnails: dict[str, str], tissue: Html) -> str:
    """Return the page of a study; the pictures that it shows are put into `pictures` by file name.

    Parameters
    ----------
    study : Study
        What there is.
    pictures : dict of str to bytes
        Filled with PNG files.
    thumbnails : dict of str to str
        Slide -> file of its small overlay, relative to the page.
    tissue : Html
        The section of the tissue.
    """
    if is_only_predicted(study):
        return _page(study, f"Predictions: {study.name}", _predictions_sections(study, thumbnails))
    return _page(study, f"Study report: {study.name}", _study_sections(study, pictures, thumbnails, tissue))


def _study_sections(
    study: Study, pictures: dict[str, bytes], thumbnails: dict[str, str], tissue: Html
) -> list[tuple[str, str, Html]]:
    """Return what is told of a study: each section's id, title and content."""
    shown = runs_to_show(study)
    return [
        ("glance", "At a glance", glance_section(study)),
        ("cohort", "Cohort", cohort_section(study, pictures)),
        ("tissue", "Tissue", tissue),
        ("audit", "Shortcut audit of the data", _audit(study, pictures)),
        ("results", "Results by group", results_section(study, pictures)),
        ("folds", "Over folds", folds_section(study)),
        ("sweep", "Does it hold at other thresholds?", sweep_section(study, pictures)),
        ("dependence", "Do the models still follow the tissue?", _dependence(study, pictures)),
        ("calibration", "Can the probabilities be taken at their word?", calibration_section(study, pictures, shown)),
        ("channels", "What each channel is worth", ablation_section(study, pictures, shown)),
        ("outside", "Models from elsewhere", outside_section(study, pictures)),
        ("training", "Training", training_section(study, pictures)),
        ("searches", "Search of the settings", searches_section(study, pictures)),
        ("heatmaps", "Heatmaps", gallery_section(study, thumbnails)),
        ("predicted", "Predicted slides", predicted_section(study)),
        ("review", "Decisions of reviewers", review_section(study)),
        ("slides", "Slides", slides_section(study)),
        ("reading", "How to read this report", reading_section(study.attribute)),
        ("provenance", "Provenance", provenance_section(study)),
    ]


def _predictions_sections(study: Study, thumbnails: dict[str, str]) -> list[tuple[str, str, Html]]:
    """Return what is told of a folder that holds predictions alone."""
    return [
        ("glance", "At a glance", predictions_glance(study)),
        ("predicted", "Slides", predicted_section(study)),
        ("heatmaps", "Heatmaps", gallery_section(study, thumbnails)),
        ("review", "Decisions of reviewers", review_section(study)),
        ("provenance", "Provenance", provenance_section(study)),
    ]


def _page(study: Study, title: str, sections: Sequence[tuple[str, str, Html]]) -> str:
    """Return a page of some sections."""
    links = [tag("li", tag("a", title, href=f"#{name}")) for name, title, _ in sections]
    body = [
        tag("section", tag("h2", title, id=f"{name}-title"), content, id=name, aria_labelledby=f"{name}-title")
        for name, title, content in sections
    ]
    nav = tag("nav", tag("ul", *links), aria_label="Sections")
    return document(title, _header(title, study), nav, tag("main", *body), _footer())


def _audit(study: Study, pictures: dict[str, bytes]) -> Html:
    """Return the audit of the data: the verdict first, then what it rests on."""
    if study.audit is None:
        return audit_section(study, pictures)
    return tag("div", verdict_box(study), audit_section(study, pictures), before_training(study, pictures))


def _dependence(study: Study, pictures: dict[str, bytes]) -> Html:
    """Return how the models depend on the tissue, and what debiasing changed."""
    return tag("div", dependence_section(study, pictures), dependence_changes(study, pictures))


def _header(title: str, study: Study) -> Html:
    """Return the page's head: what was studied, made of which settings, and the banner."""
    labels, is_own = study.attribute.label_names, study.attribute.is_patch_attribute
    what = (
        "Patch-wise tumour classification" if labels == LABEL_NAMES else f"Patches told apart: {' and '.join(labels)}"
    )
    shortcut = "the shortcut of the patches' own attribute" if is_own else "the tissue-area shortcut"
    return tag(
        "header",
        tag("h1", title),
        paragraph(what if is_only_predicted(study) else f"{what}, judged group by group for {shortcut}", kind="lead"),
        paragraph(BANNER, kind="banner"),
        summary(study),
    )


def _footer() -> Html:
    """Return what wrote the page, without a date."""
    libraries = ", ".join(f"{name} {version(name)}" for name in _LIBRARIES)
    return tag(
        "footer",
        f"Drawn by pathopatch {__version__} ({libraries}) from the artefacts of the work folder. "
        "Research use only, not for diagnosis.",
    )


def _write_thumbnails(study: Study, folder: Path) -> dict[str, str]:
    """Write a small copy of each overlay and return its place by slide; an unreadable overlay has none."""
    found = {}
    for slide, path in study.overlays.items():
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is None:
            continue
        factor = min(1.0, _THUMBNAIL_PX / max(image.shape[:2]))
        if factor < 1:
            size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        write_bytes(folder / "overlays" / f"{slide}.png", cv2.imencode(".png", image)[1].tobytes())
        found[slide] = f"overlays/{safe(slide)}.png"
    return found

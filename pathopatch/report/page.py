"""Write pages that open in a browser without a network: the report, and the contact sheet of the tissue.

They are made from artefacts alone. The report begins with the answer; all else is folded, and what was not done is left
out. All text is escaped, and unknown numbers become a dash.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
from jinja2 import Environment, PackageLoader, StrictUndefined

from pathopatch.core.artefacts import read_stamp
from pathopatch.core.config import EvaluateConfig
from pathopatch.core.errors import InputMissingError, InputUnsupportedError
from pathopatch.core.files import atomic_path, inside, write_bytes, write_csv
from pathopatch.core.task import Progress
from pathopatch.core.text import capitalize_first, pluralize
from pathopatch.core.version import __version__
from pathopatch.core.work_folder import WorkFolder
from pathopatch.evaluation.compare import LEAST_PARTNERED, written_columns
from pathopatch.evaluation.group_scores import LEAST_PATCHES, too_few
from pathopatch.groups import unit_noun
from pathopatch.groups.decisions.table import decisions_csv
from pathopatch.heatmaps.model_record import card_html
from pathopatch.metrics.bootstrap import LEAST_UNITS, LEAST_UNITS_OF_A_GROUP
from pathopatch.metrics.equal_area import compared_text, tells_area
from pathopatch.report import cohort_section, models, predictions, results
from pathopatch.report.answer import answer
from pathopatch.report.cells import Column, cell, columns, number, percent, points, signed
from pathopatch.report.collect import Study
from pathopatch.report.tissue import TissueFacts, read_tissue_facts, write_outlines, write_tissue_pictures

_THUMBNAIL_PX = 900
# They made the page. Those of training are named where a run is: whoever only predicts has no torch.
_LIBRARIES = ("numpy", "pandas", "matplotlib")


def write_report(work: Path | str, *, evaluate: EvaluateConfig | None = None) -> Path:
    """Write the report of a work folder and return the path of its page.

    Parameters
    ----------
    work : path
        Work folder; any of its artefacts may be missing.
    evaluate : EvaluateConfig, optional
        Number of resamplings behind the intervals of the gains, and their seed.

    Returns
    -------
    Path
        ``report/index.html``. An earlier report is replaced as a whole; equal artefacts give equal bytes.

    Raises
    ------
    InputMissingError
        There is no such folder, or nothing of this package in it.
    InputUnsupportedError
        There is something else than a report at ``report``.
    InputCorruptError
        An artefact is there but cannot be read.
    StaleArtefactError
        An artefact is of another schema.
    DiskFullError
        No space was left; the earlier report is untouched.

    Examples
    --------
    >>> pathopatch.write_report("work").as_posix()
    'work/report/index.html'
    """
    work = Path(work)
    WorkFolder(work).require_outputs()
    out = work / "report"
    _require_own(out)
    study = Study(work, evaluate=evaluate)
    tissue = read_tissue_facts(study.stores)
    # An earlier report stays whole until this one is complete.
    with atomic_path(out) as folder:
        folder.mkdir(parents=True)
        thumbnails = _write_thumbnails(study, folder)
        write_tissue_pictures(study.stores, tissue, folder / "tissue")
        content = _sections(study, thumbnails, tissue)
        for section in content.values():
            for name, picture in section.get("pictures", {}).items():
                write_bytes(folder / name, picture)
        _write_tables(study, folder)
        _write_cards(study, folder)
        for place in study.asked:
            write_bytes(folder / models.asked_page(place), (place / "area-reliance.html").read_bytes())
        if study.decisions:
            write_bytes(folder / "decisions.csv", decisions_csv(study.decisions).encode())
        write_bytes(folder / "index.html", _page(study, content).encode())
    return out / "index.html"


def _require_own(out: Path) -> None:
    """Refuse to replace anything but an earlier report, whose page names this package, or an empty folder."""
    page = out / "index.html"
    is_free = not out.exists() or (out.is_dir() and not any(out.iterdir()))
    if not is_free and not (page.is_file() and b"pathopatch" in page.read_bytes()):
        raise InputUnsupportedError(
            "something else than a report stands here", place=str(out), remedy="move it away, or rename it"
        )


@dataclass(frozen=True, kw_only=True)
class ContactSheet:
    """What `write_contact_sheet` wrote."""

    page: Path  # tissue/index.html
    first: tuple[TissueFacts, ...]  # slides to check first, worst first
    kept: tuple[Path, ...]  # outlines that a person changed after they were written; they were left as they are
    without_overview: tuple[str, ...]  # sets of ready patches, which cannot be drawn


def write_contact_sheet(work: Path, *, force: bool = False, progress: Progress | None = None) -> ContactSheet:
    """Draw all tiled slides with their tissue outlined, worst first, to be checked before training: ``tissue/``.

    A page with all pictures, and the outline of each slide for QuPath. An outline that a person changed is kept.

    Parameters
    ----------
    work : Path
        Work folder that `tile` wrote to.
    force : bool
        Also replace outlines that a person changed.
    progress : callable, optional
        Called after each slide.

    Raises
    ------
    InputMissingError
        No slide is tiled, or only ready patches are, which have no overview.
    InputCorruptError, StaleArtefactError
        A store cannot be read, or is of another schema.
    DiskFullError
        No space was left.
    """
    folder = inside(work, "tissue")
    tiled = WorkFolder(work).tiled
    stores = {path.stem: path for path in sorted(tiled.root.glob("slides/*.zarr")) if read_stamp(path) is not None}
    if not stores:
        raise InputMissingError("no slide is tiled", place=str(work), remedy="run pathopatch tile first")
    facts = read_tissue_facts(stores)
    drawn = {slide.slide_id for slide in facts}
    without = tuple(name for name in stores if name not in drawn)
    if not facts:
        raise InputMissingError(
            f"no tiled slide has an overview: {', '.join(without)} holds ready patches, which come without one",
            place=str(work),
            remedy="look at the patches themselves; the contact sheet is for slides",
        )
    with atomic_path(folder / "pictures") as pictures:
        write_tissue_pictures(stores, facts, pictures, progress=progress)
    outlines, kept = write_outlines(tiled.slides, stores, facts, folder, force=force)
    title = f"Tissue: {work.resolve().name}"
    page = render_page("contact_sheet.html.j2", title=title, slides=facts, outlines=outlines, without_overview=without)
    write_bytes(folder / "index.html", page.encode())
    return ContactSheet(
        page=folder / "index.html",
        first=tuple(slide for slide in facts if slide.reasons),
        kept=kept,
        without_overview=without,
    )


def _sections(study: Study, thumbnails: Mapping[str, str], tissue: Sequence[TissueFacts]) -> dict[str, dict[str, Any]]:
    """Return the data of each template in ``templates/sections`` that has something to show."""
    content = {
        "glossary": {"terms": True},
        "predicted": predictions.predicted(study),
        "gallery": predictions.gallery_section(study, thumbnails),
        "review": predictions.review_section(study),
        "area_reliance": models.area_reliance(study),
    }
    if predictions.has_predictions_only(study):
        content |= {"predictions_answer": predictions.predictions_answer(study, thumbnails)}
    else:
        content |= {
            "answer": answer(study),
            "cohort": cohort_section.cohort(study),
            "features": cohort_section.features(study),
            "slides": cohort_section.slides(study),
            "tissue": {"slides": tissue} if tissue else {},
            "audit": cohort_section.audit_section(study),
            "results": results.results(study),
            "calibration": models.calibration(study),
            "external_validation": models.external_validation(study),
        }
    return {name: data for name, data in content.items() if data}


def _page(study: Study, content: Mapping[str, Any]) -> str:
    """Return the page. It bears no date, so that equal artefacts give equal bytes."""
    predictions_only = predictions.has_predictions_only(study)
    names = [model["name"] for model in predictions.models(study)]
    # A folder of predictions is named after its model: its own name says nothing.
    title = f"Predictions by {'; '.join(names) or 'a model'}" if predictions_only else f"Study report: {study.name}"
    return render_page(
        "report.html.j2",
        unit="patient" if study.groups is None else unit_noun(study.groups),
        title=title,
        has_predictions_only=predictions_only,
        summary=models.models_summary(study),
        content=content,
        group_key=cohort_section.group_key(study.attribute),
        is_own=study.attribute.is_patch_attribute,
        labels=study.attribute.label_names,
        is_cross_validation=study.has_folds,
        split=study.split,
        version=__version__,
        libraries=[(name, version(name)) for name in _LIBRARIES],
    )


def _write_tables(study: Study, folder: Path) -> None:
    """Write the tables for other programs beside the page."""
    if study.comparison is not None:
        write_csv(folder / "comparison.csv", written_columns(study.comparison))
    if study.summary is not None:
        study.summary.write(folder)


def _write_cards(study: Study, folder: Path) -> None:
    """Write the card of each model behind the predictions, so that the page's links work wherever it is mailed."""
    for model in predictions.models(study):
        for member in model["members"]:
            title = f"Model card: {member['name'] or 'a model without a name'}"
            page = render_page("model_card.html.j2", title=title, card=card_html(member["card"]))
            write_bytes(folder / member["file"], page.encode())


def _write_thumbnails(study: Study, folder: Path) -> dict[str, str]:
    """Write a small copy of each overlay and return its place by slide; unreadable overlays are left out."""
    places = {}
    for slide_id, path in study.overlays.items():
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is None:
            continue
        height, width = image.shape[:2]
        factor = _THUMBNAIL_PX / max(height, width)
        if factor < 1:
            size = (max(1, round(width * factor)), max(1, round(height * factor)))
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        places[slide_id] = f"overlays/{slide_id}.png"
        write_bytes(folder / places[slide_id], cv2.imencode(".png", image)[1].tobytes())
    return places


def render_page(template: str, *, unit: str = "patient", **context: Any) -> str:
    """Return a page made from a template in ``pathopatch/report/templates``; `unit` is what its intervals resample."""
    return _environment(unit).get_template(template).render(**context)


@cache
def _environment(unit: str) -> Environment:
    environment = Environment(
        loader=PackageLoader("pathopatch.report"),
        autoescape=True,
        # A misspelt name in a template stops the report; it must not leave a number out silently.
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (percent, number, signed, points, capitalize_first, pluralize, compared_text, tells_area)
    environment.filters |= {function.__name__: function for function in filters} | {"cell": partial(cell, unit=unit)}
    # Macros see what is global alone.
    environment.globals |= {"col": Column, "cols": columns, "too_few": too_few, "unit": unit}
    least = {"least_patients": LEAST_UNITS, "least_patients_of_a_group": LEAST_UNITS_OF_A_GROUP}
    environment.globals |= {"least_patches": LEAST_PATCHES, "least_partnered": LEAST_PARTNERED, **least}
    return environment

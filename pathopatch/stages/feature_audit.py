"""Audit features, and labels of whole slides: import them, form the groups, measure the shortcut, write the page.

Where labels are of slides, a slide is one sample, and intervals resample patients.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pathopatch.core.artefacts import read_table
from pathopatch.core.config import GroupsConfig
from pathopatch.core.errors import InputMissingError, InputUnsupportedError, TableError
from pathopatch.core.patients import Listed, copy_problems
from pathopatch.core.text import pluralize
from pathopatch.core.work_folder import WorkFolder
from pathopatch.features.labels import are_of_slides, read_slide_labels
from pathopatch.features.readers import open_features
from pathopatch.features.slide_features import row_sketch, same_rows
from pathopatch.groups.shortcut import FLAGGED, NEGLIGIBLE, NOT_SHOWN, fraction_only
from pathopatch.report import write_report
from pathopatch.stages.audit import audit_text
from pathopatch.stages.batch.slide_table import SLIDE_LABEL
from pathopatch.stages.groups import form_groups
from pathopatch.stages.import_features import import_features

_VERDICTS = {FLAGGED: "SHORTCUT", NOT_SHOWN: "no shortcut is shown", NEGLIGIBLE: "no shortcut of any size"}


def audit_features(
    work: Path, folder: Path, labels: Path, config: GroupsConfig, *, force: bool = False, **options: Any
) -> str:
    """Audit feature files for the tissue-area shortcut, or for that of another attribute; return the result as text.

    Labels of whole slides are audited alone, without groups and a report. `options` are those of `import_features`.
    """
    if are_of_slides(labels):
        if options.get("slides") or options.get("attribute"):
            raise InputUnsupportedError(
                "labels of whole slides go without --slides and --attribute",
                place=str(labels),
                remedy="leave both out, or give labels of patches: slide_id, x, y, label",
            )
        known = {name: options[name] for name in ("layout", "distinct_patients") if name in options}
        return audit_slide_labels(folder, labels, **known)
    cohort = import_features(work, folder, labels, force=force, **options)
    form_groups(work, config, distinct_patients=options.get("distinct_patients", ()), force=force)
    page, slides = write_report(work), read_table(WorkFolder(work).slides)
    encoder = cohort.encoder.get("name", "an encoder that its files do not name")
    head = (
        f"Features of {encoder} ({cohort.dim} values, layout {cohort.layout}): "
        f"{pluralize(int(slides['patches'].sum()), 'patch')} of {pluralize(len(slides), 'slide')}, "
        f"{slides['labelled'].sum()} labelled."
    )
    notes = "\n".join([head, *(f"  - {note}" for note in cohort.notes)])
    return "\n\n".join([notes, work_audit_text(work), f"report: {page}"])


def work_audit_text(work: Path, *, force: bool = False) -> str:
    """Return all that is audited of a work folder: its groups, and labels of slides if it has any."""
    return "\n\n".join(filter(None, [audit_text(work, force=force), slide_labels_text(work)]))


def slide_labels_text(work: Path) -> str:
    """Return how well tissue alone tells the labels of a work folder's slides; "" where none is labelled.

    Slides of several patients are left out.
    """
    slides = read_table(WorkFolder(work).tiled.slides)
    if SLIDE_LABEL not in slides:
        return ""
    is_labelled = slides[SLIDE_LABEL].isin([0, 1]) & (slides["patient_id"] != "")
    labelled = slides.loc[is_labelled, ["slide_id", "patient_id", SLIDE_LABEL]]
    fractions = read_table(WorkFolder(work).groups).groupby("slide_id")["tissue_fraction"]
    patches = fractions.size().rename("patches")
    area = fractions.sum().where(fractions.count() == patches).rename("area")
    measured = labelled.merge(pd.concat([area, patches], axis=1), left_on="slide_id", right_index=True)
    return "" if measured.empty else _tissue_alone(measured)


def audit_slide_labels(
    folder: Path, labels: Path, *, layout: str = "auto", distinct_patients: Collection[tuple[str, str]] = ()
) -> str:
    """Return how well the tissue area that feature files state, and their number of patches, tell labels of slides.

    TableError lists slides of the same features that are of two patients or splits, or have contradictory labels.
    """
    source = open_features(folder, layout=layout)
    table = read_slide_labels(labels, distinct_patients)
    table = table[table[SLIDE_LABEL] >= 0]
    listed, sketches, rows = [], [], []
    for slide_id, patient_id, split, label in table[table["slide_id"].isin(source.slide_ids)].itertuples(index=False):
        slide = source.read(slide_id)
        listed.append(Listed(slide_id, patient_id, split, label, None))
        sketches.append(row_sketch(slide.features))
        area = np.nan if slide.tissue_fraction is None else float(slide.tissue_fraction.sum())
        rows.append({"patient_id": patient_id, SLIDE_LABEL: label, "area": area, "patches": len(slide)})
    copies = ((listed[i], listed[j]) for i, j in same_rows(sketches))
    if problems := list(copy_problems(copies, column="slide_id")):
        raise TableError(problems, place=str(labels))
    measured = pd.DataFrame(rows, columns=["patient_id", SLIDE_LABEL, "area", "patches"])
    measured = measured[measured["patches"] > 0]
    if measured.empty:
        raise InputMissingError(
            f"none of {pluralize(len(table), 'labelled slide')} has features",
            place=str(labels),
            remedy=f"check that the slide ids are those of the feature files, such as {source.slide_ids[0]}",
        )
    notes = []
    if left_out := len(table) - len(measured):
        notes.append(f"Left out: {pluralize(left_out, 'labelled slide')} without features.")
    if (table["patient_id"] == table["slide_id"]).all():
        notes.append("Each slide counts as a patient of its own: the labels name no other patients.")
    if measured["area"].isna().any():
        notes.append("The feature files do not state the tissue of all patches: the tissue area is not known.")
    return "\n".join([_tissue_alone(measured), *(f"  - {note}" for note in notes)])


def _tissue_alone(slides: pd.DataFrame) -> str:
    """Format how well the tissue of a slide alone tells its label, where the tissue of every slide is known.

    `slides` has a row per labelled slide: patient_id, slide_label, patches, and area, the sum of the tissue fractions
    of its patches, which all have one physical size.
    """
    label, patient = slides[SLIDE_LABEL].to_numpy(np.int64), slides["patient_id"].to_numpy(dtype=str)
    patches, area = (slides[name].to_numpy(np.float64) for name in ("patches", "area"))
    measures = {"number of its patches": patches}
    if not np.isnan(area).any():
        measures = {"tissue area": area, "mean tissue fraction of its patches": area / patches} | measures
    head = (
        f"How well tissue alone tells the label of a slide ({pluralize(len(label), 'labelled slide')} of "
        f"{pluralize(len(set(patient)), 'patient')}, {label.sum()} positive):"
    )
    lines = [f"  {name:<36} {_result_text(fraction_only(label, value, patient))}" for name, value in measures.items()]
    return "\n".join([head, *lines])


def _result_text(result: Mapping[str, Any]) -> str:
    """Format the AUROC of one measure with its 95 % interval, and the verdict."""
    if result["auroc"] is None:
        return "AUROC unknown: one label only"
    low, high = result["auroc_low"], result["auroc_high"]
    interval = "" if low is None else f" [{low:.3f}, {high:.3f}]"
    verdict = _VERDICTS.get(result["verdict"], "not known: too few patients for a verdict")
    return f"AUROC {result['auroc']:.3f}{interval}: {verdict}"

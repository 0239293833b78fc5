"""Import the feature files of another tool, and labels of their patches, as a work folder.

The work folder holds tables alone; the features stay where they are, and their files are never changed. Later stages
take it for a tiled cohort.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.core.artefacts import Job, Stamp, fingerprint_file, made, read_stamp
from pathopatch.core.config import TileConfig
from pathopatch.core.errors import InputUnsupportedError, Problem, SplitLeakageError, TableError
from pathopatch.core.patients import Listed, copy_problems, invented_patients_note
from pathopatch.core.status import update_status
from pathopatch.core.task import Progress
from pathopatch.core.text import pluralize
from pathopatch.core.work_folder import WorkFolder
from pathopatch.features.cohort import FEATURE_ROW, FeatureCohort, read_cohort
from pathopatch.features.labels import (
    join_labels,
    read_labels,
    rounded_px,
    slides_in_several_splits,
    slides_of_several_patients,
)
from pathopatch.features.readers import open_features
from pathopatch.features.readers.folder import SlideFolder
from pathopatch.features.slide_features import SlideFeatures, row_sketch, same_rows
from pathopatch.features.tissue import find_slides
from pathopatch.groups.attribute import PATCH_ATTRIBUTE
from pathopatch.patches.source import STAGE
from pathopatch.patches.store import patch_ids
from pathopatch.patches.tile import COLUMNS
from pathopatch.slides import open_slide
from pathopatch.stages.batch.slide_table import SLIDE_COLUMNS, SLIDE_LABEL
from pathopatch.stages.feature_tissue import MeasuredTissue, tissue_fractions

_STAGE = "features"
_CHECKSUM_DIGITS = 16
_LEAST_SAID = 0.01  # least tissue of all patches from which a note states that patches were left out


def import_features(
    work: Path,
    folder: Path,
    labels: Path,
    *,
    layout: str = "auto",
    slides: Path | None = None,
    attribute: str | None = None,
    slide_mpp: float | None = None,
    workers: int = 1,
    distinct_patients: Collection[tuple[str, str]] = (),
    force: bool = False,
    progress: Progress | None = None,
) -> FeatureCohort:
    """Make a work folder of feature files and labels of their patches; do nothing if it is current.

    The tissue fraction of each patch is that of the feature files; else the labels' column tissue_fraction; else it is
    measured on the slides, by `workers` processes. With an `attribute` it may be unknown.

    `folder` and `layout` are as `open_features` takes them; `labels`, `attribute` and `distinct_patients` as
    `read_labels`. `slides` is a folder of the slides, found by the names of the feature files. `slide_mpp` is level-0
    um/px where neither feature files nor slides say it.
    """
    source = open_features(folder, layout=layout)
    labelled = read_labels(labels, attribute=attribute, distinct_patients=distinct_patients)
    paths = find_slides(slides, source.slide_ids) if slides is not None else {}
    folder_of = WorkFolder(work)
    existing = read_stamp(folder_of.slides)
    # What a killed import left may be replaced: its table of slides says so, though the cohort's file is missing.
    if folder_of.slides.is_file() and (existing is None or existing.stage != _STAGE):
        raise InputUnsupportedError(
            "the folder holds a cohort of slides",
            place=str(work),
            remedy="choose another work folder for features, with -o",
        )
    settings: dict[str, Any] = {"layout": source.layout, "attribute": attribute, "slide_mpp": slide_mpp}
    if paths:  # the rules that tissue is measured by
        settings["tissue"] = TileConfig().tissue.model_dump(mode="json")
    files = {slide_id: source.fingerprint(slide_id) for slide_id in source.slide_ids}
    inputs = {
        "labels": fingerprint_file(labels),
        **{f"features {slide_id}": mark for slide_id, mark in files.items()},
        **{f"slide {slide_id}": fingerprint_file(path) for slide_id, path in paths.items()},
    }
    stamp = Stamp(stage=_STAGE, settings=settings, inputs=inputs)
    # The cohort's file comes last: with its stamp in it, all tables are complete.
    parts = (folder_of.features, folder_of.slides, *(folder_of.patches(slide_id) for slide_id in source.slide_ids))
    with made(*parts, stamp=stamp, force=force) as job:
        if not job.is_current:
            described, sketches = [], []
            for slide_id in source.slide_ids:
                slide = source.read(slide_id)
                sketches.append(row_sketch(slide.features))
                # A view would keep the features: those of all slides may not fit into memory.
                without = replace(slide, features=np.empty((len(slide), 0), slide.features.dtype))
                described.append(_in_px(without, paths.get(slide_id), slide_mpp))
            _refuse_parted_slides(source, described, labelled, place=str(labels))
            if problems := list(_copied_slides(source.slide_ids, sketches, labelled)):
                raise TableError(problems, place=str(labels))
            patches, duplicate_notes = _patches_of(described)
            joined, label_notes = join_labels(patches, labelled, place=str(labels))
            tissue = tissue_fractions(
                described, joined, paths, slide_mpp, is_needed=attribute is None, workers=workers, progress=progress
            )
            joined = joined.assign(tissue_fraction=tissue.fraction, scanned_fraction=tissue.scanned)
            of_slides = dict.fromkeys(note for slide in described for note in slide.notes)
            more = [*_notes(tissue.fraction, labelled), *duplicate_notes, *label_notes]
            notes = (*of_slides, *tissue.notes, *more)
            _write(job, work, source, described, joined, files, notes, tissue.by_slide)
    return read_cohort(work)


def _refuse_parted_slides(
    source: SlideFolder, described: Sequence[SlideFeatures], labels: pd.DataFrame, *, place: str
) -> None:
    """Refuse slides that the labels put into several splits by the names of their patients."""
    parted = slides_in_several_splits(labels)
    if parted:
        slide, words = next(iter(parted.items()))
        more = f"; and {len(parted) - 1} more" if len(parted) > 1 else ""
        raise SplitLeakageError(
            f"slide {slide} is in several splits: patient {words}{more}",
            place=place,
            remedy="put the whole slide into one split, or leave the split of its patients empty",
        )


def _copied_slides(
    slide_ids: Sequence[str], sketches: Sequence[frozenset[str]], labels: pd.DataFrame
) -> Iterator[Problem]:
    """Yield the problems of slides with the same features, see `copy_problems`; their patches have labels as well."""
    by_slide = dict(list(labels.groupby("slide_id")))

    def listed(slide_id: str, label: int) -> Listed:
        row = by_slide[slide_id].iloc[0]
        return Listed(slide_id, str(row["patient_id"]), str(row["split"]), label, None)

    pairs = []
    for first, second in ((slide_ids[i], slide_ids[j]) for i, j in same_rows(sketches)):
        if first in by_slide and second in by_slide:
            both = by_slide[first].merge(by_slide[second], on=["x", "y"])
            labelled = [(a, b) for a, b in zip(both["label_x"], both["label_y"], strict=True) if a >= 0 and b >= 0]
            of_slides = tuple(int(by_slide[slide]["slide_label"].iloc[0]) for slide in (first, second))
            contradictory = [pair for pair in (of_slides, *labelled) if set(pair) == {0, 1}]
            labels_of = contradictory[0] if contradictory else of_slides
            pairs.append((listed(first, labels_of[0]), listed(second, labels_of[1])))
    return copy_problems(pairs, column="slide_id")


def _in_px(slide: SlideFeatures, path: Path | None, slide_mpp: float | None) -> SlideFeatures:
    """Return a slide's patches in level-0 px; the slide at `path` is opened only if its scale is needed."""
    if slide.x is None or slide.y is None:
        raise InputUnsupportedError(
            "features without coordinates: labels of patches cannot be joined",
            place=str(slide.path),
            remedy="keep the tool's files of coordinates beside its features",
        )
    mpp = slide_mpp
    is_scale_needed = slide.unit == "um" or slide.side is None
    if slide.mpp is None and path is not None and is_scale_needed:
        with open_slide(path) as opened:
            mpp = opened.mpp if opened.has_mpp else slide_mpp
    return slide.in_level0_px(mpp)


def _patches_of(described: Sequence[SlideFeatures]) -> tuple[pd.DataFrame, list[str]]:
    """Return all patches (slide_id, x, y, feature_row), the first of each place, and a note on those left out."""
    tables = []
    for slide in described:
        assert slide.x is not None
        assert slide.y is not None
        columns = {"x": rounded_px(slide.x), "y": rounded_px(slide.y), FEATURE_ROW: np.arange(len(slide))}
        tables.append(pd.DataFrame(columns).assign(slide_id=slide.slide_id))
    patches = pd.concat(tables, ignore_index=True)
    is_second = patches.duplicated(["slide_id", "x", "y"])
    count = int(is_second.sum())
    notes = [f"{pluralize(count, 'patch')} left out: an earlier one is at the same place"] if count else []
    return patches[~is_second].reset_index(drop=True), notes


def _notes(tissue: NDArray[np.float64], labels: pd.DataFrame) -> list[str]:
    """Return what a reader must know of the tissue of all patches, and of the patients that the labels name."""
    notes = []
    known = tissue[~np.isnan(tissue)]
    if known.size and known.min() >= _LEAST_SAID:
        percent = math.floor(100 * known.min())
        said = f"every patch has at least {percent} % tissue"
        notes.append(f"{said}: there is less nowhere, or such patches were left out before")
    if (labels["patient_id"] != labels["slide_id"]).any():
        return notes + invented_patients_note(labels["patient_id"].tolist())
    alone = "each slide counts as a patient of its own: the labels have no column patient_id that says otherwise"
    return [*notes, alone]


def _write(
    job: Job,
    work: Path,
    source: SlideFolder,
    described: Sequence[SlideFeatures],
    joined: pd.DataFrame,
    files: Mapping[str, str],
    notes: tuple[str, ...],
    measured: Mapping[str, MeasuredTissue],
) -> None:
    """Write the patch tables and statuses, ``slides.parquet``, and last ``features.json``."""
    folder = WorkFolder(work)
    # First of all: the rows of new tables would be looked up in the files that it names.
    folder.features.unlink(missing_ok=True)
    earlier = {path.stem for path in folder.root.glob("patches/*.parquet")}
    for slide_id in earlier - set(source.slide_ids):  # of features that this folder was made of before
        folder.patches(slide_id).unlink()
    by_slide = dict(list(joined.groupby("slide_id")))
    rows = []
    for slide in described:
        part = by_slide.get(slide.slide_id, joined.iloc[:0])
        table = _patch_table(part, slide.slide_id, files[slide.slide_id])
        job.write_table(folder.patches(slide.slide_id), table)
        tissue = measured.get(slide.slide_id)
        entry = {  # as `tile` records it
            "state": "done" if len(table) else "done_empty",
            "patches": len(table),
            "tissue_patches": int((table["tissue_fraction"] > 0).sum()),
            "labelled_patches": int((table["label"] >= 0).sum()),
            "tissue_confidence": None if tissue is None else tissue.confidence,
            "cohort_levels": {} if tissue is None else dict(tissue.cohort_levels),
            "warnings": [] if tissue is None else list(tissue.warnings),
        }
        update_status(work, slide.slide_id, STAGE, entry)
        rows.append(_slides_row(slide, part, files[slide.slide_id]))
    job.write_table(folder.slides, pd.DataFrame(rows))
    encoder = next((slide.encoder for slide in described if len(slide)), described[0].encoder)
    cohort = FeatureCohort(
        layout=source.layout, folder=source.path, encoder=encoder.to_dict(), files=dict(files), notes=notes
    )
    job.write_json(folder.features, cohort.model_dump(mode="json"))


def _patch_table(part: pd.DataFrame, slide_id: str, mark: str) -> pd.DataFrame:
    """Return a slide's patch table: the columns of a tiled slide, the attribute if there is one, and feature_row.

    A slide of several patients has the split of each patch, as ready patches do.
    """
    label = part["label"].to_numpy(np.int64)
    table = part.assign(
        slide_id=slide_id,
        patch_id=patch_ids(slide_id, part[["x", "y"]].to_numpy(np.int64)),
        # A label says whether there is tumour, not how much; and nobody looked at the pixels.
        tumor_fraction=np.nan,
        labelled_fraction=(label >= 0).astype(np.float64),
        saturated_fraction=np.nan,
        sharpness=np.nan,
        pixels_checksum=mark[:_CHECKSUM_DIGITS],
    )
    own = [PATCH_ATTRIBUTE] if PATCH_ATTRIBUTE in part else []
    if slides_of_several_patients(part):
        own.append("split")
    return table[[*COLUMNS, *own, FEATURE_ROW]].reset_index(drop=True)


def _slides_row(slide: SlideFeatures, part: pd.DataFrame, mark: str) -> dict[str, Any]:
    """Return a slide's row of ``slides.parquet``; facts that its feature file does not state are empty."""
    width, height = slide.size_px or (None, None)
    first = None if part.empty else part.iloc[0]
    # Of several patients the patch table alone tells them and their splits.
    has_one_patient = first is not None and not slides_of_several_patients(part)
    labelled = int((part["label"] >= 0).sum())
    return {
        **dict.fromkeys(SLIDE_COLUMNS, ""),
        "slide_id": slide.slide_id,
        "patient_id": slide.slide_id if first is None else str(first["patient_id"]) if has_one_patient else "",
        "split": str(first["split"]) if first is not None and has_one_patient else "",
        "width": width,
        "height": height,
        "mpp": slide.mpp,
        "levels": None,
        "has_labels": labelled > 0,
        SLIDE_LABEL: -1 if first is None else int(first["slide_label"]),
        "source": str(slide.path),
        "fingerprint": mark,
        "side_px": slide.side,
        "patches": len(part),
        "labelled": labelled,
    }

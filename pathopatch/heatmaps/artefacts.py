"""What the predict stage leaves in the work folder: the table, the heatmap with its exports, the status.

All is written under temporary names before the table takes its place, then the heatmap's folder, the status last: a
disk that fills up leaves an earlier pair as it was. A slide is done if table and folder carry the stamp that would be
written now.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pathopatch.core.artefacts import (
    Artefact,
    SlideStatus,
    Stamp,
    artefact,
    fingerprint,
    fingerprint_file,
    is_up_to_date,
    require_same_source,
    write_tables,
)
from pathopatch.core.config import PredictConfig
from pathopatch.core.errors import InputUnsupportedError
from pathopatch.core.files import atomic_path, read_json
from pathopatch.core.locks import folder_lock, slide_lock
from pathopatch.core.status import FINISHED, read_status, update_status
from pathopatch.core.work_folder import WorkFolder
from pathopatch.heatmaps import FACTS
from pathopatch.heatmaps.folder import write_folder
from pathopatch.heatmaps.predict import DEFAULTS, Prediction, Progress, predict_patches, tiling_of
from pathopatch.models.bundle import PatchClassifier
from pathopatch.models.compatibility import check_slide
from pathopatch.models.ensemble import Ensemble
from pathopatch.slides import Slide, in_order, tolerant
from pathopatch.slides.manifest import split_fragment, valid_slide_id

STAGE = "predict"
_LEVEL = ("read_level", "read_level_downsample")
_PROBES, _PROBE_PX = 6, 32  # per axis


@dataclass(frozen=True, kw_only=True)
class PredictResult:
    """What became of a slide.

    Parameters
    ----------
    slide_id : str
        Its id.
    state : str
        ``done``, ``done_empty`` (no patch with tissue), or ``current`` (it was there already).
    counts : mapping of str to int
        ``patches`` of the grid, ``predicted`` ones, ``tumour``, those above the decision threshold, and
        ``unreadable``, those that cannot be decoded.
    summary : mapping of str to float or None
        See `pathopatch.heatmaps.summary`.
    warnings : tuple of str
        What a person should know of the slide.
    level : mapping
        ``read_level``, which level the patches were read from, and ``read_level_downsample``, level-0 px per px of it;
        empty of outputs from before they were kept.
    """

    slide_id: str
    state: str
    counts: Mapping[str, int] = field(default_factory=dict)
    summary: Mapping[str, float | None] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    level: Mapping[str, float] = field(default_factory=dict)


def predict_to(
    slide: Slide,
    model: PatchClassifier | Ensemble,
    out: Path,
    *,
    slide_id: str,
    patient_id: str = "",
    tissue_mask: Path | None = None,
    config: PredictConfig = DEFAULTS,
    force: bool = False,
    progress: Progress | None = None,
) -> PredictResult:
    """Predict a slide and write ``predictions/<id>.parquet``, ``heatmaps/<id>/`` and its status; nothing if done.

    One process at a time does so; another one waits, and then finds them there.

    Parameters
    ----------
    slide : Slide
        An open slide.
    model : PatchClassifier or Ensemble
        From `load_model`, or several that see the same patches.
    out : Path
        Work folder.
    slide_id : str
        Names the outputs.
    patient_id : str
        Kept in the status, for the summary by patient.
    tissue_mask : Path, optional
        Raster or outlines that say what is tissue; found on the slide if not given.
    config : PredictConfig
    force : bool
        Redo outputs that were made of something else.
    progress : callable, optional
        Called with (grid positions done, all).

    Raises
    ------
    DuplicateIdError
        Outputs of another slide stand there, and `force` is off.
    StaleArtefactError
        Outputs of another model, slide or setting stand there, and `force` is off.
    InputUnsupportedError
        No valid slide id, or the outputs would leave the work folder.
    DiskFullError
        No space was left; earlier outputs are untouched.
    ChannelMismatchError, CheckpointIncompatibleError, MppMissingError, InputCorruptError, NonFiniteError
        As `predict_slide`.
    """
    if not valid_slide_id(slide_id):
        raise InputUnsupportedError(
            f"{slide_id!r} is no slide id", place="slide_id", remedy="use letters, digits, dot, dash and underscore"
        )
    voices = _voices(model)
    slide = tolerant(in_order(slide, voices.spec.channels), config.max_bad_tiles)
    warnings = [*slide.notes, *check_slide(voices.spec, slide)]
    known = {} if config.deidentify else {"source": slide.source, "patient_id": patient_id}
    facts_path, table_path = _places(out, slide_id)
    folder = facts_path.parent
    with folder_lock(out, slide_lock(slide_id, STAGE), waiting_for=f"slide {slide_id} ({STAGE})"):
        stamp = _stamp(slide, voices, config, tissue_mask)
        with artefact(
            facts_path,
            table_path,
            stamp=stamp,
            force=force,
            refuse=partial(_refuse_other_slide, out, slide, stamp),
            status=SlideStatus(out, slide_id, STAGE, about=known),
        ) as made:
            if made.is_current:
                return _adopted(out, slide_id, folder, known, made)
            prediction = predict_patches(slide, voices, slide_id, config, tissue_mask=tissue_mask, progress=progress)
            warnings += prediction.analysis.warnings(slide.mpp, tiling_of(voices.spec, config).registration.warn_um)
            warnings += _unreadable(prediction)
            with atomic_path(folder) as temporary:
                temporary.mkdir()
                name = "" if config.deidentify else slide_id
                facts = write_folder(
                    temporary, slide, voices.spec, prediction, stamp, drawn_name=name, warnings=warnings
                )
                write_tables(table_path, prediction.tables(), stamp)
            result = _result(slide_id, facts)
            made.record(_entry(result, known))
            return result


def _unreadable(prediction: Prediction) -> list[str]:
    """Return in words how many patches cannot be decoded, if any cannot."""
    lost, patches = prediction.unreadable, len(prediction.tissue_fraction)
    if not lost:
        return []
    return [f"{lost} of {patches} patches ({lost / patches:.1%}) cannot be decoded and have no value"]


def is_predicted(
    slide: Slide,
    model: PatchClassifier | Ensemble,
    out: Path,
    *,
    slide_id: str,
    tissue_mask: Path | None = None,
    config: PredictConfig = DEFAULTS,
    force: bool = False,
) -> bool:
    """Return whether `predict_to` would find its own finished outputs and do nothing; the arguments are the same.

    Raises
    ------
    StaleArtefactError
        Outputs of another model, slide or setting stand there, and `force` is off.
    """
    slide = tolerant(in_order(slide, _voices(model).spec.channels), config.max_bad_tiles)
    facts_path, table_path = _places(out, slide_id)
    if not facts_path.is_file():  # before the slide is read, which a stamp takes
        return False
    stamp = _stamp(slide, _voices(model), config, tissue_mask)
    refuse = partial(_refuse_other_slide, out, slide, stamp)
    return is_up_to_date(facts_path, table_path, stamp=stamp, force=force, refuse=refuse)


def _voices(model: PatchClassifier | Ensemble) -> Ensemble:
    return model if isinstance(model, Ensemble) else Ensemble([model])


def _places(out: Path, slide_id: str) -> tuple[Path, Path]:
    """Return where a slide's heatmap says what it is, and where its table stands."""
    return WorkFolder(out).heatmap(slide_id) / FACTS, WorkFolder(out).predictions(slide_id)


def _refuse_other_slide(out: Path, slide: Slide, stamp: Stamp, existing: Stamp, facts_path: Path) -> None:
    """Refuse to replace what was made of another slide under the same id."""
    if stamp.inputs["slide"] != existing.inputs.get("slide"):
        slide_id = facts_path.parent.name
        source = read_status(out, slide_id).get(STAGE, {}).get("source")
        require_same_source(source, slide.source, slide_id=slide_id, place=facts_path.parent)


def _stamp(slide: Slide, model: Ensemble, config: PredictConfig, tissue_mask: Path | None) -> Stamp:
    """Return what the outputs depend on; how fast they are computed is no part of it."""
    settings: dict[str, Any] = {
        "all_patches": config.all_patches,
        "min_tissue": model.spec.min_tissue if config.min_tissue is None else config.min_tissue,
        "tiling": tiling_of(model.spec, config),
        "precision": model.precision,
        "tta": config.tta,
        "deidentify": config.deidentify,
        "flags": config.flags,
    }
    if config.max_bad_tiles:  # left out where nothing is tolerated: older outputs stay what they are
        settings["max_bad_tiles"] = config.max_bad_tiles
    pixels = {
        "files": [fingerprint_file(path) for path in slide.paths],
        "chosen": _chosen(slide.source),
        "channels": slide.channels,
        "mpp": slide.mpp,
        "background": slide.background,
        "probes": _probes(slide),
    }
    marks = sorted(_model_fingerprint(member) for member in model.members)
    inputs = {"slide": fingerprint(pixels), "model": marks[0] if len(marks) == 1 else fingerprint(marks)}
    if tissue_mask is not None:
        inputs["tissue_mask"] = fingerprint_file(tissue_mask)
    return Stamp(stage=STAGE, settings=settings, inputs=inputs)


def _chosen(source: str | dict[str, str]) -> dict[str, str]:
    """Return which pages, planes or positions of its files a slide is, by channel: two of one file are two slides."""
    texts = source if isinstance(source, dict) else {"": source}
    return {name: str(replace(split_fragment(text), path="")) for name, text in texts.items()}


def _probes(slide: Slide) -> str:
    """Return a fingerprint of some pixels: a large file's own holds samples of its bytes only."""
    digest = hashlib.sha256()
    for y in np.linspace(0, slide.size[1], _PROBES, endpoint=False).astype(int).tolist():
        for x in np.linspace(0, slide.size[0], _PROBES, endpoint=False).astype(int).tolist():
            digest.update(np.ascontiguousarray(slide.read_region(x, y, _PROBE_PX, _PROBE_PX)).tobytes())
    return digest.hexdigest()


def _model_fingerprint(model: PatchClassifier) -> str:
    """Return a fingerprint of a model's description and weights."""
    digest = hashlib.sha256(fingerprint(model.spec).encode())
    for name, tensor in sorted(model.network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _adopted(out: Path, slide_id: str, folder: Path, about: Mapping[str, Any], made: Artefact) -> PredictResult:
    """Return the result of outputs that are there.

    The status is written if an interruption left it out, and follows a slide that has another patient or place by now.
    """
    result = _result(slide_id, read_json(folder / FACTS))
    entry = read_status(out, slide_id).get(STAGE, {})
    known = {name: value for name, value in about.items() if value}
    if entry.get("state") not in FINISHED:
        made.record(_entry(result, about))
    elif any(entry.get(name) != value for name, value in known.items()):
        update_status(out, slide_id, STAGE, {**entry, **known})
    return replace(result, state="current")


def _result(slide_id: str, facts: Mapping[str, Any]) -> PredictResult:
    """Return what became of a slide whose outputs are there."""
    counts = {name: int(value) for name, value in facts["counts"].items()}
    state = "done" if counts["predicted"] else "done_empty"
    warnings = tuple(facts.get("warnings", ()))
    level = {name: facts[name] for name in _LEVEL if name in facts}
    return PredictResult(
        slide_id=slide_id, state=state, counts=counts, summary=facts["summary"], warnings=warnings, level=level
    )


def _entry(result: PredictResult, about: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the slide's status says; its patient and place stand only there."""
    return {
        "state": result.state,
        **about,
        "counts": dict(result.counts),
        "summary": dict(result.summary),
        "warnings": list(result.warnings),
        **result.level,
    }

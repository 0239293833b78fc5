"""Ask a model whether its answers follow the tissue area, on slides without labels: the command `audit-model`.

``area-reliance.json`` holds the verdict and every measure, ``area-reliance.csv`` each patch with the model's answers,
and ``area-reliance.html`` shows some of them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.core.artefacts import Stamp, made, read_table
from pathopatch.core.config import PredictConfig
from pathopatch.core.errors import InputUnsupportedError
from pathopatch.core.files import read_json, write_bytes, write_csv, write_json
from pathopatch.core.task import Progress
from pathopatch.core.work_folder import WorkFolder
from pathopatch.debias.interventions import AREAS, edits
from pathopatch.evaluation.area_reliance import Margins, Responses, ask, margins_of, reliance, reliance_report
from pathopatch.evaluation.external_validation import check_patches, validation_name
from pathopatch.heatmaps.predict import edit_side, slide_source
from pathopatch.models.bundle import bundle_fingerprint, bundle_folder, read_spec, record_reliance
from pathopatch.models.forward import Ensemble
from pathopatch.models.loading import load_ensemble
from pathopatch.models.spec import AreaReliance, BundleSpec, patch_limits
from pathopatch.patches.source import FromSlide
from pathopatch.patches.store import PatchStore
from pathopatch.report.area_reliance import Example, reliance_page
from pathopatch.slides import Slide
from pathopatch.slides.manifest import SlideRow
from pathopatch.stages.area_samples import (
    BLANK,
    PER_SLIDE,
    Opened,
    Sample,
    opened_slides,
    opened_work,
    source_fingerprints,
    survey,
)
from pathopatch.training.dataset import common_source

STAGE = "audit-model"
RESULT, TABLE, PAGE = "area-reliance.json", "area-reliance.csv", "area-reliance.html"
EXAMPLES = 12  # patches on the page


def audit_model(
    models: Sequence[Path],
    sources: Sequence[SlideRow] | Path,
    out: Path,
    config: PredictConfig,
    *,
    per_slide: int = PER_SLIDE,
    seed: int = 0,
    slide_mpp: float | None = None,
    record: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Ask a model, or the mean of several, about patches of some slides; write the answers and return the result.

    It is that of `reliance` with ``slides`` (number that was asked about), ``given`` (numbers of slides, patients, or
    of what ``unit`` names, and patches with tissue), ``failed`` (slides that could not be read, with the
    reason), ``glass`` and ``little`` (answers to patches without tissue, and with too little to set its area) and
    ``stamp``. A finished result of equal inputs is returned as it is.

    Parameters
    ----------
    models : sequence of Path
        Bundles, or the training runs that made them.
    sources : sequence of SlideRow, or Path
        Slides, or a tiled work folder. A slide without a patient counts as one of its own.
    out : Path
        Folder for the result.
    per_slide : int
        Patches of a slide, at most, spread over the tissue area, and fewer of patients with many more slides than
        others.
    slide_mpp : float, optional
        um per level-0 px of slides whose files state none.
    record : bool
        Write the result into the bundle and its card.

    Raises
    ------
    PathopatchError
        The bundles or the device are refused, or no slide could be read.
    InputUnsupportedError
        Several models to record a result in, or a head on features.
    StaleArtefactError
        There is the result of another model or of other slides, and `force` is off.
    """
    models = [bundle_folder(path) for path in models]
    # Settings of a file may be for predict: edits are asked about as they are.
    config = config.model_copy(update={"area_correct": "none", "deidentify": False})
    stamp = Stamp(
        stage=STAGE,
        settings={
            "rules": 4,  # a verdict by other rules is stale
            "per_slide": per_slide,
            "seed": seed,
            "slide_mpp": slide_mpp,
            "predict": config.model_dump(
                mode="json", include={"precision", "stride_px", "max_bad_tiles", "all_patches"}
            ),
        },
        inputs={"model": bundle_fingerprint(models)} | source_fingerprints(sources, slide_mpp=slide_mpp),
    )
    if record and len(models) > 1:
        raise InputUnsupportedError(
            "the result of several models is recorded in none of them", place="--record", remedy="ask about one"
        )
    with made(out / RESULT, stamp=stamp, force=force) as job:
        if not job.is_current:
            model = _open_model(models, config)
            opened = _opened(sources, model.spec, config, slide_mpp=slide_mpp)
            result, table, examples = _ask(model, config, opened, per_slide=per_slide, seed=seed, progress=progress)
            is_rgb = model.spec.channels == ("R", "G", "B")
            publish(out, stamp, result, table, examples, is_rgb=is_rgb, model=validation_name(models[0]))
    result = read_json(out / RESULT)
    if record:
        record_reliance(models[0], reliance_of(result, stamp.inputs["model"]))
    return result


def reliance_of(result: dict[str, Any], model: str) -> AreaReliance:
    """Return a result of `audit_model` as it is kept in a bundle; `model` is its `bundle_fingerprint`."""
    curve, correction = result.get("curve", []), result.get("correction", {})
    found = {} if result["verdict"] == "not known" else result  # what was measured is then no finding
    names = ("verdict", "direction", "slides", "unit", "patients", "patches", "date", "backgrounds", "mpp")
    return AreaReliance(
        **{name: result[name] for name in names},
        eta=found.get("eta", {}).get("value"),
        adj=found.get("adj", {}).get("value"),
        model=model,
        areas=tuple(point["area"] for point in curve),
        response=tuple(point["margin"]["value"] for point in curve),
        shift={name: own["shift"] for name, own in correction.items()},
        turned={name: own["turned"] for name, own in correction.items()},
    )


def _open_model(models: Sequence[Path], config: PredictConfig) -> Ensemble:
    if any(read_spec(path).encoder is not None for path in models):
        raise InputUnsupportedError(
            "a head on features cannot be asked about patches: the encoder of its features is not part of it",
            place=str(models[0]),
            remedy="train with [train] frozen = true, and ask that model",
        )
    options = {name: getattr(config, name) for name in ("device", "precision", "runtime", "threads")}
    return load_ensemble(models, **options)


def _opened(
    sources: Sequence[SlideRow] | Path, spec: BundleSpec, config: PredictConfig, *, slide_mpp: float | None
) -> list[Opened]:
    """Return the slides, or those of a work folder; refuse stored patches of another kind."""
    if isinstance(sources, Path):
        stores = (WorkFolder(sources).store(str(name)) for name in read_table(WorkFolder(sources).slides)["slide_id"])
        if (source := common_source(list(map(PatchStore, stores)))) is not None:
            check_patches(spec, source, place=str(sources))
        return opened_work(sources)

    def cut(slide: Slide, row: SlideRow) -> FromSlide:
        return slide_source(slide, spec, row.slide_id, config, tissue_mask=row.tissue_mask)

    return opened_slides(sources, cut, channels=spec.channels, slide_mpp=slide_mpp)


def _ask(
    model: Ensemble,
    config: PredictConfig,
    opened: Sequence[Opened],
    *,
    per_slide: int,
    seed: int,
    progress: Progress | None,
) -> tuple[dict[str, Any], pd.DataFrame, list[Example]]:
    """Ask about each slide and judge all answers together; a slide that cannot be read fails alone."""
    margins, parts, tables, known = margins_of(model), list[Responses](), [], set[bytes]()
    others, is_blank, examples = [], [], list[Example]()

    def visit(sample: Sample, seed: int) -> None:
        part, table = ask_sample(margins, sample, seed=seed, known=known)
        other = sample.tissue[~sample.is_asked]
        others.append(margins(sample.pixels[~sample.is_asked], other))
        is_blank.append(other.mean(axis=(1, 2)) < BLANK)
        parts.append(part)
        tables.append(table)
        if len(examples) < EXAMPLES:
            examples.extend(_examples(sample, part, seed=seed, count=math.ceil(EXAMPLES / len(opened))))

    facts = survey(
        opened,
        visit,
        per_slide=per_slide,
        seed=seed,
        progress=progress,
        side_of=lambda px: edit_side(model, px),
        min_scanned=patch_limits(model.spec, config)["min_scanned"],
    )
    natural, blank = np.concatenate(others), np.concatenate(is_blank)
    table, not_drawn = pd.concat(tables, ignore_index=True), facts.pop("not_drawn")
    is_trained = any("invariance_edits" in member.spec.parameters for member in model.members)
    result = reliance(_joined(parts, not_drawn), seed=seed, unit=facts["unit"], is_trained_on_edits=is_trained)
    own = {"slides": table["slide_id"].nunique(), "glass": calls(natural[blank]), "little": calls(natural[~blank])}
    return result | facts | own, table, examples[:EXAMPLES]


def publish(
    out: Path,
    stamp: Stamp,
    result: Mapping[str, Any],
    table: pd.DataFrame,
    examples: Sequence[Example],
    *,
    is_rgb: bool,
    model: str,
) -> None:
    """Write a result of `reliance`, what it was asked about, and its page; `model` is the name on it."""
    write_csv(out / TABLE, table)
    page = reliance_page(result, examples, is_rgb=is_rgb, model=model)
    write_bytes(out / PAGE, page.encode())
    write_json(out / RESULT, {"stamp": stamp.to_dict(), "date": date.today().isoformat(), **result})


def calls(natural: NDArray[np.float64]) -> dict[str, Any]:
    """Return how many patches have an answer, a margin (n,), and which share of them is called tumour."""
    natural = natural[np.isfinite(natural)]  # of glass a model of crops says nothing
    return {"patches": len(natural), "positive": float((natural > 0).mean()) if len(natural) else None}


def _examples(sample: Sample, answers: Responses, *, seed: int, count: int) -> list[Example]:
    """Return some of a slide's patches with each area, and the model's answers."""
    pixels, tissue, found = sample.pixels[sample.is_asked], sample.tissue[sample.is_asked], []
    by_area = np.argsort(answers.area, kind="stable")
    middles = (np.arange(count) + 0.5) / count * len(by_area)  # of as many parts of equal size
    for place in by_area[np.unique(middles.astype(int))] if len(by_area) else ():
        row = int(answers.rows[place])
        made = islice(edits(pixels[row], tissue[row], seed=(seed, row), ground=sample.ground), 1 + len(AREAS))
        found.append(
            Example(
                name=sample.slide_id,
                pixels=[edit.pixels for edit in made],
                areas=[float(answers.area[place]), *AREAS],
                margins=[float(answers.natural[place]), *answers.areas[0, place].tolist()],
            )
        )
    return found


def result_text(result: dict[str, Any]) -> str:
    """Return a result of `audit_model` as text for a terminal."""
    return reliance_report(result)


def ask_sample(margins: Margins, sample: Sample, *, seed: int, known: set[bytes]) -> tuple[Responses, pd.DataFrame]:
    """Return the answers on a slide's patches that hold tissue, and as a table; copies of `known` ones are left out."""
    held, ground = sample.is_asked, sample.ground
    about = sample.about[held]
    units = about["unit"].to_numpy(np.str_)
    answers = ask(margins, sample.pixels[held], sample.tissue[held], units, seed=seed, ground=ground, known=known)
    if "label" in about:
        answers = replace(answers, label=about["label"].to_numpy(np.int64)[answers.rows])
    return answers, answer_table(answers, about.iloc[answers.rows][["patch_id", "slide_id", "patient_id", "unit"]])


def answer_table(answers: Responses, about: pd.DataFrame) -> pd.DataFrame:
    """Return what is known `about` the N patches beside the answers."""
    columns: dict[str, Any] = {
        "tissue_fraction": answers.area,
        "margin": answers.natural,
        **{f"margin@{area:g}": z for area, z in zip(AREAS, answers.areas.mean(axis=0).T, strict=True)},
        **{f"margin {name}": z for name, z in answers.placebos.items()},
    }
    return about.assign(**columns)


def _joined(parts: Sequence[Responses], not_drawn: Counter[str]) -> Responses:
    """Return the answers on several slides as those on one."""
    return Responses(
        rows=np.concatenate([part.rows for part in parts]),
        natural=np.concatenate([part.natural for part in parts]),
        areas=np.concatenate([part.areas for part in parts], axis=1),
        again=np.concatenate([part.again for part in parts]),
        placebos={name: np.concatenate([part.placebos[name] for part in parts]) for name in parts[0].placebos},
        area=np.concatenate([part.area for part in parts]),
        patient=np.concatenate([part.patient for part in parts]),
        label=None if any(part.label is None for part in parts) else np.concatenate([part.label for part in parts]),
        left_out=sum((Counter(part.left_out) for part in parts), not_drawn),
    )

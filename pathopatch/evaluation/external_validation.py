"""Answers how good a shipped model is on an outside labelled cohort: a bundle from anywhere, on patches of this folder.

``evaluations/<name>/`` holds what ``runs/<run>/evaluation/`` does: ``metrics.json``, the tables, and the predictions.
Nothing is trained or chosen here; the model keeps its decision threshold and temperature.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pathopatch.core.artefacts import Stamp, artefact, fingerprint_file, read_table
from pathopatch.core.config import EvaluateConfig, IntensityConfig
from pathopatch.core.errors import CheckpointIncompatibleError, InputMissingError
from pathopatch.core.files import inside, read_json
from pathopatch.core.text import patches_and_patients
from pathopatch.core.work_folder import WorkFolder
from pathopatch.evaluation.evaluate import (
    SWEEP,
    by_attribute,
    judge_predictions,
    sweep_table,
    write_evaluation,
)
from pathopatch.evaluation.predicting import predict_patches
from pathopatch.groups import threshold_attributes
from pathopatch.groups.attribute import label_names
from pathopatch.groups.shortcut import fraction_only
from pathopatch.models.bundle import load_model
from pathopatch.models.compatibility import read_spec
from pathopatch.models.spec import BundleSpec
from pathopatch.patches.store import PatchStore
from pathopatch.slides.resolution import mpp_agrees
from pathopatch.training.leakage import TRAINED, VALIDATED, slide_marks
from pathopatch.training.source import Source, common_source

FOLDER = "evaluations"
ALL = "all"
"""Name under which all labelled patches are judged together, whatever their split."""
_MEASURES = (("wga", "WGA"), ("gba", "GBA"), ("average", "average"))


def evaluate_bundle(
    work: Path,
    bundle: Path,
    *,
    splits: Sequence[str] | None = None,
    name: str | None = None,
    config: EvaluateConfig | None = None,
    device: str = "auto",
    force: bool = False,
) -> Path:
    """Judge a model bundle on the labelled patches of a work folder and return the folder of its numbers.

    Parameters
    ----------
    work : Path
        Work folder with ``groups.parquet`` and the patch stores; tiled slides or ready patches.
    bundle : Path
        The model bundle.
    splits : sequence of str, optional
        Splits to judge, each by itself. All labelled patches together, as split ``all``, if not given.
    name : str, optional
        Of the folder below ``evaluations/``; the bundle's own (see `bundle_name`) if not given.
    config : EvaluateConfig, optional
        Number of resamplings and their seed.
    device : str
        Of the forward pass, "auto" for the best there is.
    force : bool
        Redo an evaluation of another model, other settings or inputs.

    Returns
    -------
    Path
        ``evaluations/<name>``. An evaluation of the same stamp is left as it is.

    Raises
    ------
    InputMissingError
        There are no groups, no bundle, or no labelled patches.
    CheckpointIncompatibleError
        The patches are not what the model was trained on; every difference is named.
    StaleArtefactError
        Another evaluation stands there and `force` is off.
    """
    config = config or EvaluateConfig()
    out = inside(work, FOLDER, name or bundle_name(bundle))
    spec = read_spec(bundle)
    stamp = Stamp(
        stage="evaluate",
        settings={**config.model_dump(mode="json"), "splits": None if splits is None else sorted(splits)},
        inputs={"groups": fingerprint_file(WorkFolder(work).groups), "model": fingerprint_file(bundle)},
    )
    with artefact(out / "metrics.json", stamp=stamp, force=force) as made:
        if made.is_current:
            return out
        groups = read_table(WorkFolder(work).groups)
        groups = groups.assign(split=ALL) if splits is None else groups
        judged_splits = (ALL,) if splits is None else tuple(dict.fromkeys(splits))
        rows = _labelled(groups, judged_splits)
        warnings = check_patches(spec, _source(work, rows), place=str(bundle))
        warnings += _class_warnings(spec, groups) + _rule_warnings(spec, work) + seen_warnings(spec, work, rows)
        model = load_model(bundle, device=device)
        predictions = predict_patches(work, groups, model, splits=judged_splits, ablate=config.ablation)
        threshold = spec.decision_threshold
        numbers = judge_predictions(predictions, groups, decision_threshold=threshold, train_splits=(), config=config)
        for split, content in numbers["splits"].items():
            content["fraction_only"] = _fraction_only(rows[rows["split"] == split], config)
        swept = sweep_table(predictions, groups, decision_threshold=threshold, config=config)
        about = {"bundle": _about(spec, out.name), "warnings": warnings}
        write_evaluation(out, predictions, {**about, **numbers}, made, further={SWEEP: swept})
    return out


def bundle_name(bundle: Path) -> str:
    """Return what a bundle is called here: its folder, or its run where the folder is just called ``model``.

    Parameters
    ----------
    bundle : Path
        The bundle's folder.
    """
    folder = bundle.resolve()
    told = folder.parent.name if folder.name == "model" else folder.name
    return re.sub(r"[^A-Za-z0-9._-]", "_", told).lstrip("._-")[:128] or "model"


def check_patches(spec: BundleSpec, source: Source, *, place: str = "") -> list[str]:
    """Refuse patches that a model was not trained for; return in words what may not fit.

    Parameters
    ----------
    spec : BundleSpec
        The model's.
    source : Source
        What the slides behind the patches have in common.
    place : str
        Of the bundle, for the message.

    Raises
    ------
    CheckpointIncompatibleError
        Other channels or another order, type of pixels, patch size, alignment, intensity rule, or an mpp that differs
        by more than 2 %. All differences are named. Or the model tells more than two classes apart.
    """
    if len(spec.class_names) > 2:
        raise CheckpointIncompatibleError(
            f"the model tells {len(spec.class_names)} classes apart ({', '.join(spec.class_names)}), the labels two",
            place=place,
            remedy="judge a model of two classes",
        )
    pairs: list[tuple[str, Any, Any]] = [
        ("channels", ", ".join(source.channels), ", ".join(spec.channels)),
        ("type of pixels", source.dtype, spec.dtype),
        ("patch_px", source.patch_px, spec.patch_px),
        ("alignment of channels", source.align, spec.align),
    ]
    if not (source.is_rgb and spec.channels == source.channels and spec.dtype == source.dtype):
        rules = [each.model_dump(exclude={"sharpness_mpp"}) for each in (_intensity(source), spec.intensity)]
        pairs += [(f"intensity rule {key}", rules[0][key], rules[1][key]) for key in rules[0]]
    differences = [f"{what} is {here}, the model's {there}" for what, here, there in pairs if here != there]
    mpps = [mpp for mpp in (source.mpp, spec.mpp) if mpp is not None]
    if len(mpps) == 2 and not mpp_agrees(*mpps):
        differences.append(f"mpp is {source.mpp:g}, the model's {spec.mpp:g}")
    if differences:
        raise CheckpointIncompatibleError(
            "the patches are not what the model was trained on: " + "; ".join(differences),
            place=place,
            remedy="tile the cohort as the model's README.md says: channels in this order, patch_px, mpp, intensity",
        )
    warnings = []
    if len(mpps) < 2:
        warnings.append("The scale (mpp) of the model or of the patches is not known, so that it was not compared.")
    if "auto" not in (source.background, spec.background) and source.background != spec.background:
        warnings.append(f"Where there is no tissue the patches are {source.background}, the model's {spec.background}.")
    return warnings


def seen_warnings(spec: BundleSpec, work: Path, rows: pd.DataFrame) -> list[str]:
    """Return a warning for slides that the model was trained or selected on, as far as its bundle tells.

    Parameters
    ----------
    spec : BundleSpec
        The model's, with the marks of its slides.
    work : Path
        Work folder.
    rows : DataFrame
        Rows of the groups table that are judged.
    """
    here = slide_marks(WorkFolder(work).tiled.root, rows)
    if TRAINED not in spec.training or not here:
        why = "The bundle does not say which slides it was trained on" if here else "The files of these are not known"
        return [f"{why}: that it has not seen these is not checked."]
    units = "patients" if any(", patient " in name for name in here) else "slides"
    found = []
    for key, what in ((TRAINED, "trained"), (VALIDATED, "selected (checkpoint, decision threshold)")):
        marks = set(spec.training.get(key, "").split(","))
        known = sorted(name for name, mark in here.items() if mark in marks)
        if known:
            listed = ", ".join(known[:5]) + (" …" if len(known) > 5 else "")
            found.append(
                f"The model was {what} on {len(known)} of the {len(here)} {units} that are judged ({listed}): "
                "the numbers flatter it."
            )
    return found


def outside_text(folder: Path) -> str:
    """Return the evaluation of a bundle in words and tables, for a terminal.

    Parameters
    ----------
    folder : Path
        What `evaluate_bundle` returned.
    """
    numbers = read_json(folder / "metrics.json")
    groups = read_table(folder.parents[1] / "groups.parquet")
    attributes = {attribute.label: attribute for attribute in threshold_attributes(groups)}
    labels, is_own = label_names(groups), next(iter(attributes.values())).is_patch_attribute
    about = numbers["bundle"]
    lines = [f"Model {about['name']} (method {about['method']})", *(f"Warning. {said}" for said in numbers["warnings"])]
    for split, content in numbers["splits"].items():
        alone = content["fraction_only"]
        first = next(iter(content["thresholds"].values()))
        lines += ["", f"Split {split}: {patches_and_patients(first['n'], first['patients'])}; in percent"]
        lines.append(
            f"  AUROC of the model {_interval(first['auroc'], 1, 3)}, of the tissue fraction alone "
            + ("-" if alone["auroc"] is None else f"{alone['auroc']:.3f}")
        )
        for attribute, judged in by_attribute(content).items():
            if is_own and attribute in list(content["thresholds"])[1:]:
                continue  # the patches' own attribute is the same at every threshold
            by = attributes[attribute].description if attribute in attributes else attribute
            told = ", ".join(f"{said} {_interval(judged[name])}" for name, said in _MEASURES)
            accuracies = ", ".join(
                f"{row['group']}: {_number(row['accuracy'])} (n = {row['n']})" for row in judged["groups"]
            )
            lines += [f"  {by}: {told}", f"    groups {accuracies}"]
        calibrated = content["calibration"].get("after", content["calibration"]["before"])["all"]
        lines.append(
            f"  calibration error {_number(calibrated['ece'])} "
            f"(a calibrated model would show {_number(calibrated['ece_if_calibrated'])} by chance)"
        )
        lines += [
            f"  slope of the probability over tissue within {label}: {_number(row['slope'], 1, 2)} "
            f"[{_number(row['slope_low'], 1, 2)}, {_number(row['slope_high'], 1, 2)}]"
            for label, row in zip(labels, content["tissue_dependence"], strict=True)
        ]
        for row in content["ablation"]:
            if row["threshold"] == next(iter(content["thresholds"])):
                lines.append(f"  without {row['channel']}: AUROC {_number(row['auroc_without'], 1, 3)}")
    return "\n".join(lines)


def _labelled(groups: pd.DataFrame, splits: tuple[str, ...]) -> pd.DataFrame:
    """Return the rows that will be judged."""
    known = threshold_attributes(groups)[0].groups_in(groups) >= 0
    rows = groups[groups["split"].isin(splits) & known]
    if rows.empty:
        raise InputMissingError(
            f"no labelled patch with tissue in split {' or '.join(splits)}",
            place="groups.parquet",
            remedy="give the slides a tumor_mask or annotations in the manifest, or choose another --split",
        )
    return rows


def _source(work: Path, rows: pd.DataFrame) -> Source:
    """Return what the slides behind some patches have in common."""
    slides = sorted(set(rows["slide_id"].astype(str)))
    source = common_source([PatchStore(WorkFolder(work).tiled.store(name)) for name in slides])
    assert source is not None  # there are rows, so there are slides
    return source


def _intensity(source: Source) -> IntensityConfig:
    return IntensityConfig.model_validate(dict(source.intensity))


def _class_warnings(spec: BundleSpec, groups: pd.DataFrame) -> list[str]:
    """Return a warning where the model's classes are called otherwise than the labels here."""
    here = label_names(groups)
    if here == spec.class_names:
        return []
    theirs = " and ".join(spec.class_names)
    return [f"The model tells {theirs} apart, the labels here are {' and '.join(here)}: see that they mean the same."]


def _rule_warnings(spec: BundleSpec, work: Path) -> list[str]:
    """Return a warning where blank glass is told otherwise here than by the model."""
    path = WorkFolder(work).audit
    here = read_json(path).get("min_tissue") if path.is_file() else None
    if here is None or here == spec.min_tissue:
        return []
    return [f"Patches below a tissue share of {here:g} were left out; the model's own rule is {spec.min_tissue:g}."]


def _fraction_only(rows: pd.DataFrame, config: EvaluateConfig) -> dict[str, Any]:
    """Return how well the tissue fraction alone does on the patches that are judged."""
    rows = rows[rows["tissue_fraction"].notna()]
    return fraction_only(
        rows["label"].to_numpy(np.int64),
        rows["tissue_fraction"].to_numpy(np.float64),
        rows["patient_id"].to_numpy(dtype=str),
        resamples=config.bootstrap,
        seed=config.seed,
    )


def _about(spec: BundleSpec, name: str) -> dict[str, Any]:
    """Return what the report says of a model."""
    return {
        "name": name,
        "method": spec.method,
        "architecture": spec.architecture,
        "channels": list(spec.channels),
        "mpp": spec.mpp,
        "patch_px": spec.patch_px,
        "decision_threshold": spec.decision_threshold,
        "decision_chosen_for": spec.decision_chosen_for,
        "temperature": spec.temperature,
        "parameters": dict(spec.parameters),
    }


def _interval(told: dict[str, Any], scale: float = 100, digits: int = 1) -> str:
    ends = [_number(told[end], scale, digits) for end in ("low", "high")]
    return f"{_number(told['value'], scale, digits)} [{ends[0]}, {ends[1]}]"


def _number(value: float | None, scale: float = 100, digits: int = 1) -> str:
    return "-" if value is None or not np.isfinite(value) else f"{scale * value:.{digits}f}"

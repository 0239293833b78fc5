"""Evaluate a model bundle from elsewhere on the labelled patches of a work folder (external validation).

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
from pathopatch.core.config import EvaluateConfig, IntensityConfig, mpp_agrees
from pathopatch.core.errors import CheckpointIncompatibleError
from pathopatch.core.files import inside, read_json
from pathopatch.core.text import patches_and_units, pluralize
from pathopatch.core.work_folder import WorkFolder
from pathopatch.evaluation.evaluate import by_attribute, evaluate_predictions, require_current, write_evaluation
from pathopatch.evaluation.predicting import labelled_rows, predict_patches
from pathopatch.evaluation.slide_scores import scores_by, scores_text
from pathopatch.groups import bins_attributes, threshold_attributes, units_of
from pathopatch.groups.attribute import label_names, scanned_enough
from pathopatch.groups.shortcut import fraction_only
from pathopatch.models.bundle import bundle_fingerprint, read_spec
from pathopatch.models.forward import PatchClassifier
from pathopatch.models.leakage import SELECTED_ON, TRAINED, TRAINED_ON, leakage
from pathopatch.models.loading import load_model
from pathopatch.models.spec import BundleSpec, check_features
from pathopatch.patches.store import PatchStore
from pathopatch.training.data_summary import slide_marks, slide_structures
from pathopatch.training.dataset import Source, common_source, feature_source

FOLDER = "evaluations"
_ALL = "all"  # the split of all labelled patches together
_NO_LABELS = "give the slides a tumor_mask or annotations in the manifest, or choose another --split"
_BLANK_BELOW = 0.01  # tissue fraction, as for `pathopatch groups`
_MOST_GLASS = 1000  # patches: the share called positive is then known to 3 percentage points
_GLASS = "glass"  # the split of blank patches
_MEASURES = (("wga", "WGA"), ("gba", "GBA"), ("average", "average"))


def evaluate_bundle(
    work: Path,
    bundle: Path,
    *,
    splits: Sequence[str] | None = None,
    name: str | None = None,
    config: EvaluateConfig | None = None,
    device: str = "auto",
    runtime: str = "auto",
    force: bool = False,
) -> Path:
    """Evaluate a model bundle on the labelled patches of a work folder and return the folder of its numbers.

    Each of the `splits` is evaluated by itself; without them all labelled patches together, as split ``all``. `name` is
    that of the folder below ``evaluations/``, by default the bundle's own, see `bundle_name`.

    Raises
    ------
    InputMissingError
        There are no groups, no bundle, or no labelled patches.
    CheckpointIncompatibleError
        The patches are not what the model was trained on; every difference is named.
    StaleArtefactError
        There is another evaluation, and `force` is off.
    """
    config = config or EvaluateConfig()
    out = inside(work, FOLDER, name or bundle_name(bundle))
    spec = read_spec(bundle)
    stamp = Stamp(
        stage="evaluate",
        settings={**config.model_dump(mode="json"), "splits": None if splits is None else sorted(splits)},
        inputs={"groups": fingerprint_file(WorkFolder(work).groups), "model": bundle_fingerprint([bundle])},
    )
    with artefact(out / "metrics.json", stamp=stamp, force=force, is_whole=lambda: not force) as output:
        if output.is_current:
            return out
        groups = read_table(WorkFolder(work).groups)
        # The splits of this cohort mean nothing to a model that was trained elsewhere.
        groups = groups.assign(split=_ALL) if splits is None else groups
        evaluated_splits = (_ALL,) if splits is None else tuple(dict.fromkeys(splits))
        rows = labelled_rows(groups, evaluated_splits, remedy=_NO_LABELS)
        # Patches that do not fit are refused before the network is loaded.
        slides = sorted(set(rows["slide_id"].astype(str)))
        source = feature_source(work, spec.dtype) or common_source(
            [PatchStore(WorkFolder(work).tiled.store(slide)) for slide in slides]
        )
        assert source is not None  # there are rows, so there are slides
        warnings = check_patches(spec, source, place=str(bundle))
        warnings += _rule_warnings(spec, work, label_names(groups)) + leakage_warnings(spec, work, rows)
        model = load_model(bundle, device=device, runtime=runtime)
        predictions = predict_patches(work, groups, model, splits=evaluated_splits, ablate=config.ablation)
        numbers = evaluate_predictions(predictions, groups, decision_threshold=spec.decision_threshold, config=config)
        unit = units_of(rows)
        for split, content in numbers["splits"].items():
            known = rows[(rows["split"] == split) & rows["tissue_fraction"].notna()]
            content["fraction_only"] = fraction_only(
                known["label"].to_numpy(np.int64),
                known["tissue_fraction"].to_numpy(np.float64),
                unit[known.index].to_numpy(dtype=str),
                resamples=config.bootstrap,
                seed=config.seed,
            )
        glass = _predict_glass(work, groups, model)
        numbers = {"bundle": _about(spec, out.name), "warnings": warnings, "glass": glass, **numbers}
        write_evaluation(out, predictions, groups, numbers, output, config=config)
    return out


def bundle_name(bundle: Path) -> str:
    """Return the name of a bundle here: that of its folder, or of its run where the folder is called ``model``."""
    folder = bundle.resolve()
    name = folder.parent.name if folder.name == "model" else folder.name
    return re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip("._-")[:128] or "model"


def check_patches(spec: BundleSpec, source: Source, *, place: str = "") -> list[str]:
    """Refuse patches that a model was not trained for; return warnings about possible differences.

    `source` is what the slides behind the patches have in common. `CheckpointIncompatibleError` names all differences:
    other channels or another order, type of pixels, patch size, alignment, intensity rule, an mpp that differs by more
    than 2 %, or more than two classes.
    """
    if len(spec.class_names) > 2:
        raise CheckpointIncompatibleError(
            f"the model has {len(spec.class_names)} classes ({', '.join(spec.class_names)}), the labels two",
            place=place,
            remedy="evaluate a model of two classes",
        )
    if spec.encoder is not None or source.encoder is not None:
        return check_features(spec, source.encoder, place=place)
    pairs: list[tuple[str, Any, Any]] = [
        ("channels", ", ".join(source.channels), ", ".join(spec.channels)),
        ("type of pixels", source.dtype, spec.dtype),
        ("patch_px", source.patch_px, spec.patch_px),
        ("alignment of channels", source.align, spec.align),
    ]
    # RGB of 8 bits is not scaled by an intensity rule.
    if not (source.is_rgb and spec.channels == source.channels and spec.dtype == source.dtype):
        intensity = IntensityConfig.model_validate(dict(source.intensity))
        here, theirs = (rule.model_dump(exclude={"sharpness_mpp"}) for rule in (intensity, spec.intensity))
        pairs += [(f"intensity rule {key}", here[key], theirs[key]) for key in here]
    differences = [f"{name} is {own}, the model's {trained}" for name, own, trained in pairs if own != trained]
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
        warnings.append("The scale (mpp) of the model or of the patches is not known, so it was not compared.")
    # "auto" is decided slide by slide, so it says nothing about the patches.
    if "auto" not in (source.background, spec.background) and source.background != spec.background:
        warnings.append(f"Where there is no tissue the patches are {source.background}, the model's {spec.background}.")
    return warnings


def leakage_warnings(spec: BundleSpec, work: Path, rows: pd.DataFrame) -> list[str]:
    """Return warnings about slides among the rows that the model was trained or selected on, by its bundle's marks."""
    here = slide_marks(WorkFolder(work).tiled.root, rows)
    if TRAINED not in spec.training or not here:
        why = "The bundle does not say which slides it was trained on" if here else "The files of these are not known"
        return [f"{why}, so leakage is not checked."]
    units = "patients" if any(", patient " in name for name in here) else "slides"
    warnings = []
    shown = slide_structures(WorkFolder(work).tiled.root, rows)
    words = {name: leakage([spec], [mark], structure=shown.get(name, "")) for name, mark in here.items()}
    for word, what in ((TRAINED_ON, "trained"), (SELECTED_ON, "selected (checkpoint, decision threshold)")):
        if leaked := sorted(name for name in words if words[name] == word):
            names = ", ".join(leaked[:5]) + (" …" if len(leaked) > 5 else "")
            warnings.append(
                f"The model was {what} on {len(leaked)} of the {len(here)} {units} that are judged ({names}): "
                "the numbers flatter it."
            )
    return warnings


def _predict_glass(work: Path, groups: pd.DataFrame, model: PatchClassifier) -> dict[str, Any]:
    """Return how a model predicts the blank patches of a cohort, 1000 at most, evenly over the groups table.

    A model that calls glass tumour has learnt something else than tumour, and no accuracy by group tells, since blank
    patches have no group. ``positive`` is the share above the decision threshold, ``probability`` the mean; NaN without
    blank patches.
    """
    # What fills unscanned parts of a slide is not glass.
    blank = groups[(groups["tissue_fraction"] < _BLANK_BELOW) & scanned_enough(groups, 1.0)]
    if blank.empty:
        return {"patches": 0, "slides": 0, "positive": float("nan"), "probability": float("nan")}
    blank = blank.iloc[np.unique(np.linspace(0, len(blank) - 1, _MOST_GLASS).round().astype(np.int64))]
    columns = [attribute.group_column for attribute in (*threshold_attributes(groups), *bins_attributes(groups))]
    # A label and a group that mean nothing: without them a patch is not predicted.
    rows = blank.assign(split=_GLASS, label=0, **dict.fromkeys(columns, 0))
    predictions = predict_patches(work, rows, model, splits=(_GLASS,))
    return {
        "patches": len(predictions),
        "slides": int(blank["slide_id"].nunique()),
        "positive": float((predictions["logit"] > model.spec.decision_threshold).mean()),
        "probability": float(predictions["probability"].mean()),
    }


def glass_text(glass: dict[str, Any], name: str) -> str:
    """Return the numbers on blank glass as a sentence; `name` is the positive class."""
    if not glass["patches"]:
        return "No patch is blank glass, so calls on glass are not known."
    patches, slides = pluralize(glass["patches"], "patch"), pluralize(glass["slides"], "slide")
    return (
        f"Blank glass ({patches} of {slides}, tissue below {100 * _BLANK_BELOW:g} %): {100 * glass['positive']:.1f} % "
        f"are called {name}, mean probability {glass['probability']:.3f}."
    )


def external_validation_text(folder: Path) -> str:
    """Return the evaluation in a folder of `evaluate_bundle` as text for a terminal."""
    numbers = read_json(folder / "metrics.json")
    require_current(numbers, folder)
    groups = read_table(folder.parents[1] / "groups.parquet")
    attributes = {attribute.label: attribute for attribute in threshold_attributes(groups)}
    is_own = next(iter(attributes.values())).is_patch_attribute
    about = numbers["bundle"]
    lines = [
        f"Model {about['name']} (method {about['method']})",
        *(f"Warning. {warning}" for warning in numbers["warnings"]),
    ]
    for split, content in numbers["splits"].items():
        fraction_auroc = content["fraction_only"]["auroc"]
        first = next(iter(content["thresholds"].values()))
        lines += ["", f"Split {split}: {patches_and_units(first['n'], first['patients'], numbers['unit'])}; in percent"]
        at_equal_area = content["equal_area"]
        lines.append(
            f"  AUROC of the model {_interval(first['auroc'], 1, 3)}, at equal area {_interval(at_equal_area, 1, 3)}; "
            f"of the tissue fraction alone {_number(fraction_auroc, 1, 3)} and {_number(at_equal_area['floor'], 1, 3)}"
        )
        for title, scores in scores_by({split: content}):
            lines.append(f"  {title}: {scores[split]['reason'] or scores_text(scores[split])}")
        for label, scores in by_attribute(content).items():
            if is_own and label in list(content["thresholds"])[1:]:
                continue  # the patches' own attribute is the same at every threshold
            by = attributes[label].description if label in attributes else label
            measures = ", ".join(f"{title} {_interval(scores[name])}" for name, title in _MEASURES)
            accuracies = ", ".join(
                f"{row['group']}: {_number(row['accuracy'])} (n = {row['n']})" for row in scores["groups"]
            )
            lines += [f"  {by}: {measures}", f"    groups {accuracies}"]
    return "\n".join([*lines, "", glass_text(numbers["glass"], about["positive_class"])])


def _rule_warnings(spec: BundleSpec, work: Path, labels: tuple[str, ...]) -> list[str]:
    """Return warnings where the labels' names, or the least tissue of the patches, differ from the model's."""
    warnings = []
    if labels != spec.class_names:
        theirs, here = " and ".join(spec.class_names), " and ".join(labels)
        warnings.append(f"The model's classes are {theirs}, the labels here {here}: check that they mean the same.")
    path = WorkFolder(work).audit
    rules = read_json(path) if path.is_file() else {}
    for share, least, own in (
        ("tissue", rules.get("min_tissue"), spec.min_tissue),
        ("scanned", rules.get("min_scanned"), spec.min_scanned),
    ):
        if least is not None and least != own:
            warnings.append(
                f"Patches below a {share} share of {least:g} were left out; the model's own rule is {own:g}."
            )
    return warnings


def _about(spec: BundleSpec, name: str) -> dict[str, Any]:
    """Return the facts about the model that the report shows."""
    shown = ("method", "architecture", "channels", "mpp", "patch_px", "decision_threshold", "decision_chosen_for",
             "temperature", "parameters")  # fmt: skip
    facts = spec.model_dump(mode="json", include=set(shown))
    return {"name": name, "positive_class": spec.class_names[1], **{key: facts[key] for key in shown}}


def _interval(measure: dict[str, Any], scale: float = 100, digits: int = 1) -> str:
    ends = [_number(measure[end], scale, digits) for end in ("low", "high")]
    return f"{_number(measure['value'], scale, digits)} [{ends[0]}, {ends[1]}]"


def _number(value: float | None, scale: float = 100, digits: int = 1) -> str:
    return "-" if value is None or not np.isfinite(value) else f"{scale * value:.{digits}f}"

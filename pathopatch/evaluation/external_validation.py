"""Evaluate a model bundle from elsewhere on the labelled patches of a work folder (external validation).

``evaluations/<name>/`` holds what ``runs/<run>/evaluation/`` does: ``metrics.json``, the tables, and the predictions.
Nothing is trained or chosen here; the model keeps its decision threshold and temperature.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pathopatch.core.config import EvaluateConfig, IntensityConfig, mpp_agrees
from pathopatch.core.errors import CheckpointIncompatibleError
from pathopatch.core.files import inside, read_json
from pathopatch.core.work_folder import WorkFolder
from pathopatch.evaluation.compare import comparison_text, rows_of
from pathopatch.evaluation.evaluate import ALL, Predicted, require_current, write_evaluation
from pathopatch.evaluation.predicting import labelled_rows, predict_labelled
from pathopatch.groups.attribute import label_names
from pathopatch.models.bundle import bundle_fingerprint, read_spec
from pathopatch.models.leakage import SELECTED_ON, TRAINED, TRAINED_ON, leakage
from pathopatch.models.loading import load_model
from pathopatch.models.spec import BundleSpec, check_features
from pathopatch.patches.store import PatchStore
from pathopatch.training.data_summary import slide_marks
from pathopatch.training.dataset import Source, common_source, feature_data

FOLDER = "evaluations"
_NO_LABELS = "give the slides a tumor_mask or annotations in the manifest, or choose another --split"


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
    that of the folder below ``evaluations/``, by default the bundle's own, see `validation_name`.

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
    out = inside(work, FOLDER, name or validation_name(bundle))
    spec = read_spec(bundle)

    def predict(groups: pd.DataFrame) -> Predicted:
        if splits is None:
            groups = groups.assign(split=ALL)
        evaluated_splits = (ALL,) if splits is None else tuple(dict.fromkeys(splits))
        rows = labelled_rows(groups, evaluated_splits, remedy=_NO_LABELS)
        # Patches that do not fit are refused before the network is loaded.
        slides = sorted(set(rows["slide_id"].astype(str)))
        source = feature_data(work, spec.dtype) or common_source(
            [PatchStore(WorkFolder(work).tiled.store(slide)) for slide in slides]
        )
        assert source is not None  # there are rows, so there are slides
        warnings = check_patches(spec, source, place=str(bundle))
        warnings += _rule_warnings(spec, work, label_names(groups)) + leakage_warnings(spec, work, rows)
        model = load_model(bundle, device=device, runtime=runtime)
        predictions = predict_labelled(work, groups, model, splits=evaluated_splits, ablate=config.ablation)
        return Predicted(predictions, spec.decision_threshold, {"bundle": _about(spec, out.name), "warnings": warnings})

    settings = {**config.model_dump(mode="json"), "splits": None if splits is None else sorted(splits)}
    inputs = {"model": bundle_fingerprint([bundle])}
    return write_evaluation(out, work, predict, settings=settings, inputs=inputs, config=config, force=force)


def validation_name(bundle: Path) -> str:
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
    words = {name: leakage([spec], [mark]) for name, mark in here.items()}
    for word, what in ((TRAINED_ON, "trained"), (SELECTED_ON, "selected (checkpoint, decision threshold)")):
        if leaked := sorted(name for name in words if words[name] == word):
            names = ", ".join(leaked[:5]) + (" …" if len(leaked) > 5 else "")
            warnings.append(
                f"The model was {what} on {len(leaked)} of the {len(here)} {units} that are judged ({names}): "
                "the numbers flatter it."
            )
    return warnings


def external_validation_text(folder: Path) -> str:
    """Return the evaluation in a folder of `evaluate_bundle` as text for a terminal."""
    numbers = read_json(folder / "metrics.json")
    require_current(numbers, folder)
    about = numbers["bundle"]
    lines = [
        f"Model {about['name']} (method {about['method']})",
        *(f"Warning. {warning}" for warning in numbers["warnings"]),
    ]
    for split, content in numbers["splits"].items():
        table = pd.DataFrame(rows_of(numbers, split, {"run": about["name"]}))
        lines += ["", comparison_text(folder.parents[1], table, {about["name"]: content})]
    return "\n".join(lines)


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

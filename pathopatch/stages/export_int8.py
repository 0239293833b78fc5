"""Export a model in int8 unless a group of patches loses by it: the command `export openvino --int8`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.core.artefacts import fingerprint, fingerprint_file, read_table
from pathopatch.core.errors import InputUnsupportedError
from pathopatch.core.work_folder import WorkFolder
from pathopatch.evaluation.external_validation import check_patches
from pathopatch.evaluation.predicting import labelled_rows
from pathopatch.groups import threshold_attributes
from pathopatch.metrics.accuracy import GroupAccuracies, group_accuracies
from pathopatch.models.bundle import read_spec
from pathopatch.models.export import Int8, export_model
from pathopatch.models.export.openvino_ir import convert, probabilities, quantized
from pathopatch.models.export.write import onnx_bytes, require_exportable
from pathopatch.models.spec import BundleSpec
from pathopatch.stages.export import default_folder
from pathopatch.training.dataset import PatchSet, load_patches

_CALIBRATED_OF_A_GROUP = 75
_MOST_LOST = 1.0  # points of accuracy that a group may lose
_READ_AT_ONCE = 256


def export_int8(bundle: Path, work: Path, path: Path | None = None, *, force: bool = False) -> Path:
    """Write a model in int8 for OpenVINO, unless a group of patches loses accuracy; return its folder.

    It is calibrated on up to 75 training patches of every group (label and amount of tissue) of a work folder, and
    compared with float32 on its validation and test patches.

    Raises
    ------
    InputUnsupportedError
        The accuracy of a group falls by more than one point (the message has the table), NNCF is not installed, or the
        model does not fit the format.
    InputMissingError
        The work folder has no groups, or no labelled patches to calibrate on or to compare with.
    CheckpointIncompatibleError
        Its patches are not such as the model was trained on.
    """
    spec, groups = read_spec(bundle), read_table(WorkFolder(work).groups)
    require_exportable(spec)
    train, others = (
        _patches(work, groups, spec, splits, place=str(bundle)) for splits in (("train",), ("val", "test"))
    )
    chosen = _some_of_each_group(train)
    exact = convert(onnx_bytes(bundle, spec))
    short = quantized(exact, train.read(chosen))
    before, after = (_accuracies(model, others, spec) for model in (exact, short))
    table = _table(before, after, spec.class_names)
    lost = 100 * float(np.nanmax(before.accuracy - after.accuracy))
    if lost > _MOST_LOST:
        raise InputUnsupportedError(
            f"in int8 a group loses {lost:.1f} points, {_MOST_LOST:g} at most:\n{table}\n",
            place="--int8",
            remedy="predict in float32 or bfloat16",
        )
    facts = {
        "calibrated": len(chosen),
        "judged": len(others),
        "table": table,
        "made_of": fingerprint(
            {"groups": fingerprint_file(WorkFolder(work).groups), "patches": train.patch_id[chosen].tolist()}
        ),
    }
    path = default_folder(bundle, "openvino-int8") if path is None else path
    export_model(bundle, path, kind="openvino", int8=Int8(short, facts), force=force)
    return path


def _patches(work: Path, groups: pd.DataFrame, spec: BundleSpec, splits: tuple[str, ...], *, place: str) -> PatchSet:
    """Return the labelled patches of some splits as they were cut, with the first attribute of the groups table."""
    rows = labelled_rows(groups, splits, remedy="name the work folder of a cohort with labels in these splits")
    patches = load_patches(work, rows, input_px=spec.patch_px, splits=splits, cache_gib=0)
    assert patches.source is not None  # there are rows
    check_patches(spec, patches.source, place=place)
    return patches.with_attribute(threshold_attributes(rows)[0].groups_in(rows) - 2 * patches.label)


def _some_of_each_group(patches: PatchSet) -> NDArray[np.int64]:
    """Return indices of patches, as many of each group."""
    group, rng = 2 * patches.label + patches.attribute, np.random.default_rng(0)
    chosen = [rng.permutation(np.flatnonzero(group == number))[:_CALIBRATED_OF_A_GROUP] for number in np.unique(group)]
    return np.sort(np.concatenate(chosen))


def _accuracies(model: Any, patches: PatchSet, spec: BundleSpec) -> GroupAccuracies:
    """Return the accuracy of each group by the model's own decision rule."""
    starts = range(0, len(patches), _READ_AT_ONCE)
    parts = [probabilities(model, patches.read(slice(start, start + _READ_AT_ONCE))) for start in starts]
    probability = np.concatenate(parts)
    threshold = spec.decision_probability
    predicted = probability.argmax(axis=1) if threshold is None else (probability[:, 1] > threshold).astype(np.int64)
    return group_accuracies(predicted, patches.label, patches.attribute)


def _table(before: GroupAccuracies, after: GroupAccuracies, labels: tuple[str, ...]) -> str:
    """Return the accuracies of all groups in Markdown."""
    lines = ["| group | patches | float32 | int8 |", "|---|---|---|---|"]
    for label, counts, exact, short in zip(labels, before.n, before.accuracy, after.accuracy, strict=True):
        for tissue, n, a, b in zip(("little", "much"), counts, exact, short, strict=True):
            lines.append(f"| {label}, {tissue} tissue | {n} | {100 * a:.1f} | {100 * b:.1f} |")
    return "\n".join(lines)

"""Check the patches that training would compose, and draw some: the command `audit --composed`.

``groups/composed.json`` holds the numbers with their stamp, ``groups/composed.png`` is the contact sheet.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pathopatch.core import artefacts, files
from pathopatch.core.artefacts import artefact
from pathopatch.core.errors import InputUnsupportedError
from pathopatch.core.work_folder import WorkFolder

if TYPE_CHECKING:
    from pathopatch.core.config import TrainConfig

_COPIES = 600  # of each class; a second or two, and an AUROC is known to some 0.03
_SETTINGS = ("threshold", "bins", "least_per_bin", "input_px", "seed", "train_splits", "intervene_growth")


def audit_composed(work: Path, config: TrainConfig, *, force: bool = False) -> Mapping[str, Any]:
    """Return the check of the patches that a run of these settings composes; write it and the contact sheet.

    Copies are those of a run of the same seed, also where the run's own method composes none.
    """
    from pathopatch.groups.attribute import label_names
    from pathopatch.models.spec import class_names
    from pathopatch.report.composed import composed_sheet
    from pathopatch.training.composition import VERSION, check_composition
    from pathopatch.training.intervene import first_intervention
    from pathopatch.training.phase_data import phases_of
    from pathopatch.training.run import load_sets, run_stamp

    folder = WorkFolder(work)
    groups = artefacts.read_table(folder.groups)
    settings = {name: getattr(config, name) for name in _SETTINGS} | {"version": VERSION}
    stamp = run_stamp(work, groups, config, stage="audit composed", settings=settings)
    with artefact(folder.composed, stamp=stamp, force=force, is_whole=folder.composed_sheet.is_file) as made:
        if made.is_current:
            return files.read_json(folder.composed)
        config = config.model_copy(update={"intervene": config.intervene or 1.0})
        train, _ = load_sets(work, groups, config)
        if not len(train):
            raise InputUnsupportedError(
                f"no labelled training patches in {' or '.join(config.train_splits)}",
                place=str(folder.groups),
                remedy="give slides of the training split a tumor_mask in the manifest",
            )
        intervention = first_intervention(phases_of(config), train, config)
        assert intervention is not None  # every method has a phase on training patches
        labels = list(label_names(groups) if intervention.n_classes == 2 else class_names(intervention.n_classes))
        check = check_composition(intervention, copies=_COPIES, seed=config.seed)
        files.write_bytes(folder.composed_sheet, composed_sheet(intervention, labels, threshold=config.threshold))
        about = {"version": VERSION, "threshold": config.threshold, "labels": labels}
        made.write_json(folder.composed, about | check)
    return files.read_json(folder.composed)


def composed_audit_text(work: Path, config: TrainConfig, *, force: bool = False) -> str:
    """Return the check of composed patches as text and tables."""
    from pathopatch.training.composition import composition_text

    return composition_text(audit_composed(work, config, force=force))

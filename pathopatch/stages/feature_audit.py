"""Audit features: import them, form the groups, measure the shortcut and the robustness indices, write the page.

``groups/robustness.json`` holds the indices with the stamp of the groups that they were measured on.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Unpack

from pathopatch.core import artefacts, files
from pathopatch.core.artefacts import Stamp, artefact, fingerprint_file
from pathopatch.core.config import GroupsConfig
from pathopatch.core.errors import InputUnsupportedError
from pathopatch.core.text import pluralize
from pathopatch.core.work_folder import WorkFolder
from pathopatch.features.cohort import read_cohort, read_patches
from pathopatch.features.labels import are_of_slides
from pathopatch.features.robustness import MOST_PATCHES, cohort_indices
from pathopatch.report import write_report
from pathopatch.stages.audit import audit_text
from pathopatch.stages.groups import form_groups
from pathopatch.stages.import_features import ImportedFeatures, ImportOptions, import_features
from pathopatch.stages.slide_label_audit import audit_slide_labels, slide_labels_text

_SEED = 0


def audit_features(
    work: Path,
    folder: Path,
    labels: Path,
    config: GroupsConfig,
    **options: Unpack[ImportOptions],
) -> str:
    """Audit feature files for the tissue-area shortcut, or for that of another attribute; return the result as text.

    Labels of whole slides are audited alone, without groups and a report. Arguments and errors as of
    `pathopatch.stages.import_features.import_features` and of `form_groups`.
    """
    if are_of_slides(labels):
        if options.get("slides") or options.get("attribute"):
            raise InputUnsupportedError(
                "labels of whole slides go without --slides and --attribute",
                place=str(labels),
                remedy="leave both out, or give labels of patches: slide_id, x, y, label",
            )
        return audit_slide_labels(folder, labels, layout=options.get("layout", "auto"))
    force = options.get("force", False)
    imported = import_features(work, folder, labels, **options)
    form_groups(work, config, force=force)
    result = measure_robustness(work, force=force)
    page = write_report(work)
    parts = (_imported_text(work, imported), audit_text(work), slide_labels_text(work), robustness_text(result))
    return "\n\n".join([*filter(None, parts), f"report: {page}"])


def _imported_text(work: Path, imported: ImportedFeatures) -> str:
    """Return a text on the import, with all notes."""
    cohort = read_cohort(work)
    encoder = cohort.encoder.get("name", "an encoder that its files do not name")
    head = (
        f"Features of {encoder} ({cohort.dim} values, layout {cohort.layout}): {pluralize(imported.patches, 'patch')} "
        f"of {pluralize(imported.slides, 'slide')}, {imported.labelled} labelled."
    )
    return "\n".join([head, *(f"  - {note}" for note in imported.notes)])


def measure_robustness(work: Path, *, force: bool = False) -> Mapping[str, Any]:
    """Return the robustness indices of a work folder of features; measure them anew if groups or features changed.

    They are of labelled patches of all splits, at most `MOST_PATCHES` of them. The confounder is the tissue fraction,
    its lowest against its highest third, or the patches' own attribute. Errors as of `read_patches`.
    """
    folder = WorkFolder(work)
    inputs = {"groups": fingerprint_file(folder.groups), "features": fingerprint_file(folder.tiled.features)}
    stamp = Stamp(stage="robustness", settings={"most_patches": MOST_PATCHES, "seed": _SEED}, inputs=inputs)
    # Formed groups were confirmed already: the indices follow them without --force.
    with artefact(folder.robustness, stamp=stamp, force=True) as made:
        if made.is_current and not force:
            return files.read_json(folder.robustness)
        groups = artefacts.read_table(folder.groups)
        result = cohort_indices(groups, lambda rows: read_patches(work, groups.iloc[rows]), seed=_SEED)
        made.write_json(folder.robustness, result)
    return result


def robustness_text(result: Mapping[str, Any]) -> str:
    """Return the robustness indices as text for a terminal."""
    by = "attribute" if result["confounder"] == "attribute" else "amount of tissue"
    drawn, eligible = result["patches"], result["eligible"]
    of = f"{drawn} patches" if drawn == eligible else f"{drawn} of {eligible} patches, drawn at random"
    lines = [
        f"Nearest neighbours among the features ({of}; {', '.join(result['values'])}; never of the same slide"
        ", or patient if it holds several):"
    ]
    if result["ri"] is None:
        return lines[0] + "\n  not known: no patch has a neighbour that shares only its label or only its " + by
    ends = "" if result["ri_low"] is None else f" [{result['ri_low']:.2f}, {result['ri_high']:.2f}]"
    lines += [
        f"  RI    {result['ri']:.2f}{ends} at k = {result['k']}; {result['ri_random']:.2f} if neighbours were random: "
        f"the share with the same label, among neighbours with either the same label or the same {by}",
        f"  MaRI  {result['mari']:.2f}: the same, near neighbours counting more",
    ]
    if result["croma"] is None:
        lines.append(f"  CRoMa not known: some patches lack {result['m']} neighbours of each kind")
    else:
        lines.append(
            f"  CRoMa {result['croma']:+.2f} (worst tenth {result['croma_worst']:+.2f}): above 0 the label is nearer, "
            f"below 0 the {by}; {100 * result['croma_f0']:.0f} % of patches are at or below 0"
        )
    return "\n".join(lines)

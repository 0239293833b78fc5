"""How well tissue area, and the number of patches, tell the labels of whole slides."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_feature_cohort import made_cohort, write_trident
from made_features import with_tissue

from pathopatch.core.config import GroupsConfig
from pathopatch.core.errors import InputMissingError, InputUnsupportedError
from pathopatch.features.readers import open_features
from pathopatch.stages.feature_audit import audit_features, audit_slide_labels, slide_labels_text
from pathopatch.stages.groups import form_groups
from pathopatch.stages.import_features import import_features

SETTINGS = GroupsConfig(thresholds=(0.5,))


def imported(folder: Path, fraction: tuple[float, float], *, slides: int = 12) -> Path:
    """Import slides, every second one positive, whose patches hold this much tissue by the label of the slide."""
    features, labels = made_cohort(folder, slides=slides, per_slide=8)
    table = pd.read_csv(labels)
    table["slide_label"] = table["slide_id"].str[1:].astype(int) % 2
    table["tissue_fraction"] = np.take(fraction, table["slide_label"])
    table.to_csv(labels, index=False)
    import_features(folder / "work", features, labels)
    form_groups(folder / "work", SETTINGS)
    return folder / "work"


def numbered_slides(folder: Path, patches: list[int]) -> Path:
    """Write a feature file of so many patches for each slide."""
    folder.mkdir()
    for number, count in enumerate(patches):
        features = np.random.default_rng(number).normal(size=(count, 4)).astype(np.float32)
        coords = 512 * np.stack([np.arange(count) % 8, np.arange(count) // 8], axis=1)
        write_trident(folder / f"S{number:02d}.h5", features, coords)
    return folder


@pytest.mark.parametrize(
    ("fraction", "line"),
    [
        ((0.25, 0.75), "AUROC 1.000 [0.712, 1.000]: SHORTCUT"),
        ((0.5, 0.5), "AUROC 0.500 [0.232, 0.768]: no shortcut is shown"),
    ],
)
def test_tissue_that_tells_the_label_of_a_slide_is_a_shortcut(
    tmp_path: Path, fraction: tuple[float, float], line: str
) -> None:
    lines = slide_labels_text(imported(tmp_path, fraction)).splitlines()
    assert lines[0].endswith("(12 labelled slides of 12 patients, 6 positive):")
    assert lines[1:3] == [f"  {'tissue area':<36} {line}", f"  {'mean tissue fraction of its patches':<36} {line}"]
    assert lines[3].split()[:5] == ["number", "of", "its", "patches", "AUROC"]


def test_the_number_of_patches_counts_where_tissue_is_not_known(tmp_path: Path) -> None:
    features = numbered_slides(tmp_path / "features_x", [8 + 4 * (n % 2) for n in range(12)])
    rows = [f"S{number:02d},{number % 2}" for number in range(12)]
    labels = tmp_path / "labels.csv"
    labels.write_text("\n".join(["slide_id,slide_label", *rows, "S90,1"]) + "\n")
    assert audit_slide_labels(features, labels).splitlines()[1:] == [
        f"  {'number of its patches':<36} AUROC 1.000 [0.712, 1.000]: SHORTCUT",
        "  - Left out: 1 labelled slide without features.",
        "  - Each slide counts as a patient of its own: the labels name no other patients.",
        "  - The feature files do not state the tissue of all patches: the tissue area is not known.",
    ]


def test_tissue_area_is_that_of_the_feature_files(tmp_path: Path) -> None:
    given = open_features(numbered_slides(tmp_path / "given", [8 + n for n in range(12)]))
    for number, slide_id in enumerate(given.slide_ids):
        slide = given.read(slide_id).in_level0_px(0.25)
        slide = replace(slide, tissue_fraction=np.full(len(slide), (number % 2 + 1) / len(slide), np.float32))
        with_tissue(tmp_path / "store" / f"{slide_id}.npz", slide)
    labels = tmp_path / "labels.csv"
    rows = [f"S{number:02d},{number % 2},P{number // 2}" for number in range(12)]
    labels.write_text("\n".join(["slide_id,slide_label,patient_id", *rows]) + "\n")
    text = audit_slide_labels(tmp_path / "store", labels)
    assert "of 6 patients" in text
    assert f"  {'tissue area':<36} AUROC 1.000 [0." in text
    assert "  - " not in text


def test_one_label_and_few_patients_give_no_verdict(tmp_path: Path) -> None:
    features = numbered_slides(tmp_path / "features_x", [8, 12])
    labels = tmp_path / "labels.csv"
    labels.write_text("slide_id,slide_label\nS00,1\nS01,1\n")
    assert "AUROC unknown: one label only" in audit_slide_labels(features, labels)
    labels.write_text("slide_id,slide_label\nS00,0\nS01,1\n")
    assert "not known: too few patients for a verdict" in audit_slide_labels(features, labels)
    labels.write_text("slide_id,slide_label\nother,1\n")
    with pytest.raises(InputMissingError, match="none of 1 labelled slide has features"):
        audit_slide_labels(features, labels)


def test_a_work_folder_without_labels_of_slides_says_nothing_of_them(tmp_path: Path) -> None:
    features, labels = made_cohort(tmp_path, slides=4, per_slide=8)
    import_features(tmp_path / "work", features, labels)
    form_groups(tmp_path / "work", SETTINGS)
    assert slide_labels_text(tmp_path / "work") == ""


def test_audit_of_features_takes_labels_of_slides(tmp_path: Path) -> None:
    features = numbered_slides(tmp_path / "features_x", [8 + n for n in range(6)])
    labels = tmp_path / "labels.csv"
    labels.write_text("\n".join(["slide_id,slide_label", *(f"S{n:02d},{n % 2}" for n in range(6))]) + "\n")
    assert "number of its patches" in audit_features(tmp_path / "work", features, labels, SETTINGS)
    assert not (tmp_path / "work").exists()
    with pytest.raises(InputUnsupportedError, match="labels of whole slides"):
        audit_features(tmp_path / "work", features, labels, SETTINGS, attribute="scanner")

"""One patient written in two ways is refused wherever patients are put into splits; see also `test_manifests`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import made_slides as made
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pathopatch.core.artefacts import Stamp, write_table
from pathopatch.core.config import BatchOptions, GroupsConfig, TileConfig
from pathopatch.core.errors import DuplicateIdError, PathopatchError, SplitLeakageError, TableError
from pathopatch.core.work_folder import WorkFolder
from pathopatch.groups.assign import assign_folds, assign_splits
from pathopatch.groups.decisions.decision import RecordedDecision
from pathopatch.groups.decisions.table import decisions_csv
from pathopatch.patches.import_list import read_list
from pathopatch.report.cohort_section import patients_in_several_splits
from pathopatch.report.collect import patients_in
from pathopatch.stages.check import check_manifest
from pathopatch.stages.groups import form_groups
from pathopatch.stages.tile import tile_cohort
from pathopatch.training.data_summary import slide_marks

pytestmark = pytest.mark.fault("patient-in-two-ways")
SPELLINGS = [("P1", "p1"), ("07", "7"), ("7.0", "7"), ("1E5", "100000"), ("P-1", "P1"), ("Zo\u00eb", "Zoe\u0308")]
CONFIG = GroupsConfig(thresholds=(0.5,))
each_pair = pytest.mark.parametrize("pair", SPELLINGS, ids=lambda pair: pair[0])


def patches(*patients: str) -> pd.DataFrame:
    return pd.DataFrame({"patient_id": patients, "label": 1})


def test_a_setting_says_that_two_ids_are_two_patients(
    tmp_path: Path, typed: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["slide_id,patient_id,split,path"]
    for n, patient in enumerate(("P-1", "P1", "7", "7.0")):
        lines.append(f"s{n},{patient},{'test' if n % 2 else 'train'},s{n}.tif")
        pixels = np.full((3, 64, 64), 240, np.uint8)
        pixels[:, 8:40, 8 : 30 + 8 * n] = 120
        made.write_rgb_pyramid(tmp_path / f"s{n}.tif", pixels, levels=1)
    manifest, work, answer = tmp_path / "cohort.csv", tmp_path / "work", tmp_path / "answer.toml"
    manifest.write_text("\n".join(lines) + "\n")
    assert typed("check", manifest) == 1
    said = capsys.readouterr().err
    assert said.count("SPLIT_LEAKAGE") == 2
    assert 'distinct_patients = [["P-1", "P1"]]' in said
    answer.write_text('[splits]\ndistinct_patients = [["P1", "P-1"], ["7", "7.0"]]\n')
    given = ("--config", answer, "--quiet")
    assert typed("check", manifest, *given) == 0
    assert typed("tile", manifest, "-o", work, "--patch-px", 32, *given) == 0
    assert typed("groups", work, "--threshold", 0.5, *given) == 0
    assert typed("groups", work, "--threshold", 0.4, "--force", "--quiet") == 1


@each_pair
@pytest.mark.parametrize(("split", "error"), [("test", SplitLeakageError), ("train", DuplicateIdError)])
def test_the_splits_of_slides_ask_for_one_spelling(
    split: str, error: type[PathopatchError], pair: tuple[str, str]
) -> None:
    slides = pd.DataFrame({"patient_id": pair, "split": ["train", split]})
    with pytest.raises(error, match=f"'{pair[0]}' and '{pair[1]}'"):
        assign_splits(patches(*pair), slides)


@each_pair
def test_splits_and_folds_are_not_drawn_for_two_spellings(pair: tuple[str, str]) -> None:
    slides = pd.DataFrame({"patient_id": pair, "split": ""})
    with pytest.raises(DuplicateIdError):
        assign_splits(patches(*pair), slides)
    with pytest.raises(DuplicateIdError):
        assign_folds(patches(*pair, "a", "b"), folds=3)


def test_a_split_given_to_another_spelling_is_not_drawn_again() -> None:
    slides = pd.DataFrame({"patient_id": ["p1"], "split": ["test"]})
    with pytest.raises(DuplicateIdError):
        assign_splits(patches("P1", "x", "y"), slides)


@pytest.mark.parametrize("pair", SPELLINGS[:2], ids=lambda pair: pair[0])
@pytest.mark.parametrize(
    ("splits", "code"),
    [(("train", "test"), "SPLIT_LEAKAGE"), (("val", "val"), "DUPLICATE_ID"), (("", ""), "DUPLICATE_ID")],
)
@pytest.mark.parametrize("is_folder", [False, True], ids=["list", "folder"])
def test_a_list_of_ready_patches_has_one_spelling_a_patient(
    splits: tuple[str, str], code: str, pair: tuple[str, str], tmp_path: Path, *, is_folder: bool
) -> None:
    lines = ["path,label,patient_id,split"]
    for number, (patient, split) in enumerate(zip(pair, splits, strict=True)):
        path = tmp_path / split / "tumor" / patient / f"{number}.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(np.full((16, 16, 3), 50 * number, np.uint8)).save(path)
        lines.append(f"{path.relative_to(tmp_path)},1,{patient},{split}")
    if not is_folder:
        (tmp_path / "patches.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(TableError) as caught:
        read_list(tmp_path)
    assert [problem.code for problem in caught.value.problems] == [code]


def test_a_patient_respelled_after_tiling_is_asked_for_whatever_is_decided(tmp_path: Path) -> None:
    pixels = np.full((3, 64, 64), 240, np.uint8)
    for n in range(4):
        pixels[:, 8:40, 8 : 30 + 8 * n] = 120
        made.write_rgb_pyramid(tmp_path / f"s{n}.tif", pixels, levels=1)
    lines = [f"s{n},P{n},train,s{n}.tif" for n in range(4)]
    manifest, work = tmp_path / "cohort.csv", tmp_path / "work"
    manifest.write_text("\n".join(["slide_id,patient_id,split,path", *lines]) + "\n")
    tile_cohort(manifest, work, TileConfig(patch_px=32, store="none"))
    assert set(form_groups(work, CONFIG)["patient_id"]) == {"P0", "P1", "P2", "P3"}
    manifest.write_text(manifest.read_text().replace("P0,train", "p0,test"))
    check_manifest(manifest, work, BatchOptions(force=True))
    reject = RecordedDecision(slide_id="s0", verdict="reject", reviewer="a", id=1, made="2026-01-01T00:00:00.000000Z")
    (tmp_path / "review.csv").write_text(decisions_csv([reject]))
    for decisions in (None, tmp_path / "review.csv"):
        with pytest.raises(DuplicateIdError, match="'p0' and 'P0'"):
            form_groups(work, CONFIG, decisions=decisions, force=True)


def test_a_model_knows_its_patients_in_any_spelling(tmp_path: Path) -> None:
    row = {"slide_id": ["set"], "patient_id": [""], "fingerprint": ["f"]}
    WorkFolder(tmp_path).slides.parent.mkdir(parents=True, exist_ok=True)
    write_table(WorkFolder(tmp_path).slides, pd.DataFrame(row), Stamp(stage="check"))
    marks = [
        list(slide_marks(tmp_path, pd.DataFrame({"slide_id": ["set"], "patient_id": [spelling]})).values())
        for spelling in ("P07", "p7", "P8", "TCGA-02-0001", "7.0")
    ]
    assert marks[0] == marks[1] != marks[2]
    assert marks[3:] == [["c8cb0a121e77c9aa"], ["c1b2464550df8ba0"]]  # those that bundles of 0.1.0 hold


def test_the_report_counts_a_patient_once_and_names_each_spelling() -> None:
    rows = pd.DataFrame({"patient_id": ["P1", "p01", "P2", "P2"], "split": ["train", "test", "val", ""], "patients": 1})
    assert patients_in_several_splits(rows) == ["P1", "p01"]
    assert patients_in(rows) == 2
    assert patients_in_several_splits(rows.assign(split="")) == []

"""The audit of feature files: what is imported, where tissue is from, what is said, and what stays untouched."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import made_features
import made_slides as made
import numpy as np
import pandas as pd
import pytest
from made_feature_cohort import SIDE_PX, made_cohort
from made_features import with_tissue
from written_files import contents

from pathopatch.core.artefacts import Stamp, read_table, write_table
from pathopatch.core.config import BatchOptions, GroupsConfig, TileConfig
from pathopatch.core.errors import (
    InputChangedError,
    InputMissingError,
    InputUnsupportedError,
    MppMissingError,
    StaleArtefactError,
)
from pathopatch.core.status import read_status
from pathopatch.features.cohort import read_cohort, read_patches
from pathopatch.features.readers import open_features
from pathopatch.patches.tile import COLUMNS, is_tiled
from pathopatch.report import write_report
from pathopatch.report.collect import Study
from pathopatch.stages.audit import audit
from pathopatch.stages.check import check_manifest
from pathopatch.stages.feature_audit import audit_features
from pathopatch.stages.groups import form_groups
from pathopatch.stages.import_features import import_features
from pathopatch.stages.tile import tile_cohort

HALVES = GroupsConfig(thresholds=(0.5,))


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The work folder of an audit of a planted shortcut, and its text."""
    folder = tmp_path_factory.mktemp("planted")
    features, labels = made_cohort(folder, shift=0.25)
    return folder, audit_features(folder / "work", features, labels, HALVES)


def test_audit_of_features_finds_a_planted_shortcut(audited: tuple[Path, str]) -> None:
    folder, text = audited
    assert "Features of uni_v2 (8 values, layout trident): 480 patches of 12 slides, 480 labelled." in text
    assert "tissue fractions are given in the labels" in text
    assert "SHORTCUT. In the training patches the tissue fraction alone tells the label" in text
    assert audit(folder / "work")["verdict"]["is_flagged"] is True


def test_patch_tables_lead_to_the_rows_of_the_feature_files(audited: tuple[Path, str]) -> None:
    folder, _ = audited
    table = read_table(folder / "work" / "patches" / "S03.parquet")
    assert list(table.columns) == [*COLUMNS, "feature_row"]
    assert table["patch_id"].iloc[9] == f"S03@{SIDE_PX},{SIDE_PX}"
    assert set(table["patient_id"]) == {"P03"}
    source = open_features(folder / "20x_256px_0px_overlap").read("S03")
    assert np.array_equal(read_patches(folder / "work", table.iloc[[5, 2]]), source.features[[5, 2]])


def test_the_report_shows_layout_and_notes(audited: tuple[Path, str]) -> None:
    folder, _ = audited
    page = (folder / "work" / "report" / "index.html").read_text()
    assert "uni_v2" in page
    assert "Tissue fractions are given in the labels." in page
    before = contents(folder / "work" / "report")
    assert write_report(folder / "work").is_file()
    assert contents(folder / "work" / "report") == before


def test_a_second_audit_changes_nothing_and_foreign_files_stay(audited: tuple[Path, str]) -> None:
    folder, text = audited
    before = contents(folder)
    again = audit_features(
        folder / "work", folder / "20x_256px_0px_overlap" / "features_uni_v2", folder / "labels.csv", HALVES
    )
    assert again == text
    assert contents(folder) == before


def imported(folder: Path, **options: Any) -> pd.DataFrame:
    """Import a cohort again into another work folder; return all its patches."""
    features, labels = folder / "20x_256px_0px_overlap", folder / "labels.csv"
    import_features(folder / "other", features, labels, **options)
    return pd.concat([read_table(path) for path in sorted((folder / "other" / "patches").glob("*.parquet"))])


def test_nothing_about_tissue_is_an_error_that_names_three_ways(tmp_path: Path) -> None:
    made_cohort(tmp_path, slides=2, tissue="")
    with pytest.raises(InputMissingError, match="--slides.*column tissue_fraction.*--attribute"):
        imported(tmp_path)
    assert not (tmp_path / "other" / "features.json").exists()


def test_an_attribute_is_audited_in_place_of_tissue(tmp_path: Path) -> None:
    _, labels = made_cohort(tmp_path, tissue="")
    table = pd.read_csv(labels)
    is_exception = np.arange(len(table)) % 7 == 0
    table["scanner"] = np.where((table["label"] == 1) ^ is_exception, "GT450", "AT2")
    table.to_csv(labels, index=False)
    text = audit_features(tmp_path / "work", tmp_path / "20x_256px_0px_overlap", labels, HALVES, attribute="scanner")
    assert "SHORTCUT. In the training patches the patches' own attribute alone tells the label" in text
    assert "How well the tissue fraction alone" not in text


def test_tissue_is_measured_on_the_slides_that_are_named(tmp_path: Path) -> None:
    made_cohort(tmp_path, slides=2, tissue="", side=32)
    folder = tmp_path / "slides"
    folder.mkdir()
    for number, centre in enumerate([(0, 0), (128, 128)]):
        image = made.disc_image(256, 256, centre, 75, tissue=(180, 90, 150), glass=(245, 245, 245))
        made.write_rgb_pyramid(folder / f"S{number:02d}.tif", image, tile_px=64)
    patches = imported(tmp_path, slides=folder)
    y, x = np.mgrid[:256, :256] + 0.5
    truth = (x - 128) ** 2 + (y - 128) ** 2 <= 75**2
    second = patches[patches["slide_id"] == "S01"]
    expected = [
        truth[top : top + 32, left : left + 32].mean() for left, top in zip(second["x"], second["y"], strict=True)
    ]
    assert second["tissue_fraction"].tolist() == pytest.approx(expected, abs=0.01)
    assert "tissue fractions were measured on 2 slides" in read_cohort(tmp_path / "other").notes


def test_stored_tissue_comes_before_that_of_the_labels(tmp_path: Path) -> None:
    features, labels = made_cohort(tmp_path, slides=2)
    store = tmp_path / "store"
    for slide_id in ("S00", "S01"):
        slide = open_features(features).read(slide_id).in_level0_px(0.25)
        fraction = np.linspace(0.4, 0.9, len(slide)).astype(np.float32)
        with_tissue(store / f"{slide_id}.npz", replace(slide, tissue_fraction=fraction, mpp=0.25))
    import_features(tmp_path / "work", store, labels)
    table = read_table(tmp_path / "work" / "patches" / "S01.parquet")
    assert table["tissue_fraction"].tolist() == pytest.approx(np.linspace(0.4, 0.9, 40), abs=1e-6)
    notes = read_cohort(tmp_path / "work").notes
    assert "tissue fractions are taken from the feature files" in notes
    assert "every patch has at least 40 % tissue: there is less nowhere, or such patches were left out before" in notes


@pytest.fixture
def micrometres(tmp_path: Path) -> Callable[[str], Path]:
    """Write features of STAMP, 128 um apart, one patch twice; return a function that writes labels."""
    (tmp_path / "features").mkdir()
    with h5py.File(tmp_path / "features" / "A.h5", "w") as file:
        file["feats"] = np.zeros((4, 3), np.float16)
        file["coords"] = np.array([[0, 0], [128, 0], [256, 0], [128, 0]], np.float32)
        file.attrs.update(unit="um", tile_size_um=128.0, feat_type="tile")

    def write(rows: str) -> Path:
        path = tmp_path / "labels.csv"
        path.write_text(f"slide_id,x,y,label,tissue_fraction\n{rows}")
        return path

    return write


def test_micrometres_need_a_scale(micrometres: Callable[[str], Path], tmp_path: Path) -> None:
    labels = micrometres("A,0,0,1,0.5\nA,512,0,0,0.5\n")
    with pytest.raises(MppMissingError):
        import_features(tmp_path / "work", tmp_path / "features", labels)
    result = import_features(tmp_path / "work", tmp_path / "features", labels, slide_mpp=0.25)
    table = read_table(tmp_path / "work" / "patches" / "A.parquet")
    assert table["x"].tolist() == [0, 512, 1024]
    assert table["label"].tolist() == [1, 0, -1]
    assert table["feature_row"].tolist() == [0, 1, 3]
    assert "1 patch left out: an earlier one is at the same place" in result.notes
    assert read_table(tmp_path / "work" / "slides.parquet")["side_px"].tolist() == [512.0]


def test_the_scale_of_the_slide_comes_before_a_stated_one(micrometres: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "slides").mkdir()
    made.write_rgb_pyramid(tmp_path / "slides" / "A.tif", np.full((3, 256, 768), 255, np.uint8), mpp=0.5)
    labels = micrometres("A,0,0,1,0.5\nA,256,0,0,0.5\n")
    import_features(tmp_path / "work", tmp_path / "features", labels, slides=tmp_path / "slides", slide_mpp=0.25)
    assert read_table(tmp_path / "work" / "patches" / "A.parquet")["x"].tolist() == [0, 256, 512]


def test_other_labels_are_stale_until_forced(tmp_path: Path) -> None:
    features, labels = made_cohort(tmp_path, slides=2)
    import_features(tmp_path / "work", features, labels)
    table = pd.read_csv(labels)
    table["label"] = 1 - table["label"]
    table.to_csv(labels, index=False)
    with pytest.raises(StaleArtefactError, match="input 'labels' differs"):
        import_features(tmp_path / "work", features, labels)
    (features / "S01.h5").unlink()
    import_features(tmp_path / "work", features, labels, force=True)
    assert [path.stem for path in (tmp_path / "work" / "patches").iterdir()] == ["S00"]
    assert read_table(tmp_path / "work" / "patches" / "S00.parquet")["label"].iloc[0] == 1


def test_a_changed_file_of_coordinates_makes_the_cohort_stale(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    folder = made_features.clam(tmp_path / "files")
    labels, work = tmp_path / "labels.csv", tmp_path / "work"
    rows = [
        f"{name},{x},{y},{place % 2},0.5" for name, xy in made_features.XY.items() for place, (x, y) in enumerate(xy)
    ]
    labels.write_text("slide_id,x,y,label,tissue_fraction\n" + "\n".join(rows))
    import_features(work, folder, labels, slide_mpp=made_features.MPP)
    made_features.clam_patches(tmp_path / "files" / "patches" / "A.h5", made_features.XY["A"], patch_px=128)
    with pytest.raises(InputChangedError, match="or their coordinates"):
        read_patches(work, read_table(work / "patches" / "A.parquet"))
    with pytest.raises(StaleArtefactError):
        import_features(work, folder, labels, slide_mpp=made_features.MPP)


@pytest.mark.parametrize("is_killed", [False, True])
def test_slides_are_not_tiled_into_a_work_folder_of_features(tmp_path: Path, is_killed: bool) -> None:
    features, labels = made_cohort(tmp_path, slides=2)
    work = tmp_path / "work"
    import_features(work, features, labels)
    if is_killed:
        (work / "features.json").unlink()
    before = contents(work)
    made.write_rgb_pyramid(tmp_path / "slide.tif", np.full((3, 256, 256), 255, np.uint8))
    (tmp_path / "manifest.csv").write_text("slide_id,patient_id,path\nother,p,slide.tif\n")
    for force in (False, True):
        with pytest.raises(InputUnsupportedError, match="patches of this work folder are features"):
            tile_cohort(tmp_path / "manifest.csv", work, TileConfig(), BatchOptions(force=force))
        with pytest.raises(InputUnsupportedError, match="patches of this work folder are features"):
            check_manifest(tmp_path / "manifest.csv", work, BatchOptions(force=force))
    assert contents(work) == before


def test_a_killed_forced_import_leaves_no_cohort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = made_cohort(tmp_path, slides=2)
    work = tmp_path / "work"
    import_features(work, features, labels)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pathopatch.stages.import_features.update_status", killed)
    with pytest.raises(KeyboardInterrupt):
        import_features(work, features, labels, slide_mpp=0.25, force=True)
    assert not (work / "features.json").exists()  # else rows of the new tables would be those of the old files


def test_a_work_folder_of_slides_is_not_overwritten(tmp_path: Path) -> None:
    features, labels = made_cohort(tmp_path, slides=2)
    write_table(tmp_path / "work" / "slides.parquet", pd.DataFrame({"slide_id": ["s"]}), Stamp(stage="check"))
    with pytest.raises(InputUnsupportedError, match="holds a cohort of slides"):
        import_features(tmp_path / "work", features, labels)


def test_a_killed_import_is_made_anew(tmp_path: Path) -> None:
    features, labels = made_cohort(tmp_path, slides=2)
    import_features(tmp_path / "work", features, labels)
    whole = contents(tmp_path / "work" / "patches")
    (tmp_path / "work" / "features.json").unlink()
    (tmp_path / "work" / "patches" / "S01.parquet").unlink()
    import_features(tmp_path / "work", features, labels)
    assert contents(tmp_path / "work" / "patches") == whole


def test_slides_of_a_killed_import_do_not_count_as_tiled(tmp_path: Path) -> None:
    features, labels = made_cohort(tmp_path, slides=2)
    work = tmp_path / "work"
    import_features(work, features, labels)
    assert is_tiled(work, "S00")
    assert read_status(work, "S00")["tile"]["labelled_patches"] == 40
    table = pd.read_csv(labels)
    table.iloc[1:].to_csv(labels, index=False)
    other = tmp_path / "other"
    import_features(other, features, labels)
    (work / "patches" / "S00.parquet").write_bytes((other / "patches" / "S00.parquet").read_bytes())
    assert not is_tiled(work, "S00")


def test_splits_of_the_labels_are_those_of_the_groups(tmp_path: Path) -> None:
    features, labels = made_cohort(tmp_path, slides=6)
    table = pd.read_csv(labels)
    table["split"] = table["slide_id"].map(
        dict(zip([f"S{n:02d}" for n in range(6)], ["test", "val", *["train"] * 4], strict=True))
    )
    table.to_csv(labels, index=False)
    import_features(tmp_path / "work", features, labels)
    groups = form_groups(tmp_path / "work", HALVES)
    assert set(groups.loc[groups["split"] == "test", "slide_id"]) == {"S00"}
    assert set(groups.loc[groups["split"] == "val", "slide_id"]) == {"S01"}


def test_patients_of_one_slide_have_splits(tmp_path: Path) -> None:
    features, labels = made_cohort(tmp_path, slides=1, per_slide=60)
    table = pd.read_csv(labels)
    table["patient_id"] = [f"P{row % 12:02d}" for row in range(60)]
    table["label"] = table["patient_id"].isin([f"P{number:02d}" for number in range(6)]).astype(int)
    table.to_csv(labels, index=False)
    work = tmp_path / "work"
    import_features(work, features, labels)
    groups = form_groups(work, HALVES)
    assert (groups.groupby("patient_id")["split"].nunique() == 1).all()
    assert groups.drop_duplicates("patient_id").groupby("split")["label"].agg(["size", "sum"]).to_dict("index") == {
        "test": {"size": 2, "sum": 1}, "train": {"size": 8, "sum": 4}, "val": {"size": 2, "sum": 1},
    }  # fmt: skip
    slides = Study(work).slides  # the report's table: a row for each split
    assert dict(zip(slides["split"], slides["patients"], strict=True)) == {"test": 2, "train": 8, "val": 2}


def test_command_audits_features_and_refuses_what_does_not_fit(
    said: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, labels = made_cohort(tmp_path)
    monkeypatch.chdir(tmp_path)
    printed = said("audit", "--features", features, "--labels", labels, "--threshold", 0.4, "--quiet")
    assert "report: features-audit/report/index.html" in printed.out
    assert (tmp_path / "features-audit" / "features.json").is_file()
    both, folder = ("--features", features, "--labels", labels), "features-audit"
    for wrong in (both[:2], (folder, *both[2:]), (folder, *both), ()):
        said("audit", *wrong, code=2)
    assert said("audit", "features-audit").out.startswith("No shortcut is shown")


@pytest.mark.slow
def test_audit_of_features_runs_without_torch(tmp_path: Path) -> None:
    features, labels = made_cohort(tmp_path)
    program = (
        "import sys\n"
        "from pathopatch.cli.program import app\n"
        "app(sys.argv[1:], standalone_mode=False)\n"
        "assert 'torch' not in sys.modules\n"
    )
    command = [sys.executable, "-c", program, "audit", "--features", features, "--labels", labels, "-o", "work", "-q"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("Features of ")


def test_the_settings_say_that_two_ids_of_labels_are_two_patients(said: Callable, tmp_path: Path) -> None:
    features, labels = made_cohort(tmp_path)
    table = pd.read_csv(labels)
    table["patient_id"] = table["patient_id"].replace({"P00": "P-1", "P01": "P1"})
    table.to_csv(labels, index=False)
    command = ["audit", "--features", features, "--labels", labels, "-o", tmp_path / "work", "--quiet"]
    answer = re.search(r"\[splits\] (distinct_patients = \S+ \S+)", said(*command, code=1).err)
    assert answer is not None
    (tmp_path / "answer.toml").write_text(f"[splits]\n{answer[1]}\n", encoding="utf-8")
    said(*command, "--config", tmp_path / "answer.toml")

"""One picture under two names is refused where splits would part it, and where its labels differ."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import made_slides as made
import numpy as np
import pandas as pd
import pytest
from made_feature_cohort import made_cohort
from made_model import made_spec
from numpy.typing import NDArray
from PIL import Image

from pathopatch.core.artefacts import read_stamp, read_table, write_table
from pathopatch.core.config import TileConfig
from pathopatch.core.errors import SplitLeakageError, TableError
from pathopatch.evaluation.external_validation import leakage_warnings
from pathopatch.evaluation.predicting import require_unseen
from pathopatch.features.labels import read_slide_labels
from pathopatch.features.slide_features import row_sketch, same_rows
from pathopatch.patches.import_list import read_list
from pathopatch.patches.patch_import import tile_patches
from pathopatch.stages.batch import slide_table
from pathopatch.stages.batch.slide_table import with_finished, write_slides
from pathopatch.stages.check import check_manifest
from pathopatch.stages.feature_audit import audit_slide_labels
from pathopatch.stages.import_features import import_features
from pathopatch.training.data_summary import bundle_marks

pytestmark = pytest.mark.fault("copies")


def image(seed: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    squares = rng.integers(0, 2, (16, 16)) * 110 + 130
    return np.repeat(squares.repeat(16, 0).repeat(16, 1).astype(np.uint8)[None], 3, 0)


def write_cohort(folder: Path, *rows: str) -> Path:
    """Write the slides a, b, and a saved with other compression; and a manifest."""
    folder.mkdir(exist_ok=True)
    made.write_rgb_pyramid(folder / "a.tif", image(0))
    made.write_rgb_pyramid(folder / "b.tif", image(1))
    made.write_rgb_pyramid(folder / "jpeg.tif", image(0), compression="jpeg", levels=1)
    manifest = folder / "manifest.csv"
    manifest.write_text("\n".join(["slide_id,patient_id,split,slide_label,path", *rows]) + "\n")
    return manifest


def codes(caught: pytest.ExceptionInfo[TableError]) -> list[str]:
    return [problem.code for problem in caught.value.problems]


@pytest.mark.fault("label-conflict")
def test_equal_files_with_two_labels_are_named(tmp_path: Path) -> None:
    manifest = write_cohort(tmp_path, "a,p,train,1,a.tif", "b,p,train,0,b.tif")
    shutil.copy(tmp_path / "a.tif", tmp_path / "b.tif")
    with pytest.raises(TableError, match="the same content and the labels 1 and 0: a and b") as caught:
        check_manifest(manifest)
    assert codes(caught) == ["LABEL_CONFLICT", "DUPLICATE_ID"]


def test_a_model_knows_its_slides_by_their_content_alone(tmp_path: Path) -> None:
    for name, rows in (("own", ["a,p,train,,a.tif", "b,r,val,,b.tif"]), ("new", ["x,s,,,jpeg.tif", "y,t,,,b.tif"])):
        check_manifest(write_cohort(tmp_path / name, *rows), tmp_path / name / "work")
    groups = pd.DataFrame({"slide_id": ["a", "b"], "patient_id": ["p", "r"], "split": ["val", "train"], "label": 1})
    spec = made_spec(training=bundle_marks(tmp_path / "own" / "work", groups))
    work, here = tmp_path / "new" / "work", pd.DataFrame({"slide_id": ["x", "y"], "patient_id": ["s", "t"]})
    (trained,) = leakage_warnings(spec, work, here)
    assert trained.startswith("The model was trained on 1 of the 2 slides that are judged (y)")
    with pytest.raises(SplitLeakageError, match="the first is y"):
        require_unseen(work, here.assign(split="test", label=1), spec, ("test",), place=tmp_path)
    require_unseen(work, here.assign(split=["test", "train"], label=1), spec, ("test",), place=tmp_path)


def test_a_column_of_an_earlier_version_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, work = write_cohort(tmp_path, "a,p,train,,a.tif", "b,r,val,,b.tif"), tmp_path / "work"
    check_manifest(manifest, work)
    table = read_table(work / "slides.parquet")
    stamp = read_stamp(work / "slides.parquet")
    assert stamp is not None
    write_table(work / "slides.parquet", table.assign(structure="x"), stamp)
    check_manifest(manifest, work)
    assert read_stamp(work / "slides.parquet") == stamp
    monkeypatch.setattr(slide_table, "is_recorded_done", lambda *_: True)
    assert list(with_finished(work, table[:1], ["b"])["slide_id"]) == ["a", "b"]
    write_slides(work, with_finished(work, table[:1], ["b"]), force=False)
    assert read_stamp(work / "slides.parquet") == stamp


def features_with_copy(folder: Path, split: str, patient: str, *, labels: str = "same") -> tuple[Path, Path]:
    """Write features of six slides in splits, and of S00 once more as S90: compressed, its rows in another order."""
    features, path = made_cohort(folder, slides=6)
    with h5py.File(features / "S00.h5") as own, h5py.File(features / "S90.h5", "w") as other:
        for name in own:
            values = own[name][:][::-1]
            stored = values.astype(np.float32) if name == "features" else values
            other.create_dataset(name, data=stored, compression="gzip")
            other[name].attrs.update(own[name].attrs)
    table = pd.read_csv(path)
    table["split"] = table["slide_id"].map({"S04": "val", "S05": "test"}).fillna("train")
    copied = table[table["slide_id"] == "S00"].assign(slide_id="S90", patient_id=patient, split=split)
    if labels == "other":
        copied["label"] = 1 - copied["label"]
    pd.concat([table, copied]).to_csv(path, index=False)
    return features, path


@pytest.mark.parametrize(("split", "patient"), [("test", "P90"), ("train", "P90")])
def test_features_under_two_ids_are_a_leak(split: str, patient: str, tmp_path: Path) -> None:
    features, labels = features_with_copy(tmp_path, split, patient)
    with pytest.raises(TableError, match="S00 and S90 are one picture") as caught:
        import_features(tmp_path / "work", features, labels)
    assert codes(caught) == ["SPLIT_LEAKAGE"]
    assert not (tmp_path / "work" / "slides.parquet").exists()


def test_features_of_one_patient_are_accepted_unless_the_labels_of_a_patch_differ(tmp_path: Path) -> None:
    assert len(import_features(tmp_path / "a/work", *features_with_copy(tmp_path / "a", "train", "P00")).files) == 7
    with pytest.raises(TableError, match="S00 and S90"):
        import_features(tmp_path / "b/work", *features_with_copy(tmp_path / "b", "train", "P00", labels="other"))


def test_slides_that_share_glass_alone_are_not_one() -> None:
    rng = np.random.default_rng(0)
    white, black = np.ones((5, 16)), np.zeros((5, 16))
    slides = [np.concatenate([white, black, rng.normal(size=(count, 16))]) for count in (1, 8, 200)]
    sketches = [row_sketch(rows.astype(np.float32)) for rows in (*slides, white, white, slides[2][50:])]
    assert list(same_rows(sketches)) == [(2, 5)]
    assert row_sketch(white) == frozenset()


def test_labels_that_part_one_slide_name_its_patients(tmp_path: Path) -> None:
    features, path = made_cohort(tmp_path, slides=4, per_slide=8)
    table = pd.read_csv(path)
    table["split"] = table["slide_id"].map({"S02": "val", "S03": "test"}).fillna("train")
    table.loc[2:3, ["patient_id", "split"]] = ["P90", "test"]
    table.to_csv(path, index=False)
    with pytest.raises(SplitLeakageError, match="slide S00 is in several splits: patient P00 in train and P90 in test"):
        import_features(tmp_path / "work", features, path)
    table.drop(columns="split").to_csv(path, index=False)  # patients of one slide may be divided by drawing
    assert len(import_features(tmp_path / "work", features, path).files) == 4


def test_labels_of_slides_are_not_audited_with_copies_among_them_and_each_is_named(tmp_path: Path) -> None:
    features, path = made_cohort(tmp_path, slides=12)
    for number in range(6):
        shutil.copy(features / f"S0{number}.h5", features / f"S9{number}.h5")
    lines = [f"S{number:02d},{number % 2},P{number:02d}" for number in range(12)]
    lines += [f"S9{number},{number % 2 if number else 1},P9{number}" for number in range(6)]
    path.write_text("\n".join(["slide_id,slide_label,patient_id", *lines]) + "\n")
    with pytest.raises(TableError) as caught:
        audit_slide_labels(features, path)
    assert codes(caught) == ["LABEL_CONFLICT", *["SPLIT_LEAKAGE"] * 6]
    assert all(f"S9{number}" in str(caught.value) for number in range(6))


def write_patches(folder: Path, *rows: str) -> Path:
    """Write the image a.png, the same pixels as a.bmp, another one as b.png, and a list."""
    first, other = (image(seed)[:, ::4, ::4].transpose(1, 2, 0) for seed in (0, 1))
    Image.fromarray(first).save(folder / "a.png")
    Image.fromarray(first).save(folder / "a.tif")
    Image.fromarray(other).save(folder / "b.png")
    (folder / "patches.csv").write_text("\n".join(["path,label,patient_id", *rows]) + "\n")
    return folder


@pytest.mark.fault("label-conflict")
def test_one_image_with_two_labels_is_refused_whoever_its_patient_is(tmp_path: Path) -> None:
    for patient, expected in (("p", ["LABEL_CONFLICT"]), ("q", ["LABEL_CONFLICT", "SPLIT_LEAKAGE"])):
        source = write_patches(tmp_path, "a.png,1,p", "b.png,0,r", f"a.tif,0,{patient}")
        with pytest.raises(TableError, match=r"a\.png and a\.tif are one picture with the labels 1 and 0") as caught:
            tile_patches(source, TileConfig(), tmp_path / "work")
        assert codes(caught) == expected
        shutil.copy(tmp_path / "a.png", tmp_path / "a.tif")  # the same bytes are found before any pixel is read
        with pytest.raises(TableError) as caught:
            read_list(source)
        assert codes(caught) == expected
    source = write_patches(tmp_path, "a.png,1,p", "b.png,0,r", "a.tif,,p")  # a label that is missing contradicts none
    assert tile_patches(source, TileConfig(), tmp_path / "work")[0].patches == 3


@pytest.mark.parametrize(("patients", "is_said"), [(120, True), (60, False)])
def test_a_patient_for_each_of_hundreds_of_images_looks_invented(
    patients: int, tmp_path: Path, *, is_said: bool
) -> None:
    rng = np.random.default_rng(0)
    lines = ["path,label,patient_id"]
    for number in range(120):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3)).astype(np.uint8)).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,{number % 2},p{number % patients}")
    (tmp_path / "patches.csv").write_text("\n".join(lines) + "\n")
    result, _ = tile_patches(tmp_path, TileConfig(), tmp_path / "work")
    assert any("patients look invented: 120 patients of 120 images" in text for text in result.warnings) == is_said


@pytest.mark.parametrize("ids", [("s1", "s1\ufe0f"), ("sA", "s\uff21")])
def test_slides_whose_ids_look_alike_are_one_id(ids: tuple[str, str], tmp_path: Path) -> None:
    manifest = write_cohort(tmp_path, f"{ids[0]},p,,,a.tif", f"{ids[1]},q,,,b.tif")
    with pytest.raises(TableError, match="rows 2, 3 have ids of one Unicode form") as caught:
        check_manifest(manifest)
    assert codes(caught) == ["DUPLICATE_ID"]
    labels = tmp_path / "labels.csv"
    labels.write_text(f"slide_id,slide_label\n{ids[0]},1\n{ids[1]},0\n")
    with pytest.raises(TableError) as caught:
        read_slide_labels(labels)
    assert codes(caught) == ["DUPLICATE_ID"]

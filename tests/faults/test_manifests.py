"""Bad manifests: refused as a whole before anything is written, by the code that says what is wrong."""

from __future__ import annotations

import csv
import unicodedata
from pathlib import Path

import made_slides as made
import numpy as np
import openpyxl
import pandas as pd
import pytest
from made_model import write_model

from pathopatch.core.config import PredictConfig, TileConfig
from pathopatch.core.errors import InputUnsupportedError, TableError
from pathopatch.patches.tile import tile_slide
from pathopatch.report import write_report
from pathopatch.slides import open_slide
from pathopatch.stages.check import check_manifest
from pathopatch.stages.find_slides import find_cohort, slides_to_predict
from pathopatch.stages.predict import predict_cohort
from pathopatch.stages.tile import tile_cohort

Row = dict[str, str]

IDS = {
    "climbs": "../../x",
    "is absolute": "/tmp/x",
    "has a new line": "a\nb",
    "has 300 characters": "x" * 300,
    "Windows reserves": "CON",
    "runs from right to left": "a\u202egpj.b",
    "is a formula": "=cmd()",
}
MANIFESTS: list[tuple[str, str, list[Row], str]] = [
    ("same-twice", "one id twice", [{"slide_id": "a", "path": "a.tif"}, {"slide_id": "a", "path": "b.tif"}],
     "DUPLICATE_ID"),
    ("same-twice", "ids alike but for case", [{"slide_id": "a", "path": "a.tif"}, {"slide_id": "A", "path": "b.tif"}],
     "DUPLICATE_ID"),
    ("same-twice", "one content twice", [{"slide_id": "a", "path": "a.tif"}, {"slide_id": "c", "path": "c.tif"}],
     "DUPLICATE_ID"),
    ("same-twice", "one content in two splits",
     [{"slide_id": "a", "path": "a.tif", "split": "train"}, {"slide_id": "c", "path": "c.tif", "split": "test"}],
     "SPLIT_LEAKAGE"),
    ("patient-in-two-splits", "a patient in two splits",
     [{"slide_id": "a", "patient_id": "p", "path": "a.tif", "split": "train"},
      {"slide_id": "b", "patient_id": "p", "path": "b.tif", "split": "test"}],
     "SPLIT_LEAKAGE"),
    *(("patient-in-two-ways", f"{first} and {second} in the splits {'train'!r} and {split!r}",
       [{"slide_id": "a", "patient_id": first, "path": "a.tif", "split": "train"},
        {"slide_id": "b", "patient_id": second, "path": "b.tif", "split": split}], code)
      for first, second in (("P1", "p1"), ("07", "7"), ("site-A.007", "SITE-a.7"))
      for split, code in (("test", "SPLIT_LEAKAGE"), ("", "SPLIT_LEAKAGE"), ("train", "DUPLICATE_ID"))),
    ("mpp", "a scale of zero", [{"slide_id": "a", "path": "a.tif", "mpp": "0"}], "MPP_MISSING"),
    ("mpp", "a scale that is no number", [{"slide_id": "a", "path": "a.tif", "mpp": "nan"}], "MPP_MISSING"),
    ("mpp", "an absurd scale", [{"slide_id": "a", "path": "a.tif", "mpp": "250"}], "MPP_MISSING"),
    *(("slide-id", f"an id that {what}", [{"slide_id": text, "patient_id": "p", "path": "a.tif"}], "INPUT_UNSUPPORTED")
      for what, text in IDS.items()),
    ("slide-id", "a patient that climbs", [{"slide_id": "a", "patient_id": "../p", "path": "a.tif"}],
     "INPUT_UNSUPPORTED"),
]  # fmt: skip


def image(seed: int) -> np.ndarray:
    rgb = np.full((3, 64, 64), 245, np.uint8)
    rgb[:, 10:40, 10 : 40 + seed] = 120
    return rgb


@pytest.mark.parametrize(
    ("rows", "code"), [pytest.param(*row[2:], id=row[1], marks=pytest.mark.fault(row[0])) for row in MANIFESTS]
)
def test_a_bad_manifest_is_refused_before_anything_is_written(rows: list[Row], code: str, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name, seed in (("a.tif", 0), ("b.tif", 1), ("c.tif", 0)):
        made.write_rgb_pyramid(folder / name, image(seed), levels=1)
    with (folder / "manifest.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["slide_id", "patient_id", "split", "path", "mpp"], restval="")
        writer.writeheader()
        writer.writerows({"patient_id": row["slide_id"], **row} for row in rows)
    with pytest.raises(TableError) as caught:
        tile_cohort(folder / "manifest.csv", tmp_path / "work" / "out", TileConfig(patch_px=32))
    assert {problem.code for problem in caught.value.problems} == {code}
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.fault("other-kinds")
def test_a_file_that_is_not_there_is_refused_by_the_check(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("slide_id,patient_id,path\na,a,none.tif\n")
    with pytest.raises(TableError) as caught:
        check_manifest(tmp_path / "m.csv", tmp_path / "work")
    assert [problem.code for problem in caught.value.problems] == ["INPUT_MISSING"]
    assert not (tmp_path / "work").exists()


@pytest.mark.fault("slide-id")
@pytest.mark.parametrize("text", IDS.values(), ids=IDS)
def test_such_an_id_is_refused_by_every_other_door_too(text: str, tmp_path: Path) -> None:
    made.write_rgb_pyramid(tmp_path / "a.tif", image(0), levels=1)
    with pytest.raises(InputUnsupportedError):
        slides_to_predict(str(tmp_path / "a.tif"), slide_id=text)
    with open_slide(tmp_path / "a.tif") as slide, pytest.raises(InputUnsupportedError):
        tile_slide(slide, TileConfig(patch_px=32), tmp_path / "work" / "out", slide_id=text)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]


@pytest.mark.fault("other-kinds")
def test_a_missing_file_fails_its_slide_alone(tmp_path: Path) -> None:
    made.write_rgb_pyramid(tmp_path / "a.tif", image(0), levels=1)
    for name in ("b", "c"):
        made.write_rgb_pyramid(tmp_path / f"{name}.tif", image(ord(name) - 90), levels=1)
    lines = [
        "slide_id,patient_id,path,tumor_mask",
        "a,a,a.tif,",
        "gone,gone,gone.tif,",
        "b,b,b.tif,gone.png",
        "d,d,dir,",
    ]
    (tmp_path / "dir").mkdir()
    (tmp_path / "manifest.csv").write_text("\n".join(lines))
    outcomes = tile_cohort(tmp_path / "manifest.csv", tmp_path / "out", TileConfig(patch_px=32))
    assert {outcome.slide_id: outcome.code for outcome in outcomes} == {
        "a": "", "gone": "INPUT_MISSING", "b": "INPUT_MISSING", "d": "INPUT_UNSUPPORTED",
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.fault("slide-id")
def test_ids_of_any_script_go_through_every_stage(tmp_path: Path) -> None:
    ids = ["切片-7", "Срез.3", "هيكل1", "कोशिका", "Mu\u0308ller", "é" * 64]
    book = openpyxl.Workbook()
    assert book.active is not None
    book.active.append(["slide_id", "patient_id", "path"])
    for number, slide_id in enumerate(ids):
        made.write_rgb_pyramid(tmp_path / f"{number}.tif", image(number), levels=1)
        book.active.append([slide_id, slide_id, f"{number}.tif"])
    book.save(tmp_path / "m.xlsx")
    out, model = tmp_path / "out", write_model(tmp_path / "model")
    tiled = tile_cohort(tmp_path / "m.xlsx", out, TileConfig(patch_px=16))
    rows = find_cohort([str(tmp_path / "m.xlsx")]).rows
    predicted = predict_cohort(rows, model, out, PredictConfig(device="cpu"))
    named = [unicodedata.normalize("NFC", slide_id) for slide_id in ids]
    for outcomes in (tiled, predicted):
        assert [(outcome.slide_id, outcome.code) for outcome in outcomes] == [(slide_id, "") for slide_id in named]
    assert {path.name for path in (out / "heatmaps").iterdir()} == set(named)
    assert set(pd.read_csv(out / "cohort.csv")["slide_id"]) == set(named)
    assert all(slide_id in write_report(out).read_text(encoding="utf-8") for slide_id in named)

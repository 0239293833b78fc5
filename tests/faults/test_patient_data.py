"""No output holds what a slide file says of the patient; with `--deidentify` no names of slides, patients and files."""

from __future__ import annotations

import base64
import csv
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import made_slides as made
import numpy as np
import pytest
from made_model import write_model
from marked_files import MARKER, readable
from PIL import Image
from written_files import contents

from pathopatch.core.config import PredictConfig, TileConfig
from pathopatch.core.errors import DuplicateIdError, InputUnsupportedError
from pathopatch.core.status import read_status, update_status
from pathopatch.heatmaps import prediction_files
from pathopatch.heatmaps.overlay import Legend
from pathopatch.patches.store import PatchStore
from pathopatch.report import write_report
from pathopatch.slides.manifest import SlideRow, pseudonym, pseudonymize
from pathopatch.stages.find_slides import find_cohort, slides_to_predict
from pathopatch.stages.info import describe_row
from pathopatch.stages.predict import predict_cohort, predict_plan, require_unmixed
from pathopatch.stages.tile import tile_cohort

pytestmark = pytest.mark.fault("patient-data")

CONFIG = PredictConfig(device="cpu", precision="float32", threads=1, deidentify=True)
NAMES = ("MRS-SMITH", "S0M3-1D", "P4T13NT", MARKER)


def cohort(folder: Path) -> Path:
    """Two slides whose files, ids, patients and descriptions all hold names, one of them spoilt, and one missing."""
    image = made.disc_image(96, 80, (40, 40), 25, tissue=(180, 90, 150), glass=(245, 245, 245))
    made.write_aperio(folder / "MRS-SMITH.svs", image, levels=2)
    made.write_aperio(folder / "MRS-SMITH-2.svs", np.ascontiguousarray(image[::-1]), levels=1)
    made.spoil_tile(folder / "MRS-SMITH-2.svs", 0)
    with (folder / "manifest.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["slide_id", "patient_id", "path"])
        writer.writerow(["S0M3-1D", "P4T13NT", "MRS-SMITH.svs"])
        writer.writerow(["S0M3-1D-2", "P4T13NT", "MRS-SMITH-2.svs"])
    return folder / "manifest.csv"


def content(path: Path) -> bytes:
    """A file's name and content, out of its compression."""
    inner = b""
    if path.suffix == ".png":
        with Image.open(path) as picture:
            inner = repr(picture.info).encode()  # its text; what is drawn is looked at below
    if path.suffix == ".tif":
        raw = path.read_bytes()
        inner = b"".join(_inflated(raw[at:]) for at in range(len(raw) - 1) if raw[at : at + 1] == b"\x78")
    return path.name.encode() + readable(path) + inner


def _inflated(raw: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(raw)
    except zlib.error:
        return b""


@pytest.mark.parametrize("deidentify", [True, False])
def test_names_are_in_no_output_and_without_the_option_they_are(tmp_path: Path, deidentify: bool) -> None:
    out = tmp_path / "out"
    rows = find_cohort([str(cohort(tmp_path))]).rows
    config = CONFIG.model_copy(update={"deidentify": deidentify})
    outcomes = predict_cohort(rows, write_model(tmp_path / "model"), out, config)
    assert [outcome.state for outcome in outcomes] == ["done", "failed"]
    written = [path for path in out.rglob("*") if path.is_file()]
    assert {".parquet", ".json", ".gz", ".csv", ".tif", ".png"} <= {path.suffix for path in written}
    names_written = {name for name in NAMES for path in written if name.encode() in content(path)}
    assert names_written == (set() if deidentify else set(NAMES) - {MARKER})


def test_no_name_is_drawn_into_the_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    render = prediction_files.render

    def noting(*arguments: Any, legend: Legend, **rest: Any) -> Any:
        drawn.append(legend.name)
        return render(*arguments, legend=legend, **rest)

    monkeypatch.setattr(prediction_files, "render", noting)
    rows = find_cohort([str(cohort(tmp_path))]).rows[:1]
    for config in (CONFIG, CONFIG.model_copy(update={"deidentify": False})):
        predict_cohort(rows, write_model(tmp_path / "model"), tmp_path / f"out-{config.deidentify}", config)
    assert drawn == ["", "S0M3-1D"]


def test_what_failed_says_its_code_and_a_rerun_finds_the_others(tmp_path: Path) -> None:
    rows, model = find_cohort([str(cohort(tmp_path))]).rows, write_model(tmp_path / "model")
    for due in ("done", "current"):
        first, failed = predict_cohort(rows, model, tmp_path / "out", CONFIG)
        assert first.state == due
    entry = read_status(tmp_path / "out", failed.slide_id)["predict"]
    assert entry["code"] == "INPUT_CORRUPT"
    assert entry["message"].startswith("INPUT_CORRUPT")
    assert "MRS-SMITH" in failed.message  # on the screen of whoever gave the file


def test_a_pseudonym_is_of_the_content_wherever_it_lies_and_pages_differ(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(b"one")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "b.tif").write_bytes(b"one")

    def named(source: str | dict[str, str], number: int = 2) -> str:
        return pseudonym(SlideRow(row=number, slide_id="x", patient_id="p", source=source))

    a, b = str(tmp_path / "a.tif"), str(tmp_path / "elsewhere" / "b.tif")
    assert named(a) == named(b)
    assert len({named(a), named(f"{a}#page=0"), named(f"{a}#page=1"), named({"CARS": a}), named({"SHG": a})}) == 5
    assert named(str(tmp_path / "gone.tif"), 7) == "slide-of-row-7"
    (row,) = pseudonymize([SlideRow(row=2, slide_id="x", patient_id="p", source=a)])
    assert (row.slide_id, row.patient_id, row.source) == (named(a), "", a)


def test_a_pseudonym_is_the_same_in_every_version(tmp_path: Path) -> None:
    """Labs keep tables with pseudonyms, so the computation must never change."""
    (tmp_path / "a.tif").write_bytes(b"one")
    plain, page = (
        SlideRow(row=2, slide_id="x", patient_id="p", source=f"{tmp_path}/a.tif{end}") for end in ("", "#page=1")
    )
    assert [pseudonym(plain), pseudonym(page)] == ["slide-63c1e846afd127c7", "slide-b5a2b9ac9d307ad4"]


def test_two_rows_of_one_slide_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(b"one")
    rows = [SlideRow(row=n, slide_id=f"x{n}", patient_id="p", source=str(tmp_path / "a.tif")) for n in (2, 3)]
    with pytest.raises(DuplicateIdError, match="rows 2 and 3"):
        pseudonymize(rows)


MIXED = {
    "a slide was predicted under its name": (0, False, "the folder names slides"),
    "a slide failed under its name": (1, False, "the folder names slides"),
    "a slide was predicted without its name": (0, True, "holds de-identified slides"),
    "a slide failed without its name": (1, True, "holds de-identified slides"),
}


@pytest.mark.parametrize("name", MIXED)
def test_slides_with_and_without_their_names_never_stand_in_one_folder(tmp_path: Path, name: str) -> None:
    which, deidentify, message = MIXED[name]
    rows, out = find_cohort([str(cohort(tmp_path))]).rows, tmp_path / "out"
    model = write_model(tmp_path / "model")
    first, second = (
        CONFIG.model_copy(update={"deidentify": is_deidentified}) for is_deidentified in (deidentify, not deidentify)
    )
    predict_cohort(rows[which : which + 1], model, out, first)
    before = contents(out)
    for attempt in (partial(predict_cohort, out=out), partial(predict_plan, out=out)):
        with pytest.raises(InputUnsupportedError, match=message):
            attempt(rows[:1], [model], config=second)
    assert contents(out) == before


def test_a_pseudonym_typed_as_an_id_makes_no_folder_nameless(tmp_path: Path) -> None:
    update_status(tmp_path, "slide-0123456789abcdef", "predict", {"state": "done"})
    require_unmixed(tmp_path, deidentify=True)
    update_status(tmp_path, "slide-0123456789abcdef", "predict", {"state": "done", "patient_id": "P4T13NT"})
    require_unmixed(tmp_path, deidentify=False)
    with pytest.raises(InputUnsupportedError, match="names slides"):
        require_unmixed(tmp_path, deidentify=True)


def test_a_file_that_cannot_be_read_costs_its_own_slide_only(tmp_path: Path) -> None:
    rows = find_cohort([str(cohort(tmp_path))]).rows[:1]
    rows.append(SlideRow(row=3, slide_id="x", patient_id="p", source=str(tmp_path / "MRS-SMITH.svs" / "no-folder.svs")))
    outcomes = predict_cohort(rows, write_model(tmp_path / "model"), tmp_path / "out", CONFIG)
    assert [(outcome.state, outcome.slide_id) for outcome in outcomes][1] == ("failed", "slide-of-row-3")
    assert outcomes[0].state == "done"


RED = (255, 0, 0)  # of their label, macro and thumbnail images


def pixels(path: Path) -> np.ndarray:
    """The pixels of a picture (h, w, 3)."""
    return np.asarray(Image.open(path).convert("RGB"))


def test_nothing_that_a_slide_file_says_of_the_patient_is_in_any_output(tmp_path: Path) -> None:
    image = made.disc_image(96, 80, (40, 40), 25, tissue=(180, 90, 150), glass=(245, 245, 245))
    made.write_aperio(tmp_path / "a.svs", image, levels=2)
    made.write_scn(tmp_path / "b.scn", np.ascontiguousarray(image[:, ::-1]), (9, 9), (200, 200))
    made.write_truncated(tmp_path / "a.svs", 95, tmp_path / "cut.svs")
    made.write_aperio(tmp_path / "spoilt.svs", np.ascontiguousarray(image[:, :, ::-1]), levels=1)
    made.spoil_tile(tmp_path / "spoilt.svs", 0)
    for name in ("a.svs", "b.scn", "cut.svs", "spoilt.svs"):
        content = (tmp_path / name).read_bytes()
        assert MARKER.encode() in content or base64.b64encode(MARKER.encode()) in content
    with (tmp_path / "manifest.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["slide_id", "patient_id", "path"])
        writer.writerows([[name.split(".")[0], "p", name] for name in ("a.svs", "b.scn", "cut.svs", "spoilt.svs")])

    out = tmp_path / "out"
    states = [outcome.state for outcome in tile_cohort(tmp_path / "manifest.csv", out, TileConfig(patch_px=16))]
    rows = find_cohort([str(tmp_path / "manifest.csv")]).rows
    config = CONFIG.model_copy(update={"deidentify": False})
    predicted = [outcome.state for outcome in predict_cohort(rows, write_model(tmp_path / "model"), out, config)]
    assert states == predicted == ["done", "done", "failed", "failed"]
    for name in ("a.svs", "b.scn"):
        described = describe_row(*slides_to_predict(str(tmp_path / name)), TileConfig(),
                                      picture=out / f"{name}.png")  # fmt: skip
        (out / f"{name}.txt").write_text(str(described.lines()))
    write_report(out)

    written = [path for path in out.rglob("*") if path.is_file()]
    assert {".parquet", ".json", ".gz", ".csv", ".tif", ".png", ".html", ".txt"} <= {path.suffix for path in written}
    for path in written:
        for pattern in (MARKER.encode(), base64.b64encode(MARKER.encode())):
            assert pattern not in readable(path), path
        if path.suffix == ".png":
            assert not (pixels(path) == RED).all(axis=2).any(), path
    for slide_id in ("a", "b"):
        store = PatchStore(out / "slides" / f"{slide_id}.zarr")
        for picture in (store.overview(), *store.read(np.arange(len(store)))):
            assert not (picture.transpose(1, 2, 0) == RED).all(axis=2).any()

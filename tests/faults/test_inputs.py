"""Bad slides in a batch: each fails alone, by its code, and leaves nothing; the good slide beside it is done.

A row is a base file and what is done to it. The batch is the one that the command line runs.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import made_slides as made
import numpy as np
import pytest
import tifffile

from pathopatch import pipeline
from pathopatch.batch import exit_code
from pathopatch.config import TileConfig
from pathopatch.errors import ManifestError
from pathopatch.provenance import read_status, read_table

Row = dict[str, str]
Make = Callable[[Path], Row]
CONFIG = TileConfig(patch_px=32, mpp=0.5)


def rgb(seed: int = 0) -> np.ndarray:
    image = made.disc_image(160, 128, (80, 64), 40, tissue=(180, 90, 150), glass=(245, 245, 245))
    image[:, seed, :20] = 200  # no two slides are equal
    return image


def plane(seed: int = 0, height: int = 128) -> np.ndarray:
    image = made.disc_image(160, height, (80, 64), 40, tissue=(900,), glass=(20,), dtype=np.uint16)[0]
    image[seed, :20] = 30
    return image


def cut(write: Callable[..., object], name: str, percent: float) -> Make:
    def make(folder: Path) -> Row:
        write(folder / f"whole-{name}", rgb(1))
        return {"path": made.write_truncated(folder / f"whole-{name}", percent, folder / name).name}

    return make


def scn(path: Path, image: np.ndarray) -> None:
    made.write_scn(path, image, (9, 9), (300, 300))


def giant(folder: Path) -> Row:
    return {"path": made.write_giant(folder / "giant.tif").name}


def spoilt(write: Callable[..., object], name: str) -> Make:
    def make(folder: Path) -> Row:
        write(folder / name, rgb(2))
        made.spoil_tile(folder / name, 3)
        return {"path": name}

    return make


def text(folder: Path) -> Row:
    (folder / "text.svs").write_text("no slide at all")
    return {"path": "text.svs"}


def other_kind(folder: Path) -> Row:
    (folder / "slide.docx").write_text("no slide at all")
    return {"path": "slide.docx"}


def modalities(first: np.ndarray, second: np.ndarray, mpp: float = 0.5) -> Make:
    def make(folder: Path) -> Row:
        made.write_channel(folder / "cars.tif", first)
        made.write_channel(folder / "shg.tif", second, mpp=mpp)
        return {"path:CARS": "cars.tif", "path:SHG": "shg.tif"}

    return make


def rgb_as_channel(folder: Path) -> Row:
    made.write_channel(folder / "cars.tif", plane())
    made.write_rgb_pyramid(folder / "shg.tif", rgb(3))
    return {"path:CARS": "cars.tif", "path:SHG": "shg.tif"}


def names(count: int) -> Make:
    def make(folder: Path) -> Row:
        made.write_rgb_pyramid(folder / "names.tif", rgb(4))
        return {"path": "names.tif", "channels": ",".join("ABCDE"[:count])}

    return make


def not_a_number(folder: Path) -> Row:
    image = plane().astype(np.float32)
    image[60, 80] = np.nan
    made.write_channel(folder / "nan.tif", image)
    return {"path": "nan.tif"}


def no_mpp(folder: Path) -> Row:
    made.write_channel(folder / "no-mpp.tif", plane(), mpp=None)
    return {"path": "no-mpp.tif"}


def odd_mpp(numerator: int, denominator: int) -> Make:
    def make(folder: Path) -> Row:
        made.write_channel(folder / "odd.tif", plane(5))
        for tag in (282, 283):
            made.patch_rational(folder / "odd.tif", tag, numerator, denominator)
        return {"path": "odd.tif"}

    return make


def oblong_mpp(folder: Path) -> Row:
    made.write_channel(folder / "oblong.tif", plane(6), mpp=(0.5, 0.8))
    return {"path": "oblong.tif"}


def mask(width: int, height: int) -> Make:
    def make(folder: Path) -> Row:
        made.write_rgb_pyramid(folder / "masked.tif", rgb(7))
        tifffile.imwrite(folder / "mask.tif", np.full((height, width), 255, np.uint8))
        return {"path": "masked.tif", "tumor_mask": "mask.tif"}

    return make


def cut_mask(folder: Path) -> Row:
    row = mask(160, 128)(folder)
    made.write_truncated(folder / "mask.tif", 60, folder / "cut-mask.tif")
    return {**row, "tumor_mask": "cut-mask.tif"}


def coarse(folder: Path) -> Row:
    made.write_channel(folder / "coarse.tif", plane(8), mpp=2.0)
    return {"path": "coarse.tif"}


ROWS: list[tuple[str, Make, str, str]] = [
    ("a pyramid cut at 30 %", cut(made.write_rgb_pyramid, "a.tif", 30), "INPUT_CORRUPT", "a.tif"),
    ("a pyramid cut at 95 %", cut(made.write_rgb_pyramid, "a.tif", 95), "INPUT_CORRUPT", "a.tif"),
    ("an Aperio slide cut at 60 %", cut(made.write_aperio, "a.svs", 60), "INPUT_CORRUPT", "a.svs"),
    ("a Leica slide cut at 95 %", cut(scn, "a.scn", 95), "INPUT_CORRUPT", "a.scn"),
    ("a few bytes that claim 10^12 px", giant, "INPUT_TOO_LARGE", "1000000 x 1000000"),
    ("a spoilt tile in a pyramid", spoilt(made.write_rgb_pyramid, "b.tif"), "INPUT_CORRUPT", "b.tif"),
    ("a spoilt tile in an Aperio slide", spoilt(made.write_aperio, "b.svs"), "INPUT_CORRUPT", "b.svs"),
    ("text named .svs", text, "INPUT_CORRUPT", "text.svs"),
    ("another kind of file", other_kind, "INPUT_UNSUPPORTED", "slide.docx"),
    ("a modality one row short", modalities(plane(), plane(9, 127)), "MODALITY_MISMATCH", "160x128 against 160x127"),
    ("modalities of two scales", modalities(plane(), plane(9), 1.0), "MODALITY_MISMATCH", "0.5 against 1"),
    ("modalities of two types", modalities(plane(), plane(9).astype(np.uint8)), "MODALITY_MISMATCH", "uint16"),
    ("a colour file as one channel", rgb_as_channel, "CHANNEL_MISMATCH", "SHG should be one channel"),
    ("two names for three planes", names(2), "CHANNEL_MISMATCH", "2 channel names"),
    ("four names for three planes", names(4), "CHANNEL_MISMATCH", "4 channel names"),
    ("a pixel that is no number", not_a_number, "NONFINITE", "1 in C0"),
    ("no resolution", no_mpp, "MPP_MISSING", "column mpp"),
    ("a resolution with a zero below", odd_mpp(20000, 0), "MPP_MISSING", "column mpp"),
    ("a resolution of zero", odd_mpp(0, 1), "MPP_MISSING", "column mpp"),
    ("an absurd resolution", odd_mpp(1, 1), "MPP_MISSING", "column mpp"),
    ("a resolution that differs by axis", oblong_mpp, "MPP_MISSING", "column mpp"),
    ("a mask of another shape", mask(100, 128), "MODALITY_MISMATCH", "100 x 128"),
    ("a mask that is cut", cut_mask, "INPUT_CORRUPT", "cut-mask.tif"),
    ("a slide coarser than the target", coarse, "INPUT_UNSUPPORTED", "2 um/px"),
]


def manifest_of(folder: Path, rows: dict[str, Row]) -> Path:
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    with (folder / "manifest.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["slide_id", "patient_id", *columns], restval="")
        writer.writeheader()
        for slide_id, row in rows.items():
            writer.writerow({"slide_id": slide_id, "patient_id": slide_id, **row})
    return folder / "manifest.csv"


def files(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize(("make", "code", "said"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_a_bad_slide_fails_alone_by_its_code_and_leaves_nothing(
    make: Make, code: str, said: str, tmp_path: Path
) -> None:
    made.write_rgb_pyramid(tmp_path / "good.tif", rgb())
    manifest = manifest_of(tmp_path, {"good": {"path": "good.tif"}, "bad": make(tmp_path)})
    out = tmp_path / "out"
    good, bad = pipeline.tile(manifest, out, CONFIG)
    assert (good.state, bad.state, bad.code) == ("done", "failed", code)
    assert said in bad.message
    assert exit_code([good, bad]) == 3
    entry = read_status(out, "bad")["tile"]
    assert (entry["state"], entry["code"]) == ("failed", code)
    assert not [name for name in files(out) if "bad" in name and not name.startswith("status")]
    assert not [name for name in files(out) if ".tmp-" in name]


@pytest.mark.parametrize("value", [0, 255])
def test_a_slide_of_background_only_is_done_empty(value: int, tmp_path: Path) -> None:
    made.write_rgb_pyramid(tmp_path / "blank.tif", np.full((3, 128, 160), value, np.uint8))
    manifest = manifest_of(tmp_path, {"blank": {"path": "blank.tif"}})
    outcomes = pipeline.tile(manifest, tmp_path / "out", CONFIG)
    assert [outcome.state for outcome in outcomes] == ["done_empty"]
    assert exit_code(outcomes) == 0
    assert (read_table(tmp_path / "out/patches/blank.parquet")["tissue_fraction"] == 0).all()


MANIFESTS: list[tuple[str, list[Row], str]] = [
    ("one id twice", [{"slide_id": "a", "path": "a.tif"}, {"slide_id": "a", "path": "b.tif"}], "DUPLICATE_ID"),
    (
        "ids alike but for case",
        [{"slide_id": "a", "path": "a.tif"}, {"slide_id": "A", "path": "b.tif"}],
        "DUPLICATE_ID",
    ),
    ("one content twice", [{"slide_id": "a", "path": "a.tif"}, {"slide_id": "c", "path": "c.tif"}], "DUPLICATE_ID"),
    (
        "one content in two splits",
        [{"slide_id": "a", "path": "a.tif", "split": "train"}, {"slide_id": "c", "path": "c.tif", "split": "test"}],
        "SPLIT_LEAKAGE",
    ),
    (
        "a patient in two splits",
        [
            {"slide_id": "a", "patient_id": "p", "path": "a.tif", "split": "train"},
            {"slide_id": "b", "patient_id": "p", "path": "b.tif", "split": "test"},
        ],
        "SPLIT_LEAKAGE",
    ),
    ("a file that is not there", [{"slide_id": "a", "path": "none.tif"}], "INPUT_MISSING"),
    ("an id that climbs", [{"slide_id": "../../x", "path": "a.tif"}], "INPUT_UNSUPPORTED"),
    ("an id that is a formula", [{"slide_id": "=cmd()", "path": "a.tif"}], "INPUT_UNSUPPORTED"),
]


@pytest.mark.parametrize(("rows", "code"), [row[1:] for row in MANIFESTS], ids=[row[0] for row in MANIFESTS])
def test_a_bad_manifest_is_refused_before_anything_is_written(rows: list[Row], code: str, tmp_path: Path) -> None:
    for name, seed in (("a.tif", 0), ("b.tif", 1), ("c.tif", 0)):
        made.write_rgb_pyramid(tmp_path / name, rgb(seed), levels=1)
    with (tmp_path / "manifest.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["slide_id", "patient_id", "split", "path"], restval="")
        writer.writeheader()
        writer.writerows({"patient_id": row["slide_id"], **row} for row in rows)
    with pytest.raises(ManifestError) as caught:
        pipeline.tile(tmp_path / "manifest.csv", tmp_path / "out", CONFIG)
    assert code in str(caught.value)
    assert not (tmp_path / "out").exists()

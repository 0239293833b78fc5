"""Bad slides in a batch: each fails alone, by its code, and leaves nothing; the good slide beside it is done.

A row is a base file and what is done to it. The batch is the one that the command line runs.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import made_slides as made
import numpy as np
import pytest
import tifffile
from made_omezarr import chunk_files, write_omezarr

from pathopatch.core.artefacts import read_table
from pathopatch.core.config import TileConfig
from pathopatch.core.errors import InputCorruptError
from pathopatch.core.status import read_status
from pathopatch.core.task import Outcome
from pathopatch.patches.tile import is_tiled
from pathopatch.slides import open_slide
from pathopatch.slides.open import OpenSlideSlide
from pathopatch.stages.batch.run import exit_code
from pathopatch.stages.tile import tile_cohort

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


def scn(path: Path, image: np.ndarray) -> None:
    made.write_scn(path, image, (9, 9), (300, 300))


def strips(path: Path, image: np.ndarray) -> None:
    made.write_channel(path, image[0])


def ome(path: Path, image: np.ndarray) -> None:
    with tifffile.TiffWriter(path, ome=True, bigtiff=True) as writer:
        for level in range(2):
            below = {"subifds": 1} if level == 0 else {"subfiletype": 1}
            writer.write(image[0, :: 1 + level, :: 1 + level], tile=(64, 64), compression="zstd", **below)


def zarr(path: Path, image: np.ndarray, version: str = "0.5", shards: bool = False) -> None:
    write_omezarr(path, [image], version=version, shards=shards)


def cut(path: Path, percent: float) -> None:
    """End a file early, or the largest file of a folder."""
    file = max(chunk_files(path), key=lambda chunk: chunk.stat().st_size) if path.is_dir() else path
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * percent / 100)])


def file(name: str, write: Callable[[Path], object], **row: str) -> Make:
    """A slide in one file, which `write` makes, and further cells of its row."""

    def make(folder: Path) -> Row:
        write(folder / name)
        return {"path": name, **row}

    return make


def channel(image: np.ndarray, *, spoil: Callable[[Path], object] | None = None, **options: Any) -> Make:
    def write(path: Path) -> None:
        made.write_channel(path, image, **options)
        if spoil:
            spoil(path)

    return file("bad.tif", write)


def giant_zarr(path: Path) -> None:
    zarr(path, rgb(1))
    metadata = path / "0" / "zarr.json"
    metadata.write_text(json.dumps({**json.loads(metadata.read_text()), "shape": [3, 10**6, 10**6]}))


def spoilt(write: Callable[..., object], name: str, page: int = 0) -> Make:
    return file(name, lambda path: (write(path, rgb(2)), made.spoil_tile(path, 3, page=page)))


def spoilt_zarr(path: Path) -> None:
    zarr(path, rgb(2))
    chunk = chunk_files(path)[3]
    chunk.write_bytes(bytes(chunk.stat().st_size))


def modalities(first: np.ndarray, second: np.ndarray, mpp: float = 0.5) -> Make:
    def make(folder: Path) -> Row:
        made.write_channel(folder / "cars.tif", first)
        (made.write_channel if second.ndim == 2 else made.write_rgb_pyramid)(folder / "shg.tif", second, mpp=mpp)
        return {"path:CARS": "cars.tif", "path:SHG": "shg.tif"}

    return make


def hidden_not_a_number(path: Path) -> None:
    """A level that was made without the bad pixel, as some writers do; the overview is made from that level."""
    image = np.zeros((32, 8320), np.float32)
    image[:, 100:900] = 500
    with tifffile.TiffWriter(path) as writer:
        options = {"resolution": (2e4, 2e4), "resolutionunit": "CENTIMETER", "metadata": None}
        coarse = image[::2, ::2].copy()
        image[7, 300] = np.inf
        writer.write(image, subifds=1, **options)
        writer.write(coarse, subfiletype=1, metadata=None)


def stated(numerator: int, denominator: int) -> Make:
    """A resolution of these numbers."""
    tags = (282, 283)
    return channel(
        plane(5), spoil=lambda path: [made.patch_rational(path, tag, numerator, denominator) for tag in tags]
    )


def nan_mpp(path: Path) -> None:
    sizes = {f"PhysicalSize{axis}": float("nan") for axis in "XY"}
    tifffile.imwrite(path, plane(5), ome=True, metadata={"axes": "YX", **sizes})


def masked(width: int, height: int, percent: float = 100) -> Make:
    def write(path: Path) -> None:
        made.write_rgb_pyramid(path, rgb(7))
        tifffile.imwrite(path.with_name("mask.tif"), np.full((height, width), 255, np.uint8))
        cut(path.with_name("mask.tif"), percent)

    return file("masked.tif", write, tumor_mask="mask.tif")


ONE = plane()
WITH_NAN = np.where(np.arange(ONE.size).reshape(ONE.shape) == 5000, np.float32(np.nan), ONE.astype(np.float32))
ROWS: list[tuple[str, str, Make, str, str]] = [
    ("giant", "a few bytes that claim 10^12 px", file("giant.tif", made.write_giant), "INPUT_TOO_LARGE",
     "1000000 x 1000000"),
    ("giant", "a folder of some bytes that claims 10^12 px", file("giant.zarr", giant_zarr), "INPUT_TOO_LARGE",
     "1000000 x 1000000"),
    ("corrupt-tile", "a spoilt tile in a pyramid", spoilt(made.write_rgb_pyramid, "b.tif"), "INPUT_CORRUPT", "b.tif"),
    ("corrupt-tile", "a spoilt tile in an Aperio slide", spoilt(made.write_aperio, "b.svs"), "INPUT_CORRUPT", "b.svs"),
    ("corrupt-tile", "a spoilt tile in a Leica slide", spoilt(scn, "b.scn", page=1), "INPUT_CORRUPT", "b.scn"),
    ("corrupt-tile", "a spoilt chunk in an OME-Zarr", file("b.zarr", spoilt_zarr), "INPUT_CORRUPT", "b.zarr"),
    ("other-kinds", "text named .svs", file("text.svs", lambda path: path.write_text("no slide")), "INPUT_CORRUPT",
     "text.svs"),
    ("other-kinds", "another kind of file", file("a.docx", lambda path: path.write_text("no slide")),
     "INPUT_UNSUPPORTED", "no reader for a.docx"),
    ("other-kinds", "a slide coarser than the target", channel(plane(8), mpp=2.0), "INPUT_UNSUPPORTED", "2 um/px"),
    ("modalities", "a modality one row short", modalities(ONE, plane(9, 127)), "MODALITY_MISMATCH",
     "160x128 against 160x127"),
    ("modalities", "modalities of two scales", modalities(ONE, plane(9), 1.0), "MODALITY_MISMATCH", "0.5 against 1"),
    ("modalities", "modalities of two types", modalities(ONE, plane(9).astype(np.uint8)), "MODALITY_MISMATCH",
     "uint16"),
    ("modalities", "a mask of another shape", masked(100, 128), "MODALITY_MISMATCH", "100 x 128"),
    ("truncated", "a mask that is cut", masked(160, 128, 60), "INPUT_CORRUPT", "mask.tif"),
    ("channels", "a colour file as one channel", modalities(ONE, rgb(3)), "CHANNEL_MISMATCH",
     "SHG should be one channel"),
    *(("channels", f"{len(names)} names for three planes",
       file("names.tif", lambda path: made.write_rgb_pyramid(path, rgb(4)), channels=",".join(names)),
       "CHANNEL_MISMATCH", f"{len(names)} channel names") for names in ("AB", "ABCD")),
    ("channels", "samples of 32 bits", channel(ONE.astype(np.uint32)), "INPUT_UNSUPPORTED", "32-bit"),
    ("channels", "a pixel that is no number", channel(WITH_NAN), "NONFINITE", "1 in C0"),
    ("channels", "an infinite pixel at level 0 alone", file("hidden.tif", hidden_not_a_number), "NONFINITE", "1 in C0"),
    ("mpp", "a resolution without a unit", channel(plane(5), spoil=lambda path: made.patch_tag(path, 296, 1)),
     "MPP_MISSING", "column mpp"),
    ("mpp", "a resolution that is no number", file("nan.ome.tif", nan_mpp), "MPP_MISSING", "nan"),
    ("mpp", "no resolution", channel(ONE, mpp=None), "MPP_MISSING", "column mpp"),
    ("mpp", "a resolution with a zero below", stated(20000, 0), "MPP_MISSING", "20000/0"),
    ("mpp", "a resolution of zero", stated(0, 1), "MPP_MISSING", "0/1"),
    ("mpp", "an absurdly coarse resolution", stated(1, 1), "MPP_MISSING", "outside 0.05 to 20"),
    ("mpp", "an absurdly fine resolution", stated(2 * 10**9, 1), "MPP_MISSING", "outside 0.05 to 20"),
    ("mpp", "a resolution that differs by axis", channel(plane(6), mpp=(0.5, 0.8)), "MPP_MISSING", "must be square"),
]  # fmt: skip


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


@pytest.mark.parametrize(
    ("make", "code", "message"), [pytest.param(*row[2:], id=row[1], marks=pytest.mark.fault(row[0])) for row in ROWS]
)
def test_a_bad_slide_fails_alone_by_its_code_and_leaves_nothing(
    make: Make, code: str, message: str, tmp_path: Path
) -> None:
    made.write_rgb_pyramid(tmp_path / "good.tif", rgb())
    manifest = manifest_of(tmp_path, {"good": {"path": "good.tif"}, "bad": make(tmp_path)})
    out = tmp_path / "out"
    good, bad = tile_cohort(manifest, out, CONFIG)
    assert good.state == "done"
    assert exit_code([good, bad]) == 3
    failed_alone(bad, out, code, message)


def failed_alone(bad: Outcome, out: Path, code: str, message: str) -> None:
    assert (bad.state, bad.code) == ("failed", code), bad.message
    assert message in bad.message
    entry = read_status(out, bad.slide_id)["tile"]
    assert (entry["state"], entry["code"]) == ("failed", code)
    assert not [name for name in files(out) if bad.slide_id in name and not name.startswith(("status", "logs"))]
    assert not [name for name in files(out) if ".tmp-" in name]


READERS: dict[str, tuple[Callable[..., object], str]] = {
    "a pyramid": (made.write_rgb_pyramid, "a.tif"),
    "strips": (strips, "a.tif"),
    "an OME-TIFF": (ome, "a.ome.tif"),
    "an Aperio slide": (made.write_aperio, "a.svs"),
    "a Leica slide, which OpenSlide reads": (scn, "a.scn"),
    "an OME-Zarr 0.4": (partial(zarr, version="0.4"), "a.zarr"),
    "an OME-Zarr 0.5": (zarr, "a.zarr"),
    "an OME-Zarr in shards": (partial(zarr, shards=True), "a.zarr"),
}


@pytest.mark.fault("truncated")
@pytest.mark.parametrize("reader", READERS)
def test_a_slide_that_is_cut_fails_alone_whatever_reads_it(reader: str, tmp_path: Path) -> None:
    write, name = READERS[reader]
    rows = {}
    for seed, slide_id in enumerate(("good", "cut30", "cut60", "cut95", "cut99.9")):
        write(tmp_path / f"{slide_id}-{name}", rgb(seed))
        rows[slide_id] = {"path": f"{slide_id}-{name}", "mpp": "0.5"}
        if seed:
            cut(tmp_path / f"{slide_id}-{name}", float(slide_id[3:]))
    good, *bad = tile_cohort(manifest_of(tmp_path, rows), tmp_path / "out", CONFIG)
    assert good.state == "done"
    for outcome in bad:
        failed_alone(outcome, tmp_path / "out", "INPUT_CORRUPT", f"{outcome.slide_id}-{name}")


@pytest.mark.fault("corrupt-tile")
def test_openslide_answers_again_after_a_spoilt_tile(tmp_path: Path) -> None:
    path = tmp_path / "a.svs"
    levels = made.write_aperio(path, made.noise(3, 128, 128, np.uint8), levels=1)
    made.spoil_tile(path, 3)
    slide = open_slide(path)
    assert isinstance(slide, OpenSlideSlide)
    for _ in range(2):
        with pytest.raises(InputCorruptError, match="cannot be decoded"):
            slide.read_region(70, 70, 20, 20)
        np.testing.assert_array_equal(slide.read_region(0, 0, 64, 64), levels[0][:, :64, :64])


@pytest.mark.fault("background-only")
@pytest.mark.parametrize("value", [0, 255])
def test_a_slide_of_background_only_is_done_empty(value: int, tmp_path: Path) -> None:
    made.write_rgb_pyramid(tmp_path / "blank.tif", np.full((3, 128, 160), value, np.uint8))
    manifest = manifest_of(tmp_path, {"blank": {"path": "blank.tif"}})
    outcomes = tile_cohort(manifest, tmp_path / "out", CONFIG)
    assert [outcome.state for outcome in outcomes] == ["done_empty"]
    assert exit_code(outcomes) == 0
    assert is_tiled(tmp_path / "out", "blank")
    assert (read_table(tmp_path / "out/patches/blank.parquet")["tissue_fraction"] == 0).all()

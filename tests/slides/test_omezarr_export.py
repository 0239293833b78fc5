"""A slide written as OME-Zarr comes back pixel by pixel, in levels of exact means, and is what the format asks for."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import made_slides as made
import numpy as np
import ome_zarr_models
import pytest
import tensorstore
import zarr
from made_omezarr import chunk_files, write_omezarr
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader

from pathopatch.core.errors import InputUnsupportedError, MppMissingError, StaleArtefactError
from pathopatch.slides import Slide, open_slide
from pathopatch.slides.omezarr_export import Version, export_ome_zarr

WINDOWS = np.array([[10.0, 4000.0], [20.0, 3000.0]])
VERSIONS = pytest.mark.parametrize("version", ["0.4", "0.5"])


def made_slide(folder: Path, height: int, width: int, dtype: Any = np.uint16) -> tuple[Slide, np.ndarray]:
    image = made.noise(2, height, width, dtype)
    names = ("CARS", "SHG")
    return open_slide(made.write_modalities(folder, image, names, mpp=0.25), background="dark"), image


def exported(folder: Path, slide: Slide, version: Version, **options: Any) -> Path:
    export_ome_zarr(slide, folder / "out.zarr", version=version, name="s", windows=WINDOWS, **options)
    return folder / "out.zarr"


def exact_level(image: np.ndarray, factor: int) -> np.ndarray:
    """Mean of each square of level-0 pixels, of what is inside for the last ones."""
    edges = [np.arange(0, n, factor) for n in image.shape[1:]]
    sums = np.add.reduceat(np.add.reduceat(image.astype(np.float64), edges[0], axis=1), edges[1], axis=2)
    counts = [np.diff(np.append(edge, n)) for edge, n in zip(edges, image.shape[1:], strict=True)]
    means = sums / (counts[0][:, None] * counts[1])
    return (np.rint(means) if image.dtype.kind in "iu" else means).astype(image.dtype)


@VERSIONS
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
def test_every_level_holds_exact_means_of_the_slide(tmp_path: Path, version: Version, dtype: Any) -> None:
    slide, image = made_slide(tmp_path, 1100, 2051, dtype)  # three tiles by two, odd
    again = open_slide(exported(tmp_path, slide, version))
    assert (again.channels, again.dtype, again.mpp) == (("CARS", "SHG"), np.dtype(dtype), 0.25)
    assert [level.downsample for level in again.levels] == [1, 2, 4, 8]
    for index, level in enumerate(again.levels):
        pixels = again.read_region(0, 0, level.width, level.height, level=index)
        np.testing.assert_allclose(pixels, exact_level(image, 2**index), rtol=1e-6, atol=0)


def test_the_sums_do_not_overflow(tmp_path: Path) -> None:
    made.write_channel(tmp_path / "a.tif", np.full((1100, 1300), 65535, np.uint16), compression="zstd")
    slide = open_slide(tmp_path / "a.tif")
    export_ome_zarr(slide, tmp_path / "out.zarr", version="0.5", name="s", windows=WINDOWS[:1])
    coarsest = open_slide(tmp_path / "out.zarr").levels[-1]
    assert (
        open_slide(tmp_path / "out.zarr").read_region(0, 0, coarsest.width, coarsest.height, level=2) == 65535
    ).all()


def valid(path: Path) -> Any:
    return ome_zarr_models.open_ome_zarr(zarr.open_group(path, mode="r"))


def shown(path: Path) -> tuple[Any, dict[str, Any]]:
    """Return level 0 and the metadata of the first node of the `ome-zarr` reader."""
    node = next(iter(Reader(parse_url(str(path)))()))
    return np.asarray(node.data[0]), node.metadata


@VERSIONS
def test_other_libraries_open_it_with_the_same_pixels(tmp_path: Path, version: Version) -> None:
    slide, image = made_slide(tmp_path, 600, 700)
    path = exported(tmp_path, slide, version)
    assert type(valid(path)).__module__ == f"ome_zarr_models.v{version.replace('.', '')}.image"
    group: Any = zarr.open_group(path, mode="r")
    np.testing.assert_array_equal(group["0"][...], image)
    driver = "zarr" if version == "0.4" else "zarr3"
    spec = {"driver": driver, "kvstore": {"driver": "file", "path": f"{path}/0/"}}
    np.testing.assert_array_equal(tensorstore.open(spec).result().read().result(), image)
    pixels, metadata = shown(path)
    np.testing.assert_array_equal(pixels, image)
    assert metadata["channel_names"] == ["CARS", "SHG"]
    assert metadata["contrast_limits"] == WINDOWS.tolist()
    assert metadata["coordinateTransformations"][1] == [
        {"type": "scale", "scale": [1.0, 0.5, 0.5]},
        {"type": "translation", "translation": [0.0, 0.125, 0.125]},  # centres of the first pixels, um
    ]


def _edit(path: Path, version: Version, edit: Callable[[Any], Any]) -> None:
    name = ".zattrs" if version == "0.4" else "zarr.json"
    content = json.loads((path / name).read_text())
    edit(content if version == "0.4" else content["attributes"]["ome"])
    (path / name).write_text(json.dumps(content))


@VERSIONS
@pytest.mark.parametrize(
    "spoil",
    [
        lambda ome: ome["multiscales"][0].pop("axes"),
        lambda ome: ome["multiscales"][0]["datasets"][0].update(coordinateTransformations=[]),
        lambda ome: ome["multiscales"][0]["datasets"].append({"path": "9"}),
    ],
)
def test_the_validator_refuses_a_broken_copy(tmp_path: Path, version: Version, spoil: Callable[[Any], Any]) -> None:
    slide, _ = made_slide(tmp_path, 60, 70)
    path = exported(tmp_path, slide, version)
    _edit(path, version, spoil)
    with pytest.raises((ValueError, RuntimeError, KeyError)):
        valid(path)


def test_files_stay_few_because_chunks_lie_in_shards(tmp_path: Path) -> None:
    slide, _ = made_slide(tmp_path, 1100, 2051)
    assert len(chunk_files(exported(tmp_path, slide, "0.5") / "0")) == 2 * 3


@pytest.mark.slow
def test_what_is_held_does_not_grow_with_the_slide(tmp_path: Path) -> None:
    peaks = []
    export_ome_zarr(  # what is loaded once does not count
        made_slide(tmp_path, 60, 70)[0], tmp_path / "first.zarr", version="0.5", name="s", windows=WINDOWS
    )
    for side in (4096, 8192):
        path = tmp_path / f"{side}.tif"
        # As wide as each other: the reader keeps some rows.
        made.write_channel(path, np.zeros((side, 4096), np.uint8))
        tracemalloc.start()
        export_ome_zarr(
            open_slide(path, background="dark"), tmp_path / f"{side}.zarr", version="0.5", name="s", windows=WINDOWS[:1]
        )
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.15 * peaks[0]


def test_an_export_is_redone_only_when_it_should_be(tmp_path: Path) -> None:
    slide, _ = made_slide(tmp_path, 60, 70)
    path = tmp_path / "out.zarr"
    options: dict[str, Any] = {"version": "0.5", "name": "s"}
    assert export_ome_zarr(slide, path, windows=WINDOWS, **options)
    assert not export_ome_zarr(slide, path, windows=WINDOWS, **options)
    with pytest.raises(StaleArtefactError):
        export_ome_zarr(slide, path, windows=WINDOWS + 1, **options)
    assert export_ome_zarr(slide, path, windows=WINDOWS + 1, force=True, **options)
    assert not list(tmp_path.glob("*.tmp-*"))


@pytest.mark.parametrize("force", [False, True])
def test_nothing_of_others_is_overwritten(tmp_path: Path, force: bool) -> None:
    slide, image = made_slide(tmp_path, 60, 70)
    other = write_omezarr(tmp_path / "other.zarr", [image])
    (tmp_path / "notes").mkdir()
    for path in (other, tmp_path / "notes", tmp_path / "cars.tif", tmp_path):
        with pytest.raises(InputUnsupportedError, match="stands there"):
            export_ome_zarr(slide, path, version="0.5", name="s", windows=WINDOWS, force=force)
    copy = exported(tmp_path, slide, "0.5")
    with pytest.raises(InputUnsupportedError, match="the slide itself"):
        export_ome_zarr(open_slide(copy), copy, version="0.4", name="s", windows=WINDOWS, force=force)
    np.testing.assert_array_equal(open_slide(other).read_region(0, 0, 70, 60), image)


def test_without_an_mpp_nothing_is_written(tmp_path: Path) -> None:
    made.write_channel(tmp_path / "a.tif", np.zeros((60, 60), np.uint8), mpp=None)
    with pytest.raises(MppMissingError):
        export_ome_zarr(
            open_slide(tmp_path / "a.tif"), tmp_path / "o.zarr", version="0.5", name="s", windows=WINDOWS[:1]
        )
    assert not list(tmp_path.glob("*zarr*"))


@pytest.mark.real
@VERSIONS
def test_a_real_slide_comes_back_whole(real_data: Path, tmp_path: Path, version: Version) -> None:
    slide = open_slide(real_data / "wsi" / "idc_14306.tif")
    export_ome_zarr(slide, tmp_path / "o.zarr", version=version, name="s", windows=np.array([[0.0, 255.0]] * 3))
    again = open_slide(tmp_path / "o.zarr")
    assert (again.size, again.channels, again.is_rgb) == (slide.size, ("R", "G", "B"), True)
    assert again.mpp == pytest.approx(slide.mpp)
    np.testing.assert_array_equal(again.read_region(0, 0, *again.size), slide.read_region(0, 0, *slide.size))
    assert type(valid(tmp_path / "o.zarr")).__name__ == "Image"

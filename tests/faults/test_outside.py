"""Files that name other files: what lies outside their own folder is refused by name, and not even opened."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import made_features
import numpy as np
import pytest
from made_model import edit_both, write_model
from made_omezarr import write_omezarr
from opened_files import opened_files

from pathopatch.core.config import TrainConfig, parse
from pathopatch.core.errors import (
    CheckpointIncompatibleError,
    InputCorruptError,
    InputUnsupportedError,
    PathopatchError,
)
from pathopatch.features.readers import open_features
from pathopatch.models.bundle import checked_bundle
from pathopatch.slides import open_slide

pytestmark = [
    pytest.mark.fault("outside"),
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells which files are opened"),
]
SHAPE = (4, made_features.DIM)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder with a marker that nothing may open, as raw values and as HDF5."""
    folder = tmp_path / "outside"
    folder.mkdir()
    values = np.full(SHAPE, 7, np.float32)
    (folder / "marker.bin").write_bytes(values.tobytes())
    with h5py.File(folder / "marker.h5", "w") as file:
        file["values"] = values
        file.create_dataset("growing", data=values, maxshape=(None, made_features.DIM))
    return folder


def external_link(file: h5py.File, name: str, outside: Path) -> None:
    file[name] = h5py.ExternalLink(str(outside / "marker.h5"), "/values")


def external_group(file: h5py.File, name: str, outside: Path) -> None:
    file["below/far"] = h5py.ExternalLink(str(outside / "marker.h5"), "/")
    file[name] = h5py.SoftLink("/below/far/values")


def external_storage(file: h5py.File, name: str, outside: Path) -> None:
    file.create_dataset(name, SHAPE, np.float32, external=[(str(outside / "marker.bin"), 0, h5py.h5f.UNLIMITED)])


def virtual(file: h5py.File, name: str, outside: Path) -> None:
    layout = h5py.VirtualLayout(SHAPE, np.float32)
    layout[:] = h5py.VirtualSource(str(outside / "marker.h5"), "values", SHAPE)
    file.create_virtual_dataset(name, layout)


def growing_virtual(file: h5py.File, name: str, outside: Path) -> None:
    unlimited = h5py.h5s.UNLIMITED
    layout = h5py.VirtualLayout(SHAPE, np.float32, maxshape=(None, SHAPE[1]))
    source = h5py.VirtualSource(str(outside / "marker.h5"), "growing", SHAPE, maxshape=(None, SHAPE[1]))
    layout[0:unlimited, :] = source[0:unlimited, :]
    file.create_virtual_dataset(name, layout)


WAYS = [external_link, external_group, external_storage, virtual, growing_virtual]


def test_the_watch_sees_a_file_that_is_opened(outside: Path) -> None:
    with opened_files(outside) as names:
        (outside / "marker.bin").read_bytes()
    assert names == ["marker.bin"]


@pytest.mark.parametrize("lead_outside", WAYS)
def test_features_outside_their_file_are_refused_and_not_opened(
    lead_outside: Callable[[h5py.File, str, Path], None], tmp_path: Path, outside: Path
) -> None:
    folder = made_features.trident(tmp_path, slides=("A",))
    with h5py.File(folder / "A.h5", "r+") as file:
        del file["features"]
        lead_outside(file, "features", outside)
    with opened_files(outside) as names, pytest.raises(InputUnsupportedError, match=r"outside/marker.*A\.h5"):
        open_features(folder)
    assert names == []


@pytest.mark.parametrize("writer", sorted(made_features.WRITERS))
def test_no_reader_of_hdf5_follows_a_link_to_another_file(writer: str, tmp_path: Path, outside: Path) -> None:
    layout, write = made_features.WRITERS[writer]
    (tmp_path / "cohort").mkdir()
    write(tmp_path / "cohort")
    files = sorted((tmp_path / "cohort").rglob("*.h5"))
    for path in files:  # among them coordinates beside features of another format
        with h5py.File(path, "r+") as file:
            external_link(file, "more", outside)
    with opened_files(outside) as names:
        if files:
            with pytest.raises(InputUnsupportedError, match=r"more is a link to .*marker\.h5"):
                open_features(tmp_path / "cohort", layout=layout).read("A")
        else:
            assert open_features(tmp_path / "cohort", layout=layout).slide_ids == ("A", "B")
    assert names == []


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("name", ["chunk", "level", "metadata"])
def test_a_link_that_leads_out_of_an_ome_zarr_image_is_refused(version: str, name: str, tmp_path: Path) -> None:
    pixels = np.full((1, 64, 64), 5, np.uint8)
    image = write_omezarr(tmp_path / "image.zarr", [pixels], version=version)
    other = write_omezarr(tmp_path / "other.zarr", [pixels + 72], version=version)
    chunk = "0/c/0/0/0" if version == "0.5" else "0/0/0/0"
    metadata = "0/zarr.json" if version == "0.5" else "0/.zarray"
    part = {"chunk": chunk, "level": "0", "metadata": metadata}[name]
    shutil.rmtree(image / part) if name == "level" else (image / part).unlink()
    (image / part).symlink_to(other / part)
    with opened_files((other / part).parent) as names, pytest.raises(InputUnsupportedError, match="leads outside"):
        open_slide(image)
    assert names == []


def test_a_link_within_an_ome_zarr_image_or_to_it_is_followed(tmp_path: Path) -> None:
    image = write_omezarr(tmp_path / "image.zarr", [np.arange(64 * 128, dtype=np.uint16).reshape(1, 64, 128)])
    (image / "0/c/0/0/1").unlink()
    (image / "0/c/0/0/1").symlink_to("0")
    (tmp_path / "link.zarr").symlink_to("image.zarr")
    with open_slide(tmp_path / "link.zarr") as slide:
        assert (slide.read_region(64, 0, 64, 64) == slide.read_region(0, 0, 64, 64)).all()


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_numbers_of_chunks_that_are_parted_by_a_path_are_corrupt(version: str, tmp_path: Path) -> None:
    image = write_omezarr(tmp_path / "image.zarr", [np.ones((1, 64, 64), np.uint8)], version=version)
    path = image / "0" / ("zarr.json" if version == "0.5" else ".zarray")
    metadata = json.loads(path.read_text())
    if version == "0.5":
        metadata["chunk_key_encoding"]["configuration"]["separator"] = "/../../"
    else:
        metadata["dimension_separator"] = "/../../"
    path.write_text(json.dumps(metadata))
    with pytest.raises(InputCorruptError):
        open_slide(image)


def write_mirax(folder: Path, index: str) -> Path:
    """Write as much of a MIRAX slide as makes OpenSlide open the files that it names."""
    (folder / "slide").mkdir(parents=True)
    (folder / "slide" / "Slidedat.ini").write_text(
        "[GENERAL]\nSLIDE_VERSION = 01.02\nSLIDE_ID = x\nIMAGENUMBER_X = 1\nIMAGENUMBER_Y = 1\n"
        "OBJECTIVE_MAGNIFICATION = 20\nCameraImageDivisionsPerSide = 1\n"
        f"[HIERARCHICAL]\nHIER_COUNT = 1\nNONHIER_COUNT = 0\nINDEXFILE = {index}\n"
        "HIER_0_NAME = Slide zoom level\nHIER_0_COUNT = 1\nHIER_0_VAL_0_SECTION = L0\n"
        "[DATAFILE]\nFILE_COUNT = 1\nFILE_0 = Data0000.dat\n"
        "[L0]\nOVERLAP_X = 0\nOVERLAP_Y = 0\nMICROMETER_PER_PIXEL_X = 0.5\nMICROMETER_PER_PIXEL_Y = 0.5\n"
        "IMAGE_FILL_COLOR_BGR = 16777215\nDIGITIZER_WIDTH = 64\nDIGITIZER_HEIGHT = 64\nIMAGE_FORMAT = JPEG\n"
        "IMAGE_CONCAT_FACTOR = 0\n"
    )
    (folder / "slide.mrxs").write_bytes(b"\xff\xd8")
    return folder / "slide.mrxs"


def write_vms(folder: Path, image: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "slide.vms").write_text(
        f"[Virtual Microscope Specimen]\nNoLayers=1\nNoJpegColumns=1\nNoJpegRows=1\nImageFile={image}\n"
        "MapFile=map.jpg\nMacroImage=macro.jpg\nPhysicalWidth=29000\nPhysicalHeight=29000\nSourceLens=20\n"
    )
    return folder / "slide.vms"


@pytest.mark.parametrize(("write", "up"), [(write_mirax, "../../"), (write_vms, "../")])
def test_a_slide_whose_list_names_a_file_of_another_folder_is_refused(
    write: Callable[[Path, str], Path], up: str, tmp_path: Path, outside: Path
) -> None:
    path = write(tmp_path / "slides", f"{up}outside/marker.bin")
    with opened_files(outside) as names, pytest.raises(InputUnsupportedError, match=r"another folder: .*marker\.bin"):
        open_slide(path)
    assert names == []
    with pytest.raises(PathopatchError, match="OpenSlide cannot open it"):
        open_slide(write(tmp_path / "whole", "marker.bin"))


@pytest.mark.parametrize(
    "name", ["checkpoint_path", "pretrained_cfg_overlay", "pretrained_cfg", "cache_dir", "pretrained"]
)
def test_arguments_of_timm_that_may_read_files_are_no_part_of_a_bundle(
    name: str, tmp_path: Path, outside: Path
) -> None:
    bundle = write_model(tmp_path / "model")
    named: dict[str, Any] = {"file": str(outside / "marker.bin")}
    value = named if name.startswith("pretrained_cfg") else str(outside / "marker.bin")
    edit_both(bundle, onnx=None, architecture="resnet10t", timm_args={name: value})
    with opened_files(outside) as names, pytest.raises(CheckpointIncompatibleError, match=rf"timm_args.*{name}"):
        checked_bundle(bundle)
    assert names == []
    with pytest.raises(InputUnsupportedError, match=r"timm_args.*allowed are .*depth"):
        parse(TrainConfig, {"timm_args": {"checkpoint_path": "x"}}, place="[train]")

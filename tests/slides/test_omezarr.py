"""OME-Zarr folders: what their metadata say, and what is refused. Pixels and coordinates are in `test_contract`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import made_slides as made
import numpy as np
import pytest
import zarr
from made_omezarr import write_omezarr
from ome_zarr.format import FormatV04, FormatV05

from pathopatch.core.errors import (
    InputCorruptError,
    InputMissingError,
    InputTooLargeError,
    InputUnsupportedError,
    MppMissingError,
    PathopatchError,
)
from pathopatch.patches.store_writer import StoreWriter
from pathopatch.slides import open_slide
from pathopatch.slides.manifest import read_manifest

IMAGE = made.noise(2, 60, 90, np.uint16)
VERSIONS = pytest.mark.parametrize("version", ["0.4", "0.5"])


def change(path: Path, edit: Callable[[Any], Any]) -> None:
    """Edit a JSON file in place."""
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


@VERSIONS
def test_channels_have_the_labels_of_the_image_or_numbers(tmp_path: Path, version: str) -> None:
    path = write_omezarr(tmp_path / "a.zarr", [IMAGE], version=version, labels=("CARS", "SHG"))
    assert open_slide(path).channels == ("CARS", "SHG")
    assert open_slide(f"{path}#plane=1").channels == ("SHG",)
    np.testing.assert_array_equal(open_slide(f"{path}#plane=1").read_region(0, 0, 90, 60), IMAGE[1:])
    plain = write_omezarr(tmp_path / "b.zarr", [IMAGE], version=version, labels=("CARS",))  # one label for two planes
    assert open_slide(plain).channels == ("C0", "C1")


@pytest.mark.parametrize(
    ("unit", "um", "due"),
    [
        ("micrometer", (0.5, 0.5), 0.5),
        ("nanometer", (250, 250), 0.25),
        ("millimeter", (0.001, 0.001), 1.0),
        ("angstrom", (5000, 5000), 0.5),
        ("micrometer", (0.5, 0.505), 0.5025),  # within 2 %: the geometric mean
    ],
)
def test_the_mpp_is_the_scale_in_its_unit(tmp_path: Path, unit: str, um: tuple[float, float], due: float) -> None:
    slide = open_slide(write_omezarr(tmp_path / "a.zarr", [IMAGE], unit=unit, um=um))
    assert slide.mpp == pytest.approx(due, rel=1e-4)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"unit": None}, "without a unit"), ({"unit": "second"}, "'second'"), ({"um": (0.5, 0.6)}, "must be square"),
     ({"um": (500, 500)}, "outside")],
)  # fmt: skip
def test_a_scale_that_says_no_mpp_leaves_it_missing_with_the_reason(
    tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    path = write_omezarr(tmp_path / "a.zarr", [IMAGE], **options)
    with pytest.raises(MppMissingError, match=words):
        _ = open_slide(path).mpp
    assert open_slide(path, mpp=0.5).mpp == 0.5


def test_a_scale_of_the_whole_image_multiplies_those_of_the_levels(tmp_path: Path) -> None:
    path = write_omezarr(tmp_path / "a.zarr", made.pyramid_of(IMAGE, 2), um=(1.0, 1.0))
    both = [{"type": "scale", "scale": [1.0, 0.25, 0.25]}]
    change(
        path / "zarr.json",
        lambda m: m["attributes"]["ome"]["multiscales"][0].update(coordinateTransformations=both),
    )
    slide = open_slide(path)
    assert (slide.mpp, [level.downsample for level in slide.levels]) == (0.25, [1.0, 2.0])


@VERSIONS
def test_axes_of_length_one_are_left_out_and_others_are_printed(tmp_path: Path, version: str) -> None:
    pixels = IMAGE[None, :, None]  # (1, C, 1, h, w)
    path = write_omezarr(tmp_path / "a.zarr", [pixels], version=version, axes="tczyx")
    np.testing.assert_array_equal(open_slide(path).read_region(0, 0, 90, 60), IMAGE)
    without = write_omezarr(tmp_path / "b.zarr", [IMAGE[0]], version=version, axes="yx")
    np.testing.assert_array_equal(open_slide(without).read_region(0, 0, 90, 60), IMAGE[:1])
    last = write_omezarr(tmp_path / "c.zarr", [IMAGE.transpose(1, 2, 0)], version=version, axes="yxc")
    np.testing.assert_array_equal(open_slide(last).read_region(0, 0, 90, 60), IMAGE)
    deep = write_omezarr(tmp_path / "d.zarr", [np.repeat(pixels, 3, axis=2)], version=version, axes="tczyx")
    with pytest.raises(InputUnsupportedError, match="t=1, c=2, z=3, y=60, x=90: z longer than 1"):
        open_slide(deep)


@VERSIONS
def test_an_absurd_shape_is_refused_before_anything_is_read(tmp_path: Path, version: str) -> None:
    path = write_omezarr(tmp_path / "a.zarr", [IMAGE], version=version)
    metadata = path / "0" / (".zarray" if version == "0.4" else "zarr.json")
    change(metadata, lambda m: m.update(shape=[2, 10**7, 10**7]))
    with pytest.raises(InputTooLargeError, match="2 x 10000000 x 10000000 px"):
        open_slide(path)
    if version == "0.4":
        change(metadata, lambda m: m.update(chunks=[1, 10**6, 10**6], shape=[2, 60, 90]))
    else:
        change(metadata, lambda m: m["chunk_grid"]["configuration"].update(chunk_shape=[1, 10**6, 10**6]))
    with pytest.raises(InputTooLargeError, match="chunks of 1 x 1000000 x 1000000 px"):
        open_slide(path)


def _without_level(path: Path) -> None:
    shutil.rmtree(path / "0")


def _half_metadata(path: Path) -> None:
    (path / "zarr.json").write_text((path / "zarr.json").read_text()[:80])


def _no_metadata(path: Path) -> None:
    (path / "zarr.json").unlink()


def _edited(edit: Callable[[Any], Any]) -> Callable[[Path], None]:
    return lambda path: change(path / "zarr.json", lambda m: edit(m["attributes"]["ome"]))


BROKEN = {
    "level gone": (_without_level, InputCorruptError, "level '0' is listed and not there"),
    "metadata cut": (_half_metadata, InputCorruptError, "not JSON"),
    "no metadata": (_no_metadata, InputUnsupportedError, "without OME-Zarr"),
    "outside": (
        _edited(lambda ome: ome["multiscales"][0]["datasets"][0].update(path="../b")), InputCorruptError, "'../b'",
    ),
    "two pyramids": (
        _edited(lambda ome: ome["multiscales"].append(ome["multiscales"][0])), InputUnsupportedError, "2 multiscale",
    ),
    "no levels": (_edited(lambda ome: ome["multiscales"][0].update(datasets=[])), InputCorruptError, "no level"),
    "axes missing": (_edited(lambda ome: ome["multiscales"][0].pop("axes")), InputCorruptError, "axes"),
    "one scale too few": (
        _edited(lambda ome: ome["multiscales"][0]["datasets"][0].update(
            coordinateTransformations=[{"type": "scale", "scale": [1, 1]}])), InputCorruptError, "for 3 axes",
    ),
    "a future version": (_edited(lambda ome: ome.update(version="0.9")), InputUnsupportedError, "version 0.9"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_metadata_are_refused_with_the_reason(tmp_path: Path, name: str) -> None:
    spoil, kind, words = BROKEN[name]
    path = write_omezarr(tmp_path / "a.zarr", [IMAGE])
    spoil(path)
    with pytest.raises(PathopatchError, match=words) as caught:
        open_slide(path)
    assert type(caught.value) is kind


def test_an_older_version_is_refused(tmp_path: Path) -> None:
    path = write_omezarr(tmp_path / "a.zarr", [IMAGE], version="0.4")
    change(path / ".zattrs", lambda ome: ome["multiscales"][0].update(version="0.3"))
    with pytest.raises(InputUnsupportedError, match=r"version 0\.3 on Zarr v2"):
        open_slide(path)


def test_a_type_that_no_slide_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputUnsupportedError, match=r"uint32.*uint8, uint16, int8, int16"):
        open_slide(write_omezarr(tmp_path / "a.zarr", [IMAGE.astype(np.uint32)]))


@VERSIONS
def test_a_codec_that_is_not_read_is_unsupported_and_not_corrupt(tmp_path: Path, version: str) -> None:
    path = write_omezarr(tmp_path / "a.zarr", [IMAGE], version=version)
    if version == "0.4":
        change(path / "0" / ".zarray", lambda m: m.update(compressor={"id": "lz4", "acceleration": 1}))
    else:
        change(path / "0" / "zarr.json", lambda m: m["codecs"].append({"name": "lz4"}))
    with pytest.raises(InputUnsupportedError, match="compressed by lz4.*codecs of blosc"):
        open_slide(path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the writer warns of itself when it is imported
@pytest.mark.parametrize("kind", [FormatV04, FormatV05])
def test_what_the_ome_zarr_writer_wrote_is_read(tmp_path: Path, kind: Any) -> None:
    from ome_zarr.writer import write_image

    image = made.noise(2, 301, 403, np.uint16)
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2 if kind is FormatV04 else 3)
    write_image(image, group, axes="cyx", fmt=kind())
    slide = open_slide(tmp_path / "a.zarr")
    assert (slide.has_mpp, slide.size, len(slide.levels) > 1) == (False, (403, 301), True)  # it writes no units
    np.testing.assert_array_equal(slide.read_region(0, 0, 403, 301), image)


def test_of_several_images_one_must_be_named_by_its_folder(tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path / "all.zarr", zarr_format=2)
    group.attrs["bioformats2raw.layout"] = 3
    write_omezarr(tmp_path / "all.zarr" / "0", [IMAGE], version="0.4")
    assert open_slide(tmp_path / "all.zarr").size == (90, 60)  # a single one needs no name
    write_omezarr(tmp_path / "all.zarr" / "1", [IMAGE[:, :20]], version="0.4")
    with pytest.raises(InputUnsupportedError, match=r"2 images: 0, 1.*all\.zarr/0"):
        open_slide(tmp_path / "all.zarr")
    assert open_slide(tmp_path / "all.zarr" / "1").size == (90, 20)
    plate = zarr.create_group(tmp_path / "plate.zarr", zarr_format=3)
    plate.attrs["ome"] = {"version": "0.5", "plate": {"wells": []}}
    with pytest.raises(InputUnsupportedError, match=r"a plate of many images.*plate\.zarr/A/1/0"):
        open_slide(tmp_path / "plate.zarr")


def test_the_overview_of_a_store_is_a_slide(tmp_path: Path) -> None:
    writer = StoreWriter(
        tmp_path / "s.zarr", origins=np.zeros((0, 2), np.int64), channels=2, patch_px=8, dtype=np.dtype(np.uint16),
        with_patches=False,
    )  # fmt: skip
    overview = made.noise(2, 701, 1103, np.uint16)
    mask = np.zeros(overview.shape[1:], np.uint8)
    masks, windows = {"tissue": mask}, np.ones((2, 2))
    writer.write_overview(overview, masks, channels=("CARS", "SHG"), um_per_px=(2.0, 2.0), windows=windows)
    slide = open_slide(tmp_path / "s.zarr" / "overview")
    assert (slide.channels, slide.size, slide.mpp, len(slide.levels)) == (("CARS", "SHG"), (1103, 701), 2.0, 3)
    np.testing.assert_array_equal(slide.read_region(0, 0, 1103, 701), overview)
    with pytest.raises(InputUnsupportedError, match=r"store of patches.*s\.zarr/overview"):
        open_slide(tmp_path / "s.zarr")


def test_a_page_cannot_be_chosen_and_a_plane_must_exist(tmp_path: Path) -> None:
    path = write_omezarr(tmp_path / "a.zarr", [IMAGE])
    with pytest.raises(InputUnsupportedError, match="no pages"):
        open_slide(f"{path}#page=0")
    with pytest.raises(InputUnsupportedError, match="no plane 2.*choose 0 to 1"):
        open_slide(f"{path}#plane=2")
    with pytest.raises(InputMissingError):
        open_slide(tmp_path / "none.zarr")


FORK = """
import os, sys
from pathopatch import open_slide
slide = open_slide(sys.argv[1])
due = slide.read_region(3, 5, 60, 50).tobytes()
child = os.fork()
if child == 0:
    os._exit(0 if slide.read_region(3, 5, 60, 50).tobytes() == due else 3)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_reads_the_same_pixels(tmp_path: Path) -> None:
    path = write_omezarr(tmp_path / "a.zarr", [IMAGE])  # tensorstore alone ends the child with SIGABRT
    done = subprocess.run([sys.executable, "-c", FORK, path], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_a_manifest_names_folders_as_it_names_files(tmp_path: Path) -> None:
    write_omezarr(tmp_path / "a.zarr", [IMAGE])
    write_omezarr(tmp_path / "b.zarr", [IMAGE + 1])
    manifest = tmp_path / "m.csv"
    manifest.write_text("slide_id,patient_id,path:CARS,path:SHG\na,p,a.zarr#plane=0,b.zarr#plane=1\n")
    (row,) = read_manifest(manifest).rows
    with open_slide(row.source) as slide:
        assert (slide.channels, slide.size) == (("CARS", "SHG"), (90, 60))
    shutil.copytree(tmp_path / "a.zarr", tmp_path / "copy.zarr")
    manifest.write_text("slide_id,patient_id,path\na,p,a.zarr\nb,q,b.zarr\nc,r,copy.zarr\n")
    with pytest.raises(PathopatchError, match="DUPLICATE_ID: row 4.*rows 2, 4 have the same content"):
        read_manifest(manifest)
    manifest.write_text("slide_id,patient_id,path,tumor_mask\na,p,a.zarr,b.zarr\n")
    with pytest.raises(PathopatchError, match=r"INPUT_MISSING: row 2, column 'tumor_mask'.*no file"):
        read_manifest(manifest)

"""DICOM series that wsidicomizer makes of a real SVS: equal to it in all outputs, and odd ones refused or explained."""

from __future__ import annotations

import copy
import ctypes.util
import importlib.util
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import made_slides
import numpy as np
import pandas as pd
import pytest
import tifffile
import zarr

from pathopatch.core.errors import InputCorruptError, InputUnsupportedError
from pathopatch.slides import dicom, open_slide
from pathopatch.slides.damaged_tiles import tolerant
from pathopatch.slides.discovery import discover

SIZE = (2220, 2967)
NAMES = {"patient": "Doe^Jane", "patient_id": "PAT 7", "container": "S-12/3"}
Make = Callable[..., Path]
SVS = "CMU-1-Small-Region.svs"


@pytest.fixture(scope="module")
def svs(real_data: Path) -> Path:
    return real_data / "wsi" / SVS


@pytest.fixture(scope="module")
def pixels(svs: Path) -> np.ndarray:
    """The pixels of the SVS, (3, H, W)."""
    with open_slide(svs) as slide:
        return slide.read_region(0, 0, *SIZE)


@pytest.fixture(scope="module")
def converted(svs: Path, pixels: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Return a function that converts the SVS once with each setting, and returns the folder of the series.

    ``half`` is JPEG with a level of half the size, without the slide's last row.
    """
    if importlib.util.find_spec("wsidicomizer") is None or ctypes.util.find_library("turbojpeg") is None:
        pytest.skip("wsidicomizer or its library is missing: pip install wsidicomizer, apt-get install libturbojpeg0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one of its libraries imports what another is about to remove
        program = importlib.import_module("wsidicomizer")
    from wsidicom.codec.settings import Jpeg2kSettings
    from wsidicom.metadata import Patient, Slide
    from wsidicomizer.metadata import WsiDicomizerMetadata

    made: dict[tuple[str, bool], Path] = {}

    def convert(codec: str = "jpeg", *, levels: bool = False) -> Path:
        if (codec, levels) not in made:
            folder = tmp_path_factory.mktemp("dicom") / f"{codec}{'-levels' if levels else ''}"
            folder.mkdir()
            metadata = WsiDicomizerMetadata(
                patient=Patient(name=NAMES["patient"], identifier=NAMES["patient_id"]),
                slide=Slide(identifier=NAMES["container"]),
            )
            # Frames of JPEG are copied; those of JPEG 2000 are encoded anew, without loss.
            again = {"encoding": Jpeg2kSettings(levels=0), "force_transcoding": True} if codec == "jp2k" else {}
            program.WsiDicomizer.convert(svs, folder, metadata=metadata, workers=1, add_missing_levels=levels, **again)
            if codec == "half":
                add_half_level(folder, half_of(pixels))
            made[codec, levels] = folder
        return made[codec, levels]

    return convert


@pytest.fixture
def series(converted: Make, tmp_path: Path) -> Make:
    """Return a function that copies a series into a folder of this test."""

    def make(name: str = "S1", codec: str = "jpeg", *, levels: bool = False) -> Path:
        return Path(shutil.copytree(converted(codec, levels=levels), tmp_path / name, dirs_exist_ok=True))

    return make


def images(folder: Path) -> dict[tuple[str, int], Path]:
    """Return the files of a series by what they show, and their width."""
    import pydicom

    found = {}
    for path in folder.glob("*.dcm"):
        header = pydicom.dcmread(path, stop_before_pixels=True)
        found[header.ImageType[2], int(header.TotalPixelMatrixColumns)] = path
    return found


def edit(path: Path, change: Callable[[Any], object]) -> None:
    import pydicom

    instance = pydicom.dcmread(path)
    change(instance)
    instance.save_as(path)


def half_of(pixels: np.ndarray) -> np.ndarray:
    """Return a level of half the size, (H, W, 3)."""
    return made_slides.pyramid_of(pixels, 2)[1].transpose(1, 2, 0)


def add_half_level(folder: Path, half: np.ndarray) -> None:
    """Add a level of half the size, in whole tiles of JPEG 2000 without loss."""
    import pydicom
    from pydicom.encaps import encapsulate

    # OpenSlide blurs a coarser level whose finer one has an odd size.
    edit(images(folder)["VOLUME", SIZE[0]], lambda header: setattr(header, "TotalPixelMatrixRows", SIZE[1] - 1))
    instance = pydicom.dcmread(images(folder)["VOLUME", SIZE[0]])
    side = int(instance.Rows)
    padded = np.pad(half, [(0, -n % side) for n in half.shape[:2]] + [(0, 0)], mode="edge")
    tiles = [
        padded[y : y + side, x : x + side] for y in range(0, len(padded), side) for x in range(0, padded.shape[1], side)
    ]
    frames = [imagecodecs.jpeg2k_encode(tile, codecformat="j2k", mct=True, reversible=True, level=0) for tile in tiles]
    instance.PixelData = encapsulate(frames)
    instance.NumberOfFrames, instance.TotalPixelMatrixRows, instance.TotalPixelMatrixColumns = (
        len(tiles),
        *half.shape[:2],
    )
    instance.PhotometricInterpretation = "YBR_RCT"
    instance.file_meta.TransferSyntaxUID = pydicom.uid.JPEG2000Lossless
    instance.ImageType = ["DERIVED", "PRIMARY", "VOLUME", "RESAMPLED"]
    spacing = instance.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    spacing.PixelSpacing = [2 * float(value) for value in spacing.PixelSpacing]
    instance.SOPInstanceUID = instance.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    instance.save_as(folder / "half.dcm")


def check_equal(folder: Path, pixels: np.ndarray) -> None:
    with open_slide(folder) as slide:
        assert (slide.size, slide.mpp, slide.background) == (pixels.shape[:0:-1], 0.499, "bright")
        np.testing.assert_array_equal(slide.read_region(0, 0, *slide.size), pixels)


def test_copied_jpeg_has_the_pixels_of_the_svs(converted: Make, pixels: np.ndarray) -> None:
    check_equal(converted("jpeg"), pixels)


@pytest.mark.slow
def test_lossless_jpeg_2000_has_the_pixels_of_the_svs(converted: Make, pixels: np.ndarray) -> None:
    check_equal(converted("jp2k"), pixels)


def test_an_added_level_is_read_as_it_was_written(converted: Make, pixels: np.ndarray) -> None:
    folder, half = converted("half"), half_of(pixels)
    check_equal(folder, pixels[:, :-1])
    with open_slide(folder) as slide:
        assert [level.downsample for level in slide.levels] == [1, 2]
        assert slide.notes == ()
        np.testing.assert_array_equal(slide.read_region(0, 0, *half.shape[1::-1], level=1), half.transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("codec", "used"), [("jpeg", [2220]), pytest.param("jp2k", [2220, 139], marks=pytest.mark.slow)]
)
def test_added_levels_that_cannot_be_read_right_are_not_used(
    codec: str, used: list[int], converted: Make, pixels: np.ndarray
) -> None:
    # This version of wsidicomizer cuts the last tiles of all levels but the coarsest, and calls YCbCr frames RGB.
    folder = converted(codec, levels=True)
    check_equal(folder, pixels)
    with open_slide(folder) as slide:
        assert [level.width for level in slide.levels] == used
        for number, level in enumerate(slide.levels):
            mean = slide.read_region(0, 0, level.width, level.height, level=number).mean((1, 2))
            np.testing.assert_allclose(mean, (214, 195, 208), atol=2)
        unused = [1110, 555, 278, 139][: 5 - len(used)]
        assert [int(note.split()[3]) for note in slide.notes] == unused
        assert ("YCbCr" in slide.notes[-1]) == (codec == "jpeg")


def test_a_slide_of_false_colours_is_refused(series: Make) -> None:
    folder = series("S1", levels=True)
    for (kind, width), path in images(folder).items():
        if kind == "VOLUME" and width != 139:
            path.unlink()
    with pytest.raises(InputUnsupportedError, match="YCbCr.*RGB"):
        open_slide(folder)


def test_a_folder_and_each_file_of_a_series_are_one_slide(
    series: Make, said: Callable[..., Any], tmp_path: Path
) -> None:
    folder = series("S 1.2.840")
    picture = tmp_path / "info.png"
    volume = images(folder)["VOLUME", SIZE[0]]
    shown = said("info", folder, "-o", picture).out
    assert "S_1.2.840\n" in shown
    for path in folder.glob("*.dcm"):
        with open_slide(path) as slide:
            assert (slide.size, slide.paths) == (SIZE, (volume,))  # label and overview are not among its files
    (tmp_path / "cohort.csv").write_text("slide_id,patient_id,path\na,b,S 1.2.840\n")
    assert "2220" in said("check", tmp_path / "cohort.csv", "--quick").out
    (tmp_path / "cohort.csv").write_text("slide_id,patient_id,path\na,b,.\n")
    assert "neither OME-Zarr nor DICOM" in said("check", tmp_path / "cohort.csv", code=1).err


def test_the_files_of_a_series_named_one_by_one_are_one_slide(series: Make) -> None:
    files = sorted(series("S1").glob("*.dcm"))
    found = discover(files)
    assert [(slide.row.slide_id, slide.row.source) for slide in found.slides] == [
        (files[0].stem, str(images(files[0].parent)["VOLUME", SIZE[0]]))
    ]
    assert not found.left_out


def test_a_part_of_a_series_elsewhere_does_not_take_its_place(series: Make, tmp_path: Path) -> None:
    whole, part = series("b", "half"), series("a", "half")
    images(part)["VOLUME", SIZE[0]].unlink()
    assert [slide.row.slide_id for slide in discover([tmp_path]).slides] == ["a", "b"]
    shutil.copytree(whole, tmp_path / "c")
    found = discover([tmp_path])
    assert [item.path.parent.name for item in found.left_out] == ["c"]


def test_a_damaged_last_tile_is_tolerated_if_asked_for(series: Make, pixels: np.ndarray) -> None:
    folder = series()
    path = images(folder)["VOLUME", SIZE[0]]
    content = path.read_bytes()
    start = content.rindex(b"\xff\xd8\xff")  # of the last frame
    path.write_bytes(content[:start] + bytes(40) + content[start + 40 :])
    with open_slide(folder) as slide:
        with pytest.raises(InputCorruptError):
            slide.read_region(SIZE[0] - 8, SIZE[1] - 8, 8, 8)
        with tolerant(slide, 0.1) as spared:
            np.testing.assert_array_equal(spared.read_region(0, 0, 480, 480), pixels[:, :480, :480])
            assert (spared.read_region(SIZE[0] - 8, SIZE[1] - 8, 8, 8) == 255).all()


def test_two_series_in_one_folder_are_two_slides_or_an_error(
    series: Make, said: Callable[..., Any], tmp_path: Path
) -> None:
    folder = series("in")
    series("in", levels=True)
    names = dicom.series_in(folder)
    assert len(names) == 2
    error = said("info", folder, "-o", tmp_path / "info.png", code=1).err
    assert "INPUT_UNSUPPORTED" in error
    assert all(name in error and files[0].name in error for name, files in names.items())
    said("manifest", folder, "-o", tmp_path / "cohort.csv")
    listed = pd.read_csv(tmp_path / "cohort.csv")
    found = [dicom.series_of(tmp_path / path) for path in listed["path"]]
    assert sorted(found) == [(name, SIZE[0]) for name in sorted(names)]


def test_ids_are_taken_from_the_files_only_when_asked_for(
    series: Make, said: Callable[..., Any], tmp_path: Path
) -> None:
    series("in/one")
    series("in/two")
    edit(images(tmp_path / "in" / "two")["VOLUME", SIZE[0]], lambda header: setattr(header, "PatientID", ""))
    for path in (tmp_path / "in" / "two").glob("*.dcm"):
        edit(path, lambda header: setattr(header, "ContainerIdentifier", "S-13"))
    table = tmp_path / "cohort.csv"
    said("manifest", tmp_path / "in", "-o", table)
    assert not any(name in table.read_text() for name in ("PAT", "S-1"))
    told = said("manifest", tmp_path / "in", "-o", table, "--from-dicom", "--force").err
    rows = pd.read_csv(table)
    assert list(zip(rows["slide_id"], rows["patient_id"], strict=True)) == [("S-12_3", "PAT_7"), ("S-13", "S-13")]
    assert "PatientID" in told


def test_slides_of_one_container_get_ids_of_their_own(series: Make, said: Callable[..., Any], tmp_path: Path) -> None:
    first, second = series("in/one"), series("in/two", levels=True)
    said("manifest", tmp_path / "in", "-o", tmp_path / "cohort.csv", "--from-dicom")
    rows = pd.read_csv(tmp_path / "cohort.csv")
    assert list(rows["slide_id"]) == [f"{first.name}_S-12_3", f"{second.name}_S-12_3"]
    assert set(rows["patient_id"]) == {"PAT_7"}


def test_a_coarser_level_may_be_missing_the_finest_is_said_to_be(series: Make) -> None:
    folder = series(codec="half")
    images(folder)["VOLUME", SIZE[0]].unlink()
    with open_slide(folder) as slide:
        assert (slide.size, slide.mpp) == ((1110, 1483), pytest.approx(0.998))
        assert "lacks the finest level" in slide.notes[0]


@pytest.mark.parametrize("name", ["finest", "half"])
def test_a_cut_file_of_a_series_is_refused(name: str, series: Make) -> None:
    folder = series(codec="half")
    path = images(folder)["VOLUME", SIZE[0] if name == "finest" else SIZE[0] // 2]
    content = path.read_bytes()
    for percent in (99.99, 95, 30):
        path.write_bytes(content[: int(len(content) * percent / 100)])
        with pytest.raises(InputCorruptError, match=f"{SIZE[0] if name == 'finest' else SIZE[0] // 2} x"):
            open_slide(folder)


def concatenate(folder: Path) -> list[Path]:
    """Divide the finest level into the two files of a concatenation."""
    import pydicom
    from pydicom.encaps import encapsulate, generate_frames

    path = images(folder)["VOLUME", SIZE[0]]
    whole = pydicom.dcmread(path)
    count = int(whole.NumberOfFrames)
    frames = list(generate_frames(whole.PixelData, number_of_frames=count))
    name, files = pydicom.uid.generate_uid(), []
    for number, (first, last) in enumerate([(0, 70), (70, count)], 1):
        part = copy.deepcopy(whole)
        part.SOPInstanceUID = part.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
        part.ConcatenationUID, part.SOPInstanceUIDOfConcatenationSource = name, whole.SOPInstanceUID
        part.InConcatenationNumber, part.InConcatenationTotalNumber = number, 2
        part.ConcatenationFrameOffsetNumber, part.NumberOfFrames = first, last - first
        part.PixelData = encapsulate(frames[first:last])
        files.append(folder / f"part{number}.dcm")
        part.save_as(files[-1])
    path.unlink()
    return files


def test_a_concatenation_is_one_level_and_needs_all_its_files(series: Make, pixels: np.ndarray) -> None:
    folder = series()
    files = concatenate(folder)
    check_equal(folder, pixels)
    with open_slide(folder) as slide:
        assert sorted(slide.paths) == files
    for path in files:
        moved = path.rename(folder.parent / path.name)
        with pytest.raises(InputCorruptError, match="concatenation"):
            open_slide(folder)
        moved.rename(path)


def test_what_is_no_image_of_a_slide_is_said_to_be_none(series: Make, said: Callable[..., Any], tmp_path: Path) -> None:
    folder = series("S1")
    files = images(folder)
    files["VOLUME", SIZE[0]].unlink()
    with pytest.raises(InputUnsupportedError, match="all files of its series"):
        open_slide(files["LABEL", 387])
    with pytest.raises(InputUnsupportedError, match="without OME-Zarr and DICOM"):
        open_slide(folder)
    other = series("S2")
    edit(images(other)["LABEL", 387], lambda header: setattr(header.file_meta, "MediaStorageSOPClassUID", "1.2"))
    (other / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    told = said("manifest", tmp_path, "-o", tmp_path / "cohort.csv").err
    assert list(pd.read_csv(tmp_path / "cohort.csv")["slide_id"]) == ["S2"]
    assert "a DICOM file of no whole slide" in told
    assert "no image of the slide beside this file" in told
    assert "DICOMDIR" not in told


def test_the_series_is_the_files_own_not_one_that_it_names(series: Make) -> None:
    import pydicom

    folder = series()
    path = images(folder)["VOLUME", SIZE[0]]
    before = dicom.series_of(path)
    named = pydicom.Dataset()
    named.SeriesInstanceUID = "1.2.3"
    edit(path, lambda header: setattr(header, "ReferencedSeriesSequence", pydicom.Sequence([named])))
    assert b"1.2.3\0" in path.read_bytes()
    assert dicom.series_of(path) == before


def test_a_header_with_any_byte_changed_is_read_or_corrupt(tmp_path: Path) -> None:
    import pydicom
    from pydicom.uid import ExplicitVRLittleEndian

    made = pydicom.Dataset()
    made.file_meta = pydicom.dataset.FileMetaDataset()
    made.file_meta.MediaStorageSOPClassUID, made.file_meta.TransferSyntaxUID = dicom._SLIDE, ExplicitVRLittleEndian
    made.SOPInstanceUID, made.SeriesInstanceUID, made.PatientID = "1.2.3", "1.2", "P"
    made.ImageType, made.TotalPixelMatrixColumns, made.TotalPixelMatrixRows = ["ORIGINAL", "PRIMARY", "VOLUME"], 9, 9
    made.save_as(tmp_path / "whole.dcm", enforce_file_format=True)
    content, told = (tmp_path / "whole.dcm").read_bytes(), []
    for place in range(132, len(content)):
        for value in (0, 6, 255):
            path = tmp_path / f"{place}-{value}.dcm"
            path.write_bytes(content[:place] + bytes([value]) + content[place + 1 :])
            try:
                dicom.series_of(path)
            except InputCorruptError as error:
                told.append(str(error))
    assert len(told) > 20


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["jpeg", "jp2k", "half", "concatenation"])
def test_patches_tissue_and_heatmap_are_those_of_the_svs(
    kind: str, series: Make, svs: Path, pixels: np.ndarray, said: Callable[..., Any], tmp_path: Path
) -> None:
    folder = series("S1", "jpeg" if kind == "concatenation" else kind)
    if kind == "concatenation":
        concatenate(folder)
    (tmp_path / "cohort.csv").write_text(f"slide_id,patient_id,path,tumor_mask\nS1,p,{folder},none\n")
    original = tmp_path / "pyramid.tif" if kind == "half" else svs
    if kind == "half":  # the SVS has no second level
        made_slides.write_rgb_pyramid(original, pixels[:, :-1], levels=2, tile_px=256, mpp=0.499)
    (tmp_path / "svs.csv").write_text(f"slide_id,patient_id,path,tumor_mask\nS1,p,{original},none\n")
    works = []
    for name, source in (("cohort", folder), ("svs", original)):
        out, work = tmp_path / f"{name}-out", tmp_path / f"{name}-work"
        said("predict", source, "--example-model", "--slide-id", "S1", "-o", out, "-q")
        said("tile", tmp_path / f"{name}.csv", "-o", work, "-q")
        works.append((out, work))
    for name in ("predictions/S1.parquet", "patches/S1.parquet"):
        tables = [pd.read_parquet((out if "predictions" in name else work) / name) for out, work in works]
        pd.testing.assert_frame_equal(*tables)
    heatmaps = [tifffile.imread(out / "heatmaps" / "S1" / "heatmap.ome.tif") for out, _ in works]
    np.testing.assert_array_equal(*heatmaps)
    assert np.isfinite(heatmaps[0]).any()
    for name in ("patches", "overview/labels/tissue/0"):
        arrays = [np.asarray(zarr.open_array(work / "slides" / "S1.zarr" / name, mode="r")[:]) for _, work in works]
        np.testing.assert_array_equal(*arrays)


@pytest.mark.slow
def test_label_and_names_reach_no_output_and_are_not_missed(
    series: Make, said: Callable[..., Any], tmp_path: Path
) -> None:
    folder = series("S1", "half")
    out = tmp_path / "out"
    command = ("predict", folder, "--example-model", "-o", out, "-q")
    said(*command)
    said("report", out)
    files = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert len(files) > 5
    assert not [path for path, content in files.items() for name in NAMES.values() if name.encode() in content]
    table = (out / "predictions" / "S1.parquet").stat().st_mtime_ns
    for (kind, _), path in images(folder).items():
        if kind != "VOLUME":
            path.unlink()
    said(*command)  # the slide is as it was
    assert (out / "predictions" / "S1.parquet").stat().st_mtime_ns == table
    changed = images(folder)["VOLUME", SIZE[0] // 2]
    edit(changed, lambda header: setattr(header, "SeriesDescription", "another"))
    assert "STALE_ARTEFACT" in said(*command, code=1).err  # each file with pixels counts

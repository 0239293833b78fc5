"""Heatmaps as DICOM: where their patches are on the slide, glass without a value, of a person what the slide says."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_heatmap import SIZE, write_heatmap

from pathopatch.core.artefacts import file_marks, fingerprint_file
from pathopatch.core.errors import InputChangedError, InputMissingError, InputUnsupportedError
from pathopatch.heatmaps.dicom_export import write_dicom_folder
from pathopatch.heatmaps.pyramids import write_ome_tiff

hd = pytest.importorskip("highdicom")
pydicom = pytest.importorskip("pydicom")
pixels = pytest.importorskip("pydicom.pixels")

CELL_PX, SPACING = 16.5, (0.0005, 0.0004)  # mm from row to row, and from column to column
PROBABILITY = np.array([[np.nan, 0.0, 1.0], [0.25, 0.6, np.nan]], np.float32)
WSI = "1.2.840.10008.5.1.4.1.1.77.1.6"


def write_series(path: Path, **changed: Any) -> Path:
    """Write the header of a slide that is turned by a quarter, as scanners store it; None takes an attribute out."""
    slide = pydicom.Dataset()
    origin, measures, shared = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
    origin.XOffsetInSlideCoordinateSystem, origin.YOffsetInSlideCoordinateSystem = 25.0, 50.0
    measures.PixelSpacing, measures.SliceThickness = list(SPACING), 0.001
    shared.PixelMeasuresSequence = [measures]
    values = {
        "SOPClassUID": WSI, "SOPInstanceUID": "1.2.3.4", "StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.5",
        "FrameOfReferenceUID": "1.2.3.6", "ImageType": ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"], "Modality": "SM",
        "SpecificCharacterSet": "ISO_IR 100", "PatientName": "Müller^Änne", "PatientID": "PAT 7",
        "PatientBirthDate": "", "PatientSex": "", "StudyID": "", "StudyDate": "", "StudyTime": "",
        "AccessionNumber": "", "ContainerIdentifier": "S-12/3", "Manufacturer": "m", "PositionReferenceIndicator": "",
        "DimensionOrganizationType": "TILED_FULL", "NumberOfFrames": 1, "Rows": 256, "Columns": 256,
        "TotalPixelMatrixColumns": SIZE[0], "TotalPixelMatrixRows": SIZE[1], "TotalPixelMatrixFocalPlanes": 1,
        "TotalPixelMatrixOriginSequence": [origin], "ImageOrientationSlide": [0, -1, 0, -1, 0, 0],
        "SharedFunctionalGroupsSequence": [shared],
    }  # fmt: skip
    for name, value in (values | changed).items():
        if value is not None:
            setattr(slide, name, value)
    slide.file_meta = pydicom.dataset.FileMetaDataset()
    slide.file_meta.MediaStorageSOPClassUID, slide.file_meta.MediaStorageSOPInstanceUID = WSI, "1.2.3.4"
    slide.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    path.parent.mkdir(parents=True, exist_ok=True)
    slide.save_as(path, enforce_file_format=True)
    return path


def predicted(out: Path, source: Path | None, slide_id: str = "a") -> Path:
    folder = out / "heatmaps" / slide_id
    write_heatmap(out, slide_id, None if source is None else str(source))
    heatmap = folder / "heatmap.ome.tif"
    write_ome_tiff(
        heatmap, np.stack([PROBABILITY, PROBABILITY]), cell_um=8.0, channels=("probability", "tissue_fraction")
    )
    facts = {
        "cell_px": CELL_PX, "map_channels": ["probability", "tissue_fraction"], "decision_probability": 0.5,
        "class_names": ["no", "rak złośliwy"], "outputs": file_marks({"heatmap.ome.tif": heatmap}),
        "files": [] if source is None else [fingerprint_file(source)],
    }  # fmt: skip
    for path in folder.glob("*"):
        if path != heatmap:
            path.unlink()
    heatmap.rename(out / "kept.tif")
    folder.rmdir()
    write_heatmap(out, slide_id, None if source is None else str(source), **facts)
    (out / "kept.tif").rename(heatmap)
    return out


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    return write_series(tmp_path / "series" / "a.dcm")


def test_corners_and_values_lie_where_the_patches_are(slide: Path, tmp_path: Path) -> None:
    write_dicom_folder(predicted(tmp_path / "out", slide), tmp_path / "dicom")
    image = hd.pm.ParametricMap.from_dataset(pydicom.dcmread(tmp_path / "dicom" / "a.dcm"))
    np.testing.assert_array_equal(image.get_total_pixel_matrix(), PROBABILITY)
    np.testing.assert_array_equal(pixels.pixel_array(tmp_path / "dicom" / "a.dcm"), PROBABILITY)
    assert image.FrameOfReferenceUID == "1.2.3.6"
    to_mm = hd.spatial.ImageToReferenceTransformer.for_image(image, for_total_pixel_matrix=True)
    corners = np.array([[0, 0], [3, 0], [0, 2], [3, 2]])
    # A row of the slide runs down in its frame of reference, a column runs to the left; by hand, from the outer corner
    # of the first pixel, of which the slide states the centre.
    mm = [
        (25 + SPACING[0] / 2 - row * CELL_PX * SPACING[0], 50 + SPACING[1] / 2 - column * CELL_PX * SPACING[1], 0)
        for column, row in corners
    ]
    np.testing.assert_allclose(to_mm(corners), mm, atol=1e-9)
    to_slide_px = hd.spatial.ReferenceToImageTransformer.for_image(pydicom.dcmread(slide), for_total_pixel_matrix=True)
    np.testing.assert_allclose(to_slide_px(to_mm(corners))[:, :2], corners * CELL_PX, atol=1e-4)


def test_of_a_person_it_states_what_the_slide_states(slide: Path, tmp_path: Path) -> None:
    write_dicom_folder(predicted(tmp_path / "out", slide, "Doe-Jane"), tmp_path / "dicom")
    content = (tmp_path / "dicom" / "Doe-Jane.dcm").read_bytes()
    image = pydicom.dcmread(tmp_path / "dicom" / "Doe-Jane.dcm")
    assert (str(image.PatientName), image.PatientID, image.ContainerIdentifier) == ("Müller^Änne", "PAT 7", "S-12/3")
    assert image.ContentDescription == "probability of rak złośliwy"
    assert b"Jane" not in content
    assert str(tmp_path).encode() not in content


def test_a_deidentified_slide_stays_one(tmp_path: Path) -> None:
    absent = dict.fromkeys(["PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyID"])
    slide = write_series(tmp_path / "series" / "a.dcm", **absent, PatientIdentityRemoved="YES")
    write_dicom_folder(predicted(tmp_path / "out", slide), tmp_path / "dicom")
    image = pydicom.dcmread(tmp_path / "dicom" / "a.dcm")
    assert not any(image[name].value for name in absent)
    assert image.PatientIdentityRemoved == "YES"


def test_equal_inputs_give_equal_files_but_for_times(slide: Path, tmp_path: Path) -> None:
    out = predicted(tmp_path / "out", slide)
    images = []
    for name in ("one", "two"):
        write_dicom_folder(out, tmp_path / name)
        image = pydicom.dcmread(tmp_path / name / "a.dcm")
        for keyword in ("InstanceCreationDate", "InstanceCreationTime", "ContentDate", "ContentTime"):
            delattr(image, keyword)
        del image.ContributingEquipmentSequence[-1].ContributionDateTime
        images.append(image)
    assert images[0] == images[1]
    before = (tmp_path / "one" / "a.dcm").stat()
    write_dicom_folder(out, tmp_path / "one")
    assert (tmp_path / "one" / "a.dcm").stat() == before


def test_a_slide_without_a_frame_of_reference_is_refused_or_left_out(slide: Path, tmp_path: Path) -> None:
    other = tmp_path / "b.svs"
    other.write_bytes(b"II*\0")
    out = predicted(tmp_path / "out", other, "b")
    with pytest.raises(InputUnsupportedError, match="no frame of reference"):
        write_dicom_folder(out, tmp_path / "dicom")
    assert not (tmp_path / "dicom").exists()
    predicted(out, slide)
    written = write_dicom_folder(out, tmp_path / "dicom")
    assert sorted(path.name for path in (tmp_path / "dicom").iterdir()) == ["a.dcm", "export.json"]
    assert "wsidicomizer" in written.notes["b"]


@pytest.mark.parametrize("lacking", ["FrameOfReferenceUID", "TotalPixelMatrixOriginSequence"])
def test_a_slide_that_does_not_state_its_place_is_refused(lacking: str, tmp_path: Path) -> None:
    slide = write_series(tmp_path / "series" / "a.dcm", **{lacking: None})
    with pytest.raises(InputUnsupportedError, match=lacking):
        write_dicom_folder(predicted(tmp_path / "out", slide), tmp_path / "dicom")


def test_predictions_that_name_no_slide_or_another_are_refused(slide: Path, tmp_path: Path) -> None:
    with pytest.raises(InputMissingError, match="de-identified"):
        write_dicom_folder(predicted(tmp_path / "pseudonyms", None), tmp_path / "dicom")
    out = predicted(tmp_path / "out", slide)
    write_series(slide, PatientID="PAT 8")
    with pytest.raises(InputChangedError):
        write_dicom_folder(out, tmp_path / "dicom")


def test_without_highdicom_the_extra_is_named(slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(InputMissingError) as raised:
        write_dicom_folder(predicted(tmp_path / "out", slide), tmp_path / "dicom")
    assert "pip install highdicom" in raised.value.remedy

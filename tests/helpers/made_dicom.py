"""Write small DICOM slides by pydicom."""

from __future__ import annotations

from pathlib import Path

import imagecodecs
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit, generate_uid

SIDE, ACROSS, DOWN = 64, 3, 2
_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"


def write_dicom(path: Path, *, frames: str = "full", series: str = "") -> Path:
    """Write a slide of 192 x 128 px, 0.5 um/px, in one file; where its frames lie is implied, or stated for each.

    `frames`: "full"; "stated"; "nowhere", each without its place; "one", the first alone with it; "unlisted", without a
    list of them.
    """
    image = np.full((DOWN * SIDE, ACROSS * SIDE, 3), 240, np.uint8)
    image[30:100, 40:150] = (170, 80, 140)
    places = [(x, y) for y in range(DOWN) for x in range(ACROSS)]
    tiles = [image[y * SIDE : (y + 1) * SIDE, x * SIDE : (x + 1) * SIDE].copy() for x, y in places]
    slide = Dataset()
    slide.file_meta = FileMetaDataset()
    slide.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    slide.file_meta.MediaStorageSOPClassUID = slide.SOPClassUID = _SLIDE
    slide.file_meta.MediaStorageSOPInstanceUID = slide.SOPInstanceUID = generate_uid()
    slide.StudyInstanceUID, slide.SeriesInstanceUID = generate_uid(), series or generate_uid()
    slide.Modality, slide.ImageType = "SM", ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    slide.Rows = slide.Columns = SIDE
    slide.TotalPixelMatrixRows, slide.TotalPixelMatrixColumns = image.shape[:2]
    slide.SamplesPerPixel, slide.PlanarConfiguration, slide.PixelRepresentation = 3, 0, 0
    slide.BitsAllocated, slide.BitsStored, slide.HighBit = 8, 8, 7
    slide.PhotometricInterpretation, slide.NumberOfFrames = "YBR_FULL_422", len(tiles)
    slide.DimensionOrganizationType = "TILED_FULL" if frames == "full" else "TILED_SPARSE"
    measures, shared, path_of_light = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [0.0005, 0.0005], 0.001
    shared.PixelMeasuresSequence = [measures]
    slide.SharedFunctionalGroupsSequence = [shared]
    path_of_light.OpticalPathIdentifier = "1"
    slide.OpticalPathSequence, slide.TotalPixelMatrixFocalPlanes = [path_of_light], 1
    if frames in ("stated", "one", "nowhere"):
        groups = [Dataset() for _ in places]
        for group, (x, y) in zip(groups, places, strict=True):
            if frames == "stated" or (frames == "one" and group is groups[0]):
                place = Dataset()
                place.ColumnPositionInTotalImagePixelMatrix = x * SIDE + 1
                place.RowPositionInTotalImagePixelMatrix = y * SIDE + 1
                group.PlanePositionSlideSequence = [place]
        slide.PerFrameFunctionalGroupsSequence = groups
    slide.PixelData = encapsulate([imagecodecs.jpeg8_encode(tile, level=95) for tile in tiles])
    slide["PixelData"].VR = "OB"
    path.parent.mkdir(parents=True, exist_ok=True)
    slide.save_as(path, enforce_file_format=True)
    return path

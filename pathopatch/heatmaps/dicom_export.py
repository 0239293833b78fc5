"""Write predicted slides as DICOM Parametric Maps, in the frame of reference of the series that they were read from.

A pixel is a cell of the heatmap: its probability, NaN where nothing was predicted. A map states of patient, study and
specimen what its source states, and neither the slide's id nor its path. Needs the extra `dicom`.
"""

from __future__ import annotations

import uuid
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pathopatch.core.artefacts import fingerprint, fingerprint_file
from pathopatch.core.errors import InputChangedError, InputMissingError, InputUnsupportedError
from pathopatch.core.status import read_status
from pathopatch.core.task import Progress
from pathopatch.core.version import __version__
from pathopatch.core.work_folder import WorkFolder
from pathopatch.heatmaps.facts import HEATMAP, HeatmapFacts, read_facts
from pathopatch.heatmaps.pyramids import read_ome_tiff
from pathopatch.heatmaps.qupath import ExportFolder, whole_facts, write_export
from pathopatch.slides.dicom import slide_files
from pathopatch.slides.slide_paths import split_fragment

_GEOMETRY = ("FrameOfReferenceUID", "ImageOrientationSlide", "TotalPixelMatrixOriginSequence")
_PERSON = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex")
_STUDY = ("AccessionNumber", "StudyID", "StudyDate", "StudyTime")


def write_dicom_folder(out: Path, path: Path, *, force: bool = False, progress: Progress | None = None) -> ExportFolder:
    """Write ``<slide_id>.dcm`` of all slides that were predicted from DICOM, unless the same is there.

    Equal inputs give equal files, UIDs included, but for the times of writing. Parameters and errors are those of
    `write_export`; InputMissingError, too, without highdicom.
    """
    try:
        import highdicom  # noqa: F401
    except ImportError as error:
        remedy = "install the extra dicom (pip install highdicom)"
        raise InputMissingError("highdicom, which writes DICOM, is not installed", remedy=remedy) from error
    steps = partial(_mark, out), partial(_write_map, out)
    return write_export(out, path, "DICOM", *steps, force=force, progress=progress)


def _mark(out: Path, slide_id: str) -> str:
    """Return the fingerprint of what a slide's map is made of; refuse a slide without a frame of reference."""
    facts = whole_facts(out, slide_id, HEATMAP)
    _level_0(out, slide_id, facts)
    return fingerprint([facts["stamp"], facts["outputs"][HEATMAP]["fingerprint"]])


def _level_0(out: Path, slide_id: str, facts: HeatmapFacts) -> list[Any]:
    """Return the headers of the files of level 0, several of a concatenation."""
    import pydicom

    source = read_status(out, slide_id).get("predict", {}).get("source")
    if not isinstance(source, str) or not (path := Path(split_fragment(source).path)).exists():
        found = "no DICOM series at hand: it was moved, predicted de-identified, or is a file per channel"
        remedy = "predict one series from where it lies; if it must not name its patient, de-identify the series first"
        raise InputMissingError(found, place=slide_id, remedy=remedy)
    if not (files := slide_files(path)):
        remedy = "convert it to DICOM (wsidicomizer) and predict that, or use export qupath"
        raise InputUnsupportedError("not a DICOM slide: no frame of reference", place=source, remedy=remedy)
    if sorted(map(fingerprint_file, files)) != sorted(facts["files"]):
        found = "the slide's files are others than were predicted"
        raise InputChangedError(found, place=source, remedy="predict the slide again")
    headers, size = [pydicom.dcmread(file, stop_before_pixels=True) for file in files], tuple(facts["size_px"])
    headers = [one for one in headers if (one.TotalPixelMatrixColumns, one.TotalPixelMatrixRows) == size]
    if missing := [name for name in _GEOMETRY if name not in headers[0]]:
        found = f"the slide does not state {' and '.join(missing)}"
        raise InputUnsupportedError(found, place=source, remedy="convert or export the slide anew")
    return headers


def _write_map(out: Path, folder: Path, slide_id: str, mark: str) -> None:
    """Write a slide's map into a folder."""
    import highdicom as hd
    from pydicom.sr.codedict import codes

    heatmap, facts = WorkFolder(out).heatmap(slide_id), read_facts(WorkFolder(out).heatmap(slide_id))
    source, *others = _level_0(out, slide_id, facts)
    for name in (*_PERSON, *_STUDY):
        source.setdefault(name, None)  # they may be empty, but highdicom fails where one is absent
    maps = dict(zip(facts["map_channels"], read_ome_tiff(heatmap / HEATMAP).levels[0], strict=True))
    measures, side = source.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0], facts["cell_px"]
    spacing = [mm * side for mm in measures.PixelSpacing]  # from row to row, from column to column
    # DICOM places an image by the centre of its first pixel, here that of the first cell.
    to_slide = hd.spatial.ImageToReferenceTransformer.for_image(source, for_total_pixel_matrix=True)
    centre = to_slide(np.array([[side / 2, side / 2]]))[0].tolist()
    uids = [f"2.25.{uuid.uuid5(uuid.NAMESPACE_URL, f'pathopatch:{__version__}:{mark}:{i}').int}" for i in range(3)]
    model, name = facts["stamp"]["inputs"]["model"][:16], facts["class_names"][1]
    what, unit, quantity = f"probability of {name}"[:64], codes.UCUM.NoUnits, codes.DCM.Probability
    image = hd.pm.ParametricMap(
        [source], maps["probability"], further_source_images=others, specific_character_set="ISO_IR 192",  # UTF-8
        series_instance_uid=uids[0], series_number=1000, sop_instance_uid=uids[1], instance_number=1,
        series_description=what, content_description=what, content_label="HEATMAP",
        manufacturer="pathopatch", manufacturer_model_name="pathopatch predict", software_versions=__version__,
        device_serial_number=model, contains_recognizable_visual_features=False,
        real_world_value_mappings=[
            hd.pm.RealWorldValueMapping("probability", what, unit, (0.0, 1.0), quantity_definition=quantity)
        ],
        voi_lut_transformations=[hd.VOILUTTransformation(window_center=0.5, window_width=1.0)],
        pixel_measures=hd.PixelMeasuresSequence(spacing, measures.get("SliceThickness")),
        plane_positions=[hd.PlanePositionSequence("SLIDE", centre, (1, 1))],
        # One tile: of several, highdicom would fill what overhangs the map with 0, a probability.
        tile_pixel_array=True, tile_size=maps["probability"].shape, dimension_organization_type="TILED_FULL",
    )  # fmt: skip
    image.DimensionOrganizationSequence[0].DimensionOrganizationUID = uids[2]
    image.DerivationDescription = (
        f"Probability of {name} by model {model} ({facts['method']}), a pixel for {side:g} px of the slide; called "
        f"{name} above {facts['decision_probability']:.6g}. NaN: not predicted, which is no probability of 0."
    )
    image.save_as(folder / f"{slide_id}.dcm")

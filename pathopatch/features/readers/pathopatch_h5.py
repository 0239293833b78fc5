"""Features that ``pathopatch encode`` writes: an HDF5 file a slide in TRIDENT's layout, with further facts."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pathopatch.core.errors import InputCorruptError, InputUnsupportedError
from pathopatch.core.files import atomic_path, json_text
from pathopatch.features.readers.folder import Candidate, FeatureFile, Layout, check_slide
from pathopatch.features.readers.h5 import load_h5py, read_slide
from pathopatch.features.readers.tools import read_trident
from pathopatch.features.slide_features import Encoder, SlideFeatures

ATTRIBUTE = "pathopatch"
"""Of the file: JSON with the encoder, um/px, the side of a patch and the stamp."""
_FRACTIONS = ("tissue_fraction", "scanned_fraction")
_MAGNIFICATION_BINS = ((0.16, 80), (0.2, 60), (0.3, 40), (0.6, 20), (1.2, 10), (2.4, 5))
"""TRIDENT's: below which um/px a scan counts as having which magnification."""


def _slide_files(candidate: Candidate) -> list[FeatureFile]:
    """Return the slide of a file with our attribute."""
    if candidate.h5 is None or ATTRIBUTE not in candidate.h5.attributes:
        return []
    # Encode names the file by the slide's id, which may end like the name of a slide file.
    return [replace(candidate.file(), slide_id=candidate.path.stem)]


def _read(file: FeatureFile, with_features: bool) -> SlideFeatures:
    """Return a slide's features."""
    plain, stored = read_trident(file, with_features), read_slide(file.path, more=_FRACTIONS)
    try:
        known = json.loads(stored.attributes[""][ATTRIBUTE])
        encoder, notes = Encoder.from_dict(known["encoder"]), tuple(known["notes"])
        facts: dict[str, Any] = {"mpp": known["mpp"], "side": known["side_px"], **stored.more}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputCorruptError(
            f"the attribute {ATTRIBUTE} is not what encode writes: {error}",
            place=str(file.path),
            remedy="remove the file and run pathopatch encode again",
        ) from error
    return replace(plain, encoder=encoder, notes=notes, slide_content=known.get("slide", ""), **facts)


LAYOUT = Layout("pathopatch", _slide_files, _read)


def write_slide_features(
    path: Path, slide: SlideFeatures, stamp: Mapping[str, Any], *, patch_px: int | None = None, overlap_px: int = 0
) -> None:
    """Write features of a slide whole or not at all; equal input gives equal bytes.

    Coordinates and side are rounded to whole level-0 pixels. `patch_px` is the side of a patch as it was cut,
    `overlap_px` the overlap of neighbours in the same pixels.
    """
    h5py = load_h5py(path)
    if slide.x is None or slide.y is None or slide.side is None or slide.unit != "px":
        raise InputUnsupportedError(
            f"the patches of {slide.slide_id} have no place in level-0 pixels",
            place=str(path),
            remedy="state um/px of level 0",
        )
    check_slide(replace(slide, path=path))
    about: dict[str, Any] = {
        "encoder": slide.encoder.to_dict(),
        "mpp": slide.mpp,
        "side_px": slide.side,
        "side_um": slide.side * slide.mpp if slide.mpp is not None else None,
        "notes": list(slide.notes),
        "stamp": dict(stamp),
    }
    if slide.slide_content:
        about["slide"] = slide.slide_content
    with atomic_path(path) as temporary, h5py.File(temporary, "w", libver=("earliest", "v110")) as file:
        file.attrs[ATTRIBUTE] = json_text(about)
        features = file.create_dataset("features", data=slide.features, track_times=False)
        features.attrs.update({"name": slide.slide_id, "encoder": slide.encoder.name or "None"})
        xy = np.rint(np.column_stack([slide.x, slide.y])).astype(np.int64)
        coords = file.create_dataset("coords", data=xy, track_times=False)
        coords.attrs.update(_trident_attributes(slide, patch_px or round(slide.side), overlap_px))
        for name in _FRACTIONS:
            if (values := getattr(slide, name)) is not None:
                file.create_dataset(name, data=np.asarray(values, np.float32), track_times=False)


def _trident_attributes(slide: SlideFeatures, patch_px: int, overlap_px: int) -> dict[str, Any]:
    """Return the attributes of `coords` that TRIDENT writes, as far as they are known."""
    side = round(slide.side or 0)
    attributes: dict[str, Any] = {
        "name": slide.slide_id,
        "patch_size": patch_px,
        "patch_size_level0": side,
        "overlap": overlap_px,
    }
    if slide.mpp is not None:
        magnification = next((bin_x for below, bin_x in _MAGNIFICATION_BINS if slide.mpp < below), None)
        if magnification is not None:
            attributes["level0_magnification"] = magnification
            attributes["target_magnification"] = max(1, math.floor(magnification * patch_px / side + 0.5))
    if slide.size_px is not None:
        attributes |= {"level0_width": slide.size_px[0], "level0_height": slide.size_px[1]}
    return attributes

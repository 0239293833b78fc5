"""Write features of a slide to one HDF5 file, so that TRIDENT's readers and ours read it."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pathopatch.core.errors import InputUnsupportedError
from pathopatch.core.files import atomic_path, json_text
from pathopatch.features.readers.folder import check_slide
from pathopatch.features.readers.h5 import load_h5py
from pathopatch.features.readers.own import ATTRIBUTE
from pathopatch.features.slide_features import Encoder, SlideFeatures

_MAGNIFICATION_BINS = ((0.16, 80), (0.2, 60), (0.3, 40), (0.6, 20), (1.2, 10), (2.4, 5))
"""TRIDENT's: below which um/px a scan counts as having which magnification."""


def write_slide_features(
    path: Path,
    slide: SlideFeatures,
    stamp: Mapping[str, Any],
    *,
    patch_px: int | None = None,
    overlap_px: int = 0,
) -> None:
    """Write features of a slide whole or not at all; equal input gives equal bytes.

    The slide has coordinates and side in level-0 pixels; they are rounded to whole ones. `stamp` is what
    `Stamp.to_dict` returns. `patch_px` is the side of a patch as it was cut, `overlap_px` the overlap of
    neighbours in the same pixels.

    Raises
    ------
    InputUnsupportedError
        The slide has no coordinates or side in level-0 pixels, or h5py is not installed.
    NonFiniteError
        Features or coordinates are NaN or infinite.
    """
    h5py = load_h5py(path)
    if slide.x is None or slide.y is None or slide.side is None or slide.unit != "px" or slide.is_centre:
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
        "side_um": slide.side * slide.mpp if slide.mpp is not None else slide.side_um,
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
        coords.attrs.update(_trident_attributes(slide, patch_px, overlap_px))
        fractions = {"tissue_fraction": slide.tissue_fraction, "scanned_fraction": slide.scanned_fraction}
        for name, values in fractions.items():
            if values is not None:
                file.create_dataset(name, data=np.asarray(values, np.float32), track_times=False)


def _trident_attributes(slide: SlideFeatures, patch_px: int | None, overlap_px: int) -> dict[str, Any]:
    """Return the attributes of `coords` that TRIDENT writes, as far as they are known."""
    side = round(slide.side or 0)
    patch_px = patch_px or side
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


def encoder_key(encoder: Encoder) -> str:
    """Return a folder's name for features of an encoder: its name, and a hash of all that is known of it."""
    name = re.sub(r"[^A-Za-z0-9._-]", "_", encoder.name or "encoder").strip("._-")[:64] or "encoder"
    known = json.dumps(encoder.to_dict(), sort_keys=True, separators=(",", ":"))
    return f"{name}-{hashlib.sha256(known.encode()).hexdigest()[:8]}"

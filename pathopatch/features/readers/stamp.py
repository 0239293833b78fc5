"""Features of STAMP: ``OUT/EXTRACTOR-HASH/ANY/FOLDERS/SLIDE.h5``, with coordinates in micrometres."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathopatch.core.errors import InputUnsupportedError
from pathopatch.features.readers.folder import Candidate, FeatureFile, Layout, slide_id_from_stem
from pathopatch.features.readers.h5 import number, open_h5, read_coordinates, read_dataset, text
from pathopatch.features.slide_features import Encoder, SlideFeatures

_NAMES = ("feats", "patch_embeddings")  # the second in multiplex files, which have no coordinates
_OLD_PX, _OLD_UM = 224, 256.0  # before version 2, coordinates counted pixels of which 224 are 256 um
NOTE = "STAMP left out patches as bright as glass (240 of 255 in the thumbnail) and those with few edges"
OLD = "STAMP's file states no unit: its stride of 224 was taken for 256 um, as STAMP itself does"


def slide_files(candidate: Candidate) -> list[FeatureFile]:
    """Return the slide of a file with STAMP's features of patches; not of slides or patients."""
    path, contents = candidate.path, candidate.h5
    if contents is None or contents.attributes.get("feat_type", "tile") != "tile":
        return []
    name = next((name for name in _NAMES if contents.has_vectors(name)), None)
    if name is None or (name == "feats" and "coords" not in contents.shapes):
        return []
    # STAMP names a folder after the extractor; the folders below are those of the slides.
    extractor = text(contents.attributes, "extractor")
    groups = (folder for folder in path.parents if extractor and f"{folder.name}-".startswith(f"{extractor}-"))
    group = next(groups, candidate.root)
    return [FeatureFile(slide_id=slide_id_from_stem(path.stem), path=path, group=group, key=name)]


def read(file: FeatureFile, with_features: bool) -> SlideFeatures:
    """Return a slide's features, by y, then x: STAMP writes rows as its threads end."""
    with open_h5(file.path) as opened:
        attributes = dict(opened.attrs)
        features, dim = read_dataset(opened, file.key, with_features)
        xy = read_coordinates(opened) if "coords" in opened else None
    tile_px = number(attributes, "tile_size_px")
    encoder = Encoder(dim=dim, name=text(attributes, "extractor"), input_px=None if tile_px is None else int(tile_px))
    if xy is None:
        return file.slide(features, encoder, None, unit="um", notes=(NOTE,))
    side_um, um_per_unit = _scale(attributes, xy, file.path)
    order = np.lexsort((xy[:, 0], xy[:, 1]))
    features = features[order] if len(order) == len(features) else features
    notes = (NOTE,) if um_per_unit == 1 else (NOTE, OLD)
    xy = xy[order] * um_per_unit
    return file.slide(features, encoder, xy, side=side_um, unit="um", notes=notes)


def _scale(attributes: Mapping[str, Any], xy: NDArray[np.float64], path: Path) -> tuple[float | None, float]:
    """Return the side of a patch in um, and um per unit of the coordinates."""
    side, tile_size = number(attributes, "tile_size_um"), number(attributes, "tile_size")
    if side is not None or attributes.get("unit") == "um":  # since version 2.1; version 2.0
        return side or tile_size, 1.0
    if not len(xy):
        return None, 1.0
    steps = np.concatenate([np.diff(np.unique(axis)) for axis in xy.T])
    stride = tile_size or (float(steps.min()) if len(steps) else None)
    if stride is None or round(stride) != _OLD_PX:
        raise InputUnsupportedError(
            f"STAMP's coordinates have no unit, and a stride of {stride}",
            place=str(path),
            remedy="extract the features again with STAMP 2 or later",
        )
    return _OLD_UM, _OLD_UM / _OLD_PX


LAYOUT = Layout("stamp", slide_files, read)

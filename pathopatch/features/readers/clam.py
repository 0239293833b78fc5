"""Features of CLAM: ``FEATURES/h5_files/SLIDE.h5`` and ``FEATURES/pt_files/SLIDE.pt``.

They state neither the side of a patch nor the encoder. The side is in ``patches/SLIDE.h5``, where CLAM stored the
coordinates; that folder is looked for in and beside the one with the features.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathopatch.features.readers.folder import Candidate, FeatureFile, Layout, slide_id_from_stem
from pathopatch.features.readers.h5 import number, open_h5, pair, read_coordinates, read_dataset, width_height
from pathopatch.features.readers.vectors import read_vectors
from pathopatch.features.slide_features import Encoder, SlideFeatures

_HALVES, _TENSORS = ("h5_files", "pt_files"), (".pt", ".pth")
NOTE = "CLAM left out patches whose four test points lie outside its tissue contours"
NO_PATCHES = "no patches/SLIDE.h5 of CLAM beside the features, or several that differ: the side of a patch is unknown"
NO_COORDINATES = "these features have no coordinates: CLAM's patches/SLIDE.h5 was not found beside them"


def slide_files(candidate: Candidate) -> list[FeatureFile]:
    """Return the slide of a file with features and coordinates that have no attributes, or of a tensor."""
    path, contents = candidate.path, candidate.h5
    if path.suffix in _TENSORS:  # in other folders than these, tensors may be anything
        is_ours = path.parent.name == "pt_files" or path.parent == candidate.root
    else:
        is_ours = contents is not None and contents.has_vectors("features") and "coords" in contents.shapes
    group = path.parent.parent if path.parent.name in _HALVES else path.parent
    return [FeatureFile(slide_id=slide_id_from_stem(path.stem), path=path, group=group)] if is_ours else []


def read(file: FeatureFile, with_features: bool) -> SlideFeatures:
    """Return a slide's features."""
    xy: NDArray[np.float64] | None = None
    if file.path.suffix in _TENSORS:
        features, dim = read_vectors(file.path, with_features)
    else:
        with open_h5(file.path) as opened:
            features, dim = read_dataset(opened, "features", with_features)
            xy = read_coordinates(opened)
    # A slide may have been cut several times, into patches of other sizes.
    cuts = [_read_patches(path) for path in _patch_files(file)]
    cuts = [cut for cut in cuts if (len(cut[0]) == len(features) if xy is None else np.array_equal(cut[0], xy))]
    is_clear = len(cuts) == 1 if xy is None else len({known["side"] for _, known in cuts}) == 1
    notes = (NOTE,) if is_clear else (NOTE, NO_COORDINATES if xy is None else NO_PATCHES)
    xy, known = cuts[0] if is_clear else (xy, dict[str, Any]())
    return file.slide(features, Encoder(dim=dim), xy, notes=notes, **known)


def _patch_files(file: FeatureFile) -> Iterator[Path]:
    """Yield the files of coordinates of a slide in and beside the folder of features."""
    above = file.group.parent
    for folder in dict.fromkeys([file.group / "patches", above / "patches", *sorted(above.glob("*/patches"))]):
        paths = (folder / f"{name}.h5" for name in (file.path.stem, file.slide_id))
        yield from [path for path in paths if path.is_file()][:1]


def _read_patches(path: Path) -> tuple[NDArray[np.float64], dict[str, Any]]:
    """Return CLAM's coordinates (N, 2), and the side of the patches and the size of the slide; None where unknown."""
    with open_h5(path) as opened:
        if "coords" not in opened:
            return np.empty((0, 2)), {"side": None}
        xy = read_coordinates(opened)
        # Older files hold the images as well, and have the attributes on them.
        dataset = opened["imgs"] if "imgs" in opened else opened["coords"]
        attributes = dict(dataset.attrs)
        patch_px = float(dataset.shape[1]) if "imgs" in opened else number(attributes, "patch_size")
    downsample = pair(attributes, "downsample")
    if patch_px is None or downsample is None:
        return xy, {"side": None}
    # patch_size counts pixels of patch_level.
    side = patch_px * downsample[0] * (number(attributes, "custom_downsample") or 1.0)
    is_level_0 = attributes.get("patch_level") == 0
    return xy, {"side": side, "size_px": width_height(attributes, "level_dim") if is_level_0 else None}


LAYOUT = Layout("clam", slide_files, read, lambda file: list(_patch_files(file)))

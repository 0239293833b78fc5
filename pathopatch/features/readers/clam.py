"""Features of CLAM: ``FEATURES/h5_files/SLIDE.h5`` and ``FEATURES/pt_files/SLIDE.pt``.

They say neither the side of a patch nor the encoder. The side is in ``patches/SLIDE.h5``, where CLAM stored the
coordinates; that folder is looked for in and beside the one with the features.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathopatch.features.readers.folder import Candidate, Layout, SlideFile, slide_id_from_stem
from pathopatch.features.readers.h5 import number, open_h5, pair, read_coordinates, read_vectors, width_height
from pathopatch.features.readers.tensors import read_tensor
from pathopatch.features.slide_features import Encoder, SlideFeatures

_HALVES = ("h5_files", "pt_files")
_PATCHES = "patches"
NOTE = "CLAM left out patches whose four test points lie outside its tissue contours"
NO_PATCHES = "no patches/SLIDE.h5 of CLAM beside the features, or several that differ: the side of a patch is unknown"
NO_COORDINATES = "these features have no coordinates: CLAM's patches/SLIDE.h5 was not found beside them"


@dataclass(frozen=True)
class _Patches:
    """What CLAM's file of coordinates says."""

    xy: NDArray[np.float64]
    side: float | None
    size_px: tuple[int, int] | None


def slide_files(candidate: Candidate) -> list[SlideFile]:
    """Return the slide of a file with features and coordinates that have no attributes, or of a tensor.

    Tensors count in a folder ``pt_files``, and in the very folder that was named: elsewhere they may be anything.
    """
    path, contents = candidate.path, candidate.h5
    if path.suffix in (".pt", ".pth"):
        is_ours = path.parent.name == "pt_files" or path.parent == candidate.root
    else:
        is_ours = contents is not None and contents.has_vectors("features") and "coords" in contents.shapes
    if not is_ours:
        return []
    group = path.parent.parent if path.parent.name in _HALVES else path.parent
    return [SlideFile(slide_id=slide_id_from_stem(path.stem), path=path, group=group)]


def read(slide: SlideFile, with_features: bool) -> SlideFeatures:
    """Return a slide's features."""
    xy: NDArray[np.float64] | None = None
    if slide.path.suffix in (".pt", ".pth"):
        features, dim = read_tensor(slide.path, with_features)
    else:
        with open_h5(slide.path) as file:
            features, dim = read_vectors(file, "features", with_features)
            xy = read_coordinates(file)
    patches = _matching_patches(slide, len(features), xy)
    if xy is None and patches is not None:
        xy = patches.xy
    notes = (NOTE,) if patches is not None else (NOTE, NO_COORDINATES if xy is None else NO_PATCHES)
    return SlideFeatures(
        slide_id=slide.slide_id,
        features=features,
        encoder=Encoder(dim=dim),
        path=slide.path,
        x=None if xy is None else xy[:, 0],
        y=None if xy is None else xy[:, 1],
        side=None if patches is None else patches.side,
        size_px=None if patches is None else patches.size_px,
        notes=notes,
    )


def _matching_patches(slide: SlideFile, count: int, xy: NDArray[np.float64] | None) -> _Patches | None:
    """Return CLAM's coordinates that belong to the features; None where there are none, or it is not clear which.

    A slide may have been cut several times, into patches of other sizes.
    """
    every = [_read_patches(path) for path in _patch_files(slide)]
    if xy is None:
        fitting = [patches for patches in every if len(patches.xy) == count]
        return fitting[0] if len(fitting) == 1 else None
    fitting = [patches for patches in every if np.array_equal(patches.xy, xy)]
    return fitting[0] if len({patches.side for patches in fitting}) == 1 else None


def _patch_files(slide: SlideFile) -> Iterator[Path]:
    """Yield the files of coordinates of a slide in and beside the folder of features."""
    above = slide.group.parent
    folders = [slide.group / _PATCHES, above / _PATCHES, *sorted(above.glob(f"*/{_PATCHES}"))]
    for folder in dict.fromkeys(folders):
        for name in dict.fromkeys((slide.path.stem, slide.slide_id)):
            if (path := folder / f"{name}.h5").is_file():
                yield path
                break


def _read_patches(path: Path) -> _Patches:
    with open_h5(path) as file:
        if "coords" not in file:
            return _Patches(np.empty((0, 2)), None, None)
        xy = read_coordinates(file)
        # Older files hold the images as well, and have the attributes on them.
        dataset = file["imgs"] if "imgs" in file else file["coords"]
        attributes: dict[str, Any] = dict(dataset.attrs)
        patch_px = float(file["imgs"].shape[1]) if "imgs" in file else number(attributes, "patch_size")
    downsample = pair(attributes, "downsample")
    if patch_px is None or downsample is None:
        return _Patches(xy, None, None)
    # patch_size counts pixels of patch_level.
    side = patch_px * downsample[0] * (number(attributes, "custom_downsample") or 1.0)
    is_level_0 = attributes.get("patch_level") == 0
    return _Patches(xy, side, width_height(attributes, "level_dim") if is_level_0 else None)


LAYOUT = Layout("clam", slide_files, read, lambda slide: list(_patch_files(slide)))

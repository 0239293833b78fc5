"""Features of slideflow: ``BAGS/SLIDE.pt`` with the centres of patches in ``BAGS/SLIDE.index.npz``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pathopatch.core.errors import InputUnsupportedError
from pathopatch.core.files import read_json
from pathopatch.features.readers.folder import Candidate, Layout, SlideFile, slide_id_from_stem
from pathopatch.features.readers.h5 import text
from pathopatch.features.readers.tensors import read_npz, read_tensor
from pathopatch.features.slide_features import Encoder, SlideFeatures

_INDEX, _CONFIG = ".index.npz", "bags_config.json"
_ARRAY = "arr_0"  # numpy's name for an array without one
NOTE = "slideflow left out patches of which more than 60 % is grey (saturation below 0.05), unless it was set otherwise"
NO_INDEX = "slideflow's file of locations is missing: these features have no coordinates"
NO_SIDE = "slideflow's bags_config.json states no side in micrometres"


def slide_files(candidate: Candidate) -> list[SlideFile]:
    """Return the slide of a tensor with slideflow's locations or configuration beside it."""
    path = candidate.path
    index, config = path.with_name(f"{path.stem}{_INDEX}"), path.with_name(_CONFIG)
    if path.suffix != ".pt" or not (index.is_file() or config.is_file()):
        return []
    companion = index if index.is_file() else None
    return [SlideFile(slide_id=slide_id_from_stem(path.stem), path=path, group=path.parent, companion=companion)]


def read(slide: SlideFile, with_features: bool) -> SlideFeatures:
    """Return a slide's features; their coordinates are centres."""
    features, dim = read_tensor(slide.path, with_features)
    path = slide.path.with_name(_CONFIG)
    config = read_json(path) if path.is_file() else {}
    # Words such as "20x" are a magnification, not a side.
    tile_um = config.get("tile_um")
    side_um = float(tile_um) if isinstance(tile_um, int | float) and tile_um > 0 else None
    xy = None if slide.companion is None else _centres(slide.companion)
    notes = [NOTE]
    if xy is None:
        notes.append(NO_INDEX)
    if side_um is None:
        notes.append(NO_SIDE)
    return SlideFeatures(
        slide_id=slide.slide_id,
        features=features,
        encoder=Encoder(dim=dim, name=_extractor(config)),
        path=slide.path,
        x=None if xy is None else xy[:, 0],
        y=None if xy is None else xy[:, 1],
        side_um=side_um,
        is_centre=xy is not None,
        notes=tuple(notes),
    )


def _centres(path: Path) -> np.ndarray[Any, np.dtype[np.float64]]:
    arrays = read_npz(path, (_ARRAY,))
    if _ARRAY not in arrays or arrays[_ARRAY].ndim != 2 or arrays[_ARRAY].shape[1] < 2:
        raise InputUnsupportedError(
            "no array of locations (N, 2) in slideflow's index", place=str(path), remedy="write the bags again"
        )
    return arrays[_ARRAY][:, :2].astype(np.float64)


def _extractor(config: dict[str, Any]) -> str | None:
    extractor = config.get("extractor")
    name = text(extractor, "class") if isinstance(extractor, dict) else None
    return None if name is None else name.rsplit(".", 1)[-1]


def _companions(slide: SlideFile) -> list[Path]:
    """Return the file of locations and the configuration, as far as they are there."""
    config = slide.path.with_name(_CONFIG)
    return [path for path in (slide.companion, config) if path is not None and path.is_file()]


LAYOUT = Layout("slideflow", slide_files, read, _companions)

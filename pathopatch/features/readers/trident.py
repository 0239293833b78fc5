"""Features of TRIDENT: ``JOB/20x_256px_0px_overlap/features_ENCODER/SLIDE.h5``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pathopatch.features.readers.folder import Candidate, Layout, SlideFile, slide_id_from_stem
from pathopatch.features.readers.h5 import number, open_h5, read_coordinates, read_vectors, text
from pathopatch.features.readers.tensors import read_tensor
from pathopatch.features.slide_features import Encoder, SlideFeatures

_FOLDER = "features_"
NOTES = (
    "TRIDENT keeps every patch that touches tissue unless --min_tissue_proportion was set, which its files do not say",
    "TRIDENT's magnification is a bin of um/px: the um/px of the scan is not in its files",
)


def slide_files(candidate: Candidate) -> list[SlideFile]:
    """Return the slide of a file that has TRIDENT's attributes; of tensors, of one in a folder that it names."""
    path, contents = candidate.path, candidate.h5
    if path.suffix == ".pt":
        coordinates = path.parent.parent / "patches" / f"{path.stem}_patches.h5"
        is_ours = path.parent.name.startswith(_FOLDER) and coordinates.is_file()
        return [_slide_file(path, coordinates)] if is_ours else []
    if contents is None or "pathopatch" in contents.attributes or not contents.has_vectors("features"):
        return []
    return [_slide_file(path, None)] if "patch_size_level0" in contents.of_dataset.get("coords", {}) else []


def _slide_file(path: Path, coordinates: Path | None) -> SlideFile:
    folder = path.parent.name
    encoder = folder.removeprefix(_FOLDER) if folder.startswith(_FOLDER) else None
    return SlideFile(
        slide_id=slide_id_from_stem(path.stem),
        path=path,
        group=path.parent,
        companion=coordinates,
        encoder_name=encoder or None,
    )


def read(slide: SlideFile, with_features: bool) -> SlideFeatures:
    """Return a slide's features."""
    name = slide.encoder_name
    with open_h5(slide.companion or slide.path) as file:
        xy = read_coordinates(file)
        attributes = dict(file["coords"].attrs)
        if slide.companion is None:
            features, dim = read_vectors(file, "features", with_features)
            name = text(dict(file["features"].attrs), "encoder") or name
    if slide.companion is not None:
        features, dim = read_tensor(slide.path, with_features)
    return SlideFeatures(
        slide_id=slide.slide_id,
        features=features,
        encoder=Encoder(dim=dim, name=name),
        path=slide.path,
        x=xy[:, 0],
        y=xy[:, 1],
        side=number(attributes, "patch_size_level0"),
        size_px=size_px(attributes),
        notes=NOTES,
    )


def size_px(attributes: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return width and height of level 0."""
    width, height = number(attributes, "level0_width"), number(attributes, "level0_height")
    return None if width is None or height is None else (int(width), int(height))


LAYOUT = Layout("trident", slide_files, read)

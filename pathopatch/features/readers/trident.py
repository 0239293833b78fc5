"""Features of TRIDENT: ``JOB/20x_256px_0px_overlap/features_ENCODER/SLIDE.h5``."""

from __future__ import annotations

from pathlib import Path

from pathopatch.features.readers.folder import Candidate, FeatureFile, Layout, slide_id_from_stem
from pathopatch.features.readers.h5 import number, open_h5, read_coordinates, read_dataset, text
from pathopatch.features.readers.vectors import read_vectors
from pathopatch.features.slide_features import Encoder, SlideFeatures

_FOLDER = "features_"
NOTES = (
    "TRIDENT keeps every patch that touches tissue unless --min_tissue_proportion was set, which its files do not say",
    "TRIDENT's magnification is a bin of um/px: the um/px of the scan is not in its files",
)


def slide_files(candidate: Candidate) -> list[FeatureFile]:
    """Return the slide of a file that has TRIDENT's attributes; of tensors, of one in a folder that it names."""
    path, contents = candidate.path, candidate.h5
    if path.suffix == ".pt":
        coordinates = path.parent.parent / "patches" / f"{path.stem}_patches.h5"
        is_ours = path.parent.name.startswith(_FOLDER) and coordinates.is_file()
        return [_feature_file(path, coordinates)] if is_ours else []
    if contents is None or "pathopatch" in contents.attributes or not contents.has_vectors("features"):
        return []
    return [_feature_file(path, None)] if "patch_size_level0" in contents.of_dataset.get("coords", {}) else []


def _feature_file(path: Path, coordinates: Path | None) -> FeatureFile:
    folder = path.parent.name
    encoder = folder.removeprefix(_FOLDER) if folder.startswith(_FOLDER) else None
    return FeatureFile(
        slide_id=slide_id_from_stem(path.stem),
        path=path,
        group=path.parent,
        companion=coordinates,
        encoder_name=encoder or None,
    )


def read(file: FeatureFile, with_features: bool) -> SlideFeatures:
    """Return a slide's features."""
    name = file.encoder_name
    with open_h5(file.companion or file.path) as opened:
        xy, attributes = read_coordinates(opened), dict(opened["coords"].attrs)
        if file.companion is None:
            features, dim = read_dataset(opened, "features", with_features)
            name = text(dict(opened["features"].attrs), "encoder") or name
    if file.companion is not None:
        features, dim = read_vectors(file.path, with_features)
    width, height = number(attributes, "level0_width"), number(attributes, "level0_height")
    size_px = None if width is None or height is None else (int(width), int(height))
    side = number(attributes, "patch_size_level0")
    return file.slide(features, Encoder(dim=dim, name=name), xy, side=side, size_px=size_px, notes=NOTES)


LAYOUT = Layout("trident", slide_files, read)

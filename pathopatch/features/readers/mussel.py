"""Features of Mussel: ``ID.features.h5``, or any name that its command line was given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pathopatch.features.readers.folder import Candidate, Layout, SlideFile, slide_id_from_stem
from pathopatch.features.readers.h5 import number, open_h5, read_coordinates, read_vectors, width_height
from pathopatch.features.slide_features import Encoder, SlideFeatures

_MARK = "patch_size_to_resize_to_for_desired_mpp"
_ENDING = ".features"
LAST_ROWS = "Mussel leaves out the last row and column of its grid"
DEFAULT_MPP = "Mussel takes 0.5 um/px where a scan states none, and older files do not say whether it did"


def slide_files(candidate: Candidate) -> list[SlideFile]:
    """Return the slide of a file with Mussel's attributes on its coordinates."""
    path, contents = candidate.path, candidate.h5
    if contents is None or not contents.has_vectors("features"):
        return []
    if _MARK not in contents.of_dataset.get("coords", {}):
        return []
    return [SlideFile(slide_id=slide_id_from_stem(path.stem.removesuffix(_ENDING)), path=path, group=path.parent)]


def read(slide: SlideFile, with_features: bool) -> SlideFeatures:
    """Return a slide's features."""
    with open_h5(slide.path) as file:
        features, dim = read_vectors(file, "features", with_features)
        xy = read_coordinates(file)
        attributes = dict(file["coords"].attrs)
    is_default_mpp = bool(attributes.get("mpp_is_fallback", False))
    return SlideFeatures(
        slide_id=slide.slide_id,
        features=features,
        encoder=Encoder(dim=dim),
        path=slide.path,
        x=xy[:, 0],
        y=xy[:, 1],
        side=number(attributes, "patch_size"),
        mpp=None if is_default_mpp else number(attributes, "native_mpp"),
        size_px=width_height(attributes, "level_dim"),
        notes=_notes(attributes),
    )


def _notes(attributes: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what was left out, and what is not certain."""
    share = number(attributes, "min_tissue_proportion")
    kept = f"with less than {share:.0%} tissue" if share else "that touch no tissue"
    notes = [f"Mussel left out patches {kept}", LAST_ROWS]
    most = number(attributes, "max_tiles")  # -1: all
    if most is not None:
        notes.append(f"Mussel drew at most {int(most)} patches of each slide")
    if number(attributes, "native_mpp") == 0.5 and "mpp_is_fallback" not in attributes:
        notes.append(DEFAULT_MPP)
    return tuple(notes)


LAYOUT = Layout("mussel", slide_files, read)

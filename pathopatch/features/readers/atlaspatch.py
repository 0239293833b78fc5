"""Features of AtlasPatch: ``OUT/patches/SLIDE.h5``, one file for the coordinates and all encoders."""

from __future__ import annotations

from pathopatch.features.readers.folder import Candidate, Layout, SlideFile, slide_id_from_stem
from pathopatch.features.readers.h5 import number, open_h5, read_coordinates, read_vectors
from pathopatch.features.readers.trident import size_px
from pathopatch.features.slide_features import Encoder, SlideFeatures

_GROUP = "features/"
_COLUMNS = 5  # x, y, width and height as read, level
NOTE = "AtlasPatch left out patches whose four test points lie outside its tissue contours"


def slide_files(candidate: Candidate) -> list[SlideFile]:
    """Return a slide's features by each encoder in a file with AtlasPatch's five columns of coordinates."""
    path, contents = candidate.path, candidate.h5
    if contents is None or contents.shapes.get("coords", ())[1:] != (_COLUMNS,):
        return []
    encoders = sorted(name.removeprefix(_GROUP) for name in contents.shapes if name.startswith(_GROUP))
    slide_id = slide_id_from_stem(path.stem)
    return [
        SlideFile(slide_id=slide_id, path=path, group=path.parent / encoder, key=encoder, encoder_name=encoder)
        for encoder in encoders
    ]


def read(slide: SlideFile, with_features: bool) -> SlideFeatures:
    """Return a slide's features."""
    with open_h5(slide.path) as file:
        features, dim = read_vectors(file, f"{_GROUP}{slide.key}", with_features)
        xy = read_coordinates(file)
        attributes = {**file["coords"].attrs, **file.attrs}  # of the file, unlike TRIDENT's
    return SlideFeatures(
        slide_id=slide.slide_id,
        features=features,
        encoder=Encoder(dim=dim, name=slide.encoder_name),
        path=slide.path,
        x=xy[:, 0],
        y=xy[:, 1],
        side=number(attributes, "patch_size_level0"),
        size_px=size_px(attributes),
        notes=(NOTE,),
    )


LAYOUT = Layout("atlaspatch", slide_files, read)

"""Features that ``pathopatch encode`` wrote: TRIDENT's layout, and what TRIDENT does not store."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np

from pathopatch.core.errors import InputCorruptError
from pathopatch.features.readers import trident
from pathopatch.features.readers.folder import Candidate, Layout, SlideFile
from pathopatch.features.readers.h5 import open_h5
from pathopatch.features.readers.stored_size import require_stored_dataset
from pathopatch.features.slide_features import Encoder, SlideFeatures

ATTRIBUTE = "pathopatch"
"""Of the file: JSON with the encoder, um/px, the side of a patch and the stamp."""


def slide_files(candidate: Candidate) -> list[SlideFile]:
    """Return the slide of a file with our attribute."""
    if candidate.h5 is None or ATTRIBUTE not in candidate.h5.attributes:
        return []
    path = candidate.path
    # Encode names the file by the slide's id, which may end like the name of a slide file.
    return [SlideFile(slide_id=path.stem, path=path, group=path.parent)]


def read(slide: SlideFile, with_features: bool) -> SlideFeatures:
    """Return a slide's features."""
    plain = trident.read(slide, with_features)
    with open_h5(slide.path) as file:
        fractions = [file.get(name) for name in ("tissue_fraction", "scanned_fraction")]
        for dataset in fractions:
            if dataset is not None:
                require_stored_dataset(dataset)
        tissue, scanned = (None if dataset is None else np.asarray(dataset[()], np.float32) for dataset in fractions)
        about = file.attrs[ATTRIBUTE]
    try:
        known = json.loads(about)
        encoder, notes = Encoder.from_dict(known["encoder"]), tuple(known["notes"])
        scale = {"mpp": known["mpp"], "side": known["side_px"], "side_um": known["side_um"]}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputCorruptError(
            f"the attribute {ATTRIBUTE} is not what encode writes: {error}",
            place=str(slide.path),
            remedy="remove the file and run pathopatch encode again",
        ) from error
    content = known.get("slide", "")  # files of earlier versions have none
    facts = {"tissue_fraction": tissue, "scanned_fraction": scanned, "slide_content": content, **scale}
    return replace(plain, encoder=encoder, notes=notes, **facts)


LAYOUT = Layout("pathopatch", slide_files, read)

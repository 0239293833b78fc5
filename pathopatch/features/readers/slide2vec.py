"""Features of slide2vec on patches of hs2p: ``OUT/tile_embeddings/SLIDE.pt`` or ``.npz``.

Coordinates and tissue fractions are in ``OUT/tiles/SLIDE.coordinates.npz``, facts about the slide in a file beside it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pathopatch.core.errors import InputCorruptError, InputMissingError, InputUnsupportedError
from pathopatch.core.files import read_json
from pathopatch.features.readers.folder import Candidate, FeatureFile, Layout, slide_id_from_stem
from pathopatch.features.readers.h5 import number, text, width_height
from pathopatch.features.readers.vectors import read_npz, read_vectors
from pathopatch.features.slide_features import Encoder, SlideFeatures

_META, _NPZ, _FOLDER = ".meta.json", ".coordinates.npz", "tile_embeddings"
_TISSUE = "tissue"  # hs2p's name for tiles of all tissue


def slide_files(candidate: Candidate) -> list[FeatureFile]:
    """Return the slide of a file that is described as embeddings of tiles."""
    path = candidate.path
    if path.suffix not in (".pt", ".npz") or not _description(path).is_file():
        return []
    if read_json(_description(path)).get("artifact_type") != _FOLDER:
        return []
    return [FeatureFile(slide_id=slide_id_from_stem(path.stem), path=path, group=path.parent)]


def read(file: FeatureFile, with_features: bool) -> SlideFeatures:
    """Return a slide's features."""
    about, npz = read_json(_description(file.path)), _coordinates_file(file)
    features, dim = read_vectors(file.path, with_features)
    tiles = read_npz(npz, ("x", "y", "tile_index", "tissue_fractions"))
    x, y = tiles.get("x"), tiles.get("y")
    if x is None or y is None or x.ndim != 1 or x.shape != y.shape:
        raise InputUnsupportedError("no x and y in hs2p's coordinates", place=str(npz), remedy="run hs2p again")
    if file.path.suffix == ".npz" and "tile_index" in (index := read_npz(file.path, ("tile_index",))):
        row_of = {tile: row for row, tile in enumerate(tiles.get("tile_index", np.arange(len(x))).tolist())}
        rows = [row_of.get(tile, -1) for tile in index["tile_index"].tolist()]
        if -1 in rows:
            raise InputCorruptError(
                f"{rows.count(-1)} of {len(rows)} tiles are not among hs2p's coordinates",
                place=str(file.path),
                remedy="extract the features of this slide again",
            )
        tiles = {name: values[rows] for name, values in tiles.items()}
    sections = read_json(_description(npz)) if _description(npz).is_file() else {}
    slide, tiling, artifact = (
        section if isinstance(section := sections.get(name), dict) else {} for name in ("slide", "tiling", "artifact")
    )
    # Where tiles were drawn for a class of annotations, hs2p stores the fraction of that class under the same name.
    annotation = text(artifact, "annotation")
    fractions = tiles.get("tissue_fractions") if annotation in (None, _TISSUE) else None
    input_px = number(about, "encoder_input_size_px")
    return file.slide(
        features,
        Encoder(dim=dim, name=text(about, "encoder_name"), input_px=None if input_px is None else int(input_px)),
        np.column_stack([tiles["x"], tiles["y"]]).astype(np.float64),
        side=number(tiling, "tile_size_lv0") or number(about, "tile_size_lv0"),
        mpp=number(slide, "base_spacing_um"),
        tissue_fraction=None if fractions is None else fractions.astype(np.float32),
        size_px=width_height(slide, "dimensions"),
        notes=_notes(tiling.get("min_tissue_fraction"), None if annotation == _TISSUE else annotation),
    )


def _description(path: Path) -> Path:
    return path.with_name(f"{path.stem}{_META}")


def _coordinates_file(file: FeatureFile) -> Path:
    """Return hs2p's file of coordinates, at the place that is stated or where slide2vec writes it."""
    stated = text(read_json(_description(file.path)), "coordinates_npz_path")
    folders = [folder for folder in file.path.parents if folder.name == _FOLDER][:1]
    usual = [folder.parent / "tiles" / file.path.parent.relative_to(folder) for folder in folders]
    places = [*([Path(stated)] if stated else []), *(folder / f"{file.path.stem}{_NPZ}" for folder in usual)]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise InputMissingError(
            f"no coordinates of the slide {file.path.stem}: neither of {', '.join(map(str, places))} is there",
            place=str(file.path),
            remedy="copy the folder tiles beside the folder tile_embeddings",
        )
    return found


def _companions(file: FeatureFile) -> list[Path]:
    """Return the description of the features, and hs2p's coordinates and description."""
    npz = _coordinates_file(file)
    return [path for path in (_description(file.path), npz, _description(npz)) if path.is_file()]


def _notes(share: Any, annotation: str | None) -> tuple[str, ...]:
    """Return what hs2p left out; `annotation` is the class that tiles were drawn for, if not all tissue."""
    what = "tissue" if annotation is None else f"of the class {annotation}"
    if share == 0:
        left_out = f"hs2p left out no tiles for having little {what}"
    elif isinstance(share, int | float):
        left_out = f"hs2p left out tiles with less than {100 * share:g} % {what}"
    else:
        left_out = f"hs2p leaves out tiles with little {what}; the files do not say below which fraction"
    if annotation is None:
        return (left_out,)
    return (left_out, f"hs2p's fractions are those of the class {annotation}, not of tissue")


LAYOUT = Layout("slide2vec", slide_files, read, _companions)

"""Features of slide2vec on patches of hs2p: ``OUT/tile_embeddings/SLIDE.pt`` or ``.npz``.

The coordinates and tissue fractions are in ``OUT/tiles/SLIDE.coordinates.npz``, what is known of the slide beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathopatch.core.errors import InputCorruptError, InputMissingError, InputUnsupportedError
from pathopatch.core.files import read_json
from pathopatch.features.readers.folder import Candidate, Layout, SlideFile, slide_id_from_stem
from pathopatch.features.readers.h5 import as_features, number, text, width_height
from pathopatch.features.readers.tensors import npz_shapes, read_npz, read_tensor
from pathopatch.features.slide_features import Encoder, SlideFeatures

_META = ".meta.json"
_FOLDER = "tile_embeddings"
_NPZ = ".coordinates.npz"
_TISSUE = "tissue"  # hs2p's name for tiles of all tissue


def slide_files(candidate: Candidate) -> list[SlideFile]:
    """Return the slide of a file whose description says that it holds embeddings of tiles."""
    path = candidate.path
    about = path.with_name(f"{path.stem}{_META}")
    if path.suffix not in (".pt", ".npz") or not about.is_file():
        return []
    if read_json(about).get("artifact_type") != _FOLDER:
        return []
    return [SlideFile(slide_id=slide_id_from_stem(path.stem), path=path, group=path.parent, companion=about)]


def read(slide: SlideFile, with_features: bool) -> SlideFeatures:
    """Return a slide's features."""
    assert slide.companion is not None  # noqa: S101  # `slide_files` found it
    about = read_json(slide.companion)
    features, dim, tile_index = _read_features(slide.path, with_features)
    npz = _coordinates_file(slide.path, about)
    tiles = read_npz(npz, ("x", "y", "tile_index", "tissue_fractions"))
    if "x" not in tiles or "y" not in tiles:
        raise InputUnsupportedError("no x and y in hs2p's coordinates", place=str(npz), remedy="run hs2p again")
    if tile_index is not None:
        rows = _rows_of(tile_index, tiles.get("tile_index", np.arange(len(tiles["x"]))), slide.path)
        tiles = {name: values[rows] for name, values in tiles.items()}
    known = _slide_facts(npz)
    about_slide, about_tiles = known.get("slide", {}), known.get("tiling", {})
    input_px = number(about, "encoder_input_size_px")
    # Where tiles were drawn for a class of annotations, hs2p stores the fraction of that class under the same name.
    annotation = text(known.get("artifact", {}), "annotation")
    is_tissue = annotation in (None, _TISSUE)
    fractions = tiles.get("tissue_fractions") if is_tissue else None
    return SlideFeatures(
        slide_id=slide.slide_id,
        features=features,
        encoder=Encoder(
            dim=dim, name=text(about, "encoder_name"), input_px=None if input_px is None else int(input_px)
        ),
        path=slide.path,
        x=tiles["x"].astype(np.float64),
        y=tiles["y"].astype(np.float64),
        side=number(about_tiles, "tile_size_lv0") or number(about, "tile_size_lv0"),
        mpp=number(about_slide, "base_spacing_um"),
        tissue_fraction=None if fractions is None else fractions.astype(np.float32),
        size_px=width_height(about_slide, "dimensions"),
        notes=_notes(about_tiles, None if is_tissue else annotation),
    )


def _read_features(path: Path, with_features: bool) -> tuple[NDArray[Any], int, NDArray[Any] | None]:
    """Return the features, their number per patch, and the number of each row's tile where it is stored."""
    if path.suffix == ".pt":
        features, dim = read_tensor(path, with_features)
        return features, dim, None
    shape = npz_shapes(path).get("features")
    if shape is None or len(shape) != 2:
        raise InputUnsupportedError(
            f"features of the shape {shape}, not one vector per patch",
            place=str(path),
            remedy="use the features of the patches",
        )
    arrays = read_npz(path, ("features", "tile_index") if with_features else ("tile_index",))
    features = as_features(arrays["features"], str(path)) if with_features else np.empty((shape[0], 0), np.float32)
    return features, shape[1], arrays.get("tile_index")


def _rows_of(tile_index: NDArray[Any], known: NDArray[Any], path: Path) -> NDArray[np.int64]:
    """Return the row in hs2p's file of each tile, by the numbers of the tiles there."""
    row_of = {number: row for row, number in enumerate(known.tolist())}
    rows = [row_of.get(number) for number in tile_index.tolist()]
    if None in rows:
        raise InputCorruptError(
            f"{rows.count(None)} of {len(rows)} tiles are not among hs2p's coordinates",
            place=str(path),
            remedy="extract the features of this slide again",
        )
    return np.array(rows, np.int64)


def _coordinates_file(path: Path, about: Mapping[str, Any]) -> Path:
    """Return hs2p's file of coordinates: where the description says, or where slide2vec writes it."""
    stated = text(about, "coordinates_npz_path")
    folders = [folder for folder in path.parents if folder.name == _FOLDER]
    usual = [folder.parent / "tiles" / path.parent.relative_to(folder) / f"{path.stem}{_NPZ}" for folder in folders[:1]]
    places = [*([Path(stated)] if stated else []), *usual]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise InputMissingError(
            f"no coordinates of the slide {path.stem}: neither of {', '.join(map(str, places))} is there",
            place=str(path),
            remedy="copy the folder tiles beside the folder tile_embeddings",
        )
    return found


def _companions(slide: SlideFile) -> list[Path]:
    """Return the description of the features, and hs2p's coordinates and description."""
    assert slide.companion is not None  # noqa: S101  # `slide_files` found it
    npz = _coordinates_file(slide.path, read_json(slide.companion))
    return [path for path in (slide.companion, npz, _description(npz)) if path.is_file()]


def _description(npz: Path) -> Path:
    return npz.with_name(npz.name.removesuffix(".npz") + _META)


def _slide_facts(npz: Path) -> dict[str, Any]:
    """Return the sections of what hs2p says of the slide and its tiles; none where that file is missing."""
    about = _description(npz)
    sections = read_json(about) if about.is_file() else {}
    return {name: section for name, section in sections.items() if isinstance(section, dict)}


def _notes(about_tiles: Mapping[str, Any], annotation: str | None) -> tuple[str, ...]:
    """Return what hs2p left out; `annotation` is the class that tiles were drawn for, if not all tissue."""
    what = "tissue" if annotation is None else f"of the class {annotation}"
    share = about_tiles.get("min_tissue_fraction")
    if share == 0:
        left_out = f"hs2p left out no tiles for having little {what}"
    elif not isinstance(share, int | float):
        left_out = f"hs2p leaves out tiles with little {what}; the files do not say below which fraction"
    else:
        left_out = f"hs2p left out tiles with less than {100 * share:g} % {what}"
    if annotation is None:
        return (left_out,)
    return (left_out, f"hs2p's fractions are those of the class {annotation}, not of tissue")


LAYOUT = Layout("slide2vec", slide_files, read, _companions)

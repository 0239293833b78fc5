"""Read the feature files of TRIDENT, STAMP, CLAM and slide2vec."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathopatch.core.errors import InputCorruptError, InputMissingError, InputUnsupportedError
from pathopatch.core.files import read_json
from pathopatch.features.readers.folder import Candidate, FeatureFile, Layout
from pathopatch.features.readers.h5 import number, read_slide, size, text, whole
from pathopatch.features.readers.vectors import read_npz, read_vectors
from pathopatch.features.slide_features import Encoder, SlideFeatures

TRIDENT_NOTES = (
    "TRIDENT keeps every patch that touches tissue unless --min_tissue_proportion was set, which its files do not say",
    "TRIDENT's magnification is a bin of um/px: the um/px of the scan is not in its files",
)
_TRIDENT_FOLDER = "features_"


def _trident_files(candidate: Candidate) -> list[FeatureFile]:
    """Return ``JOB/20x_256px_0px_overlap/features_ENCODER/SLIDE.h5``; of a tensor, with its coordinates."""
    path, contents = candidate.path, candidate.h5
    if path.suffix == ".pt":
        coordinates = path.parent.parent / "patches" / f"{path.stem}_patches.h5"
        is_ours = path.parent.name.startswith(_TRIDENT_FOLDER) and coordinates.is_file()
        return [candidate.file(companions=(coordinates,))] if is_ours else []
    if contents is None or "pathopatch" in contents.attributes or not contents.has_vectors("features"):
        return []
    return [candidate.file()] if "patch_size_level0" in contents.of_dataset.get("coords", {}) else []


def read_trident(file: FeatureFile, with_features: bool) -> SlideFeatures:
    """Return a slide's features."""
    folder = file.path.parent.name
    name = folder.removeprefix(_TRIDENT_FOLDER) if folder.startswith(_TRIDENT_FOLDER) else None
    if file.companions:
        features, dim = read_vectors(file.path, with_features)
        slide = read_slide(file.companions[0])
    else:
        slide = read_slide(file.path, "features", with_features)
        features, dim = slide.features, slide.dim
        name = text(slide.attributes["features"], "encoder") or name
    about = slide.attributes.get("coords", {})
    side, size_px = number(about, "patch_size_level0"), size(about, "level0_width", "level0_height")
    encoder = Encoder(dim=dim, name=name or None)
    return file.slide(features, encoder, slide.xy, side=side, size_px=size_px, notes=TRIDENT_NOTES)


STAMP_NOTE = "STAMP left out patches as bright as glass (240 of 255 in the thumbnail) and those with few edges"


def _stamp_files(candidate: Candidate) -> list[FeatureFile]:
    """Return ``OUT/EXTRACTOR-HASH/ANY/FOLDERS/SLIDE.h5`` with features of patches; not of slides or patients."""
    contents = candidate.h5
    if contents is None or contents.attributes.get("feat_type", "tile") != "tile":
        return []
    if not contents.has_vectors("feats") or "coords" not in contents.shapes:
        return []
    # STAMP names a folder after the extractor; the folders below are those of the slides.
    extractor = text(contents.attributes, "extractor")
    parents = candidate.path.parents
    groups = (folder for folder in parents if extractor and f"{folder.name}-".startswith(f"{extractor}-"))
    return [candidate.file(group=next(groups, candidate.root))]


def _read_stamp(file: FeatureFile, with_features: bool) -> SlideFeatures:
    """Return a slide's features, by y, then x: STAMP writes rows as its threads end."""
    slide = read_slide(file.path, "feats", with_features)
    about, features, xy = slide.attributes[""], slide.features, slide.xy
    side_um = number(about, "tile_size_um")
    if side_um is None and about.get("unit") != "um":
        raise InputUnsupportedError(
            "STAMP's coordinates have no unit, as before its version 2",
            place=str(file.path),
            remedy="extract the features again with STAMP 2 or later",
        )
    order = np.lexsort((xy[:, 0], xy[:, 1]))
    features = features[order] if len(order) == len(features) else features
    encoder = Encoder(dim=slide.dim, name=text(about, "extractor"), input_px=whole(number(about, "tile_size_px")))
    side = side_um or number(about, "tile_size")  # version 2.0 has the latter
    return file.slide(features, encoder, xy[order], side=side, unit="um", notes=(STAMP_NOTE,))


CLAM_NOTE = "CLAM left out patches whose four test points lie outside its tissue contours"
CLAM_NO_PATCHES = (
    "no patches/SLIDE.h5 of CLAM beside the features, or several that differ: the side of a patch is unknown"
)
CLAM_NO_COORDINATES = "these features have no coordinates: CLAM's patches/SLIDE.h5 was not found beside them"
_CLAM_HALVES, _TENSORS = ("h5_files", "pt_files"), (".pt", ".pth")


def _clam_files(candidate: Candidate) -> list[FeatureFile]:
    """Return ``FEATURES/h5_files/SLIDE.h5``, whose arrays have no attributes, or ``FEATURES/pt_files/SLIDE.pt``."""
    path, contents = candidate.path, candidate.h5
    if path.suffix in _TENSORS:  # in other folders than these, tensors may be anything
        is_ours = path.parent.name == "pt_files" or path.parent == candidate.root
    else:
        is_ours = contents is not None and contents.has_vectors("features") and "coords" in contents.shapes
    if not is_ours:
        return []
    file = candidate.file(group=path.parent.parent if path.parent.name in _CLAM_HALVES else path.parent)
    return [candidate.file(group=file.group, companions=tuple(_clam_patches(file)))]


def _clam_patches(file: FeatureFile) -> Iterator[Path]:
    """Yield ``patches/SLIDE.h5`` in and beside the folder of features: they hold the coordinates and the side."""
    above = file.group.parent
    for folder in dict.fromkeys([file.group / "patches", above / "patches", *sorted(above.glob("*/patches"))]):
        paths = (folder / f"{name}.h5" for name in (file.path.stem, file.slide_id))
        yield from [path for path in paths if path.is_file()][:1]


def _read_clam(file: FeatureFile, with_features: bool) -> SlideFeatures:
    """Return a slide's features."""
    xy: NDArray[np.float64] | None = None
    if file.path.suffix in _TENSORS:
        features, dim = read_vectors(file.path, with_features)
    else:
        slide = read_slide(file.path, "features", with_features)
        features, dim, xy = slide.features, slide.dim, slide.xy
    # A slide may have been cut several times, into patches of other sizes.
    cuts = [_read_clam_patches(path) for path in file.companions]
    cuts = [cut for cut in cuts if (len(cut[0]) == len(features) if xy is None else np.array_equal(cut[0], xy))]
    is_clear = len(cuts) == 1 if xy is None else len({facts["side"] for _, facts in cuts}) == 1
    notes = [CLAM_NOTE] if is_clear else [CLAM_NOTE, CLAM_NO_COORDINATES if xy is None else CLAM_NO_PATCHES]
    xy, facts = cuts[0] if is_clear else (xy, dict[str, Any]())
    return file.slide(features, Encoder(dim=dim), xy, notes=tuple(notes), **facts)


def _read_clam_patches(path: Path) -> tuple[NDArray[np.float64], dict[str, Any]]:
    """Return CLAM's coordinates (N, 2), and the side of the patches and the size of the slide; None where unknown."""
    cut = read_slide(path)
    xy, about = cut.xy, cut.attributes.get("coords", {})
    patch_px, downsample = number(about, "patch_size"), number(about, "downsample")
    if patch_px is None or downsample is None:
        return xy, {"side": None}
    # patch_size counts pixels of patch_level.
    side = patch_px * downsample * (number(about, "custom_downsample") or 1.0)
    return xy, {"side": side, "size_px": size(about, "level_dim") if about.get("patch_level") == 0 else None}


_META, _NPZ, _TILES = ".meta.json", ".coordinates.npz", "tile_embeddings"
_TISSUE = "tissue"  # hs2p's name for tiles of all tissue


def _slide2vec_files(candidate: Candidate) -> list[FeatureFile]:
    """Return ``OUT/tile_embeddings/SLIDE.pt`` or ``.npz``; hs2p's files of coordinates are in ``OUT/tiles``."""
    path = candidate.path
    described = _description(path)
    if path.suffix not in (".pt", ".npz") or not described.is_file():
        return []
    about = read_json(described)
    if about.get("artifact_type") != _TILES:
        return []
    npz = _hs2p_file(path, text(about, "coordinates_npz_path"))
    return [candidate.file(companions=tuple(file for file in (described, npz, _description(npz)) if file.is_file()))]


def _description(path: Path) -> Path:
    return path.with_name(f"{path.stem}{_META}")


def _hs2p_file(path: Path, stated: str | None) -> Path:
    """Return hs2p's file of coordinates, at the place that is stated or where slide2vec writes it."""
    folders = [folder for folder in path.parents if folder.name == _TILES][:1]
    usual = [folder.parent / "tiles" / path.parent.relative_to(folder) for folder in folders]
    places = [*([Path(stated)] if stated else []), *(folder / f"{path.stem}{_NPZ}" for folder in usual)]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise InputMissingError(
            f"no coordinates of the slide {path.stem}: neither of {', '.join(map(str, places))} is there",
            place=str(path),
            remedy="copy the folder tiles beside the folder tile_embeddings",
        )
    return found


def _read_slide2vec(file: FeatureFile, with_features: bool) -> SlideFeatures:
    """Return a slide's features."""
    described, npz, *more = file.companions
    about, sections = read_json(described), read_json(more[0]) if more else {}
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
    slide, tiling, artifact = (
        section if isinstance(section := sections.get(name), dict) else {} for name in ("slide", "tiling", "artifact")
    )
    # Where tiles were drawn for a class of annotations, hs2p stores the fraction of that class under the same name.
    annotation = text(artifact, "annotation")
    fractions = tiles.get("tissue_fractions") if annotation in (None, _TISSUE) else None
    return file.slide(
        features,
        Encoder(dim=dim, name=text(about, "encoder_name"), input_px=whole(number(about, "encoder_input_size_px"))),
        np.column_stack([tiles["x"], tiles["y"]]).astype(np.float64),
        side=number(tiling, "tile_size_lv0") or number(about, "tile_size_lv0"),
        mpp=number(slide, "base_spacing_um"),
        tissue_fraction=None if fractions is None else fractions.astype(np.float32),
        size_px=size(slide, "dimensions"),
        notes=_hs2p_notes(tiling.get("min_tissue_fraction"), None if annotation == _TISSUE else annotation),
    )


def _hs2p_notes(share: Any, annotation: str | None) -> tuple[str, ...]:
    """Return what hs2p left out; `annotation` is the class that tiles were drawn for, if not all tissue."""
    covered = "tissue" if annotation is None else f"of the class {annotation}"
    if share == 0:
        left_out = f"hs2p left out no tiles for having little {covered}"
    elif isinstance(share, int | float):
        left_out = f"hs2p left out tiles with less than {100 * share:g} % {covered}"
    else:
        left_out = f"hs2p leaves out tiles with little {covered}; the files do not say below which fraction"
    if annotation is None:
        return (left_out,)
    return (left_out, f"hs2p's fractions are those of the class {annotation}, not of tissue")


LAYOUTS = (
    Layout("trident", _trident_files, read_trident),
    Layout("stamp", _stamp_files, _read_stamp),
    Layout("slide2vec", _slide2vec_files, _read_slide2vec),
    Layout("clam", _clam_files, _read_clam),
)

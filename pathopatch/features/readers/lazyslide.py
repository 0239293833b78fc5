"""Features of LazySlide: tables ``ENCODER_TILES`` in a SpatialData store ``SLIDE.zarr``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathopatch.core.artefacts import content_bytes
from pathopatch.core.errors import InputCorruptError, InputTooLargeError
from pathopatch.core.files import refuse_links_outside
from pathopatch.features.readers.folder import Candidate, Layout, SlideFile, slide_id_from_stem
from pathopatch.features.readers.h5 import as_features, number
from pathopatch.features.readers.stored_size import require_stored, require_stored_table
from pathopatch.features.slide_features import Encoder, SlideFeatures

NOTES = (
    "LazySlide left out patches of which more than 30 % is background, unless it was set otherwise",
    "LazySlide leaves out what remains at the right and bottom of each piece of tissue",
)


def slide_files(candidate: Candidate) -> list[SlideFile]:
    """Return a slide's features by each encoder and set of tiles in a SpatialData store."""
    path = candidate.path
    if path.suffix != ".zarr" or not (path / "tables").is_dir():
        return []
    root = _open(path)
    tile_keys = sorted(_mapping(root.attrs.get("tile_spec")), key=len, reverse=True)
    files = []
    for name in sorted(folder.name for folder in (path / "tables").iterdir() if folder.is_dir()):
        tile_key = next((key for key in tile_keys if name.endswith(f"_{key}")), None)
        if tile_key is None or tile_key.endswith("_dense"):  # one row a token, not a patch
            continue
        encoder = name.removesuffix(f"_{tile_key}")
        files.append(
            SlideFile(
                slide_id=slide_id_from_stem(path.stem),
                path=path,
                group=path.parent / name,
                key=name,
                encoder_name=encoder,
                companion=path / "shapes" / tile_key / "shapes.parquet",
            )
        )
    return files


def read(slide: SlideFile, with_features: bool) -> SlideFeatures:
    """Return a slide's features; coordinates are the corners of the polygons that have the rows' tile ids."""
    assert slide.companion is not None  # noqa: S101  # `slide_files` names it
    root = _open(slide.path)
    tile_key = slide.companion.parent.name
    spec = _mapping(_mapping(root.attrs.get("tile_spec")).get(tile_key))
    features, dim, tile_id = _read_table(root, slide, with_features)
    xy = _corners(slide.companion, tile_id)
    width, scale = number(spec, "width"), number(spec, "base_downsample")
    return SlideFeatures(
        slide_id=slide.slide_id,
        features=features,
        encoder=Encoder(dim=dim, name=slide.encoder_name),
        path=slide.path,
        x=xy[:, 0],
        y=xy[:, 1],
        side=None if width is None or scale is None else float(int(width * scale)),
        mpp=number(_mapping(root.attrs.get("slide_properties")), "mpp"),
        notes=NOTES,
    )


def _open(path: Path) -> Any:
    """Return the store's root, opened to read; InputCorruptError if it is no Zarr group.

    InputUnsupportedError if a link in it leads outside.
    """
    import zarr

    refuse_links_outside(path)
    try:
        return zarr.open_group(path, mode="r")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputCorruptError(f"not a Zarr group: {error}", place=str(path), remedy="copy the store again") from error


def _read_table(root: Any, slide: SlideFile, with_features: bool) -> tuple[NDArray[Any], int, NDArray[Any]]:
    """Return a table's features, values per row and tile ids."""
    try:
        arrays = [root[f"tables/{slide.key}/{name}"] for name in ("X", "obs/tile_id")]
        for array in arrays:
            require_stored(array.path, array.nbytes, content_bytes(slide.path / array.path), slide.path)
        vectors, tile_id = arrays[0], np.asarray(arrays[1][:])
        count, dim = vectors.shape
        values = vectors[:] if with_features else np.empty((count, 0), np.float32)
    except InputTooLargeError:
        raise
    except (KeyError, ValueError, TypeError, AttributeError, OSError, RuntimeError) as error:
        # A damaged chunk, no such array, or a group, as sparse tables are.
        raise InputCorruptError(
            f"no dense X with tile_id in the table {slide.key}: {error}",
            place=str(slide.path),
            remedy="extract the features of this slide again",
        ) from error
    return as_features(values, str(slide.path)), dim, tile_id


def _corners(path: Path, tile_id: NDArray[Any]) -> NDArray[np.float64]:
    """Return the top-left corner of the polygon of each tile id, shape (N, 2), in level-0 px."""
    import shapely
    from pyarrow import ArrowException, parquet

    try:
        require_stored_table(path)
        shapes = parquet.read_table(path)
        has_ids = "tile_id" in shapes.column_names  # else LazySlide numbers the rows
        ids = shapes["tile_id"].to_pylist() if has_ids else range(len(shapes))
        row_of = {value: row for row, value in enumerate(ids)}
        boxes = shapely.bounds(shapely.from_wkb(shapes["geometry"].to_numpy()))
        rows = [row_of[value] for value in tile_id.tolist()]
    except InputTooLargeError:
        raise
    except (OSError, ArrowException, KeyError, shapely.errors.ShapelyError) as error:
        raise InputCorruptError(
            f"no polygon for each tile_id: {error}", place=str(path), remedy="extract the features of this slide again"
        ) from error
    return np.asarray(boxes[rows, :2], np.float64).reshape(-1, 2)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


LAYOUT = Layout("lazyslide", slide_files, read, lambda _: [])  # the polygons are in the store

"""Write features of made slides in the exact layout of each tool."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

DIM, SIDE, MPP = 6, 512, 0.5
SIZE_PX = (4096, 4096)
XY = {
    "A": np.array([[0, 0], [512, 0], [0, 512], [1024, 1536]], np.int64),
    "B": np.array([[512, 512], [1024, 512]], np.int64),
}
"""Level-0 top-left corners of the patches of two slides, row by row."""
TISSUE = {"A": np.array([0.1, 0.5, 0.9, 1.0], np.float32), "B": np.array([0.25, 0.75], np.float32)}
SLIDES = ("A", "B")


def vectors(slide_id: str, *, dim: int = DIM, dtype: Any = np.float32) -> np.ndarray:
    """Return features (N, dim) of a slide: no two values of all slides are equal, all are exact in float16."""
    first = 100 * (ord(slide_id[0]) - ord("A"))
    return (first + np.arange(len(XY[slide_id]) * dim).reshape(-1, dim)).astype(dtype) / 4


def trident(folder: Path, *, encoder: str = "uni_v1", slides: Sequence[str] = SLIDES, **changed: Any) -> Path:
    """Write ``features_ENCODER/SLIDE.h5``, and the coordinates; return the folder with the features."""
    job = folder / "20x_256px_0px_overlap"
    for slide_id in slides:
        features = changed.get("features", vectors(slide_id))
        trident_file(job / f"features_{encoder}" / f"{slide_id}.h5", features, XY[slide_id], name=slide_id)
        (job / "patches").mkdir(exist_ok=True)
        with h5py.File(job / "patches" / f"{slide_id}_patches.h5", "w") as file:
            _trident_coords(file, XY[slide_id], slide_id)
    return job / f"features_{encoder}"


def trident_file(path: Path, features: np.ndarray, xy: np.ndarray, *, name: str, encoder: str = "None") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["features"] = features
        file["features"].attrs.update({"name": name, "savetodir": "/elsewhere", "encoder": encoder})
        _trident_coords(file, xy, name)


def _trident_coords(file: h5py.File, xy: np.ndarray, name: str) -> None:
    file["coords"] = xy
    file["coords"].attrs.update(
        {
            "patch_size": 256, "patch_size_level0": SIDE, "level0_magnification": 40, "target_magnification": 20,
            "overlap": 0, "name": name, "savetodir": "/elsewhere",
            "level0_width": SIZE_PX[0], "level0_height": SIZE_PX[1],
        }
    )  # fmt: skip


def clam(folder: Path, *, slides: Sequence[str] = SLIDES, patches: bool = True) -> Path:
    """Write ``features/h5_files/SLIDE.h5``, and ``patches/SLIDE.h5`` of 256 px at a level of half the resolution."""
    for slide_id in slides:
        path = folder / "features" / "h5_files" / f"{slide_id}.h5"
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(path, "w") as file:
            file["features"] = vectors(slide_id)
            file["coords"] = XY[slide_id].astype(np.int32)
        if patches:
            clam_patches(folder / "patches" / f"{slide_id}.h5", XY[slide_id])
    return folder / "features"


def clam_patches(path: Path, xy: np.ndarray, *, patch_px: int = SIDE // 2, **more: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["coords"] = xy
        half = np.array(SIZE_PX) // 2
        file["coords"].attrs.update(
            {
                "patch_size": patch_px, "patch_level": 1, "downsample": np.array([2.0, 2.0]),
                "downsampled_level_dim": half, "level_dim": half, "name": path.stem, "save_path": "/elsewhere", **more,
            }
        )  # fmt: skip


def clam_tensors(folder: Path, *, slides: Sequence[str] = SLIDES) -> Path:
    """Write ``features/pt_files/SLIDE.pt`` and the coordinates."""
    import torch

    for slide_id in slides:
        path = folder / "features" / "pt_files" / f"{slide_id}.pt"
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(torch.from_numpy(vectors(slide_id)), path)
        clam_patches(folder / "patches" / f"{slide_id}.h5", XY[slide_id])
    return folder / "features"


def stamp(folder: Path, *, slides: Sequence[str] = SLIDES, order: int = -1, **attributes: Any) -> Path:
    """Write ``EXTRACTOR-HASH/cohort/SLIDE.h5``: float16, micrometres, rows out of order."""
    known = {
        "stamp_version": "2.3.0", "extractor": "mahmood-uni", "unit": "um", "tile_size_um": SIDE * MPP,
        "tile_size_px": 224, "code_hash": "0a1b2c3d", "feat_type": "tile",
    }  # fmt: skip
    for slide_id in slides:
        path = folder / "mahmood-uni-0a1b2c3d" / "cohort" / f"{slide_id}.h5"
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(path, "w") as file:
            file["coords"] = (XY[slide_id] * MPP).astype(np.float32)[::order]
            file["feats"] = vectors(slide_id, dtype=np.float16)[::order]
            file.attrs.update(known | attributes)
    return folder


def slide2vec(folder: Path, *, kind: str = "pt", slides: Sequence[str] = SLIDES, moved: bool = False) -> Path:
    """Write ``tile_embeddings/SLIDE.pt`` or ``.npz``, and hs2p's ``tiles/SLIDE.coordinates.npz``."""
    for slide_id in slides:
        npz = folder / "tiles" / f"{slide_id}.coordinates.npz"
        about = folder / "tiles" / f"{slide_id}.coordinates.meta.json"
        npz.parent.mkdir(parents=True, exist_ok=True)
        xy, count = XY[slide_id], len(XY[slide_id])
        np.savez_compressed(
            npz, tile_index=np.arange(count, dtype=np.int32), x=xy[:, 0], y=xy[:, 1], tissue_fractions=TISSUE[slide_id]
        )
        sections = {
            "provenance": {"sample_id": slide_id, "spacing_at_level_0": MPP},
            "slide": {"dimensions": list(SIZE_PX), "base_spacing_um": MPP, "level_downsamples": [1.0]},
            "tiling": {
                "requested_tile_size_px": 256, "requested_spacing_um": 1.0, "tile_size_lv0": SIDE,
                "min_tissue_fraction": 0.01, "n_tiles": count,
            },
            "artifact": {"coordinate_space": "level0_px", "tile_order": "x_then_y"},
        }  # fmt: skip
        about.write_text(json.dumps(sections))
        place = folder / "tile_embeddings"
        place.mkdir(exist_ok=True)
        _save(place / f"{slide_id}.{kind}", vectors(slide_id, dtype=np.float16))
        stated = "/elsewhere/A.coordinates.npz" if moved else str(npz)
        meta = {
            "sample_id": slide_id, "artifact_type": "tile_embeddings", "coordinates_npz_path": stated,
            "coordinates_meta_path": str(about), "encoder_level": "tile", "encoder_name": "uni2", "feature_dim": DIM,
            "feature_dtype": "fp16", "format": kind, "num_tiles": count, "encoder_input_size_px": 224,
            "requested_spacing_um": 1.0, "tile_size_lv0": SIDE,
        }  # fmt: skip
        (place / f"{slide_id}.meta.json").write_text(json.dumps(meta))
    return folder


def _save(path: Path, features: np.ndarray) -> None:
    if path.suffix == ".npz":
        np.savez_compressed(path, features=features)
        return
    import torch

    torch.save(torch.from_numpy(features), path)


def slide2vec_npz(folder: Path) -> Path:
    return slide2vec(folder, kind="npz")


def slideflow(folder: Path, *, slides: Sequence[str] = SLIDES, tile_um: float | str = SIDE * MPP) -> Path:
    """Write ``BAGS/SLIDE.pt``, and the centres of the patches in ``SLIDE.index.npz``."""
    for slide_id in slides:
        _save(folder / f"{slide_id}.pt", vectors(slide_id))
        np.savez(folder / f"{slide_id}.index.npz", XY[slide_id] + SIDE // 2)
    config = {
        "extractor": {"class": "slideflow.model.extractors.retccl.RetCCLFeatures", "kwargs": {"center_crop": True}},
        "normalizer": None, "num_features": DIM, "tile_px": 256, "tile_um": tile_um,
    }  # fmt: skip
    (folder / "bags_config.json").write_text(json.dumps(config))
    return folder


def atlaspatch(folder: Path, *, slides: Sequence[str] = SLIDES, encoders: Sequence[str] = ("uni_v2",)) -> Path:
    """Write ``patches/SLIDE.h5`` with five columns of coordinates and a dataset an encoder."""
    for slide_id in slides:
        path = folder / "patches" / f"{slide_id}.h5"
        path.parent.mkdir(parents=True, exist_ok=True)
        count = len(XY[slide_id])
        with h5py.File(path, "w") as file:
            file["coords"] = np.column_stack([XY[slide_id], np.tile([256, 256, 1], (count, 1))]).astype(np.int32)
            file["passports"] = np.array([b"x"] * count, "S160")
            for encoder in encoders:
                file[f"features/{encoder}"] = vectors(slide_id)
                file[f"features/{encoder}"].attrs.update({"name": encoder, "embedding_dim": DIM})
            file.attrs.update(
                {
                    "patch_size": 256, "patch_size_level0": SIDE, "level0_magnification": 20, "overlap": 0,
                    "target_magnification": 10, "level0_width": SIZE_PX[0], "level0_height": SIZE_PX[1],
                    "wsi_path": "/elsewhere/A.svs", "num_patches": count, "passport_version": 2,
                }
            )  # fmt: skip
    return folder


def mussel(folder: Path, *, slides: Sequence[str] = SLIDES, features: Any = None, **attributes: Any) -> Path:
    """Write ``SLIDE.features.h5`` with Mussel's attributes."""
    known = {
        "patch_size": SIDE, "step_size": SIDE, "patch_size_to_resize_to_for_desired_mpp": 256, "patch_level": 0,
        "mpp": 1.0, "native_mpp": 0.25, "mpp_is_fallback": False, "level_dim": np.array(SIZE_PX), "overlap": 0.0,
        "min_tissue_proportion": 0.1, "seg_model": "None", "max_tiles": -1,
    }  # fmt: skip
    for slide_id in slides:
        with h5py.File(folder / f"{slide_id}.features.h5", "w") as file:
            values = vectors(slide_id) if features is None else features
            file.create_dataset("features", data=values, chunks=True, compression="gzip", shuffle=True)
            file.create_dataset("coords", data=XY[slide_id], chunks=True, compression="gzip", shuffle=True)
            file["coords"].attrs.update(known | {"name": slide_id} | attributes)
    return folder


def lazyslide(
    folder: Path, *, slides: Sequence[str] = SLIDES, encoders: Sequence[str] = ("uni",), zarr_format: int = 3
) -> Path:
    """Write ``SLIDE.zarr`` as SpatialData does: tables by anndata, shapes as Parquet, attributes on the root."""
    import zarr
    from pyarrow import Table, parquet
    from shapely import box, to_wkb

    for slide_id in slides:
        root = zarr.open_group(folder / f"{slide_id}.zarr", mode="w", zarr_format=zarr_format)
        root.attrs.update(
            {
                "spatialdata_attrs": {"version": "0.2"},
                "slide_properties": {"mpp": MPP, "level_downsample": [1.0]},
                "tile_spec": {
                    "tiles": {
                        "height": 256, "width": 256, "stride_height": 256, "stride_width": 256, "mpp": 1.0,
                        "ops_level": 0, "ops_downsample": 2.0, "base_level": 0, "base_downsample": 2.0,
                        "tissue_name": "tissues",
                    }
                },
            }
        )  # fmt: skip
        place = Path(str(folder / f"{slide_id}.zarr")) / "shapes" / "tiles"
        root.require_group("shapes/tiles")
        boxes = [to_wkb(box(x, y, x + SIDE, y + SIDE)) for x, y in XY[slide_id].tolist()]
        ids = np.arange(len(boxes))
        shapes = {"tile_id": ids[::-1], "geometry": boxes[::-1]}  # not in the order of the table
        parquet.write_table(Table.from_pydict(shapes), place / "shapes.parquet")
        for encoder in encoders:
            anndata_table(root, f"tables/{encoder}_tiles", vectors(slide_id), ids)
    return folder


def anndata_table(root: Any, name: str, features: np.ndarray, ids: np.ndarray) -> None:
    """Write a table in the layout of anndata 0.12, which needs an older pandas and so is not installed here."""
    table = root.require_group(name)
    table.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
    for part in ("layers", "obsm", "obsp", "uns", "varm", "varp"):
        table.create_group(part).attrs.update({"encoding-type": "dict", "encoding-version": "0.1.0"})
    _anndata_array(table, "X", features)
    columns = {"obs": ["tile_id", "library_id"], "var": []}
    for part, count in (("obs", len(features)), ("var", features.shape[1])):
        frame = {"encoding-type": "dataframe", "encoding-version": "0.2.0"}
        table.create_group(part).attrs.update({"column-order": columns[part], "_index": "_index", **frame})
        _anndata_array(table[part], "_index", np.arange(count).astype(str))
    _anndata_array(table["obs"], "tile_id", ids)
    library = table["obs"].create_group("library_id")
    library.attrs.update({"ordered": False, "encoding-type": "categorical", "encoding-version": "0.2.0"})
    _anndata_array(library, "categories", np.array(["tiles"]))
    _anndata_array(library, "codes", np.zeros(len(ids), np.int8))


def _anndata_array(group: Any, name: str, values: np.ndarray) -> None:
    kind = "string-array" if values.dtype.kind == "U" else "array"
    if kind == "string-array":
        array = group.create_array(name, shape=values.shape, dtype=str)
        array[:] = values.astype(object)
    else:
        array = group.create_array(name, data=values)
    array.attrs.update({"encoding-type": kind, "encoding-version": "0.2.0"})


def lists(folder: Path) -> Path:
    """Write one Parquet table of both slides, a list a row."""
    frame = table_columns()
    frame["features"] = [list(row) for slide_id in SLIDES for row in vectors(slide_id)]
    frame.to_parquet(folder / "all.parquet")
    return folder / "all.parquet"


def numbered(folder: Path) -> Path:
    """Write one CSV table of both slides, a column a value."""
    values = np.concatenate([vectors(slide_id) for slide_id in SLIDES])
    columns = pd.DataFrame(values, columns=[f"feature_{number}" for number in range(DIM)])
    pd.concat([table_columns(), columns], axis=1).to_csv(folder / "all.csv", index=False)
    return folder


def arrays(folder: Path) -> Path:
    """Write an npz a slide."""
    for slide_id in SLIDES:
        np.savez(folder / f"{slide_id}.npz", features=vectors(slide_id), coords=XY[slide_id], side_px=_sides(slide_id))
    return folder


def _sides(slide_id: str) -> np.ndarray:
    return np.full(len(XY[slide_id]), SIDE)


def table_columns() -> pd.DataFrame:
    return pd.concat(
        [
            pd.DataFrame({"slide_id": slide_id, "x": XY[slide_id][:, 0], "y": XY[slide_id][:, 1], "side_px": SIDE})
            for slide_id in SLIDES
        ],
        ignore_index=True,
    )


def own(folder: Path) -> Path:
    """Write our own store."""
    from pathopatch.features.slide_features import Encoder, SlideFeatures
    from pathopatch.features.store import write_slide_features

    for slide_id in SLIDES:
        x, y = XY[slide_id].T.astype(np.float64)
        path = folder / "uni" / f"{slide_id}.h5"
        slide = SlideFeatures(
            slide_id=slide_id, features=vectors(slide_id), encoder=Encoder(dim=DIM, name="uni"), path=path, x=x, y=y,
            side=SIDE, mpp=MPP, tissue_fraction=TISSUE[slide_id],
        )  # fmt: skip
        write_slide_features(path, slide, {"stage": "encode"})
    return folder


WRITERS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "own": ("pathopatch", own),
    "trident": ("trident", trident),
    "clam": ("clam", clam),
    "clam, tensors": ("clam", clam_tensors),
    "stamp": ("stamp", stamp),
    "slide2vec": ("slide2vec", slide2vec),
    "slide2vec, npz": ("slide2vec", slide2vec_npz),
    "slideflow": ("slideflow", slideflow),
    "atlaspatch": ("atlaspatch", atlaspatch),
    "mussel": ("mussel", mussel),
    "lazyslide": ("lazyslide", lazyslide),
    "table, lists": ("table", lists),
    "table, numbered": ("table", numbered),
    "table, npz": ("table", arrays),
}
"""The layout of each, and what writes both slides below a folder and returns the place to be named."""

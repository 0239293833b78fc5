"""Predict one slide step by step, by the public API alone: ``python one_slide.py``. `predict_slide` does it in one."""

from pathlib import Path

import numpy as np
import zarr
from matplotlib.figure import Figure

import pathopatch
from pathopatch.demo import EXAMPLE_MANIFEST, EXAMPLE_MODEL

OUT = Path("one-slide")

# 1. Open the slide: one file, or one file for each channel. The model says which patches it takes.
files = {name: EXAMPLE_MANIFEST.parent / f"example_{name}.tif" for name in ("CARS", "TPEF", "SHG")}
slide = pathopatch.open_slide(files)
model = pathopatch.load_model(EXAMPLE_MODEL, threads=1)
spec = model.spec

# 2. Find the tissue, lay the grid and cut the patches; a table and a Zarr group hold them.
tiling = pathopatch.TileConfig(patch_px=spec.patch_px, mpp=spec.mpp, tissue=spec.tissue, intensity=spec.intensity)
pathopatch.tile_slide(slide, tiling, OUT, slide_id="example")
store = zarr.open_group(OUT / "slides" / "example.zarr", mode="r")
patches = np.asarray(store["patches"], np.float32)  # (N, C, P, P), the slide's own values
tissue = np.unpackbits(np.asarray(store["tissue_masks"]), axis=2, count=patches.shape[3]).astype(bool)
x, y = np.asarray(store["origins"]).T  # top-left corners, px of the full resolution

# 3. Scale each channel by the slide's window to 0 to 1, and keep the patches with enough tissue.
low, high = np.array(store.attrs["windows"], np.float32).T[:, :, None, None]
scaled = np.clip((patches - low) / (high - low), 0, 1)
is_enough = tissue.mean(axis=(1, 2)) >= spec.min_tissue

# 4. Ask the model: logits of both classes, and the decision by their difference.
logits = model.predict_logits(scaled[is_enough], tissue[is_enough]).astype(np.float64)
logit = logits[:, 1] - logits[:, 0]
probability, is_tumor = 1 / (1 + np.exp(-logit)), logit > spec.decision_threshold

# 5. Stitch: one cell a patch, since the grid has no overlap; NaN where nothing was asked.
step = round(spec.patch_px * (spec.mpp or slide.mpp) / slide.mpp)
cells = np.full((y.max() // step + 1, x.max() // step + 1), np.nan)
cells[y[is_enough] // step, x[is_enough] // step] = probability

# 6. Draw the map over the slide.
width, height = slide.size
figure = Figure(figsize=(7, 6), layout="constrained")
axes = figure.subplots()
axes.imshow(slide.thumbnail(800), extent=(0, width, height, 0))
place = (0, step * cells.shape[1], step * cells.shape[0], 0)
shown = axes.imshow(cells, vmin=0, vmax=1, cmap="coolwarm", alpha=0.5, extent=place)
figure.colorbar(shown, ax=axes, label="tumour probability")
figure.savefig(OUT / "map.png")
print(f"{is_tumor.sum()} of {is_enough.sum()} patches called tumour, {len(patches)} in all: {OUT / 'map.png'}")

"""Areas of real slides with unscanned fill, against a count of their own pixels that knows no patches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from made_prediction import predict_to

from pathopatch.core.config import GroupsConfig, PredictConfig, TileConfig
from pathopatch.core.files import read_json
from pathopatch.heatmaps.pyramids import read_ome_tiff
from pathopatch.models.forward import PatchClassifier
from pathopatch.models.runtime.torch_runtime import TorchRuntime
from pathopatch.models.spec import BundleSpec
from pathopatch.patches.analysis import analyse_slide
from pathopatch.patches.tile import tile_slide
from pathopatch.slides import open_slide

SLIDES = ("idc_14306", "idc_14082")
MM2_PER_PX = 16e-6  # at 4 um/px
RIM = 0.03  # share of the scanned pixels that lie in the pixel along the fill, which counts as fill


class Redness(torch.nn.Module):
    """Two logits, 0 and how far red exceeds green, less a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.least = torch.nn.Parameter(torch.tensor(0.15))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        margin = (x[:, 0] - x[:, 1]).mean(dim=(1, 2)) - self.least
        return torch.stack([torch.zeros_like(margin), margin], dim=1)


def model(patch_px: int) -> PatchClassifier:
    spec = BundleSpec(
        architecture="redness", channels=("R", "G", "B"), dtype="uint8", background="bright", patch_px=patch_px,
        stride_px=patch_px, mpp=4.0, input_px=patch_px, mean=(0.0,) * 3, std=(1.0,) * 3, method="erm",
    )  # fmt: skip
    return PatchClassifier(spec, TorchRuntime(Redness()))


def own_pixels(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return which level-0 pixels were scanned, and which of them are tissue, (h, w) each.

    The slides are laid out of squares of 50 px: one without a pixel that differs from white was not scanned. A pixel
    is tissue if it is as dark, in any channel, as the slide's threshold says, and lies in the cleaned mask of the
    overview, which has the size of level 0.
    """
    pixels = tifffile.imread(path)  # (h, w, 3)
    height, width, _ = pixels.shape
    squares = (pixels < 250).any(axis=2).reshape(height // 50, 50, width // 50, 50).any(axis=(1, 3))
    scanned = squares.repeat(50, axis=0).repeat(50, axis=1)
    with open_slide(path) as slide:
        tissue = analyse_slide(slide, TileConfig(patch_px=64, mpp=4.0)).tissue
    assert tissue.mask.shape == pixels.shape[:2]
    low, high = tissue.windows.T
    signal = ((high - pixels) / (high - low)).max(axis=2)
    return scanned, (signal > tissue.threshold) & (tissue.mask != 0) & scanned


def predicted(path: Path, out: Path, patch_px: int, **options: Any) -> tuple[dict[str, Any], pd.DataFrame]:
    """Return the facts and the table of a prediction of a slide."""
    with open_slide(path) as slide:
        predict_to(slide, model(patch_px), out, slide_id=path.stem, config=PredictConfig(device="cpu", **options))
    facts = read_json(out / "heatmaps" / path.stem / "heatmap.json")
    return facts, pd.read_parquet(out / "predictions" / f"{path.stem}.parquet")


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("name", SLIDES)
@pytest.mark.parametrize("patch_px", [50, 64, 224])
def test_areas_are_those_of_the_slides_own_scanned_pixels(
    real_data: Path, tmp_path: Path, name: str, patch_px: int
) -> None:
    path = real_data / "wsi" / f"{name}.tif"
    scanned, tissue = own_pixels(path)
    facts, table = predicted(path, tmp_path, patch_px)
    summary = facts["summary"]
    assert summary["scanned_mm2"] == pytest.approx(MM2_PER_PX * scanned.sum(), rel=RIM)
    assert summary["tissue_mm2"] == pytest.approx(MM2_PER_PX * tissue.sum(), rel=0.02)
    # Positive patches alone, cut out of the same pixels.
    positive = np.zeros(tissue.shape, np.bool_)
    for x, y in table.loc[table["logit"] > facts["decision_threshold"], ["x", "y"]].to_numpy():
        positive[y : y + patch_px, x : x + patch_px] = True
    assert summary["positive_mm2"] == pytest.approx(MM2_PER_PX * (positive & scanned).sum(), rel=RIM)
    assert summary["positive_share"] == pytest.approx((positive & tissue).sum() / tissue.sum(), abs=0.01)
    heatmap = read_ome_tiff(tmp_path / "heatmaps" / name / "heatmap.ome.tif")
    maps = dict(zip(heatmap.channels, heatmap.levels[0].astype(np.float64), strict=True))
    cells_mm2 = MM2_PER_PX * patch_px**2 * maps["tissue_fraction"] * maps["scanned_fraction"]
    inner = cells_mm2[:-1, :-1]  # the last cells overhang the slide
    assert inner.sum() == pytest.approx(
        MM2_PER_PX * tissue[: inner.shape[0] * patch_px, : inner.shape[1] * patch_px].sum(), rel=0.02
    )


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("name", SLIDES)
def test_patches_that_were_mostly_not_scanned_have_no_prediction_and_no_group(
    real_data: Path, tmp_path: Path, name: str
) -> None:
    path = real_data / "wsi" / f"{name}.tif"
    scanned, _ = own_pixels(path)
    _, table = predicted(path, tmp_path / "out", 64)
    share = np.array([scanned[y : y + 64, x : x + 64].sum() / 64**2 for x, y in table[["x", "y"]].to_numpy()])
    np.testing.assert_allclose(table["scanned_fraction"], share, atol=2 * RIM)
    assert table["scanned_fraction"].min() >= GroupsConfig().min_scanned
    _, everything = predicted(path, tmp_path / "all", 64, all_patches=True)
    assert (everything["scanned_fraction"] == 0).any()
    with open_slide(path) as slide:
        tile_slide(slide, TileConfig(patch_px=64, mpp=4.0), tmp_path / "work", slide_id=name)
    tiled = pd.read_parquet(tmp_path / "work" / "patches" / f"{name}.parquet").set_index("patch_id")
    pd.testing.assert_series_equal(
        tiled["scanned_fraction"], everything.set_index("patch_id")["scanned_fraction"], check_index=True
    )
    thin = tiled[(tiled["scanned_fraction"] > 0) & (tiled["scanned_fraction"] < 0.5) & (tiled["tissue_fraction"] > 0.5)]
    assert len(thin) > 10  # full of tissue where they were scanned: the group "much tissue" before
    assert not set(thin.index) & set(table["patch_id"])

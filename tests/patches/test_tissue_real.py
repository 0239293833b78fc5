"""How much of real slides is tissue: shares after looking at every outline (pipelines/tissue-gallery/README.md)."""

from __future__ import annotations

from pathlib import Path

import imagecodecs
import numpy as np
import pytest

from pathopatch.config import TileConfig, TissueConfig
from pathopatch.patches import analyse_slide
from pathopatch.patches.tissue_fit import fit_tissue
from pathopatch.slides import open_slide

pytestmark = pytest.mark.real


@pytest.mark.parametrize(
    ("name", "background", "share", "tolerance"),
    [
        ("wsi/CMU-1-Small-Region.svs", "bright", 0.36, 0.02),
        ("wsi/idc_14082.tif", "bright", 0.134, 0.01),
        ("wsi/idc_14306.tif", "bright", 0.214, 0.015),
        ("multimodal/curvealign-2B_D9_ROI1-shg.tif", "dark", 0.255, 0.03),
        ("multimodal/curvealign-2B_D9_ROI2-shg.tif", "dark", 0.286, 0.03),
        ("multimodal/curvealign-2B_D9_ROI1-he.tif", "bright", 0.976, 0.01),
        ("multimodal/curvealign-2B_D9_ROI2-he.tif", "bright", 0.991, 0.005),
        ("multimodal/test-pyfibre-pl-shg-Stack.tif#page=0&plane=1", "dark", 0.52, 0.04),
        ("multimodal/test-pyfibre-pl-shg-Stack.tif#page=1&plane=1", "dark", 0.685, 0.04),
        ("multimodal/test-pyfibre-shg-Stack.tif#plane=2", "dark", 0.50, 0.04),
    ],
)
def test_the_share_of_tissue_is_what_the_eye_sees_and_none_of_it_is_ink(
    real_data: Path, name: str, background: str, share: float, tolerance: float
) -> None:
    path, _, fragment = name.partition("#")
    mpp = None if path.startswith("wsi/CMU") else 4.0 if path.startswith("wsi") else 0.5
    with open_slide(f"{real_data / path}{'#' * bool(fragment)}{fragment}", mpp=mpp) as slide:
        tissue = analyse_slide(slide, TileConfig()).tissue
    assert set(tissue.polarities) == {background}
    assert tissue.mask.mean() == pytest.approx(share, abs=tolerance)
    assert tissue.ink_share == 0


def test_the_whole_tissue_of_a_fluorescence_pair_shows_in_one_of_its_channels(real_data: Path) -> None:
    pair = {"DAPI": "pair-dapi.ndpi#plane=2", "TRITC": "pair-tritc.ndpi#plane=0"}
    with open_slide({name: f"{real_data}/wsi/{file}" for name, file in pair.items()}) as slide:
        overview, scale_x, scale_y = slide.read_overview(1024)
        shares = [
            fit_tissue(
                overview,
                polarities=slide.polarities,
                is_colour=False,
                config=TissueConfig(channels=channels),
                scale_x=scale_x,
                scale_y=scale_y,
                mpp=slide.mpp,
                channels=slide.channels,
            ).mask.mean()
            for channels in (("DAPI",), ("TRITC",), ())
        ]
    assert shares == [pytest.approx(share, abs=0.05) for share in (0.24, 0.79, 0.79)]


@pytest.mark.parametrize(
    ("name", "mpp", "share"),
    [
        ("camelyon/images/10073.jpg", 0.972, 0.744),  # fat vacuoles
        ("camelyon/images/10699.jpg", 0.972, 1.0),
        ("ocdc/images/1009009_r27c10.jpg", 0.5, 0.989),  # pale epithelium, no glass to speak of
        ("ocdc/images/1009009_r28c12.jpg", 0.5, 0.71),  # pale stroma beside glass
        ("ocdc/images/1009009_r31c1.jpg", 0.5, 0.611),
    ],
)
def test_pale_tissue_of_a_field_is_tissue_and_fat_is_not(real_data: Path, name: str, mpp: float, share: float) -> None:
    pixels = imagecodecs.jpeg8_decode((real_data / "tumor_masks" / name).read_bytes()).transpose(2, 0, 1)
    model = fit_tissue(
        np.ascontiguousarray(pixels),
        polarities=("bright",) * 3,
        is_colour=True,
        config=TissueConfig(),
        scale_x=1.0,
        scale_y=1.0,
        mpp=mpp,
    )
    assert model.mask.mean() == pytest.approx(share, abs=0.02)
    assert model.ink_share == 0

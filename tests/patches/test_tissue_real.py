"""Tissue shares of real slides, judged by their outlines (pipelines/tissue-gallery/README.md)."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile

from pathopatch.core.config import UNCERTAIN_BELOW, RegistrationConfig, TileConfig, TissueConfig
from pathopatch.patches.analysis import analyse_slide
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
def test_the_tissue_share_is_that_seen_by_eye_without_ink(
    real_data: Path, name: str, background: str, share: float, tolerance: float
) -> None:
    path, _, fragment = name.partition("#")
    mpp = None if path.startswith("wsi/CMU") else 4.0 if path.startswith("wsi") else 0.5
    with open_slide(f"{real_data / path}{'#' * bool(fragment)}{fragment}", mpp=mpp) as slide:
        tissue = analyse_slide(slide, TileConfig()).tissue
    assert set(tissue.polarities) == {background}
    assert tissue.mask.mean() == pytest.approx(share, abs=tolerance)
    assert tissue.ink_share == 0


def test_one_channel_of_a_fluorescence_pair_shows_its_whole_tissue(real_data: Path) -> None:
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


TRANSFORMS = Path(__file__).parents[2] / "pipelines" / "tissue-gallery" / "transforms.py"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "mpp"),
    [
        ("wsi/CMU-1-Small-Region.svs", None),
        ("multimodal/curvealign-2B_D9_ROI1-he.tif", 0.5),
        ("multimodal/curvealign-2B_D9_ROI2-he.tif", 0.5),
    ],
)
def test_the_tissue_share_is_stable_under_exposure_tint_light_and_format(
    real_data: Path, tmp_path: Path, name: str, mpp: float | None
) -> None:
    spec = importlib.util.spec_from_file_location("transforms", TRANSFORMS)
    assert spec is not None
    assert spec.loader is not None
    changes = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(changes)
    with open_slide(real_data / name, mpp=mpp) as slide:
        pixels, scale, _ = slide.read_overview(1500)
        um, original = slide.mpp * scale, analyse_slide(slide, TileConfig()).tissue.share
    wrong = []
    for family, variant, changed in changes.transforms(np.ascontiguousarray(pixels)):
        path = changes.write(tmp_path / "a.tif", changed, as_planes=family == "three planes")
        with open_slide(path, mpp=um) as slide:
            tissue = analyse_slide(slide, TileConfig()).tissue
        if abs(tissue.share - original) > 0.05 and tissue.confidence >= UNCERTAIN_BELOW:
            wrong.append((family, variant, tissue.share, tissue.confidence))
    assert wrong == []


@pytest.mark.parametrize("field", ["ROI1", "ROI2"])
@pytest.mark.parametrize(("move", "fill"), [((-9, 14), 0), ((-4, -28), 255)])
def test_planes_of_stained_tissue_beside_shg_keep_their_tissue(
    real_data: Path, tmp_path: Path, field: str, move: tuple[int, int], fill: int
) -> None:
    stain = tifffile.imread(real_data / f"multimodal/curvealign-2B_D9_{field}-he.tif")
    shg = real_data / f"multimodal/curvealign-2B_D9_{field}-shg.tif"
    config = TileConfig(registration=RegistrationConfig(align=True))
    results = []
    for x, y in ((0, 0), move):
        shift = np.array([[1.0, 0, x], [0, 1, y]])
        moved = cv2.warpAffine(stain, shift, stain.shape[1::-1], flags=cv2.INTER_NEAREST, borderValue=(fill,) * 3)
        tifffile.imwrite(tmp_path / "he.tif", moved, photometric="rgb", metadata=None)
        planes = {f"HE_{name}": f"{tmp_path}/he.tif#plane={number}" for number, name in enumerate("RGB")}
        with open_slide({"SHG": str(shg), **planes}, mpp=0.5) as slide:
            assert slide.background == "SHG=dark,HE_R=bright,HE_G=bright,HE_B=bright"
            analysis = analyse_slide(slide, config)
        (offset,) = set(analysis.offsets[1:])
        results.append((offset, analysis.tissue))
    (still, before), (seen, after) = results
    assert np.abs(np.subtract(seen, still) - move).max() <= 1
    assert before.share == pytest.approx({"ROI1": 0.977, "ROI2": 0.991}[field], abs=0.008)
    assert after.share == pytest.approx(before.share, abs=0.03)
    assert after.unscanned_share > 0

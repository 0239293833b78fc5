"""ICC profiles that slides carry: named, and not applied."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from pathopatch.core.config import TileConfig
from pathopatch.patches.describe import describe_slide
from pathopatch.slides import open_slide
from pathopatch.slides.open import OpenSlideSlide
from pathopatch.slides.resolution import ICC_TAG, icc_name

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".svs.tif"])
def test_a_profile_is_named_and_changes_no_pixel(tmp_path: Path, suffix: str) -> None:
    pixels = np.random.default_rng(0).integers(90, 255, (96, 128, 3), np.uint8)
    with_profile, without = tmp_path / f"with{suffix}", tmp_path / f"without{suffix}"
    for path, profile in ((with_profile, SRGB), (without, None)):
        if suffix.endswith(".tif"):
            tags = [] if profile is None else [(ICC_TAG, 7, len(profile), profile, True)]
            tifffile.imwrite(path, pixels, photometric="rgb", tile=(64, 64), extratags=tags)
        else:
            Image.fromarray(pixels).save(path, **({} if profile is None else {"icc_profile": profile}))
    with open_slide(with_profile, mpp=1) as slide, open_slide(without, mpp=1) as plain:
        assert (slide.facts.icc, plain.facts.icc) == ("sRGB built-in", "")
        np.testing.assert_array_equal(slide.read_region(0, 0, 64, 64), plain.read_region(0, 0, 64, 64))
        facts = dict(describe_slide(slide, TileConfig(), slide_id="s").lines())
        assert facts["ICC profile"].startswith("sRGB built-in, not applied")
        assert "ICC profile" not in dict(describe_slide(plain, TileConfig(), slide_id="s").lines())


def test_a_profile_is_found_by_openslide_too(tmp_path: Path) -> None:
    pixels, tags = np.full((256, 256, 3), 200, np.uint8), [(ICC_TAG, 7, len(SRGB), SRGB, True)]
    about = "Aperio Image Library v1\n256x256|AppMag = 20|MPP = 0.5"
    layout = {"photometric": "rgb", "tile": (256, 256), "compression": "jpeg", "metadata": None}
    tifffile.imwrite(tmp_path / "a.svs", pixels, description=about, extratags=tags, **layout)
    with OpenSlideSlide(tmp_path / "a.svs") as slide:
        assert slide.facts.icc == "sRGB built-in"


def test_a_damaged_profile_stops_nothing() -> None:
    assert icc_name(b"no profile") == "damaged"
    assert icc_name(None) == icc_name(b"") == ""

"""Measure what an ICC profile that is not applied changes: one field, stored in sRGB and in a wider colour space."""

from __future__ import annotations

import io
import os
import struct
import sys
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image, ImageCms

import pathopatch
from pathopatch.core.config import TileConfig
from pathopatch.patches.analysis import analyse_slide

PRIMARIES = np.array([[0.6097, 0.3111, 0.0195], [0.2053, 0.6257, 0.0609], [0.1492, 0.0632, 0.7448]])
"""X, Y, Z of red, green and blue of Adobe RGB (1998), adapted to D50."""
GAMMA = 2.2


def wide_profile() -> ImageCms.ImageCmsProfile:
    """Return a matrix profile of these primaries, version 2."""
    texts = b"desc" + bytes(4) + struct.pack(">I", 5) + b"wide\0" + bytes(78)
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(GAMMA * 256)) + bytes(2)

    def xyz(values: np.ndarray) -> bytes:
        return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(65536 * value) for value in values))

    white = np.array([0.9642, 1.0, 0.8249])
    parts = [(b"desc", texts), (b"cprt", b"text" + bytes(4) + b"none\0" + bytes(3)), (b"wtpt", xyz(white))]
    parts += [(name + b"XYZ", xyz(row)) for name, row in zip((b"r", b"g", b"b"), PRIMARIES, strict=True)]
    parts += [(name + b"TRC", curve) for name in (b"r", b"g", b"b")]
    table, body, place = struct.pack(">I", len(parts)), b"", 128 + 4 + 12 * len(parts)
    for name, content in parts:
        content += bytes(-len(content) % 4)
        table += name + struct.pack(">II", place + len(body), len(content))
        body += content
    head = struct.pack(">I4sI4s4s4s", place + len(body), b"none", 0x02100000, b"mntr", b"RGB ", b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", *(round(65536 * value) for value in white))
    return ImageCms.ImageCmsProfile(io.BytesIO(head + bytes(128 - len(head)) + table + body))


def main(model: Path, folder: Path) -> None:
    """Print tissue and probabilities of both forms of a field, by a model of R, G, B."""
    source = Path(os.environ["PATHOPATCH_REAL_DATA"]) / "wsi" / "CMU-1-Small-Region.svs"
    wide, plain = wide_profile(), ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    with pathopatch.open_slide(source) as slide:
        mpp, pixels = slide.mpp, slide.read_region(0, 0, *slide.size).transpose(1, 2, 0)
    stored = np.asarray(ImageCms.profileToProfile(Image.fromarray(pixels), plain, wide))
    back = np.asarray(ImageCms.profileToProfile(Image.fromarray(stored), wide, plain))
    folder.mkdir(parents=True, exist_ok=True)
    found, shares = {}, {}
    for name, image in (("sRGB", pixels), ("wide, not applied", stored), ("wide, applied", back)):
        path = folder / f"{name.replace(', ', '-').replace(' ', '-')}.tif"
        tifffile.imwrite(path, image, photometric="rgb", tile=(256, 256))
        with pathopatch.open_slide(path, mpp=mpp) as slide:
            shares[name] = analyse_slide(slide, TileConfig(mpp=mpp)).tissue.share
            prediction = pathopatch.predict_slide(slide, model)
        found[name] = prediction.table.set_index(["x", "y"])["probability"]
        moved = (found[name] - found["sRGB"]).abs()
        turned = ((found[name] > 0.5) != (found["sRGB"] > 0.5)).mean()
        grey = np.abs(image.astype(int) - pixels).mean()
        print(f"| {name} | {grey:.1f} | {shares[name]:.4f} | {moved.median():.3f} | {moved.max():.3f} | {turned:.1%} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

"""Measure the loss of reading a slide through coarser levels; print a table for a slide and an RGB model.

``python pipelines/bench/levels.py SLIDE --model BUNDLE`` writes the slide's finest level as pyramids of 2 x 2 means,
lossless and as JPEG, and reads them at the model's scale. Each row is held against reading the finest level.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import tifffile

from pathopatch.models.forward import PatchClassifier
from pathopatch.models.loading import load_model
from pathopatch.slides import Slide, open_slide
from pathopatch.slides.resample import level_for

_KINDS = {"lossless": ("deflate", None), "JPEG 80": ("jpeg", {"level": 80}), "JPEG 50": ("jpeg", {"level": 50})}
_HEAD = ("file", "factor", "level", "CPU ms, 256 x 256 px", "pixels, mean (max)", "probability, mean (max)")
_LEVELS, _REPEATS = 4, 3


def write_pyramid(path: Path, slide: Slide, kind: str) -> None:
    """Write level 0 and its 2 x 2 means."""
    compression, options = _KINDS[kind]
    pixels = np.ascontiguousarray(slide.read_region(0, 0, *slide.size).transpose(1, 2, 0))
    with tifffile.TiffWriter(path) as writer:
        for level in range(_LEVELS):
            writer.write(
                pixels, photometric="rgb", tile=(256, 256), compression=compression, compressionargs=options,
                subfiletype=int(level > 0), metadata=None,
            )  # fmt: skip
            height, width = (side // 2 for side in pixels.shape[:2])
            pixels = cv2.resize(pixels[: 2 * height, : 2 * width], (width, height), interpolation=cv2.INTER_AREA)


def rows_of(slide: Slide, model: PatchClassifier) -> Iterator[tuple[str, ...]]:
    """Yield a row for each factor, the largest first."""
    side, downsample = model.spec.patch_px, model.spec.mpp / slide.mpp
    levels = [level.downsample for level in slide.levels]
    columns, rows = (np.arange(0, length - side * downsample, side * downsample).astype(int) for length in slide.size)
    exact = None
    for factor in sorted({downsample / level for level in levels if level <= downsample}, reverse=True):
        seconds = []
        for _ in range(_REPEATS):
            started = time.process_time()
            patches = np.stack(
                [
                    slide.read_patch(int(x), int(y), side, downsample=downsample, exact_factor=factor)
                    for y in rows
                    for x in columns
                ]
            )
            seconds.append(time.process_time() - started)
        logits = model.predict_logits((patches / 255).astype(np.float32)).astype(float)
        probability = 1 / (1 + np.exp((logits[:, 0] - logits[:, 1]) / model.spec.temperature))
        exact = exact or (patches.astype(float), probability)
        pixels, changed = np.abs(patches - exact[0]), np.abs(probability - exact[1])
        yield (
            f"{factor:.3g}",
            f"1/{levels[level_for(levels, downsample, exact_factor=factor)]:g}",
            f"{1e3 * min(seconds) / len(patches) * (256 / side) ** 2:.0f}",
            f"{pixels.mean():.1f} ({pixels.max():.0f})",
            f"{changed.mean():.3f} ({changed.max():.3f})",
        )


def main() -> None:
    """Write the pyramids, read them through each level, and print what changes."""
    parser = argparse.ArgumentParser(description="What is lost where a slide is read through coarser levels?")
    parser.add_argument("slide", type=Path)
    parser.add_argument("--model", type=Path, required=True)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    model = load_model(options.model, device="cpu", precision="float32")
    lines = [_HEAD, ("---",) * len(_HEAD)]
    with tempfile.TemporaryDirectory() as folder, open_slide(options.slide) as whole:
        path = Path(folder) / "slide.tif"
        for kind in _KINDS:
            write_pyramid(path, whole, kind)
            with open_slide(path, mpp=whole.mpp) as slide:
                lines += [(kind, *row) for row in rows_of(slide, model)]
    print("\n".join(f"| {' | '.join(line)} |" for line in lines))


if __name__ == "__main__":
    main()

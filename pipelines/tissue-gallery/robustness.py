"""Compare the tissue share of real slides with that of the same slides under other exposure, tint, light and files.

Writes `robustness.csv`, a row an image, and prints the tables of the README. Usage:
PATHOPATCH_REAL_DATA=FOLDER python robustness.py OUT
"""

from __future__ import annotations

import csv
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
from transforms import transforms, write

from pathopatch import open_slide
from pathopatch.core.config import UNCERTAIN_BELOW, RegistrationConfig, TileConfig
from pathopatch.patches import intensity
from pathopatch.patches.analysis import analyse_slide, iterate_patches
from pathopatch.slides import Slide

SLIDES = {
    "CMU-1-Small-Region": ("wsi/CMU-1-Small-Region.svs", None),
    "CurveAlign ROI1, H&E": ("multimodal/curvealign-2B_D9_ROI1-he.tif", 0.5),
    "CurveAlign ROI2, H&E": ("multimodal/curvealign-2B_D9_ROI2-he.tif", 0.5),
}
MOVES = ((0, 0), (-9, 14), (-4, -28))
SATURATED = 0.05  # from which `predict` flags a patch
FIELDS = ("image", "family", "name", "background", "share", "original", "confidence", "warned")


def main(out: Path) -> None:
    """Write the table and print its summary."""
    real = Path(os.environ["PATHOPATCH_REAL_DATA"])
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, (out / "robustness.csv").open("w", newline="") as stream:
        table = csv.DictWriter(stream, FIELDS)
        table.writeheader()
        rows = list(brightfield(real, Path(folder)))
        table.writerows(rows)
        print_brightfield(rows)
        print_pairs(real, Path(folder))
        print_full_fields(real, Path(folder))


def brightfield(real: Path, folder: Path) -> Iterator[dict[str, Any]]:
    """Yield a row for each transform of each slide."""
    for image, (name, mpp) in SLIDES.items():
        with open_slide(real / name, mpp=mpp) as slide:
            pixels, scale, _ = slide.read_overview()
            um = slide.mpp * scale
            original = analyse_slide(slide, TileConfig()).tissue.share
        for family, variant, changed in transforms(np.ascontiguousarray(pixels)):
            path = write(folder / "changed.tif", changed, as_planes=family == "three planes")
            with open_slide(path, mpp=um) as slide:
                tissue = analyse_slide(slide, TileConfig()).tissue
                background = slide.background
            yield {
                "image": image, "family": family, "name": variant, "background": background,
                "share": f"{tissue.share:.4f}", "original": f"{original:.4f}", "confidence": f"{tissue.confidence:.2f}",
                "warned": tissue.confidence < UNCERTAIN_BELOW,
            }  # fmt: skip


def print_brightfield(rows: Sequence[dict[str, Any]]) -> None:
    """Print the shares, the largest change and the number of warnings per image and family."""
    print("| image | change | n | share | largest change | with a warning |\n|---|---|---|---|---|---|")
    for image, family in dict.fromkeys((row["image"], row["family"]) for row in rows):
        part = [row for row in rows if (row["image"], row["family"]) == (image, family)]
        shares = [float(row["share"]) for row in part]
        change = max(abs(share - float(part[0]["original"])) for share in shares)
        print(
            f"| {image} ({float(part[0]['original']):.3f}) | {family} | {len(part)} | {min(shares):.3f} to "
            f"{max(shares):.3f} | {change:.3f} | {sum(row['warned'] for row in part)} |"
        )


def print_pairs(real: Path, folder: Path) -> None:
    """Print shift, tissue and saturation of SHG and H&E, the latter moved by known amounts, with borders."""
    print("\n| field | moved by | border | background | shift found | tissue | flagged |")
    print("|---|---|---|---|---|---|---|")
    for roi in ("ROI1", "ROI2"):
        start, still = None, 0.0
        for move in MOVES:
            for border, fill in ((0, 0), (40, 0), (40, 255)):
                with paired(real, folder, roi, move, border, fill) as slide:
                    config = TileConfig(patch_px=128, registration=RegistrationConfig(align=True))
                    analysis = analyse_slide(slide, config)
                    flagged = saturated_patches(slide, analysis)
                    background = slide.background.replace("HE_", "")
                offsets = set(analysis.offsets[1:])
                assert len(offsets) == 1, "planes of one file move together"
                x, y = offsets.pop()
                start, still = start or (x, y), still or analysis.tissue.share
                print(
                    f"| {roi} | {move} | {border} px of {fill} | {background} | ({x - start[0]}, {y - start[1]}) | "
                    f"{analysis.tissue.share:.3f} ({analysis.tissue.share - still:+.3f}) | "
                    f"{flagged:.2f} |"
                )


def paired(real: Path, folder: Path, roi: str, move: tuple[int, int], border: int, fill: int) -> Slide:
    """Return SHG and the planes of its moved H&E as one slide, both with a border."""
    shg = tifffile.imread(real / f"multimodal/curvealign-2B_D9_{roi}-shg.tif")
    he = tifffile.imread(real / f"multimodal/curvealign-2B_D9_{roi}-he.tif")
    shift = np.array([[1.0, 0, move[0]], [0, 1, move[1]]])
    he = cv2.warpAffine(he, shift, he.shape[1::-1], flags=cv2.INTER_NEAREST, borderValue=(fill,) * 3)
    tifffile.imwrite(folder / "shg.tif", np.pad(shg, border), photometric="minisblack", metadata=None)
    sides = ((border, border), (border, border), (0, 0))
    tifffile.imwrite(folder / "he.tif", np.pad(he, sides, constant_values=fill), photometric="rgb", metadata=None)
    planes = {f"HE_{name}": f"{folder}/he.tif#plane={number}" for number, name in enumerate("RGB")}
    return open_slide({"SHG": str(folder / "shg.tif"), **planes}, mpp=0.5)


def saturated_patches(slide: Slide, analysis: Any) -> float:
    """Return the share of patches that `predict` would flag as saturated."""
    tissue, flags = analysis.tissue, []
    origins = analysis.grid.origins()
    for rows, patches, *_ in iterate_patches(slide, analysis):
        for row, patch in zip(rows.tolist(), patches, strict=True):
            x, y = origins[row].tolist()
            width, height = analysis.grid.inside(x, y)
            share = intensity.saturated_fraction(
                patch[:, :height, :width], analysis.windows, polarities=tissue.polarities,
                scanned=partial(tissue.scanned_mask, x, y, 1.0, (width, height)),
            )  # fmt: skip
            flags.append(share > SATURATED)
    return float(np.mean(flags))


def print_full_fields(real: Path, folder: Path) -> None:
    """Print the tissue of multiphoton fields without background."""
    print("\n| field | setting | tissue | confidence | warning |\n|---|---|---|---|---|")
    stack = real / "multimodal/test-pyfibre-pl-shg-Stack.tif"
    cases: list[tuple[str, Any, dict[str, Any]]] = [
        ("PyFibre stack, page 0 as 3 channels", f"{stack}#page=0", {}),
        ("PyFibre stack, page 1 as 3 channels", f"{stack}#page=1", {}),
        ("PyFibre stack, page 2 (transmission)", f"{stack}#page=2&plane=1", {}),
    ]
    full = tissue_crop(tifffile.imread(stack)[1, 1].astype(np.float64))
    levels = {f"CARS, TPEF and SHG made of it, black level {level}": level for level in (0, 100, 500)}
    for name, level in levels.items():
        rng = np.random.default_rng(0)
        planes = np.stack([rng.poisson(level + gain * full) for gain in (20, 5, 8)]).astype(np.uint16)
        path = folder / f"full-{level}.ome.tif"
        tifffile.imwrite(path, planes, photometric="minisblack", metadata={"axes": "CYX"})
        stated = {f"C{number}": float(level) for number in range(3)}
        cases += [(name, path, {}), (name, path, {"background_level": stated})]
    for choice in ("none", "fail"):
        cases.append((name, path, {"when_unsure": choice}))
    for name, source, settings in cases:
        tissue = TileConfig().tissue.model_copy(update=settings)
        setting = ", ".join(f"{key} = {value}" for key, value in settings.items()) or "default"
        with open_slide(source, mpp=0.5) as slide:
            try:
                result = analyse_slide(slide, TileConfig(tissue=tissue)).tissue
            except ValueError as error:
                print(f"| {name} | {setting} | | | {str(error).split('[')[0]} |")
                continue
        print(
            f"| {name} | {setting} | {result.share:.3f} | {result.confidence:.2f} | {'; '.join(result.doubts) or '–'} |"
        )


def tissue_crop(plane: np.ndarray, side: int = 96) -> np.ndarray:
    """Return the square with the brightest darkest tenth, so full of tissue, enlarged four times."""
    corners = [(y, x) for y in range(0, plane.shape[0] - side, 8) for x in range(0, plane.shape[1] - side, 8)]
    y, x = max(corners, key=lambda at: np.percentile(plane[at[0] : at[0] + side, at[1] : at[1] + side], 10))
    return cv2.resize(plane[y : y + side, x : x + side], None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC).clip(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

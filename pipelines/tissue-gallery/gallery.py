"""Outline the tissue of every real image that is at hand, for a person to look at.

For each group: `pathopatch tile` and `pathopatch report` as library calls, a contact sheet of the report's pictures,
and a line per image with its tissue share. Usage: PATHOPATCH_REAL_DATA=FOLDER python gallery.py OUT
"""

from __future__ import annotations

import html
import os
import sys
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import tifffile

from pathopatch import pipeline
from pathopatch.config import TileConfig, TissueConfig
from pathopatch.patches import PatchStore

MANIFESTS = Path(__file__).resolve().parents[2] / "data_manifests"
GROUPS: dict[str, tuple[str, TissueConfig]] = {
    "cmu": ("cmu.csv", TissueConfig()),
    "idc": ("idc.csv", TissueConfig()),
    "ndpi-pair": ("ndpi-pair.csv", TissueConfig()),
    "ndpi-pair-tritc": ("ndpi-pair.csv", TissueConfig(channels=("TRITC",))),
    "ndpi-pair-maximum": ("ndpi-pair.csv", TissueConfig(combine="maximum")),
    "multimodal-fields": ("multimodal-fields.csv", TissueConfig()),
    "pyfibre-stack": ("pyfibre-stack.csv", TissueConfig()),
    "pyfibre-stack-maximum": ("pyfibre-stack.csv", TissueConfig(combine="maximum")),
    "pyfibre-stack-shg": ("pyfibre-stack.csv", TissueConfig(channels=("SHG",))),
    "camelyon-fields": ("camelyon-fields.csv", TissueConfig()),
    "ocdc-fields": ("ocdc-fields.csv", TissueConfig()),
}
CELL_PX, COLUMNS = 420, 4


def main(out: Path) -> None:
    """Make everything below `out`; a group that is there and current is not made again."""
    fields = out / "fields"
    convert_fields(Path(os.environ["PATHOPATCH_REAL_DATA"]) / "tumor_masks", fields)
    os.environ["PATHOPATCH_FIELDS"] = str(fields.resolve())
    links = []
    for group, (manifest, tissue) in GROUPS.items():
        work = out / group
        config = TileConfig(store="none", tissue=tissue)
        failed = [each for each in pipeline.tile(MANIFESTS / manifest, work, config) if each.state == "failed"]
        for each in failed:
            print(f"{group},{each.slide_id},FAILED: {each.message}")
        pipeline.report(work)
        for path in sorted((work / "slides").glob("*.zarr")):
            store = PatchStore(path)
            known = store.attributes["tissue"]
            told = (
                f"{store.tissue().mean():.4f},{known['threshold']},{known['ink_share']:.4f},{known['black_share']:.4f}"
            )
            print(f"{group},{path.stem},{store.attributes['background']},{told}", flush=True)
        cv2.imwrite(str(out / f"{group}.png"), contact_sheet(work / "report" / "tissue"))
        links.append(f'<li><a href="{html.escape(group)}/report/index.html#tissue">{html.escape(group)}</a></li>')
    (out / "index.html").write_text(f"<!doctype html><title>Tissue</title><ul>{''.join(links)}</ul>", encoding="utf-8")


def convert_fields(source: Path, target: Path) -> None:
    """Write the JPEG fields as TIFF files of the same pixels: no reader of slides takes a bare JPEG file."""
    target.mkdir(parents=True, exist_ok=True)
    for cohort in ("camelyon", "ocdc"):
        for path in sorted((source / cohort / "images").glob("*.jpg")):
            file = target / f"{cohort}_{path.stem}.tif"
            if not file.exists():
                pixels = imagecodecs.jpeg8_decode(path.read_bytes())
                tifffile.imwrite(file, pixels, photometric="rgb", compression="deflate", metadata=None)


def contact_sheet(folder: Path) -> np.ndarray:
    """Return the pictures of a folder side by side, each with its name."""
    cells = []
    for path in sorted(folder.glob("*.jpg")):
        picture = cv2.imread(str(path))
        factor = CELL_PX / max(picture.shape[:2])
        picture = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        cell = np.full((CELL_PX + 24, CELL_PX + 6, 3), 60, np.uint8)
        cell[: picture.shape[0], : picture.shape[1]] = picture
        cv2.putText(cell, path.stem, (3, CELL_PX + 17), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1)
        cells.append(cell)
    columns = min(COLUMNS, len(cells))
    cells += [np.zeros_like(cells[0])] * (-len(cells) % columns)
    return np.vstack([np.hstack(cells[start : start + columns]) for start in range(0, len(cells), columns)])


if __name__ == "__main__":
    main(Path(sys.argv[1]))

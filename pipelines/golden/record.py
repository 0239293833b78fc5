"""Record the outputs of a version of the package: predictions of every real slide, the IDC study, and the demo.

``PATHOPATCH_REAL_DATA=FOLDER python pipelines/golden/record.py OUT [--bundles BEFORE/bundles]`` runs the installed
package's own commands. The networks of the predictions have random weights: what is recorded is how a slide becomes
patches, numbers and files. Give the bundles of the earlier record, so that both versions predict by the same ones.
Compare two records by ``compare.py``.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
from pathlib import Path

import torch

from pathopatch import open_slide
from pathopatch.models.bundle import save_bundle
from pathopatch.models.networks import build_network
from pathopatch.models.spec import BundleSpec

ROOT = Path(__file__).resolve().parents[2]
COMMAND = Path(sys.executable).with_name("pathopatch")
COHORTS = ("cmu", "idc", "ndpi-pair", "multimodal-fields", "pyfibre-stack", "camelyon-fields", "ocdc-fields")
PARTS = ("slides", "idc", "demo")
PATCH_PX = 64


def main() -> None:
    """Record what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--bundles", type=Path, help="bundles of an earlier record")
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS)
    options = parser.parse_args()
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    if "slides" in options.parts:
        record_slides(out, (options.bundles or out / "bundles").resolve())
    if "idc" in options.parts:
        record_idc(out)
    if "demo" in options.parts:
        run("demo", "-o", out / "demo")


def record_slides(out: Path, bundles: Path) -> None:
    """Tile every real cohort, and predict each slide by a bundle of its channels, type, polarity and scale."""
    for cohort in COHORTS:
        manifest = ROOT / "data_manifests" / f"{cohort}.csv"
        run("tile", manifest, "-o", out / "tiled" / cohort, "--patch-px", PATCH_PX)
        with manifest.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        for row in rows:
            bundle = bundles / row["slide_id"]
            if not bundle.is_dir():
                write_bundle(bundle, row)
            alone = out / "manifests" / f"{row['slide_id']}.csv"
            alone.parent.mkdir(exist_ok=True)
            with alone.open("w", newline="", encoding="utf-8") as stream:
                writer = csv.DictWriter(stream, list(row), lineterminator="\n")
                writer.writeheader()
                writer.writerow(row)
            run("predict", alone, "--model", bundle, "-o", out / "predicted" / row["slide_id"], "--device", "cpu")


def write_bundle(folder: Path, row: dict[str, str]) -> None:
    """Write a bundle of random weights, the same ones each time, for the slide of a manifest's row."""
    paths = {key.removeprefix("path:"): os.path.expandvars(value) for key, value in row.items() if "path" in key}
    source = paths.get("path", paths)
    names = tuple(row["channels"].split(";")) if row.get("channels") else None
    with open_slide(source, mpp=float(row["mpp"]) if row.get("mpp") else None, channels=names) as slide:
        count = len(slide.channels)
        spec = BundleSpec(
            architecture="small-groupnorm",
            channels=slide.channels,
            dtype=str(slide.dtype),
            background=slide.background,
            patch_px=PATCH_PX,
            stride_px=PATCH_PX,
            mpp=slide.mpp,
            input_px=32,
            mean=(0.5,) * count,
            std=(0.2,) * count,
            method="erm",
        )
    torch.manual_seed(0)
    folder.parent.mkdir(parents=True, exist_ok=True)
    save_bundle(folder, build_network(spec.architecture, count), spec)


def record_idc(out: Path) -> None:
    """Run the study of the two IDC slides, into this record."""
    text = (ROOT / "pipelines" / "idc" / "study.toml").read_text(encoding="utf-8")
    text = text.replace("../../data_manifests", str(ROOT / "data_manifests")).replace("../../work/idc", "idc")
    (out / "idc.toml").write_text(text, encoding="utf-8")
    run("run", out / "idc.toml")


def run(*words: object) -> None:
    """Run a command of the package and stop where it fails."""
    print("pathopatch", *words, flush=True)
    subprocess.run([COMMAND, *map(str, words), "--quiet"], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()

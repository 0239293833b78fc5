"""Count the functions of the package that `predict` enters for one small TIFF before its heatmap is written.

``python pipelines/golden/trace_predict.py [--list]`` makes an RGB TIFF and a bundle of random weights, and runs the
command ``pathopatch predict`` within this process. Bodies of modules and classes are not counted, lambdas and
comprehensions are part of the function that holds them. The fewer, the sooner a newcomer has read what happens.
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
import tempfile
import threading
from collections import defaultdict
from pathlib import Path
from types import CodeType, FrameType

import numpy as np
import tifffile
import torch

import pathopatch
from pathopatch.cli import main as pathopatch_main
from pathopatch.models.bundle import save_bundle
from pathopatch.models.networks import build_network
from pathopatch.models.spec import BundleSpec

PACKAGE = Path(pathopatch.__file__).parent
PATCH_PX, MPP = 64, 0.5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--list", action="store_true", help="name the functions, file by file")
    is_listed = parser.parse_args().list
    with tempfile.TemporaryDirectory() as name:
        before_map, before_folder = entered_by_predict(Path(name))
    if is_listed:
        for file, names in functions_by_file(before_folder).items():
            early = functions_by_file(before_map).get(file, [])
            print(f"{file} ({len(names)})", *(name if name in early else f"{name} *" for name in names), sep="\n    ")
        print("* entered only after the map itself was written")
    for milestone, codes in (("heatmap.ome.tif", before_map), ("the folder with all exports", before_folder)):
        functions = functions_by_file(codes)
        count = sum(map(len, functions.values()))
        print(f"until {milestone} is written: {count} functions in {len(functions)} files")
    return 0


def entered_by_predict(folder: Path) -> tuple[set[CodeType], set[CodeType]]:
    """Return the code objects that are entered before the map exists, and before its folder is in its place."""
    slide, bundle, out = folder / "small.tif", folder / "bundle", folder / "out"
    write_slide(slide)
    write_bundle(bundle)
    before_map: set[CodeType] = set()
    before_folder: set[CodeType] = set()
    prefix, heatmaps, has_map = f"{PACKAGE}/", out / "heatmaps", False

    def profile(frame: FrameType, event: str, _argument: object) -> None:
        nonlocal has_map
        code = frame.f_code
        if event != "call" or code in before_folder or not code.co_filename.startswith(prefix):
            return
        if not (heatmaps / "small").exists():
            before_folder.add(code)
            has_map = has_map or any(heatmaps.glob("*/heatmap.ome.tif")) or any(heatmaps.glob(".*/heatmap.ome.tif"))
            if not has_map:
                before_map.add(code)

    command = ["predict", str(slide), "--model", str(bundle), "-o", str(out), "--device", "cpu", "--quiet"]
    sys.argv = ["pathopatch", *command]
    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        pathopatch_main()
    except SystemExit as end:
        if end.code:
            raise
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    if not has_map or not (heatmaps / "small" / "heatmap.json").exists():
        raise RuntimeError(f"predict wrote no map into {heatmaps}")
    return before_map, before_folder


def functions_by_file(codes: set[CodeType]) -> dict[str, list[str]]:
    """Return the qualified names of functions by file, both sorted."""
    by_file: dict[str, set[str]] = defaultdict(set)
    for code in codes:
        name = re.sub(r"(\.<locals>)?\.<(lambda|\w+comp|genexpr)>", "", code.co_qualname)  # part of their function
        if not name.startswith("<") and code.co_flags & inspect.CO_OPTIMIZED:  # a module's or class's body has no flag
            by_file[str(Path(code.co_filename).relative_to(PACKAGE))].add(name)
    return {file: sorted(by_file[file]) for file in sorted(by_file)}


def write_slide(path: Path) -> None:
    """Write an RGB TIFF of 384 px a side, tiled, with tissue in the middle."""
    random = np.random.default_rng(0)
    pixels = np.full((384, 384, 3), 240, np.uint8)
    pixels[96:288, 96:288] = random.integers(80, 200, (192, 192, 3), np.uint8)
    resolution = (10_000 / MPP, 10_000 / MPP)
    tifffile.imwrite(
        path, pixels, photometric="rgb", tile=(128, 128), resolution=resolution, resolutionunit="CENTIMETER"
    )


def write_bundle(folder: Path) -> None:
    """Write a bundle of random weights that fits the slide."""
    torch.manual_seed(0)
    spec = BundleSpec(
        architecture="small-groupnorm",
        channels=("R", "G", "B"),
        dtype="uint8",
        background="bright",
        patch_px=PATCH_PX,
        stride_px=PATCH_PX,
        mpp=MPP,
        input_px=32,
        mean=(0.5,) * 3,
        std=(0.2,) * 3,
        method="erm",
    )
    save_bundle(folder, build_network(spec.architecture, 3), spec)


if __name__ == "__main__":
    sys.exit(main())

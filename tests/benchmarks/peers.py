"""How fast do other packages read the same patches? Each is installed into an environment of its own."""

from __future__ import annotations

import hashlib
import json
import statistics
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

from inputs import TILE_PX, Inputs
from measure import REPEATS, Row, cpu_seconds
from reading import bands, ours, patches

from pathopatch.slides import open_slide

_INSTALL_S = 1800
_GOALS = {"hs2p": 0.95, "tiatoolbox": 5.0}
_PACKAGES = {"hs2p": ("hs2p[openslide,tifffile]",), "tiatoolbox": ("tiatoolbox", "openslide-bin")}
_OPENERS = {
    "hs2p": """
from hs2p.wsi.reader import open_slide
slide = open_slide(path, backend="tifffile")
read = lambda x, y: slide.read_region((x, y), 0, (side, side))
""",
    "tiatoolbox": """
from tiatoolbox.wsicore.wsireader import WSIReader
slide = WSIReader.open(path)
read = lambda x, y: slide.read_rect((x, y), (side, side), resolution=0, units="level")
""",
}
_LOOP = """
import hashlib, json, sys, time
import numpy as np
path, side, width, height, repeats = sys.argv[1], *map(int, sys.argv[2:])
{opener}
places = [(x, y) for y in range(0, height - side + 1, side) for x in range(0, width - side + 1, side)]
digest = hashlib.sha256()
for x, y in places:
    digest.update(np.ascontiguousarray(np.asarray(read(x, y))[..., :3].transpose(2, 0, 1)).tobytes())
seconds = []
for _ in range(repeats):
    start = time.process_time()
    for x, y in places:
        np.asarray(read(x, y))
    seconds.append(time.process_time() - start)
print(json.dumps([digest.hexdigest(), seconds]))
"""


def rows(inputs: Inputs) -> Iterator[Row]:
    """A row for each package that installs here and gives the same pixels."""
    path = inputs.rgb_jpeg()
    for name, goal in _GOALS.items():
        found = _peer(name, path, open_slide(path).size, inputs.folder)
        if found is not None:
            yield Row(f"RGB JPEG, made TIFF, on the tiles, by {name}'s reader", found, goal)


def _peer(name: str, path: Path, size: tuple[int, int], folder: Path) -> float | None:
    """How many times as fast we are; None, with a word, where there is nothing to compare with."""
    python = folder / name / "bin" / "python"
    venv.create(folder / name, with_pip=True)
    try:
        subprocess.run([python, "-m", "pip", "install", "--quiet", *_PACKAGES[name]], check=True, timeout=_INSTALL_S)
        script = _LOOP.format(opener=_OPENERS[name])
        arguments = [str(each) for each in (path, TILE_PX, *size, REPEATS)]
        done = subprocess.run([python, "-c", script, *arguments], check=True, capture_output=True, timeout=_INSTALL_S)
    except (subprocess.SubprocessError, OSError) as error:
        print(f"left out: {name} does not install or run here: {error}", file=sys.stderr)  # noqa: T201
        return None
    digest, seconds = json.loads(done.stdout.splitlines()[-1])
    cut = {"side": TILE_PX, "stride": TILE_PX}
    same = hashlib.sha256()
    with open_slide(path, background="bright") as slide:
        for patch in patches(ours(slide), size, **cut):
            same.update(patch.tobytes())
        if same.hexdigest() != digest:
            print(f"left out: {name} gives other pixels", file=sys.stderr)  # noqa: T201
            return None
        own = [cpu_seconds(lambda: [work() for work in bands(ours(slide), size, **cut)]) for _ in range(REPEATS)]
    return statistics.median(seconds) / statistics.median(own)

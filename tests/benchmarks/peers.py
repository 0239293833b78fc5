"""How fast do other packages read the same patches? Each is installed into an environment of its own.

Environments that are there are used as they are (`bench.py --environments FOLDER`). Tried with hs2p 6.1.0 and
tiatoolbox 2.1.3. Of hs2p, two readers: one decodes TIFF segments itself; one goes through OpenSlide, which it takes by
default where neither cuCIM (whose package needs those of CUDA) nor libvips (no Python package) is installed. tiatoolbox
asks for a torch below 2.13, whose package on PyPI brings CUDA: 3 GB to fetch and more than 6 GB installed. Its reader
only imports torch, so an environment of its wheel, of what the reader imports and of a torch for processors, each by
`pip install --no-deps`, can stand in where that is too much.
"""

from __future__ import annotations

import hashlib
import statistics
import subprocess
import sys
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from inputs import TILE_PX, Inputs
from measure import REPEATS, Row, cpu_seconds
from reading import bands, ours, patches

from pathopatch.slides import open_slide

_INSTALL_S = 1800
_SAID = "bench: "  # begins the lines that are for us: imports may print others


@dataclass(frozen=True)
class Peer:
    """Another package's reader.

    Parameters
    ----------
    name : str
        In the row.
    environment : str
        Folder of its environment.
    packages : tuple of str
        What pip installs into it.
    opener : str
        Code that makes ``read(x, y)`` of ``path`` and ``side``.
    goal : float
        How many times as fast we should be.
    """

    name: str
    environment: str
    packages: tuple[str, ...]
    opener: str
    goal: float


_HS2P = """
from hs2p.wsi.reader import open_slide
slide = open_slide(path, backend="{backend}")
read = lambda x, y: slide.read_region((x, y), 0, (side, side))
"""
_TIATOOLBOX = """
from tiatoolbox.wsicore.wsireader import WSIReader
slide = WSIReader.open(path)
read = lambda x, y: slide.read_rect((x, y), (side, side), resolution=0, units="level")
"""
PEERS = (
    Peer("hs2p's tifffile reader", "hs2p", ("hs2p[openslide,tifffile]",), _HS2P.format(backend="tifffile"), 0.95),
    Peer("hs2p's OpenSlide reader", "hs2p", ("hs2p[openslide,tifffile]",), _HS2P.format(backend="openslide"), 0.95),
    Peer("tiatoolbox's reader", "tiatoolbox", ("tiatoolbox", "openslide-bin"), _TIATOOLBOX, 5.0),
)
_LOOP = """
import hashlib, sys, time
import numpy as np
path, side, width, height = sys.argv[1], *map(int, sys.argv[2:])
{opener}
places = [(x, y) for y in range(0, height - side + 1, side) for x in range(0, width - side + 1, side)]
digest = hashlib.sha256()
for x, y in places:
    digest.update(np.ascontiguousarray(np.asarray(read(x, y))[..., :3].transpose(2, 0, 1)).tobytes())
print("{said}" + digest.hexdigest(), flush=True)
for _ in sys.stdin:
    start = time.process_time()
    for x, y in places:
        np.asarray(read(x, y))
    print("{said}" + str(time.process_time() - start), flush=True)
"""


class PeerError(Exception):
    """A peer cannot be installed, does not run, or gives other pixels."""


def rows(inputs: Inputs, environments: Path | None = None) -> Iterator[Row]:
    """A row for each reader that installs here and gives the same pixels; a word about each other one."""
    path = inputs.rgb_jpeg()
    for peer in PEERS:
        try:
            found = _speedup(peer, path, environments or inputs.folder)
        except (PeerError, subprocess.SubprocessError, OSError) as error:
            print(f"left out: {peer.name}: {error}", file=sys.stderr)  # noqa: T201
            continue
        yield Row(f"RGB JPEG, made TIFF, on the tiles, by {peer.name}", found, peer.goal)


def _python(peer: Peer, folder: Path) -> Path:
    """The interpreter of a peer's environment, which is made if it is not there."""
    python = folder / peer.environment / "bin" / "python"
    if not python.exists():
        venv.create(folder / peer.environment, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *peer.packages], check=True, timeout=_INSTALL_S)
    return python


def _speedup(peer: Peer, path: Path, folder: Path) -> float:
    """How many times as fast we are: the median of repeats that alternate with theirs.

    Our slide is opened anew for each repeat, so that nothing decoded is left; theirs stays open.
    """
    size, cut = open_slide(path).size, {"side": TILE_PX, "stride": TILE_PX}
    own = hashlib.sha256()
    with open_slide(path, background="bright") as slide:
        for patch in patches(ours(slide), size, **cut):
            own.update(patch.tobytes())
    script = _LOOP.format(opener=peer.opener, said=_SAID)
    command = [_python(peer, folder), "-c", script, *map(str, (path, TILE_PX, *size))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        if _answer(process.stdout) != own.hexdigest():
            process.kill()
            raise PeerError("it gives other pixels")
        ratios = []
        for _ in range(REPEATS):
            with open_slide(path, background="bright") as slide:
                work = bands(ours(slide), size, **cut)
                mine = cpu_seconds(lambda work=work: [band() for band in work])
            print("again", file=process.stdin, flush=True)  # noqa: T201
            ratios.append(float(_answer(process.stdout)) / mine)
        process.stdin.close()
    return statistics.median(ratios)


def _answer(stream: IO[str]) -> str:
    """What a peer's process says next."""
    for line in stream:
        if line.startswith(_SAID):
            return line.removeprefix(_SAID).strip()
    raise PeerError("its process ended, see above")

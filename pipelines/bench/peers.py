"""Compare the reading of patches with other packages.

Of hs2p, two readers: one decodes TIFF segments itself; one goes through OpenSlide, which it takes by default where
neither cuCIM (whose package needs those of CUDA) nor libvips (no Python package) is installed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from environments import HS2P, TIATOOLBOX, Peer, PeerError, at_work, measured, speedup
from inputs import TILE_PX, Inputs
from measure import Row, cpu_seconds
from reading import bands, ours, patches

from pathopatch.slides import open_slide

_OPENED_BY_HS2P = """
from hs2p.wsi.reader import open_slide
slide = open_slide(path, backend="{backend}")
read = lambda x, y: slide.read_region((x, y), 0, (side, side))
"""
_OPENED_BY_TIATOOLBOX = """
from tiatoolbox.wsicore.wsireader import WSIReader
slide = WSIReader.open(path)
read = lambda x, y: slide.read_rect((x, y), (side, side), resolution=0, units="level")
"""
_CODE = """
import hashlib
import numpy as np
path, side, width, height = sys.argv[1], *map(int, sys.argv[2:])
{opened}
places = [(x, y) for y in range(0, height - side + 1, side) for x in range(0, width - side + 1, side)]
digest = hashlib.sha256()
for x, y in places:
    digest.update(np.ascontiguousarray(np.asarray(read(x, y))[..., :3].transpose(2, 0, 1)).tobytes())
first = digest.hexdigest()
def work():
    for x, y in places:
        np.asarray(read(x, y))
"""
_HS2P, _HS2P_OPENSLIDE, _TIATOOLBOX = (
    _CODE.format(opened=opened)
    for opened in (
        _OPENED_BY_HS2P.format(backend="tifffile"),
        _OPENED_BY_HS2P.format(backend="openslide"),
        _OPENED_BY_TIATOOLBOX,
    )
)
PEERS = (
    Peer("hs2p's tifffile reader", HS2P, _HS2P, 0.95),
    Peer("hs2p's OpenSlide reader", HS2P, _HS2P_OPENSLIDE, 0.95),
    Peer("tiatoolbox's reader", TIATOOLBOX, _TIATOOLBOX, 5.0),
)


def rows(inputs: Inputs, environments: Path | None = None) -> Iterator[Row]:
    """A row for each reader that installs here and gives the same pixels; a word about each other one."""
    path, folder = inputs.rgb_jpeg(), environments or inputs.folder
    return measured(PEERS, lambda peer: _row(peer, path, folder))


def _row(peer: Peer, path: Path, folder: Path) -> Row:
    """Our slide is opened anew for each repeat, so that nothing decoded is left; theirs stays open."""
    size, cut = open_slide(path).size, {"side": TILE_PX, "stride": TILE_PX}
    own = hashlib.sha256()
    with open_slide(path, background="bright") as slide:
        for patch in patches(ours(slide), size, **cut):
            own.update(patch.tobytes())

    def seconds() -> float:
        with open_slide(path, background="bright") as slide:
            work = bands(ours(slide), size, **cut)
            return cpu_seconds(lambda: [band() for band in work])

    with at_work(peer, folder, path, TILE_PX, *size) as process:
        if process.first != own.hexdigest():
            raise PeerError("it gives other pixels")
        return Row(f"RGB JPEG, made TIFF, on the tiles, by {peer.name}", speedup(process, seconds), peer.goal)

"""Bytes that look like a TIFF: whatever they are, opening and reading ends in pixels or in an error with a code.

``python pipelines/soak/fuzz_tiff.py SECONDS [FOLDER]`` mutates made files under libFuzzer's guidance (atheris).
Anything that is not an error of ours, takes longer than 5 s, or needs some 3 GiB more ends it; the input is kept in
FOLDER.
"""

from __future__ import annotations

import resource
import sys
import tempfile
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "tests" / "helpers"))  # for `import made_slides`

import atheris

with atheris.instrument_imports(include=["pathopatch.slides", "tifffile"]):
    import tifffile

    from pathopatch.slides import open_slide

import made_slides as made
import numpy as np

from pathopatch.core.errors import PathopatchError

MOST_BYTES = 2**20  # of an input
_LIMIT_BYTES = 3 * 2**30  # of the whole process, libraries included


def write_seeds(folder: Path) -> None:
    """Made files of every kind that the TIFF reader tells apart, as small as they can be."""
    image = made.disc_image(48, 40, (20, 20), 12, tissue=(180, 90, 150), glass=(245, 245, 245))
    grey = np.ascontiguousarray(image[0]).astype(np.uint16)
    made.write_aperio(folder / "aperio.tif", image, levels=2, tile_px=16)
    for compression in ("deflate", "zstd", "lzw", "jpeg", None):
        made.write_rgb_pyramid(folder / f"rgb-{compression}.tif", image, levels=2, tile_px=16, compression=compression)
    made.write_channel(folder / "strips.tif", grey)
    made.write_channel(folder / "tiles.tif", grey, tile_px=16, compression="deflate", predictor=True)
    made.write_channel(folder / "big-endian.tif", grey, tile_px=16, byteorder=">")
    made.write_scn(folder / "scn.tif", image, (5, 5), (60, 60))
    made.write_giant(folder / "giant.tif")
    tifffile.imwrite(folder / "stack.tif", np.stack([grey, grey]), ome=True, tile=(16, 16), bigtiff=True)
    for path in folder.glob("*.tif"):
        assert path.stat().st_size < MOST_BYTES


def read_all(path: Path) -> str:
    """Open a file as the command line does and read some of it; return the error's code, or nothing."""
    try:
        with open_slide(path, mpp=0.5) as slide:
            width, height = slide.size
            for x, y in ((0, 0), (width - 8, height - 8), (width // 2, height // 2)):
                pixels = slide.read_region(x, y, 16, 16)
                assert pixels.shape == (len(slide.channels), 16, 16)
            slide.read_overview(64)
    except PathopatchError as error:
        return error.code
    return ""


def main() -> None:
    """Fuzz for so many seconds."""
    seconds = int(sys.argv[1])
    artifact_folder = Path(sys.argv[2] if len(sys.argv) > 2 else tempfile.mkdtemp(prefix="pathopatch-fuzz-"))
    artifact_folder.mkdir(parents=True, exist_ok=True)
    shared = Path("/dev/shm")
    place = Path(tempfile.mkdtemp(prefix="pathopatch-fuzz-", dir=shared if shared.is_dir() else None))
    seeds, path = place / "seeds", place / "input.tif"
    seeds.mkdir()
    write_seeds(seeds)
    for seed in sorted(seeds.iterdir()):
        read_all(seed)  # what is imported at the first reading is not the input's
    resource.setrlimit(resource.RLIMIT_AS, (_LIMIT_BYTES + _resident_bytes(), resource.RLIM_INFINITY))

    def one(data: bytes) -> None:
        path.write_bytes(data)
        read_all(path)

    options = [
        f"-max_total_time={seconds}", "-timeout=5", "-rss_limit_mb=3072", f"-max_len={MOST_BYTES}", "-seed=1",
        "-print_final_stats=1", f"-artifact_prefix={artifact_folder}/", str(seeds),
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], *options], one)
    atheris.Fuzz()


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    main()

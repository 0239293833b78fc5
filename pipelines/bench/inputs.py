"""Input files of the benchmarks: synthetic ones, and real ones where PATHOPATCH_REAL_DATA names their folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import cv2
import numpy as np
import tifffile

sys.path.append(str(Path(__file__).parents[2] / "tests" / "helpers"))
import made_slides  # noqa: E402 - found through the line above

MODALITIES = ("CARS", "TPEF", "SHG")
TILE_PX = 256
_COARSEST_PX = 1024
_LARGEST_TEXTURE_PX = 8192
_NOISE = 4.0  # standard deviation of a camera's noise, grey levels


class Inputs:
    """Files of one size in a temporary folder, each made when first asked for.

    Parameters
    ----------
    folder : Path
        Where they are made.
    side : int
        Width and height, px.
    """

    def __init__(self, folder: Path, side: int) -> None:
        self.folder, self.side = folder, side
        real = os.environ.get("PATHOPATCH_REAL_DATA")
        self.real = Path(real) if real else None

    def texture(self, side: int | None = None, seed: int = 0) -> np.ndarray:
        """(3, side, side) uint8: glass with round patches of stained tissue, nuclei in them, a camera's noise."""
        side = side or self.side
        rng = np.random.default_rng(seed)
        coarse = cv2.resize(rng.random((side // 128 + 2, side // 128 + 2), np.float32), (side, side), interpolation=2)
        nuclei = cv2.GaussianBlur(rng.random((side, side), np.float32), (0, 0), 3)
        nuclei = (nuclei > np.quantile(nuclei[::8, ::8], 0.85)).astype(np.float32)
        tissue = coarse > 0.4
        planes = []
        for glass, stroma, nucleus in ((242, 214, 110), (240, 150, 70), (243, 190, 140)):
            plane = np.where(tissue, stroma + (nucleus - stroma) * nuclei, glass)
            plane = cv2.GaussianBlur(plane.astype(np.float32), (0, 0), 1) + rng.normal(0, _NOISE, plane.shape)
            planes.append(np.clip(np.rint(plane), 0, 255).astype(np.uint8))
        return np.stack(planes)

    def rgb_jpeg(self, side: int | None = None) -> Path:
        """A tiled TIFF of quality 80, chroma halved both ways, as scanners write it."""
        side = side or self.side
        path = self.folder / f"rgb-{side}.tif"
        if not path.exists():
            self.write_rgb_jpeg(path, side)
        return path

    def write_rgb_jpeg(self, path: Path, side: int, seed: int = 0) -> None:
        """Write `rgb_jpeg` of a seed, 0.5 um/px; a large one repeats the same texture."""
        part = min(side, _LARGEST_TEXTURE_PX)
        texture = self.texture(part, seed)
        tifffile.imwrite(
            path,
            np.ascontiguousarray(np.tile(texture, (1, side // part, side // part)).transpose(1, 2, 0)),
            photometric="rgb",
            tile=(TILE_PX, TILE_PX),
            compression="jpeg",
            compressionargs={"level": 80},
            subsampling=(2, 2),
            resolution=(20000, 20000),
            resolutionunit="CENTIMETER",
            metadata=None,
        )

    def rgb_pyramid(self, side: int) -> Path:
        """The same with the levels of a scanner: 2 x 2 means, down to one of about a thousand pixels a side."""
        path = self.folder / f"pyramid-{side}.tif"
        if not path.exists():
            pixels = np.ascontiguousarray(self.texture(side).transpose(1, 2, 0))
            with tifffile.TiffWriter(path) as writer:
                while True:
                    writer.write(
                        pixels,
                        photometric="rgb",
                        tile=(TILE_PX, TILE_PX),
                        compression="jpeg",
                        compressionargs={"level": 80},
                        subsampling=(2, 2),
                        subfiletype=int(len(pixels) < side),
                        metadata=None,
                    )
                    if len(pixels) <= _COARSEST_PX:
                        break
                    half = len(pixels) // 2
                    pixels = cv2.resize(pixels, (half, half), interpolation=cv2.INTER_AREA)
        return path

    def modalities(self, compression: str) -> dict[str, Path]:
        """Three single-channel uint16 TIFFs: bright tissue on a dark background, 12 bits."""
        paths = {name: self.folder / f"{name}-{compression}-{self.side}.tif" for name in MODALITIES}
        if not all(path.exists() for path in paths.values()):
            rng = np.random.default_rng(1)
            for path, plane in zip(paths.values(), self.texture(), strict=True):
                signal = (255 - plane.astype(np.uint16)) * 16 + rng.integers(0, 16, plane.shape, dtype=np.uint16)
                made_slides.write_channel(path, signal, tile_px=TILE_PX, compression=compression)
        return paths

    def only_openslide(self) -> tuple[str, Path]:
        """A slide of a format that is left to OpenSlide, and what it is: a real NDPI, or a made SCN."""
        if self.real is not None:
            return "pair-dapi.ndpi", self.real / "wsi" / "pair-dapi.ndpi"
        path = self.folder / "made.scn"
        if not path.exists():
            # OpenSlide takes an image that fills its collection for the macro image.
            size = (self.side + TILE_PX, self.side + TILE_PX)
            made_slides.write_scn(path, self.texture(), (0, 0), size, tile_px=TILE_PX, levels=1)
        return "made SCN", path

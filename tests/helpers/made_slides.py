"""Slides made on the spot, whose every pixel is known: plain functions that any test may call."""

from __future__ import annotations

import base64
import os
import struct
from collections.abc import Sequence
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile

_SCN = "http://www.leica-microsystems.com/scn/2010/10/01"


def disc_image(
    width: int,
    height: int,
    centre: tuple[float, float],
    radius: float,
    *,
    tissue: Sequence[float],
    glass: Sequence[float],
    dtype: type[np.generic] = np.uint8,
) -> np.ndarray:
    """(C, height, width): one disc of tissue on glass; a pixel is tissue if its middle lies in the disc."""
    y, x = np.mgrid[:height, :width] + 0.5
    inside = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 <= radius**2
    planes = [np.where(inside, value, empty) for value, empty in zip(tissue, glass, strict=True)]
    return np.stack(planes).astype(dtype)


def noise(channels: int, height: int, width: int, dtype: type[np.generic], seed: int = 0) -> np.ndarray:
    """(channels, height, width) random pixels over most of the type's range."""
    generator = np.random.default_rng(seed)
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        low = 0 if limits.min == 0 else max(limits.min, -1000)
        return generator.integers(low, min(limits.max, 5000), (channels, height, width)).astype(dtype)
    return generator.normal(100, 30, (channels, height, width)).astype(dtype)


def halved(image: np.ndarray) -> np.ndarray:
    """Means of 2 x 2 blocks, the odd last row and column dropped."""
    channels, height, width = image.shape
    even = image[:, : height // 2 * 2, : width // 2 * 2].astype(np.float64)
    blocks = even.reshape(channels, height // 2, 2, width // 2, 2).mean(axis=(2, 4))
    return (np.rint(blocks) if np.issubdtype(image.dtype, np.integer) else blocks).astype(image.dtype)


def pyramid_of(image: np.ndarray, levels: int) -> list[np.ndarray]:
    """The image and its halvings."""
    pyramid = [image]
    while len(pyramid) < levels:
        pyramid.append(halved(pyramid[-1]))
    return pyramid


def write_rgb_pyramid(
    path: Path,
    image: np.ndarray,
    *,
    mpp: float | None = 0.5,
    levels: int = 3,
    tile_px: int = 64,
    compression: str | None = "deflate",
    description: str | None = None,
) -> list[np.ndarray]:
    """A tiled pyramid with resolution tags in cm that OpenSlide opens; returns its levels (3, h, w)."""
    pyramid = pyramid_of(image, levels)
    with tifffile.TiffWriter(path) as writer:
        for level, pixels in enumerate(pyramid):
            per_cm = None if mpp is None else (1e4 / mpp / 2**level,) * 2
            writer.write(
                np.ascontiguousarray(pixels.transpose(1, 2, 0)),
                photometric="rgb",
                tile=(tile_px, tile_px),
                compression=compression,
                resolution=per_cm,
                resolutionunit="NONE" if mpp is None else "CENTIMETER",
                subfiletype=int(level > 0),
                description=description if level == 0 else None,
                metadata=None,
            )
    return pyramid


def write_aperio(
    path: Path,
    image: np.ndarray,
    *,
    mpp: float = 0.5,
    levels: int = 3,
    tile_px: int = 64,
    compression: str = "deflate",
    marker: str = "PATIENT-MARKER",
    **options: object,
) -> list[np.ndarray]:
    """An Aperio SVS: the pyramid, and between and after its levels a thumbnail, a label and a macro image.

    Those three are all red and must never be seen, nor may the marker in the description. Returns the levels.
    """
    pyramid = pyramid_of(image, levels)
    red = np.zeros((image.shape[1] // 4, image.shape[2] // 4, 3), np.uint8)
    red[..., 0] = 255
    title = "Aperio Image Library v11.2.1\r\n"
    with tifffile.TiffWriter(path) as writer:

        def write(pixels: np.ndarray, description: str, *, subfiletype: int = 0, **options: object) -> None:
            writer.write(pixels, photometric="rgb", description=description, subfiletype=subfiletype,
                         metadata=None, **options)  # fmt: skip

        for level, pixels in enumerate(pyramid):
            description = f"{title}{image.shape[2]}x{image.shape[1]}|AppMag = 20|MPP = {mpp}|User = {marker}"
            write(np.ascontiguousarray(pixels.transpose(1, 2, 0)), description, tile=(tile_px, tile_px),
                  compression=compression, **options)  # fmt: skip
            if level == 0:
                write(red, title + "thumbnail")
        write(red[:20, :30], f"{title}label 30x20", subfiletype=1)
        write(red[:20], f"{title}macro {red.shape[1]}x20", subfiletype=9)
    return pyramid


def write_channel(
    path: Path,
    plane: np.ndarray,
    *,
    mpp: float | tuple[float, float] | None = 0.5,
    tile_px: int | None = None,
    compression: str | None = None,
    rows_per_strip: int | None = None,
    predictor: bool = False,
    byteorder: str = "<",
) -> None:
    """A TIFF with one channel (h, w) of any type."""
    across, down = mpp if isinstance(mpp, tuple) else (mpp, mpp)
    tifffile.imwrite(
        path,
        plane,
        photometric="minisblack",
        tile=None if tile_px is None else (tile_px, tile_px),
        compression=compression,
        rowsperstrip=rows_per_strip,
        predictor=predictor,
        byteorder=byteorder,
        resolution=None if across is None else (1e4 / across, 1e4 / down),
        resolutionunit="NONE" if across is None else "CENTIMETER",
        metadata=None,
    )


def write_czi(
    path: Path,
    tiles: dict[tuple[int, int], np.ndarray],
    *,
    names: Sequence[str] = (),
    mpp: float = 0.5,
    z: int = 1,
    t: int = 1,
) -> None:
    """A CZI file of tiles (C, h, w) by left and top edge; three uint8 or uint16 channels without names are colour.

    Position i on Z and j on T hold the pixels plus i + 10 j.
    """
    from pylibCZIrw import czi

    with czi.create_czi(str(path)) as writer:
        for location, tile in tiles.items():
            for i, j in np.ndindex(z, t):
                values = tile + np.array(i + 10 * j, tile.dtype)
                if not names and len(tile) == 3:
                    mixed = np.ascontiguousarray(values[::-1].transpose(1, 2, 0))  # blue first
                    writer.write(mixed, location=location, plane={"C": 0, "Z": i, "T": j})
                    continue
                for number, plane in enumerate(values):
                    writer.write(plane[..., None], location=location, plane={"C": number, "Z": i, "T": j})
        writer.write_metadata("a", channel_names=dict(enumerate(names)), scale_x=mpp * 1e-6, scale_y=mpp * 1e-6)


def write_png(path: Path, image: np.ndarray) -> None:
    """A PNG of an image (C, h, w): grey, grey and alpha, RGB, or RGB and alpha."""
    path.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(np.squeeze(image.transpose(1, 2, 0)))))


def write_modalities(
    folder: Path, image: np.ndarray, names: Sequence[str] = ("CARS", "TPEF", "SHG"), *, mpp: float = 0.5
) -> dict[str, Path]:
    """One TIFF per channel of an image (C, h, w); returns the paths by channel."""
    paths = {name: folder / f"{name.lower()}.tif" for name in names}
    for path, plane in zip(paths.values(), image, strict=True):
        write_channel(path, plane, mpp=mpp, tile_px=64, compression="zstd")
    return paths


def write_scn(
    path: Path,
    image: np.ndarray,
    offset: tuple[int, int],
    collection: tuple[int, int],
    *,
    mpp: float = 0.5,
    levels: int = 2,
    tile_px: int = 64,
    barcode: str = "PATIENT-MARKER",
) -> list[np.ndarray]:
    """A Leica SCN file whose image stands at an offset (level-0 px) inside a larger collection, so it has bounds.

    Returns the levels of the image (3, h, w). A macro image that is all red and a barcode must not be seen.
    """
    pyramid = pyramid_of(image, levels)
    nm = round(mpp * 1000)  # SCN counts in nanometres
    macro = np.zeros((32, 32, 3), np.uint8)
    macro[..., 0] = 255
    dimensions = "".join(
        f'<dimension sizeX="{p.shape[2]}" sizeY="{p.shape[1]}" r="{i}" ifd="{i + 1}"/>' for i, p in enumerate(pyramid)
    )
    across, down = (n * nm for n in collection)
    xml = (
        f'<?xml version="1.0"?><scn xmlns="{_SCN}"><collection name="c" sizeX="{across}" sizeY="{down}">'
        f"<barcode>{base64.b64encode(barcode.encode()).decode()}</barcode>"
        '<image name="macro"><pixels sizeX="32" sizeY="32"><dimension sizeX="32" sizeY="32" r="0" ifd="0"/></pixels>'
        f'<view sizeX="{across}" sizeY="{down}" offsetX="0" offsetY="0"/>{_scan_settings("0.6")}</image>'
        f'<image name="main"><pixels sizeX="{image.shape[2]}" sizeY="{image.shape[1]}">{dimensions}</pixels>'
        f'<view sizeX="{image.shape[2] * nm}" sizeY="{image.shape[1] * nm}" '
        f'offsetX="{offset[0] * nm}" offsetY="{offset[1] * nm}"/>{_scan_settings("20")}</image>'
        "</collection></scn>"
    )
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        common = {"photometric": "rgb", "compression": "deflate", "metadata": None, "resolutionunit": "CENTIMETER"}
        writer.write(macro, tile=(32, 32), description=xml, resolution=(100, 100), **common)
        for level, pixels in enumerate(pyramid):
            writer.write(
                np.ascontiguousarray(pixels.transpose(1, 2, 0)),
                tile=(tile_px, tile_px),
                resolution=(1e4 / mpp / 2**level,) * 2,
                **common,
            )
    return pyramid


def _scan_settings(objective: str) -> str:
    return (
        "<creationDate>2020-01-01T00:00:00Z</creationDate><scanSettings><objectiveSettings>"
        f"<objective>{objective}</objective></objectiveSettings><illuminationSettings>"
        "<numericalAperture>0.4</numericalAperture><illuminationSource>brightfield</illuminationSource>"
        "</illuminationSettings></scanSettings>"
    )


def write_truncated(path: Path, percent: float, copy: Path) -> Path:
    """A copy of a file that ends early."""
    content = path.read_bytes()
    copy.write_bytes(content[: int(len(content) * percent / 100)])
    return copy


def write_giant(path: Path, side: int = 10**6) -> Path:
    """A TIFF of few bytes that claims side x side pixels."""
    write_channel(path, np.zeros((16, 16), np.uint8), compression="deflate")
    patch_tag(path, 256, side)
    patch_tag(path, 257, side)
    return path


def patch_tag(path: Path, code: int, value: int, *, page: int = 0) -> None:
    """Overwrite a number of a page's directory (stored in place) in a little-endian classic TIFF."""
    with tifffile.TiffFile(path) as tiff:
        tag = tiff.pages[page].tags[code]
        position, kind = tag.valueoffset, int(tag.dtype)
    with path.open("r+b") as stream:
        stream.seek(position)
        stream.write(struct.pack({3: "<H", 4: "<I"}[kind], value))


def patch_rational(path: Path, code: int, numerator: int, denominator: int) -> None:
    """Overwrite a resolution tag."""
    with tifffile.TiffFile(path) as tiff:
        position = tiff.pages[0].tags[code].valueoffset
    with path.open("r+b") as stream:
        stream.seek(position)
        stream.write(struct.pack("<II", numerator, denominator))


def spoil_tile(path: Path, index: int, *, page: int = 0) -> None:
    """Overwrite one encoded tile with zero bytes."""
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages[page].dataoffsets[index]
        count = tiff.pages[page].databytecounts[index]
    with path.open("r+b") as stream:
        stream.seek(offset, os.SEEK_SET)
        stream.write(bytes(count))

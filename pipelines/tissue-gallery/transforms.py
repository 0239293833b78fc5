"""Change brightfield images to those of other microscopes: exposure, gamma, tint, light, bits, planes."""

from __future__ import annotations

import colorsys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import tifffile

Image = np.ndarray
"""(3, H, W), uint8 unless stated otherwise."""

EXPOSURES = (0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7, 0.8, 0.9)
GAMMAS = (0.6, 0.8, 1.2, 1.4, 1.6)
HUES, SATURATIONS = (0, 60, 120, 180, 240, 300), (0.1, 0.25)


def exposure(image: Image, factor: float) -> Image:
    """Multiply all pixels."""
    return _uint8(image * float(factor))


def gamma(image: Image, exponent: float) -> Image:
    """Raise the pixels, as a fraction of full scale, to a power."""
    return _uint8(255 * (image / 255) ** exponent)


def tint(image: Image, hue: float, saturation: float) -> Image:
    """Multiply by a colour with a hue in degrees and a largest channel of 1."""
    return _uint8(image * np.array(colorsys.hsv_to_rgb(hue / 360, saturation, 1.0))[:, None, None])


def uneven(image: Image, kind: str, amount: float = 0.25) -> Image:
    """Multiply by light that differs from its mean by ``amount`` to either side; its largest value is 1."""
    height, width = image.shape[1:]
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    shape = {"across": x, "down": y, "radial": 1 - (x * x + y * y)}[kind]
    return _uint8(image * (1 + amount * shape) / (1 + amount))


def turned(image: Image, degrees: float = 5.0, fill: int = 0) -> Image:
    """Rotate an image without cropping and fill the corners."""
    height, width = image.shape[1:]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1)
    cos, sin = abs(turn[0, 0]), abs(turn[0, 1])
    size = int(width * cos + height * sin), int(width * sin + height * cos)
    turn[:, 2] += (size[0] - width) / 2, (size[1] - height) / 2
    return np.stack([cv2.warpAffine(plane, turn, size, borderValue=fill) for plane in image])


def transforms(image: Image) -> Iterator[tuple[str, str, Image]]:
    """Yield (family, name, image) of all transforms; "three planes" has the same pixels, see `write`."""
    for factor in EXPOSURES:
        yield "exposure", f"{factor:g}", exposure(image, factor)
    for exponent in GAMMAS:
        yield "gamma", f"{exponent:g}", gamma(image, exponent)
    for hue in HUES:
        for saturation in SATURATIONS:
            yield "tint", f"{hue} deg, {saturation:g}", tint(image, hue, saturation)
    for kind in ("across", "down", "radial"):
        yield "vignette", kind, uneven(image, kind)
    for degrees in (5, -5):
        yield "rotated on black", f"{degrees} deg", turned(image, degrees)
    yield "rotated on black", "5 deg, exposure 0.5", turned(exposure(image, 0.5))
    yield "uint16", "of 16 bits", image.astype(np.uint16) * 257
    yield "uint16", "of 12 bits", image.astype(np.uint16) * 16
    yield "three planes", "uint8", image
    yield "three planes", "uint16", image.astype(np.uint16) * 257
    yield "three planes", "rotated on black", turned(image)


def write(path: Path, image: Image, *, as_planes: bool = False) -> Path:
    """Write an image as TIFF: RGB, or an OME-TIFF with one plane per channel."""
    if as_planes:
        path = path.with_suffix(".ome.tif")
        tifffile.imwrite(path, image, photometric="minisblack", metadata={"axes": "CYX"})
    else:
        pixels = np.ascontiguousarray(image.transpose(1, 2, 0))
        tifffile.imwrite(path, pixels, photometric="rgb", metadata=None)
    return path


def _uint8(values: Image) -> Image:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)

"""Read slides in plain pictures: JPEG and PNG files, one level, decoded as a whole."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Unpack

import numpy as np
from numpy.typing import NDArray

from pathopatch.slides.integrity import unsupported
from pathopatch.slides.mask_image import Raster, raster
from pathopatch.slides.resample import Pixels, opacity_of
from pathopatch.slides.resolution import ALPHA_NOTE, RGB, Level, Resolution, SlideFacts
from pathopatch.slides.slide import Slide, SlideOptions
from pathopatch.slides.slide_file import plane_slice

SUFFIXES = (".png", ".jpg", ".jpeg")
"""Endings of the files that are read here."""

_SAMPLES = {"png": (1, 2, 3, 4), "jpeg": (1, 3)}  # grey, grey and alpha, RGB, RGB and alpha


class JpegPngSlide(Slide):
    """A slide in a JPEG or PNG file, shown as viewers show the picture; alpha is opacity."""

    def __init__(self, path: Path, *, plane: int | None = None, **options: Unpack[SlideOptions]) -> None:
        self._raster = raster(path)
        self._decoded: tuple[Pixels, NDArray[np.uint8] | None] | None = None
        self._pid = -1
        _require_readable(self._raster)
        names: tuple[str, ...] = ("C0",) if self._raster.samples < len(RGB) else RGB
        self._count = len(names)
        self._planes = plane_slice(path, names, plane)
        facts = SlideFacts(
            channels=names[self._planes],
            dtype=np.dtype(f"uint{self._raster.bits}"),
            levels=(Level(self._raster.width, self._raster.height, 1.0),),
            # The dots per inch of a picture are those of a screen or printer.
            resolution=Resolution(None, f"a {self._raster.kind.upper()} file does not state it"),
            paths=(path,),
            notes=(ALPHA_NOTE,) if self._raster.samples > len(names) else (),
        )
        super().__init__(facts, {"path": path, "plane": plane}, **options)

    def _read_level(
        self, left: int, top: int, width: int, height: int, level: int
    ) -> tuple[Pixels, NDArray[np.uint8] | None]:
        if self._decoded is None or self._pid != os.getpid():
            self._decoded, self._pid = self._decode(), os.getpid()
        place = slice(top, top + height), slice(left, left + width)
        pixels, opacity = self._decoded
        return pixels[(self._planes, *place)].copy(order="K"), None if opacity is None else opacity[place]

    def _decode(self) -> tuple[Pixels, NDArray[np.uint8] | None]:
        """Return the whole picture, (C, H, W), and its opacity (H, W); None if all is opaque."""
        values = self._raster.pixels()
        pixels = values[None] if values.ndim == 2 else values.transpose(2, 0, 1)
        if len(pixels) == self._count:
            return pixels, None
        opacity = opacity_of(pixels[self._count])
        return pixels[: self._count], None if opacity.min() == 255 else opacity

    def close(self) -> None:
        """Let go of the files; a later read opens them again."""
        self._decoded = None


def _require_readable(header: Raster) -> None:
    """Refuse samples that are no intensities of grey, or of red, green and blue."""
    if header.is_palette:
        what = "a table of colours"
    elif header.bits not in (8, 16):
        what = f"samples of {header.bits} bits"
    elif header.samples not in _SAMPLES[header.kind]:
        what = f"{header.samples} samples a pixel (CMYK)"
    else:
        return
    remedy = 'save it as grey or RGB of 8 or 16 bits: in Fiji, "Image > Type > RGB Color"'
    raise unsupported(header.path, what, remedy)

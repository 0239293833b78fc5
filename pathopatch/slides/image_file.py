"""Read images that are decoded as a whole: masks, ready patches, and slides in JPEG or PNG files.

The header is read first, so that no file can claim more memory than is allowed.
"""

from __future__ import annotations

import io
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, Unpack

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from pathopatch.core.errors import InputMissingError, PathopatchError
from pathopatch.core.input_files import require_regular
from pathopatch.slides.integrity import DECODING_ERRORS, OpenedFile, checked_tiff, corrupt, too_large, unsupported
from pathopatch.slides.resample import ORIENTATION_TAG, PixelsAndOpacity, opacity_of, orientation_of, upright
from pathopatch.slides.resolution import ALPHA_NOTE, RGB, Level, Resolution, SlideFacts, icc_name
from pathopatch.slides.slide import Slide
from pathopatch.slides.slide_file import SlideOptions, plane_slice
from pathopatch.slides.slide_paths import WHOLE_FILE, Fragment

Kind = Literal["png", "jpeg", "tiff"]
SUFFIXES: dict[str, Kind] = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".tif": "tiff", ".tiff": "tiff"}
MAX_PIXELS = 2**28  # 16,384 x 16,384: a quarter of a gigabyte a channel
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_PNG_PALETTE = 3
_PNG_CHUNKS = (b"IHDR", b"eXIf", b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"IEND")  # of which Pillow reads some
_SAMPLES = {"png": (1, 2, 3, 4), "jpeg": (1, 3)}  # grey, grey and alpha, RGB, RGB and alpha


@dataclass(frozen=True)
class Raster:
    """An image file whose header was checked; its pixels are not yet decoded."""

    path: Path
    kind: Kind  # by the name of the file
    width: int  # px as the header claims and the image is shown
    height: int
    samples: int  # values a pixel, alpha among them
    bits: int  # of each value
    is_palette: bool = False  # values are indices into a table of colours
    is_inverted: bool = False  # value 0 is white (a TIFF's photometric interpretation)
    piece_pixels: int = 0  # of a TIFF's tile or strip, which are decoded at once; 0 for other formats
    orientation: int = 1  # see `pathopatch.slides.resample.upright`
    icc: str = ""  # see `SlideFacts`

    def pixels(self) -> NDArray[np.generic]:
        """Return the pixels as shown, (H, W) or (H, W, channels); of a TIFF pyramid or stack the first page.

        InputCorruptError says that they cannot be decoded in full.
        """
        stored = self._stored()
        if self.orientation == 1:
            return stored
        planes = stored[None] if stored.ndim == 2 else np.moveaxis(stored, -1, 0)
        shown = np.moveaxis(upright(planes, self.orientation), 0, -1)
        return np.ascontiguousarray(shown[..., 0] if stored.ndim == 2 else shown)

    def _stored(self) -> NDArray[np.generic]:
        """Return the pixels as stored in the file."""
        try:
            if self.kind == "tiff":
                with checked_tiff(self.path) as file:
                    values, axes = np.asarray(file.pages[0].asarray()), file.pages[0].axes
                    # The planes of a TIFF may follow one another.
                    return np.moveaxis(values, 0, -1) if axes == "SYX" else values
            content = self.path.read_bytes()
            if self.kind == "png":
                return np.asarray(imagecodecs.png_decode(content))
            # The decoder fills what is missing with grey; the end marker tells whether the file is complete.
            if b"\xff\xd9" not in content[-64:]:
                raise ValueError("the file ends before the image does")
            return np.asarray(imagecodecs.jpeg8_decode(content))
        except PathopatchError:
            raise
        except DECODING_ERRORS as error:
            raise corrupt(self.path, f"the image cannot be read: {error}") from error


def raster(path: Path, *, is_whole: bool = True) -> Raster:
    """Return the header of a PNG, JPEG or TIFF file, checked; no pixel is decoded.

    With `is_whole` it is to be decoded at once. Off: a TIFF may be larger, since it is read piece by piece; its pieces
    may not.

    Raises
    ------
    InputMissingError, InputUnsupportedError, InputCorruptError
        There is no such file; it is of another format; its header cannot be read.
    InputTooLargeError
        It claims more pixels than may be decoded at once.
    """
    kind = SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise unsupported(path, f"an image of the format {path.suffix!r}", "give a PNG, JPEG or TIFF file")
    require_regular(path)
    if not path.is_file():
        raise InputMissingError(f"no image {path.name}", place=str(path), remedy="check the path")
    try:
        header = {"png": _png, "jpeg": _jpeg, "tiff": _tiff}[kind](path)
    except PathopatchError:
        raise
    except DECODING_ERRORS as error:
        raise corrupt(path, f"the image cannot be read: {error}") from error
    claimed_px, file_bytes = header.width * header.height, path.stat().st_size
    if kind == "tiff" and not is_whole:
        claimed_px = header.piece_pixels
    if claimed_px > MAX_PIXELS:
        raise too_large(
            path,
            f"the image claims {header.width} x {header.height} px in a file of {file_bytes} bytes",
            f"at most {MAX_PIXELS} px are read at once: write it as a tiled TIFF, or at a coarser scale",
        )
    return header


def _png(path: Path) -> Raster:
    with path.open("rb") as stream:
        head = stream.read(26)
        if not head.startswith(_PNG) or head[12:16] != b"IHDR":
            raise ValueError("it does not begin as a PNG file does")
        orientation, icc = _png_facts(stream)
    width, height, bits, colour = struct.unpack(">IIBB", head[16:26])
    size = (height, width) if orientation > 4 else (width, height)
    is_palette = colour == _PNG_PALETTE
    return Raster(
        path, "png", *size, _PNG_SAMPLES[colour], bits, is_palette=is_palette, orientation=orientation, icc=icc
    )


def _png_facts(stream: BinaryIO) -> tuple[int, str]:
    """Return a PNG file's orientation, and its ICC profile; programs write EXIF data before or after the pixels."""
    kept = bytearray(_PNG)  # a file without pixels: Pillow would decode them to reach what comes after
    stream.seek(len(_PNG))
    while len(start := stream.read(8)) == 8:
        length, kind = struct.unpack(">I4s", start)
        if kind in _PNG_CHUNKS:
            kept += start + stream.read(length + 4)
        else:
            stream.seek(length + 4, io.SEEK_CUR)
    try:
        image = PngImageFile(io.BytesIO(kept))
        icc = icc_name(image.info.get("icc_profile"))
        return orientation_of(Image.Image.getexif(image).get(ORIENTATION_TAG)), icc
    except DECODING_ERRORS:
        # The picture can be read without these data.
        return 1, ""


def _jpeg(path: Path) -> Raster:
    with path.open("rb") as stream:
        image = JpegImageFile(stream)
        try:
            orientation = orientation_of(image.getexif().get(ORIENTATION_TAG))
        except DECODING_ERRORS:
            # The picture can be read without its EXIF data.
            orientation = 1
        size = image.size[::-1] if orientation > 4 else image.size
        icc = icc_name(image.info.get("icc_profile"))
        return Raster(path, "jpeg", *size, len(image.getbands()), 8, orientation=orientation, icc=icc)


def _tiff(path: Path) -> Raster:
    # Of a pyramid or stack the first page counts.
    with checked_tiff(path) as file:
        page = file.pages[0]
        orientation = orientation_of(page.tags.valueof(ORIENTATION_TAG))
        size = page.imagewidth, page.imagelength
        return Raster(
            path,
            "tiff",
            *(size[::-1] if orientation > 4 else size),
            page.samplesperpixel,
            page.bitspersample,
            is_palette=page.photometric == tifffile.PHOTOMETRIC.PALETTE,
            is_inverted=page.photometric == tifffile.PHOTOMETRIC.MINISWHITE,
            piece_pixels=math.prod(page.chunks),
            orientation=orientation,
        )


class JpegPngSlide(Slide):
    """A slide in a JPEG or PNG file, shown as viewers show the picture; alpha is opacity."""

    def __init__(self, path: Path, *, choice: Fragment = WHOLE_FILE, **options: Unpack[SlideOptions]) -> None:
        opened = OpenedFile.of(path)
        self._raster = raster(path)
        self._decoded: PixelsAndOpacity | None = None
        _require_readable(self._raster)
        names: tuple[str, ...] = ("C0",) if self._raster.samples < len(RGB) else RGB
        self._count = len(names)
        self._planes = plane_slice(path, names, choice.plane)
        facts = SlideFacts(
            channels=names[self._planes],
            dtype=np.dtype(f"uint{self._raster.bits}"),
            levels=(Level(self._raster.width, self._raster.height, 1.0),),
            # The dots per inch of a picture are those of a screen or printer.
            resolution=Resolution(None, f"a {self._raster.kind.upper()} file does not state it"),
            paths=(path,),
            notes=(ALPHA_NOTE,) if self._raster.samples > len(names) else (),
            icc=self._raster.icc,
        )
        super().__init__(facts, {"path": path, "choice": choice}, files=(opened,), **options)

    def _read_level(self, left: int, top: int, width: int, height: int, level: int) -> PixelsAndOpacity:
        if self._decoded is None:
            self._decoded = self._decode()
        place = slice(top, top + height), slice(left, left + width)
        pixels, opacity = self._decoded
        return pixels[(self._planes, *place)].copy(order="K"), None if opacity is None else opacity[place]

    def _decode(self) -> PixelsAndOpacity:
        """Return the whole picture, (C, H, W), and its opacity (H, W); None if all is opaque."""
        values = self._raster.pixels()
        self.require_unchanged()
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

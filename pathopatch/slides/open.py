"""Open a slide by the adapter that reads its format, OpenSlide among them; take its channels by name."""

from __future__ import annotations

import os
import re
import shutil
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack, cast

import cv2
import numpy as np
import openslide

from pathopatch.core.errors import ChannelMismatchError, InputMissingError, InputUnsupportedError
from pathopatch.core.input_files import open_regular, require_regular
from pathopatch.slides.background import Background
from pathopatch.slides.czi import CZI_SIGNATURE, CziSlide
from pathopatch.slides.dicom import level_of_false_colours, linked_apart, series_of, slide_files
from pathopatch.slides.image_file import SUFFIXES, JpegPngSlide
from pathopatch.slides.integrity import TIFF_SIGNATURES, OpenedFile, checked_tiff, corrupt, unsupported
from pathopatch.slides.resample import ORIENTATION_TAG, PixelsAndOpacity, is_same_field, nominal_downsample
from pathopatch.slides.resolution import RGB, Level, Resolution, SlideFacts, icc_name, resolution
from pathopatch.slides.slide import Slide
from pathopatch.slides.slide_file import SlideOptions, plane_slice
from pathopatch.slides.slide_paths import (
    MOST_LIST_BYTES,
    WHOLE_FILE,
    Fragment,
    is_zarr,
    split_fragment,
    with_companions,
)
from pathopatch.slides.stack import ChannelStack
from pathopatch.slides.tiff import TiffSlide
from pathopatch.slides.trial import require_harmless

_CHANNEL = r"\s*[A-Za-z][A-Za-z0-9_.-]*\s*="
# The first and only one: of several OpenSlide takes the last.
_APERIO_MPP = r"(?s)(?!.*MPP.*MPP).*\|\s*MPP\s*=\s*[\d.]+\s*(\||$)"
# By these libjpeg knows RGB in the head of a JPEG: Adobe's marker, and components that are named by their letters.
_JPEG_IN_RGB = rb"(?s)Adobe.{6}\0|\xff[\xc0-\xc2].{7}\x03R..G"
_JPEG_HEAD_BYTES = 2048
# Compression, photometric and "is JFIF" of pages. OpenSlide keeps JPEG 2000 in YCbCr, which it converts itself, and
# JFIF that is said to be RGB, which it believes.
_DECODED_ALIKE = ((7, 2, False), (7, 6, False), (7, 6, True), (33005, 2, False))
_TIFF_SUFFIXES = (".tif", ".tiff", ".svs", ".ndpi", ".scn", ".bif", ".btf", ".tf8", ".qptiff")


def open_slide(
    source: Path | str | Mapping[str, Path | str],
    *,
    mpp: float | None = None,
    channels: tuple[str, ...] | None = None,
    background: Background | None = None,
) -> Slide:
    """Return an open slide.

    Parameters
    ----------
    source : Path, str or mapping of str to Path or str
        A file, an OME-Zarr folder or a folder of one DICOM series, or one per channel name. ``file.tif#page=2`` names
        a page of a stack, ``file.ndpi#plane=2`` a plane of a multi-plane file, ``file.tif#page=2&plane=0`` both,
        ``file.tif#z=3&t=0`` all channels at one position of the axes Z and T; all count from 0.
    mpp : float, optional
        um per level-0 px, in place of what the file says.
    channels : tuple of str, optional
        Names of the planes of a multi-plane file. With a mapping, at most its own names.
    background : {"dark", "bright"}, optional
        In place of the guess from the overview.

    Raises
    ------
    InputMissingError
        There is no such file.
    InputCorruptError
        It is truncated or its structure cannot be read.
    InputTooLargeError
        It claims more pixels than its bytes could hold.
    InputUnsupportedError
        It is of a kind that is not read, or there is no such page or plane.
    MppMissingError
        `mpp` is given and out of range.
    ChannelMismatchError
        The number of names differs from the number of planes, or a file behind a name has several planes.
    ModalityMismatchError
        The files of one slide differ in size, type or mpp.

    Examples
    --------
    >>> from pathopatch.demo import EXAMPLE
    >>> with pathopatch.open_slide({"CARS": EXAMPLE / "example_CARS.tif"}, mpp=1, background="dark") as slide:
    ...     slide.read_region(0, 0, 64, 32).shape
    (1, 32, 64)
    """
    if not isinstance(source, Mapping):
        return _open_file(source, mpp=mpp, channels=channels, background=background)
    if not source:
        raise InputUnsupportedError("a slide without channels", remedy="name a file")
    if channels is not None and tuple(channels) != tuple(source):
        raise ChannelMismatchError(
            f"channels {', '.join(channels)} against files for {', '.join(source)}",
            remedy="leave the channel names out: each file has its own",
        )
    parts = {name: _open_file(path) for name, path in source.items()}
    return ChannelStack(parts, mpp=mpp, background=background)


def parse_source(text: str) -> Path | dict[str, str]:
    """Return the file, or the file of each channel, that a command line names.

    The text is ``slide.svs``, or ``CARS=a.tif,TPEF=b.tif``. An existing file is never taken apart, and fragments are
    kept. Blanks around commas and equals signs do not count. A channel that is named twice, be it in another case, is a
    ChannelMismatchError.
    """
    if Path(text).exists() or not re.match(_CHANNEL, text):
        return Path(text)
    # A comma ends a path only before the next NAME=, since paths may hold commas.
    pairs = [[side.strip() for side in part.split("=", 1)] for part in re.split(rf",(?={_CHANNEL})", text)]
    names = [name.casefold() for name, _ in pairs]
    if len(set(names)) != len(names):
        raise ChannelMismatchError(f"a channel is named twice in {text!r}", remedy="name each channel once")
    return dict(pairs)


def in_order(slide: Slide, names: Sequence[str] | None) -> Slide:
    """Return a slide with its channels under the names, and in the order, that a model or a cohort has for them.

    The slide itself is returned if its channels are these already, if they are others, or if `names` is None. Else its
    files are opened again, a plane for each channel where their order differs. Upper and lower case count as the same,
    and no two names of one slide may differ in that alone.
    """
    if names is None or tuple(names) == slide.channels:
        return slide
    number_of = {name.casefold(): number for number, name in enumerate(slide.channels)}
    order = [number_of[name.casefold()] for name in names if name.casefold() in number_of]
    if not len(number_of) == len(slide.channels) == len(names) == len(set(order)):
        return slide
    options: dict[str, Any] = {"mpp": slide.mpp if slide.has_mpp else None, "background": slide._background}
    source = slide.source
    if isinstance(source, dict):
        paths = list(source.values())
        return open_slide({name: paths[number] for name, number in zip(names, order, strict=True)}, **options)
    # Only the case differs: other names for the planes of the same file are enough.
    if order == sorted(order):
        return open_slide(source, channels=tuple(names), **options)
    joint = "#" if source == str(slide.paths[0].absolute()) else "&"
    planes = {name: f"{source}{joint}plane={number}" for name, number in zip(names, order, strict=True)}
    return open_slide(planes, **options)


def _open_file(source: Path | str, **options: Unpack[SlideOptions]) -> Slide:
    """Return the slide in one file, by the adapter that fits."""
    text = str(source)
    # A file whose own name holds a "#" is taken as it is.
    fragment = Fragment(text) if Path(text).exists() else split_fragment(text)
    path = Path(fragment.path)
    is_chosen = (fragment.page, fragment.z, fragment.t) != (None, None, None)
    adapter = _adapter(path, is_chosen=is_chosen)
    if is_chosen and adapter not in (TiffSlide, CziSlide):
        what = f"{path.name} has no pages to choose from"
        raise unsupported(path, what, "leave #page=, #z= and #t= out; #plane= chooses a channel")
    return adapter(path, choice=fragment, **options)


def _adapter(path: Path, *, is_chosen: bool) -> Callable[..., Slide]:
    """Return the class that reads a file or folder; `is_chosen`: a page or a position on an axis is chosen."""
    if path.is_dir():
        next(path.iterdir(), None)  # PermissionError of a closed folder
        if is_zarr(path):
            from pathopatch.slides.omezarr import OmeZarrSlide  # here: zarr and TensorStore load slowly

            return OmeZarrSlide
        return OpenSlideSlide  # of a DICOM series, or refused
    require_regular(path)
    if not path.is_file():
        raise InputMissingError(f"no file {path}", place=str(path), remedy="check the path")
    # By the first bytes, not by the name, which may be wrong.
    with open_regular(path) as stream:
        first_bytes = stream.read(len(CZI_SIGNATURE))
    if first_bytes[:4] in TIFF_SIGNATURES:
        return OpenSlideSlide if not is_chosen and _is_for_openslide(path) else TiffSlide
    if first_bytes == CZI_SIGNATURE:
        require_harmless(path)
        return CziSlide
    if series_of(path) is not None:
        return OpenSlideSlide
    suffix = path.suffix.lower()
    if SUFFIXES.get(suffix, "tiff") != "tiff":
        return JpegPngSlide
    if suffix in (*_TIFF_SUFFIXES, ".czi"):
        kind = "CZI file" if suffix == ".czi" else "TIFF"
        flaw = f"does not begin as a {kind}" if first_bytes else "is empty"
        raise corrupt(path, f"it is named {path.suffix} and {flaw}")
    _refuse_other_folders(path)
    require_harmless(path)
    if openslide.OpenSlide.detect_format(path) is not None:
        return OpenSlideSlide
    raise unsupported(
        path,
        f"no reader for {path.name}",
        f"write an OME-TIFF of it: `bfconvert {path.name} {path.stem}.ome.tif` (Bio-Formats), or in QuPath "
        '"File > Export images > OME TIFF"',
    )


def _is_for_openslide(path: Path) -> bool:
    """Return whether a TIFF is a scanner's, of three uint8 samples a pixel, that only OpenSlide reads as it should."""
    # OpenSlide turns 16-bit samples into 8-bit ones without a word, does not see the levels of an OME-TIFF, and blurs
    # coarser levels whose odd pixel was dropped, since it places their pixels between pixels. So plain pyramids are
    # not left to it.
    with checked_tiff(path) as tiff:
        first = tiff.pages[0]
        is_plain_rgb = first.bitspersample == 8 and first.samplesperpixel == 3
        if tiff.is_ome or not is_plain_rgb or _is_plain_aperio(tiff):
            return False
    require_harmless(path)
    if openslide.OpenSlide.detect_format(path) in (None, "generic-tiff"):
        return False
    try:
        openslide.OpenSlide(path).close()
    except openslide.OpenSlideError:
        return False
    return True


def _is_plain_aperio(tiff: Any) -> bool:
    """Return whether `TiffSlide` reads a file as OpenSlide does: an Aperio slide of plain levels, by its tags."""
    # Decoded directly, the slide is read several times faster. OpenSlide hands JPEG and JPEG 2000 tiles to the same
    # kind of decoder as imagecodecs, so the stored pixels are equal by construction, and tests compare them. Slides
    # without an mpp, whose resolution tags mean nothing, and tiled pages that tifffile takes for no level stay with it.
    levels = [level.keyframe for level in tiff.series[0].levels]
    sizes = [(int(page.imagewidth), int(page.imagelength)) for page in levels]
    return bool(
        tiff.is_svs
        and re.match(_APERIO_MPP, levels[0].description)
        and len(levels) == sum(page.is_tiled for page in tiff.pages)
        and all(is_same_field(sizes[0], size) for size in sizes)
        and all(map(_is_plain_level, levels))
    )


def _is_plain_level(page: Any) -> bool:
    """Return whether a level is made of upright tiles, all written, of uint8 RGB that both decode alike."""
    # OpenSlide turns no slide upright, and fills tiles without any bytes from a coarser level. It believes the tag that
    # a JPEG is YCbCr, where imagecodecs believes the JPEG.
    coding = int(page.compression), int(page.photometric), page.is_jfif
    layout = page.dtype, page.samplesperpixel, int(page.planarconfig), page.tags.valueof(ORIENTATION_TAG, 1)
    is_alike = coding in _DECODED_ALIKE and layout == (np.uint8, 3, 1, 1)
    if not is_alike or not page.is_tiled or 0 in (*page.databytecounts, *page.dataoffsets):
        return False
    stream = page.parent.filehandle
    stream.seek(page.dataoffsets[0])
    return int(page.photometric) != 6 or not re.search(_JPEG_IN_RGB, stream.read(_JPEG_HEAD_BYTES))


class OpenSlideSlide(Slide):
    """A slide read by OpenSlide, in RGB; label, macro and thumbnail images are out of reach."""

    def __init__(self, path: Path, *, choice: Fragment = WHOLE_FILE, **options: Unpack[SlideOptions]) -> None:
        dicom = slide_files(path)
        parts = dicom or with_companions(path)
        self._path = path = parts[0]
        self._files = tuple(map(OpenedFile.of, parts))
        self._handle: Any = None
        self._pid = -1
        self._opened = linked_apart(dicom) if dicom else path
        if self._opened != path:
            weakref.finalize(self, shutil.rmtree, self._opened.parent, ignore_errors=True)
        require_harmless(self._opened)
        self._planes = plane_slice(path, RGB, choice.plane)
        try:
            every_level = list(range(self._open().level_count))
            self._levels, notes = self._usable_levels(dicom) if dicom else (every_level, [])
            handle = self._open()
            self._scales = tuple(float(handle.level_downsamples[level]) for level in self._levels)
            # Of the properties only numbers are taken: texts may name the patient.
            box = [handle.properties.get(f"openslide.bounds-{name}") for name in ("x", "y", "width", "height")]
            facts = SlideFacts(
                channels=tuple(RGB[self._planes]),
                dtype=np.dtype(np.uint8),
                levels=tuple(
                    Level(w, h, nominal_downsample(handle.dimensions, (w, h)))
                    for w, h in map(handle.level_dimensions.__getitem__, self._levels)
                ),
                resolution=_openslide_resolution(handle),
                paths=tuple(parts),
                notes=tuple(notes),
                bounds=None if None in box else cast(Any, tuple(map(int, box))),
                icc=icc_name(None if (profile := handle.color_profile) is None else profile.tobytes()),
            )
        except openslide.OpenSlideError as error:
            what = f"OpenSlide cannot open it: {error}"
            if "concatenation" in str(error) or "libdicom" in str(error):
                raise corrupt(path, what) from error
            raise unsupported(path, what, "convert it to a tiled TIFF") from error
        super().__init__(facts, {"path": path, "choice": choice}, files=self._files, **options)

    def _open(self) -> Any:
        """Return this process's handle; one of another process must not be shared."""
        if self._handle is None or self._pid != os.getpid():
            self._handle, self._pid = openslide.OpenSlide(self._opened), os.getpid()
            self.require_unchanged()
        return self._handle

    def _usable_levels(self, files: Sequence[Path]) -> tuple[list[int], list[str]]:
        """Return the levels of a DICOM slide that can be read, and notes of what is left out of its files."""
        sizes, scales = self._open().level_dimensions, self._open().level_downsamples
        is_resampled = self._open().properties.get("dicom.ImageType[3]") == "RESAMPLED"
        notes = ["the folder lacks the finest level: that of its files was resampled"] if is_resampled else []
        flaws = dict.fromkeys(map(level_of_false_colours, files), "its frames are YCbCr, and the file states RGB")
        for level, size in enumerate(sizes):
            corner = [round((px - 1) * scales[level]) for px in size]
            try:
                self._open().read_region(corner, level, (1, 1))  # of the last tile, which a cut file lacks
            except openslide.OpenSlideError as error:
                self.close()
                # wsidicomizer 0.26 cuts the last tiles of levels that it adds. One tile of bad pixels may be tolerated.
                is_too_small = "Dimensional mismatch" in str(error)
                if "libdicom" in str(error) or (is_too_small and level == 0):
                    what = f"the level of {size[0]} x {size[1]} px cannot be decoded: {error}"
                    raise corrupt(self._path.parent, what) from error
                flaws |= {size: str(error)} if is_too_small else {}
        if sizes[0] in flaws:
            raise unsupported(self._path, flaws[sizes[0]], "convert it with Bio-Formats or QuPath to an OME-TIFF")
        notes += [f"its level of {w} x {h} px is not used: {flaws[w, h]}" for w, h in sizes if (w, h) in flaws]
        return [level for level, size in enumerate(sizes) if size not in flaws], notes

    def close(self) -> None:
        """Let go of the files; a later read opens them again."""
        if self._handle is not None and self._pid == os.getpid():
            self._handle.close()
        self._handle = None

    def _read_level(self, left: int, top: int, width: int, height: int, level: int) -> PixelsAndOpacity:
        # OpenSlide's own downsample, so that it arrives at this very pixel.
        scale = self._scales[level]
        corner = round(left * scale), round(top * scale)
        try:
            image = self._open().read_region(corner, self._levels[level], (width, height))
        except openslide.OpenSlideError as error:
            # After one error a handle raises it again for every region: the next read opens a new one.
            self.close()
            raise corrupt(self._path, f"level {level} cannot be decoded at {corner}: {error}") from error
        planes = np.empty((4, height, width), np.uint8)
        # Several times as fast as numpy's transposition.
        cv2.split(np.asarray(image), cast(Any, list(planes)))
        return planes[self._planes], None if planes[3].min() == 255 else planes[3]


def _refuse_other_folders(path: Path) -> None:
    """Refuse a slide of several files whose list names one in another folder: OpenSlide would open it."""
    lists = {".mrxs": path.with_suffix("") / "Slidedat.ini", ".vms": path, ".vmu": path}
    listing = lists.get(path.suffix.lower())
    if listing is None or not listing.is_file():
        return
    with listing.open("rb") as stream:
        content = stream.read(MOST_LIST_BYTES).decode("latin-1")
    for line in content.splitlines():
        name, _, value = line.partition("=")
        if ".." in re.split(r"[/\\]", value.strip()):
            raise unsupported(
                listing,
                f"{name.strip()} names a file in another folder: {value.strip()}",
                "copy the slide again from the scanner: its files lie in one folder",
            )


def _openslide_resolution(handle: Any) -> Resolution:
    """Return the resolution that the properties state."""
    x, y = (handle.properties.get(name) for name in (openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y))
    return resolution(x, y, source="the slide's property openslide.mpp")

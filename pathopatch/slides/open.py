"""Which adapter reads a file, and how a command line or manifest names one."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import openslide

from pathopatch.core.errors import (
    ChannelMismatchError,
    InputCorruptError,
    InputMissingError,
    InputUnsupportedError,
)
from pathopatch.slides.aperio import is_shown_alike
from pathopatch.slides.axes import Choice
from pathopatch.slides.background import Background
from pathopatch.slides.czi import CziSlide, is_czi
from pathopatch.slides.integrity import checked_tiff, is_tiff
from pathopatch.slides.jpeg_png import SUFFIXES as JPEG_PNG_SUFFIXES
from pathopatch.slides.jpeg_png import JpegPngSlide
from pathopatch.slides.manifest import Fragment, split_fragment
from pathopatch.slides.omezarr import OmeZarrSlide, is_zarr
from pathopatch.slides.openslide import OpenSlideSlide
from pathopatch.slides.slide import Slide
from pathopatch.slides.stack import ChannelStack
from pathopatch.slides.tiff import TiffSlide

_CHANNEL = r"[A-Za-z][A-Za-z0-9_.-]*="
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
        A file or OME-Zarr folder, or one per channel name. ``file.tif#page=2`` names a page of a stack,
        ``file.ndpi#plane=2`` a plane of a multi-plane file, ``file.tif#page=2&plane=0`` a plane of a page,
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

    Parameters
    ----------
    text : str
        ``slide.svs``, or ``CARS=a.tif,TPEF=b.tif``; fragments are kept. An existing file is never taken apart.

    Raises
    ------
    ChannelMismatchError
        A channel is named twice.
    """
    if Path(text).exists() or not re.match(_CHANNEL, text):
        return Path(text)
    pairs = [part.split("=", 1) for part in re.split(rf",(?={_CHANNEL})", text)]
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise ChannelMismatchError(f"a channel is named twice in {text!r}", remedy="name each channel once")
    return dict(pairs)


def _open_file(
    source: Path | str,
    *,
    mpp: float | None = None,
    channels: tuple[str, ...] | None = None,
    background: Background | None = None,
) -> Slide:
    """Return the slide in one file, by the adapter that fits."""
    text = str(source)
    fragment = Fragment(text) if Path(text).exists() else split_fragment(text)
    path = Path(fragment.path)
    is_chosen = (fragment.page, fragment.z, fragment.t) != (None, None, None)
    adapter = _adapter(path, is_chosen=is_chosen)
    options: dict[str, Any] = {"mpp": mpp, "channels": channels, "background": background}
    if adapter in (TiffSlide, CziSlide):
        choice = Choice(page=fragment.page, plane=fragment.plane, z=fragment.z, t=fragment.t)
        return adapter(path, choice=choice, **options)
    if is_chosen:
        raise InputUnsupportedError(
            f"{path.name} has no pages to choose from",
            place=str(path),
            remedy="leave #page=, #z= and #t= out; #plane= chooses a channel",
        )
    return adapter(path, plane=fragment.plane, **options)


def _adapter(path: Path, *, is_chosen: bool) -> Callable[..., Slide]:
    """Return the class that reads a file or folder.

    Parameters
    ----------
    path : Path
        Without a fragment.
    is_chosen : bool
        Whether a page or a position on an axis is chosen, which only TIFF and CZI files have.
    """
    if path.is_dir():
        if is_zarr(path):
            return OmeZarrSlide
        raise InputUnsupportedError(
            f"{path.name} is a folder and no OME-Zarr image", place=str(path), remedy="name a file in it"
        )
    if not path.is_file():
        raise InputMissingError(f"no file {path}", place=str(path), remedy="check the path")
    if is_tiff(path):
        return OpenSlideSlide if not is_chosen and _is_for_openslide(path) else TiffSlide
    if is_czi(path):
        return CziSlide
    suffix = path.suffix.lower()
    if suffix in JPEG_PNG_SUFFIXES:
        return JpegPngSlide
    if suffix in (*_TIFF_SUFFIXES, ".czi"):
        kind = "CZI file" if suffix == ".czi" else "TIFF"
        raise InputCorruptError(
            f"it is named {path.suffix} and " + (f"does not begin as a {kind}" if path.stat().st_size else "is empty"),
            place=str(path),
            remedy="copy the file again from its source",
        )
    if openslide.OpenSlide.detect_format(path) is not None:
        return OpenSlideSlide
    raise InputUnsupportedError(
        f"no reader for {path.name}",
        place=str(path),
        remedy=f"write an OME-TIFF of it: `bfconvert {path.name} {path.stem}.ome.tif` (Bio-Formats), or in QuPath "
        '"File > Export images > OME TIFF"',
    )


def _is_for_openslide(path: Path) -> bool:
    """Return whether a TIFF is a scanner's, of three uint8 samples per pixel, that only OpenSlide reads as it should.

    OpenSlide turns 16-bit samples into 8-bit ones without a word, does not see the levels of an OME-TIFF, and blurs
    coarser levels whose odd pixel was dropped, since it places their pixels between pixels. So plain pyramids are
    not left to it.
    """
    with checked_tiff(path) as tiff:
        first = tiff.pages[0]
        is_plain_rgb = first.bitspersample == 8 and first.samplesperpixel == 3
        if tiff.is_ome or not is_plain_rgb:
            return False
    if openslide.OpenSlide.detect_format(path) in (None, "generic-tiff"):
        return False
    try:
        with openslide.OpenSlide(path) as handle:
            return not is_shown_alike(path, handle)
    except openslide.OpenSlideError:
        return False

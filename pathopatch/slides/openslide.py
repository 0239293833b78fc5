"""Read whole-slide formats of RGB by OpenSlide."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Unpack, cast

import cv2
import numpy as np
import openslide

from pathopatch.slides.integrity import OpenedFile, corrupt, unsupported
from pathopatch.slides.resample import PixelsAndOpacity, nominal_downsample
from pathopatch.slides.resolution import RGB, Level, Resolution, SlideFacts, resolution
from pathopatch.slides.slide import Slide
from pathopatch.slides.slide_file import SlideOptions, plane_slice

_MOST_LIST_BYTES = 2**20  # OpenSlide refuses longer lists


class OpenSlideSlide(Slide):
    """A slide read by OpenSlide, in RGB; label, macro and thumbnail images are out of reach."""

    def __init__(self, path: Path, *, plane: int | None = None, **options: Unpack[SlideOptions]) -> None:
        self._path = path
        # The pixels of MIRAX lie in a folder beside the file.
        beside = path.with_suffix("")
        parts = [path, beside] if path.suffix.lower() == ".mrxs" and beside.is_dir() else [path]
        self._files = tuple(map(OpenedFile.of, parts))
        _refuse_other_folders(path)
        self._handle: Any = None
        self._pid = -1
        self._planes = plane_slice(path, RGB, plane)
        try:
            handle = self._open()
            self._scales = tuple(float(value) for value in handle.level_downsamples)
            # Of the properties only numbers are taken: texts may name the patient.
            box = [handle.properties.get(f"openslide.bounds-{name}") for name in ("x", "y", "width", "height")]
            facts = SlideFacts(
                channels=tuple(RGB[self._planes]),
                dtype=np.dtype(np.uint8),
                levels=tuple(
                    Level(w, h, nominal_downsample(handle.dimensions, (w, h))) for w, h in handle.level_dimensions
                ),
                resolution=openslide_resolution(handle),
                paths=(path,),
                bounds=None if None in box else cast(Any, tuple(map(int, box))),
            )
        except openslide.OpenSlideError as error:
            raise unsupported(path, f"OpenSlide cannot open it: {error}", "convert it to a tiled TIFF") from error
        super().__init__(facts, {"path": path, "plane": plane}, files=self._files, **options)

    def _open(self) -> Any:
        """Return this process's handle; one of another process must not be shared."""
        if self._handle is None or self._pid != os.getpid():
            self._handle, self._pid = openslide.OpenSlide(self._path), os.getpid()
            self.require_unchanged()
        return self._handle

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
            image = self._open().read_region(corner, level, (width, height))
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
        content = stream.read(_MOST_LIST_BYTES).decode("latin-1")
    for line in content.splitlines():
        name, _, value = line.partition("=")
        if ".." in re.split(r"[/\\]", value.strip()):
            raise unsupported(
                listing,
                f"{name.strip()} names a file in another folder: {value.strip()}",
                "copy the slide again from the scanner: its files lie in one folder",
            )


def openslide_resolution(handle: Any) -> Resolution:
    """Return the resolution that the properties state."""
    x, y = (handle.properties.get(name) for name in (openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y))
    return resolution(x, y, source="the slide's property openslide.mpp")

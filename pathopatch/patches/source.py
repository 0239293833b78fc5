"""Read patches from the slide again, for stores that keep no pixels."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathopatch.core.artefacts import fingerprint_file
from pathopatch.core.errors import InputMissingError, StaleArtefactError
from pathopatch.patches.analysis import read_padded
from pathopatch.patches.grid import Grid
from pathopatch.slides import Slide, aligned, open_slide
from pathopatch.slides.resample import planes


def source_record(slide: Slide) -> dict[str, Any]:
    """Return plain values with which `SourcePatches` opens the slide again with the same pixels."""
    return {"path": slide.source, "mpp": slide.mpp, "channels": list(slide.channels), "background": slide.background}


class SourcePatches:
    """The patches of a tiled slide, read from its files; safe in any thread and any forked process.

    Parameters
    ----------
    attributes : mapping
        The store's.
    place : Path
        The store, for messages.

    Raises
    ------
    InputMissingError
        The store does not record its source.
    """

    def __init__(self, attributes: Mapping[str, Any], place: Path) -> None:
        if "source" not in attributes:
            raise InputMissingError(
                "the store records neither pixels nor their source",
                place=str(place),
                remedy="tile the slide again with --force",
            )
        self._attributes, self._place = attributes, place
        self._reset()
        width, height = attributes["size_px"]
        self._grid = Grid(
            width=width,
            height=height,
            downsample=attributes["downsample"],
            patch_px=attributes["patch_px"],
            stride_px=attributes["stride_px"],
        )

    def _reset(self) -> None:
        """Start without an open slide, with a new lock."""
        self._pid, self._lock = os.getpid(), threading.Lock()
        self._slide: Slide | None = None

    def read(self, origins: NDArray[np.int64]) -> NDArray[np.generic]:
        """Return patches in any order, shape (n, C, P, P), source units.

        Parameters
        ----------
        origins : ndarray of int64, shape (n, 2)
            (x, y), level-0 px.

        Raises
        ------
        InputMissingError
            A file is gone.
        StaleArtefactError
            A file is not the one that was tiled.
        InputCorruptError
            The slide cannot be decoded.
        """
        # After a fork, the parent's lock may be held by a thread that does not exist here.
        if self._pid != os.getpid():
            self._reset()
        channels, side = len(self._attributes["channels"]), self._grid.patch_px
        with self._lock:
            if self._slide is None:
                self._slide = self._open_slide()
            out = np.empty((len(origins), channels, side, side), self._slide.dtype)
            fill = np.array(self._attributes["fill"], self._slide.dtype)
            # Row by row, each tile of the file is decoded once.
            for place in np.lexsort((origins[:, 0], origins[:, 1])).tolist():
                x, y = origins[place].tolist()
                planes(read_padded(self._slide, self._grid, fill, x, y), out[place])
        return out

    def check(self) -> None:
        """Open the slide and close it, so that its errors are raised; see `read`."""
        self._open_slide().close()

    def close(self) -> None:
        """Close the slide's files and free its decoded tiles; a later read opens them again."""
        if self._slide is not None and self._pid == os.getpid():
            with self._lock:
                self._slide.close()

    def _open_slide(self) -> Slide:
        """Open the slide and verify that its files are those that were tiled."""
        record = self._attributes["source"]
        slide = open_slide(
            record["path"], mpp=record["mpp"], channels=tuple(record["channels"]), background=record["background"]
        )
        tiled = self._attributes["stamp"]["inputs"]
        # Other pixels under the same patch ids would be trained on with the wrong labels and tissue.
        for index, path in enumerate(slide.paths):
            if fingerprint_file(path) != tiled.get(f"slide {index}"):
                slide.close()
                raise StaleArtefactError(
                    f"{path.name} is not the file that was tiled; no pixels are stored, so the patches would change",
                    place=f"{path}, {self._place}",
                    remedy="bring the file back, or tile the slide again with --force",
                )
        offsets = tuple((x, y) for x, y in self._attributes.get("registration", {}).get("offsets_px", ()))
        return aligned(slide, offsets, self._attributes["background"])

"""Serve the page on which a person answers a pack. Of the pack only what was sent is read, never the key."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pandas as pd
import tifffile
from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pathopatch.core.config import Config
from pathopatch.core.csv_table import read_csv_table
from pathopatch.core.errors import InputMissingError, ReviewConflictError
from pathopatch.core.files import inside, write_csv
from pathopatch.core.locks import REVIEW, folder_lock
from pathopatch.groups.decisions.log import LOCK_WAIT_S
from pathopatch.groups.decisions.readers import known_reader, reader_file_part, reader_name
from pathopatch.review.app import SHARED_ROUTES, guarded_app, page_route
from pathopatch.review.http import body_of, json_answer
from pathopatch.review.security import Access, Guard
from pathopatch.slides.composite import compose


class Answer(Config):
    """What a reader answered to an image, and for how long it was shown."""

    image: str
    score: Literal["yes", "no"]
    seconds: float = Field(ge=0, le=1e6)


class PackReading:
    """A reader's answers to the images of a pack. The file alone holds them, and is read anew each time."""

    def __init__(self, pack: Path, reader: str) -> None:
        sent = pack / "send" if (pack / "send").is_dir() else pack
        self._folder, self._name = pack, f"answers-{reader_file_part(reader_name(reader))}.csv"
        self._pack, self._mpp = "PACK" if sent == pack else str(pack), _scale(sent / "mosaic.ome.tif")
        self.images = {name: inside(sent / "images", name) for name in sorted(_lines(sent / "answers.csv", "score"))}
        if missing := [name for name, path in self.images.items() if not path.is_file()]:
            raise InputMissingError(f"no image {missing[0]}", place=str(sent), remedy="unpack it again")
        self.state()

    @property
    def file(self) -> Path:
        """The file with the answers; a page that was started with the name in another case may have made it since."""
        return self._folder / known_reader(self._name, (path.name for path in self._folder.glob("answers-*.csv")))

    def answers(self) -> dict[str, dict[str, str]]:
        """Return the file's lines by image."""
        lines = _lines(self.file, "score", "seconds") if self.file.exists() else {}
        if not lines.keys() <= self.images.keys():
            raise InputMissingError("answers to other images", place=str(self.file), remedy="name another --reader")
        return lines

    def record(self, answer: Answer) -> dict[str, Any]:
        """Write an answer, and return the `state` once it is on the disk; ReviewConflictError if it is not asked for.

        Other pages, of this process or another, may write into the same file.
        """
        with folder_lock(self._folder, REVIEW, limit_s=LOCK_WAIT_S):
            lines = self.answers()
            if answer.image in lines or answer.image not in self.images:
                raise ReviewConflictError(f"{answer.image[:50]!r} is not asked", remedy="go on", state=self.state())
            lines[answer.image] = answer.model_dump() | {"seconds": f"{answer.seconds:.1f}"}
            write_csv(self.file, pd.DataFrame([*lines.values()], columns=[*Answer.model_fields]))
        return self.state()

    def state(self) -> dict[str, Any]:
        """Return how many images are answered, the next two, um per px, and what to do with the file at the end."""
        answered = self.answers()
        left = [name for name in self.images if name not in answered]
        named = ("--answers", str(self.file), "--pack", self._pack)
        command = shlex.join(["pathopatch", "audit-model", *named, "-o", "asked"])
        about = {"file": str(self.file), "command": command, "mpp": self._mpp}
        return {"images": len(self.images), "answered": len(answered), "next": left[:2], **about}


def create_pack_app(reading: PackReading, access: Access) -> Guard:
    """Return the application."""

    async def record(request: Request) -> Response:
        answer = await body_of(request, Answer)
        return json_answer(await run_in_threadpool(reading.record, answer), 201)

    def picture(request: Request) -> Response:
        if (path := reading.images.get(request.path_params["name"])) is None:
            raise InputMissingError("the pack has no such image", remedy="go on from /")
        if path.suffix == ".png":
            return Response(path.read_bytes(), media_type="image/png")
        pixels = tifffile.imread(path)
        pixels = pixels.reshape(-1, *pixels.shape[-2:])
        drawn = compose(pixels, np.tile([0.0, 65535.0], (len(pixels), 1)), is_rgb=False)
        return Response(cv2.imencode(".png", drawn[..., ::-1])[1].tobytes(), media_type="image/png")

    pages = (page_route("/", "pack.html"), *SHARED_ROUTES, Route("/api/pack/{name}", picture))
    states = (Route("/api/pack", lambda _: json_answer(reading.state())), Route("/api/pack", record, methods=["POST"]))
    return guarded_app((*pages, *states), access)


def _scale(mosaic: Path) -> float | None:
    """Return um per px of the images, which the mosaic states; None where it is unknown."""
    if not mosaic.is_file():
        return None
    with tifffile.TiffFile(mosaic) as tiff:
        stated = re.search(r'PhysicalSizeX="([^"]+)"', tiff.ome_metadata or "")
    return float(stated[1]) if stated else None


def _lines(path: Path, *others: str) -> dict[str, dict[str, str]]:
    table = read_csv_table(path, kind="list of answers", item="image", required=("image", *others), optional=())
    table.raise_problems()
    return {cells["image"]: cells for _, cells in table.rows}

"""Answer with the files of the page: HTML, scripts, styles and licences."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from pathopatch.core.errors import InputMissingError
from pathopatch.review.http import revalidated, slide_id_of

STATIC = Path(__file__).parent / "static"
_MEDIA_TYPES = {
    ".js": "text/javascript",
    ".css": "text/css",
    ".html": "text/html",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
}


class StaticFile(NamedTuple):
    """A file of the page, as it is sent."""

    body: bytes
    media_type: str
    etag: str


async def page_of_cohort(request: Request) -> Response:
    """Return the table of slides."""
    return _page(request, "cohort.html")


async def page_of_agreement(request: Request) -> Response:
    """Return the comparison of two reviewers."""
    return _page(request, "agreement.html")


def page_of_slide(request: Request) -> Response:
    """Return the page of one slide; its script reads the id from the address."""
    address = f"/api/slides/{quote(slide_id_of(request), safe='')}"
    answer = _page(request, "slide.html")
    # The browser fetches these while it still loads the scripts that need them.
    preloads = (f"<{target}>; rel=preload; as=fetch; crossorigin" for target in (address, f"{address}/values"))
    answer.headers["Link"] = ", ".join(preloads)
    return answer


async def static(request: Request) -> Response:
    """Return a script, a style, a licence, or the icon of the browser's tab; 304 if the browser has it."""
    file: StaticFile | None = request.app.state.files.get(request.path_params.get("name", "favicon.svg"))
    if file is None:
        raise InputMissingError("there is no such page", remedy="go on from /")
    return revalidated(request, file.etag, lambda: file.body, file.media_type)


def static_files() -> dict[str, StaticFile]:
    """Return the page's files by their address below /static/."""
    # Read once: half a megabyte. A request can then reach no other file, whatever its address.
    files = {}
    for path in STATIC.rglob("*"):
        if path.suffix in _MEDIA_TYPES and path.is_file():
            body = path.read_bytes()
            etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
            files[path.relative_to(STATIC).as_posix()] = StaticFile(body, _MEDIA_TYPES[path.suffix], etag)
    return files


def _page(request: Request, name: str) -> Response:
    """Return an HTML page. The browser does not keep it: its address names a slide."""
    page: StaticFile = request.app.state.files[name]
    return Response(page.body, media_type=page.media_type)

"""Which address answers with what? Ids and numbers of an address are looked up or counted, and never become a path."""

from __future__ import annotations

import hashlib
import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote, unquote_plus

from pydantic import ValidationError
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.endpoints import HTTPEndpoint
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from pathopatch.core.config import Config
from pathopatch.core.errors import InputMissingError, InputUnsupportedError, ReviewConflictError
from pathopatch.core.files import json_text
from pathopatch.review.security import MAX_BODY_BYTES, too_large

if TYPE_CHECKING:
    from pathopatch.review.slide import ReviewedSlide
    from pathopatch.review.slide_pool import Review

NOTE = "Research use only, not for diagnosis"
T = TypeVar("T", bound=Config)

STATIC = Path(__file__).parent / "static"

_TYPES = {
    ".js": "text/javascript",
    ".css": "text/css",
    ".html": "text/html",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
}
_NUMBER = re.compile(r"0|[1-9][0-9]{0,9}")


class Decided(Config):
    """What the page sends of a decision; what is allowed in it is the decision's own to say."""

    revision: int
    verdict: str
    fingerprint: str
    x: int | None = None
    y: int | None = None
    reason: str = ""
    comment: str = ""
    threshold: float | None = None
    reviewer: str | None = None


class Undone(Config):
    """What the page sends to withdraw the newest decision of a slide."""

    revision: int
    reviewer: str | None = None


@dataclass(frozen=True)
class StaticFile:
    """A file of the page's own, as it is sent."""

    body: bytes
    media_type: str
    etag: str


def static_files() -> dict[str, StaticFile]:
    """Return the page's own files by their address below /static/, read once: half a megabyte."""
    found = {}
    for path in STATIC.rglob("*"):
        if path.suffix in _TYPES and path.is_file():
            body = path.read_bytes()
            etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
            found[path.relative_to(STATIC).as_posix()] = StaticFile(body, _TYPES[path.suffix], etag)
    return found


async def ready(_request: Request) -> Response:
    """Say that the page answers."""
    return _json({"ready": True})


async def page_of_cohort(request: Request) -> Response:
    """Return the table of slides."""
    return _page(request, "cohort.html")


def page_of_slide(request: Request) -> Response:
    """Return the page of one slide; its script reads the id from the address, its header says what it asks first."""
    address = f"/api/slides/{quote(_known(request), safe='')}"
    answer = _page(request, "slide.html")
    ahead = (f"<{asked}>; rel=preload; as=fetch; crossorigin" for asked in (address, f"{address}/values"))
    answer.headers["Link"] = ", ".join(ahead)
    return answer


async def static(request: Request) -> Response:
    """Return a script, a style or a licence."""
    return _file(request, request.path_params["name"])


async def favicon(request: Request) -> Response:
    """Return the page's picture in the browser's tab."""
    return _file(request, "favicon.svg")


def cohort(request: Request) -> Response:
    """Return a row a slide, with the decision that stands."""
    review = _review(request)
    last = review.decisions.last()
    rows = [row | {"decision": last.get(row["slide_id"])} for row in review.cohort.rows()]
    name, beside = review.cohort.names()
    answer = _json(
        {
            "rows": rows,
            "name": name,
            "beside": beside,
            "fields": list(rows[0]) if rows else [],
            "reviewer": review.reviewer,
            "note": NOTE,
        }
    )
    answer.background = BackgroundTask(_import_for_slides)  # a second's work, while the table is looked at
    return answer


def facts(request: Request) -> Response:
    """Return what the browser must know of a slide before it draws it."""
    from pathopatch.review.gallery import kinds
    from pathopatch.review.values import facts

    slide = _slide(request)
    return _json(facts(slide) | {"gallery": kinds(slide)})


def values(request: Request) -> Response:
    """Return a slide's cells and patches, in the layout that the facts tell."""
    from pathopatch.review.values import values

    return Response(values(_slide(request)), media_type="application/octet-stream")


def tile(request: Request) -> Response:
    """Return a tile of the slide; 304 if the browser has it."""
    from pathopatch.review.tiles import tile

    level, column, row = (_number(request, name) for name in ("level", "column", "row"))
    channels = _channels(request)
    return _picture(request, lambda slide: tile(slide, level, column, row, channels=channels), "image/jpeg")


def thumbnail(request: Request) -> Response:
    """Return the slide at the size of a row of the table; 304 if the browser has it."""
    from pathopatch.review.tiles import thumbnail

    return _picture(request, thumbnail, "image/jpeg")


def patch(request: Request) -> Response:
    """Return all that is known of a patch."""
    from pathopatch.review.values import patch

    return _json(patch(_slide(request), _number(request, "x"), _number(request, "y")))


def patch_image(request: Request) -> Response:
    """Return a patch at full resolution; 304 if the browser has it."""
    from pathopatch.review.tiles import patch_image

    x, y, channels = _number(request, "x"), _number(request, "y"), _channels(request)
    return _picture(request, lambda slide: patch_image(slide, x, y, channels=channels), "image/png")


def gallery(request: Request) -> Response:
    """Return the patches of one kind that are most worth a look."""
    from pathopatch.review.gallery import gallery, kinds

    slide = _slide(request)
    kind = request.query_params.get("kind", "")
    possible = kinds(slide)
    if kind not in possible:
        raise InputUnsupportedError(f"no gallery {kind!r} of this slide", remedy=f"ask for {', '.join(possible)}")
    return _json(gallery(slide, kind))


class SlideDecisions(HTTPEndpoint):
    """What is decided of a slide."""

    def get(self, request: Request) -> Response:
        """Return what is decided by now."""
        return _json(_review(request).decisions.state(_known(request)).to_dict())

    async def post(self, request: Request) -> Response:
        """Write a decision down, and return what is decided with it."""
        asked = _parsed(Decided, await _body(request))
        return await run_in_threadpool(_decide, request, asked)


async def undo(request: Request) -> Response:
    """Withdraw the newest decision of a slide that stands."""
    asked = _parsed(Undone, await _body(request))
    return await run_in_threadpool(_undo, request, asked)


def export(request: Request) -> Response:
    """Return all decisions, as a file to keep."""
    from pathopatch.review.import_export import to_csv, to_json

    kind = request.path_params["kind"]
    if kind not in ("csv", "json"):
        raise InputMissingError("there is no such page", remedy="go on from /")
    write, media_type = (to_csv, "text/csv") if kind == "csv" else (to_json, "application/json")
    headers = {"Content-Disposition": f'attachment; filename="review.{kind}"'}
    return Response(write(_review(request).decisions), media_type=media_type, headers=headers)


_SLIDE = "/api/slides/{slide_id}"
ROUTES = (
    Route("/", page_of_cohort),
    Route("/slides/{slide_id}", page_of_slide),
    Route("/static/{name:path}", static),
    Route("/favicon.ico", favicon),
    Route("/ready", ready),
    Route("/api/cohort", cohort),
    Route(_SLIDE, facts),
    Route(f"{_SLIDE}/values", values),
    Route(f"{_SLIDE}/tiles/{{level}}/{{column}}/{{row}}.jpg", tile),
    Route(f"{_SLIDE}/thumbnail.jpg", thumbnail),
    Route(f"{_SLIDE}/patches/{{x}}/{{y}}.png", patch_image),
    Route(f"{_SLIDE}/patches/{{x}}/{{y}}", patch),
    Route(f"{_SLIDE}/gallery", gallery),
    Route(f"{_SLIDE}/decisions", SlideDecisions),
    Route(f"{_SLIDE}/undo", undo, methods=["POST"]),
    Route("/export/decisions.{kind}", export),
)
"""All addresses. None leads to a slide's label or macro image: nothing here reads one."""


def _decide(request: Request, asked: Decided) -> Response:
    from pathopatch.groups.decisions.decision import Decision

    review, slide_id = _review(request), _known(request)
    decision = Decision(
        slide_id=slide_id,
        reviewer=review.reviewer if asked.reviewer is None else asked.reviewer,
        run=review.cohort.names()[0],
        **asked.model_dump(exclude={"revision", "reviewer"}),
    )
    if decision.x is not None and decision.y is not None:
        _require_patch(review.cohort.open(slide_id), decision.x, decision.y)
    if decision.fingerprint != (review.cohort.fingerprint(slide_id) or ""):
        raise ReviewConflictError(
            "the heatmap was made anew since the page was opened",
            place=slide_id,
            remedy="reload the page and look again",
            state=review.decisions.state(slide_id).to_dict(),
        )
    review.decisions.record(decision, revision=asked.revision)
    return _json(review.decisions.state(slide_id).to_dict(), 201)


def _undo(request: Request, asked: Undone) -> Response:
    review, slide_id = _review(request), _known(request)
    review.decisions.undo(slide_id, asked.reviewer or review.reviewer, asked.revision)
    return _json(review.decisions.state(slide_id).to_dict(), 201)


def _import_for_slides() -> None:
    """Import what the first slide needs; where it is imported, nothing happens."""
    for module in ("pyarrow.parquet", "pathopatch.review.gallery", "pathopatch.review.values", "pathopatch.slides"):
        importlib.import_module(module)


def _require_patch(slide: ReviewedSlide, x: int, y: int) -> None:
    from pathopatch.review.values import patch

    patch(slide, x, y)


async def _body(request: Request) -> bytes:
    """Return the body of a write.

    Raises
    ------
    HTTPException
        415: it is not said to be JSON.
    InputTooLargeError
        It is longer than any decision; no more of it is read.
    """
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "a decision is sent as application/json")
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                raise too_large()
    except ClientDisconnect as error:
        raise InputUnsupportedError("the body ends early", remedy="send it again") from error
    return bytes(body)


def _parsed(kind: type[T], body: bytes) -> T:
    try:
        return kind.model_validate_json(body, strict=True)
    except ValidationError as error:
        wrong = (f"{'.'.join(map(str, item['loc'])) or 'body'}: {item['msg']}" for item in error.errors())
        raise InputUnsupportedError("; ".join(wrong)[:1000], remedy="send what the page sends") from error


def _picture(request: Request, make: Callable[[ReviewedSlide], bytes], media_type: str) -> Response:
    """Return a picture of a slide; other slides may lie at this address tomorrow."""
    slide_id, cohort = _known(request), _review(request).cohort
    return _unless_known(
        request, f'"{cohort.fingerprint(slide_id)}"', lambda: (make(cohort.open(slide_id)), media_type)
    )


def _unless_known(request: Request, etag: str, make: Callable[[], tuple[bytes, str]]) -> Response:
    """Return what the browser may keep, but asks for again; 304 if it has it."""
    headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    body, media_type = make()
    return Response(body, media_type=media_type, headers=headers)


def _page(request: Request, name: str) -> Response:
    """Return a page; the browser keeps none, whose address names a slide."""
    found: StaticFile = request.app.state.files[name]
    return Response(found.body, media_type=found.media_type)


def _file(request: Request, name: str) -> Response:
    found = request.app.state.files.get(name)
    if found is None:
        raise InputMissingError("there is no such page", remedy="go on from /")
    return _unless_known(request, found.etag, lambda: (found.body, found.media_type))


def _json(value: object, status: int = 200) -> Response:
    return Response(json_text(value), status, media_type="application/json")


def _review(request: Request) -> Review:
    review: Review = request.app.state.review
    return review


def _known(request: Request) -> str:
    """Return the slide id of an address if the cohort has it."""
    slide_id: str = request.path_params["slide_id"]
    if not _review(request).cohort.known(slide_id):
        raise InputMissingError(f"there is no slide {slide_id[:128]!r}", remedy="choose one of the table at /")
    return slide_id


def _slide(request: Request) -> ReviewedSlide:
    slide_id = _known(request)
    return _review(request).cohort.open(slide_id)


def _number(request: Request, name: str) -> int:
    text = request.path_params[name]
    if not _NUMBER.fullmatch(text):
        raise InputMissingError(f"{name} is no number that a slide has: {text[:20]!r}", remedy="count from 0")
    return int(text)


def _channels(request: Request) -> tuple[str, ...] | None:
    """Return the channels of an address; None where it names none. A comma within a name is %2C."""
    for part in request.url.query.split("&"):
        name, _, value = part.partition("=")
        if name == "channels":
            return tuple(unquote_plus(one) for one in value.split(",")) if value else ()
    return None

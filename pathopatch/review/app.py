"""Serve a work folder's predictions and decisions as a web application.

Ids and numbers of an address are looked up or counted, and never become a path. What encodes slides is imported by the
first request for one, so that the page itself opens at once.
"""

from __future__ import annotations

import hashlib
import importlib
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar
from urllib.parse import quote, unquote_plus

import uvicorn
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.endpoints import HTTPEndpoint
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from pathopatch.core.config import Config
from pathopatch.core.errors import (
    InputMissingError,
    InputUnsupportedError,
    InternalError,
    PathopatchError,
    ReviewConflictError,
)
from pathopatch.core.files import json_text
from pathopatch.groups.decisions.decision import Decision
from pathopatch.review.cohort import Review
from pathopatch.review.connections import LimitedConnection
from pathopatch.review.security import MAX_BODY_BYTES, Access, Guard, body_too_large, error_response
from pathopatch.review.slide import ReviewedSlide

if TYPE_CHECKING:
    from starlette.types import ASGIApp

T = TypeVar("T", bound=Config)

STATIC = Path(__file__).parent / "static"
_MEDIA_TYPES = {
    ".js": "text/javascript",
    ".css": "text/css",
    ".html": "text/html",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
}
_NUMBER = re.compile(r"0|[1-9][0-9]{0,9}")
_BACKLOG = 128  # connections that wait to be accepted, and are accepted at once
_SHUTDOWN_S = 3  # time for answers under way when the page ends


class StaticFile(NamedTuple):
    """A file of the page, as it is sent."""

    body: bytes
    media_type: str
    etag: str


class DecisionRequest(Config):
    """Body of a new decision. Types are checked here, values by `Decision`."""

    revision: int
    verdict: str
    fingerprint: str
    x: int | None = None
    y: int | None = None
    reason: str = ""
    comment: str = ""
    threshold: float | None = None
    reviewer: str | None = None


class UndoRequest(Config):
    """Body of the withdrawal of a slide's newest decision."""

    revision: int
    reviewer: str | None = None


def create_app(review: Review, access: Access) -> ASGIApp:
    """Return the application; the caller closes `review`."""
    app = Starlette(
        routes=ROUTES,
        exception_handlers={PathopatchError: _refusal, HTTPException: _no_such_route, Exception: _internal_error},
    )
    # A redirect would name a host: `//elsewhere/` must not become one.
    app.router.redirect_slashes = False
    app.state.review = review
    app.state.files = _static_files()
    return Guard(app, access)


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that accepts connections at a host and port; port 0 is a free one.

    Raises
    ------
    InputUnsupportedError
        The port is in use or reserved, or the host is not this machine.
    """
    # Bound before the server starts, so that the printed address is the right one and answers at once.
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(_BACKLOG)
        except OSError:
            listener.close()
            raise
    except (OSError, UnicodeError, OverflowError) as error:
        raise InputUnsupportedError(
            f"cannot listen: {error}", place=f"{host}:{port}", remedy="choose another --port, or --host 127.0.0.1"
        ) from error
    return listener


def create_server(app: ASGIApp) -> uvicorn.Server:
    """Return a server, whose ``run(sockets=[listener])`` answers until SIGINT, SIGTERM or ``should_exit``."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            loop="asyncio",
            http=LimitedConnection,
            backlog=_BACKLOG,
            ws="none",
            lifespan="off",
            log_level="warning",
            # Addresses may contain a token, or name a patient.
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=_SHUTDOWN_S,
        )
    )


async def _ready(_request: Request) -> Response:
    """Confirm that the page answers."""
    return _json({"ready": True})


async def _page_of_cohort(request: Request) -> Response:
    """Return the table of slides."""
    return _page(request, "cohort.html")


def _page_of_slide(request: Request) -> Response:
    """Return the page of one slide; its script reads the id from the address."""
    address = f"/api/slides/{quote(_slide_id(request), safe='')}"
    answer = _page(request, "slide.html")
    # The browser fetches these while it still loads the scripts that need them.
    preloads = (f"<{target}>; rel=preload; as=fetch; crossorigin" for target in (address, f"{address}/values"))
    answer.headers["Link"] = ", ".join(preloads)
    return answer


async def _static(request: Request) -> Response:
    """Return a script, a style, a licence, or the icon of the browser's tab; 304 if the browser has it."""
    file: StaticFile | None = request.app.state.files.get(request.path_params.get("name", "favicon.svg"))
    if file is None:
        raise InputMissingError("there is no such page", remedy="go on from /")
    return _revalidated(request, file.etag, lambda: file.body, file.media_type)


def _cohort(request: Request) -> Response:
    """Return one row per slide, with the decision that stands."""
    review = _review(request)
    verdicts = review.decisions.last()
    rows = [row | {"decision": verdicts.get(row["slide_id"])} for row in review.cohort.rows()]
    name, beside = review.cohort.run_names()
    answer = _json(
        {
            "rows": rows,
            "name": name,
            "beside": beside,
            "fields": list(rows[0]) if rows else [],
            "reviewer": review.reviewer,
            "note": "Research use only, not for diagnosis",
        }
    )
    # Imports take a second: done while the reviewer looks at the table.
    answer.background = BackgroundTask(_import_for_slides)
    return answer


def _import_for_slides() -> None:
    """Import what the first slide needs."""
    for module in ("pyarrow.parquet", "pathopatch.review.values", "pathopatch.slides"):
        importlib.import_module(module)


def _facts(request: Request) -> Response:
    """Return what the browser must know of a slide before it draws it."""
    from pathopatch.review.values import available_kinds, slide_facts

    slide = _slide(request)
    return _json(slide_facts(slide) | {"gallery": available_kinds(slide)})


def _values(request: Request) -> Response:
    """Return a slide's cells and patches, in the layout of its facts."""
    from pathopatch.review.values import slide_values

    return Response(slide_values(_slide(request)), media_type="application/octet-stream")


def _tile(request: Request) -> Response:
    from pathopatch.review.tiles import tile

    level, column, row = (_number(request, name) for name in ("level", "column", "row"))
    channels = _channels(request)
    return _picture(request, lambda slide: tile(slide, level, column, row, channels=channels), "image/jpeg")


def _thumbnail(request: Request) -> Response:
    """Return the slide at the size of a row of the table."""
    from pathopatch.review.tiles import thumbnail

    return _picture(request, thumbnail, "image/jpeg")


def _patch(request: Request) -> Response:
    from pathopatch.review.values import patch_facts

    return _json(patch_facts(_slide(request), _number(request, "x"), _number(request, "y")))


def _patch_image(request: Request) -> Response:
    """Return a patch at full resolution."""
    from pathopatch.review.tiles import patch_image

    x, y, channels = _number(request, "x"), _number(request, "y"), _channels(request)
    return _picture(request, lambda slide: patch_image(slide, x, y, channels=channels), "image/png")


def _gallery(request: Request) -> Response:
    """Return the patches of one kind that most deserve a look."""
    from pathopatch.review.values import available_kinds, gallery

    slide = _slide(request)
    kind = request.query_params.get("kind", "")
    kinds = available_kinds(slide)
    if kind not in kinds:
        raise InputUnsupportedError(f"no gallery {kind!r} of this slide", remedy=f"ask for {', '.join(kinds)}")
    return _json(gallery(slide, kind))


class SlideDecisions(HTTPEndpoint):
    """The decisions on a slide."""

    def get(self, request: Request) -> Response:
        """Return the slide's decisions."""
        return _decisions(_review(request), _slide_id(request))

    async def post(self, request: Request) -> Response:
        """Record a decision, and return the slide's decisions with it."""
        return await run_in_threadpool(_decide, request, await _body(request, DecisionRequest))


async def _undo_newest(request: Request) -> Response:
    """Withdraw the newest decision of a slide that stands, and return the slide's decisions."""
    return await run_in_threadpool(_undo, request, await _body(request, UndoRequest))


def _export(request: Request) -> Response:
    """Return all decisions, as a file to keep."""
    from pathopatch.groups.decisions.table import decisions_csv, decisions_json

    kind = request.path_params["kind"]
    if kind not in ("csv", "json"):
        raise InputMissingError("there is no such page", remedy="go on from /")
    to_text, media_type = (decisions_csv, "text/csv") if kind == "csv" else (decisions_json, "application/json")
    headers = {"Content-Disposition": f'attachment; filename="review.{kind}"'}
    return Response(to_text(_review(request).decisions.rows()), media_type=media_type, headers=headers)


_SLIDE = "/api/slides/{slide_id}"
ROUTES = (
    Route("/", _page_of_cohort),
    Route("/slides/{slide_id}", _page_of_slide),
    Route("/static/{name:path}", _static),
    Route("/favicon.ico", _static),
    Route("/ready", _ready),
    Route("/api/cohort", _cohort),
    Route(_SLIDE, _facts),
    Route(f"{_SLIDE}/values", _values),
    Route(f"{_SLIDE}/tiles/{{level}}/{{column}}/{{row}}.jpg", _tile),
    Route(f"{_SLIDE}/thumbnail.jpg", _thumbnail),
    Route(f"{_SLIDE}/patches/{{x}}/{{y}}.png", _patch_image),
    Route(f"{_SLIDE}/patches/{{x}}/{{y}}", _patch),
    Route(f"{_SLIDE}/gallery", _gallery),
    Route(f"{_SLIDE}/decisions", SlideDecisions),
    Route(f"{_SLIDE}/undo", _undo_newest, methods=["POST"]),
    Route("/export/decisions.{kind}", _export),
)
"""All addresses. None shows a slide's label or macro image, which may name a patient."""


def _decide(request: Request, body: DecisionRequest) -> Response:
    review, slide_id = _review(request), _slide_id(request)
    decision = Decision(
        slide_id=slide_id,
        reviewer=review.reviewer if body.reviewer is None else body.reviewer,
        run=review.cohort.run_names()[0],
        **body.model_dump(exclude={"revision", "reviewer"}),
    )
    if decision.x is not None and decision.y is not None:
        review.cohort.open(slide_id).patch_at(decision.x, decision.y)  # raises where no patch was predicted
    # A verdict is on the map that the reviewer saw: a slide predicted again since then has another one.
    if decision.fingerprint != (review.cohort.fingerprint(slide_id) or ""):
        raise ReviewConflictError(
            "the slide was predicted again since the page was opened",
            place=slide_id,
            remedy="reload the page and look again",
            state=review.decisions.state(slide_id).to_dict(),
        )
    review.decisions.record(decision, revision=body.revision)
    return _decisions(review, slide_id, 201)


def _undo(request: Request, body: UndoRequest) -> Response:
    review, slide_id = _review(request), _slide_id(request)
    review.decisions.undo(slide_id, body.reviewer or review.reviewer, body.revision)
    return _decisions(review, slide_id, 201)


def _decisions(review: Review, slide_id: str, status: int = 200) -> Response:
    return _json(review.decisions.state(slide_id).to_dict(), status)


async def _body(request: Request, kind: type[T]) -> T:
    """Return the body of a write; HTTPException 415 if it is not JSON, InputTooLargeError if it is too long."""
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "a decision is sent as application/json")
    # Counted as it comes: a chunked body has no Content-Length that the guard could check.
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                raise body_too_large()
        return kind.model_validate_json(bytes(body), strict=True)
    except ClientDisconnect as error:
        raise InputUnsupportedError("the body ends early", remedy="send it again") from error
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, item['loc'])) or 'body'}: {item['msg']}" for item in error.errors())
        raise InputUnsupportedError("; ".join(problems)[:1000], remedy="send what the page sends") from error


def _static_files() -> dict[str, StaticFile]:
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


def _picture(request: Request, make: Callable[[ReviewedSlide], bytes], media_type: str) -> Response:
    """Return a picture of a slide; 304 if the browser has it."""
    slide_id, cohort = _slide_id(request), _review(request).cohort
    etag = f'"{cohort.fingerprint(slide_id)}"'
    return _revalidated(request, etag, lambda: make(cohort.open(slide_id)), media_type)


def _revalidated(request: Request, etag: str, make: Callable[[], bytes], media_type: str) -> Response:
    """Return content that the browser keeps but asks for again; 304 if it has this version."""
    # `no-cache`: tomorrow another work folder may answer at this address, with other slides of the same ids.
    headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    return Response(make(), media_type=media_type, headers=headers)


def _json(value: object, status: int = 200) -> Response:
    return Response(json_text(value), status, media_type="application/json")


def _review(request: Request) -> Review:
    review: Review = request.app.state.review
    return review


def _slide_id(request: Request) -> str:
    """Return the slide id of an address; InputMissingError if the cohort has no such slide."""
    slide_id: str = request.path_params["slide_id"]
    if not _review(request).cohort.has_slide(slide_id):
        raise InputMissingError(f"there is no slide {slide_id[:128]!r}", remedy="choose one of the table at /")
    return slide_id


def _slide(request: Request) -> ReviewedSlide:
    return _review(request).cohort.open(_slide_id(request))


def _number(request: Request, name: str) -> int:
    text = request.path_params[name]
    if not _NUMBER.fullmatch(text):
        raise InputMissingError(f"{name} is not a number: {text[:20]!r}", remedy="give a whole number from 0 on")
    return int(text)


def _channels(request: Request) -> tuple[str, ...] | None:
    """Return the channels of an address, None where it names none."""
    # Split before unquoting: a comma within a channel's name is %2C.
    for part in request.url.query.split("&"):
        name, _, value = part.partition("=")
        if name == "channels":
            return tuple(unquote_plus(one) for one in value.split(",")) if value else ()
    return None


async def _refusal(_request: Request, error: Exception) -> Response:
    assert isinstance(error, PathopatchError)
    state = getattr(error, "state", None)
    return error_response(error) if state is None else error_response(error, state=state)


async def _no_such_route(_request: Request, error: Exception) -> Response:
    """Return Starlette's own refusals as JSON; the headers of a 405 name the allowed methods."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        refusal: PathopatchError = InputMissingError("there is no such page", remedy="go on from /")
    else:
        refusal = InputUnsupportedError(error.detail, remedy="send the request that the page sends")
    answer = error_response(refusal, error.status_code)
    answer.headers.update(error.headers or {})
    return answer


async def _internal_error(_request: Request, error: Exception) -> Response:
    """Return the type of an unforeseen error; uvicorn writes its traceback to the terminal."""
    remedy = "see the terminal in which `pathopatch review` runs"
    return error_response(InternalError(f"{type(error).__name__} while answering", remedy=remedy))

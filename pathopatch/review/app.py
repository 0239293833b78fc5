"""Serve a work folder's predictions and decisions as a web application: START HERE.

What encodes slides is imported by the first request for one, so that the page itself opens at once.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import re
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import uvicorn
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from pathopatch.core.errors import InputMissingError, InputUnsupportedError, InternalError, PathopatchError
from pathopatch.review import decision_routes, pages, slide_routes
from pathopatch.review.cohort import Review
from pathopatch.review.connections import LimitedConnection
from pathopatch.review.http import json_answer, review_of
from pathopatch.review.security import Access, Guard, error_response

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

_log = logging.getLogger("uvicorn.error")
_BACKLOG = 128  # connections that wait to be accepted
_SHUTDOWN_S = 3  # time for answers under way when the page ends


def create_app(review: Review, access: Access) -> ASGIApp:
    """Return the application; the caller closes `review`."""
    app = Starlette(
        routes=ROUTES,
        exception_handlers={PathopatchError: _refusal, HTTPException: _no_such_route, Exception: _internal_error},
    )
    # A redirect would name a host: `//elsewhere/` must not become one.
    app.router.redirect_slashes = False
    app.state.review = review
    app.state.files = pages.static_files()
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


class _Server(uvicorn.Server):
    """A server that takes connections one by one, and says once that one failed."""

    _has_failed = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to answer."""
        asyncio.get_running_loop().set_exception_handler(self._connection_failed)
        await super().startup(sockets=sockets)
        for listener in sockets or ():
            listener.listen(_BACKLOG)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End, a little before which those are cut off who do not read their answers."""
        asyncio.get_running_loop().call_later(_SHUTDOWN_S, self._cut_off)
        await super().shutdown(sockets=sockets)

    def _cut_off(self) -> None:
        for connection in list(self.server_state.connections):
            if isinstance(connection, LimitedConnection):
                connection.transport.abort()

    def _connection_failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if isinstance(context.get("exception"), OSError):
            if not self._has_failed:
                _log.error("a connection failed, others are not told: %s", context["exception"])
            self._has_failed = True
        elif not self.should_exit:  # else what waited to be accepted finds no socket
            loop.default_exception_handler(context)


def create_server(app: ASGIApp) -> uvicorn.Server:
    """Return a server, whose ``run(sockets=[listener])`` answers until SIGINT, SIGTERM or ``should_exit``."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(asyncio.CancelledError):  # at the end; uvicorn would write a traceback for each
            await app(scope, receive, send)

    return _Server(
        uvicorn.Config(
            answer,
            loop="asyncio",
            http=LimitedConnection,
            # So many connections asyncio takes at once; where files are short, each that it cannot take makes it try
            # for as many more a second later: within three seconds 30,000 tracebacks.
            backlog=1,
            ws="none",
            lifespan="off",
            log_level="error",  # it warns of each connection that sends no HTTP
            # Addresses may contain a token, or name a patient.
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=_SHUTDOWN_S + 1,
        )
    )


async def _ready(_request: Request) -> Response:
    """Confirm that the page answers."""
    return json_answer({"ready": True})


def _cohort(request: Request) -> Response:
    """Return one row per slide, with the decision that stands."""
    review = review_of(request)
    verdicts = review.decisions.last()
    rows = [row | {"decision": verdicts.get(row["slide_id"])} for row in review.cohort.rows()]
    model, beside = review.cohort.models()
    answer = json_answer(
        {
            "rows": rows,
            "folder": review.cohort.out.resolve().name,
            "model": model,
            "beside": beside,
            "fields": list(rows[0]) if rows else [],
            "reviewer": review.reviewer,
            "note": "Research use only, not for diagnosis",
        }
    )
    # Imports take a second: done while the reviewer looks at the table.
    answer.background = BackgroundTask(_import_for_slides)
    return answer


def _model_card(request: Request) -> Response:
    """Return the card of a model, as text."""
    fingerprint: str = request.path_params["fingerprint"]
    if not re.fullmatch("[0-9a-f]{16}", fingerprint):
        raise InputMissingError("there is no such model", remedy="go on from /")
    return PlainTextResponse(review_of(request).cohort.card(fingerprint))


def _import_for_slides() -> None:
    """Import what the first slide needs."""
    for module in ("pyarrow.parquet", "pathopatch.review.values", "pathopatch.slides"):
        importlib.import_module(module)


_SLIDE = "/api/slides/{slide_id}"
ROUTES = (
    Route("/", pages.page_of_cohort),
    Route("/agreement", pages.page_of_agreement),
    Route("/slides/{slide_id}", pages.page_of_slide),
    Route("/models/{fingerprint}", _model_card),
    Route("/static/{name:path}", pages.static),
    Route("/favicon.ico", pages.static),
    Route("/ready", _ready),
    Route("/api/cohort", _cohort),
    Route(_SLIDE, slide_routes.facts),
    Route(f"{_SLIDE}/values", slide_routes.values),
    Route(f"{_SLIDE}/tiles/{{level}}/{{column}}/{{row}}.jpg", slide_routes.tile),
    Route(f"{_SLIDE}/thumbnail.jpg", slide_routes.thumbnail),
    Route(f"{_SLIDE}/patches/{{x}}/{{y}}.png", slide_routes.patch_image),
    Route(f"{_SLIDE}/patches/{{x}}/{{y}}", slide_routes.patch),
    Route(f"{_SLIDE}/gallery", slide_routes.gallery),
    Route(f"{_SLIDE}/decisions", decision_routes.SlideDecisions),
    Route(f"{_SLIDE}/undo", decision_routes.undo_newest, methods=["POST"]),
    Route("/api/agreement", decision_routes.agreement),
    Route("/export/qupath.zip", decision_routes.qupath),
    Route("/export/{name}", decision_routes.export),
)
"""All addresses. None shows a slide's label or macro image, which may name a patient."""


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

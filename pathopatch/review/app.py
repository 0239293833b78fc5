"""Open a work folder for review, build the web application, and serve it until it is interrupted."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from pathopatch.core.errors import InputMissingError, InputUnsupportedError, InternalError, PathopatchError
from pathopatch.review import routes
from pathopatch.review.routes import Review
from pathopatch.review.security import Access, Guard, error_response

if TYPE_CHECKING:
    from starlette.types import ASGIApp

_SHUTDOWN_S = 3  # time for answers under way when the page ends


@contextmanager
def open_review(
    out: Path,
    *,
    reviewer: str,
    beside: Path | None = None,
    manifest: Path | None = None,
    work: Path | None = None,
    imported: Path | None = None,
) -> Iterator[Review]:
    """Yield a work folder's predictions and decisions, and close them at the end.

    Parameters
    ----------
    out : Path
        Folder that ``predict`` wrote; gets ``review.sqlite``.
    reviewer : str
        Who decides, where the page does not say.
    beside : Path, optional
        Predictions of another model for the same slides.
    manifest : Path, optional
        Where the slides lie; takes precedence over their status files.
    work : Path, optional
        Folder with labels and groups; `out` if not given.
    imported : Path, optional
        Exported decisions to import first.

    Raises
    ------
    InputMissingError
        A file or folder is missing, or there is no prediction in `out`.
    InputUnsupportedError
        `out` cannot be written, or a decision to import is refused.
    InputCorruptError
        A file cannot be read.
    """
    from pathopatch.groups.decisions.table import read_decisions
    from pathopatch.review.cohort import open_cohort
    from pathopatch.review.decisions import DecisionLog

    with closing(open_cohort(out, beside=beside, manifest=manifest, work=work)) as cohort:

        def fingerprint_of(slide_id: str) -> str:
            return (cohort.fingerprint(slide_id) if cohort.has_slide(slide_id) else None) or ""

        with DecisionLog(out / "review.sqlite", fingerprint_of=fingerprint_of) as decisions:
            if imported is not None:
                decisions.merge(read_decisions(imported))
            yield Review(cohort=cohort, decisions=decisions, reviewer=reviewer)


def create_app(review: Review, access: Access) -> ASGIApp:
    """Return the application; the caller closes `review`."""
    app = Starlette(
        routes=routes.ROUTES,
        exception_handlers={PathopatchError: _refusal, HTTPException: _no_such_route, Exception: _internal_error},
    )
    # A redirect would name a host: `//elsewhere/` must not become one.
    app.router.redirect_slashes = False
    app.state.review = review
    app.state.files = routes.static_files()
    return Guard(app, access)


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
    return error_response(
        InternalError(
            f"{type(error).__name__} while answering", remedy="see the terminal in which `pathopatch review` runs"
        )
    )


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
            listener.listen(128)
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
            http="h11",
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

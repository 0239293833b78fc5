"""Serve an application on this machine, with connections limited in number and in time.

Half-sent requests do not use the connections up.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from pathopatch.core.errors import InputUnsupportedError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

MAX_CONNECTIONS = 100  # a browser opens six; files that one process may open are 256 or more, as a rule
_FILES_PER_CONNECTION = 4  # that the process may open for each: slides and the log are files too
REQUEST_S = 10.0  # a page's own request takes milliseconds
_log = logging.getLogger("uvicorn.error")
_BACKLOG = 128  # connections that wait to be accepted
_SHUTDOWN_S = 3  # time for answers under way when the page ends


def most_connections() -> int:
    """Return the number of connections that are held at once: fewer where this process may open few files."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return MAX_CONNECTIONS
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return max(1, min(MAX_CONNECTIONS, files // _FILES_PER_CONNECTION))


class LimitedConnection(H11Protocol):
    """An HTTP connection that is closed if no whole request arrives within `REQUEST_S`.

    Beyond `most_connections` a new one takes the place of the one that has been waiting for a request for longest.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._deadline: asyncio.TimerHandle | None = None  # None while a request is being answered

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as H11Protocol has it
        """Take the connection, and end another one if there are too many."""
        super().connection_made(transport)
        self._await_request()
        if len(self.connections) > most_connections():
            waiting = {one: one._deadline for one in self.connections if isinstance(one, LimitedConnection)}
            by_deadline = {deadline.when(): one for one, deadline in waiting.items() if deadline is not None}
            longest_waiting = by_deadline[min(by_deadline)]
            longest_waiting._stop_waiting()
            longest_waiting.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_waiting()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Handle what has arrived; a whole request is no longer waited for."""
        super().handle_events()
        if self.cycle is not None and not self.cycle.response_complete and not self.cycle.more_body:
            self._stop_waiting()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self._await_request()
        super().on_response_complete()

    def _await_request(self) -> None:
        self._stop_waiting()
        self._deadline = self.loop.call_later(REQUEST_S, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


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


def listen_at(path: Path) -> socket.socket:
    """Return a unix socket that accepts connections of its user and group; one that nobody answers at is replaced.

    InputUnsupportedError where something else lies there, or none can be made.
    """
    listener = socket.socket(socket.AF_UNIX)
    try:
        if path.is_socket() and listener.connect_ex(str(path)) == errno.ECONNREFUSED:
            path.unlink()
        listener.close()
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        path.chmod(0o660)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise InputUnsupportedError(
            f"cannot listen: {error}", place=str(path), remedy="name a file that is not there yet, in a folder of yours"
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

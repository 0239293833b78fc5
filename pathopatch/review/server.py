"""How does the review page begin and end? A socket, one process, and an end that lets answers finish."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import uvicorn

from pathopatch.core.errors import InputUnsupportedError

if TYPE_CHECKING:
    from starlette.types import ASGIApp

_GRACE_S = 3  # for answers under way when the page ends


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that takes connections at a host and port; port 0 is a free one.

    Raises
    ------
    InputUnsupportedError
        The port is taken or reserved, or the host is not this machine.
    """
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


def serve(app: ASGIApp, listener: socket.socket) -> None:
    """Answer until SIGINT or SIGTERM, which then do what they did before."""
    server_of(app).run(sockets=[listener])


def server_of(app: ASGIApp) -> uvicorn.Server:
    """Return the server of an application; it ends when ``should_exit`` is set."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            loop="asyncio",
            http="h11",
            ws="none",
            lifespan="off",
            log_level="warning",
            access_log=False,  # addresses may have a token, or name a patient
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=_GRACE_S,
        )
    )

"""Limit the connections of the review page in number and in time, so that half-sent requests do not use them up."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_CONNECTIONS = 100  # a browser opens six; files that one process may open are 256 or more, as a rule
_FILES_PER_CONNECTION = 4  # that the process may open for each: slides and the log are files too
REQUEST_S = 10.0  # a page's own request takes milliseconds


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

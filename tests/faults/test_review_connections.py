"""Half-sent requests do not keep the review page from answering others."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from review_page import DECISIONS, Page, answering, predicted

from pathopatch.review import connections
from pathopatch.review.app import create_server
from pathopatch.review.security import Access

pytestmark = [pytest.mark.fault("local-user"), pytest.mark.slow]

HALVES = [b"", b"GET / HTTP/1.1\r\nHost: 127.0", f"POST {DECISIONS} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
          "X-Pathopatch: review\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{".encode()]  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with answering(predicted(tmp_path_factory.mktemp("review")), Access()) as page:
        yield page


@contextmanager
def half_open(page: Page, half: bytes, count: int) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        opened = []
        for _ in range(count):
            opened.append(stack.enter_context(socket.create_connection(("127.0.0.1", page.port), timeout=30)))
            opened[-1].sendall(half)
        yield opened


def is_closed(connection: socket.socket) -> bool:
    """Whether the page has closed a connection; it may have answered before."""
    connection.settimeout(0.2)
    try:
        while connection.recv(4096):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        return True
    return True


@pytest.mark.parametrize("half", HALVES, ids=["nothing", "half a header", "half a body"])
def test_300_half_open_requests_leave_the_page_answering(page: Page, half: bytes) -> None:
    with half_open(page, half, 300) as opened:
        began = time.monotonic()
        for _ in range(5):
            assert page.ask("/api/cohort").status == 200
            assert page.ask("/api/slides/a/tiles/0/0/0.jpg").status == 200
        assert page.decide().status == 201
        assert time.monotonic() - began < 5
        # The oldest make room, so that the files that one process may open are not used up.
        assert all(is_closed(connection) for connection in opened[:100])


def test_connections_held_and_taken_at_once_leave_files_to_open() -> None:
    """One process may open 256 files or more."""
    server = create_server(lambda *_: None)  # type: ignore[arg-type]
    assert connections.MAX_CONNECTIONS + server.config.backlog < 256


@pytest.mark.parametrize("half", HALVES, ids=["nothing", "half a header", "half a body"])
def test_a_request_that_does_not_arrive_in_time_is_given_up(
    page: Page, half: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "REQUEST_S", 0.5)
    with half_open(page, half, 1) as (connection,):
        assert not is_closed(connection)
        time.sleep(1)
        assert is_closed(connection)


def test_a_second_request_must_arrive_in_time_too(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "REQUEST_S", 0.5)
    whole = b"GET /ready HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with half_open(page, whole + whole + whole[:20], 1) as (connection,):
        time.sleep(1.2)
        answer = connection.recv(4096)
        assert answer.count(b"HTTP/1.1 200") == 2
        assert is_closed(connection)


def test_an_answer_may_take_longer_than_a_request(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "REQUEST_S", 0.3)
    monkeypatch.setattr("pathopatch.review.values.slide_facts", lambda _slide: time.sleep(1) or {})
    assert page.ask("/api/slides/a").status == 200

"""Half-sent requests do not keep the review page from answering others."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from review_page import DECISIONS, Page, answering, needs_viewer, predicted

from pathopatch.review import server as review_server
from pathopatch.review.security import Access
from pathopatch.review.server import create_server

pytestmark = [pytest.mark.fault("local-user"), pytest.mark.slow]

HALVES = [b"", b"GET / HTTP/1.1\r\nHost: 127.0", f"POST {DECISIONS} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
          "X-Pathopatch: review\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{".encode()]  # fmt: skip


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return predicted(tmp_path_factory.mktemp("review"))


@pytest.fixture(scope="module")
def page(out: Path) -> Iterator[Page]:
    with answering(out, Access()) as page:
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


SCRIPT = "/static/vendor/openseadragon/openseadragon.min.js"  # more than the buffers of a connection


@contextmanager
def reviewing(out: Path, *before: str) -> Iterator[tuple[int, list[str]]]:
    """The port of the command in a process of its own; then, once it was terminated, the lines of its errors."""
    review = [sys.executable, "-m", "pathopatch", "review", str(out), "--port", "0", "--no-token", "--quiet"]
    with subprocess.Popen([*before, *review], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        lines: list[str] = []
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline().rsplit(":", 1)[1].strip("/\n")), lines
            process.terminate()
            lines += process.communicate(timeout=60)[1].splitlines()
        finally:
            process.kill()
    assert process.returncode == 143


def ask_without_reading(port: int, target: str) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    connection.sendall(f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode() * 40)
    return connection


@needs_viewer
def test_more_connections_than_files_are_not_told_by_tracebacks(out: Path) -> None:
    few_files = ("bash", "-c", 'ulimit -n 64; exec "$@"', "bash")
    with reviewing(out, *few_files) as (port, lines):
        opened = [ask_without_reading(port, "/ready") for _ in range(200)]
        time.sleep(3)
        for connection in opened:
            connection.close()
        assert Page(port).ask("/ready").status == 200
    assert len(lines) == 1, lines[:20]


@needs_viewer
@pytest.mark.parametrize("is_reset", [True, False])
def test_answers_that_nobody_reads_are_not_told_by_tracebacks(out: Path, is_reset: bool) -> None:
    with reviewing(out) as (port, lines):
        opened = [ask_without_reading(port, SCRIPT) for _ in range(30)]
        time.sleep(0.5)
        for connection in opened if is_reset else ():
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
        for noise in (
            b"\x16\x03\x01\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        ):
            with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
                connection.sendall(noise)
                connection.recv(4096)
    for connection in opened:
        connection.close()
    assert len(lines) == 1, lines[:20]


def test_connections_held_and_taken_at_once_leave_files_to_open() -> None:
    """One process may open 256 files or more."""
    server = create_server(lambda *_: None)  # type: ignore[arg-type]
    assert review_server.MAX_CONNECTIONS + server.config.backlog < 256


@pytest.mark.parametrize("half", HALVES, ids=["nothing", "half a header", "half a body"])
def test_a_request_that_does_not_arrive_in_time_is_given_up(
    page: Page, half: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(review_server, "REQUEST_S", 0.5)
    with half_open(page, half, 1) as (connection,):
        assert not is_closed(connection)
        time.sleep(1)
        assert is_closed(connection)


def test_a_second_request_must_arrive_in_time_too(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(review_server, "REQUEST_S", 0.5)
    whole = b"GET /ready HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with half_open(page, whole + whole + whole[:20], 1) as (connection,):
        time.sleep(1.2)
        answer = connection.recv(4096)
        assert answer.count(b"HTTP/1.1 200") == 2
        assert is_closed(connection)


def test_an_answer_may_take_longer_than_a_request(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(review_server, "REQUEST_S", 0.3)
    monkeypatch.setattr("pathopatch.review.values.browser_facts", lambda _slide: time.sleep(1) or {})
    assert page.ask("/api/slides/a").status == 200

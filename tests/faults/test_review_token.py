"""The review page is open, on this machine or from another, only with its token."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from review_page import DECISIONS, WRITE, Page, answering, predicted

from pathopatch.core.errors import InputUnsupportedError
from pathopatch.review.security import LOOPBACK, Access, access_for

pytestmark = pytest.mark.fault("review-page")

TOKEN = "t0ken-of-the-test"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    access = Access(hosts=LOOPBACK | {"lab"}, any_address=True, token=TOKEN, cookie="review-cookie")
    with answering(predicted(tmp_path_factory.mktemp("review")), access) as page:
        yield page


@pytest.mark.parametrize("target", ["/", "/ready", "/api/cohort", "/static/review.css", "/nowhere", DECISIONS])
@pytest.mark.parametrize("offered", ["", "wrong", TOKEN[:-1], TOKEN + "x", "t\u00f6ken"])
def test_other_machines_get_nothing_without_the_token(shared: Page, target: str, offered: str) -> None:
    sent = offered.encode("utf-8").decode("latin-1")
    assert shared.ask(target, headers={"Cookie": f"review-cookie={sent}"}).status == 403
    if sent.isascii():
        assert shared.ask(f"{target}?token={offered}").status == 403


def test_the_token_in_the_address_becomes_an_httponly_cookie(shared: Page) -> None:
    welcome = shared.ask(f"/slides/a?token={TOKEN}&x=%22%3E", headers={"Host": "lab:8000"})
    assert welcome.status == 200
    assert TOKEN.encode() not in welcome.body
    assert b'url=/slides/a?x=%22%3E"' in welcome.body
    cookie, *rules = welcome.headers["set-cookie"].split("; ")
    assert cookie == f"review-cookie={TOKEN}"
    assert {rule.lower() for rule in rules} == {"httponly", "path=/", "samesite=strict"}
    with_cookie = {"Cookie": cookie}
    assert shared.ask("/api/cohort", headers=with_cookie).status == 200
    assert shared.ask("/api/cohort", headers=with_cookie | {"Host": "10.0.0.5:8000"}).status == 200
    assert shared.ask("/api/cohort", headers=with_cookie | {"Host": "evil.example"}).status == 403
    assert shared.ask(DECISIONS, method="POST", headers=with_cookie).status == 403
    unknown = shared.ask(DECISIONS, method="POST", headers=WRITE, body=b"{}")
    assert unknown.status == 403
    assert shared.ask(DECISIONS, method="POST", headers=WRITE | with_cookie, body=b"{}").status == 400


def test_a_welcome_leads_to_no_other_host(shared: Page) -> None:
    assert b"url=/evil.example/" in shared.ask(f"//evil.example/?token={TOKEN}").body


@pytest.mark.parametrize(
    ("host", "bound"),
    [("127.0.0.1", "127.0.0.1"), ("localhost", "::1"), ("::1", "::1"), ("LocalHost", "127.0.0.1")],
)
def test_this_machines_own_address_needs_a_token_too(host: str, bound: str) -> None:
    access = access_for(host, bound, 8000)
    assert len(access.token) >= 40
    assert (access.hosts, access.any_address) == (LOOPBACK, False)
    assert access_for(host, bound, 8000, with_token=False).token == ""


def test_without_a_token_no_other_machine_is_let_in() -> None:
    for host, bound in (("0.0.0.0", "0.0.0.0"), ("lab", "10.0.0.5"), ("localhost", "10.0.0.5")):
        with pytest.raises(InputUnsupportedError, match="--no-token would let everybody in"):
            access_for(host, bound, 8000, with_token=False)


@pytest.mark.parametrize(
    ("host", "bound", "name"),
    [
        ("0.0.0.0", "0.0.0.0", socket.gethostname().lower()),
        ("::", "::", "[fe80::1]"),
        ("10.0.0.5", "10.0.0.5", "10.0.0.5"),
        ("Lab.example", "10.0.0.5", "lab.example"),
        ("localhost", "10.0.0.5", "localhost"),
        ("fe80::1", "fe80::1", "[fe80::1]"),
    ],
)
def test_every_other_address_gets_a_token_of_its_own(host: str, bound: str, name: str) -> None:
    first, second = access_for(host, bound, 8000), access_for(host, bound, 8000)
    assert len(first.token) >= 40
    assert first.token != second.token
    assert first.token not in repr(first)
    assert first.is_host(name)
    assert not first.is_host("evil.example")

"""Requests that the review page refuses, sent as raw HTTP, and its token; a refusal writes nothing."""

from __future__ import annotations

import csv
import io
import json
import shutil
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from review_page import DECISIONS, WRITE, Answer, Page, answering, decide_as, predicted
from spoilt_status import SPOILT

from pathopatch.core.errors import InputUnsupportedError
from pathopatch.core.locks import REVIEW, is_locked
from pathopatch.core.status import update_status
from pathopatch.review import app
from pathopatch.review.app import ROUTES
from pathopatch.review.security import LOOPBACK, Access, access_for, proxy_access

pytestmark = pytest.mark.fault("review-page")

MODULE = Path(app.__file__).name  # what lies above the static files
RED = (255, 0, 0)  # of the label and macro images in the slide's file
HEADERS = {
    "content-security-policy": "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return predicted(tmp_path_factory.mktemp("review"))


@pytest.fixture(scope="module")
def page(folder: Path) -> Iterator[Page]:
    with answering(folder, Access()) as page:
        yield page


@pytest.fixture
def out(folder: Path, tmp_path: Path) -> Path:
    """A copy of the work folder that may be spoilt."""
    return shutil.copytree(folder, tmp_path / "out", ignore=shutil.ignore_patterns("review.sqlite"))


NOWHERE = [
    "/api/slides/..%2fa",
    "/api/slides/a%2F..%2fa",
    "/api/slides/..%5ca",
    "/api/slides/a%2Fvalues",  # what it would mean with the slash
    "/static%2ffavicon.svg",
    "/api/slides/%2e%2e/values",
    "/api/slides/..%252fa",
    "/api/slides/a%00",
    "/api/slides/A",
    "/api/slides/nobody/tiles/0/0/0.jpg",
    "/slides/nobody",
    "/slides/..%2f..%2fcohort.csv",
    f"/static/../{MODULE}",
    f"/static/%2e%2e/{MODULE}",
    f"/static/..%2f{MODULE}",
    "/static//etc/passwd",
    "/static/npm/package.json",
    "/static/",
    "/api/slides/a/tiles/99/0/0.jpg",
    "/api/slides/a/tiles/-1/0/0.jpg",
    "/api/slides/a/tiles/0/-1/0.jpg",
    "/api/slides/a/tiles/0/0/-1.jpg",
    "/api/slides/a/tiles/0/0/1.jpg",
    "/api/slides/a/tiles/0/0/" + "9" * 5000 + ".jpg",
    "/api/slides/a/tiles/0/0/0x0.jpg",
    "/api/slides/a/tiles/0/0/%D9%A1.jpg",  # a one in Arabic digits
    "/api/slides/a/patches/-16/0",
    "/api/slides/a/patches/1/0",
    "/api/slides/a/patches/1/0.png",
    "/api/slides/a/patches/0/0.png/../../../values",
    "/api/slides/a/label",
    "/api/slides/a/macro.jpg",
    "/api/slides/a/associated/label",
    "/export/decisions.sqlite",
    "/review.sqlite",
    "http://evil.example/",
]


@pytest.mark.parametrize("target", NOWHERE, ids=lambda target: target[:60])
def test_what_is_not_there_is_not_found_however_it_is_spelt(page: Page, target: str) -> None:
    answer = page.ask(target)
    assert answer.status == 404
    assert answer.json["code"] == "INPUT_MISSING"
    assert answer.json["remedy"]


FOREIGN = ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "evil@127.0.0.1", "localhost.", ""]


@pytest.mark.parametrize("host", [*FOREIGN, "0.0.0.0", "192.168.1.7", "127.0.0.1:8:8", "[::1", "[::2]", "127.0.0.1/"])
def test_a_foreign_host_header_is_refused_against_dns_rebinding(page: Page, host: str) -> None:
    answer = page.ask("/api/cohort", headers={"Host": host})
    assert (answer.status, answer.json["code"]) == (403, "REVIEW_REFUSED")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:9000", "LOCALHOST", "[::1]:8000"])
def test_this_machines_own_names_are_answered_behind_any_port(page: Page, host: str) -> None:
    assert page.ask("/ready", headers={"Host": host}).json == {"ready": True}


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Pathopatch": ""},
        {"X-Pathopatch": "yes"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"},
        {"Host": "evil.example"},
    ],
    ids=str,
)
def test_a_cross_site_write_is_refused_and_not_recorded(page: Page, headers: dict[str, str]) -> None:
    before = page.revision
    answer = page.decide(headers)
    assert (answer.status, answer.json["code"]) == (403, "REVIEW_REFUSED")
    assert page.revision == before


def test_a_preflight_of_another_site_is_refused_and_promises_nothing(page: Page) -> None:
    headers = {"Origin": "http://evil.example", "Access-Control-Request-Headers": "x-pathopatch"}
    answer = page.ask(DECISIONS, method="OPTIONS", headers=headers)
    assert answer.status == 403
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_another_sites_page_may_not_make_this_one_work(page: Page) -> None:
    for headers in ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, {"Origin": "http://evil.example"}):
        assert page.ask("/api/slides/a/tiles/0/0/0.jpg", headers=headers).status == 403
    followed = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}  # a link in a mail
    assert page.ask("/", headers=followed).status == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", ""])
def test_a_body_of_another_type_is_415(page: Page, kind: str) -> None:
    before = page.revision
    assert page.decide({"Content-Type": kind}).status == 415
    assert page.revision == before


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("revision", "0"), ("revision", None), ("revision", 0.5), ("revision", "left out"), ("verdict", "love"),
        ("verdict", "tumour"), ("verdict", "undo"), ("verdict", 1), ("threshold", 1.5), ("threshold", float("nan")),
        ("fingerprint", None), ("x", 0), ("x", -16), ("comment", "a\0b"), ("comment", ["a"]), ("comment", "a" * 20_000),
        ("reviewer", 1), ("slide_id", "b"), ("made", "2020-01-01"), ("undoes", 1),
    ],
)  # fmt: skip
def test_a_decision_with_an_invalid_value_is_400_and_not_recorded(page: Page, field: str, value: object) -> None:
    before = page.revision
    answer = page.decide(**{field: value})
    assert (answer.status, answer.json["code"]) == (400, "INPUT_UNSUPPORTED")
    assert page.revision == before


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"revision":', b"[" * 60_000, b'"\\ud800"'])
def test_a_body_that_is_no_decision_is_400(page: Page, body: bytes) -> None:
    for target in (DECISIONS, "/api/slides/a/undo"):
        assert page.ask(target, method="POST", headers=WRITE, body=body).status == 400


def test_a_body_over_64_kib_is_413_with_or_without_its_length(page: Page) -> None:
    before = page.revision
    size = 64 * 1024
    assert page.ask(DECISIONS, method="POST", headers=WRITE, body=b" " * size).status == 400  # read, and no decision
    assert page.ask(DECISIONS, method="POST", headers=WRITE, body=b" " * (size + 1)).status == 413
    chunk = b"%x\r\n%b\r\n0\r\n\r\n" % (size + 1, b" " * (size + 1))
    unsaid = WRITE | {"Transfer-Encoding": "chunked"}
    assert page.ask(DECISIONS, method="POST", headers=unsaid, body=chunk).status == 413
    assert page.revision == before


def test_a_body_that_is_announced_too_long_is_refused_before_it_is_sent(page: Page) -> None:
    for method, target in (("POST", DECISIONS), ("GET", "/")):
        assert page.ask(target, method=method, headers=WRITE | {"Content-Length": "65537"}).status == 413


@pytest.mark.parametrize(
    ("method", "target", "allowed"),
    [
        ("PUT", DECISIONS, {"GET", "HEAD", "POST"}),
        ("DELETE", DECISIONS, {"GET", "HEAD", "POST"}),
        ("POST", "/api/cohort", {"GET", "HEAD"}),
        ("PATCH", "/", {"GET", "HEAD"}),
        ("GET", "/api/slides/a/undo", {"POST"}),
    ],
)
def test_a_method_that_an_address_does_not_have_is_405(page: Page, method: str, target: str, allowed: set[str]) -> None:
    answer = page.ask(target, method=method, headers=WRITE, body=b"{}")
    assert answer.status == 405
    assert answer.json["code"] == "INPUT_UNSUPPORTED"
    assert set(answer.headers["allow"].split(", ")) == allowed


def test_a_write_on_an_old_revision_gets_409_and_the_current_decision(page: Page) -> None:
    seen = page.revision
    assert page.decide(verdict="flag").status == 201
    late = page.decide(revision=seen, verdict="reject")
    assert (late.status, late.json["code"]) == (409, "REVIEW_CONFLICT")
    assert late.json["state"]["revision"] == seen + 1
    assert late.json["state"]["decision"]["verdict"] == "flag"
    other = page.decide(fingerprint="of another heatmap")
    assert (other.status, other.json["state"]) == (409, late.json["state"])
    assert page.decide(verdict="reject").json["decision"]["verdict"] == "reject"


def test_a_script_in_a_comment_comes_back_as_the_text_it_is(page: Page, folder: Path) -> None:
    script = "<script>alert(1)</script>\"'\u2028=1+1"
    for field in ("comment", "reason", "reviewer"):
        answer = decide_as(folder, script) if field == "reviewer" else page.decide(**{field: script})
        assert (answer.status, answer.headers["content-type"]) == (201, "application/json")
        assert answer.json["decision"][field] == (script.replace("\u2028", " ") if field == "reviewer" else script)
    for target in (DECISIONS, "/api/cohort"):
        answer = page.ask(target)
        assert answer.headers["content-type"].split(";")[0] == "application/json"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert script in json.dumps(answer.json, ensure_ascii=False).replace('\\"', '"')
    exported = page.ask("/export/decisions.csv")
    assert exported.headers["content-disposition"] == 'attachment; filename="review.csv"'
    rows = list(csv.DictReader(io.StringIO(exported.body.decode())))
    assert script in [row["comment"] for row in rows]


def test_a_patch_label_is_of_a_patch_that_is_there(page: Page) -> None:
    corner = page.ask("/api/slides/a/gallery?kind=near-threshold").json[0]
    x, y = corner["x"], corner["y"]
    answer = page.decide(verdict="unsure", x=x, y=y)
    assert answer.status == 201
    assert [(row["x"], row["y"], row["verdict"]) for row in answer.json["patches"]] == [(x, y, "unsure")]
    assert page.decide(verdict="unsure", x=x + 1, y=y).status == 404
    undone = page.ask(
        "/api/slides/a/undo", method="POST", headers=WRITE, body=json.dumps({"revision": page.revision}).encode()
    )
    assert (undone.status, undone.json["patches"]) == (201, [{"x": x, "y": y, "region": "", "verdict": None}])
    assert page.ask(DECISIONS).json["patches"] == []


@pytest.mark.fault("foreign-undo")
def test_nobody_decides_or_withdraws_in_a_colleagues_name(out: Path) -> None:
    assert decide_as(out, "Ada", verdict="flag").status == 201
    with answering(out, Access(), "Bo") as page:

        def undo(**named: str) -> Answer:
            body = json.dumps({"revision": page.revision, **named}).encode()
            return page.ask("/api/slides/a/undo", method="POST", headers=WRITE, body=body)

        for refused in (page.decide(reviewer="Ada"), page.decide(reviewer=" "), undo(reviewer="Ada")):
            assert (refused.status, refused.json["code"]) == (403, "REVIEW_REFUSED")
        assert undo().json["code"] == "INPUT_MISSING"
        state = page.ask(DECISIONS).json
        assert [(row["reviewer"], row["verdict"]) for row in state["history"]] == [("Ada", "flag")]
        assert page.decide(reviewer=" Bo").status == 201
    with pytest.raises(InputUnsupportedError, match="nobody is named"):
        decide_as(out, " ")


@pytest.mark.parametrize(
    ("target", "status"),
    [("/", 200), ("/ready", 200), ("/favicon.ico", 200), ("/static/favicon.svg", 200), ("/api/cohort", 200),
     ("/api/slides/a/values", 200), ("/api/slides/a/tiles/0/0/0.jpg", 200), ("/slides/a", 200),
     ("/export/decisions.csv", 200), ("/nowhere", 404), ("/api/slides/..%2fa", 404)],
)  # fmt: skip
def test_every_answer_carries_the_headers_that_keep_it_on_this_page(page: Page, target: str, status: int) -> None:
    for method in ("GET", "HEAD"):
        answer = page.ask(target, method=method)
        assert answer.status == status
        assert answer.headers.items() >= HEADERS.items()
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert "server" not in answer.headers
        is_kept = target.endswith((".jpg", ".ico", ".svg"))  # a picture, but no page that names a slide
        cache_control = "private, no-cache" if is_kept else "no-store"
        assert answer.headers["cache-control"] == cache_control


def test_refusals_carry_the_same_headers(page: Page) -> None:
    refusals = [
        page.ask("/", headers={"Host": "evil.example"}),
        page.ask(DECISIONS, method="POST"),
        page.ask("/", method="PUT", headers=WRITE),
        page.decide({"Content-Type": "text/plain"}),
        page.decide(revision=999),
        page.ask(DECISIONS, method="POST", headers=WRITE, body=b" " * 70_000),
    ]
    assert [answer.status for answer in refusals] == [403, 403, 405, 415, 409, 413]
    for answer in refusals:
        assert answer.headers.items() >= HEADERS.items()
        assert answer.headers["cache-control"] == "no-store"


def test_a_fault_of_the_page_tells_no_more_than_its_kind(
    page: Page, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_slide: object) -> None:
        raise RuntimeError("/home/somebody/secret.svs")

    monkeypatch.setattr("pathopatch.review.values.browser_facts", broken)
    answer = page.ask("/api/slides/a")
    assert (answer.status, answer.json["code"]) == (500, "INTERNAL")
    assert b"secret" not in answer.body
    assert answer.headers.items() >= HEADERS.items()


def test_a_picture_that_the_browser_has_is_not_sent_again(page: Page) -> None:
    for target in ("tiles/0/0/0.jpg", "thumbnail.jpg"):
        first = page.ask(f"/api/slides/a/{target}")
        again = page.ask(f"/api/slides/a/{target}", headers={"If-None-Match": first.headers["etag"]})
        assert (first.status, again.status, again.body) == (200, 304, b"")
        assert page.ask(f"/api/slides/a/{target}", headers={"If-None-Match": '"another"'}).body == first.body


def test_no_route_shows_what_stands_on_a_slides_label(page: Page) -> None:
    """The label and macro images of the file are plain red."""
    facts = page.ask("/api/slides/a").json
    patches = [(row["x"], row["y"]) for row in page.ask("/api/slides/a/gallery?kind=near-threshold").json]
    pictures = [f"tiles/{level}/0/0.jpg" for level in range(facts["tile"]["max_level"] + 1)]
    pictures += ["thumbnail.jpg", "tissue.png", *(f"patches/{x}/{y}.png" for x, y in patches)]
    for target in pictures:
        picture = np.asarray(Image.open(io.BytesIO(page.ask(f"/api/slides/a/{target}").body)).convert("RGB"), int)
        assert not (np.abs(picture - RED).max(axis=2) < 40).any(), target
    assert {route.path for route in ROUTES if route.path.endswith((".jpg", ".png"))} == {
        "/api/slides/{slide_id}/tiles/{level}/{column}/{row}.jpg",
        "/api/slides/{slide_id}/thumbnail.jpg",
        "/api/slides/{slide_id}/tissue.png",
        "/api/slides/{slide_id}/patches/{x}/{y}.png",
    }


@pytest.mark.fault("review-log")
def test_a_page_whose_log_was_removed_says_so_and_acknowledges_nothing(out: Path, tmp_path: Path) -> None:
    with answering(out, Access()) as page:
        log = out / "review.sqlite"
        assert page.decide(comment="kept").status == 201
        log.rename(tmp_path / "away.sqlite")
        answer = page.decide()
        assert (answer.status, answer.json["code"]) == (409, "INPUT_CHANGED")
        assert "it was removed; nothing was written" in answer.json["message"]
        assert b"kept" in page.ask("/export/decisions.csv").body
        assert not log.exists()
        (tmp_path / "away.sqlite").rename(log)
        assert page.decide().status == 201


@pytest.mark.fault("review-log")
def test_a_page_answers_at_once_while_its_log_is_locked(out: Path) -> None:
    with answering(out, Access()) as page:
        assert page.decide(comment="kept").status == 201
        other = sqlite3.connect(out / "review.sqlite", isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        answers: list[int] = []
        late = threading.Thread(target=lambda: answers.append(page.decide().status))
        late.start()
        while not is_locked(out, REVIEW):
            time.sleep(0.01)
        began = time.monotonic()
        for target in ("/", "/api/cohort", "/api/slides/a", DECISIONS, "/export/decisions.csv"):
            assert page.ask(target).status == 200
        assert time.monotonic() - began < 2
        assert answers == []
        other.execute("COMMIT")
        other.close()
        late.join(30)
        assert answers == [201]


@pytest.mark.fault("spoilt-status")
@pytest.mark.parametrize("spoil", SPOILT, ids=lambda spoil: spoil.__name__)
def test_a_spoilt_status_file_costs_its_slide_and_not_the_page(out: Path, spoil: Callable[[Path], object]) -> None:
    update_status(out, "b", "predict", {"state": "failed", "code": "TIMEOUT", "message": "late"})
    with answering(out, Access()) as page:
        before = page.ask("/api/cohort").json["rows"]
        path = out / "status" / "b.json"
        path.unlink()
        spoil(path)
        own, spoilt = page.ask("/api/cohort").json["rows"]
        assert (spoilt["slide_id"], spoilt["state"]) == ("b", "failed")
        assert spoilt["code"] in ("INPUT_CORRUPT", "INPUT_UNSUPPORTED")
        assert "status unreadable" in spoilt["message"]
        assert own == before[0]
        assert page.ask("/api/slides/a").status == 200
        assert page.ask("/slides/b").status == 200
    with answering(out, Access()) as page:
        assert [row["slide_id"] for row in page.ask("/api/cohort").json["rows"]] == ["a", "b"]


TOKEN, OTHER = "t0ken-of-the-test", "of-the-other"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    access = Access(
        hosts=LOOPBACK | {"lab"}, any_address=True, tokens={"Ada": TOKEN, "Bo": OTHER}, cookie="review-cookie"
    )
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
    access = access_for(host, bound, 8000, {"Ada": TOKEN})
    assert (access.hosts, access.any_address) == (LOOPBACK, False)
    assert access_for(host, bound, 8000, {}).reader_of("") is None


def test_without_a_token_no_other_machine_is_let_in() -> None:
    for host, bound in (("0.0.0.0", "0.0.0.0"), ("lab", "10.0.0.5"), ("localhost", "10.0.0.5")):
        with pytest.raises(InputUnsupportedError, match="--no-token would let everybody in"):
            access_for(host, bound, 8000, {})


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
def test_every_other_address_answers_under_its_own_name_alone(host: str, bound: str, name: str) -> None:
    access = access_for(host, bound, 8000, {"Ada": TOKEN})
    assert TOKEN not in repr(access)
    assert access.is_host(name)
    assert not access.is_host("evil.example")


def test_two_readers_of_one_page_decide_each_in_their_own_name_and_refuse_each_other_nothing(shared: Page) -> None:
    ada, bo = (replace(shared, cookie=f"review-cookie={token}") for token in (TOKEN, OTHER))
    seen = ada.revision
    assert (ada.decide(revision=seen).status, bo.decide(revision=seen, verdict="reject").status) == (201, 201)
    again = bo.decide(revision=seen, verdict="flag")  # from a second window of Bo's
    assert (again.status, again.json["code"]) == (409, "REVIEW_CONFLICT")
    history = ada.ask(DECISIONS).json["history"]
    assert [(row["reviewer"], row["verdict"]) for row in history] == [("Bo", "reject"), ("Ada", "accept")]
    assert bo.decide(reviewer="Ada").status == 403
    assert [each.ask("/api/cohort").json["reviewer"] for each in (ada, bo)] == ["Ada", "Bo"]
    newest = ada.ask("/api/newest").json
    assert bo.decide(verdict="flag").status == 201
    assert ada.ask("/api/newest").json["newest"] == newest["newest"] + 1


@pytest.mark.parametrize(
    ("sent", "name"),
    [("Müller".encode(), "Müller"), (b"M\xfcller", "Müller"), ("Zoe\u0308\u202e ".encode(), "Zoë"), (b"ADA", "Ada")],
)
def test_a_header_names_one_reader_in_one_form(out: Path, sent: bytes, name: str) -> None:
    decide_as(out, "Ada")
    with answering(out, proxy_access("X-Remote-User")) as page:
        named = {"X-Remote-User": sent.decode("latin-1")}
        assert page.ask("/api/cohort", headers=named).json["reviewer"] == name
        assert page.ask("/api/cohort", headers=named | {"x-remote-user": "bo"}).json["code"] == "REVIEW_REFUSED"


@pytest.mark.parametrize("header", ["", " ", "Host", "cookie", "Sec-Fetch-Site", "Accept", "X-Forwarded-For", "a:b"])
def test_a_header_that_browsers_send_names_nobody(header: str, said: Callable, tmp_path: Path) -> None:
    with pytest.raises(InputUnsupportedError, match="no header that the proxy alone sets"):
        proxy_access(header)
    told = said("review", tmp_path, "--socket", tmp_path / "s", "--trust-header", header, code=1).err
    assert "no header that the proxy alone sets" in told


def test_behind_a_proxy_the_header_names_the_reader(out: Path) -> None:
    with answering(out, Access(header="X-Remote-User")) as page:
        named = {"X-Remote-User": "dr. b", "Host": "review.hospital.example"}
        assert page.ask("/api/cohort", headers=named).json["reviewer"] == "dr. b"
        for nobody in ({}, {"X-Remote-User": " "}):
            assert page.ask("/api/cohort", headers=nobody).json["code"] == "REVIEW_REFUSED"
        elsewhere = named | {"Origin": "https://evil.example"}
        assert page.ask(DECISIONS, method="POST", headers=WRITE | elsewhere, body=b"{}").status == 403

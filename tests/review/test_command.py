"""The command `pathopatch review` from the first line that it prints to its end."""

from __future__ import annotations

import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from review_page import DECISIONS, WRITE, Page, needs_viewer, predicted

from pathopatch.core.errors import InputUnsupportedError
from pathopatch.groups.decisions.log import read_log
from pathopatch.groups.decisions.table import read_decisions
from pathopatch.review import viewer
from pathopatch.review.links import reader_links
from pathopatch.review.server import listen


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return predicted(tmp_path_factory.mktemp("review"))


@contextmanager
def reviewing(*arguments: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command in a process of its own, once it has printed its address."""
    command = [sys.executable, "-m", "pathopatch", "review", *map(str, arguments)]
    started = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_DFL
        ),  # as a terminal has it: a job behind ignores it
    )
    try:
        assert started.stdout is not None
        yield started, started.stdout.readline().strip()
    finally:
        started.kill()
        started.communicate()


@pytest.mark.fault("sigterm")
@needs_viewer
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_page_answers_once_its_address_is_printed_and_ends_cleanly(
    out: Path, number: signal.Signals, code: int
) -> None:
    with reviewing(out, "--port", 0, "--reader", "Ada") as (process, address):
        page = page_at(address)
        assert address == f"http://127.0.0.1:{page.port}/?{urlsplit(address).query}"
        assert page.ask("/ready").json == {"ready": True}
        assert page.decide(comment=number.name).status == 201
        process.send_signal(number)
        errors = process.communicate(timeout=60)[1]
    assert process.returncode == code
    assert "Traceback" not in errors
    assert errors.splitlines()[-1].endswith(f"; every decision is in {out / 'review.sqlite'}")
    last = read_log(out / "review.sqlite")[-1]
    assert (last.reviewer, last.verdict, last.comment) == ("Ada", "accept", number.name)


def replace_by_an_older_copy(log: Path, older: bytes) -> None:
    log.unlink()
    log.write_bytes(older)


@pytest.mark.fault("review-log")
@needs_viewer
@pytest.mark.parametrize(
    "lose",
    [
        lambda log, _: log.unlink(),
        replace_by_an_older_copy,
        lambda log, _: log.parent.rename(log.parent.with_name("moved")),
    ],
)
def test_the_end_says_where_decisions_are_whose_log_was_lost(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lose: Callable[[Path, bytes], object]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "out"
    shutil.copytree(out, folder, ignore=shutil.ignore_patterns("review.sqlite*"))
    log = folder / "review.sqlite"
    with reviewing("out", "--port", 0, "--reader", "Ada") as (process, address):
        older = log.read_bytes()
        page = page_at(address)
        assert page.decide(comment="kept").status == 201
        lose(log, older)
        process.send_signal(signal.SIGINT)
        last = process.communicate(timeout=60)[1].splitlines()[-1]
    (kept,) = tmp_path.rglob("review-kept-*.csv")
    assert "every decision is in out/review.sqlite" not in last
    assert [row.comment for row in read_decisions(kept)] == ["kept"]
    if not folder.exists():
        return
    assert last.endswith(f"; to go on: pathopatch review out --import {kept.relative_to(tmp_path)}")
    log.unlink(missing_ok=True)
    with reviewing(*shlex.split(last.rpartition("review ")[2]), "--port", 0) as (_, address):
        assert page_at(address).ask(DECISIONS).json["decision"]["comment"] == "kept"


@needs_viewer
def test_the_end_of_a_page_without_decisions_names_no_log(out: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    shutil.copytree(out, folder, ignore=shutil.ignore_patterns("review.sqlite*"))
    with reviewing(folder, "--port", 0) as (process, _):
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60)[1].endswith("interrupted; nobody has decided anything\n")


def page_at(address: str) -> Page:
    """The page of a printed address, as a browser that has opened it."""
    split = urlsplit(address)
    page = Page(split.port or 0)
    opened = page.ask(f"/?{split.query}")
    return Page(page.port, cookie=opened.headers["set-cookie"].split(";")[0])


@pytest.mark.fault("local-user")
@needs_viewer
def test_another_local_user_needs_the_printed_address(out: Path) -> None:
    with reviewing(out, "--port", 0) as (_, address):
        stranger, page = Page(urlsplit(address).port or 0), page_at(address)
        before = page.revision
        for target in ("/", "/ready", "/api/cohort", "/slides/a", DECISIONS, "/export/decisions.csv"):
            assert stranger.ask(target).json["code"] == "REVIEW_REFUSED"
        assert stranger.ask(DECISIONS, method="POST", headers=WRITE, body=b"{}").status == 403
        assert page.decide().status == 201
        assert page.revision == before + 1
    with reviewing(out, "--port", 0, "--no-token") as (_, address):
        assert address.endswith("/")
        assert Page(urlsplit(address).port or 0).ask("/ready").status == 200


def test_what_cannot_tell_readers_apart_takes_one(said: Callable) -> None:
    for one in (("out", "--no-token"), ("--pack", "pack")):
        told = said("review", *one, "--reader", "Ada", "--reader", "Bo", code=2).err
        assert "several readers go without" in told
    said("review", "out", "--socket", "page", code=2)


@needs_viewer
def test_each_reader_has_a_link_that_outlasts_the_page_until_new_ones_are_asked_for(out: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(out, tmp_path / "out", ignore=shutil.ignore_patterns("review.sqlite*"))
    both = ("--reader", "Ada", "--reader", "Bo", "--port")
    with reviewing(folder, *both, 0) as (process, ada):
        assert process.stdout is not None
        links = dict(line.strip().split(": ", 1) for line in (ada, process.stdout.readline()))
        assert [page_at(link).ask("/api/cohort").json["reviewer"] for link in links.values()] == ["Ada", "Bo"]
        port = urlsplit(links["Bo"]).port
        bo = page_at(links["Bo"])
        assert bo.decide().status == 201
    with reviewing(folder, *both, port) as (_, again):
        assert again == f"Ada: {links['Ada']}"
        assert bo.ask(DECISIONS).json["decision"]["reviewer"] == "Bo"  # with the cookie of before
    with reviewing(folder, *both, port, "--new-links") as (_, revoked):
        assert revoked.startswith("Ada: ")
        assert revoked != again
        assert bo.ask(DECISIONS).json["code"] == "REVIEW_REFUSED"


def test_links_are_for_their_user_alone_and_new_where_none_can_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    tokens, file = reader_links(tmp_path, [" Ada ", "Bo"])
    assert file is not None
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o077) == (0o600, 0)
    assert reader_links(tmp_path, ["Bo", "Cy"]).tokens["Bo"] == tokens["Bo"]
    assert reader_links(tmp_path, ["Ada"]).tokens == {"Ada": tokens["Ada"]}
    assert reader_links(tmp_path / "other", ["Ada"]).tokens != {"Ada": tokens["Ada"]}
    file.write_text("damaged")
    assert reader_links(tmp_path, ["Ada"]).tokens != {"Ada": tokens["Ada"]}
    assert reader_links(tmp_path, ["ADA"]).tokens == reader_links(tmp_path, ["\u202aAda\n"]).tokens
    zoe = reader_links(tmp_path, ["Zo\u00eb"]).tokens
    assert reader_links(tmp_path, ["Zoe\u0308"]).tokens == zoe
    for refused in (["Ada", "ada "], [" "], ["a" * 5000]):
        with pytest.raises(InputUnsupportedError, match="twice the same reader|nobody is named|5000 characters"):
            reader_links(tmp_path, refused)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert reader_links(tmp_path, ["Ada"]).file is None


@needs_viewer
def test_another_host_prints_a_token_that_opens_the_page(out: Path) -> None:
    with reviewing(out, "--host", "0.0.0.0", "--port", 0, "--quiet") as (process, address):
        split = urlsplit(address)
        page = Page(split.port or 0)
        assert page.ask("/ready").status == 403
        assert page.ask(f"/?{split.query}").status == 200
        process.terminate()
        assert "not encrypted" in process.communicate(timeout=60)[1]


def test_a_port_that_is_taken_is_an_error_with_a_remedy(
    out: Path, said: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(viewer, "is_installed", lambda: True)
    with listen("127.0.0.1", 0) as taken:
        printed = said("review", out, "--port", taken.getsockname()[1], code=1)
    assert "choose another --port" in printed.err
    assert printed.out == ""


def test_without_its_viewer_the_command_names_the_line_that_brings_it(
    out: Path, said: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(viewer, "is_installed", lambda: False)
    assert "Remedy: " + viewer.remedy() in said("review", out, "--port", 0, code=1).err


@pytest.mark.parametrize("missing", ["starlette", "uvicorn"])
def test_without_its_extra_the_command_names_it(
    out: Path, said: Callable, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == missing else object())
    assert "pip install starlette uvicorn" in said("review", out, "--port", 0, code=1).err


def test_a_folder_without_predictions_is_an_error_and_gets_no_log(
    tmp_path: Path, said: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(viewer, "is_installed", lambda: True)
    assert "INPUT_MISSING" in said("review", tmp_path, "--port", 0, code=1).err
    assert list(tmp_path.iterdir()) == []


def test_neither_torch_nor_what_trains_is_loaded_to_show_a_slide(out: Path) -> None:
    look = f"""
import sys
from pathlib import Path
from pathopatch.review.app import create_app
from pathopatch.review.reviewed_cohort import open_review
from pathopatch.review.security import Access
from pathopatch.review.values import browser_facts, slide_values
from pathopatch.review.tiles import slide_thumbnail, tile_image
with open_review(Path({str(out)!r}), reviewer="me") as review:
    create_app(review, Access())
    review.cohort.rows()
    slide = review.cohort.open("a")
    browser_facts(slide), slide_values(slide), tile_image(slide, 0, 0, 0), slide_thumbnail(slide)
print(sorted({{"torch", "timm", "albumentations", "sklearn", "matplotlib.pyplot", "optuna"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr

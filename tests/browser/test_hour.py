"""An hour of readers at one folder: twenty slides, one server, a link for each; it is killed, and started again."""

from __future__ import annotations

import io
import os
import shutil
import signal
import threading
import zipfile
from contextlib import suppress
from http.client import HTTPException
from urllib.parse import urlsplit

import made_slides as made
import pytest
from made_model import write_model
from pages import link_of, pid_of, serving
from playwright.sync_api import expect
from review_page import Page
from test_access import barriers

from pathopatch.core.config import PredictConfig
from pathopatch.groups.decisions.log import read_log
from pathopatch.stages.find_slides import find_cohort
from pathopatch.stages.predict import predict_cohort

SLIDES, KILLS, DECISIONS = 20, 10, 250
LIVE_MS = 3000  # of a colleague’s verdict, without a reload
AS_USER = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.getuid() == 0 else []
UNREACHED = ("ERR_CONNECTION_REFUSED", "ERR_CONNECTION_RESET", "ERR_EMPTY_RESPONSE", "Failed to fetch")


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    folder = tmp_path_factory.mktemp("many")
    (folder / "slides").mkdir()
    for number in range(SLIDES):
        disc = ((120 + 2 * number, 100), 90)
        image = made.disc_image(320, 240, *disc, tissue=(180, 90 + number, 150), glass=(245, 245, 245))
        made.write_aperio(folder / "slides" / f"s{number:02d}.svs", image, levels=2)
    config = PredictConfig(device="cpu", precision="float32", threads=1)
    rows = find_cohort([str(folder / "slides")]).rows
    done = predict_cohort(rows, write_model(folder / "model"), folder / "out", config)
    assert [outcome.state for outcome in done] == ["done"] * SLIDES
    return folder / "out"


@pytest.fixture
def out(many, tmp_path):
    """The slides once more, to decide on."""
    return shutil.copytree(many, tmp_path / "out")


def shown(window):
    return urlsplit(window.page.url).path.rpartition("/")[2]


def next_slide(windows):
    """By the key, in all windows; which slide it is."""
    for window in windows:
        before = shown(window)
        window.page.keyboard.press("n")
        window.page.wait_for_url(lambda url, before=before: "/slides/" in url and not url.endswith(f"/{before}"))
        window.settled()
    (slide_id,) = {shown(window) for window in windows}
    return slide_id


def label_first_patch(window, key):
    window.page.keyboard.press("Enter")
    expect(window.page.locator("#patch.has-patch")).to_be_attached()
    window.page.keyboard.press(key)


def saved(window, verdict, *, is_given=True):
    """One's own verdict, whatever others gave."""
    expect(window.page.locator(f"[data-does={verdict}]")).to_have_attribute("aria-pressed", str(is_given).lower())


@pytest.mark.slow
@pytest.mark.fault("two-reviewers")
def test_two_readers_decide_on_twenty_slides_through_a_kill_of_the_server(out, visit, axe):
    readers = ("--reader", "Bo", "--reader", "Cy")
    torn = []
    with serving(out, *readers, reviewer="Ada") as address:
        ada, bo, cy = (visit(address, reader=name, expected=UNREACHED) for name in ("Ada", "Bo", "Cy"))
        links = {name: link_of(address, name) for name in ("Ada", "Bo", "Cy")}
        for window in (ada, bo, cy):
            window.cohort()
        for number in range(SLIDES // 2):
            decide_at_once(ada, bo, torn, number)
        os.kill(pid_of(address), signal.SIGKILL)
        slide_id = shown(ada)
        ada.page.keyboard.press("a")
        expect(ada.page.locator("#alarm")).to_be_visible()  # not saved, and it says so
        with serving(out, *readers, reviewer="Ada", port=urlsplit(address).port) as again:
            assert {name: link_of(again, name) for name in links} == links
            ada.slide(slide_id)
            saved(ada, "accept")
            for number in range(SLIDES // 2, SLIDES):
                decide_at_once(ada, bo, torn, number)
            for window in (ada, bo):
                window.page.keyboard.press("n")
                expect(window.page.locator("#said")).to_contain_text("You have decided on every other slide")
            settle(cy, torn[0], 2 * len(torn), axe)
            expect(cy.cohort().locator("[data-does=disputed] b")).to_have_text(str(len(torn) - 1))
    log = read_log(out / "review.sqlite")
    assert len(log) == 2 * SLIDES + 2 * len(torn) + 2
    assert [len(row.settles.split()) for row in log[-2:]] == [2, 2]


def settle(cy, slide_id, places, axe):
    """The dispute of a slide, and that of a patch of it, by keyboard."""
    page = cy.cohort()
    expect(page.locator("#slides tbody tr .disputed")).to_have_count(places)
    expect(page.locator(f"tr[data-slide='{slide_id}']")).to_contain_text("Ada: accept, Bo: reject")
    page.keyboard.press("x")
    assert barriers(page, axe) == []
    cy.slide(slide_id)
    page.keyboard.press("e")
    expect(page.locator("#dispute-text")).to_have_text("Your next verdict settles Ada: accept, Bo: reject.")
    assert barriers(page, axe) == []
    page.keyboard.press("a")
    expect(cy.standing()).to_contain_text("settled by Cy")
    expect(page.locator("#dispute")).to_be_hidden()
    page.locator("#disputed-patches a").click()
    expect(page.locator("#patch-dispute-text")).to_have_text("≠ Disputed: Ada: tumour, Bo: non-tumour.")
    for key in "42":
        page.keyboard.press(key)
    relabelled = page.locator("#patch-facts [data-name=relabelled]")
    expect(relabelled).to_have_text("non-tumour, settled by Cy; Ada: tumour, Bo: non-tumour")
    expect(page.locator("#patch-dispute")).to_be_hidden()


def decide_at_once(ada, bo, torn, number):
    """Both at the same slide; at every fifth they differ, on it and on a patch."""
    slide_id = next_slide((ada, bo))
    if number % 5 == 4:
        for window, key in ((ada, "1"), (bo, "2")):
            label_first_patch(window, key)
        bo.page.keyboard.press("r")
        bo.page.keyboard.type("torn")
        ada.page.keyboard.press("a")
        bo.page.keyboard.press("Enter")
        torn.append(slide_id)
        expect(ada.page.locator("#dispute")).to_be_visible(timeout=LIVE_MS)
        expect(bo.page.locator("[data-does=label-non-tumour]")).to_have_attribute("aria-pressed", "true")
        expect(bo.page.locator("#history .past")).to_have_count(0)  # nothing of a colleague's is struck out
    else:
        for window in (ada, bo):
            window.page.keyboard.press("a")
    saved(ada, "accept")
    saved(bo, "reject" if slide_id in torn else "accept")


@pytest.mark.slow
@pytest.mark.fault("two-reviewers")
def test_no_acknowledged_decision_is_lost_in_ten_kills(out):
    """Two readers at once; the server is killed while both are answered."""
    acknowledged: list[str] = []

    def decide(page: Page, reader: str, kill: int) -> None:
        with suppress(OSError, HTTPException):
            for number in range(DECISIONS):
                comment = f"{reader} {kill} {number}"
                if page.decide(slide=f"s{number % SLIDES:02d}", comment=comment).status == 201:
                    acknowledged.append(comment)

    for kill in range(KILLS):
        with serving(out, "--reader", "Bo", reviewer="Ada") as address:
            port = urlsplit(address).port
            threads = []
            for reader in ("Ada", "Bo"):
                link = urlsplit(link_of(address, reader))
                cookie = Page(port).ask(f"/?{link.query}").headers["set-cookie"].partition(";")[0]
                threads.append(threading.Thread(target=decide, args=(Page(port, cookie), reader, kill)))
            for thread in threads:
                thread.start()
            while len(acknowledged) < DECISIONS * (kill + 1) / KILLS and any(map(threading.Thread.is_alive, threads)):
                threads[0].join(0.01)
            os.kill(pid_of(address), signal.SIGKILL)
            for thread in threads:
                thread.join(30)
    assert len(acknowledged) >= DECISIONS
    assert set(acknowledged) <= {row.comment for row in read_log(out / "review.sqlite")}


@pytest.mark.slow
def test_nothing_that_a_blinded_reader_gets_tells_of_another(out, visit):
    """Pages, exports and all answers are searched, while the other decides on the same slide."""
    answers: list[tuple[str, bytes]] = []
    secret = "a word that is nowhere else"  # noqa: S105
    with serving(out, "--reader", "Bo", "--blinded", reviewer="Quirina") as address:
        other, bo = visit(address, reader="Quirina"), visit(address, reader="Bo")
        bo.page.on("response", lambda response: answers.append((response.url, response.body())))
        bo.cohort()
        before = bo.page.request.get(f"{address}/api/newest").body()
        other.slide("s03")
        label_first_patch(other, "1")
        other.page.keyboard.press("r")
        other.page.keyboard.type(secret)
        other.page.keyboard.press("Enter")
        saved(other, "reject")
        bo.slide("s03")
        bo.page.keyboard.press("Enter")
        expect(bo.page.locator("#patch.has-patch")).to_be_attached()
        bo.page.wait_for_timeout(2 * LIVE_MS)
        expect(bo.standing()).to_have_attribute("data-verdict", "none")
        assert bo.page.request.get(f"{address}/api/newest").body() == before
        bo.slide("s11")
        label_first_patch(bo, "1")  # an export without anything of one's own is a 404
        bo.page.keyboard.press("a")
        saved(bo, "accept")
        bo.cohort()
        bo.agreement()
        bo.page.wait_for_load_state("networkidle")
        for name in ("decisions.csv", "decisions.zip", "qupath.zip"):
            exported = bo.page.request.get(f"{address}/export/{name}")
            assert exported.status == 200, name
            answers.append((name, exported.body()))
        told = [(word, url) for url, body in answers for word in ("Quirina", secret) if holds(body, word)]
        assert told == []
        due = {"/", "/api/newest", "/api/cohort", "/api/agreement", "/slides/s03", "/api/slides/s03/decisions"}
        assert due <= {urlsplit(url).path for url, body in answers if body}
        assert holds(
            other.page.request.get(f"{address}/export/decisions.csv").body(), secret
        )  # what is searched is there
        bo.slide("s03")
        bo.page.keyboard.press("a")
        expect(bo.standing()).to_contain_text("Quirina: reject")


def holds(body: bytes, word: str) -> bool:
    parts = [body]
    if zipfile.is_zipfile(io.BytesIO(body)):
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            parts += [name.encode() + archive.read(name) for name in archive.namelist()]
    return any(word.encode() in part for part in parts)


@pytest.mark.slow
def test_a_read_only_folder_is_looked_at(out, visit):
    out.chmod(0o555)
    try:
        with serving(out, under=AS_USER) as address:
            window = visit(address, expected=("400",))
            page = window.slide("s11")
            page.keyboard.press("a")
            expect(page.locator("#alarm")).to_contain_text("written")
            saved(window, "accept", is_given=False)
    finally:
        out.chmod(0o755)
    assert not (out / "review.sqlite").exists()

"""Preloading of scripts: none waits for another script to name it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from review_page import Page, answering, predicted

from pathopatch.review.app import STATIC
from pathopatch.review.security import Access


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with answering(predicted(tmp_path_factory.mktemp("static")), Access()) as served:
        yield served


def imported(script: str) -> set[str]:
    """The modules that a script imports, and those that they import."""
    text = (STATIC / script).read_text(encoding="utf-8")
    named = set(re.findall(r'^(?:import|export) .*? from "\./(.+?)";', text, re.MULTILINE | re.DOTALL))
    return named.union(*map(imported, named))


@pytest.mark.parametrize("name", ["agreement", "cohort", "slide"])
def test_a_page_names_every_module_that_its_script_imports(name: str) -> None:
    text = (STATIC / f"{name}.html").read_text(encoding="utf-8")
    ahead = re.findall(r'rel="modulepreload" href="/static/(.+?)"', text)
    assert imported(f"{name}.js") == set(ahead)
    assert len(ahead) == len(set(ahead)) > 4


def test_a_slides_page_names_what_its_script_asks_first(page: Page) -> None:
    named = re.findall(r"<(/api/.+?)>; rel=preload; as=fetch; crossorigin", page.ask("/slides/a").headers["link"])
    assert named == ["/api/slides/a", "/api/slides/a/values"]
    assert [page.ask(address).status for address in named] == [200, 200]


def test_a_script_that_the_browser_has_is_not_sent_again(page: Page) -> None:
    first = page.ask("/static/slide.js")
    assert first.body == Path(STATIC / "slide.js").read_bytes()
    assert first.headers["content-type"] == "text/javascript; charset=utf-8"
    again = page.ask("/static/slide.js", headers={"If-None-Match": first.headers["etag"]})
    assert (first.status, again.status, again.body) == (200, 304, b"")
    assert page.ask("/static/cohort.js", headers={"If-None-Match": first.headers["etag"]}).status == 200


def test_the_card_of_a_model_is_a_page(page: Page) -> None:
    model = page.ask("/api/cohort").json["model"]
    assert model["has_card"]
    answer = page.ask(f"/models/{model['fingerprint']}")
    assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    text = answer.body.decode()
    assert "<h2>Patch classifier: " in text
    assert "style=" not in text  # the page's policy allows no style of its own

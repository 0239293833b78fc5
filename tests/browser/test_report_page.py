"""The report as a reader sees it: the answer first, all else folded, terms that explain themselves, all on paper."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from made_study import make_study

from pathopatch.core.config import EvaluateConfig
from pathopatch.report import write_report

pytestmark = pytest.mark.slow

SCREEN = {"width": 1440, "height": 900}
HASH = re.compile(r"\b[0-9a-f]{12,}\b")
WORDS = """section => {
  const walker = document.createTreeWalker(section, NodeFilter.SHOW_TEXT);
  const texts = [];
  while (walker.nextNode()) texts.push(walker.currentNode.textContent);
  return texts.join(" ");  // cells of a table have nothing between them
}"""


@pytest.fixture(scope="module")
def report(browser, tmp_path_factory) -> Path:
    work = make_study(tmp_path_factory.mktemp("reported") / "made-up", seeds=(0, 1))
    return write_report(work, evaluate=EvaluateConfig(bootstrap=40))


@pytest.fixture
def page(browser, report):
    opened = browser.new_page(viewport=SCREEN)
    complaints = []
    opened.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    opened.on("requestfailed", lambda request: complaints.append(request.url))
    opened.goto(report.as_uri())
    yield opened
    opened.close()
    assert complaints == []


def height(page) -> float:
    return page.evaluate("document.documentElement.scrollHeight")


def test_the_folded_report_is_six_screens_at_most(page):
    assert page.locator("details[open]").count() == 0
    assert 5 < page.locator("details.fold").count() <= 10
    assert height(page) <= 6 * SCREEN["height"]


def test_the_answer_stands_on_the_first_screen(page):
    box = page.locator(".headline").bounding_box()
    assert box["y"] + box["height"] < SCREEN["height"]


def test_nothing_on_the_page_looks_like_a_hash(page):
    texts = [section.evaluate(WORDS) for section in page.locator("main > section").all()]
    assert [found for text in texts if (found := HASH.search(text))] == []


def test_a_term_opens_its_definition(page):
    page.locator("#glance a.term[href='#term-wga'], #glance a.term[href='#term-group']").first.click()
    definition = page.locator("dt:target + dd")
    assert definition.is_visible()
    assert page.locator("details.fold[open]").count() == 1


def test_a_link_to_a_section_opens_it(page):
    page.locator("#glance a[href='#audit']").first.click()
    assert page.locator("#audit table").first.is_visible()


def test_folded_parts_are_printed(page):
    table = page.locator("#results table").first
    assert not table.is_visible()
    folded = height(page)
    page.emulate_media(media="print")
    assert table.is_visible()
    assert height(page) > 2 * folded


def test_grey_numbers_have_a_contrast_and_a_reason(page, axe):
    page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true })")
    cell = page.locator("#results td.few").first
    reason = cell.locator(".reason").inner_text()
    assert re.fullmatch(r"(smallest group: )?only \d+ (patch|patient)(es|s)?( of \d+ patients?)?", reason)
    page.evaluate(axe)
    violations = page.evaluate("async () => (await axe.run(document)).violations.map(one => one.id)")
    assert violations == []

"""The pages are written in short sentences."""

from __future__ import annotations

import re
from pathlib import Path
from statistics import mean

import pytest
from doc_pages import DOCS, PAGES, ROOT, page_name, sentences, word_count

from pathopatch.core import config
from pathopatch.core.config import Config

MEAN_WORDS, MOST_WORDS = 17, 30
MOST_WORDS_OF_README = 900


def too_long(found: list[str]) -> list[str]:
    return [sentence for sentence in found if word_count(sentence) > MOST_WORDS]


@pytest.mark.parametrize("path", [*PAGES, ROOT / "README.md"], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_sentences_of_a_page_are_short(path: Path) -> None:
    found = sentences(path)
    assert not too_long(found)
    assert mean(map(word_count, found)) <= MEAN_WORDS


def test_the_readme_is_one_screen_with_a_picture_at_its_top() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) <= MOST_WORDS_OF_README
    assert any(line.startswith("![") for line in text.splitlines()[:10])


def test_the_links_of_the_readme_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!https://)([^)#]+)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_prose_is_told_from_code_tables_and_headings(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A title\n\nOne `code` word. Two\nmore, [a link](b.md).\n\n- item\n\n| a | b |\n\n```sh\nnot this.\n```\n",
        encoding="utf-8",
    )
    assert sentences(page) == ["One code word.", "Two more, a link.", "item"]


def test_the_reasons_of_settings_are_short() -> None:
    kinds = [kind for kind in vars(config).values() if isinstance(kind, type) and issubclass(kind, Config)]
    texts = [text for kind in kinds if kind is not Config for text in config.field_docs(kind).values()]
    assert not too_long([part for text in texts for part in text.split(". ")])


def test_each_page_is_in_the_navigation() -> None:
    navigation = (DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    assert [page_name(path) for path in PAGES if f": {page_name(path)}\n" not in navigation] == []

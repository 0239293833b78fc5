"""The site builds strictly, its links lead somewhere, and it asks nothing of the network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import FunctionType, ModuleType
from urllib.parse import unquote, urlsplit

import markdown
import pytest
from doc_pages import DOCS, ROOT

import pathopatch
from pathopatch.core.config import Config


class _Page(HTMLParser):
    """Links, loaded files and anchors of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("id", "name") and value:
                self.anchors.add(value)
            elif name == "href" and tag == "a" and value:
                self.links.append(value)
            elif name in ("href", "src") and tag in ("link", "script", "img") and value:
                self.loads.append(value)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, _Page]:
    """Build the site, any warning being an error, and return its pages."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return {path: _Page(path.read_text(encoding="utf-8")) for path in out.rglob("*.html") if path.name != "404.html"}


@pytest.mark.slow
def test_every_link_and_picture_of_the_site_is_there(site: dict[Path, _Page]) -> None:
    dead = []
    for path, page in site.items():
        for link in [*page.links, *page.loads]:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchors = site[target].anchors if target in site else set()
            if not target.is_file() or (parts.fragment and parts.fragment not in anchors):
                dead.append(f"{path.name}: {link}")
    assert not dead


def test_the_site_loads_nothing_from_the_network(site: dict[Path, _Page]) -> None:
    assert not [link for page in site.values() for link in page.loads if urlsplit(link).scheme not in ("", "data")]
    root = min(site, key=lambda path: len(path.parts)).parent
    styles = [path.read_text(encoding="utf-8") for path in root.rglob("*.css")]
    assert styles
    assert not [style for style in styles if re.search(r"@import|url\((?!data:)['\"]?https?:", style)]


def test_pages_link_their_terms_to_the_glossary(site: dict[Path, _Page]) -> None:
    (page,) = [page for path, page in site.items() if path.match("understand/worst-group-accuracy.html")]
    links = [link for link in page.links if "glossary.html#" in link]
    assert "../glossary.html#group" in links
    assert len(links) == len(set(links))


def test_the_python_page_documents_every_public_name(site: dict[Path, _Page]) -> None:
    (page,) = [page for path, page in site.items() if path.match("reference/python.html")]
    public = {name: getattr(pathopatch, name) for name in pathopatch.__all__}
    named = {name for name, value in public.items() if isinstance(value, type | FunctionType)}
    settings = {name for name in named if isinstance(public[name], type) and issubclass(public[name], Config)}
    assert named - settings
    assert not {f"pathopatch.{name}" for name in named - settings} - page.anchors


def test_a_term_is_linked_once_and_never_in_code_or_headings(hooks: ModuleType) -> None:
    links = hooks._GlossaryLinks()
    links.pending = {"group": "group", "WGA": "wga", "worst-group accuracy": "wga"}
    text = "# A group\n\nThe `group` of groups: *worst-group accuracy*, WGA, a group. wga"
    html = markdown.markdown(text, extensions=[links])
    assert re.findall(r'<a class="term" href="/glossary.md#(\w+)">([^<]*)</a>', html) == [
        ("group", "groups"),
        ("wga", "worst-group accuracy"),
    ]


def test_every_entry_of_the_glossary_has_a_text(hooks: ModuleType) -> None:
    entries = re.split(r"^### ", (DOCS / "glossary.md").read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    assert all(re.match(r".+\n[A-Z0-9].+\.\n", entry) for entry in entries)
    names = [name.casefold() for name in hooks.terms(DOCS / "glossary.md")]
    assert len(names) == len(set(names))

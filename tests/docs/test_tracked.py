"""Links of tracked pages lead to tracked files, and generated pages and pictures are of the program as it is."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
from doc_pages import DOCS, ROOT


@pytest.fixture(scope="module")
def tracked() -> set[str]:
    """Return the tracked files and their folders."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    if not listed:
        pytest.skip("no checkout: nothing says which files are tracked")
    files = listed.split("\0")[:-1]
    return {*files, *(str(folder) for file in files for folder in Path(file).parents)}


def test_every_link_of_a_page_leads_to_a_tracked_file(tracked: set[str]) -> None:
    pages = [Path(file) for file in tracked if file.endswith(".md")]
    dead = []
    for page in pages:
        text = re.sub(r"```.*?```", "", (ROOT / page).read_text("utf-8"), flags=re.DOTALL)
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            target = link.partition("#")[0]
            if target and ":" not in target and os.path.normpath(page.parent / target) not in tracked:
                dead.append(f"{page}: {link}")
    assert len(pages) > 40
    assert dead == []


def test_generated_pages_are_those_of_the_program(hooks: ModuleType) -> None:
    for name, text in hooks.generated_pages().items():
        assert (DOCS / name).read_text("utf-8") == text, "run make docs-assets"


def test_pictures_show_the_files_as_they_are(assets: ModuleType) -> None:
    assert json.loads((DOCS / "images" / "shown.json").read_text("utf-8")) == assets.shown(), "run make docs-assets"
    for name in assets.shown():
        assert (DOCS / "images" / f"{name}.webp").stat().st_size < 150_000

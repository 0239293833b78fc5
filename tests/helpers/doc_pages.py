"""The pages of the documentation as prose and code."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "notebooks" not in path.parts)


def page_name(path: Path) -> str:
    return path.relative_to(DOCS).as_posix()


def code_blocks(path: Path, language: str) -> list[str]:
    """Return the fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def sentences(path: Path) -> list[str]:
    """Return the sentences of a page's paragraphs and lists; headings, tables and code are left out."""
    text = re.sub(r"^```.*?^```$", "\n", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"!\[.*?\]\(.*?\)(\{.*?\})?", "", text, flags=re.DOTALL)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    lines = [line for line in text.splitlines() if not re.match(r"\s*(#|\||:::|!!!|    options:|      filters:)", line)]
    text = re.sub(r"`[^`]*`", "code", "\n".join(lines))
    paragraphs = re.split(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.)\s)", text)
    found = []
    for paragraph in paragraphs:
        plain = re.sub(r"^\s*(?:[-*]|\d+\.)\s+", "", paragraph.replace("*", "")).split()
        found += re.split(r"(?<=[.!?])\s+", " ".join(plain))
    return [sentence for sentence in found if re.search(r"[A-Za-z]", sentence)]


def word_count(sentence: str) -> int:
    return len(sentence.split())

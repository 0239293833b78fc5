"""Build what the pages cannot hold by themselves: links to the glossary and within the site; generated pages.

MkDocs calls `on_config`, `on_files` and `on_page_markdown` by name.
"""

from __future__ import annotations

import html
import json
import re
import xml.etree.ElementTree as etree
from pathlib import Path
from typing import Any, cast

import typer
from markdown import Extension, Markdown
from markdown.extensions.toc import slugify
from markdown.treeprocessors import Treeprocessor
from markdown.util import AtomicString
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from typer.cli import get_docs_for_click

from pathopatch.cli.program import app
from pathopatch.core import config as settings
from pathopatch.core.config import Config, field_docs, tables_of

ROOT = Path(__file__).resolve().parents[1]
GLOSSARY = "glossary.md"
_FROM_ELSEWHERE = {
    f"results/{study}.md": f"pipelines/{study}/README.md"
    for study in (
        "area-benchmark", "area-reliance", "idc", "features-speed", "cmnist", "group-robustness", "tissue-gallery",
    )
}  # fmt: skip
"""The studies' own pages."""
_WITHOUT_LINKS = {"a", "h1", "h2", "h3", "h4", "th"}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Let every page link its terms to the glossary."""
    config.markdown_extensions.append(_LINKS)  # type: ignore[arg-type]  # MkDocs passes it on to Markdown as it is
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add files that lie elsewhere in the project."""
    for path, source in _FROM_ELSEWHERE.items():
        files.append(File.generated(config, path, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(text: str, page: Page, **_others: Any) -> str:
    """Return a page whose links lead within the site; each term is linked where it stands first."""
    place = page.file.src_uri
    is_linked = place not in (GLOSSARY, "reference/python.md")  # docstrings are Markdown of their own
    _LINKS.pending = terms(ROOT / "docs" / GLOSSARY) if is_linked else {}
    if place in _FROM_ELSEWHERE:  # its links are those of its own folder
        return re.sub(r"\]\(\.\./([\w-]+)/README\.md", r"](\1.md", text.replace("](../../docs/", "](../"))
    up = "../" * place.count("/")
    return re.sub(r"\]\((?:\.\./)+pipelines/([\w-]+)/README\.md", rf"]({up}results/\1.md", text)


def generated_pages() -> dict[str, str]:
    """Return the text of each generated page by its path below ``docs``; `docs/assets.py` writes them."""
    return {"reference/cli.md": cli_page(), "reference/settings.md": settings_page()}


def cli_page() -> str:
    """Return the page of all commands, as the program describes them."""
    command = cast(typer.core.TyperGroup, typer.main.get_command(app))
    text = get_docs_for_click(obj=command, ctx=typer.Context(command), name="pathopatch")
    for name, part in command.commands.items():  # the list of commands cuts their texts off
        text = text.replace(f"* `{name}`: {part.get_short_help_str()}", f"* `{name}`: {part.get_short_help_str(200)}")
    return re.sub(r"^# .*\n", "# Command line\n", text, count=1)


def settings_page() -> str:
    """Return the page of all settings, with defaults, allowed values and reasons."""
    parts = [
        "# Settings\n",
        "A study file (TOML) holds these tables; `--config` takes the same tables alone. Unknown keys are errors. "
        "What was resolved is stored as JSON beside the results.\n",
        _table("A study", settings.StudyConfig),
    ]
    parts += _tables("", settings.SettingsConfig)
    parts.append(_table("Options of each run over many slides", settings.BatchOptions))
    return "\n".join(parts)


def _tables(prefix: str, kind: type[Config]) -> list[str]:
    """Return the tables that a configuration holds, each followed by those within it."""
    parts = []
    for name, inner in tables_of(kind).items():
        parts += [_table(f"`[{prefix}{name}]`", inner), *_tables(f"{prefix}{name}.", inner)]
    return parts


def _table(title: str, kind: type[Config]) -> str:
    """Return one configuration as a heading, its first line, and a table."""
    schema = kind.model_json_schema()
    why, inner = field_docs(kind), tables_of(kind)
    lines = [f"## {title}\n", f"{(kind.__doc__ or '').splitlines()[0]}\n"]
    lines += ["| setting | default | values | meaning |", "|---|---|---|---|"]
    for name, field in schema["properties"].items():
        if "const" in field:  # of one value: it stands in stamps and bundles, and nobody sets it
            continue
        default = "required" if name in schema.get("required", ()) else f"`{json.dumps(field.get('default'))}`"
        is_table = name in inner and "anyOf" not in field
        default = "" if is_table else default.replace("null", "none")
        values = "a table" if name in inner else _values(field)
        cells = [f"`{name}`", default, html.escape(values), html.escape(why[name], quote=False)]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _values(schema: dict[str, Any]) -> str:
    """Return the values that a JSON schema allows, in words."""
    if "anyOf" in schema:
        return " or ".join(_values(part) for part in schema["anyOf"] if part.get("type") != "null")
    if "enum" in schema or "const" in schema:
        return ", ".join(map(str, schema.get("enum") or [schema["const"]]))
    if schema.get("type") == "array":
        items = schema.get("items") or schema.get("prefixItems", [{}])[0]
        return f"list: {_values(items)}"
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    bounds = ", ".join(f"{sign} {schema[key]:g}" for key, sign in signs.items() if key in schema)
    kind = {"integer": "whole number", "boolean": "true, false", "string": "text", "object": "table"}
    return f"{kind.get(str(schema.get('type')), schema.get('format') or 'number')} {bounds}".strip()


def terms(glossary: Path) -> dict[str, str]:
    """Return each term of the glossary, short forms included, and the anchor of its entry."""
    found: dict[str, str] = {}
    for title in re.findall(r"^### (.+)$", glossary.read_text(encoding="utf-8"), flags=re.MULTILINE):
        for name in re.split(r"[(),]", title):
            if name.strip():
                found[name.strip()] = slugify(title, "-")
    return found


class _GlossaryLinks(Extension):
    """Link each term of the glossary where it stands first on a page."""

    def __init__(self) -> None:
        super().__init__()
        self.pending: dict[str, str] = {}

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802 (Markdown's name)
        md.treeprocessors.register(_FirstUses(self), "glossary", 2)  # after inline text, before MkDocs resolves links


class _FirstUses(Treeprocessor):
    def __init__(self, links: _GlossaryLinks) -> None:
        super().__init__()
        self._links = links

    def run(self, root: etree.Element) -> None:
        if self._links.pending:
            self._walk(root)

    def _walk(self, parent: etree.Element) -> None:
        if parent.tag in _WITHOUT_LINKS:
            return
        before, added = self._split(parent.text)
        parent.text = before
        for child in list(parent):
            self._walk(child)
            child.tail, behind = self._split(child.tail)
            position = list(parent).index(child) + 1
            parent[position:position] = behind
        parent[0:0] = added

    def _split(self, text: str | None) -> tuple[str | None, list[etree.Element]]:
        """Return a text up to its first term, and the links with the texts behind them."""
        links: list[etree.Element] = []
        if not text or isinstance(text, AtomicString):  # code
            return text, links
        start, before = 0, None
        for match in self._matches(text):
            link = etree.Element("a", {"href": f"/{GLOSSARY}#{match[1]}", "class": "term"})
            link.text = AtomicString(text[match[0].start() : match[0].end()])
            between = text[start : match[0].start()]
            if links:
                links[-1].tail = between
            else:
                before = between
            links.append(link)
            start = match[0].end()
        if not links:
            return text, links
        links[-1].tail = text[start:]
        return before, links

    def _matches(self, text: str) -> list[tuple[re.Match[str], str]]:
        """Return the first uses in a text, in order and apart from each other; they are pending no more."""
        found: list[tuple[re.Match[str], str]] = []
        for name in sorted(self._links.pending, key=len, reverse=True):
            anchor = self._links.pending.get(name)
            flags = re.NOFLAG if name.isupper() else re.IGNORECASE
            match = re.search(rf"(?<![\w-]){re.escape(name)}(?:s|es)?(?![\w-])", text, flags)
            if (
                anchor is None
                or match is None
                or any(match.start() < m.end() and m.start() < match.end() for m, _ in found)
            ):
                continue
            found.append((match, anchor))
            self._links.pending = {other: to for other, to in self._links.pending.items() if to != anchor}
        return sorted(found, key=lambda item: item[0].start())


_LINKS = _GlossaryLinks()

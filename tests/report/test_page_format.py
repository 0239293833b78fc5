"""Numbers and text in the report's templates: what is unknown is a dash, and what is hostile stays text."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest
from jinja2 import UndefinedError

from pathopatch.core.text import capitalize_first
from pathopatch.report.cells import count, interval_cell, percent, points, signed
from pathopatch.report.page import render_page

NAN = float("nan")


def test_zero_has_no_sign_and_minus_is_a_minus() -> None:
    assert [signed(value, 1) for value in (-0.04, 0.0, -1.25, 2.0, None, NAN)] == [
        "0.0", "0.0", "\N{MINUS SIGN}1.2", "+2.0", "–", "–",
    ]  # fmt: skip


def test_shares_are_percent_and_unknown_ones_a_dash() -> None:
    assert [percent(value) for value in (0.125, 0.0, None, NAN)] == ["12.5", "0.0", "–", "–"]
    assert [points(value) for value in (0.125, None)] == ["+12.5", "–"]
    assert [count(value) for value in (3.0, 0, None, NAN)] == ["3", "0", "–", "–"]


def test_an_interval_stands_beneath_its_number() -> None:
    row = {"wga": 0.5, "wga_low": 0.25, "wga_high": 0.75, "gba": None, "gba_low": None, "gba_high": None}
    assert interval_cell(row, "wga") == '50.0<span class="interval">[25.0, 75.0]</span>'
    assert (
        interval_cell({"wga": {"value": 0.5, "low": None, "high": None}}, "wga")
        == '50.0<span class="interval">no interval</span>'
    )
    assert interval_cell(row, "gba") == "–"


def test_a_sentence_begins_with_a_capital_and_keeps_the_others() -> None:
    assert capitalize_first("tissue AUROC") == "Tissue AUROC"


@pytest.mark.fault("escaped")
def test_text_is_escaped_and_markup_is_not_twice() -> None:
    page = render_page("contact_sheet.html.j2", title="a < b & 'c'", slides=[], outlines={}, without_overview=["<br>"])
    assert "<h1>a &lt; b &amp; &#39;c&#39;</h1>" in page
    assert "&lt;br&gt;" in page
    assert "&amp;lt;" not in page


def test_a_name_that_is_missing_stops_the_page() -> None:
    with pytest.raises(UndefinedError):
        render_page("contact_sheet.html.j2", title="a", slides=[], outlines={})


def test_templates_are_escaped_and_load_nothing_from_elsewhere() -> None:
    folder = files("pathopatch.report") / "templates"
    sources = [path.read_text(encoding="utf-8") for path in (*folder.iterdir(), *(folder / "sections").iterdir())
               if path.is_file()]  # fmt: skip
    assert len(sources) > 20
    for source in sources:
        assert re.search(r"https?:|\|\s*safe\b|<script|autoescape", source) is None

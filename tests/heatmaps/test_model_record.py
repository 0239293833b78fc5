"""A model card as HTML: its headings and tables are shown, and its text stays text."""

from __future__ import annotations

import re

import pytest

from pathopatch.heatmaps.model_record import card_html

CARD = """# Classifier: <b>erm</b>

Classifies **each** patch
by `R, G, B`.

| | |
|---|---|
| patch | 64 px |
| script | <script>alert(1)</script> |

## Limits
None.

---

# Another
"""


@pytest.mark.fault("escaped")
def test_a_card_has_headings_tables_and_escaped_text() -> None:
    html = card_html(CARD)
    assert re.findall(r"<(\w+)[ >]", html) == [
        "h2", "p", "strong", "code", "table", "tr", "th", "td", "tr", "th", "td", "h3", "p", "hr", "h2",
    ]  # fmt: skip
    assert "<h2>Classifier: &lt;b&gt;erm&lt;/b&gt;</h2>" in html
    assert "<strong>each</strong> patch by <code>R, G, B</code>" in html
    assert '<td class="text">&lt;script&gt;alert(1)&lt;/script&gt;</td>' in html

"""A model card as HTML: its headings and tables are shown, and its text stays text."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pathopatch.heatmaps.model_record import card_html, read_model_record

CARD = """# Classifier: <b>erm</b>

Classifies **each** patch
by `R, G, B`.

| | |
|---|---|
| patch | 64 px |
| script | <script>alert(1)</script> |
| a\\|b | [c](https://d) |

## Limits
None.

---

# Another
"""


@pytest.mark.fault("escaped")
def test_a_card_has_headings_tables_and_escaped_text() -> None:
    html = " ".join(card_html(CARD).split())
    assert re.findall(r"<(\w+)[ >]", html) == [
        "h2", "p", "strong", "code", "table", *("tr", "th", "td") * 3, "h3", "p", "hr", "h2",
    ]  # fmt: skip
    assert "<h2>Classifier: &lt;b&gt;erm&lt;/b&gt;</h2>" in html
    assert "<strong>each</strong> patch by <code>R, G, B</code>" in html
    assert '<th scope="row">a|b</th> <td class="text">[c](https://d)</td>' in html
    assert '<td class="text">&lt;script&gt;alert(1)&lt;/script&gt;</td>' in html


def test_a_record_of_another_version_is_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    record = {"members": [{"name": "m", "spec": {"method": "erm", "a_later_field": 1}}]}
    (tmp_path / "models" / "f.json").write_text(json.dumps(record))
    (member,) = read_model_record(tmp_path, "f")["members"]
    assert (member["name"], member["method"], member["trained"]) == ("m", "erm", {})
    assert "Another version" in member["beware"][0]

"""Decisions leave as CSV and come back as they were; mistakes in a file are told with row and column."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pathopatch.core.csv_table import escape_formulas, unescape_formulas
from pathopatch.core.errors import InputMissingError, InputUnsupportedError, TableError
from pathopatch.groups.decisions.decision import Decision, RecordedDecision
from pathopatch.groups.decisions.readers import _normal
from pathopatch.groups.decisions.table import COLUMNS, decisions_csv, read_decisions
from pathopatch.review.decisions import DecisionLog


def decide(decisions: DecisionLog, **values: Any) -> RecordedDecision:
    decision = Decision(**{"slide_id": "s1", "verdict": "accept", "reviewer": "Ada", **values})
    return decisions.record(decision, revision=decisions.state(decision.slide_id)["revision"])


@pytest.fixture
def log(tmp_path: Path) -> Any:
    """Two slides: s1 accepted, then rejected; one label replaced, one withdrawn; s2 flagged."""
    with DecisionLog(tmp_path / "review.sqlite") as decisions:
        decide(decisions, fingerprint="f" * 16, run="gerne-t0.25-s0", threshold=0.1 + 0.2, comment='ä, "b"\r\nc')
        decide(decisions, x=64, y=0, verdict="tumour")
        decide(decisions, slide_id="s2", verdict="flag", reason="=cmd|' /C calc'!A0", reviewer="-Bo")
        decide(decisions, x=64, y=0, verdict="unsure")
        decide(decisions, x=0, y=0, verdict="non-tumour")
        decisions.undo("s1", "Ada", 4)
        decide(decisions, verdict="reject")
        yield decisions


def written(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def test_a_file_comes_back_as_the_log_it_was_made_of(log: DecisionLog, tmp_path: Path) -> None:
    read = read_decisions(written(tmp_path / "review.csv", decisions_csv(log.rows())))
    assert [replace(row, revision=0) for row in log.rows()] == read
    with DecisionLog(tmp_path / "other.sqlite") as other:
        assert other.merge(read) == 7
        assert other.rows() == log.rows()
        assert other.merge(read) == 0
    assert log.merge(read) == 0
    assert len(log.rows()) == 7


def test_the_csv_has_every_decision_and_whether_it_stands(log: DecisionLog) -> None:
    rows = list(csv.DictReader(io.StringIO(decisions_csv(log.rows()), newline="")))
    assert tuple(rows[0]) == COLUMNS
    assert decisions_csv([]) == ",".join(COLUMNS) + "\r\n"
    assert {"sorted_as", "region", "settles", "disputed"} < {*COLUMNS}  # empty here
    assert [(row["slide_id"], row["x"], row["y"], row["verdict"], row["stands"]) for row in rows] == [
        ("s1", "", "", "accept", "false"),
        ("s1", "64", "0", "tumour", "false"),
        ("s2", "", "", "flag", "true"),
        ("s1", "64", "0", "unsure", "true"),
        ("s1", "0", "0", "non-tumour", "false"),
        ("s1", "0", "0", "undo", "false"),
        ("s1", "", "", "reject", "true"),
    ]  # fmt: skip
    assert [row["undoes"] for row in rows] == ["", "", "", "", "", "5", ""]
    assert rows[0]["threshold"] == "0.30000000000000004"
    assert rows[2]["reason"] == "'=cmd|' /C calc'!A0"
    assert rows[2]["reviewer"] == "'-Bo"


@pytest.mark.parametrize("stands", ["true", "false"])  # earlier versions said false
def test_a_colleagues_verdict_may_stand_beside_a_later_one(tmp_path: Path, stands: str) -> None:
    path = written(
        tmp_path / "review.csv", f"slide_id,verdict,reviewer,stands\ns1,accept,Ada,{stands}\ns1,reject,Bo,true\n"
    )
    assert [row.verdict for row in read_decisions(path)] == ["accept", "reject"]


TEXT = st.one_of(
    st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=20),
    st.text("'=+-@\t\r\n,\"; ü", max_size=8),
)


@pytest.mark.fault("escaped")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=100)
@given(reason=TEXT, comment=TEXT, reviewer=TEXT.map(_normal).filter(bool), threshold=st.none() | st.floats(0, 1))
def test_any_text_and_threshold_come_back_and_no_cell_begins_a_formula(
    tmp_path: Path, reason: str, comment: str, reviewer: str, threshold: float | None
) -> None:
    row = RecordedDecision(slide_id="s1", verdict="accept", reviewer=reviewer, reason=reason, comment=comment, id=1,
                   made="2026-01-01T00:00:00.000000Z", threshold=threshold)  # fmt: skip
    text = decisions_csv([row])
    assert read_decisions(written(tmp_path / "a.csv", text)) == [row]
    starts = ("=", "+", "-", "@")
    for cells in csv.reader(io.StringIO(text, newline="")):
        assert not any(cell.startswith((*starts, "\t", "\r")) for cell in cells)
    # Split at semicolons or tabs, quotes inside a line do not count: each piece begins a cell.
    assert not any(piece.lstrip(' "').startswith(starts) for piece in re.split(r"[;\t\r\n]", text))


@pytest.mark.fault("escaped")
@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("see;=cmd()", "see;'=cmd()"),
        ('a;"=1', "a;'\"=1"),
        ("a; ＋1\n@b\t-c", "a;' ＋1\n'@b\t'-c"),
        ("a;'=1", "a;''=1"),
        ("it's; fine - so", "it's; fine - so"),
    ],
)
def test_a_formula_after_a_semicolon_or_tab_is_escaped_too(text: str, escaped: str) -> None:
    assert escape_formulas(text) == escaped
    assert unescape_formulas(escaped) == text


def test_an_undo_by_hand_withdraws_what_its_own_reviewer_decided(tmp_path: Path) -> None:
    text = "slide_id,verdict,reviewer\ns1,accept,Bo\ns1,reject,Ada\ns1,undo,Bo\n"
    assert [row.undoes for row in read_decisions(written(tmp_path / "hand.csv", text))] == [None, None, 2]
    with pytest.raises(TableError, match="row 3, column 'undoes'"):
        read_decisions(written(tmp_path / "other.csv", "slide_id,verdict,reviewer\ns1,accept,Ada\ns1,undo,Bo\n"))


def test_a_file_by_hand_needs_three_columns_and_its_order_is_its_time(tmp_path: Path) -> None:
    text = "slide_id,verdict,reviewer,x,y\ns1,Accept,Ada,,\n\ns1,reject,Ada,,\ns1,tumour,Ada,64.0,0.0\ns1,undo,Ada,,\n"
    rows = read_decisions(written(tmp_path / "hand.csv", text))
    assert [(row.id, row.verdict, row.x, row.undoes, row.made) for row in rows] == [
        (2, "accept", None, None, ""), (4, "reject", None, None, ""), (5, "tumour", 64, None, ""),
        (6, "undo", None, 5, ""),
    ]  # fmt: skip
    with DecisionLog(tmp_path / "review.sqlite") as decisions:
        assert decisions.merge(rows) == 4
        assert decisions.merge(rows) == 0
        state = decisions.state("s1")
        assert state["decision"]["verdict"] == "reject"
        assert state["patches"] == []


GOOD = "slide_id,x,y,verdict,reason,comment,reviewer,made,fingerprint,run,threshold,stands,id,undoes\n"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("../x,,,accept,,,Ada,,,,,,,", "row 2, column 'slide_id', value '../x': no slide id"),
        ("s1,,,tumour,,,Ada,,,,,,,", "column 'verdict', value 'tumour': no verdict on a slide Remedy: write accept"),
        ("s1,1.5,0,tumour,,,Ada,,,,,,,", "row 2, column 'x', value '1.5': not a whole number"),
        ("s1,64,,tumour,,,Ada,,,,,,,", "row 2, column 'y', value '': None: only one of x and y"),
        ("s1,,,accept,,,,,,,,,,", "row 2, column 'reviewer', value '': nobody is named"),
        ("s1,,,accept,,,Ada,2026-03-01T12:00:00,,,,,,", "row 2, column 'made', value '2026-03-01T12:00:00': not"),
        ('s1,,,accept,,,Ada,,,,"0,5",,,', "row 2, column 'threshold', value '0,5': not a number"),
        ("s1,,,accept,,,Ada,,,,0.2_5,,,", "row 2, column 'threshold', value '0.2_5': not a number"),
        ("s1,1_0,0,tumour,,,Ada,,,,,,,", "row 2, column 'x', value '1_0': not a number"),
        ("s1,,,accept,,,Ada,,,,50,,,", "row 2, column 'threshold', value '50': 50.0: no probability"),
        ("s1,,,accept,,,Ada,,,,,maybe,,", "row 2, column 'stands', value 'maybe': neither true"),
        ("s1,,,accept,,,Ada,,,,,,1,\ns2,,,accept,,,Ada,,,,,,1,", "row 3, column 'id', value '1': 1 is the id of row 2"),
        ("s1,,,undo,,,Ada,,,,,,,", "row 2, column 'undoes', value '': the row that it withdraws is not above"),
        ("s1,,,accept,,,Ada,,,,,,1,\ns2,,,undo,,,Ada,,,,,,2,1", "row 3, column 'undoes'"),
        ("s1,,,accept,,,Ada,,,,,false,,", "row 2, column 'stands', value 'false': it says false, but no row replaces"),
        ("s1,,,accept,,,Ada,,,,,true,,\ns1,,,reject,,,Ada,,,,,true,,", "row 2, column 'stands', value 'true': it"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_file_has_its_row_column_and_remedy(tmp_path: Path, lines: str, message: str) -> None:
    with pytest.raises(TableError, match="review.csv") as raised:
        read_decisions(written(tmp_path / "review.csv", f"{GOOD}{lines}\n"))
    assert message in str(raised.value)
    assert "Remedy: " in str(raised.value)


def test_all_mistakes_of_a_file_are_listed_at_once(tmp_path: Path) -> None:
    with pytest.raises(TableError) as raised:
        read_decisions(written(tmp_path / "review.csv", GOOD + 25 * "s1,a,b,tumour,,,Ada,,,,,,,\n"))
    assert len(raised.value.problems) == 50
    assert str(raised.value).count("(in 25 rows: 2, 3, 4, ") == 2


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputMissingError, match=r"no file review\.csv"):
        read_decisions(tmp_path / "review.csv")


def test_two_logs_merge_and_the_latest_verdict_stands_in_any_order(
    tmp_path: Path,
) -> None:
    with DecisionLog(tmp_path / "a.sqlite") as one, DecisionLog(tmp_path / "b.sqlite") as two:
        decide(two, verdict="reject", reviewer="Bo")
        decide(two, x=0, y=0, verdict="tumour", reviewer="Bo")
        two.undo("s1", "Bo", 2)
        decide(one, verdict="accept")  # the latest
        read = read_decisions(written(tmp_path / "b.csv", decisions_csv(two.rows())))
        assert one.merge(read) == 3
        state = one.state("s1")
        assert (state["decision"]["reviewer"], state["decision"]["verdict"]) == ("Ada", "accept")
        assert state["patches"] == []
        assert [row.undoes for row in one.rows()] == [
            None,
            None,
            None,
            3,
        ]  # its own row of the label, not the other's 2
        again = read_decisions(written(tmp_path / "a.csv", decisions_csv(one.rows())))
        assert two.merge(again) == 1
        assert two.state("s1")["decision"] == state["decision"] | {"id": 4, "revision": 4}


def test_an_import_that_cannot_be_finished_leaves_nothing(tmp_path: Path) -> None:
    good = RecordedDecision(slide_id="s1", verdict="accept", reviewer="Ada", id=1, made="")
    bad = replace(good, slide_id="s2", id=2)
    object.__setattr__(bad, "comment", None)
    with DecisionLog(tmp_path / "review.sqlite") as decisions:
        with pytest.raises(InputUnsupportedError):
            decisions.merge([good, bad])
        assert decisions.rows() == []

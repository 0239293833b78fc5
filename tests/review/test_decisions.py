"""The log holds every decision in order, with reviewer and heatmap; none is changed or lost."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathopatch.core.errors import (
    InputCorruptError,
    InputMissingError,
    InputUnsupportedError,
    ReviewConflictError,
    StaleArtefactError,
)
from pathopatch.groups.decisions import log as log_module
from pathopatch.groups.decisions.decision import Decision, RecordedDecision, StandingDecisions, utc_text
from pathopatch.groups.decisions.log import read_log
from pathopatch.groups.decisions.table import decisions_csv, read_decisions
from pathopatch.review import decisions as decisions_module
from pathopatch.review.decisions import DecisionLog


def accept(slide_id: str = "s1", **values: Any) -> Decision:
    return Decision(**{"slide_id": slide_id, "verdict": "accept", "reviewer": "Ada", **values})


def patch(x: int, y: int, verdict: str, **values: Any) -> Decision:
    return Decision(**{"slide_id": "s1", "x": x, "y": y, "verdict": verdict, "reviewer": "Ada", **values})


@pytest.fixture
def decisions(tmp_path: Path) -> Any:
    with DecisionLog(tmp_path / "review.sqlite") as log:
        yield log


def test_a_decision_is_there_after_the_file_was_closed(tmp_path: Path) -> None:
    path = tmp_path / "new" / "review.sqlite"
    whole = accept(reason="clean", comment="ä\n=1+1", fingerprint="f" * 16, run="gerne-t0.25-s0", threshold=0.4)
    before = datetime.now(UTC)
    with DecisionLog(path) as decisions:
        row = decisions.record(whole, revision=0)
    assert (row.id, row.revision, row.undoes) == (1, 1, None)
    assert utc_text(before) <= row.made <= utc_text(datetime.now(UTC))
    with DecisionLog(path) as decisions:
        assert decisions.rows() == [row]
    assert replace(row, id=7).to_dict() == {**row.to_dict(), "id": 7}
    assert {name: row.to_dict()[name] for name in vars(whole)} == vars(whole)


def last(log: DecisionLog) -> dict[str, dict[str, Any]]:
    return {slide: state["decision"] for slide, state in log.verdicts().items() if state["decision"]}


def test_the_last_verdict_on_a_slide_and_on_each_patch_counts(decisions: DecisionLog) -> None:
    steps = (accept(), patch(64, 0, "tumour"), accept(verdict="reject", reviewer="Bo"), patch(0, 64, "unsure"),
             patch(64, 0, "non-tumour"))  # fmt: skip
    for seen, step in enumerate(steps):
        decisions.record(step, revision=seen)
    state = decisions.state("s1")
    assert state["revision"] == 5
    assert (state["decision"]["verdict"], state["decision"]["reviewer"]) == ("reject", "Bo")
    labels = [(row["x"], row["y"], row["verdict"]) for row in state["patches"]]
    assert labels == [(0, 64, "unsure"), (64, 0, "non-tumour")]
    assert [row["revision"] for row in state["history"]] == [5, 4, 3, 2, 1]
    assert [row["stands"] for row in state["history"]] == [True, True, True, False, True]  # both reviewers' verdicts


def test_a_write_on_an_old_revision_is_refused_with_the_latest_decision(decisions: DecisionLog) -> None:
    decisions.record(accept(verdict="flag", reviewer="Bo"), revision=0)
    for seen in (0, 2):
        with pytest.raises(ReviewConflictError, match=r"s1 has 1 decisions by now, the page showed \d") as raised:
            decisions.record(accept(), revision=seen)
        assert raised.value.state["revision"] == 1
        assert raised.value.state["decision"]["reviewer"] == "Bo"
    with pytest.raises(ReviewConflictError):
        decisions.undo("s1", "Ada", 0)
    assert len(decisions.rows()) == 1
    decisions.record(accept("s2"), revision=0)  # another slide has a revision of its own


def test_a_decision_reads_and_sends_only_what_is_new_on_its_slide(
    decisions: DecisionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 500 rows each was checked and sent anew at each decision: of 10,000 that took seconds."""
    rows = [
        RecordedDecision(**vars(patch(64 * n, 0, "tumour")), id=n, made=f"2026-01-01T00:00:00.{n:06d}Z")
        for n in range(1, 501)
    ]
    decisions.merge(rows)
    assert len(decisions.state("s1")["patches"]) == 500
    read: list[object] = []
    monkeypatch.setattr(
        decisions_module, "decision_of_row", lambda row: read.append(row) or log_module.decision_of_row(row)
    )
    decisions.record(patch(64, 0, "unsure"), revision=500)
    decisions.undo("s1", "Ada", 501)
    with pytest.raises(ReviewConflictError) as raised:
        decisions.record(patch(0, 0, "tumour"), revision=501)
    state = decisions.state("s1", "Ada", since=500)
    assert len(read) <= 4
    assert raised.value.state["since"] == 501
    assert [(row["x"], row["verdict"]) for row in state["patches"]] == [(64, "tumour")]
    assert (state["revision"], len(state["history"])) == (502, 200)
    assert len(decisions.state("s1", since=9000)["patches"]) == 500  # a revision of another log


def test_an_emptied_log_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "review.sqlite").touch()
    for opened in (DecisionLog, read_log):
        with pytest.raises(InputCorruptError, match="the file of decisions is empty.*put a whole copy of it back"):
            opened(tmp_path / "review.sqlite")
    assert (tmp_path / "review.sqlite").stat().st_size == 0


def test_a_log_whose_index_is_damaged_is_refused_and_its_rows_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "review.sqlite"
    with DecisionLog(path) as log:
        log.record(accept(), revision=0)
        with closing(sqlite3.connect(path)) as file:
            query = "SELECT rootpage FROM sqlite_master WHERE name = 'sqlite_autoindex_decisions_2'"
            ((root,), (page,)) = (file.execute(text).fetchone() for text in (query, "PRAGMA page_size"))
        content = bytearray(path.read_bytes())
        content[content.index(b"s1", (root - 1) * page)] ^= 1
        path.write_bytes(content)
        with pytest.raises(InputCorruptError, match="the decisions are damaged"):
            log.record(accept(), revision=1)
        kept = log.keep_lost()
        assert kept is not None
        assert len(read_decisions(kept)) == 1
    for read in (read_log, DecisionLog):
        with pytest.raises(InputCorruptError, match="the decisions are damaged"):
            read(path)


def test_a_reader_is_one_whatever_the_case_and_form_of_the_name(tmp_path: Path) -> None:
    with DecisionLog(tmp_path / "review.sqlite") as log:
        log.record(accept(reviewer="Zo\u00eb  B\n"), revision=0)
        log.record(accept(reviewer="ZOE\u0308 b\u202e"), revision=1)
        assert {row.reviewer for row in log.rows()} == {"Zo\u00eb B"}
        exported = tmp_path / "review.csv"
        exported.write_text(decisions_csv(log.rows()).replace("Zo\u00eb B", "zo\u00eb b"), encoding="utf-8")
        assert log.merge(read_decisions(exported)) == 0
        assert log.reader("zo\u00eb b") == "Zo\u00eb B"


def test_undo_goes_back_step_by_step_and_is_itself_a_row(decisions: DecisionLog) -> None:
    decisions.record(accept(fingerprint="a"), revision=0)
    decisions.record(patch(64, 0, "tumour"), revision=1)
    decisions.record(accept(verdict="reject", fingerprint="b"), revision=2)
    row = decisions.undo("s1", "Ada", 3)
    assert (row.verdict, row.reviewer, row.undoes, row.fingerprint) == ("undo", "Ada", 3, "b")
    state = decisions.state("s1")
    assert state["decision"]["verdict"] == "accept"  # what the reject had taken the place of
    assert decisions.undo("s1", "Ada", 4).undoes == 2
    assert decisions.state("s1")["patches"] == []
    assert decisions.undo("s1", "Ada", 5).undoes == 1
    assert decisions.state("s1")["decision"] is None
    with pytest.raises(InputMissingError, match="no decision of Ada to withdraw"):
        decisions.undo("s1", "Ada", 6)
    assert decisions.state("s1")["revision"] == 6
    assert last(decisions) == {}


@pytest.mark.fault("foreign-undo")
def test_a_reviewer_withdraws_only_decisions_of_their_own(decisions: DecisionLog) -> None:
    decisions.record(accept(reviewer="Ada"), revision=0)
    with pytest.raises(InputMissingError, match="no decision of Bo to withdraw .* a new one of yours stands beside it"):
        decisions.undo("s1", "Bo", 1)
    assert last(decisions)["s1"]["reviewer"] == "Ada"
    decisions.record(patch(64, 0, "tumour", reviewer="Bo"), revision=1)
    decisions.record(accept(verdict="reject", reviewer="Ada"), revision=2)
    assert decisions.undo("s1", "Bo", 3).undoes == 2  # though Ada's is newer
    assert decisions.undo("s1", "Ada", 4).undoes == 3
    assert last(decisions)["s1"]["verdict"] == "accept"


def test_a_decision_that_a_colleague_replaced_can_be_withdrawn_too(decisions: DecisionLog) -> None:
    decisions.record(accept(reviewer="Ada"), revision=0)
    decisions.record(accept(verdict="reject", reviewer="Bo"), revision=1)
    assert decisions.undo("s1", "Ada", 2).undoes == 1
    assert last(decisions)["s1"]["reviewer"] == "Bo"
    assert decisions.undo("s1", "Bo", 3).undoes == 2
    assert last(decisions) == {}


def test_last_has_the_verdict_that_stands_on_each_slide(decisions: DecisionLog) -> None:
    decisions.record(accept("s1"), revision=0)
    decisions.record(accept("s2", verdict="flag"), revision=0)
    decisions.record(accept("s2", verdict="reject"), revision=1)
    decisions.record(accept("s3"), revision=0)
    decisions.undo("s3", "Ada", 1)
    decisions.record(patch(0, 0, "unsure"), revision=1)
    decisions.record(accept("s1", verdict="flag"), revision=2)
    decisions.undo("s1", "Ada", 3)
    assert {slide: row["verdict"] for slide, row in last(decisions).items()} == {"s1": "accept", "s2": "reject"}
    for slide, row in last(decisions).items():
        decision = decisions.state(slide)["decision"]
        assert row == {name: value for name, value in decision.items() if name != "stands"}


def test_a_decision_of_another_heatmap_is_outdated(tmp_path: Path) -> None:
    now = {"s1": "a", "s2": ""}
    with DecisionLog(tmp_path / "review.sqlite", fingerprint_of=now.__getitem__) as decisions:
        decisions.record(accept(fingerprint="a"), revision=0)
        decisions.record(patch(0, 0, "tumour", fingerprint="b"), revision=1)
        decisions.record(accept("s2", verdict="reject"), revision=0)  # nothing was predicted, and nothing is
        state = decisions.state("s1")
        assert state["decision"]["outdated"] is False
        assert state["patches"][0]["outdated"] is True
        assert {slide: row["outdated"] for slide, row in last(decisions).items()} == {"s1": False, "s2": False}
        now["s1"] = "c"
        assert last(decisions)["s1"]["outdated"] is True
        assert [row["outdated"] for row in decisions.state("s1")["history"]] == [True, True]


def test_rows_cannot_be_changed_or_removed_even_by_other_programs(decisions: DecisionLog) -> None:
    decisions.record(accept(), revision=0)
    with sqlite3.connect(decisions.path) as other:
        for statement in ("UPDATE decisions SET verdict = 'reject'", "DELETE FROM decisions"):
            with pytest.raises(sqlite3.IntegrityError, match="only appended"):
                other.execute(statement)
    other.close()
    assert decisions.state("s1")["decision"]["verdict"] == "accept"


def test_a_clock_that_was_set_back_does_not_turn_the_order_round(
    decisions: DecisionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = decisions.record(accept(), revision=0)

    class Yesterday(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.now(tz) - timedelta(days=1)

    monkeypatch.setattr(decisions_module, "datetime", Yesterday)
    second = decisions.record(accept(verdict="reject"), revision=1)
    assert datetime.fromisoformat(second.made) < datetime.fromisoformat(first.made) - timedelta(hours=23)
    assert datetime.fromisoformat(second.sorted_as) - datetime.fromisoformat(first.made) == timedelta(microseconds=1)
    assert decisions.state("s1")["decision"]["id"] == second.id


def test_a_decision_dated_in_the_future_does_not_date_the_next(decisions: DecisionLog, tmp_path: Path) -> None:
    """Those that follow have their own dates and stand, here and where an export of them is imported."""
    ahead = RecordedDecision(slide_id="s1", verdict="reject", reviewer="Bo", id=1, made="2099-01-01T00:00:00.000000Z")
    decisions.merge([ahead])
    rows = [decisions.record(accept(verdict=verdict), revision=n) for n, verdict in enumerate(("accept", "flag"), 1)]
    for row in rows:
        assert abs(datetime.fromisoformat(row.made) - datetime.now(UTC)) < timedelta(minutes=1)
    assert decisions.state("s1")["decision"]["id"] == rows[1].id
    assert last(decisions)["s1"]["verdict"] == "flag"
    assert decisions.record(accept("s2"), revision=0).sorted_as == ""
    (tmp_path / "review.csv").write_text(decisions_csv(decisions.rows()), newline="")
    with DecisionLog(tmp_path / "other.sqlite") as other:
        assert other.merge(read_decisions(tmp_path / "review.csv")) == 4
        assert other.rows() == decisions.rows()
        assert other.merge(read_decisions(tmp_path / "review.csv")) == 0
    decisions.undo("s1", "Ada", 3)
    assert last(decisions)["s1"]["verdict"] == "accept"
    decisions.undo("s1", "Ada", 4)
    assert last(decisions)["s1"]["verdict"] == "reject"


@pytest.mark.parametrize(
    ("values", "column"),
    [
        ({"slide_id": "../x"}, "slide_id"),
        ({"verdict": "tumour"}, "verdict"),
        ({"verdict": "accept", "x": 0, "y": 0}, "verdict"),
        ({"verdict": "undo"}, "verdict"),
        ({"verdict": "tumour", "x": 3}, "y"),
        ({"verdict": "tumour", "x": -1, "y": 0}, "x"),
        ({"verdict": "tumour", "x": True, "y": 0}, "x"),
        ({"verdict": "tumour", "x": 1.0, "y": 0}, "x"),
        ({"verdict": "tumour", "x": 0, "y": 2**63}, "y"),
        ({"reviewer": "  "}, "reviewer"),
        ({"reviewer": "a" * 201}, "reviewer"),
        ({"comment": "a\0b"}, "comment"),
        ({"comment": "\ud800"}, "comment"),
        ({"comment": 3}, "comment"),
        ({"threshold": 1.5}, "threshold"),
        ({"threshold": float("nan")}, "threshold"),
        ({"threshold": "0.5"}, "threshold"),
    ],
)
def test_what_is_no_decision_is_refused_with_its_column(values: dict[str, Any], column: str) -> None:
    with pytest.raises(InputUnsupportedError) as raised:
        accept(**values)
    assert raised.value.place == column
    assert raised.value.remedy


def test_another_program_s_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "theirs.sqlite") as theirs:
        theirs.execute("CREATE TABLE mine (a)")
    theirs.close()
    (tmp_path / "text.sqlite").write_text("no database, but long enough to be looked at " * 20)
    for name in ("theirs.sqlite", "text.sqlite"):
        before = (tmp_path / name).read_bytes()
        for opened in (DecisionLog, read_log):
            with pytest.raises(InputCorruptError, match=name):
                opened(tmp_path / name)
        assert (tmp_path / name).read_bytes() == before


def test_a_log_of_a_newer_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    DecisionLog(tmp_path / "review.sqlite").close()
    monkeypatch.setattr(log_module, "LOG_VERSION", 0)
    for opened in (DecisionLog, read_log):
        with pytest.raises(StaleArtefactError, match="newer version"):
            opened(tmp_path / "review.sqlite")


def test_a_link_that_leads_outside_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "review.sqlite").symlink_to(tmp_path / "elsewhere.sqlite")
    with pytest.raises(InputUnsupportedError, match="outside"):
        DecisionLog(tmp_path / "out" / "review.sqlite")
    assert not (tmp_path / "elsewhere.sqlite").exists()


def test_the_log_is_read_beside_an_open_page_and_from_an_archive(tmp_path: Path) -> None:
    path = tmp_path / "review.sqlite"
    assert read_log(path) == []
    assert not path.exists()
    with DecisionLog(path) as decisions:
        row = decisions.record(accept(), revision=0)
        assert read_log(path) == [row]
        assert [file.name for file in tmp_path.glob("review*")] == ["review.sqlite"]
    before = path.read_bytes()
    assert read_log(path) == [row]
    assert [file.name for file in tmp_path.glob("review*")] == ["review.sqlite"]
    assert path.read_bytes() == before


def test_a_journal_that_cannot_be_merged_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a read-only folder: rows in the journal would be missed."""
    DecisionLog(tmp_path / "review.sqlite").close()
    (tmp_path / "review.sqlite-wal").write_bytes(b"of a program that was killed")

    def on_a_read_only_disk(*_arguments: Any, **_options: Any) -> sqlite3.Connection:
        error = sqlite3.OperationalError("unable to open database file")
        error.sqlite_errorcode = sqlite3.SQLITE_CANTOPEN
        raise error

    monkeypatch.setattr(sqlite3, "connect", on_a_read_only_disk)
    with pytest.raises(InputUnsupportedError, match="may write to"):
        read_log(tmp_path / "review.sqlite")


def test_times_of_any_zone_sort_as_text() -> None:
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
    east = noon.astimezone(timezone(timedelta(hours=5)))
    assert utc_text(noon) == utc_text(east) == "2026-03-01T12:00:00.000000Z"
    assert utc_text(noon) < utc_text(noon + timedelta(microseconds=1))


STEPS = st.lists(st.one_of(st.tuples(st.sampled_from([None, 0, 64]), st.integers(0, 2)), st.just("undo")), max_size=12)


@given(steps=STEPS)
def test_standing_decisions_equal_a_replay_of_the_clicks(steps: list[Any]) -> None:
    """Against a stack of clicks: undo takes the last one off, and each subject shows its topmost."""
    stack: list[RecordedDecision] = []
    rows: list[RecordedDecision] = []
    for number, step in enumerate(steps, 1):
        time_utc = f"2026-01-01T00:00:{number:02d}.000000Z"
        if step == "undo":
            if not stack:
                continue
            last = stack.pop()
            rows.append(replace(last, id=number, made=time_utc, verdict="undo", undoes=last.id))
            continue
        x, choice = step
        verdict = (("accept", "reject", "flag") if x is None else ("tumour", "non-tumour", "unsure"))[choice]
        y = None if x is None else 0
        row = RecordedDecision(slide_id="s1", x=x, y=y, verdict=verdict, reviewer="Ada", id=number, made=time_utc)
        stack.append(row)
        rows.append(row)
    expected = {row.subject: row for row in stack}
    assert {subject: one.decision for subject, one in StandingDecisions(reversed(rows)).by_subject.items()} == expected


def test_a_folder_that_cannot_be_written_opens_for_looking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with DecisionLog(tmp_path / "review.sqlite") as log:
        log.record(accept(), revision=0)
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    before = sorted(tmp_path.iterdir())
    for path, rows in ((tmp_path / "review.sqlite", 1), (tmp_path / "none.sqlite", 0)):
        with DecisionLog(path) as log:
            assert (len(log.rows()), log.state("s1")["revision"]) == (rows, rows)
            with pytest.raises(InputUnsupportedError, match="open for looking alone"):
                log.record(accept(), revision=rows)
    assert sorted(tmp_path.iterdir()) == before

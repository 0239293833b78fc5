"""Several reviewers at one folder: work lists, disputes, blinded reading."""

from __future__ import annotations

import csv
import io
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from review_page import Page, answering, decide_as, predicted

from pathopatch.cli.predicting import _where_decisions_are
from pathopatch.core.errors import InputUnsupportedError, ReviewConflictError, TableError
from pathopatch.groups.decisions.agreement import decision_pairs
from pathopatch.groups.decisions.decision import Decision
from pathopatch.groups.decisions.log import read_log
from pathopatch.groups.decisions.table import decisions_csv, read_decisions
from pathopatch.review.decisions import DecisionLog
from pathopatch.review.security import Access


@pytest.fixture
def log(tmp_path: Path) -> Iterator[DecisionLog]:
    with DecisionLog(tmp_path / "review.sqlite", fingerprint_of=lambda _: "f") as opened:
        yield opened


def decide(log: DecisionLog, reviewer: str, verdict: str = "accept", **values: Any) -> int:
    decision = Decision(**{"slide_id": "s1", "verdict": verdict, "reviewer": reviewer, "fingerprint": "f", **values})
    return log.record(decision, revision=log.state("s1", reviewer)["revision"], reader=reviewer).id


def settle(log: DecisionLog, reviewer: str, verdict: str) -> int:
    return decide(log, reviewer, verdict, settles=" ".join(str(row["id"]) for row in log.state("s1")["dispute"]))


def verdicts(state: dict[str, Any]) -> list[tuple[str, str]]:
    return [(row["reviewer"], row["verdict"]) for row in state["verdicts"]]


def test_a_slide_is_done_by_whoever_has_a_verdict_on_its_current_heatmap(log: DecisionLog) -> None:
    decide(log, "ada")
    decide(log, "ben", fingerprint="of an earlier heatmap")
    done = {name: log.verdicts(name)["s1"]["is_mine_done"] for name in ("ada", " ada ", "ben", "cy")}
    assert done == {"ada": True, " ada ": True, "ben": False, "cy": False}


def test_two_differing_verdicts_on_one_heatmap_are_a_dispute(log: DecisionLog) -> None:
    decide(log, "ada")
    decide(log, "ben", "reject", fingerprint="of an earlier heatmap")
    assert log.state("s1")["dispute"] == []
    decide(log, "ben", "reject")
    assert [row["reviewer"] for row in log.verdicts()["s1"]["dispute"]] == ["ada", "ben"]
    decide(log, "ben")
    assert log.state("s1")["dispute"] == []


def test_a_third_verdict_settles_a_dispute_and_stands(log: DecisionLog) -> None:
    decide(log, "ada")
    decide(log, "ben", "reject")
    settle(log, "cy", "flag")
    decide(log, "ben", "reject", comment="a note that is added afterwards")
    state = log.state("s1")
    assert (state["dispute"], state["decision"]["reviewer"], state["decision"]["settles"]) == ([], "cy", "1 2")
    assert verdicts(state) == [("ada", "accept"), ("ben", "reject")]
    assert [(pair.first.reviewer, pair.second.reviewer) for pair in decision_pairs(log.rows())] == [("ada", "ben")]


def test_a_verdict_that_was_not_weighed_opens_the_dispute_again(log: DecisionLog) -> None:
    for name, verdict in (("ada", "accept"), ("ben", "reject")):
        decide(log, name, verdict)
    settle(log, "cy", "accept")
    decide(log, "dee", "flag")
    assert [row["reviewer"] for row in log.state("s1")["dispute"]] == ["ada", "dee"]
    settle(log, "cy", "flag")
    assert log.state("s1")["dispute"] == []


def test_a_withdrawn_settlement_leaves_the_dispute(log: DecisionLog) -> None:
    decide(log, "ada")
    decide(log, "ben", "reject")
    settle(log, "cy", "reject")
    log.undo("s1", "cy", 3)
    assert len(log.state("s1")["dispute"]) == 2
    assert log.state("s1")["decision"]["reviewer"] == "ben"


def test_two_labels_of_a_patch_are_a_dispute_whichever_map_was_shown(log: DecisionLog) -> None:
    at = {"x": 64, "y": 0}
    decide(log, "ada", "tumour", **at, fingerprint="of an earlier heatmap")
    decide(log, "ben", "non-tumour", **at)
    (patch,) = log.state("s1")["patches"]
    assert [(row["reviewer"], row["verdict"]) for row in patch["dispute"]] == [("ada", "tumour"), ("ben", "non-tumour")]
    assert (log.verdicts()["s1"]["dispute"], log.verdicts()["s1"]["disputed_patches"]) == ([], 1)
    with pytest.raises(ReviewConflictError, match="not two verdicts"):
        decide(log, "cy", settles="1 2")  # they are on the patch, not on the slide
    decide(log, "cy", "tumour", **at, settles="1 2")
    decide(log, "ben", "non-tumour", **at, fingerprint="of a later heatmap")
    (patch,) = log.state("s1")["patches"]
    assert (patch["reviewer"], patch["verdict"], patch["dispute"]) == ("cy", "tumour", [])
    decide(log, "dee", "unsure", **at)
    assert log.verdicts()["s1"]["disputed_patches"] == 1


def test_a_colleagues_verdict_stands_beside_ones_own(log: DecisionLog) -> None:
    decide(log, "ada", "flag")
    decide(log, "ada")
    decide(log, "ben", "reject")
    decide(log, "ben", "flag")
    log.undo("s1", "ben", 4)
    rows = {row["id"]: row["stands"] for row in log.state("s1")["history"]}
    assert rows == {5: False, 4: False, 3: True, 2: True, 1: False}
    marked = csv.DictReader(io.StringIO(decisions_csv(log.rows())))
    assert [(row["stands"], row["disputed"]) for row in marked] == [
        ("false", "false"), ("true", "true"), ("true", "true"), ("false", "false"), ("false", "false"),
    ]  # fmt: skip


@pytest.mark.parametrize("settles", ["1 1", "1 3", "1 9"])
def test_only_two_verdicts_that_differ_can_be_settled(log: DecisionLog, settles: str) -> None:
    for name, verdict in (("ada", "accept"), ("ben", "reject"), ("dee", "accept")):
        decide(log, name, verdict)
    with pytest.raises(ReviewConflictError, match="not two verdicts that differ"):
        decide(log, "cy", settles=settles)


def test_what_settles_names_two_rows_of_a_slide() -> None:
    for values in (
        {"settles": "1"},
        {"settles": "1,2"},
        {"settles": "1 2", "region": "POLYGON ((1 1, 9 1, 9 9, 1 1))", "verdict": "tumour"},
    ):
        with pytest.raises(InputUnsupportedError, match="two verdicts"):
            Decision(**{"slide_id": "s1", "verdict": "accept", "reviewer": "cy", **values})


def test_an_export_carries_what_a_verdict_settles_to_another_log(log: DecisionLog, tmp_path: Path) -> None:
    decide(log, "ada")
    decide(log, "ben", "reject")
    settle(log, "cy", "flag")
    text = decisions_csv(log.rows())
    (tmp_path / "review.csv").write_text(text, newline="")
    with DecisionLog(tmp_path / "other.sqlite", fingerprint_of=lambda _: "f") as other:
        decide(other, "dee", slide_id="s2")
        for added in (3, 0):
            assert other.merge(read_decisions(tmp_path / "review.csv")) == added
        assert (other.rows()[-1].settles, other.state("s1")["dispute"]) == ("2 3", [])
    (tmp_path / "review.csv").write_text(text.replace("1 2", "1 7"), newline="")
    with pytest.raises(TableError, match="settles"):
        read_decisions(tmp_path / "review.csv")


def test_a_blinded_reviewer_sees_others_only_after_his_own_verdict(log: DecisionLog) -> None:
    log.set_blinded(True, "ada")
    decide(log, "ada")
    decide(log, "ada", "tumour", x=0, y=0)
    decide(log, "ben", "tumour", x=64, y=0)
    state = log.state("s1", "ben")
    assert (state["revision"], state["decision"], state["verdicts"]) == (1, None, [])
    assert [row["reviewer"] for row in state["history"]] == ["ben"]
    assert log.verdicts("ben")["s1"]["verdicts"] == []
    assert [row.reviewer for row in log.rows("ben")] == ["ben"]
    decide(log, "ben", "reject")
    assert verdicts(log.state("s1", "ben")) == [("ada", "accept"), ("ben", "reject")]
    assert log.rows("ben") == log.rows()


def test_a_blinded_reviewer_cannot_settle_before_reading(log: DecisionLog) -> None:
    log.set_blinded(True, "ada")
    decide(log, "ada")
    decide(log, "ben", "reject")
    with pytest.raises(ReviewConflictError):
        settle(log, "cy", "flag")
    decide(log, "cy", "flag")
    assert settle(log, "cy", "flag") == 4


def test_blinding_stays_with_the_folder_and_reaches_an_open_page(log: DecisionLog) -> None:
    decide(log, "ada")
    with DecisionLog(log.path) as other:
        other.set_blinded(True, "ben")
    assert log.is_blinded()
    assert decide(log, "ada", "flag") == 2  # the file that was put in its place is known
    with DecisionLog(log.path) as again:
        assert again.is_blinded()
        again.set_blinded(False, "ada")
    assert not log.is_blinded()
    with closing(sqlite3.connect(log.path)) as file:
        assert file.execute("SELECT reviewer, name, value FROM settings").fetchall() == [
            ("ben", "blinded", "yes"), ("ada", "blinded", "no"),
        ]  # fmt: skip
        with pytest.raises(sqlite3.IntegrityError, match="only appended"):
            file.execute("DELETE FROM settings")


def test_what_to_type_after_a_loss_keeps_the_folder_blinded(log: DecisionLog) -> None:
    decide(log, "ada")
    log.set_blinded(True, "ada")
    log.path.unlink()
    assert _where_decisions_are(log, log.path.parent).endswith(".csv --blinded")


def test_a_log_of_an_earlier_version_opens_with_its_rows_untouched(tmp_path: Path) -> None:
    path = tmp_path / "review.sqlite"
    with DecisionLog(path) as log:
        row = log.record(Decision(slide_id="s1", verdict="accept", reviewer="ada"), revision=0)
    with closing(sqlite3.connect(path, isolation_level=None)) as old:
        for statement in ("ALTER TABLE decisions DROP COLUMN settles", "DROP TABLE IF EXISTS settings"):
            old.execute(statement)
        before = old.execute("SELECT * FROM decisions").fetchall()
    content = path.read_bytes()
    with DecisionLog(path) as log:
        assert log.rows() == read_log(path) == [row]
        assert path.read_bytes() == content  # opening writes nothing
        log.record(Decision(slide_id="s1", verdict="flag", reviewer="ben"), revision=1)
    with closing(sqlite3.connect(path)) as new:
        names = [column[1] for column in new.execute("PRAGMA table_info(decisions)") if column[1] != "settles"]
        assert new.execute(f"SELECT {', '.join(names)} FROM decisions WHERE id = 1").fetchall() == before


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return predicted(tmp_path_factory.mktemp("reading"))


@contextmanager
def blinded(out: Path) -> Iterator[Page]:
    """The page of "me" over a blinded folder in which Somebody has decided, labelled and drawn."""
    (out / "review.sqlite").unlink(missing_ok=True)
    with answering(out, Access()) as page:
        decide_as(out, "Somebody", comment="of Somebody")
        decide_as(out, "Somebody", verdict="tumour", region="POLYGON ((1 1, 9 1, 9 9, 1 1))", comment="of Somebody")
        with DecisionLog(out / "review.sqlite") as log:
            log.set_blinded(True, "Somebody")
        yield page


ADDRESSES = (
    "/api/cohort",
    "/api/slides/a/decisions",
    "/api/agreement",
    "/export/decisions.csv",
)


def test_nothing_of_others_leaves_the_server_before_ones_own_verdict(out: Path) -> None:
    with blinded(out) as page:
        for address in (
            *ADDRESSES,
            "/api/newest",
            "/api/slides/a",
            "/api/slides/a/gallery?kind=near-threshold",
        ):
            assert b"Somebody" not in page.ask(address).body, address
        assert page.ask("/export/decisions.zip").status == 404
        assert page.ask("/api/newest").json == {"newest": 0}
        assert b"decisions.geojson" not in page.ask("/export/qupath.zip").body
        assert b"Somebody" not in page.decide(revision=5).body  # a conflict names nobody
        assert page.decide(verdict="reject", reason="out of focus").status == 201
        for address in ADDRESSES:
            assert b"Somebody" in page.ask(address).body, address
        assert page.ask("/export/decisions.zip").status == 200
        assert b"decisions.geojson" in page.ask("/export/qupath.zip").body


def test_the_cohort_says_whose_turn_it_is(out: Path) -> None:
    with blinded(out) as page:
        cohort = page.ask("/api/cohort").json
        assert cohort["is_blinded"]
        assert [row["is_mine_done"] for row in cohort["rows"]] == [False]
        page.decide(verdict="reject", reason="out of focus")
        (row,) = page.ask("/api/cohort").json["rows"]
        assert row["is_mine_done"]
        assert [one["verdict"] for one in row["dispute"]] == ["accept", "reject"]

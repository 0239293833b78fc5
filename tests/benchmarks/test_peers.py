"""A peer is compared only if it runs and gives what we give; any other is left out, with a word."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import pytest

sys.path.append(str(Path(__file__).parents[2] / "pipelines" / "bench"))
import environments  # noqa: E402 - found through the line above
from environments import Environment, Peer, PeerError, at_work, measured, speedup  # noqa: E402
from measure import Row  # noqa: E402
from peers_predicting import require_agreement  # noqa: E402

_HERE = Environment("here", ())
_BURN = """
first = sys.argv[1]
print("what an import says")
def work():
    while time.process_time() < start + 0.05:
        pass
"""
_TABLE = pd.DataFrame({"x": [0, 256, 0], "y": [0, 0, 256], "probability": [0.1, 0.5, 0.9]})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with the environment `_HERE`: that of this interpreter."""
    python = tmp_path / "here" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    return tmp_path


def test_a_peer_says_its_word_and_after_each_call_its_cpu_seconds(folder: Path) -> None:
    with at_work(Peer("burner", _HERE, _BURN, 1.0), folder, "a word") as process:
        assert process.first == "a word"
        assert all(0.05 <= process.again() < 0.5 for _ in range(2))


def test_the_speedup_is_their_seconds_by_ours_and_every_repeat_is_checked() -> None:
    class Told:
        seconds = iter((6.0, 8.0, 100.0))

        def again(self) -> float:
            return next(self.seconds)

    checked: list[int] = []
    assert speedup(Told(), lambda: 2.0, check=lambda: checked.append(1), repeats=3) == 4.0  # type: ignore[arg-type]
    assert len(checked) == 3


def test_a_peer_that_fails_is_left_out_with_a_message(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def row(peer: Peer) -> Row:
        with at_work(peer, folder, "a word") as process:
            return Row(peer.name, process.again(), peer.goal)

    peers = (Peer("broken", _HERE, "raise SystemExit\n", 1.0), Peer("burner", _HERE, _BURN, 2.0))
    assert [measured_row.name for measured_row in measured(peers, row)] == ["burner"]
    assert "left out: broken: its process ended" in capsys.readouterr().err


def test_an_environment_that_cannot_be_installed_is_not_left_half_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def create(home: Path, **_: object) -> None:
        python = home / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
        python.chmod(0o755)

    monkeypatch.setattr(environments.venv, "create", create)

    def row(peer: Peer) -> Row:
        with at_work(peer, tmp_path):
            raise AssertionError

    assert list(measured([Peer("absent", Environment("none", ("nothing",)), "", 1.0)], row)) == []
    assert "left out: absent" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_same_probabilities_of_the_same_patches_agree_in_any_order() -> None:
    require_agreement(_TABLE, _TABLE[::-1].assign(probability=lambda table: table["probability"] + 0.009), 0.01)


@pytest.mark.parametrize(
    ("theirs", "word"),
    [
        (_TABLE.assign(probability=[0.1, 0.5, 0.92]), "apart"),
        (_TABLE.assign(probability=[0.1, 0.5, float("nan")]), "apart"),
        (_TABLE.assign(x=[0, 512, 0]), "not the same"),
        (_TABLE[:2], "predicts 2 patches, we 3"),
    ],
)
def test_other_probabilities_or_patches_are_no_comparison(theirs: pd.DataFrame, word: str) -> None:
    with pytest.raises(PeerError, match=word):
        require_agreement(_TABLE, theirs, 0.01)


def test_probabilities_that_are_all_alike_show_nothing() -> None:
    alike = _TABLE.assign(probability=[0.98, 0.99, 1.0])
    with pytest.raises(PeerError, match="nothing to compare"):
        require_agreement(alike, alike, 0.01)

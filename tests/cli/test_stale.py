"""STALE_ARTEFACT names the setting that changed, whatever the command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pathopatch.core.artefacts import changed_settings
from pathopatch.demo.slides import CohortSpec, make_cohort

pytestmark = pytest.mark.slow

SPEC = CohortSpec(slides=(2, 1, 1), patients=(1, 1, 1), fields=6, minority_share=0.2)
SETTINGS = """
manifest = "cohort/manifest.csv"
work = "work"
methods = ["erm"]
[tile]
patch_px = 96
[groups]
thresholds = [0.5]
[train]
input_px = 32
steps = 2
evaluations = 1
batch_per_class = 4
threads = 1
[evaluate]
bootstrap = 0
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study of four slides, in ``work``."""
    from typer.testing import CliRunner

    from pathopatch.cli.program import app

    place = tmp_path_factory.mktemp("stale")
    make_cohort(place / "cohort", seed=0, spec=SPEC)
    (place / "study.toml").write_text(SETTINGS)
    done = CliRunner().invoke(app, ["run", str(place / "study.toml"), "--quiet"])
    assert done.exit_code == 0, done.output
    return place


@pytest.fixture
def refused(typed: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Type a command that refuses some or all of its work; return what it said on standard error."""

    def run(*arguments: object) -> str:
        assert typed(*arguments, "--quiet") in (1, 3)
        text = capsys.readouterr().err
        assert text.count("STALE_ARTEFACT") == 1, text
        return text

    return run


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("run changed.toml", "bootstrap was 0, is 10"),
        ("tile cohort/manifest.csv -o work --patch-px 96 --stride-px 48", "stride_px was None, is 48"),
        ("groups work --threshold 0.5 --min-tissue 0.2", "min_tissue was 0.01, is 0.2"),
        ("train work --config study.toml --method erm --threshold 0.5 --learning-rate 0.5", "learning_rate was 0.001"),
        (
            "predict cohort/manifest.csv --model work/runs/erm-t0.5-s0/model -o work --config all.toml",
            "all_patches was False, is True",
        ),
    ],
)
def test_a_command_names_the_setting(
    command: str, words: str, folder: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    Path("all.toml").write_text("[predict]\nall_patches = true\n")
    Path("changed.toml").write_text(SETTINGS.replace("bootstrap = 0", "bootstrap = 10"))
    assert words in refused(*command.split())


def test_nested_settings_are_told_by_dotted_name() -> None:
    assert changed_settings({"a": {"b": 1}, "c": 2}, {"a": {"b": 3}}) == ["a.b was 1, is 3", "c was 2, is not set"]
    assert changed_settings({"a": 1}, {"a": 1}) == []

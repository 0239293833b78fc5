"""Options of the training commands override the configuration, which gives the rest."""

from pathlib import Path

import pytest
from made_model import write_model
from typer.testing import CliRunner

from pathopatch.cli import app
from pathopatch.core.config import PredictConfig, TrainConfig

STUDY = """
manifest = "m.csv"
work = "work"
[train]
method = "resample"
threshold = 0.5
seed = 7
device = "cpu"
"""


def settings_of(monkeypatch: pytest.MonkeyPatch, command: str, *arguments: str) -> TrainConfig:
    """Return the settings that reach the stage; nothing is trained."""
    given: list[TrainConfig] = []

    def stage(work: Path, settings: TrainConfig, *_: object, **__: object) -> Path:
        given.append(settings)
        return work

    monkeypatch.setattr("pathopatch.stages.train.train_run", stage)
    done = CliRunner().invoke(app, [command, "work", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return given[0]


def test_a_configuration_stands_where_an_option_is_not_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(STUDY, encoding="utf-8")
    settings = settings_of(monkeypatch, "train", "--config", str(path))
    assert (settings.method, settings.threshold, settings.seed, settings.device) == ("resample", 0.5, 7, "cpu")
    settings = settings_of(monkeypatch, "train", "--config", str(path), "--method", "erm", "--threshold", "0.25")
    assert (settings.method, settings.threshold, settings.seed) == ("erm", 0.25, 7)


def test_without_a_configuration_the_defaults_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings_of(monkeypatch, "train") == TrainConfig()


def test_predict_takes_settings_and_options_go_before_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text('[predict]\ndevice = "cpu"\nall_patches = true\nmin_tissue = 0.3\n')
    given: list[PredictConfig] = []
    monkeypatch.setattr(
        "pathopatch.stages.predict.predict_cohort", lambda *arguments, **_: given.append(arguments[3]) or []
    )
    model = str(write_model(tmp_path / "m"))
    typed = ["predict", str(tmp_path / "a.tif"), "--model", model, "-o", str(tmp_path), "--config", str(path), "-q"]
    for extra in ((), ("--device", "auto")):
        CliRunner().invoke(app, [*typed, *extra], catch_exceptions=False)
    first, second = given
    assert (first.device, first.all_patches, first.min_tissue) == ("cpu", True, 0.3)
    assert (second.device, second.all_patches) == ("auto", True)

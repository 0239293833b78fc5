"""What was removed is refused as wrong usage, with what to use instead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pathopatch.core import removed

Type = Callable[..., int]


@pytest.mark.parametrize(("name", "typed_as"), [("old", ["old", "--help"]), ("export old", ["export", "old", "x"])])
def test_a_removed_command_says_what_to_use(
    monkeypatch: pytest.MonkeyPatch, name: str, typed_as: list[str], said: Callable
) -> None:
    monkeypatch.setitem(removed.COMMANDS, name, "use predict")
    assert f"{name} was removed: use predict" in said(*typed_as, code=2).err


@pytest.mark.parametrize(
    "typed_as",
    [
        ["train", "work", "--rank"],
        ["tune", "work", "--budget-steps=800"],
        ["predict", "a.tif", "--tta"],
        ["predict", "a.tif", "--mpp", "1"],
    ],
)
def test_a_removed_option_says_what_to_use(typed_as: list[str], said: Callable) -> None:
    assert f"{typed_as[0]} {typed_as[2].partition('=')[0]} was removed: " in said(*typed_as, code=2).err


def test_a_removed_method_says_what_to_use(typed: Type, capsys: pytest.CaptureFixture[str]) -> None:
    assert typed("train", "work", "--method", "oversample") != 0
    assert "method = 'oversample' was removed: train gerne" in capsys.readouterr().err


def test_tune_is_another_name_of_train(
    typed: Type, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, said: Callable
) -> None:
    given: list[object] = []
    monkeypatch.setattr(
        "pathopatch.stages.train.train_run", lambda *arguments, **_: given.append(arguments) or tmp_path
    )
    assert "tune is another name of `train --trials N`" in said("tune", tmp_path, "--trials", 3, "-q").err
    assert typed("train", tmp_path, "--trials", 3, "-q") == 0
    assert given[0] == given[1]
    assert capsys.readouterr().err == ""

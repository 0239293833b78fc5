"""Slides that a command brings: while others are predicted, never twice, and none is lost by a command that fails."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import made_slides as made
import pytest
from made_model import write_model
from typer.testing import CliRunner
from written_files import TIMES, contents

from pathopatch.cli import app
from pathopatch.core.errors import TableError
from pathopatch.core.files import temporary_path

BRING = """
import pathlib, shutil, sys, time
store, source, file = map(pathlib.Path, sys.argv[1:])
slide = store / source.name
with (store / "fetched.txt").open("a") as log:
    log.write(slide.stem + "\\n")
if (store / "slow").exists():
    time.sleep(30)
if "refused" in slide.stem:
    sys.exit("AccessDenied: no such key")
content = slide.read_bytes()
if "nothing" not in slide.stem:
    file.write_bytes(content[: len(content) // 2] if "half" in slide.stem else content)
"""
ETAG = """
import hashlib, pathlib, sys
print(hashlib.md5((pathlib.Path(sys.argv[1]) / pathlib.Path(sys.argv[2]).name).read_bytes()).hexdigest())
"""


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that stands for a store of slides; settings, scratch and model lie beside it."""
    folder, scratch = tmp_path / "store", tmp_path / "scratch"
    for path in (folder, scratch):
        path.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "model")
    for name, text in {"bring.py": BRING, "etag.py": ETAG}.items():
        (tmp_path / name).write_text(text)
    start = f"{sys.executable} {{}} {folder} {{{{source}}}}"
    bring, etag = (json.dumps(start.format(tmp_path / name)) for name in ("bring.py", "etag.py"))
    (tmp_path / "fetch.toml").write_text(f'[predict]\nfetch = {bring[:-1]} {{file}}"\nfetch_id = {etag}\n')
    return folder


def scan(store: Path, *names: str, seed: int = 1) -> None:
    """Put slides into the store, and all that are there into the manifest."""
    disc = made.disc_image(160, 160, (80, 80), 60, tissue=(180, 90, 150), glass=(245, 245, 245))
    for number, name in enumerate(names):
        noise = made.noise(3, 160, 160, disc.dtype, seed=seed + number)
        made.write_rgb_pyramid(store / f"{name}.tif", disc - noise // 16, levels=1)
    rows = [f"{path.stem},p,s3://bucket/{path.name}" for path in sorted(store.glob("*.tif"))]
    Path("cohort.csv").write_text("\n".join(["slide_id,patient_id,path", *rows]) + "\n")


def predicted(*options: str, out: str = "out", code: int = 0) -> str:
    words = ["predict", "cohort.csv", "--model", "model", "-o", out, "--config", "fetch.toml", "-q", *options]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == code, result.output + result.stderr
    return f"{result.output}{result.stderr}{result.exception or ''}"


def fetched(store: Path) -> list[str]:
    """Return what was fetched since this was asked last."""
    log = store / "fetched.txt"
    names = log.read_text().split() if log.exists() else []
    log.unlink(missing_ok=True)
    assert not list(Path("scratch").glob("pathopatch-*"))
    return sorted(names)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_slide_is_fetched_once_and_predicted_as_one_on_a_drive(store: Path, workers: str) -> None:
    scan(store, "a", "b", "c", "d")
    predicted("--workers", workers)
    assert fetched(store) == ["a", "b", "c", "d"]
    status = json.loads(Path("out/status/a.json").read_text())["predict"]
    assert (status["state"], status["source"]) == ("done", "s3://bucket/a.tif")
    near = ["predict", "store", "--model", "model", "-o", "near", "-q", "--workers", workers]
    assert CliRunner().invoke(app, near).exit_code == 0
    for folder in ("predictions", "heatmaps"):
        assert contents(Path("out", folder), without=TIMES) == contents(Path("near", folder), without=TIMES)
    predicted("--workers", workers)
    assert fetched(store) == []


def test_only_what_changed_is_damaged_or_is_asked_for_is_fetched_again(store: Path) -> None:
    scan(store, "a", "b", "c")
    predicted()
    fetched(store)
    Path("out/heatmaps/c/overlay.png").write_bytes(b"")
    scan(store, "a", seed=7)
    assert "--replace-changed" in predicted(code=3)
    assert fetched(store) == ["a", "c"]
    predicted("--replace-changed")
    assert fetched(store) == ["a"]
    Path("all.toml").write_text(Path("fetch.toml").read_text() + "all_patches = true\n")
    assert "STALE_ARTEFACT" in predicted("--config", "all.toml", code=1)
    assert fetched(store) == ["a", "b", "c"]
    predicted("--force")
    assert fetched(store) == ["a", "b", "c"]


def test_a_command_that_fails_or_brings_half_a_file_costs_its_own_slide(store: Path) -> None:
    scan(store, "good", "half", "nothing", "refused")
    said = predicted(code=3)
    assert "INPUT_MISSING: the command failed with code 1: AccessDenied: no such key [refused]" in said
    assert "no file came of s3://bucket/nothing.tif" in said
    states = {path.stem: json.loads(path.read_text())["predict"] for path in Path("out/status").glob("*.json")}
    assert {name: entry.get("code", entry["state"]) for name, entry in states.items()} == {
        "good": "done",
        "half": "INPUT_CORRUPT",
        "nothing": "INPUT_MISSING",
        "refused": "INPUT_MISSING",
    }
    fetched(store)
    predicted(code=3)
    assert fetched(store) == ["half", "nothing", "refused"]


def test_without_the_command_an_address_fails_with_its_remedy(store: Path) -> None:
    scan(store, "a")
    Path("fetch.toml").write_text("[predict]\n")
    assert "set [predict] fetch" in predicted(code=1)
    with pytest.raises(TableError, match="copy the slide to a drive"):
        CliRunner().invoke(app, ["check", "cohort.csv", "-o", "work"], catch_exceptions=False)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('fetch = "cp {source} here"', "needs {source} and {file}"),
        ('fetch = "cp {source} {file}"\ndeidentify = true', "called by their content"),
        ('fetch_id = "stat {source}"', "nothing is fetched"),
    ],
)
def test_a_command_that_cannot_bring_slides_is_refused(store: Path, lines: str, message: str) -> None:
    scan(store, "a")
    Path("fetch.toml").write_text(f"[predict]\n{lines}\n")
    assert message in " ".join(predicted(code=1).split())


@pytest.mark.slow
def test_a_run_that_is_killed_leaves_nothing_that_the_next_one_does_not_remove(store: Path) -> None:
    scan(store, "a", "b")
    (store / "slow").touch()
    command = [sys.executable, "-m", "pathopatch", *shlex.split("predict cohort.csv --model model -o out -q")]
    with subprocess.Popen([*command, "--config", "fetch.toml"], env=os.environ) as process:
        while not (store / "fetched.txt").exists():
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert len(list(Path("scratch").glob("pathopatch-*"))) == 1
    others = temporary_path(Path("scratch/pathopatch-fetch"))  # of a process that lives
    others.mkdir()
    (store / "slow").unlink()
    predicted()
    assert list(Path("scratch").glob("pathopatch-*")) == [others]
    shutil.rmtree(others)
    assert set(fetched(store)) == {"a", "b"}

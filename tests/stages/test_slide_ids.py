"""The id of a slide stays with its content: ten nights with namesakes, copies, renames, moves and a drive that goes."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import made_slides as made
import numpy as np
import pytest
from made_model import made_spec, write_model

from pathopatch.core.status import read_status, slide_ids, update_status
from pathopatch.groups.decisions.decision import Decision
from pathopatch.models.bundle import save_bundle
from pathopatch.models.networks import build_network
from pathopatch.review.reviewed_cohort import open_review

Said = Callable[..., Any]
Night = Callable[..., tuple[dict[str, Any], Any]]


def scan(path: Path, seed: int, *, share: float = 1.0) -> None:
    """Write a slide of its own pixels, or a first `share` of its bytes."""
    disc = made.disc_image(64, 64, (30, 30), 24, tissue=(180, 90, 150), glass=(245, 245, 245))
    path.parent.mkdir(parents=True, exist_ok=True)
    made.write_rgb_pyramid(path, disc - made.noise(3, 64, 64, np.uint8, seed=seed) // 16, levels=1)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_model(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def night(root: Path, said: Said) -> Night:
    """Return a function that predicts folders as at night, and asks `status`, which must end alike."""

    def run(*sources: Path, code: int = 0, status: int | None = None) -> tuple[dict[str, Any], Any]:
        printed = said(
            "predict", *sources, "--model", "model", "-o", "out", "--summary", "out/last-run.json", code=code
        )
        said("status", "out", "-q", code=code if status is None else status)
        return json.loads(Path("out/last-run.json").read_text()), printed

    return run


def source(slide_id: str) -> str:
    """Return where a slide of `out` lies, below the working folder."""
    return str(Path(read_status(Path("out"), slide_id)["predict"]["source"]).relative_to(Path.cwd()))


def verdict(slide_id: str, *, decide: bool = False) -> tuple[str, bool]:
    """Return the verdict on a slide, and whether it is outdated; accept it first if asked."""
    with open_review(Path("out"), reviewer="ada") as review:
        mark = review.cohort.fingerprint(slide_id) or ""
        if decide:
            accepted = Decision(slide_id=slide_id, verdict="accept", reviewer="ada", fingerprint=mark)
            review.decisions.record(accepted, revision=0)
        (row,) = (row for row in review.decisions.rows() if row.slide_id == slide_id)
        return row.verdict, row.fingerprint != mark


def test_ten_nights_of_namesakes_copies_moves_and_a_drive_that_goes(root: Path, night: Night, said: Said) -> None:
    s, t = root / "s", root / "t"
    scan(s / "x.tif", 1)
    scan(s / "y.tif", 2)
    assert night(s)[0]["new"] == {"x": "done", "y": "done"}
    verdict("x", decide=True)
    verdict("y", decide=True)
    made_at = {name: (root / "out/predictions" / f"{name}.parquet").stat().st_mtime_ns for name in "xy"}

    scan(s / "b/x.tif", 3)  # a namesake
    told = night(s)[0]
    assert (told["new"], told["done"], told["unchanged"]) == ({"b_x": "done"}, {"b_x": "done"}, 2)

    (s / "a.tif").write_bytes((s / "y.tif").read_bytes())  # a copy, first by its name
    told = night(s)[0]
    assert told["left_out"] == {str(s / "a.tif"): "its content is that of another slide [y]"}
    assert (told["new"], told["unchanged"]) == ({}, 3)
    (s / "a.tif").unlink()

    (s / "x.tif").rename(s / "old.tif")  # renamed, with another known slide in its place, and a new one in that one's
    (s / "y.tif").rename(s / "x.tif")
    scan(s / "y.tif", 4)
    told, printed = night(s)
    assert told["new"] == {"s_y": "done"}
    assert told["moved"] == {"x": f"{s}/x.tif is now {s}/old.tif", "y": f"{s}/y.tif is now {s}/x.tif"}
    assert "renamed or moved 2: x, y" in printed.out
    assert [source(name) for name in ("b_x", "s_y", "x", "y")] == ["s/b/x.tif", "s/y.tif", "s/old.tif", "s/x.tif"]

    scan(s / "broken.tif", 5, share=0.5)
    (s / "c").mkdir()
    (s / "x.tif").rename(s / "c/y2.tif")  # moved
    told = night(s, code=3)[0]
    assert (told["moved"], list(told["failed"])) == ({"y": f"{s}/x.tif is now {s}/c/y2.tif"}, ["broken"])
    said("status", "out", "--ignore", "broken", "--why", "lost")
    (s / "broken.tif").rename(s / "c/cut.tif")
    assert list(night(s)[0]["ignored"]) == ["broken"]
    before = {path: path.read_bytes() for path in root.glob("out/status/*.json")}

    s.rename(root / "away")
    gone = "no slide here, where 5 slides lay"
    assert gone in night(s, code=1, status=0)[0]["error"]
    s.mkdir()  # where the drive is mounted
    scan(t / "z.tif", 6)
    assert gone in night(s, t, code=1, status=0)[0]["error"]
    assert {path: path.read_bytes() for path in root.glob("out/status/*.json")} == before

    s.rmdir()
    (root / "away").rename(s)
    told = night(s)[0]
    assert (told["unchanged"], told["new"], told["moved"], told["gone"]) == (4, {}, {}, {})

    s.rename(t / "s")  # the drive has another place from now on
    told = night(t)[0]
    assert (sorted(told["moved"]), told["new"]) == (["b_x", "broken", "s_y", "x", "y"], {"z": "done"})
    assert slide_ids(root / "out") == ["b_x", "broken", "s_y", "x", "y", "z"]
    assert sorted(path.stem for path in root.glob("out/predictions/*")) == ["b_x", "s_y", "x", "y", "z"]
    assert [verdict(name) for name in "xy"] == [("accept", False)] * 2
    assert {name: (root / "out/predictions" / f"{name}.parquet").stat().st_mtime_ns for name in "xy"} == made_at


def test_status_says_of_changed_files_and_models_what_predict_says(root: Path, said: Said) -> None:
    s, words = root / "s", ("--model", "model", "-o", "out")
    scan(s / "a.tif", 1)
    scan(s / "b.tif", 2)
    first = (s / "a.tif").read_bytes()

    def both(code: int, *options: str, before: int | None = None) -> str:
        """Return what `status` says, which ends with `code` before and after `predict` does."""
        said("status", "out", code=code if before is None else before)
        said("predict", s, *words, *options, code=code)
        return str(said("status", "out", code=code).out)

    said("predict", s, *words)
    (s / "a.tif").write_bytes(first)  # another time, and the same content
    both(0)
    scan(s / "a.tif", 3)
    assert "1 done, 1 failed" in both(3)
    said("status", "out", "--ignore", "a", "--why", "the first scan is better")
    assert "1 done, 1 ignored" in both(0)
    (root / "out/ignore.csv").unlink()
    (s / "a.tif").write_bytes(first[:200])
    assert "1 INPUT_CORRUPT" in both(3)
    (s / "a.tif").write_bytes(first)  # put back
    both(0)
    state = (s / "a.tif").stat()
    (s / "a.tif").write_bytes(first[:-1] + b"?")
    os.utime(s / "a.tif", ns=(state.st_atime_ns, state.st_mtime_ns))
    said("status", "out")
    said("status", "out", "--check", code=3)
    (s / "a.tif").write_bytes(first)
    (root / "other.toml").write_text("[predict]\nall_patches = true\n")
    assert "2 STALE_ARTEFACT" in both(1, "--config", "other.toml", before=0)


def test_an_id_stays_where_a_model_has_the_channels_in_another_order(root: Path, night: Night) -> None:
    shutil.rmtree(root / "model")
    spec = made_spec(channels=("B", "G", "R"), background="bright")
    save_bundle(root / "model", build_network("small-groupnorm", 3), spec)
    scan(root / "s/x.tif", 1)
    assert night(root / "s")[0]["new"] == {"x": "done"}
    assert night(root / "s")[0]["unchanged"] == 1
    (root / "s/x.tif").rename(root / "s/y.tif")
    assert list(night(root / "s")[0]["moved"]) == ["x"]


@pytest.mark.parametrize("back", [True, False])
def test_a_folder_that_an_earlier_version_took_for_a_slide_is_cleaned(root: Path, said: Said, *, back: bool) -> None:
    if back:
        (root / "s").mkdir()
    entry = {"state": "failed", "code": "INPUT_MISSING", "patient_id": "s", "message": "no file s"}
    update_status(root / "out", "s", "predict", entry | {"files": [str(root / "s")]})
    update_status(root / "out", "t", "predict", entry | {"files": [str(root / "t.tif")], "patient_id": "t"})
    update_status(root / "out", "u", "predict", entry | {"files": [str(root / "u")]})
    assert "a folder that was away" in said("clean", "out").out
    assert slide_ids(root / "out") == ["t", "u"]

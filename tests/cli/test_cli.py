"""The command line end to end on a tiny cohort: stages, exit codes, reruns, and equal bytes."""

import csv
import importlib.util
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from made_slides import write_channel, write_modalities

from pathopatch.core import artefacts

PATHOPATCH = [sys.executable, "-m", "pathopatch"]
PATCH = 32


def run(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONWARNINGS": "default"}
    done = subprocess.run(
        [*PATHOPATCH, *map(str, arguments)], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def cohort(folder: Path, *, mpp: float | None = 0.5) -> Path:
    """Six slides of six patients; each patch is blank, or holds little or much tissue of either texture."""
    rows = []
    for number, split in enumerate(["train", "train", "val", "val", "test", "test"]):
        rng = np.random.default_rng(number)
        side = 6
        image = rng.normal(100, 4, (3, side * PATCH, side * PATCH))
        tumor = np.zeros((side, side), np.uint8)
        for index in range(side * side):
            y, x = divmod(index, side)
            label, size = index % 2, 8 if (index // 2) % 2 else 26
            area = np.s_[:, y * PATCH + 2 : y * PATCH + 2 + size, x * PATCH + 2 : x * PATCH + 2 + size]
            image[area] = 900 + rng.normal(0, 30 + 120 * label, image[area].shape)
            tumor[y, x] = 255 * label
        paths = write_modalities(folder / f"s{number}", image.clip(0, 65535).astype(np.uint16), mpp=0.5)
        write_channel(folder / f"s{number}" / "mask.tif", tumor, mpp=None)
        relative = {f"path:{name}": path.relative_to(folder) for name, path in paths.items()}
        rows.append(
            {"slide_id": f"s{number}", "patient_id": f"p{number}", "split": split, **relative, "mpp": mpp or ""}
            | {"tumor_mask": f"s{number}/mask.tif", "background": "dark"}
        )
    manifest = folder / "cohort.csv"
    with manifest.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return manifest


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    for number in range(6):
        (folder / f"s{number}").mkdir()
    return cohort(folder)


@pytest.fixture(scope="module")
def study(slides: Path) -> Path:
    """A finished study; returns its work folder."""
    work = slides.parent / "work"
    (slides.parent / "study.toml").write_text(
        f"""
        manifest = "cohort.csv"
        work = "work"
        methods = ["erm", "gerne"]
        [tile]
        patch_px = {PATCH}
        [groups]
        thresholds = [0.25, 0.5]
        [train]
        input_px = 32
        steps = 6
        evaluations = 2
        batch_per_class = 4
        threads = 1
        [tune]
        trials = 2
        [evaluate]
        bootstrap = 20
        """,
        encoding="utf-8",
    )
    done = run("run", slides.parent / "study.toml", "--quiet")
    assert "Groups at threshold 0.25" in done.stdout
    assert "gerne-t0.5-s0" in done.stdout
    return work


@pytest.fixture(scope="module")
def tiled(slides: Path) -> Path:
    """A work folder in which the slides are tiled and nothing else was done."""
    run("tile", slides, "-o", slides.parent / "tiled", "--patch-px", PATCH, "--quiet")
    return slides.parent / "tiled"


@pytest.mark.slow
def test_a_study_leaves_every_artefact(study: Path) -> None:
    for name in ("slides.parquet", "groups.parquet", "groups/audit.json", "comparison.csv", "cohort.csv", "study.json"):
        assert (study / name).is_file(), name
    for run_name in ("erm-t0.25-s0", "erm-t0.5-s0", "gerne-t0.25-s0", "gerne-t0.5-s0"):
        assert (study / "runs" / run_name / "model" / "model.safetensors").is_file()
        assert (study / "runs" / run_name / "trials.csv").read_text(encoding="utf-8").count("\n") == 3
    for slide in ("s4", "s5"):
        for name in ("heatmap.ome.tif", "overlay.png", "regions.geojson.gz", "heatmap.json"):
            assert (study / "heatmaps" / slide / name).is_file()
    assert "research use only" in (study / "report" / "index.html").read_text(encoding="utf-8").lower()
    assert json.loads((study / "study.json").read_text())["train"]["learning_rate"] == 1e-3  # resolved
    assert not list(study.rglob("*.tmp-*"))


@pytest.mark.slow
def test_a_study_run_again_does_nothing(study: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (study / "runs").rglob("*") if path.is_file()}
    before |= {path: path.stat().st_mtime_ns for path in (study / "slides").rglob("*") if path.is_file()}
    run("run", study.parent / "study.toml", "--quiet")
    assert before == {path: path.stat().st_mtime_ns for path in before}


@pytest.mark.slow
@pytest.mark.fault("truncated")
def test_one_cut_slide_fails_alone_and_the_batch_says_so(slides: Path, study: Path, tmp_path: Path) -> None:
    folder = slides.parent
    text = slides.read_text(encoding="utf-8").replace("s0/", f"{folder}/s0/")
    for number in range(1, 6):
        text = text.replace(f"s{number}/", f"{folder}/s{number}/")
    cut = tmp_path / "cut.tif"
    whole = (folder / "s1" / "cars.tif").read_bytes()
    cut.write_bytes(whole[: len(whole) * 6 // 10])
    manifest = tmp_path / "m.csv"
    manifest.write_text(text.replace(f"{folder}/s1/cars.tif", str(cut)), encoding="utf-8")
    model = study / "runs" / "erm-t0.25-s0" / "model"
    tiled = run("tile", manifest, "-o", tmp_path / "out", "--patch-px", PATCH, "--quiet", code=3)
    done = run("predict", manifest, "--model", model, "-o", tmp_path / "out", "--quiet", code=3)
    for process in (tiled, done):
        assert "failed: s1: INPUT_CORRUPT" in process.stderr
    assert set(artefacts.read_table(tmp_path / "out" / "slides.parquet")["slide_id"]) == {"s0", "s2", "s3", "s4", "s5"}
    assert not (tmp_path / "out" / "heatmaps" / "s1").exists()
    states = {path.stem for path in (tmp_path / "out" / "predictions").glob("*.parquet")}
    assert states == {"s0", "s2", "s3", "s4", "s5"}


def test_help_answers_in_under_a_second() -> None:
    """Of the processor's time: by the clock it takes longer where the machine does something else."""
    seconds = []
    for _ in range(3):
        start = os.times()
        assert "not for diagnosis" in " ".join(run("--help").stdout.split())
        end = os.times()
        seconds.append(end.children_user + end.children_system - start.children_user - start.children_system)
    assert 0 < min(seconds) < 1


def test_the_doctor_lists_what_is_there_and_how_to_get_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, said: Callable
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "snakemake" else find(name))
    text = said("doctor").out
    assert all(word in text for word in ("OpenVINO", "torch", "instruction sets", "bfloat16", "OpenSlide"))
    assert "features in HDF5 files" in text
    (line,) = [line for line in text.splitlines() if "studies on a cluster" in line]
    assert line.startswith("--  ")
    assert "get it: pip install" in line


@pytest.mark.slow
@pytest.mark.fault("sigterm")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_training_with_its_code_and_leaves_it_resumable(study: Path, number: int, code: int) -> None:
    name = f"signal{number.value}"
    arguments = ["train", study, "--method", "erm", "--threshold", "0.25", "--name", name, "--steps", "100000"]
    with subprocess.Popen(
        [*PATHOPATCH, *map(str, arguments)],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # a test run in the background ignores it
    ) as process:
        folder = study / "runs" / f"erm-t0.25-s0-{name}"
        for _ in range(300):
            if folder.exists() or process.poll() is not None:
                break
            time.sleep(0.1)
        time.sleep(2)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert "run the same command again" in errors
    assert not (folder / "run.json").exists()


LOST = {
    "a finaliser": """
class Last:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.2)
def work(**_):
    last = Last()
    del last
    time.sleep(60)
""",
    "a bare except": """
def work(**_):
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    except:
        return 0
""",
    "a long native call": """
def work(**_):
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    sqlite3.connect(":memory:").execute(endless)
""",
    "a child's end": """
def work(**_):
    child = os.fork()
    if not child:
        time.sleep(60)
    os.kill(child, signal.SIGTERM)
    os.waitpid(child, 0)
    time.sleep(2)
    return 7
""",
}


@pytest.mark.fault("sigterm")
@pytest.mark.parametrize("where", LOST)
def test_sigterm_ends_the_process_wherever_it_arrives(where: str) -> None:
    code = (
        "import os, signal, sqlite3, threading, time\nfrom pathopatch.cli import program\n"
        f"{LOST[where]}\nprogram.app, program._GRACE_S = work, 1.0\nprogram.main()"
    )
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=False)
    assert time.monotonic() - began < 30
    if where == "a child's end":
        assert (done.returncode, done.stderr) == (7, "")
        return
    assert done.returncode == 143, done.stderr
    assert "terminated; finished outputs are kept" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&- >&- 2>&-"])
def test_closed_streams_take_no_files_place_and_change_no_output(
    slides: Path, tiled: Path, tmp_path: Path, closed: str
) -> None:
    command = shlex.join([*PATHOPATCH, "tile", str(slides), "-o", str(tmp_path / "closed"), "--patch-px", str(PATCH)])
    done = subprocess.run(f"{command} --workers 2 {closed}", shell=True, capture_output=True, text=True, check=True)
    assert done.stdout == ("slides: 6 done\n" if closed == "2>&-" else "")
    names = sorted(path.relative_to(tiled) for path in (tiled).rglob("*") if path.is_file())
    for name in names:
        if name.parts[0] not in ("status", "logs"):
            assert (tmp_path / "closed" / name).read_bytes() == (tiled / name).read_bytes(), name
    failed = subprocess.run(
        f"{shlex.join(PATHOPATCH)} groups {tmp_path / 'nowhere'} {closed}",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (failed.returncode, failed.stdout) == (1, "")
    assert ("INPUT_MISSING" in failed.stderr) == (closed == ">&-")


@pytest.mark.slow
def test_groups_leave_out_a_slide_that_is_not_tiled_to_the_end(tiled: Path, tmp_path: Path) -> None:
    work = Path(shutil.copytree(tiled, tmp_path / "work"))
    (work / "patches" / "s0.parquet").unlink()
    output = run("groups", work).stdout
    assert "Left out, not tiled to the end: s0" in output
    assert "s0" not in set(artefacts.read_table(work / "groups.parquet")["slide_id"])


def test_an_output_folder_that_is_a_file_is_named_so(slides: Path, tmp_path: Path, said: Callable) -> None:
    (tmp_path / "notes.txt").touch()
    errors = said("tile", slides, "-o", tmp_path / "notes.txt", "--patch-px", PATCH, "--quiet", code=1).err
    assert "notes.txt" in errors
    assert "INTERNAL" not in errors


@pytest.mark.slow
def test_options_of_tile_override_the_study_file(slides: Path, tmp_path: Path) -> None:
    study = tmp_path / "study.toml"
    study.write_text(
        'manifest = "cohort.csv"\nwork = "work"\n[tile]\npatch_px = 48\nstride_px = 48\nstore = "none"\n'
        '[tile.tissue]\nchannels = ["SHG"]\nwhen_unsure = "none"\n'
    )
    run("tile", slides, "-o", tmp_path / "work", "--config", study, "--patch-px", "96")
    attributes = json.loads((tmp_path / "work" / "slides" / "s0.zarr" / "zarr.json").read_text())["attributes"]
    assert (attributes["patch_px"], attributes["stride_px"]) == (96, 48)
    assert (attributes["tissue"]["channels"], attributes["tissue"]["when_unsure"]) == (["SHG"], "none")
    assert [high > low for low, high in attributes["tissue"]["windows"]] == [False, False, True]


@pytest.mark.slow
def test_a_study_takes_what_reviewers_decided(slides: Path, tmp_path: Path) -> None:
    (tmp_path / "review.csv").write_text("slide_id,verdict,reviewer\ns1,reject,Ada\n")
    study = tmp_path / "study.toml"
    study.write_text(
        f'manifest = "{slides}"\nwork = "work"\ndecisions = "review.csv"\nmethods = ["erm"]\n'
        f'predict_split = "none"\n[tile]\npatch_px = {PATCH}\n[train]\ninput_px = 32\nsteps = 2\nevaluations = 1\n'
        "batch_per_class = 4\nthreads = 1\n[evaluate]\nbootstrap = 0\n"
    )
    run("run", study, "--quiet")
    work = tmp_path / "work"
    left = set(artefacts.read_table(work / "groups.parquet")["slide_id"])
    assert "s1" not in left
    assert len(left) == 5
    assert "slides rejected: s1 (" in (work / "report" / "index.html").read_text()


@pytest.mark.slow
def test_an_empty_group_stops_only_the_runs_that_need_it_with_a_message(slides: Path, tmp_path: Path) -> None:
    study = tmp_path / "study.toml"
    study.write_text(
        f'manifest = "{slides}"\nwork = "work"\nmethods = ["gerne", "erm"]\n[tile]\npatch_px = {PATCH}\n'
        "[groups]\nthresholds = [0.95, 0.25]\n[train]\ninput_px = 32\nsteps = 2\nevaluations = 1\n"
        "batch_per_class = 4\nthreads = 1\n[evaluate]\nbootstrap = 0\n"
    )
    done = run("run", study, "--quiet", code=3)
    messages = [line for line in done.stderr.splitlines() if line.startswith("not trained")]
    assert len(messages) == 1
    assert messages[0].startswith("not trained: gerne-t0.95-s0: GROUP_EMPTY: gerne needs every group, and at tissue")
    runs = {path.parent.name for path in (tmp_path / "work" / "runs").glob("*/run.json")}
    assert runs == {"erm-t0.95-s0", "erm-t0.25-s0", "gerne-t0.25-s0"}
    assert "Not trained: gerne-t0.95-s0." in (tmp_path / "work" / "report" / "index.html").read_text()
    # six slides were tiled and two of them predicted: they are not eight
    assert done.stdout.splitlines()[-1] == "slides: 6 done"


def test_a_fault_of_the_program_shows_its_trace_where_that_is_asked_for() -> None:
    code = "import pathopatch.cli.program as p; p._run = lambda: p._report(KeyError('x')); p.main()"
    shown = []
    for asked in ({}, {"PATHOPATCH_TRACE": "1"}):
        environment = {**os.environ, **asked}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
        )
        assert "PATHOPATCH_TRACE=1" in done.stderr
        shown.append(done.stderr.count("KeyError: 'x'"))
    assert shown == [1, 2]

"""The lines of the page on clusters, run by a real Slurm: jobs killed, a clock an hour off, and equal bytes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from made_model import made_spec

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "cluster.md"
SLIDES = 40
JOBS = 8
# What Python loads first. The second job of an array has a clock that is an hour fast, whatever asks for the time.
CLOCK = """
import os, time
if os.environ.get("SLURM_ARRAY_TASK_ID") == "2":
    now, gmtime, localtime, strftime = time.time, time.gmtime, time.localtime, time.strftime
    time.time = lambda: now() + 3600
    time.time_ns = lambda: int(1e9 * time.time())
    time.gmtime = lambda at=None: gmtime(time.time() if at is None else at)
    time.localtime = lambda at=None: localtime(time.time() if at is None else at)
    time.strftime = lambda form, at=None: strftime(form, time.localtime() if at is None else at)
"""

pytestmark = [pytest.mark.slow, pytest.mark.slurm, pytest.mark.timeout(300)]


def cohort(folder: Path) -> None:
    """Forty slides of nine patches each, and a model, by the names that the page has."""
    from pathopatch.demo.slides import CHANNELS, CohortSpec, make_cohort
    from pathopatch.models.bundle import save_bundle
    from pathopatch.models.networks import build_network

    spec = CohortSpec(slides=(20, 10, 10), patients=(10, 5, 5), fields=3, field_px=32)
    make_cohort(folder, seed=0, spec=spec).rename(folder / "cohort.csv")
    torch.manual_seed(0)
    network = build_network("small-groupnorm", len(CHANNELS))
    save_bundle(folder / "M", network, made_spec(32, CHANNELS, dtype="uint16", mpp=1.0, background="dark"))


def results(out: Path) -> dict[str, bytes]:
    """All that is made of slides: no status, no log, no lock."""
    kinds = ("predictions", "heatmaps", "models", "cohort.csv")
    return {str(path.relative_to(out)): path.read_bytes() for kind in kinds for path in sorted(out.glob(f"{kind}/**/*"))
            + [out / kind] if path.is_file()}  # fmt: skip


def submit(line: str, folder: Path, env: Mapping[str, str]) -> str:
    """Submit a line of the page for eight jobs of a core each; return the id of the array."""
    words = {"1-20": f"1-{JOBS}", "/20": f"/{JOBS}", "--cpus-per-task=4": "--parsable", "--mem=8G": "--mem=1G"}
    for word, small in words.items():
        line = line.replace(word, small)
    run = subprocess.run(line, shell=True, cwd=folder, env=env, check=True, capture_output=True, text=True)
    return run.stdout.strip()


def killed(array: str, *tasks: int) -> int:
    """Send SIGKILL to the commands of an array's tasks, by what stands in their environment; return how many."""
    count = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            is_command = b"pathopatch\0predict\0" in (process / "cmdline").read_bytes()
            words = (process / "environ").read_bytes().split(b"\0") if is_command else []
        except OSError:  # it ended, or is another user's
            continue
        if f"SLURM_ARRAY_JOB_ID={array}".encode() in words and any(
            f"SLURM_ARRAY_TASK_ID={task}".encode() in words for task in tasks
        ):
            os.kill(int(process.name), signal.SIGKILL)
            count += 1
    return count


def wait_for(is_so: object) -> None:
    assert callable(is_so)
    deadline = time.monotonic() + 120
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def ended(array: str, env: Mapping[str, str]) -> list[str]:
    """Wait for an array; return the state of each task in order."""

    def shown(*command: str) -> str:
        return subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout

    wait_for(lambda: not shown("squeue", "-h"))
    jobs = shown("scontrol", "-o", "show", "job", array)
    return [state for _, state in sorted(re.findall(r"ArrayTaskId=(\d+) .*? JobState=(\w+)", jobs))]


@pytest.fixture
def clocks(tmp_path: Path, node: dict[str, str]) -> dict[str, str]:
    """Return the environment of jobs of which the second has a wrong clock."""
    (tmp_path / "early").mkdir()
    (tmp_path / "early" / "sitecustomize.py").write_text(CLOCK)
    path = os.pathsep.join(filter(None, (str(tmp_path / "early"), os.environ.get("PYTHONPATH", ""))))
    return {**node, "PYTHONPATH": path}


def lines() -> list[str]:
    return [each for each in PAGE.read_text().splitlines() if each.startswith("sbatch")]


def predict_alone(folder: Path, env: Mapping[str, str]) -> None:
    """Run what the first line wraps as one command, into ``alone``."""
    (command,) = re.findall(r'--wrap "(.*)"', lines()[0])
    subprocess.run(f"{command.replace('-o out', '-o alone')} --quiet", shell=True, cwd=folder, env=env, check=True)


def test_killed_arrays_end_with_the_bytes_of_one_command(
    tmp_path: Path, node: dict[str, str], clocks: dict[str, str]
) -> None:
    cohort(tmp_path)
    line, predictions = lines()[0], tmp_path / "out" / "predictions"

    def made() -> int:
        return len(list(predictions.glob("*.parquet")))

    array = submit(line, tmp_path, clocks)
    wait_for(lambda: made() >= 5)
    assert killed(array, 1, 2) == 2
    subprocess.run(["scancel", array], env=clocks, check=True)  # nobody is left
    ended(array, clocks)
    left = made()
    assert 5 <= left < SLIDES

    array = submit(line, tmp_path, clocks)
    wait_for(lambda: made() >= left + 5)
    assert killed(array, 1) == 1
    assert ended(array, clocks) == ["FAILED", *["COMPLETED"] * (JOBS - 1)]
    told = "".join(path.read_text() for path in tmp_path.glob(f"slurm-{array}_*.out"))
    again = sum(int(count) for count in re.findall(r"(\d+) done$", told, flags=re.MULTILINE))
    assert again <= SLIDES - left + 3  # shared: no slide twice, but for one that each killed process was at
    hours = {re.findall("T(..)", log.name)[0] for log in (tmp_path / "out" / "logs").iterdir()}
    assert len(hours) > 1  # the clock was off
    assert not list((tmp_path / "out").rglob("*.tmp-*"))

    predict_alone(tmp_path, node)
    made_by_one = results(tmp_path / "alone")
    assert len(made_by_one) == SLIDES * 6 + 2
    assert results(tmp_path / "out") == made_by_one


def test_killed_parts_end_with_the_bytes_of_one_command(
    tmp_path: Path, node: dict[str, str], clocks: dict[str, str]
) -> None:
    cohort(tmp_path)
    (line,) = [each for each in lines() if "--part" in each]
    array = submit(line, tmp_path, clocks)
    for task in (1, 2):
        predictions = tmp_path / "parts" / str(task) / "predictions"
        wait_for(lambda folder=predictions: [*folder.glob("*.parquet")])
        assert killed(array, task) == 1
    assert ended(array, clocks) == ["FAILED", "FAILED", *["COMPLETED"] * (JOBS - 2)]
    assert ended(submit(line, tmp_path, clocks), clocks) == ["COMPLETED"] * JOBS
    join = next(each for each in PAGE.read_text().splitlines() if each.startswith("mkdir out"))
    subprocess.run(join, shell=True, cwd=tmp_path, env=node, check=True)
    subprocess.run("pathopatch status out", shell=True, cwd=tmp_path, env=node, check=True)  # which mends cohort.csv
    predict_alone(tmp_path, node)
    assert results(tmp_path / "out") == results(tmp_path / "alone")

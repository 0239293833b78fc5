"""The workflows, run by Snakemake on this machine and by a real Slurm: jobs that die, and what comes of it all."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path

import made_slides as made
import numpy as np
import pandas as pd
import pytest
import yaml
from made_model import write_model

sys.path.append(str(Path(__file__).parent))  # so that it can say `import slurm`

import slurm

PIPELINES = Path(__file__).parents[2] / "pipelines"
BAD, SLIDES, A_PART = 4, 9, 3

pytestmark = pytest.mark.timeout(900)
pytest.importorskip("snakemake", reason="the extra `pipelines` is not installed")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine slides, one of them cut, and a model."""
    folder = tmp_path_factory.mktemp("cohort")
    write_model(folder / "model")
    image = made.disc_image(96, 80, (40, 40), 25, tissue=(180, 90, 150), glass=(245, 245, 245))
    with (folder / "cohort.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("slide_id", "patient_id", "path", "exclude"))
        for number in range(SLIDES):
            path = folder / f"s{number}.svs"
            made.write_aperio(path, np.roll(image, 3 * number, axis=2), levels=1)
            writer.writerow((f"s{number}", f"p{number // 2}", path.name, ""))
        writer.writerow(("left-out", "p9", "s0.svs", "yes"))
    bad = folder / f"s{BAD}.svs"
    bad.write_bytes(bad.read_bytes()[: bad.stat().st_size // 2])
    return folder


@pytest.fixture(scope="module")
def undisturbed(cohort: Path) -> dict[str, bytes]:
    """Return the results of one command on one machine."""
    command = ["predict", "cohort.csv", "--model", "model", "-o", "plain", "--quiet", "--device", "cpu"]
    done = subprocess.run([sys.executable, "-m", "pathopatch", *command], cwd=cohort, check=False)
    assert done.returncode == 3
    return results(cohort / "plain")


def results(out: Path) -> dict[str, bytes]:
    """All that is made of slides: no status, no log, nothing of jobs."""
    result_paths = ("predictions", "heatmaps", "cohort.csv", "patients.csv")
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*"))
            if path.is_file() and path.relative_to(out).parts[0] in result_paths}  # fmt: skip


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    """In which `pathopatch` and `snakemake` are those of this python."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Iterator[dict[str, str]]:
    try:
        slurm.require()
    except slurm.Unavailable as error:
        if os.environ.get("PATHOPATCH_SLURM") == "required":
            pytest.fail(str(error))
        pytest.skip(str(error))
    with slurm.node(tmp_path_factory.mktemp("slurm")) as settings:
        yield {**environment, "SLURM_CONF": settings["SLURM_CONF"]}


def run(
    workflow: str, folder: Path, config: Mapping[str, object], env: Mapping[str, str], *options: str
) -> subprocess.Popen[str]:
    (folder / "my.yaml").write_text(yaml.safe_dump(dict(config)))
    command = ["snakemake", "-s", PIPELINES / workflow / "workflow" / "Snakefile", "--configfile", "my.yaml",
               "--directory", folder, *options]  # fmt: skip
    return subprocess.Popen([str(argument) for argument in command], cwd=folder, env=dict(env), stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True)  # fmt: skip


def local(workflow: str) -> tuple[str, ...]:
    return ("--profile", str(PIPELINES / workflow / "profiles" / "local"), "--cores", "2")


def on_slurm(workflow: str) -> tuple[str, ...]:
    return ("--profile", str(PIPELINES / workflow / "profiles" / "slurm"), "--jobs", "2", "--latency-wait", "10",
            "--slurm-no-account", "--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "2",
            "--seconds-between-status-checks", "3")  # fmt: skip


def batch(cohort: Path, out: str) -> dict[str, object]:
    return {"manifest": str(cohort / "cohort.csv"), "models": [str(cohort / "model")], "out": str(cohort / out),
            "slides_per_job": A_PART, "workers": 1, "memory_gb": 2, "options": "--device cpu"}  # fmt: skip


def killed(part: str) -> bool:
    """Kill the `pathopatch predict` that is at a part, as soon as there is one."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        is_ours = any(one.endswith(b"pathopatch") and two == b"predict" for one, two in pairwise(words))
        if is_ours and any(word.endswith(f"parts/{part}.csv".encode()) for word in words):
            os.kill(int(process.name), signal.SIGKILL)
            return True
    return False


def finished(run: subprocess.Popen[str], *, meanwhile: Callable[[], bool] | None = None) -> str:
    """Wait for the end, and try again and again what is to be done meanwhile, until it was done."""
    deadline = time.monotonic() + 280
    is_done = meanwhile is None
    while not is_done and run.poll() is None and time.monotonic() < deadline:
        assert meanwhile is not None
        is_done = meanwhile()
        time.sleep(0.05)
    output = run.communicate(timeout=max(1, deadline - time.monotonic()))[0]
    assert is_done, f"it ended before anything was done to it:\n{output}"
    return output


def where_killed_and_gone_on(cohort: Path, out: str, env: Mapping[str, str], options: tuple[str, ...]) -> str:
    """Run with a job killed in its middle, look, and run again; return what the second run said."""
    config = batch(cohort, out)
    first = run("batch-inference", cohort, config, env, *options)
    output = finished(first, meanwhile=lambda: killed("000002"))
    assert first.returncode == 1
    assert "1 of 3 parts did not end" in output
    assert "part 000002: s3, s4, s5" in output
    assert not (cohort / out / "cohort.csv").exists()
    second = run("batch-inference", cohort, config, env, *options)
    output = finished(second)
    assert second.returncode == 0, output
    return output


@pytest.mark.slow
@pytest.mark.parametrize("by", ["local", "slurm"])
def test_the_same_command_completes_a_killed_job_to_equal_results(
    cohort: Path, undisturbed: dict[str, bytes], environment: dict[str, str], by: str, request: pytest.FixtureRequest
) -> None:
    options = local("batch-inference") if by == "local" else on_slurm("batch-inference")
    env = environment if by == "local" else request.getfixturevalue("node")
    output = where_killed_and_gone_on(cohort, by, env, options)
    resumed = results(cohort / by)
    assert resumed.keys() == undisturbed.keys()
    assert [name for name in resumed if resumed[name] != undisturbed[name]] == []
    assert "predict: 8 done, 1 failed" in output
    assert "failed, by code: 1 INPUT_CORRUPT" in output
    assert f"s{BAD}" in (cohort / by / "status.txt").read_text()


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"slides_per_job": 0}, "slides_per_job"), ({"model": "m"}, "model"), ({"models": []}, "models")],
)
def test_a_wrong_configuration_is_refused_by_its_name(
    cohort: Path, environment: dict[str, str], changed: dict[str, object], message: str
) -> None:
    started = run(
        "batch-inference", cohort, batch(cohort, "none") | changed, environment, *local("batch-inference"), "-n"
    )
    assert message in finished(started)
    assert started.returncode == 1
    assert not (cohort / "none").exists()


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study on six small multimodal slides, of two methods and a search of two trials each."""
    from pathopatch.demo.slides import CohortSpec, make_cohort

    folder = tmp_path_factory.mktemp("study")
    spec = CohortSpec(slides=(4, 2, 2), patients=(4, 2, 2), fields=6)
    make_cohort(folder / "cohort", seed=0, spec=spec)
    (folder / "study.toml").write_text(
        'manifest = "cohort/manifest.csv"\nwork = "work"\nmethods = ["erm", "resample"]\n'
        f"[tile]\npatch_px = {spec.field_px}\n[groups]\nthresholds = [0.5]\n"
        '[train]\ndevice = "cpu"\ninput_px = 16\nsteps = 8\nevaluations = 2\nbatch_per_class = 4\nthreads = 1\n'
        '[tune]\ntrials = 2\n[evaluate]\nbootstrap = 20\n[predict]\ndevice = "cpu"\nthreads = 1\n'
    )
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("by", ["local", "slurm"])
def test_a_study_in_jobs_ends_as_the_one_command_ends(
    study: Path, tmp_path: Path, environment: dict[str, str], by: str, request: pytest.FixtureRequest
) -> None:
    options = local("train-study") if by == "local" else on_slurm("train-study")
    env = environment if by == "local" else request.getfixturevalue("node")
    for name in ("jobs", "plain"):
        shutil.copytree(study, tmp_path / name, ignore=shutil.ignore_patterns("work"))
    config = {"study": "study.toml", "tile_workers": 1, "memory_gb": 2}
    started = run("train-study", tmp_path / "jobs", config, env, *options)
    output = finished(started)
    assert started.returncode == 0, output
    plain = ["run", "study.toml", "--quiet"]
    subprocess.run([sys.executable, "-m", "pathopatch", *plain], cwd=tmp_path / "plain", env=env, check=True)
    one, two = tmp_path / "jobs" / "work", tmp_path / "plain" / "work"
    for table in ("comparison.csv", "summary.csv"):
        pd.testing.assert_frame_equal(pd.read_csv(one / table), pd.read_csv(two / table))
    weights = sorted(path.relative_to(two) for path in two.glob("runs/*/model/model.safetensors"))
    assert len(weights) == 2
    assert all((one / path).read_bytes() == (two / path).read_bytes() for path in weights)
    assert (one / "report" / "index.html").is_file()

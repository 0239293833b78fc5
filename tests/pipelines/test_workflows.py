"""The workflow of a study, run by Snakemake on this machine and by a real Slurm."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

WORKFLOW = Path(__file__).parents[2] / "pipelines" / "train-study"
OPTIONS = {
    "local": ("--cores", "2"),
    "slurm": ("--jobs", "2", "--latency-wait", "10", "--slurm-no-account", "--slurm-status-command", "squeue",
              "--slurm-init-seconds-before-status-checks", "1", "--seconds-between-status-checks", "1"),
}  # fmt: skip

pytestmark = pytest.mark.timeout(900)
pytest.importorskip("snakemake", reason="the extra `pipelines` is not installed")


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


@pytest.fixture(scope="module")
def plain(study: Path, tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Path:
    """The work folder of the study by one command."""
    folder = shutil.copytree(study, tmp_path_factory.mktemp("plain") / "study")
    command = [sys.executable, "-m", "pathopatch", "run", "study.toml", "--quiet"]
    subprocess.run(command, cwd=folder, env=environment, check=True)
    return folder / "work"


@pytest.mark.slow
@pytest.mark.parametrize("by", ["local", "slurm"])
def test_a_study_in_jobs_ends_as_the_one_command_ends(
    study: Path, plain: Path, tmp_path: Path, environment: dict[str, str], by: str, request: pytest.FixtureRequest
) -> None:
    env = environment if by == "local" else request.getfixturevalue("node")
    shutil.copytree(study, tmp_path / "jobs")
    (tmp_path / "jobs" / "my.yaml").write_text("study: study.toml\ntile_workers: 1\nmemory_gb: 2\n")
    command = ["snakemake", "-s", str(WORKFLOW / "workflow" / "Snakefile"), "--configfile", "my.yaml",
               "--profile", str(WORKFLOW / "profiles" / by), *OPTIONS[by]]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path / "jobs", env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    one, two = tmp_path / "jobs" / "work", plain
    for table in ("comparison.csv", "summary.csv"):
        pd.testing.assert_frame_equal(pd.read_csv(one / table), pd.read_csv(two / table))
    weights = sorted(path.relative_to(two) for path in two.glob("runs/*/model/model.safetensors"))
    assert len(weights) == 2
    assert all((one / path).read_bytes() == (two / path).read_bytes() for path in weights)
    assert (one / "report" / "index.html").is_file()

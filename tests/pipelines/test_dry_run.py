"""A million slides are five thousand jobs: what Snakemake makes of them before it begins."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

SNAKEFILE = Path(__file__).parents[2] / "pipelines" / "batch-inference" / "workflow" / "Snakefile"
PROFILE = SNAKEFILE.parents[1] / "profiles" / "local"
SLIDES, LIMIT_S = 1_000_000, 60.0

pytest.importorskip("snakemake", reason="the extra `pipelines` is not installed")


def _processor_seconds() -> float:
    """What ended children have taken of the processor: other work on the machine does not count."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@pytest.mark.slow
def test_a_million_slides_are_planned_within_a_minute(tmp_path: Path) -> None:
    with (tmp_path / "cohort.csv").open("w") as stream:
        stream.write("slide_id,patient_id,path\n")
        stream.writelines(f"s{number:07d},p{number // 3},slides/s{number:07d}.svs\n" for number in range(SLIDES))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    config = {"manifest": "cohort.csv", "models": ["model"], "out": "out"}
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(config))
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "-s",
        str(SNAKEFILE),
        "--configfile",
        "my.yaml",
        "--profile",
        str(PROFILE),
        "-n",
        "--quiet",
        "rules",
    ]
    before = _processor_seconds()
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    spent = _processor_seconds() - before
    assert done.returncode == 0, done.stderr
    assert spent < LIMIT_S
    assert "5000" in done.stdout + done.stderr

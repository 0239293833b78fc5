"""A cohort predicted in parts by Snakemake, killed on the way, ends with the bytes of one command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import made_slides as made
import pytest
from made_model import write_model
from written_files import TIMES, contents

SNAKEFILE = Path(__file__).parents[2] / "pipelines" / "cluster" / "Snakefile"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
pytest.importorskip("snakemake", reason="the extra `pipelines` is not installed")


def test_parts_by_snakemake_end_as_one_command_ends(tmp_path: Path, environment: dict[str, str]) -> None:
    write_model(tmp_path / "model")
    (tmp_path / "slides").mkdir()
    for number in range(7):
        image = made.disc_image(600, 600, (300, 300), 200 + number, tissue=(180, 90, 100), glass=(245, 245, 245))
        made.write_rgb_pyramid(tmp_path / "slides" / f"s{number}.tif", image, levels=1)
    tool = [sys.executable, "-m", "pathopatch"]
    subprocess.run([*tool, "manifest", "slides", "-o", "m.csv"], cwd=tmp_path, env=environment, check=True)
    os.truncate(tmp_path / "slides" / "s4.tif", 2000)
    one = subprocess.run(
        [*tool, "predict", "m.csv", "--model", "model", "-o", "one", "-q"], cwd=tmp_path, env=environment, check=False
    )
    assert one.returncode == 3
    command = ["snakemake", "-s", str(SNAKEFILE), "--cores", "2", "--rerun-incomplete",
               "--config", "manifest=m.csv", "model=model", "out=out", "parts=3", "threads=1"]  # fmt: skip
    first = subprocess.Popen(command, cwd=tmp_path, env=environment, start_new_session=True)
    deadline = time.monotonic() + 120
    while not [*tmp_path.glob("out.parts/*/predictions/*.parquet")]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    unlock = subprocess.run([*command, "--unlock"], cwd=tmp_path, env=environment, check=False)
    assert unlock.returncode == 0
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for folder in ("predictions", "heatmaps", "models"):
        assert contents(tmp_path / "out" / folder, without=TIMES) == contents(tmp_path / "one" / folder, without=TIMES)
    told = subprocess.run(
        [*tool, "status", "out"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert told.returncode == 3
    assert "7 slides, all 3 parts" in told.stdout

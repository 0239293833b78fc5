"""A disk that fills up, and one that cannot be written to: said clearly, nothing lost, and a rerun works.

Each runs in a mount namespace of its own, with a real small disk.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import made_slides as made
import numpy as np
import pytest

_TILING = """
import json, subprocess, sys
from pathlib import Path
from pathopatch.stages.tile import tile_cohort
from pathopatch.core.config import TileConfig
from pathopatch.core.errors import DiskFullError, PathopatchError

folder, disk = Path(sys.argv[1]), Path(sys.argv[2])
config = TileConfig(patch_px=32)
times = ("status", "logs")
read = lambda: {str(p): p.read_bytes() for p in out.rglob("*") if p.is_file() and p.parent.name not in times}
for room in (0, 100_000):
    out = disk / str(room)
    outcomes = {"first": [o.state for o in tile_cohort(folder / "one.csv", out, config)]}
    before = read()
    with (disk / "filler").open("wb", buffering=0) as filler:
        try:
            while filler.write(bytes(65536)):
                pass
        except OSError:
            pass
        filler.truncate(max(0, filler.tell() - room))
    try:
        outcomes["full"] = [[o.state, o.code] for o in tile_cohort(folder / "two.csv", out, config)]
    except DiskFullError as error:  # not even the list of slides could be written
        outcomes["full"] = [["stopped", error.code]]
    (disk / "filler").unlink()
    after = read()
    others = {name: content for name, content in before.items() if "slides.parquet" not in name}
    outcomes["untouched"] = all(after.get(name) == content for name, content in others.items())
    outcomes["left"] = [name for name in after if ".tmp-" in name]
    outcomes["again"] = [o.state for o in tile_cohort(folder / "two.csv", out, config)]
    print(json.dumps(outcomes))
subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
try:
    tile_cohort(folder / "one.csv", disk / "new", config)
except PathopatchError as error:
    print(json.dumps([error.code, str(error)]))
"""


_TRAINING = """
import json, sys, warnings
from pathlib import Path
import pandas as pd, torch
sys.path.insert(0, sys.argv[3])
from made_patches import toy
from pathopatch.core.artefacts import Stamp
from pathopatch.core.config import TrainConfig
from pathopatch.core.errors import PathopatchError
from pathopatch.core.files import write_csv
from pathopatch.training.checkpoint import CheckpointFolder
from pathopatch.training.fit import fit_arrays

out = Path(sys.argv[2])
config = TrainConfig(input_px=16, batch_per_class=4, threads=1, steps=2, evaluations=2, device="cpu")
train, val = toy([[20, 6], [6, 20]], seed=0), toy([[6, 6], [6, 6]], seed=1)
said = {}
for room in map(int, sys.argv[4].split(",")):
    with (out / "filler").open("wb", buffering=0) as filler:
        try:
            while filler.write(bytes(65536)):
                pass
        except OSError:
            pass
        filler.truncate(max(0, filler.tell() - room))
    run = out / f"run{room}"
    try:
        run.mkdir()
        result = fit_arrays(train, val, config, checkpoints=CheckpointFolder(run, Stamp(stage="f")))
        for number in range(100):
            write_csv(run / f"history{number}.csv", pd.DataFrame(list(result.history) * 1000))
        said[room] = "done"
    except PathopatchError as error:
        said[room] = error.code
    except OSError as error:
        said[room] = repr(error)
    (out / "filler").unlink()
    left = [str(path) for path in run.rglob("*") if ".tmp" in path.name]
    assert not left, left
    resumed = fit_arrays(train, val, config, checkpoints=CheckpointFolder(run, Stamp(stage="f")))
    for path in sorted(run.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
print(json.dumps(said))
"""


@pytest.fixture
def empty_folder(tmp_path: Path) -> Path:
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("this machine allows no mount namespaces")
    (tmp_path / "out").mkdir()
    return tmp_path


@pytest.fixture
def folder(empty_folder: Path) -> Path:
    """Two slides with noise for tissue, which hardly compresses, in two manifests."""
    tmp_path = empty_folder
    rows = ["slide_id,patient_id,path"]
    for number in range(2):
        image = made.disc_image(320, 320, (160, 160), 150, tissue=(1, 1, 1), glass=(0, 0, 0))
        image = np.where(image == 1, made.noise(3, 320, 320, np.uint8, number) // 2, 245).astype(np.uint8)
        made.write_rgb_pyramid(tmp_path / f"{number}.tif", image, levels=1)
        rows.append(f"s{number},p{number},{number}.tif")
        (tmp_path / ("one.csv", "two.csv")[number]).write_text("\n".join(rows) + "\n")
    return tmp_path


def inside_namespace(folder: Path, size: str, script: str, *arguments: str) -> list[Any]:
    command = f'mount -t tmpfs -o size={size} tmpfs "$1" && shift && exec "$@"'
    run = [sys.executable, "-c", script, str(folder), str(folder / "out"), *arguments]
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", command, "sh", str(folder / "out"), *run],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.fault("disk-full", "output-folder")
def test_a_disk_that_is_full_or_not_written_to_is_an_error_and_a_rerun_works(folder: Path) -> None:
    *full, (code, message) = inside_namespace(folder, "8m", _TILING)
    for outcomes, last in zip(full, ("stopped", "failed"), strict=True):
        assert outcomes["first"] == ["done"]
        assert outcomes["full"][-1] == [last, "DISK_FULL"]
        assert outcomes["untouched"]
        assert outcomes["left"] == []
        assert outcomes["again"] == ["current", "done"]
    assert code == "INPUT_UNSUPPORTED"
    assert "cannot write" in message


@pytest.mark.slow
@pytest.mark.fault("drives-and-names", "disk-full")
def test_a_disk_that_fills_in_training_is_said_and_the_run_goes_on_later(empty_folder: Path) -> None:
    rooms = (4096, 8192, 65536, 2_000_000, 8_000_000)  # too little for events, for a checkpoint, for the second, ...
    helpers = str(Path(made.__file__).parent)
    (said,) = inside_namespace(empty_folder, "32m", _TRAINING, helpers, ",".join(map(str, rooms)))
    assert said == dict.fromkeys(map(str, rooms), "DISK_FULL")

"""Prediction, evaluation, reports and reviews run without torch and what else only training needs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from installation import Installation
from made_patches import write_work
from made_slides import write_channel, write_modalities

import pathopatch
from pathopatch.core.config import TrainConfig
from pathopatch.training.run import fit

PACKAGE = Path(pathopatch.__file__).parent
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if path.stem != "__main__" and "npm" not in path.parts  # one runs the program, one belongs to the build
)
TRAINING = {
    "pathopatch.debias.objectives",
    "pathopatch.models.export",
    "pathopatch.models.frozen",
    "pathopatch.models.networks",
    "pathopatch.models.onnx_graph",
    "pathopatch.models.runtime.torch_runtime",
    "pathopatch.models.torchscript_archive",
    "pathopatch.training.augment",
    "pathopatch.training.checkpoint",
    "pathopatch.training.choice",
    "pathopatch.training.convex",
    "pathopatch.training.distributed",
    "pathopatch.training.feature_cache",
    "pathopatch.training.fit",
    "pathopatch.training.frozen",
    "pathopatch.training.loop",
    "pathopatch.training.optimise",
    "pathopatch.training.result",
    "pathopatch.training.run",
    "pathopatch.training.search",
    "pathopatch.training.selection",
    "pathopatch.training.tune",
}
IMPORT_ALL = """
import importlib, json, sys
missing = {}
for module in json.loads(sys.argv[1]):
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing[module] = error.name
print(json.dumps(missing))
"""
RUN = "from pathopatch.cli import main\nmain()"
RUN_SEVERAL = """
import json, sys
from pathopatch.cli import app
for command in json.loads(sys.argv[1]):
    app(command, standalone_mode=False)
"""


WithoutTorch = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def without_torch(tmp_path_factory: pytest.TempPathFactory) -> WithoutTorch:
    """Return a function that runs code in a fresh interpreter of an installation for prediction and review alone."""
    installed = Installation(tmp_path_factory.mktemp("installation"), ["review"])

    def run(code: str, *arguments: str | Path, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
        command = [installed.python, "-c", code, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=installed.environment)

    return run


@pytest.mark.slow
def test_only_training_and_the_export_of_models_import_torch(without_torch: WithoutTorch) -> None:
    done = without_torch(IMPORT_ALL, json.dumps(MODULES))
    assert done.returncode == 0, done.stderr
    missing = json.loads(done.stdout)
    assert set(missing) == TRAINING
    assert set(missing.values()) <= {"torch", "optuna", "scipy", "skimage", "threadpoolctl"}


def write_cohort(folder: Path) -> Path:
    """Write slides of three patients, of which every second patch is tumour; return their manifest."""
    lines = ["slide_id,patient_id,split,path:CARS,path:SHG,mpp,tumor_mask,background"]
    for number, split in enumerate(("train", "val", "test")):
        rng = np.random.default_rng(number)
        image = rng.normal(100, 4, (2, 128, 128))
        for patch in range(16):
            y, x, size = *(32 * place + 2 for place in divmod(patch, 4)), (8, 26)[patch // 2 % 2]
            image[:, y : y + size, x : x + size] += rng.normal(800, 30 + 120 * (patch % 2), (2, size, size))
        (folder / f"s{number}").mkdir()
        files = write_modalities(folder / f"s{number}", image.clip(0).astype(np.uint16), ("CARS", "SHG"), mpp=0.5)
        mask = np.tile(np.array([0, 255], np.uint8), (4, 2))
        write_channel(folder / f"s{number}" / "mask.tif", mask, mpp=None)
        lines.append(f"s{number},p{number},{split},{files['CARS']},{files['SHG']},0.5,s{number}/mask.tif,dark")
    (folder / "cohort.csv").write_text("\n".join(lines))
    return folder / "cohort.csv"


@pytest.mark.slow
def test_a_cohort_is_tiled_evaluated_and_predicted_without_torch(tmp_path: Path, without_torch: WithoutTorch) -> None:
    manifest, work = write_cohort(tmp_path), tmp_path / "work"
    commands = [
        ["check", manifest],
        ["info", tmp_path / "s0" / "cars.tif", "--out", tmp_path / "info.png"],
        ["tile", manifest, "--out", work, "--patch-px", "32"],
        ["tissue", work],
        ["groups", work],
        ["audit", work],
    ]
    done = without_torch(RUN_SEVERAL, json.dumps(commands, default=str))
    assert done.returncode == 0, done.stderr
    fit(work, TrainConfig(method="erm", input_px=32, steps=2, evaluations=1, batch_per_class=4, device="cpu"))
    model, settings = next(work.glob("runs/*/model")), tmp_path / "settings.toml"
    settings.write_text("[predict]\nall_patches = true\n")
    commands = [
        ["evaluate", work],
        ["report", work],
        ["predict", manifest, "--model", model, "--out", tmp_path / "out", "--config", settings],
        ["predict", manifest, "--model", model, "--out", tmp_path / "out", "--config", settings, "--dry-run"],
        ["doctor"],
    ]
    done = without_torch(RUN_SEVERAL, json.dumps(commands, default=str))
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").glob("heatmaps/*/overlay.png"))) == 3
    assert pd.read_csv(work / "comparison.csv")["method"].tolist() == ["erm", "erm"]
    assert (work / "report" / "index.html").is_file()


def test_patches_are_loaded_without_torch(tmp_path: Path) -> None:
    write_work(tmp_path)
    code = """
import sys
sys.modules["torch"] = None  # which makes its import fail
from pathlib import Path
from pathopatch.core.artefacts import read_table
from pathopatch.core.work_folder import WorkFolder
from pathopatch.training.dataset import load_patches
work = Path(sys.argv[1])
groups = read_table(WorkFolder(work).groups)
for cache_gib in (1, 0):  # in memory, and read when they are needed
    patches = load_patches(work, groups, input_px=16, splits=("val",), cache_gib=cache_gib)
    print(type(patches.x).__name__, *patches.read([0, 1]).shape, patches.read([0, 1]).dtype)
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["ndarray 2 2 16 16 float32", "StoredPatches 2 2 16 16 float32"], done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["train", "work"],
        ["train", "work", "--trials", "2"],
        ["run", "study.toml"],
        ["demo"],
        ["export", "wsinfer", "bundle"],
    ],
)
def test_commands_that_train_name_the_missing_package(
    tmp_path: Path, without_torch: WithoutTorch, command: list[str]
) -> None:
    write_work(tmp_path / "work")
    (tmp_path / "study.toml").write_text('manifest = "cohort.csv"\nwork = "studied"\n')
    before = set(tmp_path.iterdir())
    done = without_torch(RUN, *command, folder=tmp_path)
    remedy = "Remedy: pip install torch timm optuna albumentations onnx onnxscript threadpoolctl"
    assert done.stderr.splitlines()[-1] == f"error: INPUT_UNSUPPORTED: torch is not installed {remedy}"
    assert done.returncode == 1
    assert set(tmp_path.iterdir()) == before  # nothing is tiled or made first


@pytest.mark.parametrize(
    ("module", "heavy"), [("stages.info", "pandas"), ("stages.predict", "scipy.special"), ("stages.groups", "torch")]
)
def test_a_command_starts_without_packages_that_it_does_not_need(module: str, heavy: str) -> None:
    code = f"import sys, pathopatch.{module}; sys.exit({heavy!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

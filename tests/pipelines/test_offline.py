"""An install without a network: a wheelhouse, a network namespace that has no route, and a slide predicted in it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import made_slides as made
import pytest
from made_model import write_model

PROJECT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(1500)


def recipe_commands() -> list[str]:
    """Return the install commands of the container's recipe."""
    text = (PROJECT / "pipelines" / "deployment" / "pathopatch.def").read_text(encoding="utf-8")
    post_section = re.search(r"%post\n(.*?)\n\n", text, re.DOTALL)
    assert post_section is not None
    return [line.strip() for line in post_section[1].splitlines() if line.strip().startswith("python -m pip")]


@pytest.fixture
def unshare() -> str:
    """The program that runs another one without a network; where it is not allowed, the test is skipped."""
    policy = os.environ.get("PATHOPATCH_OFFLINE")
    if not policy:
        pytest.skip("takes minutes and gigabytes: set PATHOPATCH_OFFLINE=required, or wanted where it is possible")
    unshare_path = shutil.which("unshare")
    if (
        unshare_path is not None
        and subprocess.run([unshare_path, "--net", "true"], check=False, capture_output=True).returncode == 0
    ):
        return unshare_path
    assert policy != "required", "this machine gives out no network namespace"
    pytest.skip("this machine gives out no network namespace")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder that is removed in the end, for it holds gigabytes."""
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.mark.slow
def test_a_wheelhouse_without_torch_predicts_where_there_is_no_route(place: Path, unshare: str) -> None:
    folder = os.environ.get("PATHOPATCH_REAL_DATA")
    real_slide = next(Path(folder).rglob("CMU-1-Small-Region.svs")) if folder else None
    house, venv = place / "wheelhouse", place / "venv"
    subprocess.run(["make", "-n", "wheelhouse"], cwd=PROJECT, check=True, capture_output=True)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--wheel-dir", house, ".[review]"],
        cwd=PROJECT, check=True,
    )  # fmt: skip
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    (install,) = recipe_commands()
    bare = {"PATH": f"{venv}/bin:/usr/bin:/bin", "HOME": str(place), "PIP_CONFIG_FILE": os.devnull}

    def inside(words: str) -> str:
        command = [unshare, "--net", "sh", "-c", words]
        process = subprocess.run(command, cwd=place, env=bare, capture_output=True, text=True, check=False)
        assert process.returncode == 0, process.stdout + process.stderr
        return process.stdout

    assert "default" not in inside("cat /proc/net/route")
    assert len(inside("cat /proc/net/route").splitlines()) <= 1  # the headings alone
    inside(install.replace("/opt/wheelhouse", str(house)))
    packages = inside("pip list --format freeze").split()
    assert not [line for line in packages if line.split("==")[0] in ("torch", "timm", "optuna", "albumentations")]
    made.write_aperio(
        place / "a.svs",
        made.disc_image(96, 80, (40, 40), 25, tissue=(180, 90, 150), glass=(245, 245, 245)),
        levels=1,
    )
    write_model(place / "model")
    assert inside("pathopatch predict a.svs --model model -o out --device cpu").strip().endswith("slides: 1 done")
    assert (place / "out" / "heatmaps" / "a" / "overlay.png").is_file()
    if real_slide is not None:
        words = inside(f"pathopatch predict '{real_slide}' --model model -o real --device cpu")
        assert words.strip().endswith("slides: 1 done")
        assert (place / "real" / "heatmaps" / real_slide.stem / "overlay.png").is_file()
    assert "review" in inside("pathopatch --help")
    viewer = inside("python -c 'from pathopatch.review import viewer; print(viewer.is_installed())'")
    assert viewer.strip() == "True"

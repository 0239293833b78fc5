"""An install without a network: a wheelhouse, a network namespace that has no route, and a slide predicted in it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import made_slides as made
import pytest
from made_model import write_model

PROJECT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(1500)


def recipe_commands() -> list[str]:
    """What the container's recipe does to install."""
    text = (PROJECT / "pipelines" / "deployment" / "pathopatch.def").read_text(encoding="utf-8")
    found = re.search(r"%post\n(.*?)\n\n", text, re.DOTALL)
    assert found is not None
    return [line.strip() for line in found[1].splitlines() if line.strip().startswith("python -m pip")]


@pytest.mark.skipif(
    not os.environ.get("PATHOPATCH_OFFLINE"), reason="takes minutes and gigabytes: set PATHOPATCH_OFFLINE=required"
)
def test_a_wheelhouse_installs_and_predicts_where_there_is_no_route(tmp_path: Path) -> None:
    unshare = shutil.which("unshare")
    assert unshare is not None
    assert os.getuid() == 0
    house, venv = tmp_path / "wheelhouse", tmp_path / "venv"
    subprocess.run(["make", "-n", "wheelhouse"], cwd=PROJECT, check=True, capture_output=True)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--wheel-dir", house, ".[review,export,pretrained]"],
        cwd=PROJECT, check=True,
    )  # fmt: skip
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    (install,) = recipe_commands()
    bare = {"PATH": f"{venv}/bin:/usr/bin:/bin", "HOME": str(tmp_path), "PIP_CONFIG_FILE": os.devnull}

    def inside(words: str) -> str:
        command = [unshare, "--net", "sh", "-c", words]
        said = subprocess.run(command, cwd=tmp_path, env=bare, capture_output=True, text=True, check=False)
        assert said.returncode == 0, said.stdout + said.stderr
        return said.stdout

    assert "default" not in inside("cat /proc/net/route")
    assert len(inside("cat /proc/net/route").splitlines()) <= 1  # the headings alone
    inside(install.replace("/opt/wheelhouse", str(house)))
    made.write_aperio(
        tmp_path / "a.svs",
        made.disc_image(96, 80, (40, 40), 25, tissue=(180, 90, 150), glass=(245, 245, 245)),
        levels=1,
    )
    write_model(tmp_path / "model")
    assert inside("pathopatch predict a.svs --model model -o out --device cpu").strip().endswith("slides: 1 done")
    assert (tmp_path / "out" / "heatmaps" / "a" / "overlay.png").is_file()
    assert "review" in inside("pathopatch --help")
    viewer = inside("python -c 'from pathopatch.review import viewer; print(viewer.is_there())'")
    assert viewer.strip() == "True"

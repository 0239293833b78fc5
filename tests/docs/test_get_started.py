"""Every `bash` block of *Get started* runs as it stands, in order, in a folder with what the reader is told to have.

Each runs in an installation with the extras that its page names and no others. So does each command that the program
prints to be typed next.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
import pytest
from array_slides import h_and_e, write_mask
from doc_pages import DOCS, code_blocks
from installation import Installation
from made_model import write_model
from made_slides import write_rgb_pyramid
from quick_demo import program
from review_page import Page, predicted

from pathopatch.review import viewer

PAGES = DOCS / "get-started"
SIDE_PX, WIDTH, HEIGHT = 64, 6, 4  # px of a patch, patches of a slide
INSTALL = re.compile(r"pip install '\.\[([a-z,]+)\]'")
NEXT = re.compile(r"(?:next: +|^ +)(pathopatch .*?)(?= {3}\(|$)", flags=re.MULTILINE)
"""A command that is printed to be typed next, and what it is for in brackets."""

needs_viewer = pytest.mark.skipif(
    not viewer.is_installed() and not os.environ.get("CI"), reason="the viewer is not installed"
)


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Installation]:
    """Return a function that returns the installation which a page tells its reader to make."""
    made: dict[str, Installation] = {}

    def told_by(page: str) -> Installation:
        extras = INSTALL.findall((PAGES / page).read_text(encoding="utf-8"))[-1]
        if extras not in made:
            made[extras] = Installation(tmp_path_factory.mktemp("installation"), extras.split(","))
        return made[extras]

    return told_by


def write_slides(folder: Path, count: int) -> pd.DataFrame:
    """Write slides whose left half is tumour, mostly with much tissue, and their masks; return their manifest."""
    for name in ("slides", "masks"):
        (folder / name).mkdir()
    rng, rows = np.random.default_rng(0), []
    for number in range(count):
        is_tumour = np.broadcast_to(np.arange(WIDTH) < WIDTH / 2, (HEIGHT, WIDTH))
        is_much = is_tumour ^ (rng.random((HEIGHT, WIDTH)) < 0.3)
        share = np.repeat(np.repeat(np.where(is_much, 0.8, 0.15), SIDE_PX, axis=0), SIDE_PX, axis=1)
        is_tissue = np.tile(np.arange(SIDE_PX), HEIGHT)[:, None] < share * SIDE_PX
        name = f"S{number}"
        write_rgb_pyramid(folder / "slides" / f"{name}.tif", h_and_e(is_tissue), mpp=0.5, levels=1)
        is_tumour_px = np.arange(is_tissue.shape[1]) < is_tissue.shape[1] / 2
        write_mask(folder / "masks" / f"{name}.png", np.broadcast_to(is_tumour_px, is_tissue.shape))
        files = {"path": f"slides/{name}.tif", "tumor_mask": f"masks/{name}.png"}
        rows.append({"slide_id": name, "patient_id": f"P{number}", **files})
    return pd.DataFrame(rows)


def run_blocks(page: str, folder: Path, installation: Installation) -> None:
    """Run the commands of a page one after another, as a user types them."""
    for line in "".join(code_blocks(PAGES / page, "bash")).splitlines():
        run(line, folder, installation)


def run(line: str, folder: Path, installation: Installation) -> str:
    """Run a command in a folder, and return what it prints; a review page is opened, and ended by Ctrl-C."""
    words = shlex.split(line, comments=True)
    assert words[0] == "pathopatch"
    if words[1] == "review":
        open_review(words, folder, installation)
        return ""
    command = [installation.python, *program("demo"), *words[1:]] if words[1] == "demo" else words
    done = subprocess.run(
        command, cwd=folder, env=installation.environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def open_review(words: list[str], folder: Path, installation: Installation) -> None:
    """Start the review page at a free port, decide on a slide, and end the page by Ctrl-C."""
    started = subprocess.Popen(
        [*words, "--port", "0"],
        cwd=folder,
        env=installation.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # as a terminal has it
    )
    try:
        assert started.stdout is not None
        address = started.stdout.readline().strip()
        parts = urlsplit(address)
        page = Page(parts.port or 0)
        cookie = page.ask(f"/?{parts.query}").headers["set-cookie"].split(";")[0]
        page = Page(page.port, cookie=cookie)
        (slide_id, *_) = [row["slide_id"] for row in page.ask("/api/cohort").json["rows"]]
        assert page.decide(slide=slide_id).status == 201
        started.send_signal(signal.SIGINT)
        assert started.wait(timeout=60) == 130
    finally:
        started.kill()
        started.communicate()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_technicians_blocks_run(tmp_path: Path, installation: Callable[[str], Installation]) -> None:
    write_slides(tmp_path, count=2)
    write_model(tmp_path / "model")
    run_blocks("technician.md", tmp_path, installation("technician.md"))
    text = (PAGES / "technician.md").read_text(encoding="utf-8")
    for name in re.findall(r"^\| `(out/[^`]*)`", text, flags=re.MULTILINE):
        assert list(tmp_path.glob(name.replace("<slide>", "*"))), name


@pytest.mark.slow
@pytest.mark.timeout(900)
@needs_viewer
def test_the_pathologists_blocks_run(tmp_path: Path, installation: Callable[[str], Installation]) -> None:
    predicted(tmp_path)
    run_blocks("pathologist.md", tmp_path, installation("technician.md"))
    assert (tmp_path / "review.csv").is_file()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_researchers_blocks_run(tmp_path: Path, installation: Callable[[str], Installation]) -> None:
    (study,) = code_blocks(PAGES / "researcher.md", "toml")
    (tmp_path / "study.toml").write_text(study, encoding="utf-8")
    write_slides(tmp_path, count=8).to_csv(tmp_path / "cohort.csv", index=False)
    run_blocks("researcher.md", tmp_path, installation("researcher.md"))
    assert (tmp_path / "work" / "report" / "index.html").is_file()


@pytest.mark.slow
@pytest.mark.fault("no-torch")
@needs_viewer
def test_each_command_printed_after_the_example_runs_where_torch_is_absent(
    tmp_path: Path, installation: Callable[[str], Installation]
) -> None:
    technician = installation("technician.md")
    absent = "import importlib.metadata as m, importlib.util as u; assert not u.find_spec('torch'); m.version('torch')"
    done = subprocess.run([technician.python, "-c", absent], capture_output=True, text=True, check=False)
    assert "PackageNotFoundError" in done.stderr
    due, typed = ["pathopatch predict --example -o out"], []
    while due:
        typed.append(due.pop(0))
        due += [line for line in NEXT.findall(run(typed[-1], tmp_path, technician)) if line not in (*due, *typed)]
    assert {line.split()[1] for line in typed} == {"predict", "review", "report"}
    for line in ("pathopatch status out", "pathopatch export review out"):
        run(line, tmp_path, technician)

"""Measure other packages: each in an environment of its own, by a process that works on request.

Environments that are there are used as they are (`bench.py --environments FOLDER`); others are made. hs2p was tried as
6.1.0, tiatoolbox as 2.1.3. tiatoolbox asks for a torch below 2.13, whose package on PyPI brings CUDA: 3 GB to fetch and
more than 6 GB installed. So it is installed without what it asks for, beside what its reader and its predictor import
and the torch that pip finds: 2.3 GB with one for processors, in a minute. wsinfer's environment, with the same torch,
has 1.5 GB.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from measure import REPEATS, Row

_INSTALL_S = 1800
_SAID = "bench: "  # begins the lines that are for us: imports may print others


@dataclass(frozen=True)
class Environment:
    """An environment in which a package is installed.

    Parameters
    ----------
    name : str
        Of its folder.
    packages : tuple of str
        What pip installs into it, with all that they ask for.
    alone : tuple of str
        What it installs after them as it is.
    """

    name: str
    packages: tuple[str, ...]
    alone: tuple[str, ...] = ()


HS2P = Environment("hs2p", ("hs2p[openslide,tifffile]",))
TIATOOLBOX = Environment(
    "tiatoolbox",
    (
        *("torch", "torchvision", "timm", "transformers", "safetensors"),
        *("numpy>=2", "zarr>=3.0.8,<3.2", "dask", "pandas<3.0.3", "umap-learn", "scikit-learn", "matplotlib"),
        *("tifffile<2026.3.3", "imagecodecs<2026.3.6", "openslide-python", "openslide-bin", "pydicom", "SimpleITK"),
        *(
            "opencv-python-headless",
            "scikit-image",
            "shapely",
            "universal-pathlib",
            "pyyaml",
            "requests",
            "defusedxml",
            "psutil",
        ),
    ),
    alone=("tiatoolbox",),
)
WSINFER = Environment("wsinfer", ("wsinfer==0.6.1", "zarr<3", "numpy<2"))


@dataclass(frozen=True)
class Peer:
    """A task of another package that pathopatch does too.

    Parameters
    ----------
    name : str
        In the row.
    environment : Environment
        Where it runs.
    code : str
        Defines ``first``, a word for us, and ``work()``, which is measured.
    goal : float
        How many times as fast we should be.
    """

    name: str
    environment: Environment
    code: str
    goal: float


_LOOP = f"""
print("{_SAID}" + first, flush=True)
for _ in sys.stdin:
    start = time.process_time()
    work()
    print("{_SAID}" + str(time.process_time() - start), flush=True)
"""


P = TypeVar("P", bound=Peer)


class PeerError(Exception):
    """A peer cannot be installed, does not run, or gives something else than we do."""


class Process:
    """A peer that runs and waits; ``first`` is its word."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.first = self._answer()

    def again(self) -> float:
        """Let it work once; return the CPU seconds of all its threads."""
        assert self._process.stdin is not None
        print("again", file=self._process.stdin, flush=True)
        return float(self._answer())

    def _answer(self) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(_SAID):
                return line.removeprefix(_SAID).strip()
        raise PeerError("its process ended, see above")


@contextmanager
def at_work(peer: Peer, folder: Path, *arguments: object) -> Iterator[Process]:
    """Start a peer, from environments in `folder`, with what its code finds in ``sys.argv``; end it."""
    python = _python(peer.environment, folder)
    command = [python, "-c", "import sys, time\n" + peer.code + _LOOP, *map(str, arguments)]
    with tempfile.TemporaryDirectory() as home:  # some make folders there as soon as they are imported
        environment = {**os.environ, "HOME": home, "TQDM_DISABLE": "1"}
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        ) as process:
            try:
                yield Process(process)
            finally:
                process.kill()


def speedup(
    process: Process, ours: Callable[[], float], *, check: Callable[[], object] = bool, repeats: int = REPEATS
) -> float:
    """Return the speedup over a peer: median of repeats, each our CPU seconds, then theirs, then the check."""
    ratios = []
    for _ in range(repeats):
        mine = ours()
        ratios.append(process.again() / mine)
        check()
    return statistics.median(ratios)


def measured(peers: Iterable[P], row: Callable[[P], Row]) -> Iterator[Row]:
    """A row for each peer that installs here and gives the same as we do; a word about each other one."""
    for peer in peers:
        try:
            yield row(peer)
        except (PeerError, subprocess.SubprocessError, OSError) as error:
            print(f"left out: {peer.name}: {error}", file=sys.stderr)


def _python(environment: Environment, folder: Path) -> Path:
    """The interpreter of an environment, which is made, whole or not at all, if it is not there."""
    home = folder / environment.name
    python = home / "bin" / "python"
    if not python.exists():
        pip = [python, "-m", "pip", "install", "--quiet"]
        try:
            venv.create(home, with_pip=True)
            subprocess.run([*pip, *environment.packages], check=True, timeout=_INSTALL_S)
            if environment.alone:
                subprocess.run([*pip, "--no-deps", *environment.alone], check=True, timeout=_INSTALL_S)
        except BaseException:
            shutil.rmtree(home, ignore_errors=True)
            raise
    return python

"""Carry what a GPU machine without network lacks: fill folders of wheels here, install them there.

Each folder stays below a size, so that they can be carried one by one. Packages that the machine has are named with
`--has`; by default it has torch and NumPy alone.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = "gpu-wheels"
_NOT_RUN = {"openvino", "onnx", "onnxscript", "optuna", "pyarrow", "jinja2", "markupsafe"}
"""What neither the tests nor the benchmark of a GPU load."""
_TESTS = ("pytest", "pytest-timeout")


def install(folder: Path, site: Path) -> None:
    """Install from ``gpu-wheels-*`` in `folder` what this Python lacks, into `site`."""
    present = {_normal(found.metadata["Name"]) for found in metadata.distributions()}
    present |= {_normal(found.metadata["Name"]) for found in metadata.distributions(path=[str(site)])}
    wheels = [
        path for path in sorted(folder.glob(f"{FOLDER}-*/*.whl")) if _normal(path.name.split("-")[0]) not in present
    ]
    if wheels:
        options = ["--quiet", "--no-index", "--no-deps", "--no-compile", "--disable-pip-version-check"]
        command = [sys.executable, "-m", "pip", "install", *options, "--target", str(site)]
        subprocess.run([*command, *map(str, wheels)], check=True)


def fill(folder: Path, *, python: str, torch: str, has: Iterable[str], most_mb: float) -> None:
    """Fill ``gpu-wheels-1`` and so on in `folder`: what pathopatch needs there beside what the machine `has`."""
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in range(5, 40)] + ["manylinux2014_x86_64"]
    target = ["--only-binary=:all:", f"--python-version={python}", "--implementation=cp"]
    target += [f"--platform={name}" for name in platforms]
    present = {_normal(name) for name in has}
    with tempfile.TemporaryDirectory() as scratch:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "download", f"--dest={scratch}"]
        subprocess.run([*pip, *target, *_requirements()], check=True)
        if {"torchvision", "timm"} - present:
            # Their needs are named above: to resolve torch would fetch gigabytes. PyPI's torchvision goes with PyPI's
            # torch; of another build its wheel is laid into a folder by hand.
            vision = f"torchvision==0.{int(torch.split('.')[1]) + 15}.*"  # as they are released together
            subprocess.run([*pip, "--no-deps", *target, vision, _line("timm")], check=True)
        wheels = [path for path in Path(scratch).iterdir() if _normal(path.name.split("-")[0]) not in present]
        for earlier in folder.glob(f"{FOLDER}-*"):
            shutil.rmtree(earlier)
        for number, lot in enumerate(_packed(wheels, most_mb * 1e6), start=1):
            part = folder / f"{FOLDER}-{number}"
            part.mkdir()
            print(f"{part}: {len(lot)} wheels, {_bytes(lot) / 1e6:.1f} MB")
            for wheel in lot:
                shutil.move(wheel, part)


def _requirements() -> list[str]:
    """Return what is run, as pyproject.toml names it, without torch and what needs torch."""
    named = [line for line in _named() if _name(line) not in {*_NOT_RUN, "torch", "timm"}]
    return [*named, *_TESTS, "huggingface-hub", "pyyaml"]  # the last two are what timm needs beside torch


def _line(name: str) -> str:
    return next(line for line in _named() if _name(line) == name)


def _named() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["train"]]


def _packed(wheels: Iterable[Path], most: float) -> Iterator[list[Path]]:
    """Yield wheels in lots of `most` bytes, the largest first; a larger one alone."""
    lots: list[list[Path]] = []
    for wheel in sorted(wheels, key=lambda path: path.stat().st_size, reverse=True):
        lot = next((lot for lot in lots if _bytes([*lot, wheel]) <= most), None)
        if lot is None:
            lots.append(lot := [])
        lot.append(wheel)
    yield from lots


def _bytes(paths: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in paths)


def _name(requirement: str) -> str:
    return _normal(re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0])


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> None:
    """Fill the folders."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", default="3.12", help="of the GPU machine")
    parser.add_argument("--torch", default=metadata.version("torch").split("+")[0], help="of the GPU machine")
    parser.add_argument("--has", nargs="*", default=["torch", "numpy"], help="packages of the GPU machine")
    parser.add_argument("--most-mb", type=float, default=60, help="size of a folder")
    parser.add_argument("--folder", type=Path, default=ROOT)
    options = parser.parse_args()
    has = {"torch", "numpy", *options.has}
    fill(options.folder, python=options.python, torch=options.torch, has=has, most_mb=options.most_mb)


if __name__ == "__main__":
    main()

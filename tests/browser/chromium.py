"""A real Chromium, and axe-core, which looks for barriers: where they come from, and what if they are not there.

Chromium is Debian's (`apt-get install chromium`), driven by Playwright; axe-core comes from npm by the lock file
beside, once, into a cache outside the repository.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NoReturn

import pytest

VARIABLE = "PATHOPATCH_BROWSER"
"""If it is "required", as in CI, a test without a browser fails; otherwise it is skipped."""

_NPM = Path(__file__).parent / "npm"
_NAMES = ("/usr/bin/chromium", "chromium", "chromium-browser", "google-chrome")


class Unavailable(Exception):
    """There is no browser, or no axe-core."""


def find() -> str:
    """Path of Chromium; Unavailable if there is none."""
    chromium = next((path for name in _NAMES if (path := shutil.which(name))), None)
    if chromium is None:
        raise Unavailable("there is no chromium: apt-get install chromium")
    return chromium


def axe() -> str:
    """The script of axe-core that the lock file names."""
    digest = hashlib.sha256((_NPM / "package-lock.json").read_bytes()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pathopatch-tests"
    script = cache / f"axe-{digest}.js"
    if not script.is_file():
        npm = shutil.which("npm")
        if npm is None:
            raise Unavailable("there is no npm to fetch axe-core with")
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            for file in ("package.json", "package-lock.json", ".npmrc"):
                shutil.copy2(_NPM / file, folder)
            command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200, check=False)
            if done.returncode:
                raise Unavailable(f"npm could not fetch axe-core: {done.stderr.strip()[-300:]}")
            (Path(folder) / "node_modules" / "axe-core" / "axe.min.js").replace(script)
    return script.read_text(encoding="utf-8")


def stop(error: Exception) -> NoReturn:
    """Fail the test where a browser is required, skip it elsewhere."""
    if os.environ.get(VARIABLE) == "required":
        pytest.fail(f"a browser is required here, but {error}")
    pytest.skip(f"no browser: {error}")

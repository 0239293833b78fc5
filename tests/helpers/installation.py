"""Virtual environments that hold what some extras of this package require and nothing else, made in seconds."""

from __future__ import annotations

import os
import sysconfig
import venv
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PACKAGE = "pathopatch-gerne"
_HIDDEN = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")


class Installation:
    """An environment as ``pip install '.[extras]'`` makes it; its packages are links to those that run the tests.

    What the extras do not require is absent with its metadata: neither `find_spec` nor `importlib.metadata` finds it.
    """

    def __init__(self, folder: Path, extras: Iterable[str]) -> None:
        venv.create(folder, symlinks=True)
        self.python = folder / "bin" / "python"
        place = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))
        for path, target in _links(required_distributions(extras)).items():
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            (place / path).symlink_to(target)
        program = self.python.with_name("pathopatch")
        program.write_text(f"#!{self.python}\nfrom pathopatch.cli import main\n\nmain()\n", encoding="utf-8")
        program.chmod(0o755)

    @property
    def environment(self) -> dict[str, str]:
        """Variables by which a shell finds this environment's programs first, and Python no other packages."""
        kept = {name: value for name, value in os.environ.items() if name not in _HIDDEN}
        return kept | {"PATH": f"{self.python.parent}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}


def required_distributions(extras: Iterable[str]) -> set[str]:
    """Return the names of this package and of all that it requires with some extras."""
    due = [(PACKAGE, frozenset(extras))]
    found: set[tuple[str, frozenset[str]]] = set()
    while due:
        name, chosen = due.pop()
        if (name, chosen) in found:
            continue
        found.add((name, chosen))
        for requirement in map(Requirement, distribution(name).requires or ()):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *chosen)):
                due.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return {name for name, _ in found}


def _links(names: set[str]) -> dict[Path, Path]:
    """Return what to link, by its place in site-packages: folders as a whole, unless others have files in them too."""
    kept = [each for each in distributions() if canonicalize_name(each.metadata["Name"]) in names]
    others = [each for each in distributions() if canonicalize_name(each.metadata["Name"]) not in names]
    shared = {Path(), *(parent for each in others for path in _files(each) for parent in path.parents)}
    links = {}
    for each in kept:
        for path in _files(each):
            whole = next((parent for parent in reversed(path.parents) if parent not in shared), path)
            links[whole] = Path(str(each.locate_file(whole)))
    return links


def _files(each: Distribution) -> Iterator[Path]:
    """Yield the files of a distribution in site-packages by their place there, without bytecode."""
    for file in map(Path, each.files or ()):
        if not {"..", "__pycache__"} & set(file.parts):
            yield file

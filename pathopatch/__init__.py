"""Patch-wise tumour classification that does not learn the tissue-area shortcut.

``__init__.pyi`` lists the public names. They are loaded on first use, so that each part can be used alone.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

from pathopatch.core.user_cache import cache_folder
from pathopatch.core.version import FOREIGN_REMEDY, foreign_distribution
from pathopatch.core.version import __version__ as __version__

# Nothing is sent, and nothing is written outside our cache, by a library either. Every process imports this package
# before any of them: the program, its workers and other people's code. OpenVINO takes its own stub for a module that
# cannot be imported; without it the import of OpenVINO is reported to a server.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
_telemetry = ("NO_ALBUMENTATIONS_UPDATE", "HF_HUB_DISABLE_TELEMETRY", "ORT_DISABLE_TELEMETRY", "DO_NOT_TRACK")
os.environ |= dict.fromkeys(_telemetry, "1")
_matplotlib = "~/.matplotlib"
if sys.platform.startswith(("linux", "freebsd")):
    _matplotlib = f"{os.environ.get('XDG_CONFIG_HOME') or '~/.config'}/matplotlib"
if not any(Path(os.path.expanduser(_matplotlib)).glob("*")):  # noqa: PTH111  # the user has no styles of their own there
    os.environ.setdefault("MPLCONFIGDIR", str(cache_folder() / "matplotlib"))

_IMPORTS = re.findall(r"^from (\S+) import (\w+) as", Path(__file__).with_suffix(".pyi").read_text("utf-8"), re.M)
_HOMES = {name: module for module, name in _IMPORTS}
"""The module of each public name; a module itself is one of `pathopatch`."""
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'pathopatch' has no attribute {name!r}")
    if _HOMES[name] == "pathopatch":
        return import_module(f"pathopatch.{name}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


if _foreign := foreign_distribution():
    warnings.warn(f"another package with this import name is installed: {_foreign}. {FOREIGN_REMEDY}", stacklevel=2)

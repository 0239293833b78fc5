"""How is a metadata file of an OME-Zarr folder read, and how is it refused? Bounded, checked for kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pathopatch.core.errors import InputCorruptError, InputTooLargeError, InputUnsupportedError

_MAX_METADATA_BYTES = 16 * 2**20


def read_object(path: Path) -> dict[str, Any]:
    """Return a metadata file."""
    if path.stat().st_size > _MAX_METADATA_BYTES:
        raise InputTooLargeError(
            f"metadata of {path.stat().st_size} bytes", place=str(path), remedy="copy the folder again from its source"
        )
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise corrupt(path, f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise corrupt(path, "not a JSON object")
    return value


def read_list(raw: dict[str, Any], key: str, folder: Path) -> list[Any]:
    """Return a list that stands under a key."""
    value = raw.get(key)
    if not isinstance(value, list):
        raise corrupt(folder, f"its {key} are {value!r}")
    return value


def corrupt(place: Path, what: str) -> InputCorruptError:
    """Return the error for metadata that cannot be what was written."""
    return InputCorruptError(what, place=str(place), remedy="copy the folder again from its source")


def unsupported(place: Path, what: str, remedy: str) -> InputUnsupportedError:
    """Return the error for an image that is not read."""
    return InputUnsupportedError(what, place=str(place), remedy=remedy)

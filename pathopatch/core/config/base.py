"""The base of all configurations: frozen, and an unknown key is an error."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypedDict, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pathopatch.core import removed
from pathopatch.core.errors import InputUnsupportedError

MPP_RANGE = (0.05, 20.0)
"""Micrometres per pixel outside this range are taken for a mistake in the file or the manifest."""

LEAST_PX, MOST_PX = 8, 4096
"""Smallest and largest side of a patch; others are a mistake."""

Fraction = Annotated[float, Field(ge=0, le=1)]
T = TypeVar("T", bound="Config")


class PatchLimits(TypedDict):
    """Least shares of a patch that has a group and a prediction, by their names in settings, audit and bundle."""

    min_tissue: float  # of the scanned pixels
    min_scanned: float  # of the part on the slide


class Config(BaseModel):
    """Base of all configurations: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def parse(kind: type[T], raw: dict[str, Any], *, place: str) -> T:
    """Return a checked configuration from plain values.

    Raises
    ------
    InputUnsupportedError
        Lists every unknown, missing or invalid key.
    """
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        lines = [_complaint(kind, item) for item in error.errors(include_url=False)]
        raise InputUnsupportedError(
            "configuration refused: " + "; ".join(lines),
            place=place,
            remedy="correct or remove these keys",
        ) from error


def tables_of(kind: type[Config]) -> dict[str, type[Config]]:
    """Return the tables that a configuration holds, by name."""
    return {
        name: annotation
        for name, field in kind.model_fields.items()
        for annotation in (field.annotation, *get_args(field.annotation))
        if isinstance(annotation, type) and issubclass(annotation, Config)
    }


def _complaint(kind: type[Config], item: Mapping[str, Any]) -> str:
    """Return what is wrong with a key; what replaces a removed one, and which keys are most like an unknown one."""
    key = _key(kind, item["loc"])
    *tables, last = [str(part) for part in item["loc"] if not isinstance(part, int)] or [""]  # without places in a list
    for name in tables:
        kind = tables_of(kind).get(name, kind)
    owner = f"{kind.__name__}.{last}"
    if item["type"] != "extra_forbidden":
        if (value := f"{owner}={item.get('input')}") in removed.VALUES:
            return f"{key} = {item.get('input')!r} was removed: {removed.VALUES[value]}"
        return f"{key}: {item['msg']} (got {item.get('input')!r})"
    if owner in removed.SETTINGS:
        return f"{key} was removed: {removed.SETTINGS[owner]}"
    close = difflib.get_close_matches(last.casefold(), list(kind.model_fields), n=2)
    return f"{key}: unknown key" + (f", did you mean {' or '.join(close)}?" if close else "")


def _key(kind: type[Config], place: Sequence[int | str]) -> str:
    """Return a key as a study file has it, ``[tile.tissue] channels``."""
    tables: list[str] = []
    parts = list(place)
    while parts and (inner := tables_of(kind).get(str(parts[0]))) is not None:
        kind = inner
        tables.append(str(parts.pop(0)))
        if parts and parts[0] == kind.__name__:  # which of several types was tried
            parts.pop(0)
    key = ".".join(str(part) for part in parts)
    if not tables:
        return key or "(top)"
    return f"[{'.'.join(tables)}] {key}".rstrip()

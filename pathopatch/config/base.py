"""What do all configurations have in common? They are frozen, and an unknown key is an error."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pathopatch.errors import InputUnsupportedError

MPP_RANGE = (0.05, 20.0)
"""Micrometres per pixel outside this range are taken for a mistake in the file or the manifest."""

Fraction = Annotated[float, Field(ge=0, le=1)]
T = TypeVar("T", bound="Config")


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
        lines = [
            f"{'.'.join(str(part) for part in item['loc']) or '(top)'}: {item['msg']} (got {item.get('input')!r})"
            for item in error.errors(include_url=False)
        ]
        raise InputUnsupportedError(
            "configuration refused: " + "; ".join(lines),
            place=place,
            remedy="correct or remove these keys",
        ) from error

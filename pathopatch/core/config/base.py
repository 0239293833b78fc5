"""The base of all configurations: frozen, and an unknown key is an error."""

from __future__ import annotations

import ast
import difflib
import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pathopatch.core.errors import InputUnsupportedError

MPP_RANGE = (0.05, 20.0)
"""Micrometres per pixel outside this range are taken for a mistake in the file or the manifest."""

MPP_TOLERANCE = 0.02
"""Relative difference up to which two mpp values count as one scale.

0.499 um/px is as good as 0.5. Resampling one to the other would blur an image for a difference that no network sees.
"""

MIN_SCANNED = 0.5
"""Scanned share of a patch below which, by default, it has no group and no prediction."""

LEAST_PX, MOST_PX = 8, 4096
"""Smallest and largest side of a patch; others are a mistake."""

_LEAST_STD = 1e-6
"""Standard deviation of a channel in [0, 1] below which rounding alone varies it."""

Fraction = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
"""Of random numbers: what NumPy, torch and scikit-learn all take, and sums with small numbers as well."""
Threads = Annotated[int, Field(ge=1, le=1024)]
"""More than any processor has; the operating system refuses a million, and ends the process."""
T = TypeVar("T", bound="Config")
_REMEDIES = {"missing": "add what is missing", "extra_forbidden": "correct or remove the keys"}
"""By pydantic's type of an error."""


def mpp_agrees(*mpps: float) -> bool:
    """Return whether scales, um/px, count as one: the coarsest is at most `MPP_TOLERANCE` above the finest."""
    # Written with "not", so that NaN, an unknown scale, contradicts nothing.
    return not max(mpps) > (1 + MPP_TOLERANCE) * min(mpps)


def require_unit_scale(mean: Sequence[float], std: Sequence[float]) -> None:
    """Refuse by ValueError a mean and a standard deviation of channels that are not of values from 0 to 1."""
    for name, values in (("mean", mean), ("std", std)):
        if (largest := max(map(abs, values), default=0)) > 1:
            white = 255 if largest <= 255 else 65535
            divided = ", ".join(f"{value:g} / {white} = {value / white:.3g}" for value in values)
            raise ValueError(f"{name} must be of values from 0 to 1. If it is of 0 to {white}: {divided}")
    if (least := min(std, default=1)) < _LEAST_STD:
        raise ValueError(f"std is {least:g}: a channel that varies less than {_LEAST_STD:g} is constant; use 1 for it")


class PatchLimits(TypedDict):
    """Least shares of a patch that has a group and a prediction, by their names in settings, audit and bundle."""

    min_tissue: float  # of the scanned pixels
    min_scanned: float  # of the whole patch


class Config(BaseModel):
    """Base of all configurations: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _same_kinds(cls, raw: Any) -> Any:
        """Refuse true for a number, and a number or a text for true or false, which pydantic would convert."""
        given = {name: raw[name] for name in cls.model_fields if name in raw} if isinstance(raw, Mapping) else {}
        wrong = {name: _wrong_kind(cls.model_fields[name].annotation, value) for name, value in given.items()}
        if problems := [f"{name}: {words} (got {given[name]!r})" for name, words in wrong.items() if words]:
            raise ValueError("; ".join(problems))
        return raw


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
        items = error.errors(include_url=False)
        remedies = {_REMEDIES.get(item["type"], "give values that are allowed") for item in items}
        raise InputUnsupportedError(
            "configuration refused: " + "; ".join(_complaint(kind, item) for item in items),
            place=place,
            remedy=" and ".join(sorted(remedies)),
        ) from error


def _wrong_kind(annotation: Any, value: object) -> str:
    """Return what is due in place of a value of another kind; empty where it is of the right one."""
    kinds = _scalars(annotation)
    items = value if isinstance(value, list | tuple) else [value]
    has_switch = any(isinstance(item, bool) for item in items)
    if kinds & {int, float} and bool not in kinds and has_switch:
        return "a number is due"
    if kinds and kinds <= {int, float} and isinstance(value, str):
        return "a number is due"
    return "true or false is due" if kinds == {bool} and isinstance(value, int | float | str) and not has_switch else ""


def _scalars(annotation: Any) -> set[type]:
    """Return the types of single values that an annotation allows."""
    if get_origin(annotation) is Literal:
        return {type(value) for value in get_args(annotation)}
    inner = get_args(annotation)
    if not inner:
        return {annotation} if annotation in (bool, int, float, str, Path) else set()
    return set().union(*map(_scalars, inner[:1] if get_origin(annotation) is Annotated else inner))


def tables_of(kind: type[Config]) -> dict[str, type[Config]]:
    """Return the tables that a configuration holds, by name."""
    return {
        name: annotation
        for name, field in kind.model_fields.items()
        for annotation in (field.annotation, *get_args(field.annotation))
        if isinstance(annotation, type) and issubclass(annotation, Config)
    }


def field_docs(kind: type[Config]) -> dict[str, str]:
    """Return the docstring below each field of a configuration, inherited ones included."""
    docs: dict[str, str] = {}
    for base in reversed(kind.__mro__[: kind.__mro__.index(Config)]):
        docs |= _docs_of_classes(inspect.getfile(base))[base.__name__]
    return docs


@cache
def _docs_of_classes(path: str) -> dict[str, dict[str, str]]:
    """Return the docstrings of the fields of each class in a module, by class and field."""
    docs: dict[str, dict[str, str]] = {}
    for node in ast.parse(Path(path).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            docs[node.name] = fields = {}
            for item, below in zip(node.body, node.body[1:], strict=False):
                match item, below:
                    case ast.AnnAssign(target=ast.Name(name)), ast.Expr(ast.Constant(str(text))):
                        fields[name] = " ".join(text.split())
    return docs


def _complaint(kind: type[Config], item: Mapping[str, Any]) -> str:
    """Return what is wrong with a key, and which keys are most like an unknown one."""
    key = _key(kind, item["loc"])
    *tables, last = [str(part) for part in item["loc"] if not isinstance(part, int)] or [""]  # without places in a list
    for name in tables:
        kind = tables_of(kind).get(name, kind)
    if item["type"] != "extra_forbidden":
        # Settings that do not go together have all of their table as input.
        if item["type"] == "missing" or isinstance(item.get("input"), Mapping):
            return f"{key}: {item['msg']}"
        allowed = re.findall("'(.*?)'", str(item.get("ctx", {}).get("expected", "")))
        message = "the path of a file is due" if item["type"] == "path_type" else item["msg"]
        return f"{key}: {message} (got {item.get('input')!r}{_did_you_mean(item.get('input'), allowed)})"
    return f"{key}: unknown key{_did_you_mean(last, kind.model_fields)}"


def _did_you_mean(given: object, known: Iterable[str]) -> str:
    """Return the most similar known words as a question; empty if none is similar."""
    close = difflib.get_close_matches(str(given).casefold(), list(known), n=2)
    return f", did you mean {' or '.join(close)}?" if close else ""


def _key(kind: type[Config], place: Sequence[int | str]) -> str:
    """Return a key as a study file has it, ``[tile.tissue] channels``."""
    tables: list[str] = []
    parts = list(place)
    while parts and (inner := tables_of(kind).get(str(parts[0]))) is not None:
        kind = inner
        tables.append(str(parts.pop(0)))
        if parts and parts[0] == kind.__name__:  # which of several types was tried
            parts.pop(0)
    # After the key itself come pydantic's names of the types of a union, ``literal['none',...]``.
    key = ".".join([*map(str, parts[:1]), *(str(part) for part in parts[1:] if "[" not in str(part))])
    if not tables:
        return key or "(top)"
    return f"[{'.'.join(tables)}] {key}".rstrip()

"""Make options of commands, and their help, from texts and fields of settings; options that several commands share."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import reduce, wraps
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer

from pathopatch.core.text import parse_number

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from pathopatch.core.config import BatchOptions, Config

Quiet = Annotated[bool, "No progress, results only."]
Force = Annotated[bool, "Redo outputs that were made with other settings or inputs."]
Work = Annotated[Path, typer.Argument(help="Work folder.", metavar="WORK")]
Manifest = Annotated[Path, typer.Argument(help="Table with a row a slide.", metavar="MANIFEST")]
Source = Annotated[str, typer.Argument(help="Slide, or CARS=a.tif,TPEF=b.tif,SHG=c.tif.", metavar="SLIDE")]
SlideMpp = Annotated[float | None, "The slides' own um per px, where their files state none."]
SlideId = Annotated[str | None, "Id of a single slide. Default: the file's stem."]
ConfigFile = Annotated[Path | None, "TOML of a study, or of TABLES alone, for what has no option here."]
"""The option ``--config`` of a command with `Fields`, whose tables the file may have."""
_SHORT = {"out": ["-o"], "quiet": ["-q"]}
"""Short names of options that are made of a text or a field."""
IN_DRY_RUN = {"a dry run opens all slides in its own process and could not give one up": "timeout memory_gb"}
"""Options that are refused in a dry run, by the reason."""


class Fields:
    """The fields of a configuration that a command takes as options; a dotted path is of a table within it.

    Annotates a parameter of a command, ``settings: Annotated[TrainConfig, Fields("method seed", limit="clip_norm")]``:
    ``--method``, ``--seed`` and ``--limit``. `with_settings` makes the options and gives the command a `TrainConfig`.
    """

    def __init__(self, names: str = "", **paths: str) -> None:
        self.paths = {path.rpartition(".")[2]: path for path in names.split()} | paths


Batch = Annotated["BatchOptions", Fields("workers memory_gb retry_failed dry_run quiet force", timeout="timeout_s")]


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command whose options are made of the texts and `Fields` that annotate its parameters.

    ``answers: Annotated[Path | None, "Answers to judge."]`` is ``--answers`` with that help. A parameter with `Fields`
    gets the values of the options that are typed, else those of the file of the command's ``config``, else the
    defaults.
    """
    from pathopatch.core import config as settings  # a fifth of a second: after `pathopatch --help`

    hints = get_type_hints(command, localns=vars(settings), include_extras=True)
    names = {kind: name for name, kind in settings.tables_of(settings.SettingsConfig).items()}
    names[settings.BatchOptions] = "batch"
    fields = {name: extra for name, hint in hints.items() for extra in get_args(hint) if isinstance(extra, Fields)}
    kinds: dict[str, type[Config]] = {name: get_args(hints[name])[0] for name in fields}
    tables = [names[kind] for kind in kinds.values() if kind in names]
    listed = " or ".join(f"[{table}]" for table in tables)
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name in fields:
            parameters += [_option(kinds[name], option, path) for option, path in fields[name].paths.items()]
            continue
        annotation = hints[name]
        if get_origin(annotation) is Annotated and isinstance(text := annotation.__metadata__[0], str):
            help_text = text.replace("TABLES", listed)
            annotation = Annotated[get_args(annotation)[0], typer.Option(*_names(name), help=help_text)]
        parameters.append(parameter.replace(annotation=annotation, kind=inspect.Parameter.KEYWORD_ONLY))

    @wraps(command)
    def run(**typed: Any) -> None:
        file = typed.get("config")
        read = None if file is None else settings.load_settings(file, reads=tables)
        for name, kind in kinds.items():
            values = {path: _value(kind, path, typed.pop(option)) for option, path in fields[name].paths.items()}
            given = {path: value for path, value in values.items() if value is not None}
            base = read and getattr(read, names.get(kind, ""), None)
            typed[name] = with_options(kind, base, given)
        command(**typed)

    del run.__wrapped__  # typer would read the parameters of the command itself
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def with_options(kind: type[Config], base: Config | None, given: Mapping[str, object]) -> Any:
    """Return a configuration with values by dotted path in place of those of `base`, or of the defaults."""
    from pathopatch.core.config import parse, tables_of

    # Of those alone that somebody set: what is left out may depend on the cohort.
    raw = {} if base is None else {name: getattr(base, name) for name in base.model_fields_set}
    for path, value in given.items():
        table, _, rest = path.partition(".")
        if rest:
            inner = tables_of(kind)[table]
            raw[table] = with_options(inner, raw.get(table), {rest: value})
        else:
            raw[path] = value
    return parse(kind, raw, place="command line")


def _names(parameter: str) -> list[str]:
    """Return the names of the option of a parameter."""
    return [f"--{parameter.replace('_', '-')}", *_SHORT.get(parameter, ())]


def _option(kind: type[Config], option: str, path: str) -> inspect.Parameter:
    """Return the parameter that typer makes the option of a field of."""
    field, doc = _field(kind, path)
    types = list(_types(field.annotation))
    annotation: Any
    default: Any = inspect.Parameter.empty if field.is_required() else None
    limits: dict[str, Any] = {}
    if types == [bool]:
        annotation, default = bool, False
    elif types == [tuple]:
        annotation = list[str] | None
    else:
        plain = types[0] if types in ([int], [float], [Path]) else str
        limits = {
            word: getattr(item, bound)
            for item in field.metadata
            for bound, word in (("ge", "min"), ("le", "max"))
            if plain in (int, float) and hasattr(item, bound)
        }
        annotation = plain if field.is_required() else plain | None
    annotation = Annotated[annotation, typer.Option(*_names(option), help=_help(field, doc), **limits)]
    return inspect.Parameter(option, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _field(kind: type[Config], path: str) -> tuple[FieldInfo, str]:
    """Return a field by its dotted path, and the docstring below it."""
    from pathopatch.core.config import field_docs, tables_of

    *tables, name = path.split(".")
    kind = reduce(lambda outer, table: tables_of(outer)[table], tables, kind)
    return kind.model_fields[name], field_docs(kind)[name]


def _help(field: FieldInfo, doc: str) -> str:
    """Return the help of an option: the docstring, the values that it does not name, and the default."""
    text = doc.replace("None: ", "Default: ")
    values = list(_literals(field.annotation))
    if not all(value in text for value in values):
        text += f" One of {', '.join(values)}."
    default = field.get_default()
    is_plain = field.is_required() or default is None or isinstance(default, bool) or default in ("", ())
    if "Default: " not in text and not is_plain:
        text += f" Default: {', '.join(map(str, default)) if isinstance(default, tuple) else default}."
    return text


def _types(annotation: Any) -> Iterator[type]:
    """Yield the types of an annotation without None: `str` for the values of a Literal, `tuple` for any tuple."""
    origin = get_origin(annotation)
    if origin in (Union, UnionType):
        for part in get_args(annotation):
            yield from _types(part)
    elif origin is Annotated:
        yield from _types(get_args(annotation)[0])
    elif annotation is not NoneType:
        yield str if origin is Literal else origin or annotation


def _literals(annotation: Any) -> Iterator[str]:
    """Yield the texts that an annotation allows alone."""
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
    elif get_origin(annotation) is not tuple:
        for part in get_args(annotation):
            yield from _literals(part)


def _value(kind: type[Config], path: str, typed: Any) -> Any:
    """Return what was typed for a field: None for nothing, the parts of a list, which are separated by commas."""
    if not isinstance(typed, list):
        return None if typed is False else typed
    field, _ = _field(kind, path)
    parts = [part.strip() for text in typed for part in text.split(",")]
    (items,) = [part for part in (field.annotation, *get_args(field.annotation)) if get_origin(part) is tuple]
    if parts and float in _types(get_args(items)[0]):
        return numbers(",".join(parts))
    return parts or None


def numbers(text: str) -> list[float]:
    """Return the numbers of a list that is separated by commas."""
    try:
        return [parse_number(part.strip()) for part in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no list of numbers") from error


def typed_options(context: typer.Context, *names: str) -> list[str]:
    """Return those of some parameters that were typed, as options."""
    options = {parameter.name: parameter.opts[0] for parameter in context.command.params}
    sources = {options[name]: context.get_parameter_source(name) for name in names}
    return [option for option, source in sources.items() if source is not None and source.name == "COMMANDLINE"]


def refuse(context: typer.Context, refused: Mapping[str, str]) -> None:
    """Refuse options that were typed beside others with which they do not go: names of parameters by the reason."""
    for reason, names in refused.items():
        if typed := typed_options(context, *names.split()):
            raise typer.BadParameter(f"{' and '.join(typed)}: {reason}")

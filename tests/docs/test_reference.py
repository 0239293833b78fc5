"""The reference pages: no command, option, setting, error code or reader is missing."""

from __future__ import annotations

import re
from types import ModuleType
from typing import Literal, get_args, get_origin

import pytest
import typer
from doc_pages import DOCS
from program_commands import COMMANDS

from pathopatch.core import config, errors
from pathopatch.core.config import Config
from pathopatch.core.errors import PathopatchError

KINDS = sorted(
    (
        kind
        for kind in vars(config).values()
        if isinstance(kind, type) and issubclass(kind, Config) and kind is not Config
    ),
    key=lambda kind: kind.__name__,
)


@pytest.fixture(scope="session")
def cli_page(hooks: ModuleType) -> str:
    return str(hooks.cli_page())


@pytest.fixture(scope="session")
def settings_page(hooks: ModuleType) -> str:
    return str(hooks.settings_page())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_option_is_documented(command: str, cli_page: str) -> None:
    heading = "# Command line" if command == "pathopatch" else f"# `{command}`\n"
    text = cli_page.partition(heading)[2].partition("\n#")[0]
    assert COMMANDS[command].help
    for parameter in (parameter for parameter in COMMANDS[command].params if not parameter.hidden):
        name, _ = parameter.get_help_record(typer.Context(COMMANDS[command]))
        assert parameter.help
        assert f"\n* `{name}`: " in text


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_setting_is_documented_with_its_reason(kind: type[Config], settings_page: str) -> None:
    reasons = config.field_docs(kind)
    assert list(kind.model_fields) == [name for name in kind.model_fields if reasons.get(name)]
    if kind is not config.SettingsConfig:  # its tables stand in the study
        for name, field in kind.model_fields.items():
            is_fixed = get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1
            assert (f"| `{name}` |" in settings_page) or is_fixed


def test_the_settings_page_shows_defaults_and_limits(settings_page: str) -> None:
    assert "| `min_speck_um2` | `400.0` | number &gt;= 0 |" in settings_page
    assert "| `store` | `&quot;zarr&quot;` | zarr, none |" in settings_page.replace('"', "&quot;")
    assert "| `work` | required |" in settings_page


def test_every_error_code_has_its_cause_remedy_and_builtin() -> None:
    rows = {}
    for line in (DOCS / "reference" / "errors.md").read_text(encoding="utf-8").splitlines():
        if re.match(r"\| `[A-Z_]+` \|", line):
            code, cause, remedy, builtin = (cell.strip() for cell in line.strip("|").split("|"))
            assert cause.endswith(".")
            assert remedy.endswith(".")
            rows[code.strip("`")] = builtin
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, PathopatchError)]
    own = [kind for kind in kinds if "code" in vars(kind) and kind is not PathopatchError]
    assert rows == {kind.code: kind.__mro__[2].__name__ for kind in own}


def test_the_manifest_page_lists_every_column() -> None:
    from pathopatch.slides import manifest

    text = (DOCS / "reference" / "manifest.md").read_text(encoding="utf-8")
    columns = [*manifest._REQUIRED, *manifest._COLUMNS]  # the one place that names them
    assert columns == [column for column in columns if f"| `{column}` |" in text]

"""Keep the token of each reader of a folder: a link stays good when the page is started again."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from pathopatch.core.errors import DiskFullError, InputUnsupportedError, PathopatchError
from pathopatch.core.files import atomic_path, read_json
from pathopatch.groups.decisions.readers import known_reader, reader_key, reader_name


class Links(NamedTuple):
    """Tokens by reader, and the file that keeps them; None where none could be written."""

    tokens: dict[str, str]
    file: Path | None


def reader_links(folder: Path, readers: Sequence[str], *, renew: bool = False) -> Links:
    """Return a token for each reader of a folder: that of the last start, or a new one; `renew` ends all earlier ones.

    They are kept below ``~/.local/state/pathopatch``, or XDG_STATE_HOME, where the user alone can read them.
    InputUnsupportedError for no name, or one that is there twice.
    """
    names = [reader_name(name) for name in readers]
    if len(set(map(reader_key, names))) < len(names):
        raise InputUnsupportedError("twice the same reader", place="--reader", remedy="name each once")
    state = Path(os.path.expanduser(os.environ.get("XDG_STATE_HOME") or "~/.local/state"), "pathopatch")  # noqa: PTH111
    file = state / "review" / f"{hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:32]}.json"
    kept: dict[str, str] = {}
    with suppress(PathopatchError):  # none yet, or damaged
        kept = {} if renew else {str(name): str(token) for name, token in read_json(file).items()}
    names = [known_reader(name, kept) for name in names]
    tokens = {name: kept.get(name) or secrets.token_urlsafe(32) for name in names}
    if kept | tokens == kept:
        return Links(tokens, file)
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with atomic_path(file) as temporary:
            temporary.touch(mode=0o600)
            temporary.write_text(json.dumps(kept | tokens), encoding="utf-8")
    except (OSError, DiskFullError, InputUnsupportedError):
        return Links(tokens, None)
    return Links(tokens, file)

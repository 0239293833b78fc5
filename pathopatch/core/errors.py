"""Errors of this package: one class per stable code, each also a child of the matching builtin.

A message says the value and what is wrong with it, ``place`` where it stands, ``remedy`` what to do.
Outside code may rely on ``code``; the wording may change.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

_PLACE = re.compile(r" \[[^\[\]]*\]$")  # as `PathopatchError` writes it, before its remedy
_NOT_UTF8 = re.compile(r"""[^\s"']*[\ud800-\udfff][^\s"']*""")  # Python's place holders for a name's other bytes
_FEW = 3
"""So many lines of one text are printed as they are, and so many slides are named where there are more."""
_MOST_ROWS = 20  # are named of a table, since each must be found to be mended


class PathopatchError(Exception):
    """Base of all errors that this package raises on purpose.

    Parameters
    ----------
    message : str
        What is wrong, with the offending value.
    place : str
        File, slide, row or key where it stands.
    remedy : str
        What the reader can do about it.
    """

    code: ClassVar[str] = "INTERNAL"

    def __init__(self, message: str, *, place: str = "", remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.place = place
        self.remedy = remedy

    def __str__(self) -> str:
        text = f"{self.code}: {self.message}"
        if self.place:
            text += f" [{self.place}]"
        if self.remedy:
            text += f" Remedy: {self.remedy}"
        return text


class InputMissingError(PathopatchError, FileNotFoundError):
    """A named file, folder or column is not there."""

    code = "INPUT_MISSING"


class InputCorruptError(PathopatchError, ValueError):
    """A file is there but cannot be read in full."""

    code = "INPUT_CORRUPT"


class InputChangedError(PathopatchError, RuntimeError):
    """A file is not the one that was opened: it was overwritten, replaced, extended or cut while it was read."""

    code = "INPUT_CHANGED"


class InputUnsupportedError(PathopatchError, ValueError):
    """A value or format that this package does not accept."""

    code = "INPUT_UNSUPPORTED"


class InputTooLargeError(PathopatchError, ValueError):
    """A file claims more pixels, rows or values than it can hold or than may be read."""

    code = "INPUT_TOO_LARGE"


class MppMissingError(PathopatchError, ValueError):
    """Neither file, manifest nor command line states micrometres per pixel."""

    code = "MPP_MISSING"


class ModalityMismatchError(PathopatchError, ValueError):
    """The channels of one slide differ in size or mpp."""

    code = "MODALITY_MISMATCH"


class ChannelMismatchError(PathopatchError, ValueError):
    """Number, names, order or type of channels differ from what is due."""

    code = "CHANNEL_MISMATCH"


class NoTissueError(PathopatchError, ValueError):
    """No tissue where some is needed."""

    code = "NO_TISSUE"


class GroupEmptyError(PathopatchError, ValueError):
    """A (label, attribute) cell has no sample."""

    code = "GROUP_EMPTY"


class DuplicateIdError(PathopatchError, ValueError):
    """Two rows or files share one identifier."""

    code = "DUPLICATE_ID"


class SplitLeakageError(PathopatchError, ValueError):
    """A patient or a file stands in two splits."""

    code = "SPLIT_LEAKAGE"


class LabelConflictError(PathopatchError, ValueError):
    """One image or slide has two labels, or reviewers differ on it."""

    code = "LABEL_CONFLICT"


class StaleArtefactError(PathopatchError, RuntimeError):
    """An artefact of another configuration or other inputs stands where output should go."""

    code = "STALE_ARTEFACT"


class CheckpointIncompatibleError(PathopatchError, ValueError):
    """A model does not fit the data or this version."""

    code = "CHECKPOINT_INCOMPATIBLE"


class CheckpointUnsafeError(PathopatchError, ValueError):
    """A model file that could run code when read."""

    code = "CHECKPOINT_UNSAFE"


class DiskFullError(PathopatchError, OSError):
    """No space left for an output."""

    code = "DISK_FULL"


class OutOfMemoryError(PathopatchError, MemoryError):
    """No memory left."""

    code = "OUT_OF_MEMORY"


class SlideTimeoutError(PathopatchError, TimeoutError):
    """A slide, or a lock that another process holds, took longer than allowed."""

    code = "TIMEOUT"


class WorkerCrashError(PathopatchError, RuntimeError):
    """A worker process ended without a result."""

    code = "WORKER_CRASH"


class NonFiniteError(PathopatchError, ArithmeticError):
    """NaN or infinity where a number is needed."""

    code = "NONFINITE"


class BetaOutOfBoundsError(PathopatchError, ValueError):
    """A beta outside the bounds of GERNE's equation 9."""

    code = "BETA_OUT_OF_BOUNDS"


class ReviewRefusedError(PathopatchError, PermissionError):
    """The review page does not answer this: foreign host or origin, no token, or a write that is not the page's own."""

    code = "REVIEW_REFUSED"


class ReviewConflictError(PathopatchError, RuntimeError):
    """Somebody else decided on the slide since it was read; `state` is what is decided by now, as plain values."""

    code = "REVIEW_CONFLICT"

    def __init__(
        self, message: str, *, place: str = "", remedy: str = "", state: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message, place=place, remedy=remedy)
        self.state = dict(state or {})


class InternalError(PathopatchError, RuntimeError):
    """A fault of this package."""

    code = "INTERNAL"


_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
_NOT_ALLOWED = {errno.EROFS, errno.EACCES, errno.EPERM}
_REMEDIES = {
    errno.EEXIST: "choose an output folder that is not a file and is still mounted",
    errno.ENOTDIR: "choose an output folder that is not a file and is still mounted",
    errno.EISDIR: "name a file, not a folder",
    errno.ELOOP: "remove the links that lead to each other",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EFBIG: "choose a drive and a limit (ulimit -f) that allow a file of this size",
    errno.EIO: "check the drive and its connection, and that it is still mounted",
    errno.ESTALE: "check the drive and its connection, and that it is still mounted",
}
"""What to do about complaints of the operating system that are of files and drives."""
_TRAINING_PACKAGES = ("torch", "timm", "optuna", "albumentations", "onnx", "onnxscript", "threadpoolctl")
"""What the extra `train` installs: prediction and evaluation run without it."""
INSTALL_TRAINING = f"pip install {' '.join(_TRAINING_PACKAGES)}"


def os_error(error: OSError, *, place: str, doing: str) -> PathopatchError | None:
    """Return an error of a file or drive as one with a code; None if it is of something else.

    `doing` is what failed, in messages: ``write``, ``write here``.
    """
    if error.errno in _NO_SPACE:
        return DiskFullError("no space left", place=place, remedy="free space, or choose another output folder")
    if error.errno in _NOT_ALLOWED:
        return InputUnsupportedError(
            f"cannot {doing}: {error.strerror}",
            place=place,
            remedy=f"ask for the permission, or choose a place where you may {doing}",
        )
    if error.errno in _REMEDIES:
        return InputUnsupportedError(f"cannot {doing}: {error.strerror}", place=place, remedy=_REMEDIES[error.errno])
    return None


def with_code(error: Exception, *, place: str = "") -> PathopatchError:
    """Return any error as one with a code; a fault of this package becomes an `InternalError`.

    Files, names, drives and memory are not this package's: what Python says of them has a code wherever it comes from.
    So has a missing package that only training needs.
    """
    if isinstance(error, PathopatchError):
        return error
    if isinstance(error, MemoryError):
        return OutOfMemoryError(
            str(error) or "no memory left", place=place, remedy="use fewer workers, or a machine with more memory"
        )
    if type(error).__name__ == "OutOfMemoryError":  # torch's, of a GPU; torch is not imported for its sake
        return OutOfMemoryError(
            str(error), place=place, remedy="use a smaller batch, a GPU with more free memory, or device = 'cpu'"
        )
    if isinstance(error, ModuleNotFoundError) and error.name in _TRAINING_PACKAGES:
        return InputUnsupportedError(f"{error.name} is not installed", place=place, remedy=INSTALL_TRAINING)
    if isinstance(error, FileNotFoundError):
        return InputMissingError(
            f"no file or folder {error.filename}", place=place, remedy="check the path, and that it is still there"
        )
    if isinstance(error, OSError):
        known = os_error(error, place=place or str(error.filename or ""), doing="read or write")
        if known is not None:
            return known
    if isinstance(error, UnicodeEncodeError) and (name := _NOT_UTF8.search(error.object)):
        return InputUnsupportedError(
            f"the name {ascii(name[0])} is not UTF-8", place=place, remedy="rename the file or folder"
        )
    if isinstance(error, ValueError) and str(error).startswith("embedded null"):
        return InputUnsupportedError("a path with a NUL character", place=place, remedy="correct the path")
    return InternalError(f"{type(error).__name__}: {error}", place=place)


@dataclass(frozen=True)
class Remark:
    """One line about one place: a slide, or the number of a row.

    `text` is what other places may share: the line without its place, nor values of its own. With `names_file` it is an
    error as `PathopatchError` writes it, or ends as one without a remedy: the file in brackets need not be shared.
    """

    place: str
    line: str
    text: str
    names_file: bool = False

    @property
    def key(self) -> str:
        """What must be equal in remarks that are merged."""
        if not self.names_file:
            return self.text
        head, remedy, rest = self.text.partition(" Remedy: ")
        return _PLACE.sub("", head) + remedy + rest


def shared_text(message: str, *own: str) -> str:
    """Return what other places may share of a message: without values of its own."""
    for value in own:
        at = message.find(value) if value else -1
        while at >= 0:  # a regular expression of each value would be compiled for each row of a table
            end = at + len(value)
            if not _is_word(message[at - 1 : at]) and not _is_word(message[end : end + 1]):
                message = f"{message[:at]}…{message[end:]}"
            at = message.find(value, at + 1)
    return message


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"


def merged(remarks: Iterable[Remark], noun: str, *, named: int = _FEW) -> list[str]:
    """Return the lines of remarks in their order; a text of more than three places stands once, with their number.

    `noun` is what the places are, such as ``row``; so many as `named` are then told.
    """
    of_key: dict[str, dict[str, Remark]] = {}
    for remark in remarks:
        of_key.setdefault(remark.key, {}).setdefault(remark.place, remark)  # several stages may say it of one slide
    lines: list[str] = []
    for key, by_place in of_key.items():
        alike = list(by_place.values())
        if len(alike) <= _FEW:
            lines += [remark.line for remark in alike]
        else:
            texts = {remark.text for remark in alike}
            first = ", ".join([*(remark.place for remark in alike[:named]), *["…"] * (len(alike) > named)])
            lines.append(f"{texts.pop() if len(texts) == 1 else key} (in {len(alike):,} {noun}s: {first})")
    return lines


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing wrong in a table: where it stands, what it is, what to do.

    ``own`` are words of the message that belong to this row alone, beside its value, such as its slide_id.
    """

    code: str
    row: int | None
    column: str
    value: str
    message: str
    remedy: str
    own: tuple[str, ...] = ()

    def __str__(self) -> str:
        where = f"row {self.row}, " if self.row is not None else ""
        cell = f"{where}column {self.column!r}, value {self.value!r}: " if self.column else where
        return f"{self.code}: {cell}{self.message} Remedy: {self.remedy}"

    def remark(self) -> Remark:
        """Return it as a line; other rows share it but for their values."""
        shared = shared_text(self.message, *self.own, self.value)
        cell = f"column {self.column!r}: " if self.column else ""
        text = f"{self.code}: {cell}{shared} Remedy: {self.remedy}"
        return Remark(self.value if self.row is None else str(self.row), str(self), text)


class TableError(PathopatchError, ValueError):
    """Everything wrong in a manifest, a list of ready patches, or reviewers' decisions, in the order of the rows.

    Each of the `problems` has a code of its own. `place` is the table's path.
    """

    def __init__(self, problems: list[Problem], *, place: str) -> None:
        count = f"{len(problems)} problem" + ("s" if len(problems) > 1 else "")
        super().__init__(f"{count} in the table", place=place)
        self.problems = tuple(problems)

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(TableError, place=self.place), (list(self.problems),)

    def __str__(self) -> str:
        lines = [f"{self.message} [{self.place}]"]
        lines += [f"  {line}" for line in merged(map(Problem.remark, self.problems), "row", named=_MOST_ROWS)]
        return "\n".join(lines)

"""Compare the ids of patients and slides: one may be written in several ways.

Ids are only compared by `patient_key` and `id_key`; tables keep what the user wrote.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from decimal import Context, Decimal
from functools import lru_cache
from itertools import combinations
from typing import NamedTuple

from pathopatch.core.errors import DuplicateIdError, LabelConflictError, Problem, SplitLeakageError

SPLITS = ("train", "val", "test")
"""The splits of a cohort, in the order in which tables show them."""
BLOCK = "block"
"""Column of patches and slides: their tissue array, day, site or scanner, where blocks are given."""
_LEADING_ZEROS = re.compile(r"(?<!\d)0+(?=\d)")
_NUMBER = re.compile(r"\d+(\.\d+)?(e[+-]?\d{1,3})?")
# Between two digits a separator tells numbers apart: 1-23 is not 12-3.
_SEPARATORS = re.compile(r"(?<=[^\W\d_])[\s_.-]+(?=\d)|(?<=\d)[\s_.-]+(?=[^\W\d_])")
# The property Default_Ignorable_Code_Point, which Python's tables lack.
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_MANY_PATIENTS = 100
_MOST_NAMED, _FEW = 100, 5  # pairs, and spellings of one patient, that remedies name
_OWN_PATIENT = 0.95  # patients an image from which on patients look invented: a few images may share one by chance


@lru_cache(maxsize=2**16)
def patient_key(patient_id: str) -> str:
    """Return what all spellings of a patient's id share: that of `id_key`, and of numbers their value.

    Leading zeros go, and separators between a letter and a digit: ``P07``, ``p-7`` and ``P 007`` have one key. An id
    that is a number has one key in every notation, such as those of spreadsheets: ``7`` and ``7.0``, ``100000`` and
    ``1E5``. So have digits of all scripts.
    """
    # Digits of any script are digits: P٧ is P7.
    key = "".join(str(unicodedata.decimal(character, character)) for character in id_key(patient_id))
    if key.isascii() and _NUMBER.fullmatch(key):
        return str(Decimal(key).normalize(Context(prec=len(key))))
    return _LEADING_ZEROS.sub("", _SEPARATORS.sub("", key))


def mark_key(patient_id: str) -> str:
    """Return what the marks of patients in bundles are made of; it stays as it is, or older bundles know nobody."""
    return _LEADING_ZEROS.sub("", id_key(patient_id))


def id_key(text: str) -> str:
    """Return what all spellings of an id share, whatever the case and Unicode form.

    Invisible characters (Default_Ignorable_Code_Point) go; the rest is a compatibility caseless match. Letters of two
    scripts stay apart, however alike they look.

    References
    ----------
    The Unicode Standard, section 3.13, definition D146.
    """
    if text.isascii():
        return text.casefold()
    folded = unicodedata.normalize("NFD", text)
    # Folding may yield text that is not in normal form, and normal form may yield capitals.
    for _ in range(2):
        folded = unicodedata.normalize("NFKD", _INVISIBLE.sub("", folded).casefold())
    return folded


def spelled_out(text: str) -> str:
    """Return an id in quotes, with the names of its characters that are invisible or have a plainer form."""
    odd = [
        c
        for c in dict.fromkeys(text)
        if _INVISIBLE.match(c) or unicodedata.normalize("NFKC", c) != c or c.isdecimal() > c.isascii()
    ]
    names = [unicodedata.name(character, f"U+{ord(character):04X}") for character in odd]
    return repr(text) + (f" (with {', '.join(names)})" if names else "")


def invented_patients_note(patients: Sequence[str]) -> list[str]:
    """Return a warning where hundreds of images have next to as many patients; `patients` are those of the images."""
    count = len({patient_key(patient) for patient in patients})
    if count < _MANY_PATIENTS or count < _OWN_PATIENT * len(patients):
        return []
    return [
        f"patients look invented: {count:,} patients of {len(patients):,} images; then images of one patient may be in "
        "two splits, and intervals by patient mean nothing; see docs: When patients are unknown"
    ]


def patient_problems(
    rows: Iterable[tuple[str, str | None, int | None]],
    distinct: Collection[tuple[str, str]] = (),
    *,
    column: str = "patient_id",
) -> Iterator[Problem]:
    """Yield a problem for each patient, or block, in several splits, and for each whose id is written in several ways.

    Spellings of one split may be of two patients, who would be mixed, or of one, who could be divided later: only the
    user can tell.

    Parameters
    ----------
    rows : iterable of (str, str or None, int or None)
        The patient's id as written; the split, "" where it is to be drawn, None where the row says nothing of it; and
        the number of the row, if it has one. Rows without a patient are left out.
    distinct : collection of (str, str)
        Pairs of ids that the user knows to be two patients.
    column : str
        Column that holds the ids: ``patient_id`` or ``block``.
    """
    known = {frozenset(pair) for pair in distinct}
    by_key: dict[str, dict[tuple[str, str | None], int | None]] = defaultdict(dict)
    keys: dict[str, str] = {}  # a list of patches has many rows a patient
    for patient_id, split, row in rows:
        if patient_id:
            key = keys.get(patient_id) or keys.setdefault(patient_id, patient_key(patient_id))
            by_key[key].setdefault((patient_id, split), row)
    count = 0
    for same in by_key.values():
        spellings = list(dict.fromkeys(patient_id for patient_id, _ in same))
        unanswered = [pair for pair in combinations(spellings, 2) if frozenset(pair) not in known]
        asked = [text for text in spellings if any(text in pair for pair in unanswered)]
        for ways in [asked, *([text] for text in spellings if text not in asked)]:
            rows_of = {key: row for key, row in same.items() if key[0] in ways}
            for problem in _spelling_problem(rows_of, ways, column, is_named=count < _MOST_NAMED):
                count += 1
                yield problem


def _spelling_problem(
    rows: Mapping[tuple[str, str | None], int | None], spellings: Sequence[str], column: str, *, is_named: bool
) -> Iterator[Problem]:
    """Yield the problem of what may be one patient or block, if there is one: number of a row by spelling and split."""
    noun = column.removesuffix("_id")
    splits = sorted({split for _, split in rows if split is not None})
    if len(spellings) < 2 and len(splits) < 2:
        return
    numbers = [str(row) for row in rows.values() if row is not None]
    where = f"rows {', '.join(numbers)}: " if numbers else ""
    ways = " and ".join(map(spelled_out, spellings))
    if len(splits) > 1:
        code = SplitLeakageError.code
        written = f", written {ways}" if len(spellings) > 1 else ""
        message = f"the {noun} is in the splits {', '.join(split or '(empty)' for split in splits)}{written}"
        remedy = f"keep each {noun} in one split"
    else:
        code, message, remedy = DuplicateIdError.code, f"{ways} may be one {noun}", f"write one {noun} one way"
    if len(spellings) > 1 and noun == "patient":
        pairs = ", ".join(f"[{json.dumps(a)}, {json.dumps(b)}]" for a, b in combinations(spellings[:_FEW], 2))
        # Messages of one remedy are merged: only the first pairs are named one by one.
        remedy += "; if they are several patients, name the pair in [splits] distinct_patients"
        remedy += f" = [{pairs}]" if is_named else ""
    yield Problem(
        code=code, row=list(rows.values())[-1], column=column, value=spellings[-1],
        message=f"{where}{message}", remedy=remedy, own=(*spellings, *numbers),
    )  # fmt: skip


class Listed(NamedTuple):
    """A slide or image as a table lists it."""

    name: str
    patient_id: str
    split: str  # "" where it is to be drawn
    label: int  # 1, 0, or -1 where there is none
    row: int | None  # number of its row, if it has one


def copy_problems(pairs: Iterable[tuple[Listed, Listed]], *, column: str = "path") -> Iterator[Problem]:
    """Yield the problems of pairs that are one slide, or one image: labels that differ, and splits that may.

    Copies of one patient in one split are accepted. Of two patients they are not: folds, and splits that are drawn,
    would part them. Of many copies each is named once, with one other.
    """
    named: set[tuple[str, str]] = set()
    for first, second in pairs:
        both = f"{first.name} and {second.name} are one picture"
        found = []
        if {first.label, second.label} == {0, 1}:
            remedy = "find out which label is right, and leave the other out"
            found.append((LabelConflictError.code, f"{both} with the labels {first.label} and {second.label}", remedy))
        if first.split != second.split:
            splits = " and ".join(item.split or "(empty)" for item in (first, second))
            found.append((SplitLeakageError.code, f"{both} in the splits {splits}", "leave one of them out"))
        elif patient_key(first.patient_id) != patient_key(second.patient_id):
            patients = f"{both} of the patients {first.patient_id} and {second.patient_id}"
            found.append((SplitLeakageError.code, patients, "leave one of them out, or give both one patient_id"))
        for code, message, remedy in found:
            if (code, second.name) not in named:
                named.add((code, second.name))
                yield Problem(code=code, row=second.row, column=column, value=second.name, message=message,
                              remedy=remedy, own=(*first[:2], *second[:2]))  # fmt: skip

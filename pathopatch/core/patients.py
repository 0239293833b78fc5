"""Compare the ids of patients and slides: one may be written in several ways.

Ids are only compared by `patient_key` and `id_key`; tables keep what the user wrote.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from pathopatch.core.errors import DuplicateIdError, LabelConflictError, Problem, SplitLeakageError

_LEADING_ZEROS = re.compile(r"(?<!\d)0+(?=\d)")
# The property Default_Ignorable_Code_Point, which Python's tables lack.
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_MIXABLE = {"LATIN", "HAN", "HIRAGANA", "KATAKANA", "BOPOMOFO", "HANGUL"}
"""Scripts that are written together: those of the level "highly restrictive" of UTS #39."""
_EVERYWHERE = {"COMMON", "INHERITED", "UNKNOWN"}
_MANY_PATIENTS = 100
_OWN_PATIENT = 0.95  # patients an image from which on patients look invented: a few images may share one by chance


def patient_key(patient_id: str) -> str:
    """Return what all spellings of a patient's id share: that of `id_key`, without leading zeros of numbers.

    ``P07``, ``p7`` and ``P007`` have one key.
    """
    return _LEADING_ZEROS.sub("", id_key(patient_id))


@lru_cache(maxsize=2**16)
def id_key(text: str) -> str:
    """Return what all ids share that a reader takes for one, whatever the case, Unicode form and script.

    Invisible characters (Default_Ignorable_Code_Point) go. Case and form are those of a compatibility caseless match.
    A character that looks like another counts as that one, by the skeleton of UTS #39. Only characters beyond ASCII
    are mapped, and to one of the same kind (capital, small, digit) where there is one: ``P1``, ``Pl`` and ``PI``,
    ``10`` and ``1O`` stay apart.

    References
    ----------
    The Unicode Standard, section 3.13, definition D146; Unicode Technical Standard #39, section 4.
    """
    if text.isascii():
        return text.casefold()
    folded = unicodedata.normalize("NFD", _INVISIBLE.sub("", text))
    # Folding may yield text that is not in normal form, and normal form may yield capitals. So may look-alikes.
    for _ in range(2):
        folded = unicodedata.normalize("NFKD", _INVISIBLE.sub("", folded).casefold())
    while (alike := unicodedata.normalize("NFKD", "".join(map(_look_alike, folded)).casefold())) != folded:
        folded = alike
    return folded


@lru_cache(maxsize=2**12)
def _look_alike(character: str) -> str:
    """Return the case-folded character that one looks like, as a capital or as a small letter; itself if none."""
    # Cyrillic в looks like no Latin letter, and its capital like B. Where both look like one, as those of Greek ν do,
    # the capital decides: ids are rather written in capitals.
    capital = character.upper()
    alike = [_prototype(form).casefold() for form in (capital, character) if len(form) == 1]
    return next((one for one in alike if one.isascii()), alike[-1])


def _prototype(character: str) -> str:
    """Return the ASCII character of the same kind that one looks like, else the one of another script; itself if none.

    Look-alikes of one script stay apart: whoever writes it tells them apart.
    """
    if character.isascii():
        return character
    from confusable_homoglyphs.categories import alias  # 30 ms, and few ids need it
    from confusable_homoglyphs.confusables import confusables_data

    def alike(text: str) -> list[str]:
        # Characters that are written from right to left stand between marks of direction there.
        others = confusables_data.get(text) or confusables_data.get(f"\u200e{text}\u200e", ())
        return [str(other["c"]).strip("\u200e") for other in others]

    # A character has one prototype, and a prototype lists all that have it. Of a pair the smaller is the prototype.
    first = min([character, *alike(character)], key=lambda text: (-len(alike(text)), text))
    kind = unicodedata.category(character)
    of_kind = [text for text in (first, *alike(first)) if len(text) == 1 and unicodedata.category(text) == kind]
    ascii_ones = [text for text in of_kind if text.isascii()]
    return (
        ascii_ones or [text for text in of_kind if text == first and alias(text) != alias(character)] or [character]
    )[0]


def spelled_out(text: str) -> str:
    """Return an id in quotes, with the names of its characters that are invisible or look like others."""
    folded = unicodedata.normalize("NFKC", text)
    odd = [c for c in dict.fromkeys(folded) if _INVISIBLE.match(c) or _look_alike(c) != c.casefold()]
    names = [unicodedata.name(character, f"U+{ord(character):04X}") for character in odd]
    return repr(text) + (f" (with {', '.join(names)})" if names else "")


def mixed_scripts(text: str) -> Sequence[str]:
    """Return the scripts of an id where it mixes several that are not written together; empty otherwise."""
    if text.isascii():
        return ()
    from confusable_homoglyphs.categories import unique_aliases

    scripts = {str(alias).upper() for alias in unique_aliases(text)} - _EVERYWHERE
    return () if len(scripts) < 2 or scripts <= _MIXABLE else [alias.capitalize() for alias in sorted(scripts)]


def invented_patients_note(patients: Sequence[str]) -> list[str]:
    """Return a warning where hundreds of images have next to as many patients; `patients` are those of the images."""
    count = len({patient_key(patient) for patient in patients})
    if count < _MANY_PATIENTS or count < _OWN_PATIENT * len(patients):
        return []
    return [
        f"patients look invented: {count:,} patients of {len(patients):,} images; then images of one patient may be in "
        "two splits, and intervals by patient mean nothing; see docs: When patients are unknown"
    ]


def patient_problems(rows: Iterable[tuple[str, str | None, int | None]]) -> Iterator[Problem]:
    """Yield a problem for each patient in several splits, and for each whose id is written in several ways.

    Spellings of one split may be of two patients, who would be mixed, or of one, who could be divided later: only the
    user can tell.

    Parameters
    ----------
    rows : iterable of (str, str or None, int or None)
        The patient's id as written; the split, "" where it is to be drawn, None where the row says nothing of it; and
        the number of the row, if it has one. Rows without a patient are left out.
    """
    by_key: dict[str, dict[tuple[str, str | None], int | None]] = defaultdict(dict)
    keys: dict[str, str] = {}  # a list of patches has many rows a patient
    for patient_id, split, row in rows:
        if patient_id:
            key = keys.get(patient_id) or keys.setdefault(patient_id, patient_key(patient_id))
            by_key[key].setdefault((patient_id, split), row)
    for same in by_key.values():
        spellings = list(dict.fromkeys(patient_id for patient_id, _ in same))
        splits = sorted({split for _, split in same if split is not None})
        if len(spellings) < 2 and len(splits) < 2:
            continue
        numbers = [str(row) for row in same.values() if row is not None]
        where = f"rows {', '.join(numbers)}: " if numbers else ""
        ways = " and ".join(map(spelled_out, spellings))
        if len(splits) > 1:
            code = SplitLeakageError.code
            written = f", written {ways}" if len(spellings) > 1 else ""
            message = f"the patient is in the splits {', '.join(split or '(empty)' for split in splits)}{written}"
            remedy = "keep each patient in one split"
        else:
            code, message, remedy = DuplicateIdError.code, f"{ways} may be one patient", "write one patient one way"
        if len(spellings) > 1:
            remedy += ", and tell two patients apart by more than case, leading zeros and letters that look alike"
        yield Problem(
            code=code, row=list(same.values())[-1], column="patient_id", value=spellings[-1],
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


def raise_first(problems: Iterable[Problem], *, place: str) -> None:
    """Raise the error of the first of some `copy_problems`, if there is any, and say how many more there are."""
    if found := list(problems):
        kind = LabelConflictError if found[0].code == LabelConflictError.code else SplitLeakageError
        more = f"; and {len(found) - 1} more" if len(found) > 1 else ""
        raise kind(found[0].message + more, place=place, remedy=found[0].remedy)

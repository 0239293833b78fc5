"""Compare the ids of patients: one patient may be written in several ways.

Ids are only compared by `patient_key`; tables keep what the user wrote.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator

from pathopatch.core.errors import DuplicateIdError, Problem, SplitLeakageError

_LEADING_ZEROS = re.compile(r"(?<!\d)0+(?=\d)")


def patient_key(patient_id: str) -> str:
    """Return what all spellings of a patient's id share, whatever the case, Unicode form and leading zeros of numbers.

    ``P07``, ``p7`` and ``P007`` have one key. Case and Unicode form are those of a compatibility caseless match.

    References
    ----------
    The Unicode Standard, section 3.13, definition D146.
    """
    folded = unicodedata.normalize("NFD", patient_id)
    # Folding may yield text that is not in normal form, and normal form may yield capitals.
    for _ in range(2):
        folded = unicodedata.normalize("NFKD", folded.casefold())
    return _LEADING_ZEROS.sub("", folded)


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
        ways = " and ".join(repr(spelling) for spelling in spellings)
        if len(splits) > 1:
            code = SplitLeakageError.code
            written = f", written {ways}" if len(spellings) > 1 else ""
            message = f"the patient is in the splits {', '.join(split or '(empty)' for split in splits)}{written}"
            remedy = "keep each patient in one split"
        else:
            code, message, remedy = DuplicateIdError.code, f"{ways} may be one patient", "write one patient one way"
        if len(spellings) > 1:
            remedy += ", and tell two patients apart by more than case, Unicode form and leading zeros"
        yield Problem(
            code=code, row=list(same.values())[-1], column="patient_id", value=spellings[-1],
            message=f"{where}{message}", remedy=remedy, own=(*spellings, *numbers),
        )  # fmt: skip

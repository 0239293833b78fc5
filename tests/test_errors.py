import pickle

import pytest

from pathopatch import errors
from pathopatch.errors import ManifestError, MppMissingError, PathopatchError, Problem

KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, PathopatchError) and kind not in (PathopatchError, ManifestError)
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_says_code_value_place_and_remedy_and_survives_a_process_boundary(
    kind: type[PathopatchError],
) -> None:
    error = kind("mpp is 0", place="slide a", remedy="fill the column mpp")
    again = pickle.loads(pickle.dumps(error))
    for one in (error, again):
        assert str(one) == f"{kind.code}: mpp is 0 [slide a] Remedy: fill the column mpp"
        assert type(one) is kind
    assert any(
        issubclass(kind, builtin) for builtin in (OSError, ValueError, RuntimeError, MemoryError, ArithmeticError)
    )


def test_every_code_belongs_to_one_class() -> None:
    codes = [kind.code for kind in KINDS]
    assert len(codes) == len(set(codes)) == 23


def test_a_manifest_error_lists_every_problem_after_a_process_boundary() -> None:
    problems = [
        Problem(code=MppMissingError.code, row=n, column="mpp", value="", message="no mpp", remedy="fill it")
        for n in (2, 3)
    ]
    again = pickle.loads(pickle.dumps(ManifestError(problems, place="cohort.csv")))
    assert str(again).count("MPP_MISSING") == 2
    assert "row 3, column 'mpp'" in str(again)
    assert again.first_code == "MPP_MISSING"

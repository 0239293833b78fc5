"""Patches are joined by name and by origin, never by position; pictures are cached up to a number of bytes."""

from __future__ import annotations

import threading

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from pathopatch.groups import assign_groups
from pathopatch.heatmaps import FLAGS
from pathopatch.patches.grid import Grid
from pathopatch.review.reviewed_slide import ByteCache, Patches, join_patches

GRID = Grid(width=64, height=32, downsample=2.0, patch_px=8, stride_px=8)  # 4 x 2 patches of 16 level-0 px
X, Y = [0, 32, 16, 48], [0, 0, 16, 16]
TISSUE = [0.005, 0.25, 0.6, 0.1]  # blank, at tau, above, below
LOGIT = [2.0, -1.0, 0.3, 0.2]


LIMITS = {"min_tissue": 0.01, "min_scanned": 0.5}


def table(**changed: object) -> pd.DataFrame:
    columns = {
        "patch_id": [f"s@{x},{y}" for x, y in zip(X, Y, strict=True)], "x": X, "y": Y, "tissue_fraction": TISSUE,
        "logit": LOGIT, "probability": [0.9, 0.3, 0.6, 0.55], "spread": np.nan,
        **{f"flag_{name}": pd.array([pd.NA, True, False, None], "boolean") for name in FLAGS},
    }  # fmt: skip
    return pd.DataFrame(columns | changed)


def joined(**options: object) -> Patches:
    return join_patches(table(), GRID, **({"decision_threshold": 0.2, "limits": LIMITS} | options))  # type: ignore[arg-type]


def groups(labels: list[int]) -> pd.DataFrame:
    patches = table()[["patch_id", "tissue_fraction"]].assign(slide_id="s", patient_id="p", label=labels)
    return assign_groups(patches, (0.5, 0.25))


def test_cells_count_row_by_row_and_a_logit_at_the_threshold_is_negative() -> None:
    patches = joined()
    assert patches.cell.tolist() == [0, 2, 5, 7]
    assert patches.is_tumour.tolist() == [True, False, True, False]
    assert patches.flags.tolist() == [0, 2 ** len(FLAGS) - 1, 0, 0]


def test_groups_without_labels_use_the_prediction_blank_patches_have_none() -> None:
    patches = joined()
    assert (patches.group.tolist(), patches.group_of, patches.tau) == ([-1, 1, 3, 0], "prediction", 0.25)
    assert patches.label.tolist() == [-1] * 4


def test_labels_in_any_order_and_number_go_to_their_patches() -> None:
    shuffled = groups([1, 0, 1, -1]).iloc[[3, 1, 0]]  # the third patch is not in it
    patches = joined(groups=shuffled)
    assert patches.label.tolist() == [1, 0, -1, -1]
    assert (patches.group.tolist(), patches.group_of) == ([-1, 1, -1, -1], "label")


def test_a_slide_without_labels_is_grouped_by_the_tables_threshold() -> None:
    patches = joined(groups=groups([-1] * 4).drop(columns=["attribute@0.25", "group@0.25"]))
    assert (patches.group.tolist(), patches.group_of, patches.tau) == ([-1, 0, 3, 0], "prediction", 0.5)


def test_the_run_beside_is_joined_by_origin_in_any_order() -> None:
    other = table(probability=[0.1, 0.2, 0.3, 0.4]).iloc[[2, 0, 1]]
    np.testing.assert_array_equal(joined(beside=other).beside, [0.1, 0.2, 0.3, np.nan])
    np.testing.assert_array_equal(joined(beside=other.iloc[:0]).beside, [np.nan] * 4)
    assert joined().beside is None


def test_a_slide_without_patches_has_empty_columns() -> None:
    patches = join_patches(
        table().iloc[:0], GRID, decision_threshold=0.0, limits=LIMITS, groups=groups([1] * 4), beside=table()
    )
    assert len(patches) == 0
    assert [len(column) for column in (patches.cell, patches.group, patches.label, patches.flags, patches.beside)] == [
        0
    ] * 5


@given(keys=st.lists(st.integers(0, 30), max_size=80), limit=st.integers(0, 100))
def test_the_cache_never_exceeds_its_limit_and_returns_right_values(keys: list[int], limit: int) -> None:
    cache = ByteCache(limit)
    for number in keys:
        assert cache.get(number, lambda number=number: bytes(number)) == bytes(number)
        assert cache.size_bytes <= limit
        assert cache.size_bytes == sum(len(value) for value in cache._values.values())


def test_the_least_recently_used_entry_is_evicted_first() -> None:
    cache, computed = ByteCache(30), []

    def get(key: str) -> None:
        cache.get(key, lambda: computed.append(key) or bytes(10))

    for key in "abcabdac":  # d takes the place of c, the oldest; a is asked for again, so b goes for c
        get(key)
    assert computed == list("abcdc")
    get("a")
    get("d")
    assert computed == list("abcdc")
    get("b")
    assert computed == list("abcdcb")
    assert len(cache.get("large", lambda: bytes(31))) == 31  # not kept, and pushes nothing out
    get("b")
    assert computed == list("abcdcb")


def test_many_threads_leave_the_count_right() -> None:
    cache = ByteCache(500)

    def ask(start: int) -> None:
        for number in range(400):
            size = (start * 7 + number) % 40
            assert len(cache.get(size, lambda size=size: bytes(size))) == size

    threads = [threading.Thread(target=ask, args=(start,)) for start in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache.size_bytes == sum(len(value) for value in cache._values.values()) <= 500

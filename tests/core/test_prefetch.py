"""Prefetched items come in order, and errors at the item that raised them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from pathopatch.core.workers import prefetch_items, prefetch_results


def numbers(count: int, yielded: list[int]) -> Iterator[int]:
    for number in range(count):
        yielded.append(number)
        yield number


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_items_come_in_order_and_all_of_them(ahead: int) -> None:
    assert list(prefetch_items(numbers(7, []), ahead=ahead)) == list(range(7))
    assert list(prefetch_items(numbers(0, []), ahead=ahead)) == []


def test_no_more_than_asked_is_made_before_it_is_due() -> None:
    yielded: list[int] = []
    items = prefetch_items(numbers(100, yielded), ahead=2)
    assert next(items) == 0
    time.sleep(0.05)
    assert len(yielded) <= 3
    items.close()


def test_an_error_is_raised_where_its_item_was_due() -> None:
    def failing() -> Iterator[int]:
        yield 0
        raise ValueError("spoilt")

    items = prefetch_items(failing(), ahead=3)
    assert next(items) == 0
    with pytest.raises(ValueError, match="spoilt"):
        next(items)


def test_a_caller_that_stops_leaves_no_thread() -> None:
    before = threading.active_count()
    items = prefetch_items(numbers(100, []), ahead=2)
    next(items)
    items.close()
    assert threading.active_count() == before


@pytest.mark.parametrize("ahead", [0, 1, 3, 20])
def test_results_come_in_order_however_many_are_made_ahead(ahead: int) -> None:
    assert list(prefetch_results(lambda step: step * step, range(2, 7), ahead=ahead)) == [4, 9, 16, 25, 36]


def test_what_fails_is_raised_where_its_result_was_due() -> None:
    def make(step: int) -> int:
        if step == 2:
            raise ValueError("step 2")
        return step

    results = prefetch_results(make, range(5), ahead=2)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="step 2"):
        next(results)


def test_no_more_is_computed_than_ahead_and_no_thread_is_left_running() -> None:
    steps: list[int] = []
    results = prefetch_results(lambda step: steps.append(step), range(100), ahead=2)
    next(results)
    results.close()
    assert set(steps) <= {0, 1, 2}
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("loader")]


def test_several_threads_make_results_at_the_same_time_and_in_order() -> None:
    both = threading.Barrier(2, timeout=20)  # passed only where two threads wait at it

    def make(step: int) -> int:
        both.wait()
        return step

    assert list(prefetch_results(make, range(6), ahead=2, threads=2)) == list(range(6))

"""Pictures are kept up to a number of bytes, the latest ones."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from pathopatch.review.cache import ByteCache


@given(asked=st.lists(st.integers(0, 30), max_size=80), limit=st.integers(0, 100))
def test_what_is_kept_never_exceeds_the_limit_and_values_are_right(asked: list[int], limit: int) -> None:
    cache = ByteCache(limit)
    for number in asked:
        assert cache.get(number, lambda number=number: bytes(number)) == bytes(number)
        assert cache.size_bytes <= limit
        assert cache.size_bytes == sum(len(value) for value in cache._values.values())


def test_what_was_asked_for_longest_ago_is_forgotten_first() -> None:
    cache, made = ByteCache(30), []

    def get(key: str) -> None:
        cache.get(key, lambda: made.append(key) or bytes(10))

    for key in "abcabdac":  # d takes the place of c, the oldest; a is asked for again, so b goes for c
        get(key)
    assert made == list("abcdc")
    get("a")
    get("d")
    assert made == list("abcdc")
    get("b")
    assert made == list("abcdcb")


def test_what_is_larger_than_all_room_is_not_kept_and_pushes_nothing_out() -> None:
    cache = ByteCache(30)
    cache.get("small", lambda: bytes(10))
    assert len(cache.get("large", lambda: bytes(31))) == 31
    assert cache.size_bytes == 10


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

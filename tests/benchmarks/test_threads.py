"""Work that continues in another thread while its results are used."""

import threading

import pytest

from benchmarks.threads import one_ahead


def test_the_next_item_is_computed_while_the_last_is_used():
    begun = [threading.Event() for _ in range(3)]

    def items():
        for number, event in enumerate(begun):
            event.set()
            yield number

    for number in one_ahead(items()):
        if number < 2:
            assert begun[number + 1].wait(10)
    assert list(one_ahead(iter(range(5)))) == [0, 1, 2, 3, 4]
    assert list(one_ahead(iter(()))) == []


def test_an_error_comes_in_its_place():
    def items():
        yield 1
        raise ValueError("the second")

    ahead = one_ahead(items())
    assert next(ahead) == 1
    with pytest.raises(ValueError, match="the second"):
        next(ahead)


def test_who_stops_early_leaves_no_thread():
    before = set(threading.enumerate())
    ahead = one_ahead(iter(range(10**9)))
    assert next(ahead) == 0
    ahead.close()
    assert set(threading.enumerate()) <= before

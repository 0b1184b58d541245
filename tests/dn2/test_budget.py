"""Images that are decoded at a time stay within one budget of bytes."""

import threading

import numpy as np
import pytest
from PIL import Image

from dn2 import images
from dn2.budget import Budget
from dn2.crops import read_crops


def test_the_sum_stays_within_the_total_and_a_larger_one_goes_alone():
    budget, most, alone, lock = Budget(100), [0], [], threading.Lock()

    def work(n):
        for _ in range(20):
            with budget.hold(n), lock:
                most[0] = max(most[0], budget.held if n <= 100 else 0)
                if n > 100:
                    alone.append(budget.held)

    threads = [threading.Thread(target=work, args=(n,)) for n in (30, 40, 50, 150, 60, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert 40 <= most[0] <= 100
    assert alone == [150] * 20
    assert budget.held == 0


def test_a_large_image_is_not_overtaken_for_ever():
    budget, order = Budget(10), []
    first = threading.Event()

    def large():
        first.set()
        with budget.hold(10):
            order.append("large")

    def small():
        with budget.hold(1):
            order.append("small")

    with budget.hold(5):
        waiting = threading.Thread(target=large)
        waiting.start()
        first.wait(5)
        while not budget._queue:
            pass
        later = threading.Thread(target=small)
        later.start()
    waiting.join(5)
    later.join(5)
    assert order == ["large", "small"]


def test_an_error_gives_the_bytes_back():
    budget = Budget(10)
    with pytest.raises(RuntimeError), budget.hold(8):
        raise RuntimeError
    assert budget.held == 0


def test_all_that_decodes_asks_the_budget(monkeypatch, tmp_path):
    budget, most = Budget(50_000), [0]
    monkeypatch.setattr(images, "DECODING", budget)
    for n in range(6):
        Image.fromarray(np.zeros((100, 100, 3), np.uint8)).save(tmp_path / f"{n}.png")
    paths = sorted(tmp_path.iterdir())
    hold = budget.hold
    monkeypatch.setattr(budget, "hold", lambda n: most.__setitem__(0, max(most[0], n)) or hold(n))
    images.ImageFiles(paths)[:]
    assert most[0] == 70_000, "four bytes a pixel in Pillow, three in the array"
    most[0] = 0
    list(read_crops(paths, 4))
    assert most[0] == 40_000

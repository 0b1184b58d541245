"""What surrounds a search: settings, memory, refusals, speed."""

import doctest
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch

from dn2.search import bank, exact, nearest, terms

ROOT = Path(__file__).parent.parent.parent.parent
PAIR = np.random.default_rng(0).random((40, 6)), np.random.default_rng(1).random((90, 6))


@pytest.mark.parametrize(("index", "coarse"), [("exact", False), ("exact", True), ("flat", False)])
def test_uses_the_process_cores_and_leaves_settings_alone(index, coarse, monkeypatch):
    seen = []
    together = threading.Barrier(3, timeout=20)
    mm, search = torch.mm, faiss.IndexFlatL2.search

    def spy_mm(*arguments, **options):
        together.wait()  # raises, unless three threads come here
        seen.append((torch.get_num_threads(), torch.get_float32_matmul_precision()))
        return mm(*arguments, **options)

    def spy_search(*arguments):
        seen.append((faiss.omp_get_max_threads(), "highest"))
        return search(*arguments)

    monkeypatch.setattr(exact, "is_fast_in_bfloat16", lambda device: coarse)
    monkeypatch.setattr(torch, "mm", spy_mm)
    monkeypatch.setattr(faiss.IndexFlatL2, "search", spy_search)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2})
    before = torch.get_num_threads(), faiss.omp_get_max_threads()
    torch.set_num_threads(2)
    faiss.omp_set_num_threads(2)
    torch.set_float32_matmul_precision("high")
    state = torch.get_rng_state(), np.random.get_state()[1].copy()
    try:
        nearest(*PAIR, 2, index=index)
        with monkeypatch.context() as broken:
            broken.setattr(exact, "ceiling_of_kth", None)
            broken.setattr(faiss.IndexFlatL2, "search", None)
            with pytest.raises(TypeError):
                nearest(*PAIR, 2, index=index)
        assert (
            torch.get_num_threads(),
            faiss.omp_get_max_threads(),
            torch.get_float32_matmul_precision(),
        ) == (2, 2, "high")
    finally:
        torch.set_num_threads(before[0])
        faiss.omp_set_num_threads(before[1])
        torch.set_float32_matmul_precision("highest")
    assert seen[0] == (1 if index == "exact" else 3, "medium" if coarse else "highest")
    assert torch.equal(torch.get_rng_state(), state[0])
    np.testing.assert_array_equal(np.random.get_state()[1], state[1])


ROWS = np.arange(10.0).reshape(5, 2)
SPOILT = np.where(np.arange(10).reshape(5, 2) == 7, np.nan, ROWS)


@pytest.mark.parametrize(
    ("queries", "bank", "k", "options", "message"),
    [
        (ROWS, ROWS, 0, {}, "k must be an integer of at least 1, got 0"),
        (ROWS, ROWS, -3, {}, "k must be an integer of at least 1, got -3"),
        (ROWS, ROWS, 2.0, {}, r"k must be an integer of at least 1, got 2\.0"),
        (ROWS, ROWS, True, {}, "k must be an integer of at least 1, got True"),
        (
            ROWS,
            ROWS,
            6,
            {},
            r"nearest\(k=6\) needs at least 6 bank rows, got 5: lower k or give more rows",
        ),
        (
            ROWS,
            ROWS,
            5,
            {"exclude_self": True},
            r"nearest\(k=5\) needs at least 6 bank rows, the query's own included, got 5: lower k",
        ),
        (
            ROWS[:3],
            ROWS,
            2,
            {"exclude_self": True},
            "exclude_self=True needs the bank itself as queries",
        ),
        (
            ROWS + 1,
            ROWS,
            2,
            {"exclude_self": True},
            "exclude_self=True needs the bank itself as queries",
        ),
        (ROWS[:, :1], ROWS, 2, {}, "queries must be as wide as the bank's 2 columns, got 1"),
        (SPOILT, ROWS, 2, {}, "queries must be finite, got NaN or infinity in row 3"),
        (ROWS, SPOILT, 2, {}, "bank must be finite, got NaN or infinity in row 3"),
        (
            ROWS,
            np.nan_to_num(SPOILT, nan=-np.inf),
            2,
            {},
            "bank must be finite, got NaN or infinity in row 3",
        ),
        (ROWS[0], ROWS, 2, {}, r"queries must be a matrix \(rows, columns\), got shape \(2,\)"),
        (
            ROWS,
            ROWS[None],
            2,
            {},
            r"bank must be a matrix \(rows, columns\), got shape \(1, 5, 2\)",
        ),
        (
            ROWS[:0],
            ROWS,
            2,
            {},
            r"queries must have at least one row and one column, got shape \(0, 2\)",
        ),
        (
            ROWS,
            ROWS[:0],
            2,
            {},
            r"bank must have at least one row and one column, got shape \(0, 2\)",
        ),
        (
            ROWS[:, :0],
            ROWS[:, :0],
            2,
            {},
            r"bank must have at least one row and one column, got shape \(5, 0\)",
        ),
        (ROWS.astype(str), ROWS, 2, {}, "queries must hold real numbers, got dtype <U"),
        (ROWS, ROWS * 1j, 2, {}, "bank must hold real numbers, got dtype complex128"),
        (
            ROWS,
            ROWS,
            2,
            {"index": "flatt"},
            "index 'flatt' is unknown: did you mean 'flat'.*exact, flat",
        ),
        (ROWS * 1e20, ROWS, 2, {}, "squared distances must fit in float32"),
    ],
)
def test_bad_input_is_refused_in_one_line(queries, bank, k, options, message):
    with pytest.raises(ValueError, match=message) as error:
        nearest(queries, bank, k, **options)
    assert "\n" not in str(error.value)


def test_the_row_is_named_wherever_it_stands(monkeypatch):
    monkeypatch.setattr(terms, "NUMBERS_AT_ONCE", 4)
    with pytest.raises(ValueError, match="in row 3:"):
        nearest(ROWS, SPOILT, 1)


def test_an_integer_of_numpy_will_do():
    assert nearest(ROWS, ROWS, np.int64(5))[0].shape == (5, 5)


@pytest.mark.parametrize(
    ("make", "bank", "queries"),
    [("np.random.default_rng(0).random", 200_000, 1200), ("np.zeros", 20_000, 840)],
)
def test_memory_is_bounded(make, bank, queries):
    """All distances at once would take 1 GB; all candidates, where every row is one, 0.6 GB."""
    code = f"""
import re, numpy as np
from pathlib import Path
from dn2.search import nearest
def peak():  # not getrusage, which starts a child at its parent's peak
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024
bank, queries = {make}(({bank}, 4)), {make}(({queries}, 4))
nearest(queries[:10], bank[:100], 2)
before = peak()
nearest(queries, bank, 2)
print(peak() - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 400  # MB


def timings(*options):
    command = [sys.executable, "speed/neighbors.py", "--json", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)["results"]


@pytest.mark.slow
def test_the_timing_script_compares_equal_answers(tmp_path):
    np.save(tmp_path / "bank.npy", np.random.default_rng(0).random((600, 8)))
    np.save(tmp_path / "queries.npy", np.random.default_rng(1).random((30, 8)))
    files = "--bank", str(tmp_path / "bank.npy"), "--queries", str(tmp_path / "queries.npy")
    (result,) = timings(*files, "--classes", "3", "--k", "2", "--repeats", "1")
    assert min(result["same_rows"].values()) > 0.99
    assert set(result["seconds"]) == {"dn2", "faiss_flat", "sklearn_brute"}


def test_examples_in_the_docstrings():
    assert doctest.testmod(bank) == (0, 1)

"""Time one image at a time against a large bank: by an index, and exactly; and state the recall.

    python speed/large_bank.py --work DIR [--rows 1000000] [--index hnsw]

It measures what a saved detector does for each image: the rows are a file that is mapped, and the
index was built before and is read from a file. What is made, DIR keeps: twice 5 KB a row.

The first 50,000 rows are real: CIFAR-10's training images in EfficientNet-Lite0's features, which
must be in the feature store. The others are SYNTHETIC: a real row plus the difference between
another real row and its nearest neighbour, cut off at 0. Queries are test images. All are then
normalised as `normalize=power` does.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from benchmarks.commands.options import default_home
from benchmarks.contracts import Workspace
from benchmarks.datasets import load_dataset
from benchmarks.inputs import load_input
from dn2.features import NORMALIZATIONS
from dn2.search import Bank, Built

K, QUERIES, EXACT_QUERIES = 5, 200, 50


def make_rows(path: Path, n: int, home: Path) -> None:
    """Write the rows and the queries."""
    dataset = load_dataset("cifar10", home=home)
    X = load_input(dataset, "features:efficientnet_lite0", Workspace(home))
    power, rng = NORMALIZATIONS["power"], np.random.default_rng(0)
    real = X[np.flatnonzero(dataset.is_train)]
    real = real[rng.permutation(len(real))]
    test = np.flatnonzero(~dataset.is_train)
    np.save(path.with_name("queries.npy"), power(X[rng.permutation(test)[:QUERIES]]))
    pairs = real[:5000]
    gaps = pairs - real[Bank(real, device="numpy").nearest(pairs, 2)[1][:, 1]]
    unfinished = path.with_name("unfinished.npy")
    rows = np.lib.format.open_memmap(unfinished, "w+", np.float32, (n, real.shape[1]))
    for start in range(0, n, 10_000):
        known = real[start : start + 10_000]
        m = min(10_000, n - start) - len(known)
        draw = np.random.default_rng([1, start]).integers
        made = real[draw(0, len(real), m)] + gaps[draw(0, len(gaps), m)]
        rows[start : start + 10_000] = power(
            np.concatenate([known, np.maximum(made, 0)])[: n - start]
        )
    rows.flush()
    unfinished.rename(path)


def build(rows: np.ndarray, index: str, graph: Path) -> None:
    """Build the index and write it."""
    started = time.perf_counter()
    built = Bank(rows, index=index, device="numpy", copy=False).built
    if built is None:
        raise SystemExit("so few rows are searched exactly: raise --rows")
    print(f"{index}: built in {time.perf_counter() - started:.0f} s", flush=True)
    np.savez(graph.with_suffix(".npz"), **built.arrays)
    unfinished = graph.with_suffix(".unfinished")
    with unfinished.open("wb") as file:
        built.write(file)
    unfinished.rename(graph)


def time_one_by_one(bank: Bank, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Search each query alone, after one for the start.

    Returns
    -------
    rows : ndarray of shape (n, k)
    milliseconds : ndarray of shape (2, n)
        On the clock, and of all cores together.
    """
    bank.nearest(queries[:1], K)
    found, times = [], []
    for query in queries:
        before = time.perf_counter(), time.process_time()
        found.append(bank.nearest(query[None], K)[1][0])
        times.append((time.perf_counter() - before[0], time.process_time() - before[1]))
    return np.array(found), 1000 * np.array(times).T


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--index", choices=["hnsw", "ivf"], default="hnsw")
    parser.add_argument("--home", type=Path, default=default_home(), help="[DN2_HOME]")
    arguments = parser.parse_args()
    path = arguments.work / f"rows-{arguments.rows}.npy"
    graph = arguments.work / f"{arguments.index}-{arguments.rows}.faiss"
    if not path.exists():
        make_rows(path, arguments.rows, arguments.home)
    rows = np.load(path, mmap_mode="r")
    queries = np.load(arguments.work / "queries.npy")[:QUERIES]
    exact = Bank(rows, device="numpy", copy=False)
    expected, milliseconds = time_one_by_one(exact, queries[:EXACT_QUERIES])
    tell("exact", milliseconds)
    if not graph.exists():
        build(rows, arguments.index, graph)
    started = time.perf_counter()
    with np.load(graph.with_suffix(".npz")) as arrays:
        built = Built.read(graph, dict(arrays))
    bank = Bank(rows, index=arguments.index, device="numpy", copy=False, built=built)
    print(f"{arguments.index}: read in {time.perf_counter() - started:.1f} s")
    found, milliseconds = time_one_by_one(bank, queries)
    tell(arguments.index, milliseconds)
    same = (found[: len(expected), :, None] == expected[:, None]).any(axis=2).mean()
    print(f"{arguments.index}: recall at {K} of {len(expected)} queries: {same:.3f}")


def tell(name: str, milliseconds: np.ndarray) -> None:
    """Print the time of one image."""
    for what, each in zip(("on the clock", "of all cores"), milliseconds, strict=True):
        least, median, most = np.quantile(each, [0, 0.5, 0.95])
        print(
            f"{name}: {median:.1f} ms an image {what} (median of {len(each)}; least {least:.1f}, "
            f"95 % {most:.1f})",
            flush=True,
        )


if __name__ == "__main__":
    main()

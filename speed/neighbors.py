"""Time exact nearest neighbours: ours, faiss's IndexFlatL2 and scikit-learn's brute force, in turn.

    python speed/neighbors.py
        one bank of 5,000 x 1,280, 10,000 queries, k = 2 and 50
    python speed/neighbors.py --classes 10
        ten such banks, one after the other: the whole of CIFAR-10
    python speed/neighbors.py --bank train.npy --queries test.npy
        features of your own

Each time covers everything that one call needs, preparing the index included. Ours takes as many
threads as the process has cores, the others as many as they take by default.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import faiss
import numpy as np
from sklearn.neighbors import NearestNeighbors

from dn2.search import nearest

Found = tuple[np.ndarray, np.ndarray]


def faiss_flat(queries: np.ndarray, bank: np.ndarray, k: int) -> Found:
    """Search with faiss as it is installed, with its default settings."""
    index = faiss.IndexFlatL2(bank.shape[1])
    index.add(bank)
    return index.search(queries, k)


def sklearn_brute(queries: np.ndarray, bank: np.ndarray, k: int) -> Found:
    """Search with scikit-learn, and square its distances, which costs next to nothing."""
    distances, rows = (
        NearestNeighbors(n_neighbors=k, algorithm="brute").fit(bank).kneighbors(queries)
    )
    return distances**2, rows


METHODS: dict[str, Callable[[np.ndarray, np.ndarray, int], Found]] = {
    "dn2": nearest,
    "faiss_flat": faiss_flat,
    "sklearn_brute": sklearn_brute,
}


def like_features(n: int, width: int, seed: int) -> np.ndarray:
    """Draw rows like those after a network's last ReLU: correlated, and a third of them zero."""
    mixing = np.random.default_rng(0).standard_normal((64, width), dtype=np.float32) / 8
    rng = np.random.default_rng(seed)
    hidden = rng.standard_normal((n, 64), dtype=np.float32) @ mixing
    return np.maximum(hidden + 0.7 * rng.standard_normal((n, width), dtype=np.float32) + 0.5, 0)


def measure(
    queries: np.ndarray, banks: list[np.ndarray], k: int, repeats: int
) -> dict[str, object]:
    """Measure each method: median seconds, how much faster ours is, and how many rows agree."""
    seconds: dict[str, list[float]] = {name: [] for name in METHODS}
    rows: dict[str, np.ndarray] = {}
    for search in METHODS.values():  # threads started, memory touched
        search(queries[:100], banks[0], k)
    for _ in range(repeats):
        for name, search in METHODS.items():
            start = time.perf_counter()
            rows[name] = np.stack([search(queries, bank, k)[1] for bank in banks])
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "k": k,
        "seconds": medians,
        "times_faster": {name: medians[name] / medians["dn2"] for name in METHODS},
        "same_rows": {name: float((rows[name] == rows["dn2"]).mean()) for name in METHODS},
    }


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--bank", help=".npy of shape (n, d); with --classes, cut into that many parts"
    )
    parser.add_argument("--queries", help=".npy of shape (m, d)")
    parser.add_argument(
        "--rows", type=int, default=5000, help="rows of a made-up bank, for each class"
    )
    parser.add_argument("--n-queries", type=int, default=10000, help="made-up queries")
    parser.add_argument("--width", type=int, default=1280, help="columns of made-up features")
    parser.add_argument("--classes", type=int, default=1)
    parser.add_argument("--k", type=int, nargs="+", default=[2, 50])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if (options.bank is None) != (options.queries is None):
        parser.error("--bank and --queries go together: give both or neither")
    if options.bank:
        bank, queries = (
            np.load(path).astype(np.float32) for path in (options.bank, options.queries)
        )
    else:
        bank = like_features(options.rows * options.classes, options.width, seed=1)
        queries = like_features(options.n_queries, options.width, seed=2)
    banks = np.array_split(bank, options.classes)
    results = [measure(queries, banks, k, options.repeats) for k in options.k]
    if options.json:
        print(
            json.dumps(
                {
                    "bank": bank.shape,
                    "queries": queries.shape,
                    "classes": options.classes,
                    "results": results,
                }
            )
        )
        return
    print(
        f"{options.classes} bank(s) of {banks[0].shape[0]:,} x {bank.shape[1]:,}, "
        f"{len(queries):,} queries"
    )
    print(f"{'k':>3}  {'method':<14} {'seconds':>8}  {'ours is faster':>14}  {'rows as ours':>12}")
    for result in results:
        for name in METHODS:
            seconds, faster, same = (
                result[key][name] for key in ("seconds", "times_faster", "same_rows")
            )  # type: ignore[index]
            print(f"{result['k']:>3}  {name:<14} {seconds:>8.3f}  {faster:>13.1f}x  {same:>12.4%}")


if __name__ == "__main__":
    main()

"""Measure how each index's time, memory, recall and ROCAUC change with the number of training rows.

    python speed/scale.py
        10,000 to 100,000 rows of 1,280 columns, to 1,000,000 of 128 columns: 15 minutes
    python speed/scale.py --quick
        10,000 rows of 128 columns: a minute
    python speed/scale.py --work DIR
        keep prepared rows and answers there; what is measured already is not measured again

The task is CIFAR-10 with EfficientNet-Lite0's features, which must be in the feature store
(`python -m benchmarks run` puts them there): cats are anomalies, the training images of the other
nine classes are the bank, and 1,000 cats and 1,000 other test images are scored by the mean squared
distance to the two nearest rows. Banks of up to 45,000 rows are real. In a larger one the rest is
SYNTHETIC: a real row, plus the difference between another real row and its nearest neighbour, cut
off at 0. Both are drawn with a seed. 128 columns are the leading principal components of 45,000
real rows; synthetic rows are made before that.

Each index is measured in a process of its own. "Bytes a row" is the growth of that process from
before the index is built to after its first search, in memory that is no file; the rows it is given
are a file. The index is built on one thread and searched on all cores.
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.commands.options import default_home
from benchmarks.contracts import Workspace
from benchmarks.datasets import load_dataset
from benchmarks.inputs import load_input
from benchmarks.metrics import auroc
from dn2.search import Bank

CAT, K, NARROW = 3, 2, 128
INDEXES = ("exact", "hnsw", "ivf", "pq")  # exact first: the others are compared with it
BANKS = [
    (1280, 10_000),
    (1280, 30_000),
    (1280, 100_000),
    (NARROW, 10_000),
    (NARROW, 100_000),
    (NARROW, 1_000_000),
]
COLUMNS = (
    "columns",
    "rows",
    "index",
    "build_seconds",
    "seconds_per_1000",
    "bytes_per_row",
    "recall",
    "rocauc",
    "rocauc_change",
)


def prepare(work: Path, home: Path, banks: list[tuple[int, int]]) -> None:
    """Write the queries and the largest bank of each width, unless they are there.

    Smaller banks are the first rows of the largest.
    """
    dataset = load_dataset("cifar10", home=home)
    X = load_input(dataset, "features:efficientnet_lite0", Workspace(home))
    rng = np.random.default_rng(0)
    normal = dataset.labels != CAT
    real = X[np.sort(rng.permutation(np.flatnonzero(dataset.is_train & normal)))]
    real = real[rng.permutation(len(real))]
    test = np.flatnonzero(~dataset.is_train)
    chosen = np.concatenate([test[~normal[test]][:1000], test[normal[test]][:1000]])
    queries, centre = X[chosen], real.mean(axis=0)
    np.save(work / "is_anomaly.npy", ~normal[chosen])
    centred = real - centre
    turn = np.linalg.eigh((centred.T @ centred).astype(np.float64))[1][:, ::-1][:, :NARROW].astype(
        np.float32
    )
    pairs = real[:5000]
    gaps = pairs - real[Bank(real).nearest(pairs, 2)[1][:, 1]]
    for width in sorted({width for width, _ in banks}):
        n = max(rows for columns, rows in banks if columns == width)
        narrow = (lambda rows: (rows - centre) @ turn) if width == NARROW else (lambda rows: rows)
        np.save(work / f"queries-{width}.npy", narrow(queries))
        if (work / f"bank-{width}-{n}.npy").exists():
            continue
        bank = np.lib.format.open_memmap(work / "unfinished.npy", "w+", np.float32, (n, width))
        for start in range(0, n, 20_000):
            stop = min(n, start + 20_000)
            rows = np.empty((stop - start, real.shape[1]), np.float32)
            known = real[start:stop]
            rows[: len(known)] = known
            m = len(rows) - len(known)
            generator = np.random.default_rng([1, start])
            made = (
                real[generator.integers(0, len(real), m)]
                + gaps[generator.integers(0, len(gaps), m)]
            )
            rows[len(known) :] = np.maximum(made, 0)
            bank[start:stop] = narrow(rows)
        bank.flush()
        (work / "unfinished.npy").rename(work / f"bank-{width}-{n}.npy")


def held_bytes() -> int:
    """Measure this process's memory without mapped files, after freeing the unused. Linux only."""
    ctypes.CDLL(None).malloc_trim(0)
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024


def measure(work: Path, width: int, n: int, index: str) -> dict[str, object]:
    """Build, search and compare with the exact answers, which measuring ``exact`` leaves behind."""
    largest = max(work.glob(f"bank-{width}-*.npy"), key=lambda path: int(path.stem.split("-")[2]))
    rows, queries = np.load(largest, mmap_mode="r")[:n], np.load(work / f"queries-{width}.npy")
    is_anomaly = np.load(work / "is_anomaly.npy")
    Bank(np.array(rows[:1000]), index=index).nearest(
        queries, K
    )  # libraries loaded, threads started
    before, started = held_bytes(), time.perf_counter()
    bank = Bank(rows, index=index)
    bank.nearest(queries[:64], K)  # what exact makes ready, it makes at the first search
    built, held = time.perf_counter(), held_bytes() - before
    distances, found = bank.nearest(queries, K)
    seconds = time.perf_counter() - built
    answers = work / f"exact-{width}-{n}.npz"
    if index == "exact":
        np.savez(answers, distances=distances, rows=found)
    exact = np.load(answers)
    value, best = (auroc(is_anomaly, mean.mean(axis=1)) for mean in (distances, exact["distances"]))
    recall = (exact["rows"][:, :, None] == found[:, None, :]).any(axis=2).mean()
    numbers = built - started, 1000 * seconds / len(queries), held / n, recall, value, value - best
    return dict(
        zip(
            COLUMNS,
            (width, n, index, *(round(float(number), 5) for number in numbers)),
            strict=True,
        )
    )


def measured(work: Path, width: int, n: int, index: str) -> dict[str, object]:
    """Measure in another process, unless it was done before."""
    path = work / f"result-{width}-{n}-{index}.json"
    if not path.exists():
        command = [
            sys.executable,
            __file__,
            "--work",
            str(work),
            "--one",
            str(width),
            str(n),
            index,
        ]
        print(f"{width} columns, {n:,} rows, {index} ...", file=sys.stderr)
        path.write_text(
            subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        )
    result: dict[str, object] = json.loads(path.read_text())
    return result


def table(results: list[dict[str, object]]) -> str:
    """Format results as a Markdown table."""
    lines = [
        "| columns | rows | index | build, s | search of 1,000, s | bytes a row | recall@2 | "
        "ROCAUC | change |"
    ]
    lines.append("|---:|---:|---|---:|---:|---:|---:|---:|---:|")
    for result in results:
        width, n, index, build, search, held, recall, value, change = (
            result[column] for column in COLUMNS
        )
        numbers = (
            f"{build:.1f} | {search:.3f} | {held:,.0f} | {recall:.3f} | {value:.4f} | {change:+.4f}"
        )
        lines.append(f"| {width:,} | {n:,} | {index} | {numbers} |")
    return "\n".join(lines)


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="10,000 rows of 128 columns only")
    parser.add_argument(
        "--work", type=Path, help="a folder for what is prepared, 1 GB [a temporary one]"
    )
    parser.add_argument(
        "--home", type=Path, default=default_home(), help="where data and features are [DN2_HOME]"
    )
    parser.add_argument("--csv", type=Path, help="write the numbers there too")
    parser.add_argument("--indexes", nargs="+", choices=INDEXES, default=INDEXES)
    parser.add_argument(
        "--one",
        nargs=3,
        metavar=("COLUMNS", "ROWS", "INDEX"),
        help="measure in this process; needs --work",
    )
    options = parser.parse_args()
    if options.one:
        width, n, index = options.one
        print(json.dumps(measure(options.work, int(width), int(n), index)))
        return
    banks = [(NARROW, 10_000)] if options.quick else BANKS
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        prepare(work, options.home, banks)
        results = [
            measured(work, width, n, index) for width, n in banks for index in options.indexes
        ]
    print(table(results))
    if options.csv:
        with options.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(results)


if __name__ == "__main__":
    main()

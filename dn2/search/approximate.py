"""Find approximate nearest neighbours with faiss, for banks too large for an exact search.

`Approximate` is what the three indexes share: it centres the rows and scales them by a power of
two, so that neither an offset nor tiny or huge numbers cost digits; it has faiss find near rows;
and it measures those again from the raw rows, as the exact search does. `HNSW` walks a graph, `IVF`
looks through lists, `PQ` through lists of codes. `Flat` is faiss's own exact search, a second
opinion.

An index is built on one thread, so that it depends on its rows alone, and searched on all cores.
Its parameters follow from the number of rows. A bank of fewer than ``SMALLEST`` rows, or a k of
more than a tenth of them, is searched exactly: there is nothing to gain, and centres, links and
codes of so few rows are worth little.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from dn2.engines import available_cores
from dn2.search.bank import exact_index
from dn2.search.terms import SMALLEST, float_type, measure

if TYPE_CHECKING:
    from dn2.search.exact import Exact
    from dn2.search.light import Light

Found = tuple[np.ndarray, np.ndarray]
"""Squared distances (n, k) float32, ascending; places (n, k) int64."""

NUMBERS_AT_ONCE = 2**23  # converted for faiss in one step


@dataclass(frozen=True)
class Built:
    """Hold what an approximate index made of its rows, so that it need not be made again.

    Attributes
    ----------
    graph : faiss.Index
        What faiss searches.
    arrays : dict of str to ndarray
        The rest, by name.
    """

    graph: Any
    arrays: Mapping[str, np.ndarray]

    def write(self, file: BinaryIO) -> None:
        """Write the graph as faiss does, a piece at a time: no copy of it is held."""
        import faiss

        faiss.write_index(self.graph, faiss.PyCallbackIOWriter(file.write))  # type: ignore[attr-defined]

    @staticmethod
    def read(path: Path, arrays: Mapping[str, np.ndarray]) -> Built:
        """Read a graph; its rows stay in the file, and are read where a search needs them.

        Raises
        ------
        ValueError
            If faiss cannot read the file.
        """
        import faiss

        try:
            return Built(faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC), arrays)
        except RuntimeError as error:
            raise ValueError(
                f"faiss {faiss.__version__} cannot read {path.name} ({error})"
            ) from None


class Flat:
    """Search with faiss's IndexFlatL2: float32, its cancellation noise only clamped at 0."""

    built = None

    def __init__(self, rows: np.ndarray, device: str | None, _: Built | None = None) -> None:  # noqa: ARG002 - the wheel's faiss knows only the CPU
        import faiss

        self.rows = rows
        self.index = faiss.IndexFlatL2(rows.shape[1])
        self.index.add(rows.astype(np.float32, copy=False))

    def search(
        self, queries: np.ndarray, k: int, exclude_self: bool, subsets: Sequence[np.ndarray | None]
    ) -> list[Found]:
        """Search each subset: see `dn2.search.exact.Exact.search`."""
        parts = [self if subset is None else Flat(self.rows[subset], None) for subset in subsets]
        return [
            part._search_all(
                queries if subset is None or not exclude_self else queries[subset], k, exclude_self
            )
            for part, subset in zip(parts, subsets, strict=True)
        ]

    def _search_all(self, queries: np.ndarray, k: int, exclude_self: bool) -> Found:
        with faiss_threads(available_cores()):
            distances, rows = self.index.search(
                np.ascontiguousarray(queries, np.float32), k + exclude_self
            )
        # faiss pads with 3.4e38 what it cannot hold
        distances = np.where(rows < 0, np.inf, np.maximum(distances, 0))
        return _k_smallest(distances, rows, k, np.arange(len(rows)) if exclude_self else None)


class Approximate(ABC):
    """Search with an approximate index, and measure what it finds in the raw rows, which it keeps.

    So only the choice of rows is approximate: a distance is as exact as the exact search's. A query
    for which the index finds too few rows is searched exactly.

    Parameters
    ----------
    rows : ndarray of shape (m, d), float32 or float64
    device : str or None
        Of the exact searches; faiss's run on the CPU.
    built : Built, optional
        What `built` was for the same rows. By default the index is built.

    Raises
    ------
    ValueError
        If it was built for other rows.
    """

    def __init__(self, rows: np.ndarray, device: str | None, built: Built | None = None) -> None:
        self.n, self.width, self.device = *rows.shape, device
        self.rows: Any = rows
        self.index: Any = None
        if built is not None:
            self.index = built.graph
            self.centre, self.scale = built.arrays["centre"], float(built.arrays["scale"][0])
            self.take(built.arrays)
            if self.held != self.n:
                raise ValueError(f"the index has {self.held:,} rows, the bank {self.n:,}")
        elif self.n >= SMALLEST:
            self.centre, self.scale = centre_and_scale(rows)
            with faiss_threads(1):
                self.build(rows)

    @property
    def built(self) -> Built | None:
        """What was made of the rows; None of so few that they are searched exactly."""
        if self.index is None:
            return None
        arrays = {"centre": self.centre, "scale": np.array([self.scale]), **self.give()}
        return Built(self.index, arrays)

    @abstractmethod
    def build(self, rows: np.ndarray) -> None:
        """Make ``index`` of the rows, and what goes with it."""

    @abstractmethod
    def give(self) -> dict[str, np.ndarray]:
        """Return what goes with ``index`` to be kept."""

    @abstractmethod
    def take(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take what `give` returned."""

    @property
    def held(self) -> int:
        """The number of rows that ``index`` was made of."""
        n: int = self.index.ntotal
        return n

    @abstractmethod
    def find(self, queries: np.ndarray, k: int) -> np.ndarray:
        """Ask faiss for near rows of converted queries, (n, k); -1 where it found no more."""

    @cached_property
    def exact(self) -> Light | Exact:
        """The search that never fails."""
        return exact_index(self.rows, self.device)

    def search(
        self, queries: np.ndarray, k: int, exclude_self: bool, subsets: Sequence[np.ndarray | None]
    ) -> list[Found]:
        """Search each subset: see `dn2.search.exact.Exact.search`.

        Each subset gets an index of its own, and costs what building one costs.
        """
        if self.index is None:
            return self.exact.search(queries, k, exclude_self, subsets)
        found = []
        for subset in subsets:
            if subset is None or len(subset) == self.n:
                found.append(self.search_all(queries, k, exclude_self))
            else:
                part = type(self)(self.rows[subset], self.device)
                found += part.search(
                    queries[subset] if exclude_self else queries, k, exclude_self, [None]
                )
        return found

    def search_all(self, queries: np.ndarray, k: int, exclude_self: bool) -> Found:
        """Search all rows for one piece of the queries after the other."""
        needed = k + exclude_self
        distances, found = _empty_answers(len(queries), k)
        for part in pieces(queries, self.width):
            block = np.array(queries[part], dtype=float_type(queries), order="C", subok=False)
            if needed * 10 > self.n:
                rows = np.full((len(block), needed), -1)
            else:
                rows = self.find(self.converted(block), needed)
            short = (rows < 0).any(axis=1)
            if short.any():
                rows[short] = self.exact.search(block[short], needed, False, [None])[0][1]
            query = np.repeat(np.arange(len(block)), needed)
            distance = measure(block.astype(np.float64), self.rows, query, rows.ravel())
            own = np.arange(part.start, part.start + len(block)) if exclude_self else None
            with np.errstate(over="ignore"):  # the bank refuses infinity
                distances[part], found[part] = _k_smallest(
                    distance.reshape(rows.shape), rows, k, own
                )
        return distances, found

    def converted(self, rows: np.ndarray) -> np.ndarray:
        """Convert rows to what faiss sees: centred, scaled, float32, in C order."""
        # Overflow: a query that far away finds no row, and is then searched exactly.
        with np.errstate(over="ignore"):
            return np.ascontiguousarray((rows - self.centre) * self.scale, np.float32)


class HNSW(Approximate):
    """Walk a graph of near rows from afar to near: 32 links a row, 64 on the lowest level.

    Kept: the rows twice, once as faiss has them, and 4 bytes a link. While it is built, 64 rows are
    considered for a row's links; a search follows the best 8 log2(m), and at least 2k. Equal rows
    are one node: more of them than links would be an island, from which no search returns.

    Source: Malkov and Yashunin, arXiv 1603.09320.
    """

    def build(self, rows: np.ndarray) -> None:
        """Add one distinct row after the other."""
        import faiss

        digests = [digest_rows(self.converted(rows[part])) for part in pieces(rows, self.width)]
        self.distinct = DistinctRows(np.concatenate(digests))
        self.index = faiss.IndexHNSWFlat(self.width, 32)
        self.index.hnsw.efConstruction = 64
        for part in pieces(self.distinct.first, self.width):
            self.index.add(self.converted(rows[self.distinct.first[part]]))

    def give(self) -> dict[str, np.ndarray]:
        """Return each row's node."""
        return {"nodes": self.distinct.nodes}

    def take(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take each row's node."""
        self.distinct = DistinctRows(arrays["nodes"])

    @property
    def held(self) -> int:
        """The number of rows, equal ones included; 0 if the graph has other nodes than they."""
        fits = self.index.ntotal == len(self.distinct.first)
        return len(self.distinct.nodes) if fits else 0

    def find(self, queries: np.ndarray, k: int) -> np.ndarray:
        """Walk the graph."""
        import faiss

        width = max(8 * int(np.log2(self.n)), 2 * k)
        settings = faiss.SearchParametersHNSW(efSearch=width)  # type: ignore[attr-defined]
        with faiss_threads(available_cores()):
            _, nodes = self.index.search(queries, k, params=settings)
        return self.distinct.rows_of(nodes)


class DistinctRows:
    """Number the distinct rows among rows of which some are equal: such a number is a node.

    Parameters
    ----------
    digests : ndarray of shape (m,)
        One for each row, equal for equal rows alone. The rows' nodes will do.

    Attributes
    ----------
    nodes : ndarray of shape (m,), int64
        Each row's node; nodes are numbered in the order of their first rows.
    first : ndarray of int64
        Each node's first row, ascending.
    """

    def __init__(self, digests: np.ndarray) -> None:
        _, first, kind = np.unique(digests, return_index=True, return_inverse=True)
        self.nodes = np.argsort(np.argsort(first))[kind]
        self.first = np.sort(first)
        self._counts = np.bincount(self.nodes)
        self._rows = np.argsort(self.nodes, kind="stable")  # node by node
        self._start = np.cumsum(self._counts) - self._counts

    def rows_of(self, nodes: np.ndarray) -> np.ndarray:
        """Replace nodes (n, k) by their rows, each node's ascending, and keep each query's first k.

        -1 stays.

        Examples
        --------
        >>> distinct = DistinctRows(np.array([b"a", b"b", b"a", b"c"]))
        >>> distinct.rows_of(np.array([[0, 2, 1], [1, 2, -1]]))
        array([[ 0,  2,  3],
               [ 1,  3, -1]])
        """
        k = nodes.shape[1]
        counts = np.where(nodes < 0, 1, np.minimum(self._counts[nodes], k)).ravel()
        flat, ends = np.repeat(nodes.ravel(), counts), np.cumsum(counts)
        begins = ends - counts
        rows = self._rows[self._start[flat] + np.arange(len(flat)) - np.repeat(begins, counts)]
        rows[flat < 0] = -1
        return rows[begins[::k, None] + np.arange(k)]


def digest_rows(rows: np.ndarray) -> np.ndarray:
    """Digest each row (n, d) to 16 bytes, equal for equal rows alone."""
    return np.array([hashlib.blake2b(row.data, digest_size=16).digest() for row in rows], "S16")


ROWS_PER_LIST = 64  # that k-means sees for each list's centre, drawn with a seed


class IVF(Approximate):
    """Keep rows in lists, each around a centre of k-means, and look through the nearest lists.

    There are 2 sqrt(m) lists; those of the nearest 2 sqrt(lists) centres are looked through. Kept:
    the rows twice, once as faiss has them. The centres are searched exactly, by
    `dn2.search.exact.Exact`.

    Source: Sivic and Zisserman, "Video Google" (2003); Jegou, Douze and Schmid, "Product
    Quantization for Nearest Neighbor Search" (2011), section 4.
    """

    def make(self, quantizer: Any, lists: int) -> Any:
        """Make faiss's index, empty."""
        import faiss

        return faiss.IndexIVFFlat(quantizer, quantizer.d, lists)

    def build(self, rows: np.ndarray) -> None:
        """Find the centres on a sample of the rows; then put each row into its centre's list."""
        import faiss

        lists = 2 * round(self.n**0.5)
        sample = self.converted(fixed_sample(rows, ROWS_PER_LIST * lists))
        # faiss wants to be given the centres' index, though it is never asked to search it
        self.centres = faiss.IndexFlatL2(sample.shape[1])
        self.index = self.make(self.centres, lists)
        self.index.cp.niter, self.index.cp.min_points_per_centroid = 10, 1
        self.index.train(sample)
        self.prepare_centres()
        for part in pieces(rows, self.width):
            block = self.converted(rows[part])
            ((_, nearest),) = self.coarse.search(block, 1, False, [None])
            self.index.add_core(len(block), faiss.swig_ptr(block), None, faiss.swig_ptr(nearest))

    def give(self) -> dict[str, np.ndarray]:
        """Return nothing: faiss's index has the centres."""
        return {}

    def take(self, arrays: Mapping[str, np.ndarray]) -> None:  # noqa: ARG002 - there is nothing
        """Make the search of the centres."""
        self.prepare_centres()

    def prepare_centres(self) -> None:
        """Make an exact search of the centres."""
        import faiss

        centres = faiss.downcast_index(self.index.quantizer)
        self.coarse = exact_index(centres.reconstruct_n(0, self.index.nlist), self.device)

    def find(self, queries: np.ndarray, k: int) -> np.ndarray:
        """Look through the lists of the nearest centres."""
        return self.probe(queries, k, self.usual_lists)[1]

    @property
    def usual_lists(self) -> int:
        """The number of lists that are looked through for a small k."""
        return 2 * round(self.index.nlist**0.5)

    def probe(self, queries: np.ndarray, k: int, lists: int, **settings: Any) -> Found:
        """Look through a number of lists for each query; distances are those of converted rows."""
        import faiss

        ((gaps, nearest),) = self.coarse.search(queries, lists, False, [None])
        distances, rows = _empty_answers(len(queries), k)
        params = faiss.SearchParametersIVF(nprobe=lists, **settings)  # type: ignore[call-arg]
        pointers = [faiss.swig_ptr(array) for array in (queries, nearest, gaps, distances, rows)]
        with faiss_threads(available_cores()):  # the wrapper of this call takes no parameters
            self.index.search_preassigned_c(
                len(queries), pointers[0], k, *pointers[1:], False, params
            )
        return distances, rows


CODE_BYTES = 64  # of a row's code
DIRECTIONS = 256  # principal ones, that are kept of turned rows
DIRECTION_ROWS = 2**14  # that the principal directions are made from
CODE_ROWS = 2**13  # that k-means sees for the 256 values of each byte


class PQ(IVF):
    """Keep codes in the lists of `IVF`, in place of rows: 64 bytes a row, and 8 for its number.

    Rows are turned to their principal directions, of which the leading 256 are kept, dealt out to
    64 parts; a code names for each part of a row's difference from its centre one of 256 values
    that k-means made. Distances are those to decoded rows, so they are approximate, and those of
    the k nearest are too small on average. With too few rows found, or a large k, all lists are
    looked through. Subsets are searched among the codes of the whole bank, not in an index of their
    own.
    """

    def __init__(self, rows: np.ndarray, device: str | None, built: Built | None = None) -> None:
        self.parts = min(CODE_BYTES, rows.shape[1])
        super().__init__(rows, device, built)
        self.rows = None
        if self.index is None:
            self.rows = np.array(rows, dtype=float_type(rows), order="C", subok=False)

    def build(self, rows: np.ndarray) -> None:
        """Find the directions on a sample of the rows, then go on as `IVF`."""
        sample = super().converted(fixed_sample(rows, DIRECTION_ROWS))
        self.turn = principal_directions(sample, self.parts)
        super().build(rows)

    def give(self) -> dict[str, np.ndarray]:
        """Return the directions."""
        return {"turn": self.turn}

    def take(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take the directions, and go on as `IVF`."""
        self.turn = arrays["turn"]
        super().take(arrays)

    def make(self, quantizer: Any, lists: int) -> Any:
        """Make faiss's index, empty."""
        import faiss

        index = faiss.IndexIVFPQ(quantizer, quantizer.d, lists, self.parts, 8)
        index.pq.cp.niter, index.pq.cp.min_points_per_centroid = 10, 1
        index.pq.cp.max_points_per_centroid = CODE_ROWS // 256
        return index

    def search(
        self, queries: np.ndarray, k: int, exclude_self: bool, subsets: Sequence[np.ndarray | None]
    ) -> list[Found]:
        """Search each subset: see `dn2.search.exact.Exact.search`, and what the class says."""
        if self.index is None:
            return self.exact.search(queries, k, exclude_self, subsets)
        return [self.search_codes(queries, k, exclude_self, subset) for subset in subsets]

    def search_codes(
        self, queries: np.ndarray, k: int, exclude_self: bool, subset: np.ndarray | None
    ) -> Found:
        """Search all codes or a subset's, for one piece of the queries after the other."""
        import faiss

        rows, needed = np.arange(self.n) if subset is None else subset, k + exclude_self
        chosen = {} if len(rows) == self.n else {"sel": faiss.IDSelectorBatch(rows)}
        queries = queries[rows] if exclude_self else queries
        distances, found = _empty_answers(len(queries), k)
        for part in pieces(queries, self.width):
            block = self.converted(np.asarray(queries[part]))
            lists = self.index.nlist if needed * 10 > len(rows) else self.usual_lists
            values, ids = self.probe(block, needed, lists, **chosen)
            short = (ids < 0).any(axis=1)
            if short.any():
                values[short], ids[short] = self.probe(
                    block[short], needed, self.index.nlist, **chosen
                )
            with np.errstate(over="ignore"):  # the bank refuses infinity
                values = np.where(ids < 0, np.inf, np.maximum(values, 0) / self.scale**2)
                own = rows[part] if exclude_self else None
                distances[part], ids = _k_smallest(values, ids, k, own)
            found[part] = np.searchsorted(rows, ids)
        return distances, found

    def converted(self, rows: np.ndarray) -> np.ndarray:
        """Convert rows to what faiss sees, and turn them."""
        # in float64, so that how the product is summed, which depends on the batch, is rounded away
        centred = super().converted(rows).astype(np.float64)
        return np.ascontiguousarray(centred @ self.turn, np.float32)


KINDS: dict[str, type[Flat] | type[Approximate]] = {
    "flat": Flat,
    "hnsw": HNSW,
    "ivf": IVF,
    "pq": PQ,
}
"""By their names in `dn2.search.INDEXES`."""


def pieces(rows: np.ndarray, width: int) -> Iterator[slice]:
    """Cut rows into pieces of bounded size."""
    step = max(1, NUMBERS_AT_ONCE // width)
    return (slice(start, start + step) for start in range(0, len(rows), step))


def fixed_sample(rows: np.ndarray, n: int) -> np.ndarray:
    """Draw at most n rows, with a fixed seed: always the same."""
    return rows[np.sort(np.random.default_rng(0).permutation(len(rows))[:n])]


def centre_and_scale(rows: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the rows' mean (d,), and the power of two that brings centred numbers to at most 1."""
    total, reach = np.zeros(rows.shape[1]), 0.0
    for part in pieces(rows, rows.shape[1]):
        total += rows[part].sum(axis=0, dtype=np.float64)
        reach = max(reach, float(rows[part].max()), -float(rows[part].min()))
    return total / len(rows), float(2.0 ** -np.ceil(np.log2(2 * reach))) if reach else 1.0


def principal_directions(rows: np.ndarray, parts: int) -> np.ndarray:
    """Find the leading principal directions of rows (n, d): (d, at most 256, in equal parts).

    They are dealt out: the first to the first part, the second to the second, and so on, so that
    all parts vary about as much. Columns of zeros make the parts equal in length.
    """
    rows = rows - rows.mean(axis=0, dtype=np.float64)
    found = np.linalg.eigh(rows.T @ rows)[1][:, ::-1][:, :DIRECTIONS]
    found = np.pad(found, ((0, 0), (0, -found.shape[1] % parts)))
    dealt = found.reshape(len(found), -1, parts).swapaxes(1, 2)
    return np.ascontiguousarray(dealt.reshape(len(found), -1))


@contextmanager
def faiss_threads(n: int) -> Iterator[None]:
    """Give faiss n threads, and afterwards what it had."""
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(n)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _empty_answers(n: int, k: int) -> Found:
    return np.empty((n, k), np.float32), np.empty((n, k), np.int64)


def _k_smallest(distances: np.ndarray, rows: np.ndarray, k: int, own: np.ndarray | None) -> Found:
    """Choose each query's k smallest of a few distances, the lowest row first among equal ones.

    ``own`` is each query's own row, which is never chosen.
    """
    if own is not None:
        distances = np.where(rows == own[:, None], np.inf, distances)
    order = np.lexsort((rows, distances))[:, :k]
    smallest = np.take_along_axis(distances, order, 1).astype(np.float32)
    return smallest, np.take_along_axis(rows, order, 1)

"""The product behind the search: |y|^2 - 2xy for a block of queries and all rows at once, with a proven bound on its error.

A processor that multiplies bfloat16 in tiles (AMX) does so in less than half the time of float32, and eight binary digits are
enough to leave only a few rows in doubt. float32 leaves fewer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import torch

ROUNDING = 2.0**-24  # largest relative error of one float32 operation
TINY = float(np.finfo(np.float32).tiny)  # largest absolute error of one float32 operation that underflows


class Product:
    """Rows made ready to be multiplied, in one of two precisions.

    Parameters
    ----------
    rows : ndarray of shape (m, d), float32 or float64
    device : torch.device
    coarse : bool
        Factors are rounded to bfloat16; sums are float32 all the same.
    """

    def __init__(self, rows: np.ndarray, device: torch.device, *, coarse: bool) -> None:
        self.coarse, self.device = coarse, device
        with self.settings():
            self._make_ready(torch.from_numpy(rows).to(device))

    def _make_ready(self, raw: torch.Tensor) -> None:
        self.mean = raw.mean(0)  # subtracted, as an offset costs digits
        centred = (raw - self.mean).float()
        lengths = lengths_of(centred)
        self.longest = lengths.max()
        factors, gaps = self._round(centred)
        self.widest_gap = gaps.max()
        # |y|^2 is met by ones in the query: |y|^2 - 2xy is then a plain product, the fastest there is
        squares = lengths.square().float()[:, None]
        self.lifted = torch.cat([factors, *(_in_bfloat16(squares) if self.coarse else [squares])], dim=1)

    def multiply(self, block: np.ndarray, out: torch.Tensor) -> torch.Tensor:
        """Write |y|^2 - 2xy into ``out``; |x|^2 is left out, the same for all rows. Return each query's largest error.

        To be called within `settings`.
        """
        centred = (torch.from_numpy(block).to(self.device) - self.mean).float()
        factors, gaps = self._round(centred)
        ones = torch.ones((len(block), self.lifted.shape[1] - centred.shape[1]), device=self.device)
        torch.mm(torch.cat([-2 * factors, ones], dim=1), self.lifted.T, out=out)
        return self.error(centred, gaps)

    def error(self, centred: torch.Tensor, gaps: torch.Tensor) -> torch.Tensor:
        """Bound each query's error in the product, whatever the order in which the product is summed.

        A sum of d products is off by at most d u |x||y|, u being the rounding unit (Higham, Accuracy and Stability of Numerical
        Algorithms, section 3.1); subtracting the mean moves a distance by at most 2u (|x| + |y|)^2. Rounding the factors to p and
        q moves xy by at most |x - p||y| + |p||y - q| (Cauchy-Schwarz). The rest is for |y|^2, the last additions and the rounding
        of the limit.
        """
        x, y, d = lengths_of(centred), self.longest, centred.shape[1]
        unit = (d + 10) * ROUNDING
        gamma = unit / (1 - unit) if unit < 1 else float("inf")
        rounded = 2 * (gaps * y + (x + gaps) * self.widest_gap)
        x, y = x + gaps, y + self.widest_gap
        return gamma * (y * y + 2 * x * y) + rounded + 3 * ROUNDING * (x + y) ** 2 + 4 * (d + 10) * TINY

    def settings(self) -> AbstractContextManager[None]:
        """One thread a product, and the precision, for a while: a context."""
        return torch_settings("medium" if self.coarse else "highest")

    def _round(self, centred: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Round factors to the precision; the second array is how far that moves each row."""
        if not self.coarse:
            return centred, torch.zeros(len(centred), dtype=torch.float64, device=self.device)
        near = centred.bfloat16().float()
        near[near.abs() < TINY] = 0  # the processor would take these for zero, unasked
        return near, lengths_of(centred - near)


def is_fast_in_bfloat16(device: torch.device) -> bool:
    """Whether the coarse product saves time: with AMX it does; elsewhere nobody has measured."""
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.9 has none
    return device.type == "cpu" and bool(capabilities.get("amx_bf16"))


def lengths_of(rows: torch.Tensor) -> torch.Tensor:
    """Euclidean lengths in float64, some rows at a time: torch makes a float64 copy of what it measures.

    To be called with one thread: several would wait for each other at every step, on a busy machine a hundred times longer.
    """
    return torch.cat([torch.linalg.vector_norm(part, dim=1, dtype=torch.float64) for part in rows.split(64)])


@contextmanager
def torch_settings(products: str) -> Iterator[None]:
    """One thread, and a precision of float32 products, for a while.

    ``highest`` is float32: its error bound knows no TF32 or bfloat16. ``medium`` allows bfloat16, which is exact for factors that
    are bfloat16 already.
    """
    threads, before = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision(products)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(before)


def _in_bfloat16(numbers: torch.Tensor) -> list[torch.Tensor]:
    """Three float32 arrays of bfloat16 numbers whose sum is the float32 given: 24 binary digits in three times 8."""
    parts = []
    for _ in range(3):
        parts.append(numbers.bfloat16().float())
        numbers = numbers - parts[-1]
    return parts

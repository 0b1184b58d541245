"""Find nearest neighbours: `nearest` for one search, `Bank` for many in the same rows.

Read in this order: `terms` (the names of the indexes, arguments, measured distances), `bank` (which
index searches what), `exact` (the algorithm), `light` (the same without torch), `joined` (features
of several encoders, with one product for each), `approximate` (faiss's indexes, for banks too large
for an exact search). Nothing outside this folder imports from those files: what others need is
listed here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dn2.search.bank import Bank, nearest
from dn2.search.terms import (
    APPROXIMATE,
    INDEXES,
    SMALLEST,
    check_index,
    check_k,
    check_matrix,
    leave_out,
)

if TYPE_CHECKING:
    from dn2.search.approximate import Built
    from dn2.search.joined import Join, nearest_joined

__all__ = [
    "APPROXIMATE",
    "INDEXES",
    "SMALLEST",
    "Bank",
    "Built",
    "Join",
    "check_index",
    "check_k",
    "check_matrix",
    "leave_out",
    "nearest",
    "nearest_joined",
]


def __getattr__(name: str) -> Any:
    """Import the joined search when it is asked for: it imports torch, which takes seconds.

    What saves and reads an approximate index comes late, too.
    """
    if name == "Built":
        from dn2.search.approximate import Built

        return Built
    if name in ("Join", "nearest_joined"):
        from dn2.search import joined

        return getattr(joined, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

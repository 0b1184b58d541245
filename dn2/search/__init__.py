"""Find nearest neighbours: `nearest` for one search, `Bank` for many in the same rows.

Read in this order: `bank` (checks, and which index searches), `exact` (product, candidates, measured differences), `joined` (several
encoders side by side with one product each), `approximate` (faiss's indexes, for banks too large for an exact search).
"""

from dn2.search.bank import APPROXIMATE, INDEXES, Bank, check_index, check_k, check_matrix, nearest
from dn2.search.joined import Join, nearest_joined

__all__ = [
    "APPROXIMATE",
    "INDEXES",
    "Bank",
    "Join",
    "check_index",
    "check_k",
    "check_matrix",
    "nearest",
    "nearest_joined",
]

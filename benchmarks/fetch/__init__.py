"""Getting data sets and weights onto this machine. Only this package touches the network, and in it only `transfer`."""

from benchmarks.fetch.data import fetch_dataset
from benchmarks.fetch.weights import fetch_weights

__all__ = ["fetch_dataset", "fetch_weights"]

"""The largest numbers that are taken.

No machine can do more, or no library takes more. So a slip of the hand is refused at once, not when
memory or time has run out.
"""

SEED = 2**32 - 1
"""The largest that NumPy, scikit-learn and torch all take."""

SEEDS, DRAWS = 10_000, 1_000
"""Runs of one detector that differ in their seeds, and draws of one protocol."""

COUNT = 1_000_000
"""Neighbours, centres, training images, sets, images in a set."""

SIZE = 4_096
"""The side of an image in pixels."""

PIXELS = 10**10
"""Of an image."""

TRIALS = 100_000

CELLS = 20_000
"""Runs that one command may ask for."""

WORKERS, WORKERS_OF_A_MACHINE, WORKERS_PER_CORE = 10_000, 64, 16
"""Workers of a cluster, and of a machine: the larger of the last two, the second for each core."""

NUMBER = 1e9
"""Any other parameter of a detector or a protocol, if it is a whole number."""

"""The verbs of ``python -m benchmarks``, one a file. Heavy imports happen inside the verbs, so that ``--help`` is quick."""

"""The verbs of ``dn2-bench``, one a file.

Heavy imports happen inside the verbs, so that ``--help`` is quick.
"""

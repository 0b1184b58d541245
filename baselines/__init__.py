"""The rivals of DN2: one file a paper. They know neither `dn2` nor `benchmarks`; `benchmarks/detectors/table.py` names them."""

"""The experiment: data sets, protocols, runs, tracking and reports around the detectors of `dn2` and `baselines`."""

"""Run experiments: data sets, protocols, tracking and reports for `dn2` and `baselines`."""

"""What the scores look like: ROC curves, and how normal and anomalous images are spread."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.comparison import Run
from benchmarks.report.class_table import safe_name
from benchmarks.report.document.parts import Histograms, RocCurves, Section

METHODS_SHOWN = 6
HISTOGRAMS_SHOWN = 2
CLASSES_SHOWN = 20
SUBJECTS_SHOWN = 12
"""Data sets and protocols that are drawn: the page has to stay small."""
POINTS = 60
BINS = 32
TAIL = 0.002
"""The share of scores at each end that a histogram puts into its outermost bins."""


def score_section(runs: Sequence[tuple[str, Run]]) -> Section:
    """Draw the scores of runs, which come with their labels, by data set and protocol."""
    parts: list[RocCurves | Histograms] = []
    subjects: dict[tuple[str, str], list[tuple[str, Run]]] = {}
    for label, run in runs:
        if not run.is_curve and _is_single(run):
            subject = str(run.params["dataset"]), str(run.params["protocol"])
            subjects.setdefault(subject, []).append((label, run))
    for subject, here in list(subjects.items())[:SUBJECTS_SHOWN]:
        title, name = ", ".join(subject), safe_name("-".join(subject))
        names = list(dict.fromkeys(str(part) for _, run in here for part in run.parts))
        curves = {
            class_name: {
                label: roc_points(*_scores(run, class_name))
                for label, run in here[:METHODS_SHOWN]
                if class_name in run.parts
            }
            for class_name in names[:CLASSES_SHOWN]
        }
        parts.append(RocCurves(f"{name}-roc", f"ROC curves, {title}", curves))
        spread = {
            f"{label}: {class_name}": histogram(*_scores(run, class_name))
            for label, run in here[:HISTOGRAMS_SHOWN]
            for class_name in names[:CLASSES_SHOWN]
            if class_name in run.parts
        }
        parts.append(Histograms(f"{name}-scores", f"Scores of test images, {title}", spread))
    text = (
        "A higher score is more anomalous. A ROC curve is thinned to "
        f"{POINTS} points. A histogram's outermost bins also hold the {100 * TAIL:g} % of scores "
        "beyond them.",
    )
    missing = [f"{', '.join(subject)}: not drawn here." for subject in [*subjects][SUBJECTS_SHOWN:]]
    if not parts:
        missing.append("There are no scores of runs with one split a class.")
    return Section("scores", "Scores", text, tuple(parts), tuple(missing))


def _is_single(run: Run) -> bool:
    return all(len(splits) == 1 for splits in run.parts.values())


def _scores(run: Run, class_name: str) -> tuple[np.ndarray, np.ndarray]:
    split = run.splits[run.parts[class_name][0]]
    return split.is_anomaly, split.scores


def roc_points(
    is_anomaly: np.ndarray, scores: np.ndarray, most: int = POINTS
) -> list[tuple[float, float]]:
    """Return points (false alarms, hits) of a ROC curve, both as fractions.

    Images with equal scores are passed together. Of more than ``most`` points, those nearest to
    equal steps along the curve are kept, with both ends.

    Parameters
    ----------
    is_anomaly : ndarray of shape (n,), bool
    scores : ndarray of shape (n,)
        Higher is more anomalous.
    most : int
    """
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    hits = np.cumsum(is_anomaly[order])[last]
    false = last + 1 - hits
    x = np.append(0.0, false / max(false[-1], 1))
    y = np.append(0.0, hits / max(hits[-1], 1))
    if len(x) > most:
        kept = np.unique(np.searchsorted(x + y, np.linspace(0, 2, most), side="left"))
        kept = kept[kept < len(x)]
        x, y = x[kept], y[kept]
        if (x[-1], y[-1]) != (1.0, 1.0):
            x, y = np.append(x, 1.0), np.append(y, 1.0)
    return [(round(float(a), 4), round(float(b), 4)) for a, b in zip(x, y, strict=True)]


def histogram(
    is_anomaly: np.ndarray, scores: np.ndarray
) -> tuple[list[float], list[float], list[float]]:
    """Return the edges of bins, and in each the share of normal and of anomalous images."""
    low, high = (float(v) for v in np.quantile(scores, [TAIL, 1 - TAIL]))
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, BINS + 1)
    clipped = np.clip(scores.astype(float), low, high)
    shares = [
        np.histogram(clipped[which], edges)[0] / max(int(which.sum()), 1)
        for which in (~is_anomaly, is_anomaly)
    ]
    digits = 6
    return (
        [float(f"{edge:.{digits}g}") for edge in edges],
        [round(float(v), 5) for v in shares[0]],
        [round(float(v), 5) for v in shares[1]],
    )

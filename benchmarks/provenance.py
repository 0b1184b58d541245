"""What produced a result: code, libraries and machine."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

PACKAGES = (
    "numpy",
    "torch",
    "torchvision",
    "timm",
    "openvino",
    "scikit-learn",
    "faiss-cpu",
    "mlflow",
)

CODE = (":/dn2/*.py", ":/baselines/*.py", ":/benchmarks/*.py")
"""The files whose changes make results not those of the commit, as git names them."""


def provenance() -> dict[str, str | int | bool]:
    """Collect the commit, whether the checkout is modified, versions, host, processor and cores.

    If the code does not run from its own checkout, ``commit`` is "unknown" and ``dirty`` is True. A
    new code file in one of the packages counts as a modification. A user's file elsewhere does not:
    where a run uses one, its digest is part of the key.
    """
    ours = (
        Path(_git("rev-parse", "--show-toplevel") or "/") == Path(__file__).resolve().parent.parent
    )
    return {
        "commit": _git("rev-parse", "HEAD") if ours else "unknown",
        "dirty": bool(_git("status", "--porcelain", "--", *CODE)) if ours else True,
        "host": platform.node(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1,
        "python": platform.python_version(),
        **{f"version_{package}": version(package) for package in PACKAGES},
    }


def _git(*arguments: str) -> str:
    here = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=here, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )

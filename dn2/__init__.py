"""DN2: score an image by its distance to its nearest normal training images.

Distances are measured in the features of a pretrained network::

    from dn2 import DN2, Encoder

    encoder = Encoder("efficientnet_lite0")
    detector = DN2(k=2).fit(encoder.transform(normal_images))
    scores = detector.anomaly_score(encoder.transform(images))  # higher is more anomalous

The same on image files, with a network and a calibration, and saved to be deployed::

    import dn2

    dn2.ImageDetector().fit(normal_paths).save("detector")
    scores = dn2.load("detector").score(paths)

Names are imported when they are first used: PyTorch alone takes seconds. Type checkers read them
from ``__init__.pyi``.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # typing itself takes a millisecond, in which Ctrl-C is a traceback
if TYPE_CHECKING:
    from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "DN2": "dn2.detector",
    "DN2Plus": "dn2.detector",
    "Encoder": "dn2.features",
    "GroupDN2": "dn2.groups",
    "ImageDetector": "dn2.image_detector",
    "KMeansDN2": "dn2.kmeans",
    "load": "dn2.saving",
    "nearest": "dn2.search",
}

__all__ = [
    "DN2",
    "DN2Plus",
    "Encoder",
    "GroupDN2",
    "ImageDetector",
    "KMeansDN2",
    "__version__",
    "load",
    "nearest",
]


def __getattr__(name: str) -> Any:
    """Import a name of the face when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    """List the face as well as what is imported already."""
    return sorted({*globals(), *_HOMES})

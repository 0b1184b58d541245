"""The network of a detector as ONNX, for other runtimes. It needs torch and onnx."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import torch

from dn2.encoders import check_weights, find_weights, get_encoder, load_encoder, weights_folder
from dn2.files import write_atomically
from dn2.image_detector import ImageDetector
from dn2.networks import SHAPE
from dn2.preprocessing import Normalize, ToFloat


class Normalised(torch.nn.Module):
    """Map crops to the features of several networks, normalised apart and side by side.

    Parameters
    ----------
    networks : list of torch.nn.Module
    normalize : {"none", "l2", "power"}
        As of `dn2.features.NORMALIZATIONS`.
    """

    def __init__(self, networks: list[torch.nn.Module], normalize: str) -> None:
        super().__init__()
        self.networks = torch.nn.ModuleList(networks)
        self.normalize = normalize

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Encode and normalise."""
        return torch.cat([self._normalised(network(images)) for network in self.networks], dim=1)

    def _normalised(self, features: torch.Tensor) -> torch.Tensor:
        if self.normalize == "none":
            return features
        if self.normalize == "power":
            features = features.sign() * features.abs().sqrt()
        length = features.square().sum(dim=1, keepdim=True).sqrt()
        return features / torch.where(length > 0, length, torch.ones_like(length))


def export_onnx(detector: ImageDetector, path: Path, weights: Path | None = None) -> int:
    """Write the network as ONNX; ``images`` (n, 224, 224, 3) uint8 to ``features`` (n, width).

    Returns
    -------
    int
        The width of a feature.

    Raises
    ------
    dn2.encoders.MissingWeightsError
        If the weights are not on disk.
    ModuleNotFoundError
        If onnx is not installed.
    ValueError
        If the weights are not those that the detector was made of.
    """
    try:
        import onnx  # noqa: F401 - torch needs it, and would say so after a minute
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "an export needs the package 'onnx', which is not installed: pip install onnx"
        ) from None
    networks: list[torch.nn.Module] = []
    for network in detector.networks_:
        entry = get_encoder(network.name)
        file = find_weights(entry, weights_folder(), weights)
        if check_weights(entry, file) != network.digest:
            raise ValueError(
                f"{file} is not what the detector was made of: its SHA-256 must begin with "
                f"{network.digest[:16]}; name the right file with --weights"
            )
        networks.append(
            torch.nn.Sequential(
                ToFloat(), Normalize(entry.mean, entry.std), load_encoder(network.name, file)
            )
        )
    content: Any = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Normalised(networks, detector.normalize).eval(),
            (torch.zeros((1, *SHAPE), dtype=torch.uint8),),
            content,
            input_names=["images"],
            output_names=["features"],
            dynamic_axes={"images": {0: "n"}, "features": {0: "n"}},
            opset_version=17,
            dynamo=False,
        )
    write_atomically(path, content.getvalue())
    return sum(network.width for network in detector.networks_)

"""Encode images with a tiny network, whose features depend on place and channel."""

import torch

from dn2.encoders import EncoderEntry
from dn2.features import Extractor


class Brightness(torch.nn.Module):
    """Return each channel's mean and its first pixel: six numbers."""

    def forward(self, x):
        return torch.cat([x.mean((2, 3)), x[:, :, 0, 0]], dim=1)


def brightness_extractor(engine="torch", **options):
    encoder = EncoderEntry(
        name="brightness",
        library="",
        architecture="",
        filename="",
        sha256="",
        source="",
        size_bytes=0,
        width=6,
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.25, 0.3),
        licence="",
    )
    return Extractor(encoder, Brightness(), engine, "cpu", **options)

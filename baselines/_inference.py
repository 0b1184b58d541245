"""A trained Wide ResNet that only scores, compiled for a CPU.

OpenVINO runs it on one thread in two thirds of PyTorch's time. Convolutions run in the precision of
the training. Pooling and head are always float32, because with bfloat16's 8 bits many images would
have equal scores.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from baselines._networks import WideResNet
from baselines._prediction import Outputs
from baselines._preparation import autocast


class CompiledWideResNet:
    """A `WideResNet` in evaluation mode, compiled; the network itself stays as it is.

    Parameters
    ----------
    network : WideResNet
        On the device that it will run on.
    precision : torch.dtype
        The type of convolutions: float32 or bfloat16.

    Notes
    -----
    On a CPU the network is compiled once for each shape of batches, which takes a tenth of a
    second. Give all batches one shape.
    """

    def __init__(self, network: WideResNet, precision: torch.dtype) -> None:
        self.network, self.precision = network, precision
        self.device = next(network.parameters()).device
        self._compiled: dict[torch.Size, Outputs] = {}

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits of images (b, c, side, side), shape (b, outputs), float32."""
        return self.network.head(self.features(x))

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Return pooled features of images (b, c, side, side), (b, 64 * width), float32."""
        if x.shape not in self._compiled:
            self._compiled[x.shape] = (
                self._on_cpu(x.shape) if self.device.type == "cpu" else self._in_torch
            )
        return self._compiled[x.shape](x).float().mean((2, 3))

    def _in_torch(self, x: torch.Tensor) -> torch.Tensor:
        training = self.network.training
        try:
            with autocast(self.device, self.precision):
                return self.network.eval().maps(x)
        finally:
            self.network.train(training)

    def _on_cpu(self, shape: torch.Size) -> Outputs:
        import openvino
        from openvino import opset13 as ops

        images = ops.parameter(list(shape), np.float32)
        settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if self.precision == torch.bfloat16 else "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            # Pinned, several processes of one thread each would all run on the first core.
            "ENABLE_CPU_PINNING": False,
        }
        model = openvino.Model([_graph(self.network, images)], [images])
        compiled = openvino.Core().compile_model(model, "CPU", settings)
        return lambda batch: torch.from_numpy(compiled({0: np.ascontiguousarray(batch.numpy())})[0])


def _graph(network: WideResNet, x: Any) -> Any:
    """Write `WideResNet.maps` in OpenVINO's operations.

    OpenVINO fuses norms into convolutions, and ReLUs and sums into the convolutions before them.
    """
    from openvino import opset13 as ops

    def active(x: Any, norm: Any) -> Any:
        scale = _array(norm.weight) / np.sqrt(_array(norm.running_var) + norm.eps)
        shift = _array(norm.bias) - _array(norm.running_mean) * scale
        return ops.relu(ops.add(ops.multiply(x, scale[:, None, None]), shift[:, None, None]))

    def convolve(x: Any, convolution: Any) -> Any:
        padding = list(convolution.padding)
        return ops.convolution(
            x, _array(convolution.weight), list(convolution.stride), padding, padding, [1, 1]
        )

    x = convolve(x, network.stem)
    block: Any
    for block in network.blocks:
        inner = active(x, block.norm1)
        skip = x if block.project is None else convolve(inner, block.project)
        x = ops.add(skip, convolve(active(convolve(inner, block.conv1), block.norm2), block.conv2))
    return active(x, network.norm)


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().float().cpu().numpy()

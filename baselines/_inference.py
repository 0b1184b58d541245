"""A trained Wide ResNet that only scores: a CPU runs it with OpenVINO, on one thread in two thirds of PyTorch's time.

With AMX convolutions are bfloat16 there, as in training; pooling and head are float32 always, for in bfloat16's 8 bits many
images would have equal scores.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from baselines._networks import WideResNet
from baselines._preparation import autocast

Maps = Callable[[torch.Tensor], torch.Tensor]


class CompiledWideResNet:
    """What `WideResNet` computes in evaluation mode; the network itself is left as it is.

    Parameters
    ----------
    network : WideResNet
        On its device.
    precision : torch.dtype
        Of convolutions: float32 or bfloat16.

    Notes
    -----
    On a CPU it is compiled for each shape of batches, which takes a tenth of a second: all of them should be of one shape.
    """

    def __init__(self, network: WideResNet, precision: torch.dtype) -> None:
        self.network, self.precision = network, precision
        self.device = next(network.parameters()).device
        self._compiled: dict[torch.Size, Maps] = {}

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Pooled features of images (b, c, side, side), shape (b, 64 * width), float32."""
        if x.shape not in self._compiled:
            self._compiled[x.shape] = (
                self._on_cpu(x.shape) if self.device.type == "cpu" else self._in_torch
            )
        return self._compiled[x.shape](x).float().mean((2, 3))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Logits, shape (b, outputs), float32."""
        return self.network.head(self.features(x))

    def _in_torch(self, x: torch.Tensor) -> torch.Tensor:
        training = self.network.training
        try:
            with autocast(self.device, self.precision):
                return self.network.eval().maps(x)
        finally:
            self.network.train(training)

    def _on_cpu(self, shape: torch.Size) -> Maps:
        import openvino
        from openvino import opset13 as ops

        images = ops.parameter(list(shape), np.float32)
        settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if self.precision == torch.bfloat16 else "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "ENABLE_CPU_PINNING": False,  # or several processes of one thread each all sit on the first core
        }
        model = openvino.Model([_graph(self.network, images)], [images])
        compiled = openvino.Core().compile_model(model, "CPU", settings)
        return lambda batch: torch.from_numpy(compiled({0: np.ascontiguousarray(batch.numpy())})[0])


def _graph(network: WideResNet, x: Any) -> Any:
    """`WideResNet.maps` as OpenVINO's operations, which it fuses: norms into convolutions, ReLUs and sums behind them."""
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

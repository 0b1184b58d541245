"""How a network runs: PyTorch, OpenVINO or ONNX Runtime, always in float32.

An engine maps a stream of batches of uint8 images to a stream of features. The whole computation,
pixels included, is one `torch.nn.Module` that PyTorch runs as it is and the others compile. On a
CPU each image goes through on its own. This was measured to be as fast as any batch, as the
activations stay in the cache, and a row's features cannot depend on its neighbours.

Images a second on two cores with AMX, EfficientNet-Lite0, 32-pixel images, best of three rounds on
a busy machine (``speed/extraction.py``): OpenVINO 225, ONNX Runtime 155, torch 55, and 25 the way
most people run torch. So OpenVINO is the default on a CPU.
"""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

Engine = Callable[[Iterable[np.ndarray]], Iterator[np.ndarray]]
"""Batches of images (b, h, w, c) uint8 in; features (b, d) float32 out, in order."""

CUDA_BATCH = 64


def available_cores() -> int:
    """Count the cores that this process may use, at most OMP_NUM_THREADS.

    A process may run on fewer cores than the machine has. OMP_NUM_THREADS, which every library here
    respects, limits a worker that is one of several on a machine.
    """
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(cores, int(asked))) if asked.isdigit() else cores


def engine_name(name: str | None = None, device: str | None = None) -> str:
    """Resolve the engine to use: the one named, or torch where there is CUDA, or OpenVINO.

    Raises
    ------
    ValueError
        If there is no engine of that name, or it cannot use that device.
    """
    if name is None:
        return "torch" if _pick_device(device).startswith("cuda") else "openvino"
    if name not in ENGINES:
        near = get_close_matches(name, ENGINES, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(f"unknown engine {name!r}{hint}; there are {', '.join(ENGINES)}")
    if name != "torch" and device not in (None, "cpu"):
        raise ValueError(
            f"engine {name!r} runs on the cpu only, got device {device!r}: use --engine torch or "
            "--device cpu"
        )
    if device is not None:
        _pick_device(device)
    return name


def engine_class(name: str | None = None, device: str | None = None) -> str:
    """Name the arithmetic, as it stands in the feature store's key: ``openvino-float32``."""
    return f"{engine_name(name, device)}-float32"


def load_engine(
    name: str | None,
    module: torch.nn.Module,
    shape: tuple[int, int, int],
    device: str | None = None,
    threads: int | None = None,
) -> Engine:
    """Prepare a network for images of one shape.

    Parameters
    ----------
    name : str or None
        One of `ENGINES`; None chooses by device.
    module : torch.nn.Module
        In evaluation mode; maps (n, h, w, c) uint8 to (n, d) float32.
    shape : (height, width, channels)
        Of every image.
    device : str, optional
        ``cpu``, ``cuda`` or ``cuda:1``; by default CUDA if there is one.
    threads : int, optional
        By default, the cores this process may use.

    Raises
    ------
    ValueError
        If the name or the device is unknown.
    ModuleNotFoundError
        If the engine's package is not installed.
    """
    return ENGINES[engine_name(name, device)](
        module, shape, _pick_device(device), threads or available_cores()
    )


def _pick_device(device: str | None) -> str:
    import torch

    has_cuda = torch.cuda.is_available()
    if device is None:
        return "cuda" if has_cuda else "cpu"
    if device != "cpu" and not device.startswith("cuda"):
        raise ValueError(f"unknown device {device!r}; there are cpu, cuda and cuda:<number>")
    if device != "cpu" and not has_cuda:
        raise ValueError(
            f"device {device!r} was asked for, but torch sees no CUDA device here: use --device cpu"
        )
    return device


def _torch_engine(
    module: torch.nn.Module, shape: tuple[int, int, int], device: str, threads: int
) -> Engine:
    """Run eager PyTorch, the reference, with the memory layout that suits its convolutions best."""
    import torch

    module = module.to(torch.device(device)).to(memory_format=torch.channels_last)
    size = CUDA_BATCH if device != "cpu" else 1

    def run_batch(batch: np.ndarray) -> np.ndarray:
        chunks = []
        for start in range(0, len(batch), size):
            chunk = torch.tensor(batch[start : start + size])
            n = len(chunk)
            if n < size:  # always the same batch size: other sizes may choose other kernels
                chunk = torch.cat([chunk, chunk[-1:].expand(size - n, *shape)])
            chunks.append(module(chunk.to(device))[:n].float().cpu().numpy())
        return np.concatenate(chunks)

    def run(batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        for batch in batches:
            # Entered for each batch: what runs between two of them is the caller's code.
            with (
                torch.inference_mode(),
                _torch_threads(threads),
                torch.backends.cudnn.flags(enabled=True, allow_tf32=False),
            ):
                features = run_batch(np.ascontiguousarray(batch))
            yield features

    return run


@contextlib.contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _openvino_engine(
    module: torch.nn.Module, shape: tuple[int, int, int], _device: str, threads: int
) -> Engine:
    return compile_openvino(convert_to_openvino(module, shape), shape, threads)


def convert_to_openvino(module: torch.nn.Module, shape: tuple[int, int, int]) -> Any:
    """Convert a network for one image (h, w, c) at a time to an ``openvino.Model``."""
    openvino = _import("openvino")
    import torch

    example = torch.zeros((1, *shape), dtype=torch.uint8)
    with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
        warnings.simplefilter("ignore")
        # An exported program has constant padding, which OpenVINO fuses into the convolutions; a
        # traced one is 9 % slower.
        return openvino.convert_model(torch.export.export(module, (example,)))


def compile_for_cpu(model: Any, threads: int, streams: int) -> Any:
    """Compile an ``openvino.Model``: an ``openvino.CompiledModel`` in float32.

    It runs as many images at a time as there are streams, which share the threads.

    Raises
    ------
    ModuleNotFoundError
        If openvino is not installed.
    """
    openvino = _import("openvino")
    settings = {
        # or a CPU with AMX or AVX-512 BF16 computes in bfloat16, unasked
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": streams,
        # or several processes of one thread each would all run on the first core
        "ENABLE_CPU_PINNING": False,
    }
    return openvino.Core().compile_model(model, "CPU", settings)


def compile_openvino(model: Any, shape: tuple[int, int, int], threads: int) -> Engine:
    """Compile for the CPU: one stream a thread, and more requests than streams, so none waits.

    Parameters
    ----------
    model : openvino.Model
        From `convert_to_openvino`, or read from a file. This needs no torch.
    shape : (height, width, channels)
        Of every image.
    threads : int

    Raises
    ------
    ModuleNotFoundError
        If openvino is not installed.
    """
    compiled = compile_for_cpu(model, threads, threads)
    width = compiled({0: np.zeros((1, *shape), np.uint8)})[0].shape[1]

    def run(batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        idle = [compiled.create_infer_request() for _ in range(threads + 2)]
        busy: deque[tuple[Any, np.ndarray, int]] = deque()

        def finish_oldest() -> np.ndarray | None:
            request, features, row = busy.popleft()
            request.wait()
            features[row] = request.get_output_tensor(0).data[0]
            idle.append(request)
            return features if row == len(features) - 1 else None

        for batch in batches:
            features = np.empty((len(batch), width), np.float32)
            for row in range(len(batch)):
                done = None if idle else finish_oldest()
                request = idle.pop()
                request.start_async({0: batch[row : row + 1]})
                busy.append((request, features, row))
                if done is not None:
                    yield done
        while busy:
            done = finish_oldest()
            if done is not None:
                yield done

    return run


def _onnxruntime_engine(
    module: torch.nn.Module, shape: tuple[int, int, int], _device: str, threads: int
) -> Engine:
    """Compile with ONNX Runtime, through an ONNX model that is never written to disk."""
    onnxruntime = _import("onnxruntime")
    _import("onnx")
    import torch

    example = torch.zeros((1, *shape), dtype=torch.uint8)
    model: Any = io.BytesIO()
    with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, (example,), model, input_names=["images"], opset_version=17, dynamo=False
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        model.getvalue(), options, providers=["CPUExecutionProvider"]
    )

    def run(batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        for batch in batches:
            yield np.concatenate(
                [
                    session.run(None, {"images": batch[row : row + 1]})[0]
                    for row in range(len(batch))
                ]
            )

    return run


def _import(package: str) -> Any:
    """Import late: only one engine's package is needed."""
    import importlib

    try:
        return importlib.import_module(package)
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"this engine needs the package {package!r}, which is not installed: pip install "
            f"{package}, or use --engine torch"
        ) from None


ENGINES: dict[str, Callable[..., Engine]] = {
    "openvino": _openvino_engine,
    "onnxruntime": _onnxruntime_engine,
    "torch": _torch_engine,
}

r"""Time the encoding of images: the usual torch path and ours, interleaved, on the same images.

    python speed/extraction.py --weights efficientnet-lite0-57934424.pth \
        [--images 256] [--npy cifar10.npy]

The usual path is torchvision's transforms on PIL images, one at a time in a DataLoader, and eager
float32 in batches of 32. The ways take turns, round after round, so that a busy machine slows all
of them down; the best and the median round are printed.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from dn2.engines import ENGINES, available_cores, engine_name
from dn2.features import encode, load_extractor


class UsualDataset(Dataset):
    """Prepare images as most people do."""

    def __init__(self, images: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self.images = images
        steps = [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
        self.transform = transforms.Compose(steps)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> torch.Tensor:
        return self.transform(Image.fromarray(self.images[row]).convert("RGB"))


def usual_path(
    images: np.ndarray, network: torch.nn.Module, mean: tuple, std: tuple, workers: int
) -> np.ndarray:
    """Encode the usual way."""
    loader = DataLoader(UsualDataset(images, mean, std), batch_size=32, num_workers=workers)
    with torch.inference_mode():
        return np.concatenate([network(batch).numpy() for batch in loader])


def natural_images(n: int) -> np.ndarray:
    """Draw smooth colour images of 32 pixels, for want of real ones."""
    small = np.random.default_rng(0).integers(0, 256, (n, 6, 6, 3), dtype=np.uint8)
    return np.stack(
        [
            np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BICUBIC))
            for image in small
        ]
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, required=True, help="the encoder's file of weights")
    parser.add_argument("--encoder", default="efficientnet_lite0")
    parser.add_argument(
        "--npy",
        type=Path,
        help="uint8 images (n, h, w, 3), such as CIFAR-10's; generated if absent",
    )
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()

    images = (
        natural_images(arguments.images)
        if arguments.npy is None
        else np.load(arguments.npy, mmap_mode="r")[: arguments.images]
    )
    images = np.ascontiguousarray(images)
    torch.set_num_threads(available_cores())
    # Each has its own network, for the torch engine changes its memory layout.
    usual = load_extractor(arguments.encoder, arguments.weights)
    mean, std, network = usual.encoder.mean, usual.encoder.std, usual.network
    ways: dict[str, Callable[[], np.ndarray]] = {
        f"usual, {workers} workers": lambda workers=workers: usual_path(
            images, network, mean, std, workers
        )
        for workers in (0, 2)
    }
    for engine in ENGINES:
        extractor = load_extractor(arguments.encoder, arguments.weights, engine, "cpu")
        start = time.perf_counter()
        encode(images[:32], extractor)
        print(f"{engine}: ready in {time.perf_counter() - start:.1f} s")
        ways[f"ours, {engine}"] = lambda extractor=extractor: encode(images, extractor)

    seconds: dict[str, list[float]] = {name: [] for name in ways}
    features = {}
    for _ in range(arguments.rounds):
        for name, run in ways.items():
            start = time.perf_counter()
            features[name] = run()
            seconds[name].append(time.perf_counter() - start)

    reference = features["usual, 0 workers"]
    fastest_usual = min(
        statistics.median(seconds[name]) for name in ways if name.startswith("usual")
    )
    print(
        f"\n{len(images)} images of {images.shape[1:]}, {arguments.encoder}, "
        f"{available_cores()} cores, {arguments.rounds} rounds"
    )
    print(f"{'':22}{'median/s':>10}{'best/s':>10}{'ratio':>8}{'relative difference':>22}")
    for name in ways:
        median, best = statistics.median(seconds[name]), min(seconds[name])
        difference = np.linalg.norm(features[name] - reference, axis=1) / np.linalg.norm(
            reference, axis=1
        )
        mark = "  (default)" if name == f"ours, {engine_name(None, 'cpu')}" else ""
        rate, best_rate = len(images) / median, len(images) / best
        print(
            f"{name:22}{rate:10.1f}{best_rate:10.1f}{fastest_usual / median:8.2f}"
            f"{difference.max():22.1e}{mark}"
        )


if __name__ == "__main__":
    main()

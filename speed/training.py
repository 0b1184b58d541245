"""Time the training loop against the bare steps of the same network; and scoring.

    python speed/training.py [--batches 12] [--rounds 5] [--precision float32]

GEOM's Wide ResNet 10-4 on 32 px images, batches of 128 views. *Bare* is forward, backward and step
on batches that are ready in memory; *loop* is the training loop as the detectors run it: shuffle,
views, schedule, reports. They take turns, round by round, so that a busy machine slows both down.
Printed: medians, images a second, the ratio (to be under 1.3), and scoring through the plain
network and the compiled one that the detectors score with.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch.nn import functional as F

from baselines._inference import CompiledWideResNet
from baselines._networks import WideResNet, build_network
from baselines._prediction import predict_views
from baselines._preparation import autocast, in_precision, pick_device, pick_precision
from baselines._training import Training, fit_network
from baselines._transforms import Views, geometric_transformations

BATCH = 128


def seconds(run: Callable[[], object]) -> float:
    """Time one run."""
    start = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batches", type=int, default=12, help="a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device")
    parser.add_argument("--precision", default="auto")
    arguments = parser.parse_args()

    device = pick_device(arguments.device)
    precision = pick_precision(arguments.precision, device)
    generator = torch.Generator(device).manual_seed(0)
    images = torch.randint(
        0, 256, (arguments.batches * BATCH // 72 + 1, 32, 32, 3), dtype=torch.uint8, device=device
    )
    views = Views(images, geometric_transformations(32))
    network = build_network(
        lambda: WideResNet(3, 72, 10, 4), device, torch.Generator().manual_seed(0)
    )
    optimizer = torch.optim.Adam(network.parameters(), 1e-3, weight_decay=5e-4)
    items = arguments.batches * BATCH
    ready = [
        (views.make(numbers), views.labels(numbers))
        for numbers in torch.arange(items, device=device).split(BATCH)
    ]

    def bare() -> None:
        network.train()
        for batch, labels in ready:
            optimizer.zero_grad(set_to_none=True)
            with autocast(device, precision):
                logits = network(batch)
            F.cross_entropy(logits, labels).backward()
            optimizer.step()

    def loss_of(numbers: torch.Tensor, _epoch: int) -> torch.Tensor:
        with autocast(device, precision):
            logits = network(views.make(numbers))
        return F.cross_entropy(logits, views.labels(numbers))

    def loop() -> None:
        training = Training("loss", items, BATCH, 1, lambda _time: 1e-3, "")
        fit_network(network, loss_of, optimizer, training, generator, monitor=lambda *_report: None)

    pixels = images.cpu().numpy()

    def score(forward: Callable[[torch.Tensor], torch.Tensor]) -> None:
        for _ in predict_views(forward, pixels, views.sources, device):
            pass

    def plain_scoring() -> None:
        score(in_precision(network.eval(), device, precision))

    def compiled_scoring() -> None:
        score(CompiledWideResNet(network, precision))

    ways = {
        "training, bare": bare,
        "training, loop": loop,
        "scoring, plain": plain_scoring,
        "scoring, compiled": compiled_scoring,
    }
    counts = dict(zip(ways, (items, items, len(views), len(views)), strict=True))
    for run in ways.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(arguments.rounds):
        for name, run in ways.items():
            times[name].append(seconds(run))

    print(
        f"WRN-10-4, 32 px, {device}, {precision}, {torch.get_num_threads()} threads, "
        f"{arguments.rounds} rounds"
    )
    print(f"{'':18}{'median/s':>10}{'best/s':>10}   images")
    for name, taken in times.items():
        print(
            f"{name:18}{counts[name] / statistics.median(taken):10.0f}"
            f"{counts[name] / min(taken):10.0f}"
        )
    ratios = [
        loop / bare
        for bare, loop in zip(times["training, bare"], times["training, loop"], strict=True)
    ]
    print(
        f"loop / bare: median {statistics.median(ratios):.2f}, best {min(ratios):.2f} (limit 1.3)"
    )


if __name__ == "__main__":
    main()

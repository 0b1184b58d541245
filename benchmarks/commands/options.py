"""The options that name cells and the ones that say where things are, shared by the verbs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from benchmarks.contracts import Experiment, Workspace


class CommaList(click.ParamType):
    """``1,2,5``: a list of values of one type; an empty text is an empty list."""

    name = "list"

    def __init__(self, item: type = str) -> None:
        self.item = item

    def get_metavar(self, *_: Any, **__: Any) -> str:
        """What ``--help`` shows."""
        return "INT,..." if self.item is int else "NAME,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        """Split and convert."""
        if not isinstance(value, str):
            return tuple(value)
        try:
            return tuple(self.item(part.strip()) for part in value.split(",") if part.strip())
        except ValueError:
            self.fail(f"'{value}' is not a list of {self.item.__name__} separated by commas", param, ctx)


def _default_home() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return Path(os.environ.get("DN2_HOME") or cache / "dn2").expanduser().resolve()


def _path_or_none(_ctx: click.Context, _param: click.Parameter, value: str) -> Path | None:
    """An empty text means "not given": an MLproject parameter cannot be left out."""
    return Path(value).expanduser().resolve() if value else None


def _chain(*options: Callable[..., Any]) -> Callable[..., Any]:
    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


home_option = click.option(
    "--home",
    metavar="DIR",
    callback=lambda ctx, param, value: _path_or_none(ctx, param, value) or _default_home(),
    help="Where data, weights and features are kept. [DN2_HOME]",
)
root_option = click.option("--root", metavar="DIR", default="", callback=_path_or_none, help="A folder with the data set.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
tracking_option = click.option("--tracking-uri", metavar="URI", default="", help="[MLFLOW_TRACKING_URI, else ./mlflow.db]")

workspace_options = _chain(
    home_option,
    root_option,
    click.option("--weights", metavar="FILE", default="", callback=_path_or_none, help="The encoder's checkpoint."),
    click.option("--engine", metavar="NAME", default="", help="openvino, onnxruntime or torch. [the fastest here]"),
    click.option("--device", metavar="NAME", default="", help="cpu or cuda. [cuda where there is one]"),
)

experiment_options = _chain(
    click.option("--suite", metavar="NAME", default="", help="A named list of cells, in place of the options below."),
    click.option("--dataset", type=CommaList(), default="cifar10", show_default=True),
    click.option("--protocol", metavar="NAME", default="one_vs_rest", show_default=True),
    click.option("--detector", type=CommaList(), default="dn2", show_default=True),
    click.option("--variant", metavar="NAME", default="", help="A named variant of the detector."),
    click.option("--encoder", type=CommaList(), default="efficientnet_lite0", show_default=True, help="a+b joins two encoders."),
    click.option("--normalize", type=CommaList(), default="none", show_default=True, help="none, l2, power."),
    click.option("--k", type=CommaList(int), default="", help="Neighbours; several cost one search. [the detector's default]"),
    click.option("--index", metavar="NAME", default="", help="exact (default), or flat: faiss's, as an oracle."),
    click.option("--classes", type=CommaList(), default="", help="Only these take their turn. [all]"),
    click.option("--seed", type=int, default=0, show_default=True),
)


def pop_workspace(options: dict[str, Any]) -> Workspace:
    """Take the workspace's options out of a verb's options."""
    home, root, weights = options.pop("home"), options.pop("root"), options.pop("weights")
    return Workspace(home, root, weights, options.pop("engine") or None, options.pop("device") or None)


def pop_experiments(options: dict[str, Any]) -> tuple[str, list[Experiment]]:
    """Take the experiments' options out of a verb's options: the suite's name, or "", and its cells.

    Raises
    ------
    UsageError
    """
    from benchmarks.experiments import make_experiments
    from benchmarks.names import check_name
    from benchmarks.suites import SUITES

    names = ("dataset", "protocol", "detector", "variant", "encoder", "normalize", "k", "index", "classes", "seed")
    asked = {name: options.pop(name) for name in names}
    suite = options.pop("suite")
    if suite:
        cells = [make_experiments(**part) for part in SUITES[check_name(suite, SUITES, "suite")].parts]
        return suite, [cell for part in cells for cell in part]
    params = {"k": asked["k"], "index": (asked["index"],) if asked["index"] else ()}
    return suite, make_experiments(
        datasets=asked["dataset"],
        detectors=asked["detector"],
        protocol=asked["protocol"],
        encoders=asked["encoder"],
        normalize=asked["normalize"],
        variant=asked["variant"],
        params={name: values for name, values in params.items() if values},
        classes=asked["classes"],
        seed=asked["seed"],
    )

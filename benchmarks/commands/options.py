"""The options that name cells and the ones that say where things are, shared by the verbs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from benchmarks.contracts import Experiment, UsageError, Workspace

if TYPE_CHECKING:
    from benchmarks.executors import Executor


class CommaList(click.ParamType):
    """``1,2,5``: a list of values of one type; an empty text is an empty list."""

    name = "list"

    def __init__(self, item: Callable[[str], Any] = str) -> None:
        self.item = item

    def get_metavar(self, *_: Any, **__: Any) -> str:
        """What ``--help`` shows."""
        if self.item is int:
            return "INT,..."
        return "SHARE,..." if self.item is float else "NAME,..."

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Any, ...]:
        """Split and convert."""
        if not isinstance(value, str):
            return tuple(value)
        try:
            return tuple(self.item(part.strip()) for part in value.split(",") if part.strip())
        except ValueError:
            self.fail(
                f"'{value}' is not a list of {self.item.__name__} separated by commas", param, ctx
            )


def count_or_all(text: str) -> int | str:
    """A number, or the word ``all``."""
    return text if text == "all" else int(text)


def default_home() -> Path:
    """``DN2_HOME``, or ``dn2`` in the user's cache folder."""
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
    callback=lambda ctx, param, value: _path_or_none(ctx, param, value) or default_home(),
    help="Where data, weights and features are kept. [DN2_HOME]",
)
root_option = click.option(
    "--root", metavar="DIR", default="", callback=_path_or_none, help="A folder with the data set."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
tracking_option = click.option(
    "--tracking-uri", metavar="URI", default="", help="[MLFLOW_TRACKING_URI, else ./mlflow.db]"
)

workspace_options = _chain(
    home_option,
    root_option,
    click.option(
        "--weights",
        metavar="FILE",
        default="",
        callback=_path_or_none,
        help="The encoder's checkpoint.",
    ),
    click.option(
        "--engine",
        metavar="NAME",
        default="",
        help="openvino, onnxruntime or torch. [the fastest here]",
    ),
    click.option(
        "--device", metavar="NAME", default="", help="cpu or cuda. [cuda where there is one]"
    ),
    click.option(
        "--skip-corrupt",
        is_flag=True,
        help="Leave out, list and count image files that cannot be decoded.",
    ),
)

executor_options = _chain(
    click.option(
        "--executor",
        metavar="NAME",
        default="serial",
        show_default=True,
        help="serial, processes or ray.",
    ),
    click.option("--workers", type=int, default=0, help="Cells computed at once. [one a core]"),
    click.option(
        "--ray-address",
        metavar="ADDRESS",
        default="",
        help="A Ray cluster to join. [one is started here]",
    ),
)

experiment_options = _chain(
    click.option(
        "--suite",
        type=CommaList(),
        default="",
        help="Named lists of cells, in place of the options below.",
    ),
    click.option("--dataset", type=CommaList(), default="cifar10", show_default=True),
    click.option("--protocol", metavar="NAME", default="one_vs_rest", show_default=True),
    click.option("--detector", type=CommaList(), default="dn2", show_default=True),
    click.option(
        "--variant", type=CommaList(), default="", help="Named variants of the detector. [none]"
    ),
    click.option(
        "--encoder",
        type=CommaList(),
        default="",
        help="a+b joins them. [the detector's own, efficientnet_lite0]",
    ),
    click.option(
        "--normalize",
        type=CommaList(),
        default="",
        help="none, l2, power. [the detector's own, none]",
    ),
    click.option(
        "--size",
        type=int,
        default=0,
        help="Side in pixels for detectors on pixels. [the images' own]",
    ),
    click.option(
        "--preset",
        type=CommaList(),
        default="paper",
        show_default=True,
        help="Of trained detectors: paper, cpu.",
    ),
    click.option(
        "--k",
        type=CommaList(int),
        default="",
        help="Neighbours; several cost one search. [the detector's default]",
    ),
    click.option(
        "--clean",
        type=CommaList(float),
        default="",
        help="Share of the training rows that DN2 drops. [0]",
    ),
    click.option(
        "--centres", type=CommaList(int), default="", help="Cluster centres of dn2_kmeans. [10]"
    ),
    click.option(
        "--index",
        metavar="NAME",
        default="",
        help="exact; flat (faiss's, as an oracle); for large banks hnsw, ivf, pq, which are approximate: their recall and change "
        "in ROCAUC are logged, so the exact search, which costs more, is done as well. [exact]",
    ),
    click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="NAME=VALUE",
        help="Any parameter of the detector; lists by comma.",
    ),
    click.option(
        "--classes", type=CommaList(), default="", help="Only these take their turn. [all]"
    ),
    click.option(
        "--n-train",
        type=CommaList(count_or_all),
        default="",
        help="small_train: numbers of images, or all.",
    ),
    click.option(
        "--contamination",
        type=CommaList(float),
        default="",
        help="contamination: shares in [0, 1).",
    ),
    click.option("--group-sizes", type=CommaList(int), default="", help="groups: images a set."),
    click.option(
        "--n-groups",
        type=int,
        default=None,
        help="groups: sets that train, and that are scored of each kind.",
    ),
    click.option(
        "--draws", type=int, default=None, help="How many random draws. [the protocol's default]"
    ),
    click.option("--seed", type=int, default=0, show_default=True),
    click.option(
        "--seeds",
        type=int,
        default=1,
        show_default=True,
        help="Runs of a detector that draws: mean, standard error.",
    ),
)


DETECTOR_OPTIONS = ("k", "clean", "centres", "index")
PROTOCOL_OPTIONS = ("n_train", "contamination", "group_sizes", "n_groups", "draws")
EXPERIMENT_OPTIONS = (
    *(
        "dataset",
        "protocol",
        "detector",
        "variant",
        "encoder",
        "normalize",
        "size",
        "preset",
        "settings",
    ),
    *("classes", "seed", "seeds"),
    *DETECTOR_OPTIONS,
    *PROTOCOL_OPTIONS,
)


def _refuse_beside_suite(suite: str) -> None:
    context = click.get_current_context()
    given = [
        name
        for name in EXPERIMENT_OPTIONS
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    ]
    if given:
        given = ["set" if name == "settings" else name for name in given]
        options = ", ".join("--" + name.replace("_", "-") for name in given)
        raise UsageError(
            f"--suite {suite} says which cells are run, and {options} cannot change them: give one or the other."
        )


def _values(settings: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    """Read ``("epochs=1,2", "gamma=scale")``: {"epochs": (1, 2), "gamma": ("scale",)}."""
    params = {}
    for setting in settings:
        name, equals, values = setting.partition("=")
        if not (name.strip() and equals and values.strip()):
            raise UsageError(f"--set takes NAME=VALUE, got '{setting}': write --set epochs=3.")
        params[name.strip().replace("-", "_")] = tuple(
            _value(text.strip()) for text in values.split(",") if text.strip()
        )
    return params


def _value(text: str) -> int | float | bool | str:
    """A number if it is one; true and false; else the text."""
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


def pop_workspace(options: dict[str, Any]) -> Workspace:
    """Take the workspace's options out of a verb's options."""
    home, root, weights = options.pop("home"), options.pop("root"), options.pop("weights")
    engine, device = options.pop("engine") or None, options.pop("device") or None
    return Workspace(home, root, weights, engine, device, options.pop("skip_corrupt"))


@contextmanager
def pop_executor(options: dict[str, Any], workspace: Workspace) -> Iterator[Executor]:
    """Take the executor's options out of a verb's options: where cells are computed, until the context is left."""
    from benchmarks.executors import make_executor

    executor = make_executor(
        options.pop("executor"), workspace, options.pop("workers"), options.pop("ray_address")
    )
    with closing(executor):
        yield executor


def pop_experiments(options: dict[str, Any], device: str | None) -> tuple[str, list[Experiment]]:
    """Take the experiments' options out of a verb's options: the suites' names, or "", and their cells, each once.

    What is trained, is trained on ``device``.

    Raises
    ------
    UsageError
        Also if options are given beside a suite, which says all of it.
    """
    from benchmarks.experiments import make_experiments

    suites, asked = options.pop("suite"), {name: options.pop(name) for name in EXPERIMENT_OPTIONS}
    suite = ",".join(suites)
    if suites:
        from benchmarks.contracts import check_name
        from benchmarks.suites import SUITES

        _refuse_beside_suite(suite)
        parts = [
            part for name in suites for part in SUITES[check_name(name, SUITES, "suite")].parts
        ]
        cells = [cell for part in parts for cell in make_experiments(**part, device=device)]
        return suite, list({cell.key: cell for cell in cells}.values())
    params = {
        name: (asked[name],) if isinstance(asked[name], str) else asked[name]
        for name in DETECTOR_OPTIONS
    }
    return suite, make_experiments(
        datasets=asked["dataset"],
        detectors=asked["detector"],
        protocol=asked["protocol"],
        encoders=asked["encoder"],
        normalize=asked["normalize"],
        size=asked["size"],
        variants=asked["variant"] or ("",),
        presets=asked["preset"],
        params={name: values for name, values in params.items() if values not in ((), ("",))}
        | _values(asked["settings"]),
        protocol_params={
            name: asked[name] for name in PROTOCOL_OPTIONS if asked[name] not in ((), None)
        },
        classes=asked["classes"],
        seed=asked["seed"],
        seeds=asked["seeds"],
        device=device,
    )

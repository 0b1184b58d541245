"""The options that several verbs share: what is run, where things are, and where it is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from benchmarks.contracts import Experiment, Most, UsageError, Workspace

if TYPE_CHECKING:
    from benchmarks.executors import Executor


@dataclass(frozen=True)
class Rule:
    """What a number on the command line must be.

    Attributes
    ----------
    kind : type
        ``int`` or ``float``.
    least : int
    below : int, optional
        The number must be smaller than this.
    most : int
        The number must not be larger than this.
    word : str
        A word that may stand in place of a number.
    """

    kind: type[int] | type[float]
    least: int
    below: int | None = None
    most: int = Most.COUNT
    word: str = ""

    def words(self, text: str) -> str:
        """Say the rule to one who wrote this text."""
        if self.kind is float:
            return f"a number in [{self.least}, {self.below})"
        bound = f"at least {self.least}"
        with suppress(ValueError):
            bound = f"at most {self.most}" if int(text) > self.most else bound
        return f"a whole number of {bound}" + (f", or {self.word}" * bool(self.word))

    def read(self, text: str) -> Any:
        """Read a number; ValueError if it breaks the rule."""
        if self.word and text == self.word:
            return text
        value = self.kind(text)
        if not self.least <= value <= self.most or (self.below is not None and value >= self.below):
            raise ValueError(text)
        return value


class Number(click.ParamType):
    """A number that keeps a rule, or several separated by commas.

    A wrong one is refused in a line that names the option, the rule, the value and one that would
    do.

    Parameters
    ----------
    rule : Rule
    example : str
        A good value.
    several : bool
        Whether it is a list, ``1,2,5``; an empty text is an empty list.
    """

    name = "number"

    def __init__(self, rule: Rule, example: str, several: bool = False) -> None:
        self.rule = rule
        self.example = example
        self.several = several

    def get_metavar(self, *_: Any, **__: Any) -> str:
        """Say what ``--help`` shows."""
        shown = "INTEGER" if self.rule.kind is int else "FRACTION"
        return f"{shown},..." if self.several else shown

    def convert(
        self,
        value: Any,
        param: click.Parameter | None,
        ctx: click.Context | None,  # noqa: ARG002
    ) -> Any:
        """Read the text; UsageError if a number breaks the rule."""
        if not isinstance(value, str):
            return tuple(value) if self.several else value
        parts = [part.strip() for part in value.split(",")] if self.several else [value.strip()]
        read = []
        for part in parts:
            if part or not self.several:
                try:
                    read.append(self.rule.read(part))
                except ValueError:
                    option = param.opts[0] if param else self.name
                    raise UsageError(
                        f"{option} must be {self.rule.words(part)}, got {part[:40] or 'nothing'}: "
                        f"write {option} {self.example}."
                    ) from None
        return tuple(read) if self.several else read[0]


AT_LEAST_ONE, FRACTION = Rule(int, 1), Rule(float, 0, 1)
SEED, WORKERS = Rule(int, 0, most=Most.SEED), Rule(int, 0, most=Most.WORKERS)
SIDE, SIDE_OR_NONE = Rule(int, 1, most=Most.SIZE), Rule(int, 0, most=Most.SIZE)
TRIALS, PIXELS = Rule(int, 1, most=Most.TRIALS), Rule(int, 1, most=Most.PIXELS)


class CommaList(click.ParamType):
    """``a,b,c``: a list of names; an empty text is an empty list."""

    name = "list"

    def get_metavar(self, *_: Any, **__: Any) -> str:
        """Say what ``--help`` shows."""
        return "NAME,..."

    def convert(
        self,
        value: Any,
        param: click.Parameter | None,  # noqa: ARG002
        ctx: click.Context | None,  # noqa: ARG002
    ) -> tuple[Any, ...]:
        """Split the text."""
        if not isinstance(value, str):
            return tuple(value)
        return tuple(part.strip() for part in value.split(",") if part.strip())


def say(line: str) -> None:
    """Print a line on stderr: what goes on, as stdout is for results."""
    click.echo(line, err=True)


class DatasetList(CommaList):
    """``a,folder:x,b``: a list of data sets.

    A path may have commas: what exists is one path, however many commas it has. Of several
    readings the longest wins.
    """

    def convert(
        self,
        value: Any,
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> tuple[Any, ...]:
        """Split the text."""
        if not isinstance(value, str):
            return super().convert(value, param, ctx)
        names, parts = [], value.split(",")
        while parts:
            taken = 1
            kind, colon, _ = parts[0].strip().partition(":")
            if colon and kind in ("folder", "npz"):
                taken = _longest_path(parts)
            names.append(",".join(parts[:taken]).strip())
            parts = parts[taken:]
        return tuple(name for name in names if name)


def _longest_path(parts: Sequence[str]) -> int:
    """Return how many parts make a path that exists; if none does, all up to another data set."""
    for taken in range(len(parts), 0, -1):
        path = ",".join(parts[:taken]).strip().partition(":")[2]
        with suppress(OSError, ValueError, RuntimeError):
            if path and Path(path).expanduser().exists():
                return taken
    from benchmarks.datasets import DATASETS

    others = (
        number
        for number, part in enumerate(parts)
        if number and (part.strip() in DATASETS or ":" in part)
    )
    return next(others, len(parts))


def default_home() -> Path:
    """Return ``DN2_HOME``, or ``dn2`` in the user's cache folder."""
    from dn2.files import dn2_home

    try:
        return dn2_home().resolve()
    except ValueError as error:
        raise UsageError(f"{error}.") from None


def _path_or_none(_ctx: click.Context, _param: click.Parameter, value: str) -> Path | None:
    """Take an empty text as "not given": an MLproject parameter cannot be left out."""
    from dn2.files import expand

    try:
        return expand(value).resolve() if value else None
    except ValueError as error:
        raise UsageError(f"{error}.") from None


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
    help="The folder for data, weights and features. [DN2_HOME]",
)
root_option = click.option(
    "--root", metavar="DIR", default="", callback=_path_or_none, help="A folder with the data set."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
tracking_option = click.option(
    "--tracking-uri",
    metavar="URI",
    default="",
    help="MLflow's tracking store. [MLFLOW_TRACKING_URI, else ./mlflow.db]",
)
clean_option = click.option(
    "--clean",
    type=Number(FRACTION, "0.1", several=True),
    default="",
    help="Fraction of the training images that DN2 drops as outliers. [0]",
)
classes_option = click.option(
    "--classes", type=CommaList(), default="", help="Only these classes. [all]"
)

fit_option = click.option(
    "--fit",
    type=CommaList(),
    default="",
    help="How an image that is no square becomes one: crop, pad or squash. [crop]",
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
        help="What runs the encoder: openvino, onnxruntime or torch. [the fastest here]",
    ),
    click.option(
        "--device", metavar="NAME", default="", help="cpu or cuda. [cuda if there is one]"
    ),
    click.option(
        "--skip-corrupt",
        is_flag=True,
        help="Leave out, list and count image files that cannot be decoded.",
    ),
    click.option(
        "--max-pixels",
        type=Number(PIXELS, "400000000"),
        default=None,
        help="Image files with more pixels are not decoded. [178956970]",
    ),
    click.option(
        "--drop-duplicates",
        is_flag=True,
        help="Leave out of the test set the images that are training images too.",
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
    click.option(
        "--workers",
        type=Number(WORKERS, "2"),
        default=0,
        help="Runs computed at the same time; 0 is one per core. [0]",
    ),
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
        help="Named lists of runs, in place of the options below.",
    ),
    click.option(
        "--dataset",
        type=DatasetList(),
        default="cifar10",
        show_default=True,
        help="Of `ls`; folder:PATH; npz:PATH; or MODULE:FUNCTION, your own function.",
    ),
    click.option("--protocol", metavar="NAME", default="one_vs_rest", show_default=True),
    click.option(
        "--detector",
        type=CommaList(),
        default="dn2",
        show_default=True,
        help="Of `ls`; or MODULE:CLASS, your own class.",
    ),
    click.option(
        "--variant", type=CommaList(), default="", help="Named variants of the detector. [none]"
    ),
    click.option(
        "--encoder",
        type=CommaList(),
        default="",
        help="Of `ls`; timm:NAME; or MODULE:FUNCTION, your own function. a+b joins two. "
        "[the detector's own, efficientnet_lite0]",
    ),
    click.option(
        "--normalize",
        type=CommaList(),
        default="",
        help="none, l2, power. [the detector's own, none]",
    ),
    click.option(
        "--size",
        type=Number(SIDE_OR_NONE, "32"),
        default=0,
        help="Side in pixels of the middle square, for detectors on pixels. [the images' own]",
    ),
    fit_option,
    click.option(
        "--preset",
        type=CommaList(),
        default="paper",
        show_default=True,
        help="The budget of detectors that train a network: paper, cpu.",
    ),
    click.option(
        "--k",
        type=Number(AT_LEAST_ONE, "2", several=True),
        default="",
        help="Neighbours; several values cost one search. [the detector's default]",
    ),
    clean_option,
    click.option(
        "--centres",
        type=Number(AT_LEAST_ONE, "10", several=True),
        default="",
        help="Cluster centres of dn2_kmeans. [10]",
    ),
    click.option(
        "--index",
        metavar="NAME",
        default="",
        help="How neighbours are found: exact; flat (faiss's exact search, as a check); or hnsw, "
        "ivf, pq, which are approximate and for large banks. The exact search is then done as "
        "well, to log recall and the change in ROCAUC. [exact]",
    ),
    click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="NAME=VALUE",
        help="Any parameter of the detector or of the protocol; commas separate several values.",
    ),
    classes_option,
    click.option(
        "--n-train",
        type=Number(Rule(int, 1, word="all"), "10,100,all", several=True),
        default="",
        help="small_train: numbers of training images, or all.",
    ),
    click.option(
        "--contamination",
        type=Number(FRACTION, "0,0.05", several=True),
        default="",
        help="contamination: fractions of the training images that are anomalies.",
    ),
    click.option(
        "--group-sizes",
        type=Number(Rule(int, 2), "2,5", several=True),
        default="",
        help="groups: images in a set.",
    ),
    click.option(
        "--n-groups",
        type=Number(AT_LEAST_ONE, "1000"),
        default=None,
        help="groups: sets that train; as many normal and as many anomalous ones are scored.",
    ),
    click.option(
        "--draws",
        type=Number(Rule(int, 1, most=Most.DRAWS), "3"),
        default=None,
        help="Number of random draws. [the protocol's default]",
    ),
    click.option("--seed", type=Number(SEED, "0"), default=0, show_default=True),
    click.option(
        "--seeds",
        type=Number(Rule(int, 1, most=Most.SEEDS), "3"),
        default=1,
        show_default=True,
        help="Runs of a detector that draws at random, for a mean and its standard error.",
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
        "fit",
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
            f"--suite {suite} says what is run, and {options} cannot change that: "
            "give one or the other."
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
    """Return a number if it is one; true and false; else the text."""
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


def _of_protocol(
    settings: dict[str, tuple[Any, ...]], protocol: str, detectors: Sequence[str]
) -> dict[str, Any]:
    """Take those settings out that are parameters of the protocol, and of no detector.

    Raises
    ------
    UsageError
        If neither the protocol nor a detector has a parameter, or if a value is not of its kind.
    """
    from benchmarks.contracts import check_name, did_you_mean
    from benchmarks.detectors import defaults
    from benchmarks.protocols import PROTOCOLS

    known = PROTOCOLS[check_name(protocol, PROTOCOLS, "protocol")].defaults
    of_detectors = {name for detector in detectors for name in defaults(detector)}
    taken = {}
    for name in [name for name in settings if name not in of_detectors]:
        if name not in known:
            raise UsageError(
                f"--set {name}: neither {', '.join(detectors)} nor protocol '{protocol}' has the "
                f"parameter '{name}'.{did_you_mean(name, [*of_detectors, *known])} "
                f"There are: {', '.join(sorted({*of_detectors, *known})) or 'none'}."
            )
        taken[name] = _like(known[name], name, settings.pop(name))
    return taken


def _like(default: Any, name: str, values: tuple[Any, ...]) -> Any:
    """Return a protocol's parameter as it takes it: one value, or several if its default has."""
    several = isinstance(default, tuple)
    if not several and len(values) > 1:
        raise UsageError(
            f"--set {name} takes one value, got {','.join(map(str, values))}: "
            f"write --set {name}={values[0]}."
        )
    kinds = {type(one) for one in default} if several else {type(default)}
    if float in kinds:
        values = tuple(float(value) if type(value) is int else value for value in values)
    for value in values:
        if type(value) not in kinds:
            example = ",".join(map(str, default)) if several else default
            raise UsageError(
                f"--set {name} must be {' or '.join(KINDS.get(kind, 'a value') for kind in kinds)}"
                f", got {value}: write --set {name}={example}."
            )
    return values if several else values[0]


KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def pop_workspace(options: dict[str, Any]) -> Workspace:
    """Take the workspace's options out of a verb's options."""
    home, root, weights = options.pop("home"), options.pop("root"), options.pop("weights")
    engine, device = options.pop("engine") or None, options.pop("device") or None
    return Workspace(
        home,
        root,
        weights,
        engine,
        device,
        skip_corrupt=options.pop("skip_corrupt"),
        max_pixels=options.pop("max_pixels"),
        drop_duplicates=options.pop("drop_duplicates"),
    )


@contextmanager
def pop_executor(options: dict[str, Any], workspace: Workspace) -> Iterator[Executor]:
    """Take the executor's options out of a verb's options.

    The executor that they describe is closed when the context is left.
    """
    from benchmarks.executors import make_executor

    executor = make_executor(
        options.pop("executor"), workspace, options.pop("workers"), options.pop("ray_address")
    )
    with closing(executor):
        yield executor


def pop_experiments(options: dict[str, Any], device: str | None) -> tuple[str, list[Experiment]]:
    """Take the experiments' options out of a verb's options.

    Parameters
    ----------
    options : dict
    device : str or None
        Where networks train.

    Returns
    -------
    suite : str
        The names of the suites; empty if none is asked for.
    experiments : list of Experiment
        Each once.

    Raises
    ------
    UsageError
        Also if options are given together with a suite, which leaves nothing open.
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
    settings = _values(asked["settings"])
    protocol_params = {
        name: asked[name] for name in PROTOCOL_OPTIONS if asked[name] not in ((), None)
    } | _of_protocol(settings, asked["protocol"], asked["detector"])
    return suite, make_experiments(
        datasets=asked["dataset"],
        detectors=asked["detector"],
        protocol=asked["protocol"],
        encoders=asked["encoder"],
        normalize=asked["normalize"],
        size=asked["size"],
        fits=asked["fit"],
        variants=asked["variant"] or ("",),
        presets=asked["preset"],
        params={name: values for name, values in params.items() if values not in ((), ("",))}
        | settings,
        protocol_params=protocol_params,
        classes=asked["classes"],
        seed=asked["seed"],
        seeds=asked["seeds"],
        device=device,
    )

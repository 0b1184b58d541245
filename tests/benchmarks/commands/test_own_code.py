"""Each mistake in code that is named as MODULE:NAME is one line with a remedy, and exit code 2."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

import dn2.encoders
from benchmarks.__main__ import run_main
from benchmarks.contracts import Dataset, UsageError
from benchmarks.datasets import is_on_disk, load_dataset
from benchmarks.detectors import Method, defaults, draws, entry_of, method
from dn2.outside import import_outside

CODE = r'''
import numpy as np
import torch

from benchmarks.contracts import Dataset


class Sum:
    """Score by the sum."""

    def __init__(self, seed=0, factor=1.0):
        self.seed, self.factor = seed, factor

    def fit(self, X):
        return self

    def anomaly_score(self, X):
        return self.factor * X.sum(axis=1)


class NoScore:
    def fit(self, X):
        return self


class NoDefault(Sum):
    def __init__(self, factor):
        self.factor = factor


class AnyDefault(Sum):
    def __init__(self, factor=[1]):
        self.factor = factor


class AnyName(Sum):
    def __init__(self, **params):
        self.params = params


class BadInput(Sum):
    input = "pixel"


class Groups(Sum):
    groups = True


number = 3


def nothing():
    return None


def fails():
    raise RuntimeError("no such\nluck")


def network(width=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)):
    torch.manual_seed(0)
    pool, flat = torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    made = torch.nn.Sequential(pool, flat, torch.nn.Linear(3, 8))
    made.width, made.mean, made.std = width, mean, std
    return made


def random_weights():
    made = network()
    made[2].weight.data = torch.tensor(np.random.default_rng().normal(size=(8, 3)))
    return made


def no_width():
    return network(width=None)


def wrong_width():
    return network(width=9)


def no_mean():
    return network(mean=None)


def one_std():
    return network(std=[0.5])


def takes_no_image():
    torch.manual_seed(0)
    made = torch.nn.Linear(3, 8)
    made.width, made.mean, made.std = 8, [0, 0, 0], [1, 1, 1]
    return made


def dataset(n=4, **changed):
    named = dict(
        name="mine",
        images=np.zeros((n, 4, 4), np.uint8),
        labels=np.arange(n) % 2,
        is_train=np.arange(n) < 2,
        class_names=("a", "b"),
        fingerprint="f",
    )
    return Dataset(**{**named, **changed})


def load(home, root):
    return dataset()


def load_nothing(home, root):
    return None


def load_nameless(home, root):
    return dataset(fingerprint="")


def load_fewer_labels(home, root):
    return dataset(labels=np.zeros(3, int))


def load_texts(home, root):
    return dataset(labels=np.array(["a", "b", "a", "b"]))


def load_high_labels(home, root):
    return dataset(labels=np.arange(4))


def load_missing(home, root):
    open("/nonexistent/images.npy")


def load_failing(home, root):
    raise RuntimeError("no luck")
'''

WRONG = {
    "no module": ("--detector", "nowhere:Sum", "there is no module 'nowhere': install it"),
    "no submodule": ("--detector", "own_code.inner:Sum", "'own_code.inner'"),
    "no attribute": ("--detector", "own_code:Summ", "has no 'Summ': write own_code:Sum"),
    "nothing near": ("--detector", "own_code:Xyz", "define it there"),
    "no name": ("--detector", "own_code:", "is not of the form MODULE:NAME"),
    "a path": ("--detector", "./own_code.py:Sum", "is not of the form MODULE:NAME"),
    "broken": ("--detector", "own_broken:Sum", "(NameError: name 'undefined' is not defined)"),
    "imports nothing": ("--detector", "own_importing:Sum", "No module named 'nowhere'"),
    "a number": ("--detector", "own_code:number", "has no source file"),
    "a function": ("--detector", "own_code:nothing", "is no class but a function"),
    "no score": ("--detector", "own_code:NoScore", "has no method anomaly_score"),
    "no default": ("--detector", "own_code:NoDefault", "default for its parameter 'factor'"),
    "any default": ("--detector", "own_code:AnyDefault", "default for its parameter 'factor'"),
    "any name": ("--detector", "own_code:AnyName", "default for its parameter 'params'"),
    "bad input": ("--detector", "own_code:BadInput", "input = 'pixel': set it to 'features'"),
    "groups": ("--detector", "own_code:Groups", "gives single images, which 'own_code:Groups'"),
    "unknown": ("--detector", "sum", "Or MODULE:CLASS"),
    "no encoder": (
        "--encoder",
        "own_code:make",
        "unknown encoder 'own_code:make': 'own_code' has no",
    ),
    "unknown encoder": ("--encoder", "network", "or <module>:<function> of your own"),
    "encoder is a number": ("--encoder", "own_code:number", "has no source file"),
    "encoder of nothing": ("--encoder", "own_code:nothing", "returned a NoneType"),
    "failing encoder": ("--encoder", "own_code:fails", "(RuntimeError: no such luck)"),
    "encoder with arguments": ("--encoder", "own_code:load", "without arguments"),
    "random encoder": ("--encoder", "own_code:random_weights", "seed torch in the function"),
    "no width": ("--encoder", "own_code:no_width", "the attribute width"),
    "wrong width": (
        "--encoder",
        "own_code:wrong_width",
        "to (1, 9), as its width says, got (1, 8)",
    ),
    "no mean": ("--encoder", "own_code:no_mean", "the attribute mean"),
    "one std": ("--encoder", "own_code:one_std", "the attribute std"),
    "takes no image": ("--encoder", "own_code:takes_no_image", "must map (1, 3, 224, 224)"),
    "no data set": ("--dataset", "own_code:loaded", "Or your own data: folder:PATH"),
    "data set is a class": ("--dataset", "own_code:NoScore", "takes no arguments"),
    "data set without arguments": ("--dataset", "own_code:nothing", "load(home, root)"),
    "data set of nothing": ("--dataset", "own_code:load_nothing", "returned a NoneType"),
    "nameless data": ("--dataset", "own_code:load_nameless", "without a fingerprint"),
    "fewer labels": ("--dataset", "own_code:load_fewer_labels", "4 images, 3 labels"),
    "labels of text": ("--dataset", "own_code:load_texts", "give integers and booleans"),
    "high labels": ("--dataset", "own_code:load_high_labels", "labels from 0 to 3 for 2 class"),
    "failing data": ("--dataset", "own_code:load_failing", "(RuntimeError: no luck)"),
}


@pytest.fixture
def own_code(store, weights_home, monkeypatch):
    """Put files into the working directory."""
    monkeypatch.setenv("DN2_HOME", str(weights_home))
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("own_code.py").write_text(CODE)
    Path("own_broken.py").write_text("undefined\n")
    Path("own_importing.py").write_text("import nowhere\n")
    importlib.invalidate_caches()
    yield
    for name in ("own_code", "own_broken", "own_importing"):
        sys.modules.pop(name, None)
    for function in (
        import_outside,
        method._outside_entry,
        method.load_class,
        dn2.encoders._outside_encoder,
    ):
        function.cache_clear()


@pytest.mark.parametrize("mistake", WRONG)
def test_a_mistake_is_one_line_with_a_remedy(own_code, capfd, mistake):
    option, name, words = WRONG[mistake]
    assert run_main(["run", "--dataset", "synthetic", option, name]) == 2
    out, err = capfd.readouterr()
    assert words in err
    assert name in err
    assert len(err.strip().splitlines()) == 1, err
    assert not out


def test_data_that_cannot_be_read_is_missing(own_code, capfd):
    assert run_main(["run", "--dataset", "own_code:load_missing"]) == 3
    assert "own_code:load_missing cannot be read" in capfd.readouterr().err


def test_weights_are_not_given_to_an_encoder_that_has_them(own_code, capfd):
    asked = ("--encoder", "own_code:network", "--weights", "own_broken.py")
    assert run_main(["run", "--dataset", "synthetic", *asked]) == 2
    assert "loads its weights itself, got" in capfd.readouterr().err


def test_there_is_nothing_to_fetch(own_code, capfd):
    assert run_main(["fetch", "own_code:load"]) == 0
    assert "own_code:load: stored" in capfd.readouterr().out
    with pytest.raises(UsageError, match="returned a NoneType"):
        load_dataset("own_code:load_nothing", home=Path())


def test_a_class_says_what_an_entry_would(own_code):
    entry = entry_of("own_code:Sum")
    assert (entry.input, entry.groups, entry.summary) == ("features", False, "Score by the sum.")
    assert entry.version == import_outside("own_code:Sum").digest
    assert defaults("own_code:Sum") == {"factor": 1.0}
    assert draws("own_code:Sum")
    assert entry_of("own_code:Groups").groups


def test_fit_gets_only_the_arguments_that_it_has():
    class Fitted:
        def fit(self, X, monitor=None):
            self.monitor = monitor

    detector = Fitted()
    Method(detector).fit(np.zeros((2, 2)), monitor=print, checkpoint=Path("x"))
    assert detector.monitor is print


def test_a_data_set_is_identified_by_its_content_and_its_source(own_code):
    made = load_dataset("own_code:load", home=Path())
    assert isinstance(made, Dataset)
    assert made.name == "own_code:load"
    assert len(made.fingerprint) == 64
    assert is_on_disk("own_code:load", home=Path())
    sys.modules.pop("own_code")
    import_outside.cache_clear()
    Path("own_code.py").write_text(CODE + "\n# changed\n")
    assert load_dataset("own_code:load", home=Path()).fingerprint != made.fingerprint

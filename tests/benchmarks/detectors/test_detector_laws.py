"""The detector laws: what holds for every entry of DETECTORS, whatever its method."""

import inspect
from contextlib import suppress
from functools import cache

import numpy as np
import pytest
import torch
from detector_toys import (
    VARIANTS,
    anomalous_rows,
    build,
    is_grid,
    normal_rows,
    on_pixels,
    scores_of,
    variant_of,
)
from sklearn.exceptions import NotFittedError

from benchmarks.detectors import DETECTORS, Method, defaults, draws, search_space
from benchmarks.metrics import auroc

EXCEPTIONS: dict[tuple[str, str], str] = {}  # (law, detector) -> reason
GRIDS = {"ocsvm": "ocsvm oracle"}  # whose path is not along k
POINTS = {"ocsvm oracle": 90}
FEWEST = {"ocsvm": 1}  # of images; a network needs 2


@cache
def fitted(name):
    return build(name).fit(normal_rows(name))


def assert_equal_scores(name, scores, expected):
    """Compare to the last bit, or to 1e-12 where a library's matrix product is involved."""
    tolerance = 1e-12 * np.abs(expected).max() if name.startswith("ocsvm") else 0
    np.testing.assert_allclose(scores, expected, rtol=0, atol=tolerance)


def constructors_only_store(name):
    make = type(build(name))
    parameters = inspect.signature(make).parameters
    given = {parameter: object() for parameter in parameters}  # nothing can be done with them
    stored = vars(make(**given))
    assert set(stored) == set(given)
    assert all(stored[parameter] is value for parameter, value in given.items())
    assert all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters.values())


def every_parameter_is_described_in_the_constructor(name):
    arguments = inspect.signature(type(build(name))).parameters
    assert ("seed" in arguments) == draws(name)
    known = {key: argument.default for key, argument in arguments.items()}
    for no_parameter_of_the_method in ("seed", "device", "false_alarms"):
        known.pop(no_parameter_of_the_method, None)
    assert defaults(name) == known
    assert inspect.Parameter.empty not in known.values()
    assert search_space(name).keys() <= known.keys()
    entry = DETECTORS[name]
    changes = [entry.toy, *entry.presets.values()]
    for variant in (*entry.variants.values(), *entry.for_dataset.values()):
        changes += [variant.params, *variant.presets.values()]
    assert {key for change in changes for key in change} <= known.keys()


def scores_are_finite_one_a_row_and_many_valued(name):
    X = normal_rows(name, 32, 2)
    scores = scores_of(name, fitted(name), X)
    assert scores.shape == ((POINTS[name], len(X)) if is_grid(name) else (len(X),))
    assert np.isfinite(scores).all()
    assert (
        len(np.unique(scores[0] if is_grid(name) else scores)) > len(X) * 2 / 3
    )  # a large gamma gives few: hindsight's own


def easy_anomalies_score_higher(name):
    anomalous, normal = (
        fitted(name).anomaly_score(rows)
        for rows in (anomalous_rows(name), normal_rows(name, 40, 2))
    )
    if on_pixels(name):  # what a toy can learn
        assert auroc(np.arange(80) < 40, np.concatenate([anomalous, normal])) > 0.9
    else:
        assert anomalous.min() > normal.max()


def other_rows_do_not_matter(name):
    detector, X = fitted(name), normal_rows(name, 30, 2)
    scores, order = scores_of(name, detector, X), np.random.default_rng(3).permutation(len(X))
    assert_equal_scores(name, scores_of(name, detector, X[order]), scores[..., order])
    parts = [scores_of(name, detector, X[i : i + 7]) for i in range(0, len(X), 7)]
    assert_equal_scores(name, np.concatenate(parts, axis=-1), scores)


def same_seed_same_scores_and_no_global_state_touched(name):
    numpy_state, torch_state, threads = (
        np.random.get_state()[1].copy(),
        torch.get_rng_state(),
        torch.get_num_threads(),
    )
    first = scores_of(name, build(name).fit(normal_rows(name)), normal_rows(name, 30, 2))
    np.testing.assert_array_equal(first, scores_of(name, fitted(name), normal_rows(name, 30, 2)))
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert torch.get_num_threads() == threads


def the_seed_matters_to_those_that_draw_and_to_no_other(name):
    X = normal_rows(name, 30, 2)
    other = build(name, seed=1).fit(normal_rows(name)).anomaly_score(X)
    assert np.array_equal(other, fitted(name).anomaly_score(X)) != draws(name)


def refitting_forgets(name):
    X = normal_rows(name, 30, 2)
    fresh = fitted(name).anomaly_score(X)
    np.testing.assert_array_equal(
        build(name).fit(anomalous_rows(name, 10)).fit(normal_rows(name)).anomaly_score(X), fresh
    )


def inputs_are_not_modified(name):
    train, test = normal_rows(name, 10), normal_rows(name, 10, 2)
    build(name).fit(train).anomaly_score(test)
    np.testing.assert_array_equal(train, normal_rows(name, 10))
    np.testing.assert_array_equal(test, normal_rows(name, 10, 2))


def early_use_raises(name):
    with pytest.raises(NotFittedError, match="fit"):
        build(name).anomaly_score(normal_rows(name))


def bad_input_raises(name):
    if on_pixels(name):
        return bad_images_raise(name, normal_rows(name))
    spoilt = normal_rows(name)
    spoilt[3, 2] = np.nan
    with pytest.raises(ValueError, match=r"(?i)nan|finite"):
        build(name).fit(spoilt)
    with pytest.raises(ValueError, match=r"(?i)nan|finite"):
        fitted(name).anomaly_score(spoilt)
    with pytest.raises(ValueError, match=r"15|16"):
        fitted(name).anomaly_score(normal_rows(name)[..., :-1])
    with pytest.raises(ValueError, match=r"got 0|empty"):
        build(name).fit(normal_rows(name)[:0])
    return None


def bad_images_raise(name, good, /):
    for spoilt in (good.astype(np.float32), good[..., 0], good[..., :2]):
        with pytest.raises(ValueError, match=r"uint8|shape"):
            build(name).fit(spoilt)
        with pytest.raises(ValueError, match=r"uint8|shape"):
            fitted(name).anomaly_score(spoilt)
    for other in (good[..., :1], np.repeat(good, 2, axis=1).repeat(2, axis=2)):
        with pytest.raises(ValueError, match="16, 16, 3"):
            fitted(name).anomaly_score(other)
    with pytest.raises(ValueError, match="got 0"):
        build(name).fit(good[:0])
    with pytest.raises(ValueError, match=r"constant|all pixels"):
        build(name).fit(np.full_like(good, 7))


def a_path_agrees_with_its_points(name):
    if not hasattr(build(name), "score_path"):
        assert not Method(fitted(name)).path_parameters
        return
    X, whole = normal_rows(name, 30, 2), build(GRIDS[name]) if name in GRIDS else build(name, k=5)
    points = list(whole.fit(normal_rows(name)).score_path(X))
    assert len(points) == POINTS.get(GRIDS.get(name), 5)
    for params, scores, nearest in points:
        assert set(params) == set(
            Method(fitted(name)).path_parameters or variant_of(GRIDS[name]).params
        )
        assert_equal_scores(
            name, build(name, **params).fit(normal_rows(name)).anomaly_score(X), scores
        )
        assert nearest is None or (nearest.shape[0] == 30 and nearest.max() < 40)


def subsets_agree_with_fits(name):
    if not hasattr(build(name), "score_subsets"):
        return
    bank, X, generator = normal_rows(name, 60), normal_rows(name, 30, 2), np.random.default_rng(4)
    subsets = [
        np.arange(60),
        np.arange(5),
        *(np.sort(generator.choice(60, n, replace=False)) for n in (12, 40, 40)),
    ]
    found = list(build(name, k=5).score_subsets(bank, subsets, X))
    assert len(found) == len(subsets)
    for subset, points in zip(subsets, found, strict=True):
        for point, expected in zip(
            points, build(name, k=5).fit(bank[subset]).score_path(X), strict=True
        ):
            assert point[0] == expected[0]
            np.testing.assert_array_equal(point[1], expected[1])
            np.testing.assert_array_equal(point[2], expected[2])


def bad_parameters_are_known_before_the_fit(name):
    for parameter in defaults(name):
        with pytest.raises(ValueError, match=parameter):
            build(name, **{parameter: "nonsense"}).check_rows(40)
        with pytest.raises(ValueError, match=parameter):
            build(name, **{parameter: -3}).check_rows(40)


def too_few_rows_are_known_before_the_fit(name):
    detector, n = build(name), fewest_rows(build(name))
    neighbours = [value for key, value in DETECTORS[name].toy.items() if key in ("k", "centres")]
    assert n == max(neighbours, default=FEWEST.get(name, 2))
    detector.fit(normal_rows(name, n))
    for check in (
        lambda: detector.check_rows(n - 1),
        lambda: detector.fit(normal_rows(name, n - 1)),
    ):
        with pytest.raises(
            ValueError, match=f"needs at least {n} training .*got {n - 1}: (lower|train on more)"
        ):
            check()


def fewest_rows(detector):
    for n in range(40):
        with suppress(ValueError):
            detector.check_rows(n)
            return n
    raise AssertionError("40 rows are not enough for a toy")


LAWS = [
    constructors_only_store,
    every_parameter_is_described_in_the_constructor,
    scores_are_finite_one_a_row_and_many_valued,
    easy_anomalies_score_higher,
    other_rows_do_not_matter,
    same_seed_same_scores_and_no_global_state_touched,
    the_seed_matters_to_those_that_draw_and_to_no_other,
    refitting_forgets,
    inputs_are_not_modified,
    early_use_raises,
    bad_input_raises,
    a_path_agrees_with_its_points,
    subsets_agree_with_fits,
    bad_parameters_are_known_before_the_fit,
    too_few_rows_are_known_before_the_fit,
]
CHEAP_LAWS = [
    scores_are_finite_one_a_row_and_many_valued,
    other_rows_do_not_matter,
    same_seed_same_scores_and_no_global_state_touched,
]


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_law(law, name):
    if (law.__name__, name) not in EXCEPTIONS:
        law(name)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("law", CHEAP_LAWS, ids=lambda law: law.__name__)
def test_law_on_variants(law, name):
    law(name)


def test_a_variants_toy_is_the_variant():
    """What a variant changes is what its laws run with, but for the epochs."""
    for name in VARIANTS:
        built = vars(build(name))
        assert all(
            built[parameter] == value
            for parameter, value in variant_of(name).params.items()
            if parameter != "epochs"
        )


def test_no_law_and_no_entry_escapes():
    """Check that each function here is in the list, and that each exception exists."""
    functions = [
        value
        for value in globals().values()
        if inspect.isfunction(value) and value.__module__ == __name__
    ]
    takes = {function: list(inspect.signature(function).parameters) for function in functions}
    laws = {function.__name__ for function, names in takes.items() if names == ["name"]}
    assert laws == {law.__name__ for law in LAWS}
    assert all(law in laws and name in DETECTORS for law, name in EXCEPTIONS)

"""What a study may choose from."""

from dataclasses import replace

import pytest
from detector_toys import build

from benchmarks.contracts import UsageError
from benchmarks.detectors import DETECTORS, Method, Range, defaults, search_space
from benchmarks.session import Session
from benchmarks.sweep import make_space, what_fits
from tests.benchmarks.sweep.test_sweep import LITE, question_of, small, workspace

__all__ = ["workspace"]


def test_values_that_ask_for_more_training_rows_than_there_are_are_left_out(workspace, tracker):
    session = Session(workspace, tracker)

    def check(cell):
        session.plan(session.resolve([cell]))

    question, left_out = what_fits(small(k_values=(1, 5, 50, 70)), check)
    assert question.space["k"] == (1, 5)
    assert [reason.partition(":")[0] for reason in left_out] == ["k=70", "k=50"]
    assert "needs at least 50 training rows" in left_out[1]
    assert what_fits(question, check) == (question, [])
    with pytest.raises(UsageError, match="at least 70 training rows"):
        what_fits(small(k_values=(70,)), check)


def test_spaces_that_cannot_be_are_refused():
    with pytest.raises(UsageError, match="--sizes"):
        make_space("dn2", "", "synthetic", encoders=(LITE,), normalize=("none",), sizes=(32,))
    with pytest.raises(UsageError, match="--k-values"):
        make_space("ocsvm", "", "synthetic", encoders=(), normalize=("none",), k_values=(1,))
    with pytest.raises(UsageError, match="normalisation"):
        small(normalize=("none", "l3")).check()
    with pytest.raises(UsageError, match="objective"):
        replace(small(), objective="guess").check()
    with pytest.raises(UsageError, match=r"chooses on the test labels itself"):
        replace(question_of(detector="ocsvm", encoders=()), variant="oracle", space={}).check()


@pytest.mark.parametrize("name", DETECTORS)
def test_every_detector_has_a_space_that_it_can_be_made_from(name):
    space = search_space(name)
    assert space
    assert space.keys() <= defaults(name).keys()
    assert space.keys() >= set(Method(build(name)).path_parameters)
    for values in space.values():
        assert (
            values.low < values.high
            if isinstance(values, Range)
            else len(set(values)) == len(values) > 0
        )
    protocol = "groups" if DETECTORS[name].groups else "one_vs_rest"
    question = replace(
        question_of(detector=name, normalize=("none",)), protocol=protocol, preset="paper"
    )
    question.check()

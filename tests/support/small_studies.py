"""Ask and run small studies on the synthetic data set, in this process."""

from benchmarks.session import Session
from benchmarks.sweep import Question, StudyPlan, choose_sampler, make_space, sweep

LITE = "efficientnet_lite0"
SPACE = {"normalize": ("none", "l2"), "k_values": (1, 2, 5)}


def question_of(objective="validation", detector="dn2", classes=(), encoders=(LITE,), **asked):
    """Ask about every class; without a space, about `SPACE` for DN2."""
    asked = asked or dict(SPACE if detector == "dn2" else {})
    space = make_space(
        detector,
        "",
        "synthetic",
        encoders=encoders,
        normalize=asked.pop("normalize", ("none",)),
        **asked,
    )
    return Question("synthetic", "one_vs_rest", detector, "", "paper", classes, 0, objective, space)


def small(**asked):
    """Ask about two classes; by default, about three values of k."""
    return question_of(
        classes=("disc", "square"), **{"normalize": ("none",), "k_values": (1, 2, 5), **asked}
    )


def run_study(
    question,
    workspace,
    tracker,
    study="toy",
    sampler="",
    trials=None,
    storage="",
    force=False,
    tell=None,
):
    """Run a study; return its outcome, and the lines that the session said."""
    said = []
    session = Session(workspace, tracker, suite=study, say=said.append, force=force)
    plan = StudyPlan(study, *choose_sampler(sampler, question, trials), storage)
    return sweep(question, plan, session, tell), said

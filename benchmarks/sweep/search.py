"""Run a study's trials, each a cell of the benchmark, then test the winner.

A cell that is finished already is looked up, whichever study or command computed it.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial

from benchmarks.contracts import Cell, Experiment
from benchmarks.ledger import Mark, Summary
from benchmarks.session import InterruptedSessionError, Session
from benchmarks.sweep import results, studies
from benchmarks.sweep.results import SweepOutcome, Trial, best_of, ended_trials, make_table
from benchmarks.sweep.space import Question
from benchmarks.sweep.studies import Standing
from benchmarks.threads import result_of
from benchmarks.tracking import study_view
from benchmarks.tracking.connection import owner_tags

SECONDS_BETWEEN_LOOKS = 0.5


class TrialFailedError(RuntimeError):
    """Report that a trial's cell failed; the session has said why."""


@dataclass(frozen=True)
class StudyPlan:
    """Say how a study is run.

    Attributes
    ----------
    study : str
        Its name.
    sampler : str
    trials : int
        How many trials the study has in the end, over all processes.
    storage : str
        Address of a database; empty means a journal file under the home folder.
    """

    study: str
    sampler: str
    trials: int
    storage: str = ""


Tell = Callable[[str, Standing], None]
"""Called with the line of each trial that has a value, empty for others, and the standing then."""


def sweep(
    question: Question, plan: StudyPlan, session: Session, tell: Tell | None = None
) -> SweepOutcome:
    """Run trials until the study has as many as planned, test the winner, and log both.

    Several processes may run one study: each takes other trials, and all wait for the last one.

    Parameters
    ----------
    question : Question
    plan : StudyPlan
        With a sampler and a number of trials from `benchmarks.sweep.choose_sampler`.
    session : Session
        Not yet entered; made with ``suite=plan.study``.
    tell : callable, optional
        By default, the session says each line, without the standing.

    Raises
    ------
    UsageError, MissingDataError, MissingWeightsError
        Before any work. A UsageError also if the stored study asks something else.
    OutsideError
        If the storage cannot be used.
    """
    return _Search(question, plan, session, tell).run()


class _Search:
    """Run one sweep; holds its question, plan and session, and the cells of its points."""

    def __init__(
        self, question: Question, plan: StudyPlan, session: Session, tell: Tell | None
    ) -> None:
        self.question, self.plan, self.session = question, plan, session
        self._tell = tell or (lambda line, _: session.say(line) if line else None)
        self._lines: dict[int, str] = {}
        self._begun = time.monotonic()
        self._done_before = 0
        self._cells: dict[str, Experiment] = {}
        self._resolving = threading.Lock()

    def run(self) -> SweepOutcome:
        """Open the study, run its trials, and report."""
        question, plan, session = self.question, self.plan, self.session
        folder = session.workspace.home / "studies"
        points = [question.first] if question.size is None else list(question.grid())
        cells = [self._cell(params) for params in points]
        session.expect(cells)  # raises UsageError if a cell cannot run
        resolved = cells[0].resolved
        identity = question.identity(resolved["data"], resolved["versions"])
        where = plan.storage or str(folder / f"{plan.study}.journal")
        with studies.storage_errors(where):
            with studies.lock_study(folder, plan.study):
                make = studies.make_sampler(plan.sampler, question)
                self.study = studies.open_study(plan.study, plan.storage, folder, identity, make)
                self._requeue(failed=True)
                if plan.sampler == studies.BRUTE:
                    studies.queue_grid(self.study, question, plan.trials)
            with session:
                self._search(folder)
                return self._report()

    def _search(self, folder: Path) -> None:
        """Run the trials that are left, then wait for those of other processes.

        A process may die meanwhile; its trials are then run here.
        """
        waiting = False
        self._begun, (self._done_before, _) = time.monotonic(), studies.counted(self.study)
        self._tell("", self._standing())
        while True:
            # Listed first: a trial given up after that is requeued below, or waited for next time.
            others = studies.running_elsewhere(
                self.study, socket.gethostname(), heartbeats=bool(self.plan.storage)
            )
            with studies.lock_study(folder, self.plan.study):
                self._requeue(failed=False)
            if left := studies.trials_left(self.study, self.plan.sampler, self.plan.trials):
                self._run_trials(left)
            elif others:
                if not waiting:
                    self.session.say(f"waiting for trials of other processes: {len(others)}")
                waiting = True
                time.sleep(SECONDS_BETWEEN_LOOKS)
            else:
                return

    def _run_trials(self, number: int) -> None:
        optimize = partial(
            self.study.optimize,
            self._trial,
            n_trials=number,
            n_jobs=min(number, self.session.workers),
            catch=(TrialFailedError, studies.GridDoneError),
            callbacks=[self._after_trial],
        )
        if self.session.workers == 1:
            optimize()
            return
        # In this thread, Optuna would wait for the running trials when it is interrupted.
        with ThreadPoolExecutor(1) as thread:
            try:
                result_of(thread.submit(optimize))
            except BaseException:
                self.session.stop()
                raise

    def _requeue(self, *, failed: bool) -> None:
        if count := studies.requeue(self.study, self.question.space, failed=failed):
            self.session.say(f"trials that were interrupted or failed and are run again: {count}")

    def _after_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self._tell(self._lines.pop(trial.number, ""), self._standing())
        if self.session.stopping or not studies.trials_left(
            study, self.plan.sampler, self.plan.trials
        ):
            study.stop()

    def _standing(self) -> Standing:
        done, best = studies.counted(self.study)
        seconds, since = time.monotonic() - self._begun, done - self._done_before
        total = max(self.plan.trials, done)
        left = seconds / since * (total - done) if since > 0 else None
        return Standing(self.plan.study, done, total, best, left)

    def _trial(self, trial: optuna.Trial) -> float:
        """Run one trial; return its value."""
        trial.set_user_attr("owner", owner_tags())
        params = studies.suggest_point(trial, self.question.space)
        chosen = self.question.size is not None and self.plan.sampler != studies.BRUTE
        if chosen and studies.is_taken(self.study, trial.number, params):
            raise studies.GridDoneError("another process has this point")
        try:
            cell = self._cell(params)
            finished = self.session.finish(cell, self._mark(f"trial {trial.number}"))
        except InterruptedSessionError as error:
            raise TrialFailedError(str(error)) from error
        except Exception as error:
            trial.set_user_attr("error", str(error) or type(error).__name__)
            self.session.add_failure(f"trial {trial.number}", error)
            raise TrialFailedError(str(error)) from error
        value = value_of(finished)
        trial.set_user_attr(studies.DIGEST, studies.value_digest(params, value))
        trial.set_user_attr("run_id", self.session.run_id(cell))
        point = " ".join(f"{name}={given}" for name, given in params.items())
        self._lines[trial.number] = (
            f"trial {trial.number}: {point}: {self.question.metric} {value:.4f}"
        )
        return value

    def _cell(self, params: Mapping[str, Any]) -> Experiment:
        """Return the resolved cell of a point of the space."""
        with self._resolving:
            if (name := studies.point_text(params)) not in self._cells:
                (self._cells[name],) = self.session.resolve([self.question.cell(params)])
        return self._cells[name]

    def _mark(self, role: str) -> Mark:
        """Make the mark of this study on a cell's run; a cell may belong to several studies."""
        return Mark({f"study/{self.plan.study}": f"{self.question.objective}, {role}"})

    def _report(self) -> SweepOutcome:
        """Test the winner, and log the summary."""
        question, plan, session = self.question, self.plan, self.session
        trials = [self._with_run(trial) for trial in ended_trials(self.study, question.space)]
        best = best_of(trials)
        winner = None if best is None else self._winner(best)
        table = make_table(
            question, plan.study, trials, session.workspace, session.dataset(question.dataset)
        )
        selection = "oracle" if question.objective == "oracle" else "validation"
        tags = {"study": plan.study, "objective": question.objective, "selection": selection}
        texts = {}
        if best is not None:
            texts = {"best.json": table.best_json(best, winner), "trials.csv": table.to_csv()}
        figures = results.draw_figures(self.study, table, session.say)
        varied = [
            name
            for name, values in question.space.items()
            if not isinstance(values, tuple) or len(values) > 1
        ]
        view = study_view(plan.study, question.metric, varied)
        points = table.points(best, winner)
        summary = Summary(texts, figures, points, tags, (view,), table.to_text())
        shown = [winner.experiment] if winner and question.objective == "validation" else []
        outcome = session.close(shown, summary)
        return SweepOutcome(plan.study, question, best, winner, table, outcome)

    def _with_run(self, trial: Trial) -> Trial:
        """Add a trial's run, which may have been logged after the trial ended."""
        cell = self._cell(trial.params)
        return replace(trial, key=cell.key, run_id=self.session.run_id(cell) or trial.run_id)

    def _winner(self, best: Trial) -> Cell | None:
        """Run the best point on the test partition, tagged as chosen by validation.

        An oracle's winner is the trial's own run.
        """
        cell, mark = self._cell(best.params), self._mark(f"trial {best.number}")
        if self.question.objective == "validation":
            (cell,) = self.session.resolve([replace(cell, partition="test", resolved={})])
            tags = self._mark(f"winner, trial {best.number}").tags
            mark = Mark({**tags, "selection": "validation"})
        try:
            return self.session.finish(cell, mark)
        except Exception:  # the session has said why, and counts the failure
            return None


def value_of(cell: Cell) -> float:
    """Return what a study maximises: the mean ROCAUC over a cell's splits."""
    return float(np.mean([result.metrics["rocauc"] for result in cell.results]))

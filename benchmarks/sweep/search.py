"""The trials of a study: each is a cell of the benchmark, whose result may be there already; then the winner is tested."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from benchmarks.contracts import Cell, Experiment
from benchmarks.ledger import Mark, Summary
from benchmarks.session import InterruptedSessionError, Session
from benchmarks.sweep import results, studies
from benchmarks.sweep.results import Found, Trial, best_of, found_trials, make_table
from benchmarks.sweep.space import Question
from benchmarks.threads import result_of
from benchmarks.tracking.connection import owner_tags

SECONDS_BETWEEN_LOOKS = 0.5


class TrialFailedError(RuntimeError):
    """A trial's cell failed, and the session has said why."""


@dataclass(frozen=True)
class Plan:
    """How a study is run.

    Attributes
    ----------
    study : str
        Its name.
    sampler : str
    trials : int
        So many the study has in the end, whoever runs them.
    storage : str
        Address of a database; empty: a journal file under the home folder.
    """

    study: str
    sampler: str
    trials: int
    storage: str = ""


def sweep(question: Question, plan: Plan, session: Session) -> Found:
    """Run trials until the study has as many as planned, test the winner, and log both.

    May run in several processes on one study: each takes other trials, and all wait for the last.

    Parameters
    ----------
    question : Question
    plan : Plan
        As `benchmarks.sweep.choose_sampler` allows.
    session : Session
        Not yet entered; made for ``suite=plan.study``.

    Raises
    ------
    UsageError, MissingDataError, MissingWeightsError
        Before any work; also if the stored study asks something else.
    OutsideError
        If the storage cannot be used.
    """
    return _Search(question, plan, session).run()


class _Search:
    def __init__(self, question: Question, plan: Plan, session: Session) -> None:
        self.question, self.plan, self.session = question, plan, session
        self._cells: dict[str, Experiment] = {}
        self._resolving = threading.Lock()

    def run(self) -> Found:
        """Open the study, run its trials, and report."""
        question, plan, session = self.question, self.plan, self.session
        folder = session.workspace.home / "studies"
        points = [question.first] if question.size is None else list(question.grid())
        cells = [self._cell(params) for params in points]
        session.plan(cells)  # which refuses what cannot run
        session.expect(cells)
        resolved = cells[0].resolved
        identity = question.identity(resolved["data"], resolved["versions"])
        where = plan.storage or str(folder / f"{plan.study}.journal")
        with studies.told_in_one_line(where):
            with studies.alone(folder, plan.study):
                make = studies.make_sampler(plan.sampler, question.seed)
                self.study = studies.open_study(plan.study, plan.storage, folder, identity, make)
                self._put_back(failed=True)
                if plan.sampler == studies.BRUTE:
                    studies.queue_grid(self.study, question, plan.trials)
            with session:
                self._search(folder)
                return self._report()

    def _search(self, folder: Path) -> None:
        """Run what is left; then wait for other processes, any of which may die."""
        waiting = False
        while True:
            # Looked at first: a trial that is given up meanwhile is put back, or waited for again.
            others = studies.runs_elsewhere(
                self.study, socket.gethostname(), heartbeats=bool(self.plan.storage)
            )
            with studies.alone(folder, self.plan.study):
                self._put_back(failed=False)
            if left := studies.trials_left(self.study, self.plan.sampler, self.plan.trials):
                self._run_trials(left)
            elif others:
                if not waiting:
                    self.session.say(f"waiting for {len(others)} trials that other processes run")
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
            callbacks=[self._stop_when_enough],
        )
        if self.session.workers == 1:
            optimize()
            return
        # Optuna itself, when interrupted, waits for the trials that are running.
        with ThreadPoolExecutor(1) as thread:
            try:
                result_of(thread.submit(optimize))
            except BaseException:
                self.session.stop()
                raise

    def _put_back(self, *, failed: bool) -> None:
        if count := studies.put_back(self.study, self.question.space, failed=failed):
            self.session.say(f"{count} trials that were broken off or failed are run again")

    def _stop_when_enough(self, study: optuna.Study, _: Any) -> None:
        if self.session.stopping or not studies.trials_left(
            study, self.plan.sampler, self.plan.trials
        ):
            study.stop()

    def _trial(self, trial: optuna.Trial) -> float:
        """Run one trial; return its value."""
        trial.set_user_attr("owner", owner_tags())
        params = studies.suggest(trial, self.question.space)
        try:
            cell = self._cell(params)
            finished = self.session.finish(cell, self._mark(f"trial {trial.number}", params))
        except InterruptedSessionError as error:
            raise TrialFailedError(str(error)) from error
        except Exception as error:
            trial.set_user_attr("error", str(error) or type(error).__name__)
            self.session.add_failure(f"trial {trial.number}", error)
            raise TrialFailedError(str(error)) from error
        value = value_of(finished)
        trial.set_user_attr("run_id", self.session.run_id(cell))
        point = " ".join(f"{name}={given}" for name, given in params.items())
        self.session.say(f"trial {trial.number}: {point}: {self.question.metric} {value:.4f}")
        return value

    def _cell(self, params: Mapping[str, Any]) -> Experiment:
        """Return the resolved cell of a point of the space."""
        with self._resolving:
            if (name := studies.point(params)) not in self._cells:
                (self._cells[name],) = self.session.resolve([self.question.cell(params)])
        return self._cells[name]

    def _mark(self, role: str, params: Mapping[str, Any]) -> Mark:
        """Mark a cell's run for this study: a cell may belong to several."""
        numbers = self.question.numbers(params).items()
        return Mark(
            {f"study/{self.plan.study}": f"{self.question.objective}, {role}"},
            {f"{name}/{self.plan.study}": value for name, value in numbers},
        )

    def _report(self) -> Found:
        """Test the winner, log the summary."""
        question, plan, session = self.question, self.plan, self.session
        trials = [self._with_run(trial) for trial in found_trials(self.study, question.space)]
        best = best_of(trials)
        winner = None if best is None else self._winner(best)
        table = make_table(
            question, plan.study, trials, session.workspace, session.dataset(question.dataset)
        )
        selection = "oracle" if question.objective == "oracle" else "validation"
        tags = {"study": plan.study, "objective": question.objective, "selection": selection}
        files = (
            {"best.json": table.best_json(best, winner), "trials.csv": table.to_csv()}
            if best
            else {}
        )
        summary = Summary(
            files, results.draw(self.study, table, session.say), table.points(best, winner), tags
        )
        shown = [winner.experiment] if winner and question.objective == "validation" else []
        return Found(plan.study, question, best, winner, table, session.close(shown, summary))

    def _with_run(self, trial: Trial) -> Trial:
        """Add a trial's run, which may have been logged after the trial had ended."""
        cell = self._cell(trial.params)
        return replace(trial, key=cell.key, run_id=self.session.run_id(cell) or trial.run_id)

    def _winner(self, best: Trial) -> Cell | None:
        """Run the best point on the test partition, tagged as chosen by validation.

        An oracle's winner is the trial's own run.
        """
        cell, mark = self._cell(best.params), self._mark(f"trial {best.number}", best.params)
        if self.question.objective == "validation":
            (cell,) = self.session.resolve([replace(cell, partition="test", resolved={})])
            tags = self._mark(f"winner, trial {best.number}", best.params).tags
            mark = Mark({**tags, "selection": "validation"})
        try:
            return self.session.finish(cell, mark)
        except Exception:  # the session has said so, and counts it
            return None


def value_of(cell: Cell) -> float:
    """What a study maximises: the mean ROCAUC over a cell's splits."""
    return float(np.mean([result.metrics["rocauc"] for result in cell.results]))

"""The trials of a study: each is a cell of the benchmark, whose result may be there already; then the winner is tested."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from benchmarks.contracts import Cell, Experiment
from benchmarks.inputs import feature_store
from benchmarks.ledger import Mark, Summary
from benchmarks.session import Session, cell_name
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
        self.cells: dict[str, Experiment] = {}
        self._stored: set[str] = set()
        self._preparing = threading.Lock()

    def run(self) -> Found:
        """Open the study, run its trials, and report."""
        question, plan, session = self.question, self.plan, self.session
        folder = session.workspace.home / "studies"
        first = self._prepared(question.first)
        if question.size is not None:
            for params in question.grid():
                self._prepared(params)
        identity = question.identity(first.resolved["data"], first.resolved["versions"])
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
        """Run what is left; then wait for other processes, of which one may die."""
        waiting = False
        while True:
            # Looked at first: one of them that is given up meanwhile is put back, or waited for once more.
            others = studies.runs_elsewhere(
                self.study, socket.gethostname(), heartbeats=bool(self.plan.storage)
            )
            with studies.alone(folder, self.plan.study):
                self._put_back(failed=False)
            if left := studies.trials_left(self.study, self.plan.sampler, self.plan.trials):
                self._run_trials(left)
            elif others:
                if not waiting:
                    self.session.say(
                        f"waiting for {len(others)} trials that other processes are at"
                    )
                waiting = True
                time.sleep(SECONDS_BETWEEN_LOOKS)
            else:
                return

    def _run_trials(self, number: int) -> None:
        optimize = partial(
            self.study.optimize,
            self._trial,
            n_trials=number,
            n_jobs=min(number, self.session.executor.workers),
            catch=(TrialFailedError, studies.GridDoneError),
            callbacks=[self._stop_when_enough],
        )
        if self.session.executor.workers == 1:
            optimize()
            return
        with ThreadPoolExecutor(
            1
        ) as beside:  # Optuna itself, when interrupted, waits for the trials that are running
            try:
                result_of(beside.submit(optimize))
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
        mark = self._mark(f"trial {trial.number}", params)
        try:
            cell = self._prepared(params)
            finished = self._finished(cell, mark, self._beside(params))
        except Exception as error:
            if self.session.stopping:
                raise TrialFailedError("interrupted") from error
            trial.set_user_attr("error", str(error) or type(error).__name__)
            if error not in self.session.failures.values():
                self.session.failures[f"trial {trial.number}"] = error
            raise TrialFailedError(str(error)) from error
        value = value_of(finished)
        trial.set_user_attr("run_id", self._run_id(finished))
        said = " ".join(f"{name}={given}" for name, given in params.items())
        self.session.say(f"trial {trial.number}: {said}: {self.question.metric} {value:.4f}")
        return value

    def _finished(self, cell: Experiment, mark: Mark, beside: Sequence[Experiment] = ()) -> Cell:
        """The finished cell: looked up, or computed. What failed is raised."""
        if cell.key not in self.session.finished:
            self.session.ledger.mark(cell, mark)
            self.session.run([cell], beside)
        if cell.key not in self.session.finished:
            raise self.session.failures.get(cell_name(cell)) or TrialFailedError("interrupted")
        return self.session.finished[cell.key]

    def _prepared(self, params: Mapping[str, Any]) -> Experiment:
        """The resolved cell of a point. Points that one fit serves are checked once, with the largest values."""
        path = self.question.path
        others = {name: value for name, value in params.items() if name not in path}
        with self._preparing:
            if (name := studies.point(others)) not in self.cells:
                largest = {name: max(values) for name, values in path.items()}
                (self.cells[name],) = self.session.prepare(
                    [self.question.cell({**others, **largest})]
                )
        return self.cells[name].with_params(**{name: params[name] for name in path})

    def _mark(self, role: str, params: Mapping[str, Any]) -> Mark:
        """A cell may belong to several studies, so each has a tag and numbers of its own."""
        numbers = {
            f"{name}/{self.plan.study}": value
            for name, value in self.question.numbers(params).items()
        }
        return Mark({f"study/{self.plan.study}": f"{self.question.objective}, {role}"}, numbers)

    def _beside(self, params: Mapping[str, Any]) -> list[Experiment]:
        """Points of the space that one search may serve together with this one, and for which no image has to be encoded."""
        shared = self.question.shared
        points = [
            {**params, **dict(zip(shared, values, strict=True))}
            for values in product(*shared.values())
        ]
        return [
            self._prepared(point) for point in points if self._is_stored(point.get("encoder", ""))
        ]

    def _is_stored(self, encoders: str) -> bool:
        """Whether the features of encoders joined by + are there."""
        session = self.session
        for name in filter(None, encoders.split("+")):
            if name not in self._stored:
                if feature_store(
                    session.dataset(self.question.dataset), name, session.workspace
                ).missing():
                    return False
                self._stored.add(name)
        return True

    def _run_id(self, cell: Cell) -> str:
        return self.session.ledger.run_ids.get(cell.experiment.key, cell.run_id)

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
        """A trial with its run, which may have been logged later than it was told."""
        key = self._prepared(trial.params).key
        return replace(trial, key=key, run_id=self.session.ledger.run_ids.get(key, trial.run_id))

    def _winner(self, best: Trial) -> Cell | None:
        """The best point on the test partition: one cell, tagged as chosen by validation. An oracle's is the trial's own."""
        cell, mark = self._prepared(best.params), self._mark(f"trial {best.number}", best.params)
        if self.question.objective == "validation":
            (cell,) = self.session.prepare([replace(cell, partition="test", resolved={})])
            tags = self._mark(f"winner, trial {best.number}", best.params).tags
            mark = Mark({**tags, "selection": "validation"})
        try:
            return self._finished(cell, mark)
        except Exception:  # said, and counted, by the session
            return None


def value_of(cell: Cell) -> float:
    """What a study maximises: the mean ROCAUC over a cell's splits."""
    return float(np.mean([result.metrics["rocauc"] for result in cell.results]))
